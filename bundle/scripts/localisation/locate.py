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

from scripts.anatomy.axes import LPS_RAS
from scripts.anatomy.template import Template
from scripts.errors import InputError
from scripts.maps.bids import check_affine
from scripts.maps.plausibility import LEAST_IRON
from scripts.registration import search as registration
from scripts.registration.splines import Lattice, refine

#: Beyond these a scan is not one that localisation was tested on: thickest slice, largest pixel, shortest extent, mm.
THICKEST_MM, LARGEST_PIXEL_MM, SHORTEST_MM = 6.0, 4.0, 40.0
#: Smallest and largest brain, in lengths of the template's, which is larger than most: adults have 0.8 to 1.1 of it, a
#: child of a year 0.7. Beyond, the voxel size is wrong.
SCALES = (0.66, 1.3)
#: How far the nuclei may reach out of the scan, mm.
LARGEST_CUT_MM = 2.5
#: Larger than anybody's brain, ml.
LARGEST_BRAIN_ML = 2200.0
#: Measures of a good registration: value that gives confidence 0, and value that gives 1. Set on a real head and what
#: was made of it: T1W of any contrast, noise, bias and cut gives 0.51 to 0.80, FLAIR, flat maps and noise below 0.4.
CERTAIN = {"t1": (0.35, 0.55), "tissue": (0.35, 0.55), "half": (0.15, 0.35), "covered": (0.5, 0.75)}
#: How deep below the brain's surface T1W is compared, so that its outline says nothing, and the sizes of structures
#: that are: between the widths of two Gaussians (mm). Gray and white matter are brighter than TISSUE in the template.
DEPTH_MM, STRUCTURES_MM, TISSUE = 6.0, (3.0, 12.0), 0.95
#: T1W shows something where it varies by this share of its median from voxel to voxel; a part of the brain that holds
#: less than this (ml) says nothing.
LEAST_CONTRAST, LEAST_PART_ML = 0.005, 5.0
#: A slice at the end that shows this share of the largest one's area was cut, as by a slab.
ABRUPT = 0.3
#: From this coarse score on (a brain has 0.9, an ellipsoid 0.83 at most) a second pose is worth trying.
BRAINLIKE = 0.85

#: Lattice of the last step: knots every 22 mm; see `splines.refine`.
SPLINES = Lattice(knots_mm=22.0, bending=0.002, iterations=20)
#: What it looks at: the nuclei and so much around them, mm.
AROUND_MM = 10.0
MEASURES = {
    "t1": "likeness of T1W and template inside the brain",
    "tissue": "likeness of gray and white matter in T1W",
    "half": "likeness of T1W and template in the worse half of the brain",
    "covered": "share of the brain and of its nuclei that the maps show",
    "iron": "likeness of the iron-rich nuclei",
}


@dataclass(frozen=True)
class Found:
    """Where the basal ganglia are.

    Attributes:
        box: half-open voxel ranges along the stored axes.
        confidence: 0..1, the weaker of the measures of T1W.
        measures: what it is made of (`CERTAIN`); `iron`, the likeness of the iron-rich nuclei; and `size`, the brain's
            length in the template's. All but `covered` (a share) and `size` are correlations.
        transform: scan to template, LPS mm.
        outline_mm: `[N, 3]` corners of the nuclei's hull in the scan, RAS mm.
    """

    box: list[list[int]]
    confidence: float
    measures: dict[str, float]
    transform: sitk.Transform
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
    maps, affine, cut = without_empty_ends(maps, affine)
    if any(cut):
        check_scan(maps.shape[1:], affine, f"{name} without its empty slices")
    turned, lps, _ = registration.ras(maps, affine)
    scan, moved, measures = pose_of(turned, lps, target, template.spacing_mm, name)
    if sure_of(measures) > 0:  # else the size is no one's
        check_size(measures, name)

    outline = template.outline_mm @ LPS_RAS
    part = None
    if sure_of(measures) > 0:  # else finer steps would only cost time
        part = registration.closer(turned, lps, scan, inverse(moved, moved, outline), AROUND_MM)
    transform: sitk.Transform = moved
    if part is not None:
        transform = refine(part, registration.combined(part), target.combined, moved, SPLINES)
        measures["iron"] = correlation(part.iron, registration.seen_from(target.iron, part, transform), part.brain)
        if measures["iron"] < LEAST_IRON:  # a young person's, or none that can be trusted
            transform = refine(part, part.t1, target.t1, moved, SPLINES)
            measures["iron"] = correlation(part.iron, registration.seen_from(target.iron, part, transform), part.brain)
    places = inverse(transform, moved, outline)
    box = box_around(places @ LPS_RAS, maps.shape[1:], affine, margin_mm, name, sure_of(measures))
    box = [[low + first, high + first] for (low, high), first in zip(box, cut, strict=True)]
    measures = {key: round(value, 4) for key, value in measures.items()}
    return Found(box, sure_of(measures), measures, transform, places @ LPS_RAS)


