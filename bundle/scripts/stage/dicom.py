"""Raw gradient echo data from DICOM: classic images, one a slice, of magnitude and phase or real and imaginary part."""

from collections import defaultdict
from pathlib import Path

from pydicom.dataset import Dataset

from scripts.dicom_files import Header, check_sizes, folders_with_files, is_dicom, read_dataset, read_headers
from scripts.dicom_rules import Rule, Rules
from scripts.dicom_series import check_one_patient, group_series
from scripts.dicom_volume import read_volume
from scripts.errors import InputError
from scripts.stage.raw import Acquisition, RawScan, Volume

#: The images of one echo, and those of one flip angle by kind and echo time (ms).
Images = list[tuple[Header, Dataset]]
Parts = dict[str, dict[float, Images]]
#: What values of ImageType (and of GE's tag 0043,102F) say about an image.
_KINDS = {"M": "mag", "P": "phase", "R": "real", "I": "imag"}
_WORDS = {"MAGNITUDE": "mag", "PHASE": "phase", "PHASE MAP": "phase", "REAL": "real", "IMAGINARY": "imag"}


#: Numbers as the files' rescaling gives them; echoes have no unit to be converted.
_AS_STORED = Rule(where={}, unless={}, unit="any", factor=1.0, scaling="rescale")
#: What tells the echoes apart and describes them.
_TAGS = ("ImageType", "EchoTime", "FlipAngle", "RepetitionTime", "MagneticFieldStrength", "ImagePositionPatient")
_GE_KIND = 0x0043102F
_GE_KINDS = ("mag", "phase", "real", "imag")


def find_dicom(root: Path, participant_id: str, rules: Rules) -> list[RawScan]:
    """Read all DICOM images below a folder as one scan of one patient.

    Args:
        root: folder; files that are no DICOM images are passed over.
        participant_id: name of the output, `sub-...`.
        rules: from `scripts.dicom_rules.read_rules`, for their limits and tolerance.

    Raises:
        InputError: no images, several patients, images of unknown kind, or echoes that are no volume
            (`scripts.dicom_volume`). No message names a file or a patient.
    """
    files = [path for _, names in folders_with_files(root) for path in names]
    if not any(is_dicom(path) for path in files):
        raise InputError("input: neither sub-* folders nor DICOM images are there; give --input a BIDS or DICOM folder")
    check_sizes("input", files, rules)
    headers = read_headers("input", files)
    check_one_patient("input", headers)
    images: dict[float | None, Parts] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for header in (header for series in group_series("input", headers) for header in series):
        image = read_dataset(header.path, header.where, pixels=False, tags=[*_TAGS, _GE_KIND])
        time, flip = image.get("EchoTime"), image.get("FlipAngle")
        if time is None:
            raise InputError(f"{header.where}: has no EchoTime; export the echoes with their headers")
        flip = None if flip is None else float(flip)
        images[flip][kind_of(image, header.where)][float(time)].append((header, image))
    scan = RawScan(participant_id, participant_id, f"{participant_id}/anat")
    for flip, parts in sorted(images.items(), key=lambda item: item[0] or 0.0):
        scan.acquisitions.append(acquisition_of(flip, parts, rules))
    return [scan]


def kind_of(image: Dataset, where: str) -> str:
    """`mag`, `phase`, `real` or `imag`."""
    values = [str(value).upper() for value in image.get("ImageType", [])]
    for value in values[2:] or values:
        if value in _KINDS or value in _WORDS:
            return _KINDS.get(value) or _WORDS[value]
    private = image.get(_GE_KIND)
    if private is not None and str(private.value) in "0123":
        return _GE_KINDS[int(private.value)]
    raise InputError(f"{where}: ImageType {values} says neither magnitude nor phase; export both kinds of images")


def acquisition_of(flip: float | None, parts: Parts, rules: Rules) -> Acquisition:
    """One flip angle from its images by kind and echo time (ms)."""
    kinds = next((k for k in (("mag", "phase"), ("real", "imag")) if all(kind in parts for kind in k)), None)
    if kinds is None:
        raise InputError(
            f"input: only {', '.join(sorted(parts))} images; QSM needs magnitude and phase, so export both"
        )
    times = sorted(set(parts[kinds[0]]) | set(parts[kinds[1]]))
    for kind in kinds:
        missing = [t for t in times if t not in parts[kind]]
        if missing:
            raise InputError(f"input: no {kind} images at echo time {missing[0]:g} ms; export all echoes")
    stacks = {kind: [echo_of(kind, time, parts[kind][time], rules) for time in times] for kind in kinds}
    first = parts[kinds[0]][times[0]][0][1]

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


def echo_of(kind: str, time_ms: float, images: Images, rules: Rules) -> Volume:
    """The images of one echo as a volume on a grid.

    Raises:
        InputError: uncombined coils, or as `scripts.dicom_volume.read_volume`.
    """
    name = f"{kind} of echo time {time_ms:g} ms"
    places = {str(image.get("ImagePositionPatient")) for _, image in images}
    if 1 < len(places) < len(images):
        raise InputError(
            f"input, {name}: {len(images)} images at {len(places)} places, as uncombined coils are stored; export the"
            " combined images of one series"
        )
    try:
        volume = read_volume([header for header, _ in images], _AS_STORED, rules)
    except InputError as error:
        raise InputError(f"input, {name}: {error}") from error
    return Volume(name, array=volume.values, affine=volume.affine)
