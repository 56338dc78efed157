"""Raw gradient echo data in a BIDS folder, or as plain NIfTI files that keys describe."""

import logging
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.errors import InputError, printable
from scripts.files.json_file import read_json
from scripts.files.nifti import ENDINGS, OTHER_ENDINGS, REAL, check_ending, read_header
from scripts.maps.bids import (
    MISNAMED,
    RAW,
    anat_folders,
    check_anat,
    check_names,
    check_text,
    misnamed_subjects,
    shown_name,
)
from scripts.reconstruction.combine import GAMMA_MHZ_PER_T
from scripts.reconstruction.raw import Acquisition, RawScan, Volume, check_echo_times, sorted_by_time
from scripts.runs.failures import Refused

LOGGER = logging.getLogger(__name__)

PARTS = ("mag", "phase", "real", "imag", "complex")
#: Scanners of 3 T are at 2.89 T and more, and call themselves so.
_ROUNDED_FIELD = 0.1
#: Parts that make complex images together.
_PAIRS = (("mag", "phase"), ("real", "imag"), ("complex", "complex"))
#: Entities that tell the files of one scan apart.
_WITHIN = ("acq", "flip", "echo", "part")


def entities(path: Path) -> tuple[dict[str, str], str]:
    """Entities and suffix of a BIDS name: `sub-01_echo-1_MEGRE.nii.gz` -> `{"sub": "01", "echo": "1"}`, `MEGRE`."""
    *pairs, suffix = path.name.split(".")[0].split("_")
    return dict(pair.split("-", 1) for pair in pairs if "-" in pair), suffix


def find_raw(root: Path) -> list[RawScan | Refused]:
    """List the scans of a BIDS folder, from names and sidecars alone.

    Returns:
        in order of their names; `Refused` where an echo or a part is missing, a sidecar cannot be read, or no image of
        a folder with gradient echoes says which echo it is. Folders without any are counted in the log.

    Raises:
        InputError: no images.
    """
    groups: dict[tuple, list[Path]] = defaultdict(list)
    scans: list[RawScan | Refused] = [
        Refused(shown, shown, InputError(f"{shown}: {MISNAMED}"))
        for shown in map(shown_name, misnamed_subjects(root, RAW))
    ]
    bare: dict[Path, list[Path]] = {}
    nameless: dict[Path, list[Path]] = {}
    for folder in anat_folders(root):
        try:
            check_anat(root, folder)
        except InputError as error:
            parts = [printable(part) for part in folder.relative_to(root).parts[:-1]]
            scans.append(Refused(parts[0], "_".join(parts), error))
            continue
        unnamed: list[Path] = []
        for path in sorted(folder.glob("*")):
            if path.name.startswith(".") or not path.name.lower().endswith((*ENDINGS, *OTHER_ENDINGS)):
                continue
            names, suffix = entities(path)
            if suffix in RAW and "echo" in names:
                kept = "_".join(f"{k}-{v}" for k, v in names.items() if k not in _WITHIN)
                groups[folder, kept].append(path)
            elif suffix.casefold() in map(str.casefold, RAW):
                unnamed.append(path)
        if not any(there == folder for there, _ in groups):
            (nameless if unnamed else bare)[folder] = unnamed
    if not groups:
        raise InputError(
            f"{root}: no sub-*/anat/*_echo-*_part-mag_MEGRE.nii.gz; lay the echoes out as BIDS, or name files by"
            " --magnitude and --phase"
        )
    if bare:
        first = printable(next(iter(bare)).relative_to(root).parts[0])
        LOGGER.warning("%d folders hold no gradient echoes and are passed over (first: of %s)", len(bare), first)
    for folder, paths in nameless.items():
        parts = [printable(part) for part in folder.relative_to(root).parts[:-1]]
        fault = InputError(
            f"{paths[0]}: its name does not say which echo it is; write _echo-1_part-mag_MEGRE, an echo a file, give 4D"
            " files by --magnitude and --phase, or leave out who has one echo alone, which makes no QSM or R2*"
        )
        scans.append(Refused(parts[0], "_".join(parts), fault))
    for (folder, name), paths in groups.items():
        try:
            scans.append(scan_of(root, folder, name, paths))
        except InputError as error:
            scans.append(Refused(printable(folder.relative_to(root).parts[0]), printable(name), error))
    return scans


