"""A T1W on another grid than QSM and R2*, as an MPRAGE beside a gradient echo is: registered rigidly and resampled.

Mattes mutual information (Mattes et al., IEEE TMI 2003, 22:120) of T1W with R2* where both were measured, from where
the scanner says that the T1W lies and from where their middles meet. How good it is, is measured: how much the
information falls when the T1W is moved away, and how far apart registrations from other starts end.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from scipy.spatial.transform import Rotation

from scripts.anatomy.axes import LPS_RAS
from scripts.errors import InputError
from scripts.registration.search import block_mean, blocks, coarser, method, sitk_image, without_outliers

#: Voxels of the images that are compared, mm.
WORK_MM = 2.5
#: A pose that is off by this much must be clearly worse, mm and degrees.
_OFF_MM, _OFF_DEG = 8.0, 8.0
#: Other starts, mm and degrees, about x, y and z.
_STARTS = ((5.0, -4.0, 3.0, 4.0, -3.0, 3.0), (-5.0, 4.0, -4.0, -4.0, 3.0, -3.0))
#: A registration is refused where the information falls by a smaller share, ends spread farther (mm), or less of the
#: brain lies in the T1W.
LEAST_SHARPNESS, LARGEST_SPREAD_MM, LEAST_OVERLAP = 0.3, 2.0, 0.9
#: Poses by what was registered, the last so many: a scan is read several times by one run, as for both input regions.
_KNOWN: dict[str, tuple[sitk.Euler3DTransform, dict[str, float]]] = {}
_MOST_KNOWN = 2000


@dataclass(frozen=True)
class Registered:
    """A T1W `[I, J, K]` (float32) on the grid of the other maps, how good that is, and the pose that brought it there
    (both grids to LPS mm)."""

    t1w: np.ndarray
    quality: Mapping[str, float]
    pose: sitk.Euler3DTransform


def same_grid(shape: tuple[int, ...], affine: np.ndarray, other: tuple[int, ...], other_affine: np.ndarray) -> bool:
    """Whether two images have the same voxels at the same places, to 1e-3 mm."""
    return tuple(shape) == tuple(other) and np.allclose(affine, other_affine, atol=1e-3)


def register(
    t1w: np.ndarray, t1w_affine: np.ndarray, qsm: np.ndarray, r2star: np.ndarray, affine: np.ndarray, name: str
) -> Registered:
    """Bring a T1W to the grid of QSM and R2*.

    Args:
        t1w: `[X, Y, Z]`, any unit.
        t1w_affine: `[4, 4]`, its voxel to RAS mm.
        qsm, r2star: `[I, J, K]`; 0 outside the brain, or unmasked.
        affine: `[4, 4]`, their voxel to RAS mm.
        name: of the T1W, for messages.

    Raises:
        InputError: the registration is poor; the line says what was measured.
    """
    for suffix, volume in (("QSM", qsm), ("R2*", r2star), ("T1w", t1w)):
        if not np.isfinite(volume).all():
            raise InputError(f"{name}: cannot be registered, for the {suffix} holds NaN or infinite values; set them to"
                             " 0 outside the brain")  # fmt: skip
    grid, moving_grid = _lps(affine), _lps(t1w_affine)
    asked = _digest(t1w, t1w_affine, qsm, r2star, affine)
    if (known := _KNOWN.get(asked)) is None:
        known = _best_pose(without_outliers(t1w), moving_grid, qsm, r2star, grid)
        _KNOWN[asked] = known
        while len(_KNOWN) > _MOST_KNOWN:
            _KNOWN.pop(next(iter(_KNOWN)), None)
    best, measures = known
    resampled, inside = moved(t1w, t1w_affine, best, qsm.shape, affine)
    overlap = float(inside[qsm != 0].mean()) if (qsm != 0).any() else float(inside.mean())
    quality = {**measures, "overlap": round(overlap, 3)}
    check_quality(quality, name)
    return Registered(resampled, quality, best)


def moved(
    volume: np.ndarray, volume_affine: np.ndarray, pose: sitk.Transform, shape: tuple[int, ...], affine: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What lies on a T1W's grid, on that of the other maps.

    Args:
        volume: `[X, Y, Z]`; 0 is what was not measured.
        volume_affine: `[4, 4]`, its voxel to RAS mm.
        pose: of the T1W, see `Registered`.
        shape, affine: of the other maps.

    Returns:
        float32 `[I, J, K]`, within the volume's range, 0 where it was not measured; and where it was.
    """
    target, source = sitk_image(np.zeros(shape, np.float32), _lps(affine)), _lps(volume_affine)
    resampled = _values(sitk.Resample(sitk_image(volume.astype(np.float32), source), target, pose,
                                      sitk.sitkBSpline, 0.0, sitk.sitkFloat32))  # fmt: skip
    inside = _values(sitk.Resample(sitk_image((volume != 0).astype(np.float32), source), target, pose,
                                   sitk.sitkNearestNeighbor, 0.0, sitk.sitkFloat32)) > 0  # fmt: skip
    return np.where(inside, np.clip(resampled, volume.min(), volume.max()), 0).astype(np.float32), inside


