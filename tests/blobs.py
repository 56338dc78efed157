"""A toy cohort for tests: blobs instead of heads, written as the bundle wants it, in milliseconds."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
BUNDLE = REPOSITORY / "bundle"

SHAPE = (40, 44, 14)
BOX = [[8, 32], [10, 36], [3, 11]]


def write_map(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array.astype(np.float32), affine), path)


def write_scan(root: Path, participant_id: str, bright: bool, rng: np.random.Generator) -> None:
    """Three maps with two round nuclei; in HH their iron sits behind, in HC in front."""
    x, y, z = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
    nuclei = sum(np.exp(-(((x - cx) / 4) ** 2 + ((y - 23) / 6) ** 2 + ((z - 7) / 4) ** 2)) for cx in (14, 26))
    slope = (y - 23) / 6 * (1 if bright else -1)
    iron = nuclei * (1 + 0.8 * slope)
    affine = np.diag([3.0, 3.0, 4.0, 1.0])
    affine[:3, 3] = [-60, -66, -20]
    maps = {
        "Chimap": 0.1 * iron + rng.normal(0, 0.01, SHAPE),
        "R2starmap": 20 + 15 * iron + rng.normal(0, 1, SHAPE),
        "T1w": 400 - 80 * nuclei + rng.normal(0, 8, SHAPE),
    }
    for suffix, array in maps.items():
        write_map(root / participant_id / "anat" / f"{participant_id}_{suffix}.nii.gz", array, affine)
    folder = root / "derivatives" / "basalganglia" / participant_id / "anat"
    folder.mkdir(parents=True)
    (folder / f"{participant_id}_desc-basalganglia_box.json").write_text(json.dumps({"Box": BOX}))


def write_further_maps(root: Path) -> Path:
    """T1 (s, as its sidecar says) and proton density beside the three maps of every scan."""
    rng = np.random.default_rng(1)
    for path in sorted(root.glob("sub-*/anat/*_T1w.nii.gz")):
        image = nib.load(path)
        t1 = 1.6 - 0.001 * image.get_fdata() + rng.normal(0, 0.02, image.shape)
        for suffix, array in (("T1map", t1), ("PDmap", 70 + 10 * t1 + rng.normal(0, 1, image.shape))):
            write_map(path.with_name(path.name.replace("_T1w", f"_{suffix}")), array, image.affine)
        path.with_name(path.name.replace("_T1w.nii.gz", "_T1map.json")).write_text(json.dumps({"Units": "s"}))
    return root


def stacked(
    root: Path, participant_id: str, suffixes: Sequence[str] = ("Chimap", "R2starmap", "T1w")
) -> nib.Nifti1Image:
    """A scan's maps as one 4D image, the form in which a study travels to MONAI Label."""
    stem = root / participant_id / "anat" / participant_id
    maps = [nib.load(f"{stem}_{suffix}.nii.gz") for suffix in suffixes]
    return nib.Nifti1Image(np.stack([image.get_fdata(dtype=np.float32) for image in maps], -1), maps[0].affine)


def write_labelled_studies(root: Path, subjects: int) -> list[dict[str, str]]:
    """4D scans with a label file each, listed as MONAI Label lists them: `image` and `label`."""
    cohort, items = write_cohort(root / "cohort", subjects), []
    for number in range(1, subjects + 1):
        name = f"sub-{number:02d}"
        image, label = root / f"{name}.nii.gz", root / f"{name}.json"
        nib.save(stacked(cohort, name), image)
        label.write_text(json.dumps({"group": ("HH", "HC")[number % 2], "box": BOX}))
        items.append({"image": str(image), "label": str(label)})
    return items


def write_cohort(root: Path, subjects: int, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(1, subjects + 1):
        participant_id, group = f"sub-{number:02d}", ("HH", "HC")[number % 2]
        write_scan(root, participant_id, group == "HH", rng)
        rows.append({"participant_id": participant_id, "age": 40 + number, "sex": "FM"[number % 2], "group": group})
    with (root / "participants.tsv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
    (root / "dataset_description.json").write_text(json.dumps({"Name": "Simulated blobs", "BIDSVersion": "1.10.0"}))
    return root