def scan_of(root: Path, folder: Path, name: str, paths: Sequence[Path]) -> RawScan:
    """One scan from its files."""
    acquisitions: dict[tuple, dict[str, dict[int, Path]]] = defaultdict(lambda: defaultdict(dict))
    for path in paths:
        check_text(path)
        check_ending(path)
        names, suffix = entities(path)
        part = names.get("part", "complex" if is_complex(path) else "mag")
        if part not in PARTS:
            raise InputError(f"{path}: part-{part} is unknown; use part-mag and part-phase, or part-real and part-imag")
        if not names["echo"].isdecimal():
            raise InputError(f"{path}: echo-{names['echo']} is no number; count echoes from 1")
        echoes = acquisitions[names.get("acq", ""), names.get("flip", ""), suffix][part]
        other = echoes.setdefault(int(names["echo"]), path)
        if other != path:
            raise InputError(f"{path}: {other.name} is the same echo and part; keep one, and move the other away")
    check_names(paths, folder.relative_to(root), ("sub", "ses", "run"))
    scan = RawScan(folder.relative_to(root).parts[0], name, str(folder.relative_to(root)))
    scan.acquisitions = [acquisition_of(root, parts) for _, parts in sorted(acquisitions.items())]
    scan.acquisitions.sort(key=lambda a: a.flip_angle_deg or 0.0)
    return scan


def is_complex(path: str | Path) -> bool:
    """Whether a NIfTI file holds complex numbers."""
    return read_header(path, REAL + "c").get_data_dtype().kind == "c"


def acquisition_of(root: Path, parts: Mapping[str, Mapping[int, Path]]) -> Acquisition:
    """One acquisition from its files by part and echo."""
    some = next(iter(next(iter(parts.values())).values()))
    kinds = next((kinds for kinds in _PAIRS if all(k in parts for k in kinds)), None)
    if kinds is None:
        raise InputError(
            f"{some}: only part-{', part-'.join(sorted(parts))} of these echoes; QSM needs part-mag and part-phase,"
            " or part-real and part-imag"
        )
    echoes = sorted(set().union(*(parts[kind] for kind in kinds)))
    for kind in kinds:
        missing = next((echo for echo in range(1, echoes[-1] + 1) if echo not in parts[kind]), None)
        if missing is not None:
            raise InputError(f"{some}: part-{kind} has no echo-{missing} of {echoes[-1]}; add the missing file")
    for other, files in parts.items():
        if more := sorted(set(files) - set(echoes)):
            raise InputError(
                f"{files[more[0]]}: echo-{more[0]} has part-{other} alone, others have part-{kinds[0]}; add what is"
                " missing, or correct its name"
            )
    sidecars = [sidecar(root, parts[kinds[0]][echo]) for echo in echoes]
    others = [sidecar(root, parts[kinds[1]][echo]) for echo in echoes]
    times = []
    for echo, content in zip(echoes, sidecars, strict=True):
        time = number(content, "EchoTime", parts[kinds[0]][echo])
        if time is None:
            raise InputError(f"{parts[kinds[0]][echo]}: no EchoTime in its sidecar; add it (s)")
        times.append(time)
    check_echo_times(str(parts[kinds[0]][echoes[0]]), times)
    check_sidecars(
        [(parts[kinds[0]][echo], content) for echo, content in zip(echoes, sidecars, strict=True)],
        [(parts[kinds[1]][echo], content) for echo, content in zip(echoes, others, strict=True)],
    )
    first = sidecars[0]
    flip = number(first, "FlipAngle", some)
    if flip is None and (coded := re.fullmatch(r"fa(\d+)", entities(some)[0].get("acq", ""))):
        flip = float(coded[1])
    whole = kinds[0] == "complex"
    thickness = number(first, "SliceThickness", some)
    acquisition = Acquisition(
        ("real", "imag") if whole else kinds,
        [Volume(str(parts[kinds[0]][echo]), component="real" if whole else "") for echo in echoes],
        [Volume(str(parts[kinds[1]][echo]), component="imag" if whole else "") for echo in echoes],
        times,
        flip,
        number(first, "RepetitionTimeExcitation" if "RepetitionTimeExcitation" in first else "RepetitionTime", some),
        number(first, "MagneticFieldStrength", some),
        common_units([(parts[kinds[1]][echo], content) for echo, content in zip(echoes, others, strict=True)]),
        thickness,
        notes=field_notes(number(first, "MagneticFieldStrength", some), number(first, "ImagingFrequency", some)),
    )
    return sorted_by_time(acquisition)