def _digest(*parts: np.ndarray) -> str:
    """SHA-256 of arrays."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


def _best_pose(
    t1w: np.ndarray, moving_grid: np.ndarray, qsm: np.ndarray, r2star: np.ndarray, grid: np.ndarray
) -> tuple[sitk.Euler3DTransform, dict[str, float]]:
    """The transform from the grid of QSM and R2* to T1W's (both affines to LPS), and how good it is."""
    factors = blocks(grid, WORK_MM)
    work = coarser(grid, factors)
    measured = block_mean((qsm != 0).astype(np.float32), factors) > 0.5
    if not 0.02 < measured.mean() < 0.98:
        measured = np.ones(measured.shape, bool)
    spacing = np.linalg.norm(work[:3, :3], axis=0)
    near = ndimage.distance_transform_edt(~measured, spacing) < 6 if not measured.all() else measured
    limit = float(np.percentile(np.abs(r2star[qsm != 0] if (qsm != 0).any() else r2star), 99))
    fixed = sitk_image(block_mean(np.clip(r2star, 0, limit).astype(np.float32), factors), work)
    mask = sitk_image(near.astype(np.uint8), work)
    thin = blocks(moving_grid, WORK_MM)
    coarse = coarser(moving_grid, thin)
    moving = sitk_image(block_mean(t1w.astype(np.float32), thin), coarse)

    registration = method(32)
    registration.SetMetricFixedMask(mask)
    centre = (work @ [*(np.argwhere(measured).mean(0)), 1])[:3]
    head = t1w > np.percentile(t1w, 60)
    middle = (moving_grid @ [*(np.argwhere(head).mean(0) if head.any() else (np.array(t1w.shape) - 1) / 2), 1])[:3]

    def pose(parameters: np.ndarray) -> sitk.Euler3DTransform:
        """Turns (degrees) about the brain's middle, and a shift (mm)."""
        turned = sitk.Euler3DTransform()
        turned.SetCenter(centre.tolist())
        turned.SetRotation(*np.deg2rad(parameters[3:]).tolist())
        turned.SetTranslation(np.asarray(parameters[:3], float).tolist())
        return turned

    def information(transform: sitk.Transform) -> float:
        """Mutual information at a pose; 0 where the images do not meet."""
        registration.SetInitialTransform(transform, inPlace=False)
        registration.SetShrinkFactorsPerLevel([1])
        registration.SetSmoothingSigmasPerLevel([0])
        try:
            return -registration.MetricEvaluate(fixed, moving)
        except RuntimeError:
            return 0.0

    def climbed(start: sitk.Euler3DTransform) -> sitk.Euler3DTransform:
        """The best pose near a start."""
        result = sitk.Euler3DTransform(start)
        registration.SetOptimizerAsRegularStepGradientDescent(
            learningRate=2.0, minStep=0.01, numberOfIterations=80, relaxationFactor=0.6,
            gradientMagnitudeTolerance=1e-6,
        )  # fmt: skip
        registration.SetOptimizerScalesFromPhysicalShift()
        registration.SetShrinkFactorsPerLevel([2, 1])
        registration.SetSmoothingSigmasPerLevel([2, 0])
        registration.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
        registration.SetInitialTransform(result, inPlace=True)
        try:
            registration.Execute(fixed, moving)
        except RuntimeError:  # the images do not meet there
            return start
        return result

    starts = [pose(np.zeros(6)), pose(np.array([*(middle - centre), 0, 0, 0]))]
    best = max((climbed(start) for start in starts), key=information)
    found = np.array([*best.GetTranslation(), *np.rad2deg([best.GetAngleX(), best.GetAngleY(), best.GetAngleZ()])])
    reached = information(best)
    others = [climbed(pose(found + step)) for step in np.array(_STARTS)]
    corners = _corners(measured, work)
    where = [np.array([transform.TransformPoint(c) for c in corners.tolist()]) for transform in (best, *others)]
    spread = max(float(np.linalg.norm(other - where[0], axis=1).mean()) for other in where[1:])
    steps = [np.eye(6)[k] * sign * (_OFF_MM if k < 3 else _OFF_DEG) for k in range(6) for sign in (-1, 1)]
    off = float(np.mean([information(pose(found + step)) for step in steps]))
    return best, {
        "shift_mm": round(float(np.linalg.norm(np.array(best.TransformPoint(centre.tolist())) - centre)), 2),
        "rotation_deg": round(float(np.rad2deg(_angle(best))), 2),
        "mutual_information": round(reached, 4),
        "sharpness": round(1 - off / reached, 3) if reached > 0 else 0.0,
        "spread_mm": round(spread, 2),
    }


