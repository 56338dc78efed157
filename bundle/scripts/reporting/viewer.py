"""A viewer for volumes inside a page: NiiVue, whose script nilearn ships, and the volumes of some subjects as text."""

import base64
import gzip
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from jinja2.utils import htmlsafe_json_dumps

from scripts.anatomy.axes import oriented
from scripts.errors import InputError
from scripts.files import nifti
from scripts.maps.scan import KNOWN_MAPS, Scan
from scripts.provenance import BUNDLE_ROOT
from scripts.reporting import page
from scripts.reporting.pictures import shown_volume

LICENCE = BUNDLE_ROOT / "docs" / "niivue_license.txt"
#: Slices kept below and above the basal ganglia.
MARGIN = 2
#: Steps that the range of grey values is stored in; finer ones would store noise.
STEPS = 1000
#: Coarsest in-plane reduction that is still worth looking at.
COARSEST = 4


def niivue_script() -> str:
    """NiiVue's script as nilearn ships it.

    Raises:
        InputError: nilearn is not installed, or a version without it.
    """
    try:
        import nilearn

        return (Path(nilearn.__file__).parent / "_assets" / "js" / "niivue.umd.js").read_text(encoding="utf-8")
    except (ImportError, OSError) as error:
        raise InputError(
            "the viewer takes NiiVue's script from nilearn 0.13 or newer, which is not installed;"
            " install it, or set --viewer_subjects 0"
        ) from error


def packed(scan: Scan, evidence: Mapping[str, str | os.PathLike], factor: int) -> dict[str, Any]:
    """A scan's maps and evidence around the basal ganglia, small enough to travel in a page.

    Args:
        scan: from `scripts.maps.bids.find_scans`.
        evidence: region -> NIfTI on the scan's grid.
        factor: voxels along each in-plane axis that become one.

    Returns:
        `maps`, a list of `name`, `data` (NIfTI, gzip, base64), `low` and `high` (grey range in the map's unit); and
        `evidence`, region -> `name` and `data` (-1..1, share of the strongest).
    """
    maps = []
    for path, suffix in zip(scan.maps, scan.names, strict=True):
        name, limits = KNOWN_MAPS[suffix].title, KNOWN_MAPS[suffix].shown
        volume, affine = slab(path, scan.box, factor, scan.maps[0])
        low, high = limits or np.percentile(volume, (2, 99.7))
        maps.append({"name": name, "data": encoded(volume, affine, (high - low) / STEPS), "low": low, "high": high})
    heats = {}
    for region, of_region in evidence.items():
        volume, affine = slab(of_region, scan.box, factor)
        share = volume / (float(np.abs(volume).max()) or 1.0)
        heats[region] = {"name": f"evidence, {region}", "data": encoded(share, affine, 1 / STEPS)}
    return {"maps": maps, "evidence": heats}


def slab(
    path: str | os.PathLike,
    box: Sequence[Sequence[int]] | None,
    factor: int,
    like: str | os.PathLike | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The slices of the basal ganglia and MARGIN more, in-plane means of `factor` voxels, and their affine."""
    volume, (_, _, slices) = shown_volume(path, box, like)
    first, last = max(slices[0] - MARGIN, 0), min(slices[1] + MARGIN, volume.shape[2])
    height, width = (size // factor for size in volume.shape[:2])
    part = volume[: height * factor, : width * factor, first:last]
    part = part.reshape(height, factor, width, factor, -1).mean((1, 3))
    centre = (factor - 1) / 2
    moved = np.diag([factor, factor, 1.0, 1.0])
    moved[:3, 3] = centre, centre, first
    return part, oriented(nifti.read_header(like or path)).affine @ moved


def encoded(volume: np.ndarray, affine: np.ndarray, slope: float) -> str:
    """A volume as a NIfTI of 16-bit numbers with a slope, gzip, base64."""
    image = nib.Nifti1Image(np.rint(np.clip(volume / slope, -32000, 32000)).astype(np.int16), affine)
    image.header.set_slope_inter(slope, 0)
    return base64.b64encode(gzip.compress(image.to_bytes(), mtime=0)).decode()


def viewer(subjects: Sequence[Mapping[str, Any]], script: str, budget: int) -> dict[str, Any]:
    """What the viewer's part of a page (templates/viewer.html) needs: `script`, `volumes`, `factor`, `licence`, and
    whether all volumes are cut to the slices around their box (`cut`).

    Args:
        subjects: each with `title`, `about` (a line of text), `scan` and `evidence` (see `packed`).
        script: from `niivue_script`.
        budget: bytes that script and volumes may take together; in-plane resolution is lowered until they fit.

    Raises:
        InputError: they do not fit.
    """
    for factor in range(1, COARSEST + 1):
        packs = [
            {"title": s["title"], "about": s["about"]} | packed(s["scan"], s["evidence"], factor) for s in subjects
        ]
        volumes = htmlsafe_json_dumps(packs)
        if len(script) + len(volumes) <= budget:
            break
    else:
        raise InputError(
            f"the volumes of {len(subjects)} subjects take {len(volumes) / 1e6:.0f} MB, too much for the page;"
            " lower --viewer_subjects or raise --page_limit_mb"
        )
    licence = LICENCE.read_text(encoding="utf-8")
    cut = all(subject["scan"].box is not None for subject in subjects)
    return {"script": page.script(script), "volumes": volumes, "factor": factor, "licence": licence, "cut": cut}
