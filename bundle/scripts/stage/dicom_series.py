"""Raw gradient echo data from DICOM: classic images, one a slice, of magnitude and phase or real and imaginary part."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scripts.errors import InputError
from scripts.stage.raw import Acquisition, RawScan, Volume

#: What values of ImageType (and of GE's tag 0043,102F) say about an image.
_KINDS = {"M": "mag", "P": "phase", "R": "real", "I": "imag"}
_WORDS = {"MAGNITUDE": "mag", "PHASE": "phase", "PHASE MAP": "phase", "REAL": "real", "IMAGINARY": "imag"}


def find_dicom(root: Path, participant_id: str) -> list[RawScan]:
    """Read all DICOM images below a folder as one scan of one patient.

    Args:
        root: folder; files that are no DICOM images are passed over.
        participant_id: name of the output, `sub-...`.

    Raises:
        InputError: pydicom is missing, no images, several patients, images of unknown kind, missing slices, or
            several images at one place, as uncombined coils are stored.
    """
    try:
        import pydicom
    except ImportError as error:
        raise InputError(f"{root}: reading DICOM needs pydicom; pip install 'qnet-hemochromatosis[dicom]'") from error
    images: dict[tuple, dict[str, dict[float, list]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    patients = set()
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        try:
            image = pydicom.dcmread(path)
        except (pydicom.errors.InvalidDicomError, OSError):
            continue
        if "PixelData" not in image or "ImagePositionPatient" not in image:
            continue
        patients.add(str(image.get("PatientID", "")))
        image.source = str(path)
        flip, time = image.get("FlipAngle"), image.get("EchoTime")
        if time is None:
            raise InputError(f"{path}: no EchoTime; export the echoes with their headers")
        images[None if flip is None else float(flip)][kind_of(image, path)][float(time)].append(image)
    if not images:
        raise InputError(f"{root}: neither sub-* folders nor DICOM images; give --input a BIDS or DICOM folder")
    if len(patients) > 1:
        raise InputError(f"{root}: images of {len(patients)} patients; give one folder a patient")
    scan = RawScan(participant_id, participant_id, f"{participant_id}/anat")
    for flip, parts in sorted(images.items(), key=lambda item: item[0] or 0.0):
        scan.acquisitions.append(acquisition_of(root, flip, parts))
    return [scan]


def kind_of(image: Any, path: Path) -> str:
    """`mag`, `phase`, `real` or `imag`."""
    values = [str(value).upper() for value in image.get("ImageType", [])]
    for value in values[2:] or values:
        if value in _KINDS or value in _WORDS:
            return _KINDS.get(value) or _WORDS[value]
    private = image.get((0x0043, 0x102F))
    if private is not None and str(private.value) in "0123":
        return ("mag", "phase", "real", "imag")[int(private.value)]
    raise InputError(f"{path}: ImageType {values} says neither magnitude nor phase; export both kinds of images")


def acquisition_of(root: Path, flip: float | None, parts: dict[str, dict[float, list]]) -> Acquisition:
    """One flip angle from its images by kind and echo time (ms)."""
    kinds = next((k for k in (("mag", "phase"), ("real", "imag")) if all(kind in parts for kind in k)), None)
    if kinds is None:
        raise InputError(f"{root}: only {', '.join(sorted(parts))} images; QSM needs magnitude and phase")
    times = sorted(set(parts[kinds[0]]) | set(parts[kinds[1]]))
    for kind in kinds:
        missing = [t for t in times if t not in parts[kind]]
        if missing:
            raise InputError(f"{root}: no {kind} images at echo time {missing[0]:g} ms; export all echoes")
    stacks = {kind: [volume_of(parts[kind][time]) for time in times] for kind in kinds}
    first = parts[kinds[0]][times[0]][0]

    def value(name: str) -> float | None:
        found = first.get(name)
        return None if found in (None, "") else float(found)

    repetition = value("RepetitionTime")
    return Acquisition(
        kinds,
        stacks[kinds[0]],
        stacks[kinds[1]],
        [t / 1000.0 for t in times],
        flip,
        None if repetition is None else repetition / 1000.0,
        value("MagneticFieldStrength"),
    )


def volume_of(slices: Sequence[Any]) -> Volume:
    """Slices of one echo, stacked along their normal; axes and affine as NIfTI has them (RAS+)."""
    first = slices[0]
    if any(int(image.get("NumberOfFrames", 1)) > 1 for image in slices):
        raise InputError(
            f"{first.source}: is a multi-frame image; export classic single-frame DICOM or convert to NIfTI"
        )
    row, column = np.array(first.ImageOrientationPatient, dtype=float).reshape(2, 3)
    normal = np.cross(row, column)
    places = np.array([np.array(image.ImagePositionPatient, dtype=float) @ normal for image in slices])
    order = np.argsort(places)
    steps = np.diff(places[order])
    if len(slices) < 2:
        raise InputError(f"{first.source}: a single slice of this echo; QSM needs a 3D scan")
    if steps.min() < 1e-3:
        raise InputError(
            f"{first.source}: several images of one kind, echo and place, as uncombined coils have;"
            " export the combined images of one series"
        )
    if steps.max() > 1.5 * np.median(steps):
        raise InputError(f"{first.source}: a slice is missing behind this echo's; export the series again")
    ordered = [slices[i] for i in order]
    try:
        voxels = [
            image.pixel_array * float(image.get("RescaleSlope", 1)) + float(image.get("RescaleIntercept", 0))
            for image in ordered
        ]
    except Exception as error:  # pydicom raises many kinds for pixels it cannot read
        raise InputError(f"{first.source}: its pixels cannot be read; export uncompressed images") from error
    rows, columns = (float(d) for d in first.PixelSpacing)
    last, start = (np.array(ordered[i].ImagePositionPatient, dtype=float) for i in (-1, 0))
    affine = np.eye(4)
    affine[:3, :3] = np.stack([row * columns, column * rows, (last - start) / (len(ordered) - 1)], axis=1)
    affine[:3, 3] = start
    affine[:2] *= -1  # DICOM counts to the left and to the back
    array = np.stack(voxels, axis=-1).transpose(1, 0, 2).astype(np.float32)
    return Volume(first.source, array=array, affine=affine)
