"""A cohort cut to its basal ganglia boxes, in 16-bit numbers: some hundredths of the size, to train on elsewhere.

    python benchmarks/cut_cohort.py COHORT OUTPUT
    python -m monai.bundle run training --dataset_dir OUTPUT --localise whole ...

For a machine that is reached through a narrow door. Maps are rounded to steps far below their noise (`STEPS`).
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))
from scripts.maps.bids import find_scans  # noqa: E402

#: Map -> what it is rounded to: ppm, 1/s, and a share of the T1w's largest value.
STEPS = {"Chimap": 5e-4, "R2starmap": 0.1, "T1w": 1e-3}


def cut(source: Path, target: Path, box: list[list[int]], step: float) -> None:
    """Write a map's box as 16-bit numbers."""
    image = nib.load(source)
    i, j, k = (slice(low, high) for low, high in box)
    part = image.slicer[i, j, k]
    values = np.round(part.get_fdata() / step)
    if np.abs(values).max() > np.iinfo(np.int16).max:
        raise ValueError(f"{source.name}: values up to {np.abs(values).max() * step:g} do not fit into 16 bits")
    cut_image = nib.Nifti1Image(values.astype(np.int16), part.affine)
    cut_image.header.set_slope_inter(step, 0)
    cut_image.header.set_xyzt_units("mm")
    target.parent.mkdir(parents=True, exist_ok=True)
    nib.save(cut_image, target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohort", type=Path)
    parser.add_argument("output", type=Path, help="a new folder")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True)
    for scan in tqdm(find_scans(arguments.cohort), desc="cutting", unit="scan"):
        for path in map(Path, scan.maps):
            suffix = path.name.split(".")[0].rpartition("_")[2]
            largest = float(np.abs(nib.load(path).get_fdata()).max()) if suffix == "T1w" else 1.0
            place = (arguments.output / path.relative_to(arguments.cohort)).with_suffix("")  # .nii
            cut(path, place, scan.box, STEPS[suffix] * largest)
    for name in ("participants.tsv", "dataset_description.json", "derivatives/groundtruth/latents.tsv"):
        if (arguments.cohort / name).exists():
            (arguments.output / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(arguments.cohort / name, arguments.output / name)


if __name__ == "__main__":
    main()
