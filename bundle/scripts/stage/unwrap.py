"""Phase unwrapping: multiples of 2 pi are added to every voxel, nothing else is changed.

Spatial unwrapping is 3DSRNCP (paper, Dataset; Abdul-Rahman et al., Applied Optics 2007, 46:6623), as scikit-image has
it. Echo to echo is STAGE's own way (Chen et al., Magn Reson Imaging 2018, 46:130).
"""

from collections.abc import Sequence

import numpy as np
import torch

from scripts.errors import InputError
from scripts.stage.progress import Progress, ignore_progress
from scripts.stage.smooth import gaussian_smooth

TWO_PI = 2.0 * np.pi
#: Spread of a line's points, relative to what they could have, below which rounding alone decides about its slope:
#: what a second echo of 1 % of the first one's signal leaves.
_DETERMINED = 1e-4


def wrap(phase: torch.Tensor) -> torch.Tensor:
    """Phase (rad) brought to -pi..pi."""
    return (phase / TWO_PI).round_().mul_(-TWO_PI).add_(phase)


def near(phase: torch.Tensor, guess: torch.Tensor) -> torch.Tensor:
    """The phase plus the multiple of 2 pi that comes closest to a guess."""
    return (guess - phase).div_(TWO_PI).round_().mul_(TWO_PI).add_(phase)


def unwrap_in_space(phase: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """3DSRNCP of one volume `[X, Y, Z]` (rad) inside a mask; 0 outside. Runs on the CPU.

    Raises:
        InputError: scikit-image is missing.
    """
    try:
        from skimage.restoration import unwrap_phase
    except ImportError as error:
        raise InputError("unwrapping needs scikit-image; pip install 'qnet-hemochromatosis[reconstruct]'") from error
    masked = np.ma.array(phase.cpu().numpy(), mask=~mask.cpu().numpy())
    unwrapped = torch.from_numpy(np.asarray(unwrap_phase(masked, rng=0).filled(0.0), dtype=np.float32))
    # scikit-image counts in floating point; the voxel's own phase plus whole turns is exact.
    return torch.where(mask, near(phase, unwrapped.to(phase.device)), 0.0)


class PerEcho:
    """Each echo by itself in space: the paper's literal reading. Late echoes wrap more often than it can follow."""

    def __call__(
        self,
        phase: torch.Tensor,
        magnitude: torch.Tensor,
        mask: torch.Tensor,
        echo_times_s: Sequence[float],
        spacing_mm: Sequence[float],
        progress: Progress = ignore_progress,
    ) -> torch.Tensor:
        """Unwrap.

        Args:
            phase, magnitude: `[E, X, Y, Z]`; phase in rad, -pi..pi.
            mask: bool `[X, Y, Z]`.
            echo_times_s: rising.
            spacing_mm: voxel size.
            progress: told how far the work is.

        Returns:
            `[E, X, Y, Z]` rad, 0 outside the mask.
        """
        unwrapped = torch.empty_like(phase)
        for echo, wrapped in enumerate(phase):
            unwrapped[echo] = unwrap_in_space(wrapped, mask)
            progress((echo + 1) / len(phase))
        return unwrapped


class EchoToEcho:
    """Echo 1 in space, each later echo from a line through the earlier ones.

    The phase at echo time 0 (coils) is not 0 but smooth. It is found from the first two echoes by smoothing what
    remains between the second and its prediction, so that it takes no part in the prediction.

    Args:
        offset_smoothing_mm: full width at half maximum of that smoothing.
    """

    def __init__(self, offset_smoothing_mm: float) -> None:
        self.offset_smoothing_mm = offset_smoothing_mm

    def __call__(
        self,
        phase: torch.Tensor,
        magnitude: torch.Tensor,
        mask: torch.Tensor,
        echo_times_s: Sequence[float],
        spacing_mm: Sequence[float],
        progress: Progress = ignore_progress,
    ) -> torch.Tensor:
        """As `PerEcho`."""
        times = list(echo_times_s)
        unwrapped = torch.empty_like(phase)
        unwrapped[0] = unwrap_in_space(phase[0], mask)
        progress(0.8)
        ratio = (times[1] - times[0]) / times[0]
        # What differs from a line through 0 is -ratio * offset, smooth, plus whole turns.
        rest = wrap(phase[1] - phase[0] - ratio * unwrapped[0])
        smooth = smooth_phase(rest, magnitude[1] * mask, mask, self.offset_smoothing_mm, spacing_mm)
        unwrapped[1] = near(phase[1], (1.0 + ratio) * unwrapped[0] + smooth)
        progress(0.9)
        line = Line(mask.shape, phase.device)
        for echo, time in enumerate(times):
            if echo > 1:
                slope, intercept = line.fit()
                unwrapped[echo] = near(phase[echo], intercept + slope * time)
            line.add(unwrapped[echo], time, magnitude[echo].square())
            progress(0.9 + 0.1 * (echo + 1) / len(times))
        return torch.where(mask, unwrapped, 0.0)


class Line:
    """A weighted straight line through each voxel's values, point by point.

    Args:
        shape: of a volume.
        device: where the sums live.
    """

    def __init__(self, shape: Sequence[int], device: torch.device) -> None:
        self.weights, self.times, self.squares, self.values, self.products = torch.zeros(5, *shape, device=device)

    def add(self, value: torch.Tensor, time: float, weight: torch.Tensor) -> None:
        """One more point in every voxel."""
        self.weights += weight
        self.times.add_(weight, alpha=time)
        self.squares.add_(weight, alpha=time**2)
        weighted = weight * value
        self.values += weighted
        self.products.add_(weighted, alpha=time)

    def fit(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Slope and intercept of each voxel; 0 where fewer than two points have weight, see `determined`."""
        determinant = self.weights * self.squares - self.times.square()
        known = determinant > _DETERMINED * self.weights * self.squares
        slope = torch.where(known, (self.weights * self.products - self.times * self.values) / determinant, 0.0)
        return slope, torch.where(known, (self.values - slope * self.times) / self.weights, 0.0)

    def determined(self) -> torch.Tensor:
        """Voxels in which at least two points have weight, so that there is a slope: bool."""
        return self.weights * self.squares - self.times.square() > _DETERMINED * self.weights * self.squares


def smooth_phase(
    phase: torch.Tensor, weight: torch.Tensor, mask: torch.Tensor, fwhm_mm: float, spacing_mm: Sequence[float]
) -> torch.Tensor:
    """A wrapped, smooth but noisy phase, smoothed as a complex number and then unwrapped (rad, 0 outside the mask)."""
    real = gaussian_smooth(weight * torch.cos(phase), fwhm_mm, spacing_mm)
    imaginary = gaussian_smooth(weight * torch.sin(phase), fwhm_mm, spacing_mm)
    smooth = torch.atan2(imaginary, real)
    inside = smooth[mask]
    # Almost always one turn holds all of it, and the costly spatial unwrapping is not needed.
    middle = torch.atan2(torch.sin(inside).mean(), torch.cos(inside).mean())
    centred = wrap(smooth - middle)
    if centred[mask].abs().max() < 2.5:
        return torch.where(mask, centred + middle, 0.0)
    return unwrap_in_space(smooth, mask)
