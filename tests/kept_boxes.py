"""Boxes kept for scans without annotation, as if registration had found them: it finds nothing in blobs."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from blobs import BUNDLE

from scripts.localisation.localiser import GENERATED_BY, Localiser, fingerprint
from scripts.localisation.locate import Found
from scripts.maps.bids import find_scans
from scripts.maps.transforms import LoadImageMapsd


def keep_found(cohort: Path, box: list[list[int]]) -> Localiser:
    """Keep one box for every scan of a cohort in its derivatives/localise, and return the localiser that reads it."""
    localiser = Localiser(BUNDLE / "models" / "template.nii.gz", pictures=False)
    template, _ = localiser.ready()
    found = Found(box, 0.9, {"t1": 0.6, "tissue": 0.6, "iron": 0.6}, sitk.Euler3DTransform(), np.zeros((1, 3)))
    for scan in find_scans(cohort):
        image = LoadImageMapsd(keys="image")(scan.item())["image"]
        maps, affine = image.numpy(), np.asarray(image.affine, float)
        made_by = {
            "InputSha256": fingerprint(maps, affine),
            "TemplateSha256": template.sha256,
            "MarginMM": localiser.margin_mm,
            "CodeSha256": localiser.code,
            "GeneratedBy": [GENERATED_BY],
        }
        localiser.keep(*localiser.where(scan.maps[0]), found, made_by, maps, affine, scan.maps[0])
    return localiser