def in_words(quality: Mapping[str, float]) -> str:
    """How a T1W was moved and how good that is, for tables and pages."""
    return (
        f"moved {quality['shift_mm']:.1f} mm and {quality['rotation_deg']:.1f} degrees, sharpness"
        f" {quality['sharpness']:.2f}, spread {quality['spread_mm']:.1f} mm, covers {100 * quality['overlap']:.0f} %"
    )


def check_quality(quality: Mapping[str, float], name: str) -> None:
    """Refuse a poor registration.

    Raises:
        InputError: says what was measured.
    """
    poor = [
        said
        for bad, said in (
            (quality["sharpness"] < LEAST_SHARPNESS, f"mutual information falls by {quality['sharpness']:.0%} only when"
             f" it is moved by {_OFF_MM:g} mm"),
            (quality["spread_mm"] > LARGEST_SPREAD_MM, f"other starts end {quality['spread_mm']:.1f} mm apart"),
            (quality["overlap"] < LEAST_OVERLAP, f"it covers {quality['overlap']:.0%} of the brain"),
        )
        if bad
    ]  # fmt: skip
    if poor:
        raise InputError(f"{name}: could not be registered to R2* ({'; '.join(poor)}); look at both, or resample it to"
                         " their grid yourself")  # fmt: skip


def _lps(affine: np.ndarray) -> np.ndarray:
    """An affine to RAS as one to LPS."""
    moved = np.array(affine, np.float64)
    moved[:3] = LPS_RAS @ moved[:3]
    return moved


def _values(image: sitk.Image) -> np.ndarray:
    """The voxels of a SimpleITK image, `[I, J, K]`."""
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0)


def _corners(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Corners of a mask's bounding box, `[8, 3]` mm."""
    index = np.argwhere(mask)
    low, high = index.min(0), index.max(0)
    ends = np.array([[*(np.where(corner, high, low)), 1] for corner in np.ndindex(2, 2, 2)])
    return (ends @ affine.T)[:, :3]


def _angle(transform: sitk.Euler3DTransform) -> float:
    """The turn of a rigid transform, rad."""
    return float(Rotation.from_matrix(np.array(transform.GetMatrix()).reshape(3, 3)).magnitude())
