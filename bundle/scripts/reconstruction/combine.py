"""Echoes to one susceptibility map: maps of single echoes averaged (the paper), or their fields combined first.

The 2024 consensus (QSM Consensus Organization Committee, MRM 2024, 91:1834) recommends one weighted field before
background removal: one chain instead of five, and no late echo with wraps of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from scripts.errors import InputError
from scripts.reconstruction.progress import Progress, ignore_progress
from scripts.reconstruction.unwrap import TWO_PI, Line, smooth_phase, wrap

#: Proton's gyromagnetic ratio over 2 pi, MHz/T.
GAMMA_MHZ_PER_T = 42.577478518


@dataclass
class Mapped:
    """What a chain of background removal and inversion made of one field.

    Attributes:
        chi: susceptibility, ppm, `[X, Y, Z]`.
        local_field: ppm.
        mask: bool, where both are known.
        total_field: ppm; of the last echo where echoes are mapped one by one.
    """

    chi: torch.Tensor
    local_field: torch.Tensor
    mask: torch.Tensor
    total_field: torch.Tensor


#: Background removal and inversion: total field (ppm), weight (0..1), progress -> Mapped.
Chain = Callable[[torch.Tensor, torch.Tensor, Progress], Mapped]


def phase_to_ppm(phase: torch.Tensor, time_s: float, field_strength_t: float) -> torch.Tensor:
    """Field relative to B0 (ppm) from phase (rad) at a time after excitation."""
    return phase / (TWO_PI * GAMMA_MHZ_PER_T * field_strength_t * time_s)


def relative_weight(weight: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """A weight over its median in the mask, at most 1: bright voxels do not outvote the others."""
    return torch.where(mask, (weight / weight[mask].median().clamp_min(1e-30)).clamp(0.0, 1.0), 0.0)


class AverageOfMaps:
    """Each echo gets its own map; the maps are averaged with squared signal-to-noise ratios of their phase.

    Args:
        first_echo, last_echo: counted from 1 (paper, Dataset: TE2 to TE6); echoes that a scan lacks are left out.
    """

    def __init__(self, first_echo: int, last_echo: int) -> None:
        self.first_echo = first_echo
        self.last_echo = last_echo

    def __call__(
        self,
        unwrapped: torch.Tensor,
        magnitude: torch.Tensor,
        mask: torch.Tensor,
        echo_times_s: Sequence[float],
        spacing_mm: Sequence[float],
        field_strength_t: float,
        chain: Chain,
        progress: Progress = ignore_progress,
    ) -> Mapped:
        """Map.

        Args:
            unwrapped, magnitude: `[E, X, Y, Z]`; phase in rad.
            mask: bool `[X, Y, Z]`, where the phase is good.
            echo_times_s: s.
            spacing_mm: voxel size.
            field_strength_t: T.
            chain: background removal and inversion of one field.
            progress: told how far the work is.
        """
        chosen = range(self.first_echo - 1, min(self.last_echo, len(unwrapped)))
        total = chi = local = torch.zeros((), device=unwrapped.device)
        mapped = None
        for done, echo in enumerate(chosen):
            field = phase_to_ppm(unwrapped[echo], echo_times_s[echo], field_strength_t)
            signal = magnitude[echo] * echo_times_s[echo]

            def part(share: float, done: int = done) -> None:
                progress((done + share) / len(chosen))

            mapped = chain(field, relative_weight(signal, mask), part)
            weight = signal.square()
            total = total + weight
            chi = chi + weight * mapped.chi
            local = local + weight * mapped.local_field
        if mapped is None:
            raise InputError(
                f"the scan has {len(unwrapped)} echoes, none of echo {self.first_echo} to {self.last_echo}; correct"
                " first_echo and last_echo"
            )
        total = torch.clamp(total, min=1e-30)
        known = mapped.mask
        mapped.chi, mapped.local_field = (torch.where(known, v / total, 0.0) for v in (chi, local))
        return mapped


class CombinedField:
    """One field from all echoes, weighted with the squared signal-to-noise ratios of their phase, then one map.

    The phase at echo time 0 (coils) is taken away first: the intercept of a line through the echoes, smoothed.

    Args:
        offset_smoothing_mm: full width at half maximum of that smoothing.
        largest_misfit_rad: voxels whose echoes lie farther from a line than this (root mean square, weighted with the
            magnitudes) lose their weight: vessels with flow, and edges of air.
    """

    def __init__(self, offset_smoothing_mm: float, largest_misfit_rad: float) -> None:
        self.offset_smoothing_mm = offset_smoothing_mm
        self.largest_misfit_rad = largest_misfit_rad

    def __call__(
        self,
        unwrapped: torch.Tensor,
        magnitude: torch.Tensor,
        mask: torch.Tensor,
        echo_times_s: Sequence[float],
        spacing_mm: Sequence[float],
        field_strength_t: float,
        chain: Chain,
        progress: Progress = ignore_progress,
    ) -> Mapped:
        """As `AverageOfMaps`."""
        field, signal = self.field(unwrapped, magnitude, mask, echo_times_s, spacing_mm)
        return chain(phase_to_ppm(field, 1.0, field_strength_t), relative_weight(signal, mask), progress)

    def field(
        self,
        unwrapped: torch.Tensor,
        magnitude: torch.Tensor,
        mask: torch.Tensor,
        echo_times_s: Sequence[float],
        spacing_mm: Sequence[float],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Field (rad/s) and the signal-to-noise ratio of its phase (relative), both 0 outside the mask."""
        line = Line(mask.shape, mask.device)
        for phase, signal, time in zip(unwrapped, magnitude, echo_times_s, strict=True):
            line.add(phase, time, signal.square())
        _, intercept = line.fit()
        # Coherent: noisy voxels near air and in vessels hardly count.
        offset = smooth_phase(wrap(intercept), magnitude[0] * mask, mask, self.offset_smoothing_mm, spacing_mm)
        # What the line would have at time 0 if it were not for noise.
        start = TWO_PI * torch.round((intercept - offset) / TWO_PI) + offset
        field = (line.products - start * line.times) / line.squares.clamp_min(1e-30)
        misfit = torch.zeros_like(field)
        for phase, signal, time in zip(unwrapped, magnitude, echo_times_s, strict=True):
            misfit += (phase - start).sub_(field, alpha=time).mul_(signal).square_()
        trusted = mask & line.determined() & (misfit < line.weights * self.largest_misfit_rad**2)
        return torch.where(mask, field, 0.0), torch.where(trusted, line.squares.sqrt(), 0.0)