def without_empty_ends(maps: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """A slab that was put onto a larger grid, without the slices in which a map is empty.

    A brain tapers off, and its empty slices are air. Where what is measured ends abruptly, it was cut there.

    Returns:
        maps `[3, I, J, K]`, their affine, and how many voxels were taken away in front along each axis.
    """
    up = up_axis(affine)
    areas = (maps != 0).all(0).sum(tuple(axis for axis in range(3) if axis != up))
    filled = np.flatnonzero(areas)
    if not len(filled) or len(filled) == len(areas):
        return maps, affine, [0, 0, 0]
    low, high = int(filled[0]), int(filled[-1]) + 1
    low, high = (end if areas[plane] > ABRUPT * areas.max() else rest
                 for end, plane, rest in ((low, low, 0), (high, high - 1, len(areas))))  # fmt: skip
    cut = [low if axis == up else 0 for axis in range(3)]
    moved = affine.copy()
    moved[:3, 3] = (affine @ [*cut, 1])[:3]
    return np.ascontiguousarray(np.moveaxis(np.moveaxis(maps, up + 1, 0)[low:high], 0, up + 1)), moved, cut


def up_axis(affine: np.ndarray) -> int:
    """Which stored axis runs along the body."""
    return int(np.argmax(np.abs(affine[2, :3] / np.linalg.norm(affine[:3, :3], axis=0))))


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
            first, *others = registration.search(scan, target, spacing_mm, starts=2)
            for pose in (first, *(other for other in others if other.score >= BRAINLIKE)):
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
    size = 1 / abs(np.linalg.det(matrix_of(moved)[0])) ** (1 / 3)
    return scan, moved, {**measures, "iron": 0.0, "size": float(size)}


def t1_measures(scan: registration.Scan, target: registration.Target, moved: sitk.AffineTransform) -> dict[str, float]:
    """How alike T1W and template are inside the brain, and how much of it is there: the measures of CERTAIN.

    `t1`, `tissue` (in gray and white matter alone) and `half` (on the worse side) are correlations of structures of
    some millimetres, so receive bias and the brain's outline say nothing; a wrong order of gray and white matter makes
    `tissue` small or negative, bright fluid makes `t1` negative. `covered`: see there.
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
    right, front = sides(scan, moved)
    return {
        "t1": correlation(ours, theirs, inner),
        "tissue": correlation(ours, theirs, inner & (seen > TISSUE)),
        "half": min(correlation(ours, theirs, inner & half) for half in (right, ~right)),
        "covered": covered(scan, brain, registration.seen_from(target.iron, scan, moved) > 0.3, right, front),
    }


def sides(scan: registration.Scan, moved: sitk.AffineTransform) -> tuple[np.ndarray, np.ndarray]:
    """Which voxels lie to the right of the template's middle, and which in front of it; bool."""
    matrix, offset = matrix_of(moved)
    whole = np.eye(4)
    whole[:3, :3], whole[:3, 3] = matrix, offset
    x, y, _ = (whole @ scan.affine)[:3]  # LPS
    index = np.indices(scan.brain.shape, dtype=np.float32)
    left_mm, back_mm = (np.tensordot(row[:3], index, 1) + row[3] for row in (x, y))
    return left_mm < 0, -back_mm > registration.BRAIN_CENTRE_MM[1]


def covered(
    scan: registration.Scan, brain: np.ndarray, nuclei: np.ndarray, right: np.ndarray, front: np.ndarray
) -> float:
    """The least share that is shown of a quarter of the brain (left or right, front or back) or of a side's nuclei.

    T1W shows what is not the same as all around it; of the nuclei QSM and R2* must be there too. What lies outside of
    the scan is not missed, so slabs are no damage.

    Args:
        scan: on the working grid.
        brain, nuclei: the template's as the scan sees them, bool.
        right, front: from `sides`.
    """
    qsm, r2star, t1 = scan.means
    mean = ndimage.uniform_filter(t1, 3)
    varies = np.sqrt(np.maximum(ndimage.uniform_filter(t1**2, 3) - mean**2, 0))
    shown = varies > LEAST_CONTRAST * np.median(t1[scan.brain])
    deep = ndimage.binary_erosion(brain, iterations=2, border_value=1)
    parts = [(deep & (right == a) & (front == b), shown) for a in (False, True) for b in (False, True)]
    parts += [(nuclei & (right == a), shown & (qsm != 0) & (r2star != 0)) for a in (False, True)]
    least = [LEAST_PART_ML] * 4 + [1.0] * 2
    voxel_ml = np.prod(scan.spacing) / 1e3
    return min(
        (
            float(there[part].mean())
            for (part, there), ml in zip(parts, least, strict=True)
            if part.sum() * voxel_ml > ml
        ),
        default=0.0,
    )


def sure_of(measures: Mapping[str, float]) -> float:
    """Confidence 0..1: how far the weakest measure lies between its two values in CERTAIN."""
    shares = [(measures[key] - low) / (high - low) for key, (low, high) in CERTAIN.items()]
    return round(float(np.clip(min(shares), 0, 1)), 3)


def weakest(measures: Mapping[str, float]) -> str:
    """The measure that confidence hangs on, in words."""
    shares = {key: (measures[key] - low) / (high - low) for key, (low, high) in CERTAIN.items()}
    key = min(shares, key=lambda name: shares[name])
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


def check_size(measures: Mapping[str, float], name: str) -> None:
    """Refuse a brain that is far smaller or larger than anybody's."""
    smallest, largest = SCALES
    if not smallest < measures["size"] < largest:
        said = "smaller than a child's" if measures["size"] <= smallest else "larger than anybody's"
        raise InputError(
            f"{name}: its brain is {said} ({measures['size']:.2f} times the template's length, likeness"
            f" {measures['t1']:.2f}); correct the voxel size, or annotate a box"
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
    up = up_axis(affine)
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
