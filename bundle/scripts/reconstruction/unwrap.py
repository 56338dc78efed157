"""Phase unwrapping: multiples of 2 pi are added to every voxel, nothing else is changed.

Spatial unwrapping is 3DSRNCP (paper, Dataset; Abdul-Rahman et al., Applied Optics 2007, 46:6623), as scikit-image has
it. Echo to echo is STAGE's own way (Chen et al., Magn Reson Imaging 2018, 46:130).
"""

from collections.abc import Sequence
from functools import reduce

import numpy as np
import torch

from scripts.errors import InputError
from scripts.reconstruction.progress import Progress, ignore_progress
from scripts.reconstruction.smooth import gaussian_smooth

TWO_PI = 2.0 * np.pi
#: Spread of a line's points, relative to what they could have, below which rounding alone decides about its slope:
#: what a second echo of 1 % of the first one's signal leaves.
_DETERMINED = 1e-4
#: Squares around which a smooth phase may wind: their side, mm; agreement of the phases smoothed at their corners; and
#: how many make a pole (a line through the head passes several).
_POLE_MM, _POLE_AGREEMENT, _POLE_SQUARES = 9.0, 0.4, 4


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


def unwrap_in_blocks(
    phase: torch.Tensor, weight: torch.Tensor, mask: torch.Tensor, factors: Sequence[int]
) -> torch.Tensor:
    """As `unwrap_in_space`, on means over blocks of voxels (as complex numbers); each voxel then joins its block.

    Args:
        phase: `[X, Y, Z]`, rad; it must change by less than half a turn within a block.
        weight: of the means.
        mask: bool.
        factors: voxels a block along the axes; 1 everywhere is `unwrap_in_space`.
    """
    if max(factors) == 1:
        return unwrap_in_space(phase, mask)
    short = [value for n, f in zip(phase.shape[::-1], factors[::-1], strict=True) for value in (0, -n % f)]
    blocks = torch.nn.functional.pad(torch.stack([weight * torch.cos(phase), weight * torch.sin(phase)]) * mask, short)
    real, imaginary = torch.nn.functional.avg_pool3d(blocks[:, None], tuple(factors))[:, 0]
    any_inside = torch.nn.functional.pad(mask.float(), short)[None, None]
    any_inside = torch.nn.functional.max_pool3d(any_inside, tuple(factors))[0, 0] > 0
    guess = unwrap_in_space(torch.atan2(imaginary, real), any_inside)
    for axis, factor in enumerate(factors):
        guess = guess.repeat_interleave(factor, axis)
    return torch.where(mask, near(phase, guess[tuple(slice(0, n) for n in phase.shape)]), 0.0)


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
    ) -> tuple[torch.Tensor, list[str]]:
        """Unwrap.

        Args:
            phase, magnitude: `[E, X, Y, Z]`; phase in rad, -pi..pi.
            mask: bool `[X, Y, Z]`.
            echo_times_s: rising.
            spacing_mm: voxel size.
            progress: told how far the work is.

        Returns:
            `[E, X, Y, Z]` rad, 0 outside the mask; and what was corrected, one line each.
        """
        unwrapped = torch.empty_like(phase)
        for echo, wrapped in enumerate(phase):
            unwrapped[echo] = unwrap_in_space(wrapped, mask)
            progress((echo + 1) / len(phase))
        return unwrapped, []


class EchoToEcho:
    """What grows from echo 1 to echo 2 is unwrapped in space; every echo follows from a line through those before.

    The phase at echo time 0 (coils) is not 0 but smooth, and the same in all echoes: what grows between two is free of
    it. It may even have poles, lines around which it winds by a turn, where coils were combined badly: no unwrapping in
    space survives those, so then it is taken away from all echoes (as MCPC-3D-S does: Eckstein et al., MRM 2018,
    79:2996). Else it stays, and nothing but whole turns is added.

    Args:
        offset_smoothing_mm: full width at half maximum of the smoothing of the coils' phase.
        block_mm: voxels are averaged to about this size for unwrapping in space; 0: they are not.
    """

    def __init__(self, offset_smoothing_mm: float, block_mm: float) -> None:
        self.offset_smoothing_mm = offset_smoothing_mm
        self.block_mm = block_mm

    def __call__(
        self,
        phase: torch.Tensor,
        magnitude: torch.Tensor,
        mask: torch.Tensor,
        echo_times_s: Sequence[float],
        spacing_mm: Sequence[float],
        progress: Progress = ignore_progress,
    ) -> tuple[torch.Tensor, list[str]]:
        """As `PerEcho`; without the coils' phase where that has poles."""
        times = list(echo_times_s)
        blocks = [max(1, int(self.block_mm / d + 0.35)) for d in spacing_mm]
        grown = unwrap_in_blocks(wrap(phase[1] - phase[0]), magnitude[0] * magnitude[1], mask, blocks)
        progress(0.8)
        speed = grown / (times[1] - times[0])
        rest = phase[0] - speed * times[0]
        weight = magnitude[0] * mask
        corrected: list[str] = []
        smooth = smooth_complex(rest, weight, self.offset_smoothing_mm, spacing_mm)
        if has_poles(smooth, gaussian_smooth(weight, self.offset_smoothing_mm, spacing_mm), mask, spacing_mm):
            phase = wrap(phase - smooth.angle())
            offset = torch.zeros_like(speed)
            corrected.append(
                "The coils' phase winds around poles, as where coils were combined badly: it was taken away from all"
                " echoes. QSM is unsure in a tube around each pole; look at the total field."
            )
        else:
            offset = unwrapped_smooth(smooth.angle(), mask)
        progress(0.9)
        unwrapped = torch.empty_like(phase)
        # A line through the coils' phase at time 0 and the echoes so far, weighted with their power.
        products, squares = torch.zeros_like(speed), torch.full_like(speed, 1e-30)
        for echo, time in enumerate(times):
            unwrapped[echo] = near(phase[echo], torch.add(offset, speed, alpha=time))
            weight = magnitude[echo].square().mul_(time)
            squares.add_(weight, alpha=time)
            products.addcmul_(weight, unwrapped[echo] - offset)
            if echo > 0:
                speed = products / squares
            progress(0.9 + 0.1 * (echo + 1) / len(times))
        return torch.where(mask, unwrapped, 0.0), corrected


