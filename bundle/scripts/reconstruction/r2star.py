"""R2* from the magnitudes of the echoes.

Sources: ARLO: Pei et al., MRM 2015, 73:843. Weighted log-linear fit: its weights are squared magnitudes, as the noise
of a logarithm asks for. Noise: Gudbjartsson and Patz, MRM 1995, 34:910.
"""

from collections.abc import Sequence

import torch

from scripts.errors import InputError


def noise_level(magnitude: torch.Tensor, inside: torch.Tensor) -> float:
    """Standard deviation of the noise of one channel, from the air around the head.

    Args:
        magnitude: an echo `[X, Y, Z]`.
        inside: bool; the head is at least here, its median signal tells what is air.

    Returns:
        0 where there is no air or its noise was cut away by the scanner.
    """
    step = max(1, round((magnitude.numel() / 1e6) ** (1 / 3)))  # a million voxels are enough
    magnitude, inside = magnitude[::step, ::step, ::step], inside[::step, ::step, ::step]
    air = magnitude[(magnitude < 0.05 * magnitude[inside].median()) & ~inside & (magnitude > 0)]
    # The median of a Rayleigh distribution is 1.1774 standard deviations.
    return float(air.median()) / 1.1774 if len(air) > 1000 else 0.0


def above_noise(magnitude: torch.Tensor, noise: float, floor: float, least: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Magnitudes without the mean power of noise, and which of them count.

    Args:
        magnitude: `[E, X, Y, Z]`.
        noise: standard deviation, see `noise_level`.
        floor: echoes below this many standard deviations, and all later ones, do not count.
        least: echoes that count anyhow, for without them there is no rate at all.

    Returns:
        Corrected magnitudes, and bool of the same shape.
    """
    counts = magnitude > floor * noise
    for echo in range(1, len(counts)):
        counts[echo] &= counts[echo - 1]
    counts[:least] = True
    return magnitude.square().sub_(2.0 * noise**2).clamp_min_(0.0).sqrt_(), counts


def check_even(echo_times_s: Sequence[float]) -> float:
    """The step (s) of evenly spaced echo times.

    Raises:
        InputError: they are not evenly spaced.
    """
    steps = [b - a for a, b in zip(echo_times_s, echo_times_s[1:], strict=False)]
    step = sum(steps) / len(steps)
    if max(abs(s - step) for s in steps) > 0.02 * step:
        raise InputError(
            "r2star: ARLO needs evenly spaced echoes; use --r2star#_target_ scripts.reconstruction.r2star.WeightedFit"
        )
    return step


class ARLO:
    """Auto-regression on linear operations: the integral over three echoes against their difference.

    Two echoes have no such integral: their rate is the logarithm of their ratio over the time between them.

    Args:
        noise_floor: standard deviations of the noise below which an echo does not count.
        limit: largest R2*, 1/s.
    """

    def __init__(self, noise_floor: float, limit: float) -> None:
        self.noise_floor = noise_floor
        self.limit = limit

    def __call__(self, magnitude: torch.Tensor, echo_times_s: Sequence[float], noise: float) -> torch.Tensor:
        """R2* `[X, Y, Z]`, 1/s, 0..limit.

        Args:
            magnitude: `[E, X, Y, Z]`, at least 2 echoes.
            echo_times_s: evenly spaced.
            noise: standard deviation of the noise.

        Raises:
            InputError: echoes that are not evenly spaced.
        """
        if len(echo_times_s) == 2:
            return WeightedFit(self.noise_floor, self.limit)(magnitude, echo_times_s, noise)
        step = check_even(echo_times_s)
        signal, counts = above_noise(magnitude, noise, self.noise_floor, 3)
        squares, products, differences = torch.zeros(3, *signal.shape[1:], device=signal.device)
        for a, b, c, counted in zip(signal, signal[1:], signal[2:], counts[2:], strict=False):
            integral = torch.where(counted, (step / 3.0) * (a + 4.0 * b + c), 0.0)
            difference = torch.where(counted, a - c, 0.0)
            squares += integral.square()
            products += integral * difference
            differences += difference.square()
        rate = (products + (step / 3.0) * differences) / (squares + (step / 3.0) * products)
        return torch.nan_to_num(rate).clamp(0.0, self.limit)


class WeightedFit:
    """Straight line through the logarithms, weighted with squared magnitudes; any echo times.

    Args:
        noise_floor, limit: see `ARLO`.
    """

    def __init__(self, noise_floor: float, limit: float) -> None:
        self.noise_floor = noise_floor
        self.limit = limit

    def __call__(self, magnitude: torch.Tensor, echo_times_s: Sequence[float], noise: float) -> torch.Tensor:
        """As `ARLO`, without its condition on the echo times."""
        signal, counts = above_noise(magnitude, noise, self.noise_floor, 2)
        # Times relative to the first echo: their squares stay comparable, which float32 needs.
        weights, times, squares, values, products = torch.zeros(5, *signal.shape[1:], device=signal.device)
        scale = magnitude[0].clamp_min(1e-20)
        for echo, time, counted in zip(signal, echo_times_s, counts, strict=True):
            t = time - echo_times_s[0]
            relative = echo / scale
            weight = torch.where(counted, relative.square(), 0.0)
            log = relative.clamp_min(1e-10).log()
            weights += weight
            times += weight * t
            squares += weight * t**2
            values += weight * log
            products += weight * log * t
        determinant = weights * squares - times.square()
        rate = -(weights * products - times * values) / determinant
        return torch.nan_to_num(rate).clamp(0.0, self.limit)


def without_dephasing(
    magnitude: torch.Tensor,
    field_hz: torch.Tensor,
    mask: torch.Tensor,
    echo_times_s: Sequence[float],
    slice_axis: int,
    least: float,
) -> torch.Tensor:
    """Magnitudes with the signal restored that a field gradient through the slice took away.

    A linear field across a rectangular slice multiplies the signal with sinc(change of field x echo time).

    Args:
        magnitude: `[E, X, Y, Z]`.
        field_hz: total field `[X, Y, Z]`.
        mask: bool, where the field is known.
        echo_times_s: one an echo.
        slice_axis: 0, 1 or 2.
        least: smallest factor that is corrected for; the rest stays.
    """
    change = torch.zeros_like(field_hz)
    middle = [slice(None)] * 3
    before, after = list(middle), list(middle)
    middle[slice_axis], before[slice_axis], after[slice_axis] = slice(1, -1), slice(None, -2), slice(2, None)
    known = mask[tuple(before)] & mask[tuple(after)]
    change[tuple(middle)] = torch.where(known, 0.5 * (field_hz[tuple(after)] - field_hz[tuple(before)]), 0.0)
    return torch.stack(
        [
            echo / torch.sinc(change * time).abs().clamp_min(least)
            for echo, time in zip(magnitude, echo_times_s, strict=True)
        ]
    )
