"""Where a brain lies: registration of a scan to the small template, coarse to fine, with SimpleITK.

Three steps, each from where the last one ended:

1. `search`: every plausible rigid pose, then its size too, is scored by correlation on a 6 mm grid, so no starting
   pose is needed;
2. `align`: affine, Mattes mutual information of T1W over the brain (Mattes et al., IEEE TMI 2003, 22:120);
3. `splines.refine`: coarse B-splines around the basal ganglia, on T1W plus what QSM and R2* say about iron.

The brain is where the maps are not masked out, so it makes no difference whether T1W shows the skull; of maps that
nobody masked it is what the registered template says (`brain_by_template`). Inside this module places are LPS
millimetres of the scanner, as ITK has them; transforms map scan to template.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from scipy.spatial.transform import Rotation

from scripts.anatomy.axes import LPS_RAS
from scripts.anatomy.template import Template, iron_of
from scripts.errors import InputError

#: Always this many, so that sums are added in the same order, and results are the same, on every machine.
THREADS = 2
COARSE_MM, WORK_MM, FINE_MM = 6.0, 3.0, 1.8
#: Middle of the brain in the template, MNI mm (RAS), and how the search steps around it.
BRAIN_CENTRE_MM = np.array([0.0, -18.0, 12.0])
#: The search takes heads of 0.64 to 1.35 times the template's size; logarithms of its size in theirs.
LOG_SCALES = (-0.3, 0.45)
#: How much brighter than white matter the iron-rich nuclei are made in the image that B-splines align.
IRON_WEIGHT = 1.5
#: Thickness of scalp and skull, mm; the least that could be a brain, or what a slab holds of one, and the most that
#: could be a head, ml.
SCALP_MM, LEAST_BRAIN_ML, LARGEST_HEAD_ML = 12.0, 150.0, 7000.0
#: T1W is clipped to this many times its 99.9th percentile: single voxels far above say nothing.
BRIGHTEST = 1.5
#: A mask of which more than this share lies so far (mm) outside the template's brain is of more than the brain.
LARGEST_OUTSIDE, RIM_MM = 0.08, 6.0


@dataclass(frozen=True)
class Scan:
    """A scan on one grid, axes within 45 degrees of R, A, S.

    Attributes:
        t1: local mean 1 within the brain, 0 outside.
        iron: 0 in tissue without iron, about 1 in the globus pallidus; 0 outside the brain.
        brain: bool.
        affine: `[4, 4]`, voxel to LPS mm. The arrays are `[X, Y, Z]`, float32.
        local: what T1W was divided by, see `local_mean`.
        levels: what makes iron 0 and 1, see `levels_of`.
        means: QSM, R2* and T1W on this grid.
    """

    t1: np.ndarray
    iron: np.ndarray
    brain: np.ndarray
    affine: np.ndarray
    local: np.ndarray
    levels: np.ndarray
    means: Sequence[np.ndarray]

    @property
    def spacing(self) -> np.ndarray:
        """Voxel size, mm."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def ml(self) -> float:
        """Volume of the mask, ml."""
        return float(self.brain.sum() * np.prod(self.spacing) / 1e3)


