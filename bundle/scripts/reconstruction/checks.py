"""What is handed from step to step is checked: finite, a brain by its size, a map that tissue can have."""

from collections.abc import Sequence

import numpy as np
import torch

from scripts.errors import InputError

#: Volume of a brain (mask before it is trimmed), l: what adults have, and what nobody has.
USUAL_LITRES, POSSIBLE_LITRES = (0.6, 2.2), (0.3, 3.0)
#: Shortest, middle and longest extent of a brain, mm: a scan that is shorter is a slab.
_BRAIN_MM = (130.0, 140.0, 170.0)
#: Share of the largest cross-section with which a mask may touch a face of the image.
_TOUCHING = 0.1
#: Susceptibility that no tissue has, ppm; large bleeds and calcifications stay within +-3.
LARGEST_PPM = 5.0


def check_finite(step: str, volume: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Hand a volume on if it is finite inside the mask (or everywhere).

    Args:
        step: what made it, for the message.
        volume: `[..., X, Y, Z]`.
        mask: bool `[X, Y, Z]`.

    Raises:
        InputError: NaN or infinite values.
    """
    finite = torch.isfinite(volume)
    if mask is not None:
        finite = finite | ~mask
    if not bool(finite.all()):
        bad = int((~finite).sum())
        raise InputError(
            f"{step}: left {bad} voxels without a finite value; look at the echoes there, or give --brain_mask"
            " a mask that leaves them out"
        )
    return volume


def check_map(chi: torch.Tensor, total_field: torch.Tensor, local_field: torch.Tensor, mask: torch.Tensor) -> None:
    """Refuse a susceptibility map that tissue cannot have, and name the step that made it so.

    Args:
        chi, total_field, local_field: ppm, `[X, Y, Z]`.
        mask: bool, where they are known.

    Raises:
        InputError: empty, not finite, zero throughout, or beyond +-5 ppm.
    """
    if not bool(mask.any()):
        raise InputError("QSM: its mask is empty; give --brain_mask a mask file, or lower the mask's erosion")
    check_finite("total field", total_field, mask)
    check_finite("background removal", local_field, mask)
    check_finite("inversion", chi, mask)
    if float(chi[mask].abs().max()) == 0.0:
        raise InputError("inversion: the map is 0 throughout; the mask may be too small: give --brain_mask a mask file")
    largest = float(chi[mask].abs().max())
    if largest > LARGEST_PPM:
        steps = {"total field": total_field, "background removal": local_field}
        # A brain's total field is shimmed to a few ppm, its local field far below one.
        limits = {"total field": 50.0, "background removal": LARGEST_PPM}
        guilty = next((s for s, v in steps.items() if float(v[mask].abs().max()) > limits[s]), "inversion")
        raise InputError(
            f"{guilty}: the map reaches {largest:.3g} ppm where tissue stays within +-{LARGEST_PPM:g}; check echo times"
            " and phase images, or give --brain_mask a mask of the brain alone"
        )


#: A slice has signal where more than this share of its voxels is above noise.
_SIGNAL_SHARE = 0.01


def check_slices(volumes: np.ndarray, paths: Sequence[str], signal: np.ndarray | None = None) -> None:
    """Refuse slices without any value between slices that have some, as a lost slice leaves.

    Args:
        volumes: one part of all echoes, `[E, X, Y, Z]`.
        paths: of the echoes, for the message.
        signal: of a phase, bool `[E, X, Y, Z]`, where its magnitude is more than noise. A phase may be stored as 0 all
            over a slice of air (some scanners write -pi as 0 there), but not where there is signal.

    Raises:
        InputError: the first of them.
    """
    for axis in range(3):
        filled = np.any(volumes != 0, axis=tuple(a + 1 for a in range(3) if a != axis))
        for echo, there in enumerate(filled, 1):
            known = np.flatnonzero(there)
            empty = [n for n in range(known[0], known[-1]) if not there[n]] if len(known) else []
            if signal is not None:
                empty = [n for n in empty if signal[echo - 1].take(n, axis=axis).mean() > _SIGNAL_SHARE]
            if empty:
                raise InputError(
                    f"{paths[echo - 1]}: slice {empty[0]} (from 0) along axis {'ijk'[axis]} of echo {echo} is 0"
                    f" throughout ({len(empty)} such slices) amid others that are not; export it again"
                )


def check_echoes_differ(volumes: np.ndarray, paths: Sequence[str]) -> None:
    """Refuse an echo that is a copy of another.

    Args:
        volumes: one part of all echoes, `[E, X, Y, Z]`.
        paths: of the echoes, for the message.

    Raises:
        InputError: the first two that are alike.
    """
    for one in range(len(volumes)):
        for other in range(one):
            if np.array_equal(volumes[one], volumes[other]):
                raise InputError(
                    f"{paths[one]}: echoes {other + 1} and {one + 1} are the same image; give each echo its own file"
                )


def doubts_about_brain(brain: np.ndarray, spacing_mm: Sequence[float], found: bool) -> list[str]:
    """Warnings about a mask that has not a brain's size, or is cut by the image.

    Args:
        brain: bool `[X, Y, Z]`, before it is trimmed.
        spacing_mm: voxel size.
        found: whether the bundle found it; a given mask is only doubted.

    Raises:
        InputError: a mask that was found is no brain at all.
    """
    spacing = np.asarray(spacing_mm, float)
    extent = spacing * brain.shape
    litres = float(brain.sum() * spacing.prod() / 1e6)
    least, most = share_in_view(extent)
    usual, possible = ((low * least, high * most) for low, high in (USUAL_LITRES, POSSIBLE_LITRES))
    size = f"{litres:.2f} l" if litres >= 0.1 else f"{1000 * litres:.2g} ml"
    warnings = []
    if found and not possible[0] <= litres <= possible[1]:
        raise InputError(
            f"mask: {size} were taken for the brain, where {possible[0]:.2g} to {possible[1]:.2g} l are possible in a"
            " scan of this size; give --brain_mask a mask file"
        )
    if not usual[0] <= litres <= usual[1]:
        warnings.append(
            f"The brain mask has {size}, where {usual[0]:.2g} to {usual[1]:.2g} l are usual in a scan of this size:"
            " look at it, and give --brain_mask a better one if it is wrong."
        )
    cut = [axis for axis in range(3) if extent[axis] >= _BRAIN_MM[-1] and touches(brain, axis)]
    if cut:
        warnings.append(
            f"The brain mask reaches the image's faces along axis {' and '.join('ijk'[a] for a in cut)}, where air"
            " should be: the scan is cut or wrapped there, or the mask is wrong."
        )
    return warnings


def share_in_view(extent_mm: np.ndarray) -> tuple[float, float]:
    """Least and largest share of a brain (an ellipsoid, turned anyhow) that a scan of some extent can show of it."""
    least = most = 1.0
    for extent, length in zip(sorted(extent_mm), _BRAIN_MM, strict=True):
        part = min(float(extent) / length, 1.0)
        least *= part**2 * (3 - 2 * part)  # a cap at the end
        most *= 1.5 * part - 0.5 * part**3  # a slab through the middle
    return least, most


def touches(brain: np.ndarray, axis: int) -> bool:
    """Whether a mask ends at a face of the image across an axis with more than a stalk."""
    areas = brain.sum(tuple(a for a in range(3) if a != axis))
    return any(areas[end] > _TOUCHING * areas.max() for end in (0, -1))
