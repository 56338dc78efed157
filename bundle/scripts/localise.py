"""Where the basal ganglia are in a scan that nobody annotated: slice range, in-plane box, and how sure that is.

The scan is registered to a small template (`registration.py`), the hull of caudate, putamen and pallidum is carried
over, and its extent along the scan's axes is the box. What is not sure enough is refused, never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from scripts import registration
from scripts.cohort import check_affine
from scripts.errors import InputError
from scripts.registration import RAS_LPS
from scripts.splines import refine
from scripts.template import Template

#: How boxes can be had; `full` is another word for `whole`.
CHOICES = ("auto", "annotated", "whole", "full")
#: Beyond these a scan is not one that localisation was tested on: thickest slice, largest pixel, shortest extent, mm.
THICKEST_MM, LARGEST_PIXEL_MM, SHORTEST_MM = 6.0, 4.0, 40.0
#: Heads this many times smaller or larger than the template are no adult's, or their voxel size is wrong.
LARGEST_SCALE = 1.3
#: How far the nuclei may reach out of the scan, mm.
LARGEST_CUT_MM = 2.5
#: Larger than anybody's brain, ml.
LARGEST_BRAIN_ML = 2200.0
#: Measures of a good registration: value that gives confidence 0, and value that gives 1. Set on a real head and what
#: was made of it: T1W of any contrast, noise, bias and cut gives 0.51 to 0.80, FLAIR, flat maps and noise below 0.4.
CERTAIN = {"t1": (0.35, 0.55), "tissue": (0.35, 0.55)}
#: From this correlation on the iron of a scan says where the nuclei are; below it T1W alone does.
LEAST_IRON = 0.35
#: How deep below the brain's surface T1W is compared, so that its outline says nothing, and the sizes of structures
#: that are: between the widths of two Gaussians (mm). Gray and white matter are brighter than TISSUE in the template.
DEPTH_MM, STRUCTURES_MM, TISSUE = 6.0, (3.0, 12.0), 0.95

#: Lattice of the last step: knots every 22 mm; see `splines.refine`.
SPLINES = {"knots_mm": 22.0, "bending": 0.002, "iterations": 20}
#: What it looks at: the nuclei and so much around them, mm.
AROUND_MM = 10.0
MEASURES = {
    "t1": "likeness of T1W and template inside the brain",
    "tissue": "likeness of gray and white matter in T1W",
    "iron": "likeness of the iron-rich nuclei",
}


@dataclass(frozen=True)
class Found:
    """Where the basal ganglia are.

    Attributes:
        box: half-open voxel ranges along the stored axes.
        confidence: 0..1, the weaker of the measures of T1W.
        measures: what it is made of (`CERTAIN`), and `iron`, the likeness of the iron-rich nuclei; each a correlation.
        transform: scan to template, LPS mm; None where it was read back without.
        outline_mm: `[N, 3]` corners of the nuclei's hull in the scan, RAS mm.
    """

    box: list[list[int]]
    confidence: float
    measures: dict[str, float]
    transform: sitk.Transform | None
    outline_mm: np.ndarray


def check_scan(shape: tuple[int, ...], affine: np.ndarray, name: str) -> None:
    """Refuse a grid on which basal ganglia cannot be found.

    Args:
        shape: voxels along the stored axes.
        affine: `[4, 4]` voxel to world.
        name: of the scan, for the message.

    Raises:
        InputError: as `cohort.check_affine`; slices too thick, pixels too large, or too little covered.
    """
    check_affine(affine, name)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    # Two axes must show the nuclei; the third may have thick slices.
    if sorted(spacing)[1] > LARGEST_PIXEL_MM or max(spacing) > THICKEST_MM:
        raise InputError(
            f"{name}: voxels of {' x '.join(f'{v:.3g}' for v in spacing)} mm are too large to find the basal ganglia in"
            f" (at most {LARGEST_PIXEL_MM:g} mm, slices {THICKEST_MM:g} mm); correct the voxel size or annotate a box"
        )
    extent = spacing * shape
    if min(extent) < SHORTEST_MM:
        raise InputError(
            f"{name}: covers {min(extent):.3g} mm ({shape[int(np.argmin(extent))]} slices), too little to find the"
            f" basal ganglia in (at least {SHORTEST_MM:g} mm); annotate a box, or use --localise whole if it is cut"
        )


def locate(
    maps: np.ndarray,
    affine: np.ndarray,
    template: Template,
    target: registration.Target,
    margin_mm: float,
    name: str = "the scan",
) -> Found:
    """Find the basal ganglia.

    Args:
        maps: `[3, I, J, K]`: QSM (ppm), R2* (1/s), T1W; axes as stored.
        affine: `[4, 4]`, voxel to world (RAS, mm).
        template, target: from `load_template` and `registration.target_of`.
        margin_mm: added to each in-plane side of the box.
        name: for messages.

    Raises:
        InputError: as `check_scan`; no brain, a head of impossible size, nuclei outside the scan.
    """
    check_scan(maps.shape[1:], affine, name)
    turned, lps, _ = registration.ras(maps, affine)
    scan, moved, measures = pose_of(turned, lps, target, template.spacing_mm, name)
    if sure_of(measures) > 0:  # else the size is no one's
        check_size(moved, measures["t1"], name)

    outline = template.outline_mm @ RAS_LPS
    part = registration.closer(turned, lps, scan, inverse(moved, moved, outline), AROUND_MM)
    transform: sitk.Transform = moved
    if part is not None:
        transform = refine(part, registration.combined(part), target.combined, moved, **SPLINES)
        measures["iron"] = correlation(part.iron, registration.seen_from(target.iron, part, transform), part.brain)
        if measures["iron"] < LEAST_IRON:  # a young person's, or none that can be trusted
            transform = refine(part, part.t1, target.t1, moved, **SPLINES)
            measures["iron"] = correlation(part.iron, registration.seen_from(target.iron, part, transform), part.brain)
    places = inverse(transform, moved, outline)
    box = box_around(places @ RAS_LPS, maps.shape[1:], affine, margin_mm, name, sure_of(measures))
    measures = {key: round(value, 4) for key, value in measures.items()}
    return Found(box, sure_of(measures), measures, transform, places @ RAS_LPS)


def pose_of(
    turned: np.ndarray, lps: np.ndarray, target: registration.Target, spacing_mm: float, name: str
) -> tuple[registration.Scan, sitk.AffineTransform, dict[str, float]]:
    """The affine registration that T1W likes best, over the masks that the brain may have and the likeliest poses.

    Returns:
        the scan with its mask, scan to template, and the measures of T1W; `iron` is 0 in them.
    """
    best = None
    try:
        for scan in registration.scans_on(turned, lps):
            for pose in registration.search(scan, target, spacing_mm, starts=2):
                moved = registration.align(scan, target, registration.affine_transform(pose))
                better = registration.brain_by_template(scan, target, moved)
                if better is not scan:
                    moved = registration.align(better, target, moved)
                measures = t1_measures(better, target, moved)
                if best is None or min(measures.values()) > min(best[2].values()):
                    best = (better, moved, measures)
                if sure_of(measures) == 1:
                    break
            if best is not None and (sure_of(best[2]) == 1 or (best[0] is scan and scan.ml <= LARGEST_BRAIN_ML)):
                break  # found; or the mask is a brain's, and no other would make it likelier
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    if best is None:
        raise InputError(f"{name}: nothing in it looks like a brain; check the maps, or annotate a box")
    scan, moved, measures = best
    return scan, moved, {**measures, "iron": 0.0}


def t1_measures(scan: registration.Scan, target: registration.Target, moved: sitk.Transform) -> dict[str, float]:
    """How alike T1W and template are inside the brain: `t1`, and `tissue`, the same in gray and white matter alone.

    Both are correlations of structures of some millimetres, so receive bias and the brain's outline say nothing; a
    wrong order of gray and white matter makes `tissue` small or negative, bright fluid makes `t1` negative.
    """
    seen = registration.seen_from(target.t1, scan, moved)
    brain = registration.seen_from(target.brain, scan, moved) > 0.5
    inner = ndimage.distance_transform_edt(scan.brain & brain, scan.spacing) > DEPTH_MM
    within = inner.astype(np.float32)
    fine, coarse = (mm / scan.spacing for mm in STRUCTURES_MM)
    shares = [np.maximum(ndimage.gaussian_filter(within, sigma, truncate=3), 0.05) for sigma in (fine, coarse)]

    def structures(volume: np.ndarray) -> np.ndarray:
        small, large = (
            ndimage.gaussian_filter(volume * within, sigma, truncate=3) / share
            for sigma, share in zip((fine, coarse), shares, strict=True)
        )
        return small - large

    ours, theirs = structures(scan.t1), structures(seen)
    return {
        "t1": correlation(ours, theirs, inner),
        "tissue": correlation(ours, theirs, inner & (seen > TISSUE)),
    }


def sure_of(measures: Mapping[str, float]) -> float:
    """Confidence 0..1: how far the weakest measure lies between its two values in CERTAIN."""
    shares = [(measures[key] - low) / (high - low) for key, (low, high) in CERTAIN.items()]
    return round(float(np.clip(min(shares), 0, 1)), 3)


def weakest(measures: Mapping[str, float]) -> str:
    """The measure that confidence hangs on, in words."""
    shares = {key: (measures[key] - low) / (high - low) for key, (low, high) in CERTAIN.items()}
    key = min(shares, key=shares.get)
    return f"weakest: {MEASURES[key]} {measures[key]:.2f}"


def correlation(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> float:
    """Pearson correlation inside a mask, 0 where one side has no contrast."""
    a, b = a[where], b[where]
    if len(a) < 2 or min(a.std(), b.std()) < 1e-6:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def matrix_of(affine: sitk.AffineTransform) -> tuple[np.ndarray, np.ndarray]:
    """Matrix and offset of an affine transform, its centre folded in."""
    matrix, centre = np.array(affine.GetMatrix()).reshape(3, 3), np.array(affine.GetCenter())
    return matrix, np.array(affine.GetTranslation()) + centre - matrix @ centre


def check_size(moved: sitk.AffineTransform, likeness: float, name: str) -> None:
    """Refuse a head that is far smaller or larger than an adult's."""
    scale = 1 / abs(np.linalg.det(matrix_of(moved)[0])) ** (1 / 3)
    if not 1 / LARGEST_SCALE < scale < LARGEST_SCALE:
        raise InputError(
            f"{name}: its brain is {scale:.2f} times an adult's in length (likeness {likeness:.2f}); correct the voxel"
            " size, or annotate a box"
        )