def field_notes(field_strength_t: float | None, frequency_mhz: float | None) -> list[str]:
    """That field strength (T) and frequency (MHz) of a sidecar contradict each other, beyond what vendors round."""
    if not field_strength_t or not frequency_mhz or frequency_mhz < 0:
        return []
    meant = frequency_mhz / GAMMA_MHZ_PER_T
    if abs(meant / field_strength_t - 1) < _ROUNDED_FIELD:
        return []
    return [
        f"MagneticFieldStrength is {field_strength_t:g} T, but ImagingFrequency {frequency_mhz:g} MHz is that of"
        f" {meant:.2g} T, and QSM is wrong by as much if the first is: correct the one that is wrong"
    ]


def common_units(sidecars: Sequence[tuple[Path, Mapping[str, Any]]]) -> str:
    """The unit that the sidecars of all echoes name; empty where none does.

    Raises:
        InputError: two name different ones.
    """
    said = [(path, content["Units"].strip()) for path, content in sidecars if content.get("Units", "").strip()]
    for path, units in said[1:]:
        if units.casefold() != said[0][1].casefold():
            raise InputError(
                f"{path}: Units is {units!r} in its sidecar, but {said[0][1]!r} in that of {said[0][0].name}; echoes of"
                " one acquisition share it, so correct one"
            )
    return said[0][1] if said else ""


def check_sidecars(
    first: Sequence[tuple[Path, Mapping[str, Any]]], second: Sequence[tuple[Path, Mapping[str, Any]]]
) -> None:
    """Check that the sidecars of one acquisition agree, as far as they say anything, to 1 %.

    Args:
        first, second: image and sidecar of each echo, of both parts (magnitude and phase, or real and imaginary).

    Raises:
        InputError: two parts of an echo with different echo times; two files with different settings of the scanner.
    """
    for (path, one), (other_path, other) in zip(first, second, strict=True):
        agree("EchoTime", path, one, other_path, other)
    (path, one), *rest = (*first, *second)
    for key in ("MagneticFieldStrength", "FlipAngle", "RepetitionTimeExcitation", "RepetitionTime"):
        for other_path, other in rest:
            agree(key, path, one, other_path, other)


def agree(key: str, path: Path, one: Mapping[str, Any], other_path: Path, other: Mapping[str, Any]) -> None:
    """Refuse two files whose sidecars contradict each other.

    Raises:
        InputError: the numbers differ by more than 1 %.
    """
    a, b = number(one, key, path), number(other, key, other_path)
    if a is not None and b is not None and abs(a - b) > 0.01 * max(abs(a), abs(b)):
        raise InputError(
            f"{other_path}: {key} is {b:g} in its sidecar, but {a:g} in that of {path.name}; files of one acquisition"
            " share it, so correct one or move it away"
        )


def number(content: Mapping[str, Any], key: str, path: Path) -> float | None:
    """A number of a sidecar, or None."""
    value = content.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"{path}: {key} in its sidecar is {value!r}; write a number")
    return float(value)


