"""How much annotated boxes leave around the nuclei, so that a box found later leaves the same: a network that learned
from roomy boxes answers otherwise when it is given tight ones."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scripts.errors import InputError
from scripts.localisation.localiser import Localiser
from scripts.localisation.locate import locate, up_axis
from scripts.maps.scan import MAPS, Scan
from scripts.maps.transforms import LoadImageMapsd
from scripts.provenance import record_beside, trained_with
from scripts.runs.bars import Bar

LOGGER = logging.getLogger(__name__)

#: Fewer annotated boxes than this say too little about the hand that drew them.
LEAST_BOXES = 20
#: Boxes that are compared with found nuclei: their median margin is then sure to about half a millimetre.
COMPARED = 12
#: After so many scans that no nuclei were found in, no more are tried.
MOST_FAILURES = 3
#: Found boxes this much tighter or wider than annotated ones of the same training are spoken of, mm.
NOTABLE_MM = 2.0


def margin_of_boxes(
    localise: str,
    localiser: Localiser,
    scans: Sequence[Scan],
    resample_t1w: str,
    least_boxes: int = LEAST_BOXES,
    compared: int = COMPARED,
) -> float | None:
    """What annotated boxes leave around the nuclei in-plane, mm: the median of both sides of both axes of some scans.

    Args:
        localise: the config's key; boxes of `whole` (cut) scans say nothing.
        localiser: finds the nuclei; what it keeps is left alone.
        scans: of the cohort.
        resample_t1w: as for the training.
        least_boxes: fewer say nothing.
        compared: boxes that are compared with found nuclei.

    Returns:
        0 to 40 mm, in steps of half a millimetre; None where fewer than `least_boxes` are annotated, where some boxes
        are found ones (a warning tells where these differ), or where the nuclei were not found.
    """
    annotated = [scan for scan in scans if scan.box is not None]
    if localise not in ("auto", "annotated") or len(annotated) < least_boxes:
        return None
    load = LoadImageMapsd(keys="image", resample_t1w=resample_t1w, maps=MAPS)
    template, target = localiser.ready()
    margins: list[float] = []
    failures = 0
    print(
        f"{compared} annotated boxes are compared with the nuclei that registration finds in them: inference is to find"
        " boxes that leave as much around the nuclei"
    )
    chosen = [annotated[place] for place in np.linspace(0, len(annotated) - 1, compared).round().astype(int)]
    for scan in Bar(chosen, desc="what boxes leave around the nuclei", unit="scan"):
        if failures == MOST_FAILURES:
            break
        try:
            image = load(scan.item())["image"]
            maps, affine = np.asarray(image[:3], np.float32), np.asarray(image.affine, float)
            found = locate(maps, affine, template, target, 0.0, scan.scan_id)
        except InputError:
            failures += 1
            continue
        if found.confidence < localiser.least_confidence:
            failures += 1
            continue
        margins.extend(sides(scan.box, found.box, affine))
    if not margins:
        return None
    margin = float(np.clip(np.round(2 * np.median(margins)) / 2, 0, 40))
    if len(annotated) == len(scans):
        return margin
    if abs(margin - localiser.margin_mm) > NOTABLE_MM:
        LOGGER.warning(
            f"annotated boxes leave {margin:g} mm around the nuclei, and found ones {localiser.margin_mm:g} mm: the"
            f" network sees both kinds; --localise_margin_mm {margin:g} makes them alike"
        )
    return None


def sides(annotated: Sequence[Sequence[int]], tight: Sequence[Sequence[int]], affine: np.ndarray) -> list[float]:
    """How far a box reaches beyond one without a margin, mm, at both ends of both in-plane axes.

    Args:
        annotated, tight: half-open voxel ranges along the axes of the stored array.
        affine: `[4, 4]`, voxel to world, mm.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    plane = [axis for axis in range(3) if axis != up_axis(affine)]
    beyond = [
        ((tight[axis][0] - annotated[axis][0]) * spacing[axis], (annotated[axis][1] - tight[axis][1]) * spacing[axis])
        for axis in plane
    ]
    return [float(side) for both in beyond for side in both]


def as_trained(trained: Mapping[str, Any], otherwise: float) -> float:
    """The margin of boxes like those that trained the weights, mm.

    Args:
        trained: settings in the training record beside the weights.
        otherwise: where it tells none.
    """
    margin = trained.get("annotated_margin_mm")
    return float(trained.get("localise_margin_mm", otherwise) if margin is None else margin)


def of_weights(weights: str | os.PathLike | None, otherwise: float) -> float:
    """The margin of boxes like those that trained some weights, mm.

    Args:
        weights: the file, with its training record beside it; None: there are none.
        otherwise: for no weights, or where their record tells none.

    Raises:
        InputError: no record lies beside the weights, or see `scripts.provenance.record_beside`.
    """
    if weights is None:
        return otherwise
    record = record_beside(weights, "training record")
    if not record:
        raise InputError(
            f"{weights}: no training record ({Path(weights).stem}.json) lies beside it, so nothing tells what boxes"
            " trained it; put it there, or give --localise_margin_mm"
        )
    return as_trained(record["settings"], otherwise)


def check_as_trained(
    weights: str | os.PathLike, weights_record: str, localise: str, margin_mm: float, scans: Sequence[Scan]
) -> None:
    """Refuse to find boxes for a network that learned from others.

    Args:
        weights, weights_record: see `trained_with`.
        localise, margin_mm: the config's keys.
        scans: that the network shall see.

    Raises:
        InputError: some scan has no box, and those that trained the weights had another margin.
    """
    wanted = as_trained(trained_with(weights, weights_record), margin_mm)
    bare = len({scan.scan_id for scan in scans if scan.box is None})
    if localise == "auto" and bare and wanted != margin_mm:
        raise InputError(
            f"{weights}: learned from boxes with {wanted:g} mm around the nuclei, and {bare} of the scans would get"
            f" boxes with {margin_mm:g} mm; give --localise_margin_mm {wanted:g}"
        )
