"""T1 and proton density from two or more flip angles (DESPOT1), and the flip angle that was really there (B1).

Sources: DESPOT1: Deoni et al., MRM 2003, 49:515. B1 from a tissue of known T1: STAGE, Wang et al., Magn Reson Imaging
2018, 46:140.
"""

from collections.abc import Sequence

import numpy as np
import torch

from scripts.errors import InputError
from scripts.reconstruction.raw import Volume

#: Voxels that are enough to find B1.
_B1_VOXELS = 30_000
#: Density of voxels that are none of the tissues.
_STRAY = 0.01
#: Least and largest spread of white matter, gray matter and fluid in the logarithm of B1.
_SPREADS = ((0.02, 0.02, 0.05), (0.08, 0.08, 0.25))


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
    """B1 as a smooth function that gives each tissue the same T1 everywhere: STAGE's way, with gray matter and fluid.

    In each voxel the ratio of the two signals tells the flip angle that white matter would need to look so. Its
    logarithm is that of B1 plus a constant of the tissue (T1 goes with the square of B1). Which tissue a voxel is, and
    the polynomial that carries B1 to all voxels, are found in turns (expectation maximisation, as bias fields are:
    Wells et al., IEEE Trans Med Imaging 1996, 15:429). White matter alone would leave the cortex to extrapolation.

    Args:
        reference_t1_s: of white matter.
        gray_t1_s, fluid_t1_s: of gray matter and of cerebrospinal fluid.
        order: of the polynomial in x, y, z.
        iterations: how often tissues and polynomial are improved.
        least, most: B1 that can be found.
    """

    def __init__(
        self,
        reference_t1_s: float,
        gray_t1_s: float,
        fluid_t1_s: float,
        order: int,
        iterations: int,
        least: float = 0.6,
        most: float = 1.4,
    ) -> None:
        self.reference_t1_s, self.gray_t1_s, self.fluid_t1_s = reference_t1_s, gray_t1_s, fluid_t1_s
        self.order, self.iterations = order, iterations
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
        scale = np.linspace(0.2, 2.0, 900)
        low, high = (np.deg2rad(flip_angles_deg[i]) * scale for i in (0, -1))
        e1 = np.exp(-repetition_time_s / self.reference_t1_s)
        expected = np.sin(high) * (1 - np.cos(low) * e1) / (np.sin(low) * (1 - np.cos(high) * e1))
        where = torch.nonzero(mask).cpu().numpy()
        where = where[:: max(1, len(where) // _B1_VOXELS)]
        low_signal, high_signal = (signals[i].cpu().numpy()[tuple(where.T)].astype(float) for i in (0, -1))
        seen = np.log(np.interp(high_signal / np.maximum(low_signal, 1e-20), expected[::-1], scale[::-1]))
        position = 2.0 * where / np.maximum(np.array(mask.shape) - 1, 1) - 1.0
        return self.everywhere(self.fit(seen, polynomial_terms(position, self.order)), mask)

    def fit(self, seen: np.ndarray, terms: np.ndarray) -> np.ndarray:
        """Coefficients `[T]` of the logarithm of B1.

        Args:
            seen: logarithm of the B1 that white matter would need, `[N]`.
            terms: monomials `[N, T]`.
        """
        constants = 0.5 * np.log(np.array([1.0, self.gray_t1_s, self.fluid_t1_s]) / self.reference_t1_s)
        constants[0] = 0.0
        spread, share = np.array([0.08, 0.08, 0.2]), np.array([0.4, 0.4, 0.2])
        degrees = np.array([sum(e) for e in exponents(self.order)])
        weights, log_b1 = np.zeros(terms.shape[1]), np.zeros(len(seen))
        for iteration in range(self.iterations):
            rest = seen[:, None] - log_b1[:, None] - constants
            likely = share / spread * np.exp(-0.5 * (rest / spread) ** 2)
            likely /= likely.sum(1, keepdims=True) + _STRAY
            # Coarse first: high degrees could follow the anatomy before the tissues are known.
            used = degrees <= iteration // 4
            precision = (likely / spread**2).sum(1)
            wanted = (likely / spread**2 * (seen[:, None] - constants)).sum(1)
            chosen = terms[:, used]
            normal = product((chosen * precision[:, None]).T, chosen)
            weights[used] = np.linalg.lstsq(normal, product(chosen.T, wanted), rcond=1e-9)[0]
            log_b1 = product(terms, weights)
            total = np.maximum(likely.sum(0), 1e-9)
            rest = seen[:, None] - log_b1[:, None] - constants
            spread = np.clip(np.sqrt((likely * rest**2).sum(0) / total), _SPREADS[0], _SPREADS[1])
            share = total / total.sum()
        return weights

    def everywhere(self, weights: np.ndarray, mask: torch.Tensor) -> torch.Tensor:
        """B1 on the whole grid from the polynomial of its logarithm."""
        x, y, z = (
            torch.linspace(-1, 1, n, device=mask.device)[:, None] ** torch.arange(self.order + 1, device=mask.device)
            for n in mask.shape
        )
        cube = torch.zeros(3 * [self.order + 1], device=mask.device)
        for weight, powers in zip(weights, exponents(self.order), strict=True):
            cube[powers] = float(weight)
        rows = torch.einsum("abc,yb,zc->ayz", cube, y, z)
        return torch.einsum("xa,ayz->xyz", x, rows).exp_().clamp_(self.least, self.most)


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Matrix product by torch: numpy's takes all cores, whatever number of threads is set."""
    return (torch.from_numpy(a) @ torch.from_numpy(b)).numpy()


def exponents(order: int) -> list[tuple[int, int, int]]:
    """Exponents of all monomials in x, y, z up to an order."""
    return [(a, b, c) for a in range(order + 1) for b in range(order + 1 - a) for c in range(order + 1 - a - b)]


def polynomial_terms(points: np.ndarray, order: int) -> np.ndarray:
    """Monomials of points `[N, 3]`: `[N, T]`."""
    return np.stack([np.prod(points ** np.array(e), axis=1) for e in exponents(order)], axis=1)