def has_poles(smooth: torch.Tensor, weight: torch.Tensor, mask: torch.Tensor, spacing_mm: Sequence[float]) -> bool:
    """Whether a smooth complex volume winds around lines: by a turn around squares of centimetres, many in a row.

    Args:
        smooth: complex `[X, Y, Z]`.
        weight: what its length would be if all phases around agreed; squares with little agreement tell nothing.
        mask: bool.
        spacing_mm: voxel size.
    """
    every = tuple(slice(None, None, max(1, round(_POLE_MM / d))) for d in spacing_mm)
    angle = smooth.angle()[every]
    sure = mask[every] & (smooth.abs() > _POLE_AGREEMENT * weight)[every]
    wound = 0
    for a, b in ((0, 1), (0, 2), (1, 2)):

        def ahead(volume: torch.Tensor, i: int, j: int, a: int = a, b: int = b) -> torch.Tensor:
            """The volume from one of a square's corners on."""
            return volume.narrow(a, i, volume.shape[a] - 1).narrow(b, j, volume.shape[b] - 1)

        corners = [ahead(angle, *c) for c in ((0, 0), (1, 0), (1, 1), (0, 1))]
        all_sure = ahead(sure, 0, 0) & ahead(sure, 1, 0) & ahead(sure, 1, 1) & ahead(sure, 0, 1)
        turns = reduce(torch.add, [wrap(corners[(n + 1) % 4] - corners[n]) for n in range(4)]) / TWO_PI
        wound += int((turns.round().abs() * all_sure).sum())
    return wound >= _POLE_SQUARES


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


def smooth_complex(
    phase: torch.Tensor, weight: torch.Tensor, fwhm_mm: float, spacing_mm: Sequence[float]
) -> torch.Tensor:
    """A phase (rad) smoothed as a complex number with weights: complex `[X, Y, Z]`.

    Its mean slope (an echo that is not centred) is taken out before and put back after, for smoothing would erase it.
    """
    ramp = torch.zeros((), device=phase.device)
    for axis, size in enumerate(phase.shape):
        thin = tuple(slice(None) if a == axis else slice(None, None, 3) for a in range(3))
        line, trust = phase[thin], weight[thin]
        step, both = line.diff(dim=axis), trust.narrow(axis, 1, size - 1) * trust.narrow(axis, 0, size - 1)
        slope = torch.atan2((both * torch.sin(step)).sum(), (both * torch.cos(step)).sum())
        shape = [-1 if a == axis else 1 for a in range(3)]
        ramp = ramp + slope * torch.arange(size, device=phase.device).view(shape)
    flat = phase - ramp
    real = gaussian_smooth(weight * torch.cos(flat), fwhm_mm, spacing_mm)
    imaginary = gaussian_smooth(weight * torch.sin(flat), fwhm_mm, spacing_mm)
    return torch.polar(torch.hypot(real, imaginary), torch.atan2(imaginary, real) + ramp)


def smooth_phase(
    phase: torch.Tensor, weight: torch.Tensor, mask: torch.Tensor, fwhm_mm: float, spacing_mm: Sequence[float]
) -> torch.Tensor:
    """A wrapped, smooth but noisy phase, smoothed as a complex number and then unwrapped (rad, 0 outside the mask)."""
    return unwrapped_smooth(smooth_complex(phase, weight, fwhm_mm, spacing_mm).angle(), mask)


def unwrapped_smooth(smooth: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """A smooth phase without wraps, 0 outside the mask."""
    inside = smooth[mask]
    # Almost always one turn holds all of it, and the costly spatial unwrapping is not needed.
    middle = torch.atan2(torch.sin(inside).mean(), torch.cos(inside).mean())
    centred = wrap(smooth - middle)
    if centred[mask].abs().max() < 2.5:
        return torch.where(mask, centred + middle, 0.0)
    return unwrap_in_space(smooth, mask)
