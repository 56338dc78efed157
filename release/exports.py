"""The network as TorchScript and as ONNX, exported by MONAI's own commands and compared with the network itself."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import onnxruntime
import torch
from monai.bundle import ConfigParser

from release.archive import TIMESTAMP
from scripts.errors import InputError, reason
from scripts.files.writing import write_aside
from scripts.model.evidence import input_x_gradient
from scripts.model.networks import QNet, load_weights

#: Largest difference of a logit, or of the evidence as a share of its largest value, that float32 arithmetic explains.
TOLERANCE = 1e-4
NUM_INPUTS = 4
#: Under which name an export carries the weights' training record: maps, sizes and windows that it must be given.
RECORD = "model.json"


def monai_export(command: str, bundle: Path, path: Path) -> None:
    """Run `python -m monai.bundle ckpt_export` or `onnx_export` on a bundle's shipped weights.

    Raises:
        InputError: MONAI's command fails.
    """
    arguments = {
        "filepath": path.resolve(),
        "ckpt_file": "models/model.pt",
        "meta_file": "configs/metadata.json",
        "config_file": "configs/inference.yaml",
    }
    options = [str(word) for key, value in arguments.items() for word in (f"--{key}", value)]
    # TorchScript writes some attributes in the order of a set of strings, which the hash seed decides
    environment = os.environ | {"PYTHONHASHSEED": "0", "PYTHONWARNINGS": "ignore", "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(
        [sys.executable, "-m", "monai.bundle", command, "network_def", *options],
        cwd=bundle, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    if result.returncode:
        raise InputError(f"{path}: {command} failed ({reason(RuntimeError(result.stderr))}); run it alone to see why")


def export_torchscript(bundle: Path, path: Path) -> None:
    """Export to TorchScript, without the debug records that name files of the machine that exported, and with the
    weights' record, which `torch.jit.load(path, _extra_files={RECORD: ""})` reads."""
    monai_export("ckpt_export", bundle, path)
    exported = path.with_suffix(".exported")
    path.rename(exported)

    def write(part: str) -> None:
        with zipfile.ZipFile(exported) as source, zipfile.ZipFile(part, "w") as target:
            for name in source.namelist():
                if not name.endswith((".debug_pkl", "/serialization_id")):
                    target.writestr(zipfile.ZipInfo(name, TIMESTAMP), source.read(name))
            top = source.namelist()[0].split("/")[0]
            record = (bundle / "models" / RECORD).read_bytes()
            target.writestr(zipfile.ZipInfo(f"{top}/extra/{RECORD}", TIMESTAMP), record)

    write_aside(path, write)
    exported.unlink()


def export_onnx(bundle: Path, path: Path) -> None:
    """Export to ONNX, without the stack traces of the machine that exported, and with the weights' record in its
    metadata."""
    monai_export("onnx_export", bundle, path)
    model = onnx.load(path)
    for item in [*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output]:
        del item.metadata_props[:]
        item.doc_string = ""
    onnx.helper.set_model_props(model, {RECORD: (bundle / "models" / RECORD).read_text(encoding="utf-8")})
    onnx.checker.check_model(model)
    write_aside(path, lambda part: onnx.save(model, part))


def inputs(bundle: Path) -> Iterator[torch.Tensor]:
    """Random network inputs `[1, C, H, W, S]` of the shape and range that the metadata declares."""
    image = json.loads((bundle / "configs" / "metadata.json").read_text())["network_data_format"]["inputs"]["image"]
    low, high = image["value_range"]
    generator = torch.Generator().manual_seed(0)
    for _ in range(NUM_INPUTS):
        yield low + (high - low) * torch.rand(1, image["num_channels"], *image["spatial_shape"], generator=generator)


def differences(bundle: Path, torchscript: Path, onnx_file: Path) -> dict[str, float]:
    """Largest difference of each export's numbers from the network's, over random inputs.

    Raises:
        InputError: one is above TOLERANCE.
    """
    config = ConfigParser.load_config_file(bundle / "configs" / "inference.yaml")
    network: QNet = ConfigParser(config).get_parsed_content("network_def")
    load_weights(network, bundle / "models" / "model.pt")
    scripted = cast(QNet, torch.jit.load(torchscript, map_location="cpu").eval())  # has the same methods
    session = onnxruntime.InferenceSession(str(onnx_file), providers=["CPUExecutionProvider"])
    found = dict.fromkeys(("torchscript_logits", "torchscript_activation", "torchscript_evidence", "onnx_logits"), 0.0)
    for image in inputs(bundle):
        with torch.no_grad():
            logits, slices, activation = network(image), network.image_logits(image), network.class_activation(image)
            their_logits, their_slices = scripted(image), scripted.image_logits(image)
            their_activation = scripted.class_activation(image)
        evidence, their_evidence = (input_x_gradient(model, image) for model in (network, scripted))
        (onnx_logits,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
        measured = {
            "torchscript_logits": max((their_logits - logits).abs().max(), (their_slices - slices).abs().max()),
            "torchscript_activation": (their_activation - activation).abs().max() / activation.abs().max(),
            "torchscript_evidence": (their_evidence - evidence).abs().max() / evidence.abs().max(),
            "onnx_logits": np.abs(onnx_logits - logits.numpy()).max(),
        }
        found = {key: max(found[key], float(value)) for key, value in measured.items()}
    for key, value in found.items():
        if not value <= TOLERANCE:
            raise InputError(
                f"{key} differ by {value:.2g} from the network's, above {TOLERANCE:g}; do not publish them"
            )
    return found