def inverse(transform: sitk.Transform, affine: sitk.AffineTransform, points: np.ndarray) -> np.ndarray:
    """Where in the scan template points `[N, 3]` lie: fixed-point iteration, as splines are a few mm on an affine."""
    matrix, offset = matrix_of(affine)
    places = np.linalg.solve(matrix, (points - offset).T).T
    if transform is affine:
        return places
    for _ in range(10):
        reached = np.array([transform.TransformPoint(place.tolist()) for place in places])
        places = places + np.linalg.solve(matrix, (points - reached).T).T
    return places


def box_around(
    places: np.ndarray, shape: tuple[int, ...], affine: np.ndarray, margin_mm: float, name: str, confidence: float
) -> list[list[int]]:
    """Voxel ranges that hold some world points (RAS): a margin in-plane, whole slices along the body.

    Raises:
        InputError: the points reach out of the image.
    """
    index = np.linalg.solve(affine, np.column_stack([places, np.ones(len(places))]).T)[:3].T
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    up = int(np.argmax(np.abs(affine[2, :3] / spacing)))
    out = np.maximum(-0.5 - index.min(0), index.max(0) - (np.array(shape) - 0.5)) * spacing
    if out.max() > LARGEST_CUT_MM and confidence < 0.5:
        raise InputError(
            f"{name}: no basal ganglia of an adult are recognised in its T1W (confidence {confidence:.2f}); check the"
            " T1W's contrast and voxel size, or annotate a box"
        )
    if out.max() > LARGEST_CUT_MM:
        raise InputError(
            f"{name}: the basal ganglia reach {out.max():.0f} mm out of the image; give the whole scan, or a box"
        )
    margin = np.full(3, margin_mm)
    margin[up] = 0.0
    low = np.maximum(np.floor(index.min(0) + 0.5 - margin / spacing), 0).astype(int)
    high = np.minimum(np.ceil(index.max(0) + 0.5 + margin / spacing), shape).astype(int)
    return [[int(a), int(b)] for a, b in zip(low, high, strict=True)]