def sidecar(root: Path, path: Path) -> dict[str, Any]:
    """What JSON files say of an image: those above it with fewer entities first, its own last (BIDS inheritance)."""
    names, suffix = entities(path)
    folders = [
        root,
        *(root / Path(*path.relative_to(root).parts[:n]) for n in range(1, len(path.relative_to(root).parts))),
    ]
    found = []
    for depth, folder in enumerate(folders):
        for candidate in folder.glob(f"*{suffix}.json"):
            theirs, kind = entities(candidate)
            if candidate.name.startswith("."):
                continue
            if kind == suffix and theirs.items() <= names.items():
                found.append((depth, len(theirs), candidate))
    content: dict[str, Any] = {}
    for _, _, candidate in sorted(found):
        content |= read_json(candidate, "sidecar", "correct it as BIDS has it")
    return content


def from_files(
    magnitude: Sequence[Any],
    phase: Sequence[Any] | None,
    participant_id: str,
    echo_times_s: Sequence[float] | None,
    flip_angles_deg: Sequence[float] | None,
    repetition_time_s: float | None,
    field_strength_t: float | None,
) -> RawScan:
    """A scan from plain NIfTI files.

    Args:
        magnitude, phase: for each flip angle a 4D file, or a list of 3D files in the order of `echo_times_s`; without
            `phase` the files hold complex numbers.
        participant_id: name of the output, `sub-...`.
        echo_times_s: s, the same for all flip angles.
        flip_angles_deg: one a flip angle; may be None for one.
        repetition_time_s, field_strength_t: s and T.

    Raises:
        InputError: numbers of files, echoes and angles do not fit.
    """
    if not echo_times_s:
        raise InputError("echo_times_s: not given; plain NIfTI files need --echo_times_s, one an echo, in seconds")
    for key, given in {"magnitude": magnitude, "phase": phase or []}.items():
        for path in given if len(echo_times_s) > 1 else []:
            if isinstance(path, str) and len(read_header(path, REAL + "c").shape) == 3:
                raise InputError(
                    f"{path}: holds one echo of {len(echo_times_s)}; give the files of a flip angle as a list within"
                    f" the list, --{key} [[ECHO1,ECHO2,...]], or all its echoes as one 4D file"
                )
    if phase is None:
        for path in (path for files in magnitude for path in ([files] if isinstance(files, str) else files)):
            if not is_complex(path):
                raise InputError(f"{path}: holds real numbers, and phase is not given; give --phase too")
        parts, components, phase = ("real", "imag"), ("real", "imag"), magnitude
    else:
        parts, components = ("mag", "phase"), ("", "")
    if len(magnitude) != len(phase):
        raise InputError(f"magnitude: {len(magnitude)} flip angles but {len(phase)} of phase; give both of each")
    angles = list(flip_angles_deg) if flip_angles_deg else [None] * len(magnitude)
    if len(angles) != len(magnitude):
        raise InputError(f"flip_angles_deg: {len(angles)} angles for {len(magnitude)} acquisitions; give one each")
    scan = RawScan(participant_id, participant_id, f"{participant_id}/anat")
    for first, second, angle in zip(magnitude, phase, angles, strict=True):
        acquisition = Acquisition(
            parts,
            volumes(first, components[0]),
            volumes(second, components[1]),
            [float(t) for t in echo_times_s],
            angle,
            repetition_time_s,
            field_strength_t,
        )
        same = len(acquisition.first) == len(acquisition.second) == len(acquisition.echo_times_s)
        scan.acquisitions.append(sorted_by_time(acquisition) if same else acquisition)  # `check_scan` says what differs
    scan.acquisitions.sort(key=lambda a: a.flip_angle_deg or 0.0)
    return scan


def volumes(files: str | Sequence[str], component: str = "") -> list[Volume]:
    """The echoes of one 4D file or of several 3D files; `component` as in `Volume`."""
    if not isinstance(files, str):
        return [Volume(str(path), component=component) for path in files]
    shape = read_header(files, REAL + "c").shape
    if len(shape) > 4:
        raise InputError(
            f"{files}: has {len(shape)} axes, as uncombined coils do; combine the coils and give x, y, z, echo"
        )
    indices = range(shape[3]) if len(shape) == 4 else [None]
    return [Volume(files, index, component=component) for index in indices]
