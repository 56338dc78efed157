"""What reads a scan's slices in stage 2: the paper's Bi-LSTM, or a pooling that knows no order.

All take the slices' embeddings `[B, S, F]` and give the scan's logits `[B, 2]` and those of each slice `[B, S, 2]`.
"""

import torch
from torch import Tensor, nn

from scripts.errors import InputError

NUM_CLASSES = 2


class ScanLevelModel(nn.Module):
    """The paper's (Scan-Level Model): a one-layer Bi-LSTM and two FC layers.

    Args:
        num_slices: S, fixed because the scan's FC layer reads all outputs side by side.
        hidden_size: Bi-LSTM units per direction.
        features: F, length of the embedding of one slice.
    """

    def __init__(self, num_slices: int, hidden_size: int, features: int) -> None:
        super().__init__()
        self.num_slices = num_slices
        self.lstm = nn.LSTM(features, hidden_size, batch_first=True, bidirectional=True)
        self.image_head = nn.Linear(2 * hidden_size, NUM_CLASSES)
        self.scan_head = nn.Linear(2 * hidden_size * num_slices, NUM_CLASSES)

    def forward(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, S, F]` -> scan logits `[B, 2]` and image logits `[B, S, 2]`."""
        start = embeddings.new_zeros(2, embeddings.shape[0], self.lstm.hidden_size)
        # The functional form of self.lstm with train=True (it has no dropout): cuDNN allows no gradient through an LSTM
        # in evaluation mode, and the evidence map needs one. (torch's stubs know neither a list of states nor weights.)
        outputs, _, _ = torch.lstm(embeddings, [start, start], self.lstm._flat_weights, True, 1, 0.0, True, True, True)  # type: ignore[arg-type]
        return self.scan_head(outputs.flatten(1)), self.image_head(outputs)


class AttentionPooling(nn.Module):
    """Attention-based multiple-instance learning (Ilse et al., ICML 2018): a weighted mean of the slices.

    Args:
        hidden_size: units of the layer that the weights come from.
        features: F.
    """

    def __init__(self, hidden_size: int, features: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.Linear(features, hidden_size), nn.Tanh(), nn.Linear(hidden_size, 1))
        self.image_head = nn.Linear(features, NUM_CLASSES)
        self.scan_head = nn.Linear(features, NUM_CLASSES)

    def forward(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, S, F]` -> scan logits `[B, 2]` and image logits `[B, S, 2]`."""
        weights = torch.softmax(self.attention(embeddings), dim=1)
        return self.scan_head((weights * embeddings).sum(1)), self.image_head(embeddings)


class MeanPooling(nn.Module):
    """The mean of the slices, the simplest reader of all: what an order or weights are worth is seen beside it.

    Args:
        features: F.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.image_head = nn.Linear(features, NUM_CLASSES)
        self.scan_head = nn.Linear(features, NUM_CLASSES)

    def forward(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, S, F]` -> scan logits `[B, 2]` and image logits `[B, S, 2]`."""
        return self.scan_head(embeddings.mean(1)), self.image_head(embeddings)


def scan_level_model(scan_model: str, num_slices: int, hidden_size: int, features: int = 512) -> nn.Module:
    """The reader that the key `scan_model` names.

    Args:
        scan_model: `bilstm` (paper), `attention` or `mean`.
        num_slices: of a scan; the Bi-LSTM reads just so many.
        hidden_size: units of the Bi-LSTM per direction, or of the attention.
        features: length of a slice's embedding; ResNet18's is 512.

    Raises:
        InputError: another name.
    """
    if scan_model == "bilstm":
        return ScanLevelModel(num_slices, hidden_size, features)
    if scan_model == "attention":
        return AttentionPooling(hidden_size, features)
    if scan_model == "mean":
        return MeanPooling(features)
    raise InputError(f"scan_model {scan_model!r} is unknown; use bilstm, attention or mean")
