"""T1 and proton density from two or more flip angles (DESPOT1), and the flip angle that was really there (B1).

Sources: DESPOT1: Deoni et al., MRM 2003, 49:515. B1 from a tissue of known T1: STAGE, Wang et al., Magn Reson Imaging
2018, 46:140.
"""

from collections.abc import Sequence

import numpy as np
import torch

from scripts.errors import InputError
from scripts.stage.raw import Volume


def despot1(
    signals: torch.Tensor,
    flip_angles_deg: Sequence[float],
    repetition_time_s: float,
    b1: torch.Tensor | float,
    limit_s: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """T1 and PD from the straight line S / sin(a) = E1 S / tan(a) + PD (1 - E1).

    Args:
        signals: `[A, X, Y, Z]`, one volume a flip angle, same gain.
        flip_angles_deg: nominal.
        repetition_time_s: the same for all.
        b1: true over nominal flip angle, `[X, Y, Z]` or a number.
        limit_s: largest T1; noise in fluid can give any value.

    Returns:
        T1 (s, 0..limit) and PD (unit of the signal); both 0 where there is no signal.
    """
    angles = [torch.deg2rad(torch.tensor(float(a))) * b1 for a in flip_angles_deg]
    y = torch.stack([s / torch.sin(a) for s, a in zip(signals, angles, strict=True)])
    x = torch.stack([s / torch.tan(a) for s, a in zip(signals, angles, strict=True)])
    dx, dy = x - x.mean(0), y - y.mean(0)
    e1 = (dx * dy).sum(0) / (dx * dx).sum(0).clamp_min(1e-30)
    lowest, highest = (
        np.exp(-repetition_time_s / 0.02),
        np.exp(-repetition_time_s / limit_s),
    )  # T1 of 20 ms to the limit
    e1 = e1.clamp(lowest, highest)
    t1 = -repetition_time_s / torch.log(e1)
    pd = (y.mean(0) - e1 * x.mean(0)) / (1.0 - e1)
    signal = signals.amin(0) > 0
    return torch.where(signal, t1, 0.0), torch.where(signal, pd.clamp_min(0.0), 0.0)


class NominalB1:
    """The flip angles are taken as they were asked for."""

    def __call__(
        self,
        signals: torch.Tensor,
        flip_angles_deg: Sequence[float],
        repetition_time_s: float,
        mask: torch.Tensor,
        box: tuple[slice, ...],
    ) -> torch.Tensor:
        """True over nominal flip angle `[X, Y, Z]`: 1."""
        return torch.ones_like(signals[0])


class GivenB1:
    """A measured B1 map.

    Args:
        path: NIfTI file on the scan's grid, true over nominal flip angle; per cent are recognised by their size.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(
        self,
        signals: torch.Tensor,
        flip_angles_deg: Sequence[float],
        repetition_time_s: float,
        mask: torch.Tensor,
        box: tuple[slice, ...],
    ) -> torch.Tensor:
        """True over nominal flip angle `[X, Y, Z]`, cut to `box` from the map.

        Raises:
            InputError: the map cannot be read, or is not near 1 or 100 in the brain.
        """
        b1 = torch.from_numpy(Volume(self.path).load()[box]).to(signals.device)
        middle = float(b1[mask].median())
        if 30 < middle < 200:
            b1 = b1 / 100.0
        elif not 0.3 < middle < 2:
            raise InputError(
                f"{self.path}: the B1 map's median in the brain is {middle:.3g}; it must be near 1 or 100 %"
            )
        return b1.clamp(0.2, 2.0)


class UniformReferenceB1:
    """B1 as a smooth function that gives white matter the same T1 everywhere, as STAGE does.

    White matter is found by its T1 itself: voxels within a window around the reference, narrower with each pass. In
    each, the ratio of the two signals at the known T1 tells the flip angle. A polynomial carries it to all voxels.

    Args:
        reference_t1_s: of white matter.
        order: of the polynomial in x, y, z.
        windows: relative half width of the window, a pass each.
        least, most: B1 that can be found.
    """

    def __init__(
        self, reference_t1_s: float, order: int, windows: Sequence[float], least: float = 0.6, most: float = 1.4
    ) -> None:
        self.reference_t1_s = reference_t1_s
        self.order = order
        self.windows = list(windows)
        self.least, self.most = least, most

    def __call__(
        self,
        signals: torch.Tensor,
        flip_angles_deg: Sequence[float],
        repetition_time_s: float,
        mask: torch.Tensor,
        box: tuple[slice, ...],
    ) -> torch.Tensor:
        """True over nominal flip angle `[X, Y, Z]`.

        Args:
            signals: `[A, X, Y, Z]`; the first and the last are compared.
            flip_angles_deg: nominal, rising.
            repetition_time_s: the same for all.
            mask: bool, the brain.
            box: not used; for the same call as `GivenB1`.
        """
        scale = np.linspace(self.least, self.most, 400)
        low, high = (np.deg2rad(flip_angles_deg[i]) * scale for i in (0, -1))
        e1 = np.exp(-repetition_time_s / self.reference_t1_s)
        expected = np.sin(high) * (1 - np.cos(low) * e1) / (np.sin(low) * (1 - np.cos(high) * e1))
        where = torch.nonzero(mask).cpu().numpy()
        where = where[:: max(1, len(where) // 100_000)]
        low_signal, high_signal = (signals[i].cpu().numpy()[tuple(where.T)].astype(float) for i in (0, -1))
        seen = high_signal / np.maximum(low_signal, 1e-20)
        found = np.interp(seen, expected[::-1], scale[::-1])
        position = 2.0 * where / np.maximum(np.array(mask.shape) - 1, 1) - 1.0
        terms = polynomial_terms(position, self.order)
        b1 = np.ones(len(where))
        weights = np.zeros(terms.shape[1])
        for window in self.windows:
            # With B1 as known so far, white matter needs a B1 near it to have the reference T1; T1 goes with B1^2.
            white = np.abs((found / b1) ** 2 - 1.0) < window
            white &= (found > self.least) & (found < self.most)
            chosen = terms[white]
            weights = np.linalg.lstsq(chosen.T @ chosen, chosen.T @ found[white], rcond=1e-9)[0]
            b1 = np.clip(terms @ weights, self.least, self.most)
        return self.everywhere(weights, mask)

    def everywhere(self, weights: np.ndarray, mask: torch.Tensor) -> torch.Tensor:
        """The polynomial on the whole grid."""
        x, y, z = (
            torch.linspace(-1, 1, n, device=mask.device)[:, None] ** torch.arange(self.order + 1, device=mask.device)
            for n in mask.shape
        )
        cube = torch.zeros(3 * [self.order + 1], device=mask.device)
        for weight, powers in zip(weights, exponents(self.order), strict=True):
            cube[powers] = float(weight)
        rows = torch.einsum("abc,yb,zc->ayz", cube, y, z)
        return torch.einsum("xa,ayz->xyz", x, rows).clamp_(self.least, self.most)


def exponents(order: int) -> list[tuple[int, int, int]]:
    """Exponents of all monomials in x, y, z up to an order."""
    return [(a, b, c) for a in range(order + 1) for b in range(order + 1 - a) for c in range(order + 1 - a - b)]


def polynomial_terms(points: np.ndarray, order: int) -> np.ndarray:
    """Monomials of points `[N, 3]`: `[N, T]`."""
    return np.stack([np.prod(points ** np.array(e), axis=1) for e in exponents(order)], axis=1)