def ras(maps: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bring stored axes next to R, A, S, T1W without outliers.

    Returns:
        maps `[3, X, Y, Z]`, their affine (LPS), and the orientation to undo it.
    """
    orientation = nib.io_orientation(affine)
    channels = [*maps[:2], without_outliers(maps[2])]
    turned = np.stack([nib.orientations.apply_orientation(channel, orientation) for channel in channels])
    moved = affine @ nib.orientations.inv_ornt_aff(orientation, maps.shape[1:])
    lps = np.eye(4)
    lps[:3, :3], lps[:3, 3] = LPS_RAS @ moved[:3, :3], LPS_RAS @ moved[:3, 3]
    return turned, lps, orientation


def without_outliers(t1: np.ndarray) -> np.ndarray:
    """T1W, no voxel far brighter than nearly all others that are not 0."""
    flat = t1.ravel()
    some = flat[:: max(1, flat.size // 500_000)]
    some = some[some > 0]
    return np.minimum(t1, BRIGHTEST * np.percentile(some, 99.9)) if some.size else t1


def block_mean(volume: np.ndarray, factors: tuple[int, int, int]) -> np.ndarray:
    """Mean over blocks of voxels; what does not fill a block at the far ends is dropped."""
    x, y, z = (n // f for n, f in zip(volume.shape, factors, strict=True))
    a, b, c = factors
    return volume[: x * a, : y * b, : z * c].reshape(x, a, y, b, z, c).mean((1, 3, 5), dtype=np.float32)


def coarser(affine: np.ndarray, factors: tuple[int, int, int]) -> np.ndarray:
    """Affine of `block_mean`'s result."""
    step = np.diag([*factors, 1.0])
    step[:3, 3] = (np.array(factors) - 1) / 2
    return affine @ step


def brain_masks(maps: np.ndarray, spacing: np.ndarray, factors: tuple[int, int, int]) -> Iterator[np.ndarray]:
    """Where the brain may be, on the grid of `block_mean`, bool, the likeliest first.

    What a masked map measures (QSM, or else R2*, or else T1W is not exactly 0), which may be the brain or, of a defaced
    head, all of it; the head by its brightness in T1W; and that without the thickness of scalp and skull.

    Args:
        maps: `[3, X, Y, Z]`.
        spacing: voxel size of the result, mm.
        factors: of `block_mean`.
    """
    for channel in maps:
        measured = channel != 0
        if measured.mean() < 0.9:
            yield largest(ndimage.binary_opening(block_mean(measured, factors) > 0.5))
            break
    t1 = block_mean(maps[2], factors)
    bright = t1 > t1.mean()
    if not bright.any():
        return
    head = largest(t1 > 0.5 * np.percentile(t1[bright], 50))
    yield head
    inside = ndimage.distance_transform_edt(np.pad(head, 1), spacing)[1:-1, 1:-1, 1:-1]
    yield largest(inside > SCALP_MM)


def largest(mask: np.ndarray) -> np.ndarray:
    """The largest connected part, without holes in its axial slices."""
    labels, count = ndimage.label(mask)
    if count == 0:
        return mask
    part = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    return np.stack([ndimage.binary_fill_holes(plane) for plane in np.moveaxis(part, 2, 0)], 2)


def local_mean(t1: np.ndarray, brain: np.ndarray, spacing: np.ndarray | float) -> np.ndarray:
    """Mean of T1W within the brain over some centimetres, above 0: receive bias and units."""
    sigma = 25.0 / np.broadcast_to(spacing, 3)
    inside = brain.astype(np.float32)
    local = ndimage.gaussian_filter(t1 * inside, sigma, truncate=2) / np.maximum(
        ndimage.gaussian_filter(inside, sigma, truncate=2), 1e-3
    )
    return np.maximum(local, 1e-6 + 0.05 * local.max())


def flattened(t1: np.ndarray, brain: np.ndarray, local: np.ndarray) -> np.ndarray:
    """T1W relative to its local mean; 0 outside the brain."""
    return np.where(brain, np.clip(t1 / local, 0, 2), 0).astype(np.float32)


def levels_of(qsm: np.ndarray, r2star: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """Median and 99th percentile of QSM and of R2* in the brain, `[2, 2]`."""
    return np.array([np.percentile(volume[brain], [50, 99]) for volume in (qsm, r2star)])


def iron_signal(qsm: np.ndarray, r2star: np.ndarray, brain: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Mean of QSM and R2*, each from its median (0) to its 99th percentile (1) in the brain, clipped to 0..1.5."""
    total = np.zeros(qsm.shape, np.float32)
    for volume, (low, high) in zip((qsm, r2star), levels, strict=True):
        total += np.clip((volume - low) / max(high - low, 1e-6), 0, 1.5) / 2
    return total * brain


def blocks(affine: np.ndarray, target_mm: float) -> tuple[int, int, int]:
    """How many voxels along each axis make one of about `target_mm`; 1 where the scan's are larger."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    a, b, c = (int(max(1, np.floor(target_mm / d + 0.35))) for d in spacing)
    return a, b, c


def scans_on(maps: np.ndarray, affine: np.ndarray) -> Iterator[Scan]:
    """Average maps (axes as from `ras`) to voxels of about WORK_MM: a scan for each mask of `brain_masks`.

    Args:
        maps: `[3, X, Y, Z]`.
        affine: voxel to LPS.

    Raises:
        InputError: nothing that could be a brain.
    """
    factors = blocks(affine, WORK_MM)
    grid = coarser(affine, factors)
    spacing = np.linalg.norm(grid[:3, :3], axis=0)
    means = [block_mean(channel, factors) for channel in maps]
    means[2] = np.maximum(means[2], 0)
    sizes_ml = []
    for inside in brain_masks(maps, spacing, factors):
        sizes_ml.append(inside.sum() * np.prod(spacing) / 1e3)
        if LEAST_BRAIN_ML <= sizes_ml[-1] <= LARGEST_HEAD_ML:
            yield masked(means, inside, grid)
    if not any(LEAST_BRAIN_ML <= ml <= LARGEST_HEAD_ML for ml in sizes_ml):
        said = f"{max(sizes_ml):.0f} ml" if sizes_ml else "T1W shows nothing"
        raise InputError(f"no brain found ({said}); check the maps and their voxel size, or give a box")


def masked(means: Sequence[np.ndarray], brain: np.ndarray, grid: np.ndarray) -> Scan:
    """A scan of three averaged maps and a mask."""
    qsm, r2star, t1 = means
    local = local_mean(t1, brain, np.linalg.norm(grid[:3, :3], axis=0))
    levels = levels_of(qsm, r2star, brain)
    return Scan(flattened(t1, brain, local), iron_signal(qsm, r2star, brain, levels), brain, grid, local, levels, means)


def brain_by_template(scan: Scan, target: Target, transform: sitk.Transform) -> Scan:
    """The scan again, its mask cut back to the template's brain, where it holds much that lies outside of that.

    Args:
        scan: from `scans_on`.
        target: the template.
        transform: scan to template.
    """
    brain = seen_from(target.brain, scan, transform) > 0.5
    if not brain.any():
        return scan
    outside = ndimage.distance_transform_edt(~brain, scan.spacing)
    if (outside[scan.brain] > RIM_MM).mean() <= LARGEST_OUTSIDE:
        return scan
    cut = scan.brain & (outside <= RIM_MM / 2)
    if cut.sum() * np.prod(scan.spacing) / 1e3 < LEAST_BRAIN_ML:
        return scan
    return masked(scan.means, cut, scan.affine)


def bounds(
    places: np.ndarray, shape: Sequence[int], affine: np.ndarray, margin_mm: float
) -> tuple[np.ndarray, np.ndarray]:
    """First voxels, and those behind the last ones, of a grid around some places `[N, 3]` and a margin."""
    index = np.linalg.solve(affine, np.column_stack([places, np.ones(len(places))]).T)[:3].T
    margin = margin_mm / np.linalg.norm(affine[:3, :3], axis=0)
    low = np.maximum(np.floor(index.min(0) - margin), 0).astype(int)
    return low, np.minimum(np.ceil(index.max(0) + margin) + 1, shape).astype(int)


def closer(
    maps: np.ndarray, affine: np.ndarray, coarse: Scan, places: np.ndarray, margin_mm: float, target_mm: float = FINE_MM
) -> Scan | None:
    """The scan around some places, on a finer grid.

    Args:
        maps, affine: see `scans_on`.
        coarse: from `scans_on`; brain mask, local mean and levels are taken over.
        places: `[N, 3]`, LPS mm.
        margin_mm: kept around them.
        target_mm: voxels are at most about this size, unless the scan's are larger.

    Returns:
        None where hardly anything of the brain is left.
    """
    factors = blocks(affine, target_mm)
    grid = coarser(affine, factors)
    low, high = bounds(places, [n // f for n, f in zip(maps.shape[1:], factors, strict=True)], grid, margin_mm)
    if (high - low).min() < 5:
        return None
    part = tuple(slice(a * f, b * f) for a, b, f in zip(low, high, factors, strict=True))
    qsm, r2star, t1 = means = [block_mean(channel[part], factors) for channel in maps]
    grid[:3, 3] = (grid @ [*low, 1])[:3]
    step = np.linalg.solve(coarse.affine, grid)

    def taken_over(volume: np.ndarray) -> np.ndarray:
        return ndimage.affine_transform(volume, step[:3, :3], step[:3, 3], t1.shape, order=1, mode="nearest")

    inside = taken_over(coarse.brain.astype(np.float32)) > 0.5
    if inside.mean() <= 0.3:
        return None
    local, iron = taken_over(coarse.local), iron_signal(qsm, r2star, inside, coarse.levels)
    return Scan(flattened(np.maximum(t1, 0), inside, local), iron, inside, grid, local, coarse.levels, means)


# --- step 1 ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """The template, ready to be compared with: images as `Scan` has them, on the template's grid (LPS)."""

    t1: sitk.Image
    combined: sitk.Image
    iron: sitk.Image
    brain: sitk.Image
    coarse: np.ndarray
    coarse_origin_ras: np.ndarray


def target_of(template: Template) -> Target:
    """Prepare a template.

    Args:
        template: from `scripts.anatomy.template.load_template`; its ellipsoids say where iron is expected.
    """
    brain = ndimage.binary_fill_holes(template.t1 > 0.05)
    t1 = flattened(template.t1, brain, local_mean(template.t1, brain, template.spacing_mm))
    iron = iron_of(template)
    affine = np.diag([template.spacing_mm] * 3 + [1.0])
    affine[:3, 3] = template.origin_mm
    affine[:3] = LPS_RAS @ affine[:3]
    smooth = ndimage.gaussian_filter(t1, COARSE_MM / 2 / template.spacing_mm)
    return Target(
        sitk_image(t1, affine),
        sitk_image(t1 + IRON_WEIGHT * iron, affine),
        sitk_image(iron, affine),
        sitk_image(brain.astype(np.float32), affine),
        np.pad(smooth, 1),
        np.array(template.origin_mm) - template.spacing_mm,
    )


def sitk_image(volume: np.ndarray, affine: np.ndarray) -> sitk.Image:
    """A SimpleITK image of `[X, Y, Z]` with an affine in LPS."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.transpose(2, 1, 0)))
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing([float(v) for v in spacing])
    image.SetOrigin([float(v) for v in affine[:3, 3]])
    image.SetDirection([float(v) for v in (affine[:3, :3] / spacing).ravel()])
    return image


def seen_from(image: sitk.Image, scan: Scan, transform: sitk.Transform) -> np.ndarray:
    """A template image as the scan sees it: `[X, Y, Z]`, 0 outside the template."""
    frame = sitk_image(scan.brain.astype(np.uint8), scan.affine)
    moved = sitk.Resample(image, frame, transform, sitk.sitkLinear, 0.0, sitk.sitkFloat32)
    return sitk.GetArrayFromImage(moved).transpose(2, 1, 0)


@dataclass(frozen=True)
class Pose:
    """Where a head lies and how large it is: turned and scaled about the middle of its brain, then moved.

    Attributes:
        angles_deg: turns about x, y and z, `[3]`.
        shift_mm: from where the template's brain has its centre, RAS, `[3]`.
        log_scale: logarithm of the template's size in the head's.
        middle_mm: of the brain in the scan, RAS, `[3]`.
        score: correlation of T1W with the template.
    """

    angles_deg: np.ndarray
    shift_mm: np.ndarray
    log_scale: float
    middle_mm: np.ndarray
    score: float


def turns(angles_deg: np.ndarray) -> np.ndarray:
    """Rotation about x, then y, then z: `[3, 3]`."""
    return Rotation.from_euler("XYZ", angles_deg, degrees=True).as_matrix()


def search(scan: Scan, target: Target, spacing_mm: float, starts: int) -> list[Pose]:
    """Score poses over +-24 degrees of pitch, +-18 of roll and yaw and 12 cm along the body; climb from the best.

    Args:
        scan: on the working grid.
        target: from `target_of`.
        spacing_mm: the template's voxel size.
        starts: how many poses to return.

    Returns:
        the poses, best first.
    """
    a, b, c = (int(max(1, round(COARSE_MM / d))) for d in scan.spacing)
    factors = a, b, c
    shape = [n // f * f for n, f in zip(scan.brain.shape, factors, strict=True)]
    crop = tuple(slice(0, n) for n in shape)
    near = ndimage.distance_transform_edt(~scan.brain, scan.spacing) < 12
    inside = block_mean(near[crop], factors) > 0.5
    values = block_mean(scan.t1[crop], factors)[inside]
    index = np.argwhere(inside)
    affine = coarser(scan.affine, factors)
    points = (index @ affine[:3, :3].T + affine[:3, 3]) @ LPS_RAS
    middle = ((np.argwhere(scan.brain).mean(0) @ scan.affine[:3, :3].T) + scan.affine[:3, 3]) @ LPS_RAS
    size = np.array(target.coarse.shape)
    strides = np.array([size[1] * size[2], size[2], 1], np.int32)
    flat = target.coarse.ravel()

    def prepared(every: int) -> tuple[np.ndarray, np.ndarray]:
        """Places `[3, N]` about the brain's middle, and values of mean 0 and length 1."""
        part = values[::every] - values[::every].mean()
        places = np.ascontiguousarray((points[::every] - middle).T, np.float32)
        return places, (part / max(np.linalg.norm(part), 1e-6)).astype(np.float32)

    rough, full = prepared(4), prepared(1)
    # Below, a pose is `[turns (degrees), shift (mm), log scale]`, so that one step can be taken along any of the seven.

    def turned(pose: np.ndarray, sample: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Places in voxels of the template, but for the pose's shift: float32 `[3, N]`."""
        matrix = (turns(pose[:3]) * (np.exp(pose[6]) / spacing_mm)).astype(np.float32)
        return matrix @ sample[0]

    def score(pose: np.ndarray, sample: tuple[np.ndarray, np.ndarray], places: np.ndarray | None = None) -> float:
        """Correlation of T1W with the template at a pose."""
        shift = (BRAIN_CENTRE_MM + pose[3:6] - target.coarse_origin_ras) / spacing_mm + 0.5
        cells = np.zeros(sample[1].shape, np.int32)
        for axis, values in enumerate(turned(pose, sample) if places is None else places):
            cell = (values + np.float32(shift[axis])).astype(np.int32)
            cells += np.clip(cell, 0, size[axis] - 1, out=cell) * strides[axis]
        seen = flat[cells]
        seen -= seen.mean()
        return float((sample[1] * seen).sum()) / max(float(np.sqrt(np.square(seen).sum())), 1e-3)

    scored = []
    for angles in itertools.product((-24, -12, 0, 12, 24), (-14, 0, 14), (-14, 0, 14)):
        places = turned(np.array([*angles, 0, 0, 0, 0.0]), rough)
        for back, up in itertools.product((-12, 0, 12), range(-60, 61, 12)):
            pose = np.array([*angles, 0, back, up, 0.0])
            scored.append((score(pose, rough, places), pose))
    scored.sort(key=lambda known: -known[0])
    found: list[Pose] = []
    for _, pose in scored[:6]:
        best = score(pose, full)
        for step in (1.0, 0.5, 0.25):
            sizes = step * np.array([8, 8, 8, 8, 8, 8, 0.08])
            better = True
            while better:
                better = False
                for axis in range(7):
                    for sign in (-1, 1):
                        trial = pose.copy()
                        trial[axis] += sign * sizes[axis]
                        if LOG_SCALES[0] <= trial[6] <= LOG_SCALES[1] and (new := score(trial, full)) > best + 1e-4:
                            pose, best, better = trial, new, True
        if all(np.abs(pose[:6] - [*other.angles_deg, *other.shift_mm]).max() > 6 for other in found):
            found.append(Pose(pose[:3], pose[3:6], float(pose[6]), middle, best))
    found.sort(key=lambda pose: -pose.score)
    return found[:starts]


# --- step 2 ----------------------------------------------------------------------------------------------------------


def affine_transform(pose: Pose) -> sitk.AffineTransform:
    """The LPS transform of a pose of `search`."""
    matrix = np.exp(pose.log_scale) * turns(pose.angles_deg)
    shift = BRAIN_CENTRE_MM + pose.shift_mm - matrix @ pose.middle_mm
    transform = sitk.AffineTransform(3)
    transform.SetMatrix((LPS_RAS @ matrix @ LPS_RAS).ravel().tolist())
    transform.SetTranslation((LPS_RAS @ shift).tolist())
    return transform


def method(bins: int) -> sitk.ImageRegistrationMethod:
    """Mattes mutual information with linear interpolation, deterministic."""
    registration = sitk.ImageRegistrationMethod()
    registration.SetNumberOfThreads(THREADS)
    registration.SetMetricAsMattesMutualInformation(bins)
    registration.SetInterpolator(sitk.sitkLinear)
    registration.SetMetricSamplingStrategy(registration.NONE)
    return registration


def align(scan: Scan, target: Target, start: sitk.AffineTransform) -> sitk.AffineTransform:
    """Affine registration of T1W within the brain and a thin shell around it, from where `start` puts it."""
    middle = scan.affine @ [*((np.array(scan.brain.shape) - 1) / 2), 1]
    matrix = np.array(start.GetMatrix()).reshape(3, 3)
    centre = middle[:3]
    moved = np.array(start.TransformPoint(centre.tolist()))
    fixed = sitk_image(scan.t1, scan.affine)
    near = ndimage.distance_transform_edt(~scan.brain, scan.spacing) < 5
    mask = sitk_image(near.astype(np.uint8), scan.affine)
    result = sitk.AffineTransform(3)
    result.SetCenter(centre.tolist())
    result.SetMatrix(matrix.ravel().tolist())
    result.SetTranslation((moved - centre).tolist())
    registration = method(24)
    registration.SetMetricFixedMask(mask)
    registration.SetOptimizerAsRegularStepGradientDescent(
        learningRate=1.0, minStep=0.01, numberOfIterations=60, relaxationFactor=0.6, gradientMagnitudeTolerance=1e-5
    )
    registration.SetOptimizerScalesFromPhysicalShift()
    # Every second voxel along each axis is enough: splines follow, and all of them move the hull by 0.1 mm on average.
    registration.SetShrinkFactorsPerLevel([2])
    registration.SetSmoothingSigmasPerLevel([2])
    registration.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    registration.SetInitialTransform(result, inPlace=True)
    registration.Execute(fixed, target.t1)
    return result


def combined(scan: Scan) -> np.ndarray:
    """T1W with the iron-rich nuclei made bright."""
    return scan.t1 + IRON_WEIGHT * np.clip(scan.iron, 0, 1)
