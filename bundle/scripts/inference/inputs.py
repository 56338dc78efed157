"""What a user wants classified, whatever it comes as: a BIDS folder, DICOM studies, NIfTI files, or one of 4D."""

import atexit
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from scripts.dicom.address import is_address
from scripts.errors import InputError
from scripts.files.limits import check_plain
from scripts.files.nifti import ENDINGS, check_ending, read_header, says_simulated
from scripts.files.parts import part_folder
from scripts.files.writing import sha256
from scripts.maps.bids import anat_folders, check_grid, check_names, chosen_scans
from scripts.maps.copies import without_copies
from scripts.maps.scan import MAPS, Box, Scan, number_word, scan_maps
from scripts.provenance import PLACES, cohort_fingerprint, settings, software

if TYPE_CHECKING:
    from scripts.dicom.study import DicomStudy

KINDS = (
    "a BIDS folder, a DICOM study's folder or one that holds several, NIfTI files (QSM,R2*,T1W), one 4D NIfTI, or"
    " dicomweb:URL?StudyInstanceUID=..."
)
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")
#: A file named by BIDS entities; other names may hold anybody's name and are not passed on.
_BIDS_NAME = re.compile(r"(sub-[A-Za-z0-9]+)((?:_[a-z]+-[A-Za-z0-9]+)*)(?:_[A-Za-z0-9]+)?")
#: Above this age a year tells people apart, so it counts as an identifier.
OLDEST_TOLD = 90.0


@dataclass(frozen=True, kw_only=True)
class DicomScan(Scan):
    """A DICOM study that is one scan. What is asked of its files is read from them only then, so that thousands of
    studies cost nothing until their turn comes.

    Attributes:
        study: what is read.
        include_identifiers: whether results may name the patient.
    """

    study: "DicomStudy"
    include_identifiers: bool = False

    def image(self) -> "DicomStudy":
        """The study, which loads itself."""
        return self.study

    def files(self) -> dict[str, list[str]]:
        return self.series()

    def series(self) -> dict[str, list[str]]:
        return {name: [str(path) for path in paths] for name, paths in self.study.series_files.items()}

    def simulated(self) -> bool:
        return self.study.simulated()

    def patient(self) -> dict[str, str]:
        return self.study.patient() if self.include_identifiers else {}

    def scanner(self) -> dict[str, str | float]:
        return self.study.scanner()

    def years(self) -> float | None:
        if self.age is not None or (age := self.study.age()) is None:
            return self.age
        return age if self.include_identifiers else min(age, OLDEST_TOLD)


#: Endings of files in a folder of NIfTI.
NIFTI_AND_BESIDE = {".nii", ".gz", ".json", ".tsv", ".csv", ".txt", ".xlsx", ".bval", ".bvec", ".md", ".html", ".pdf"}


def find_input(
    source: str | os.PathLike | Sequence[str],
    participants: str | os.PathLike | None = None,
    *,
    box: Box | None = None,
    dicom_rules: str | os.PathLike,
    series: Mapping[str, int | None] | None = None,
    include_identifiers: bool = False,
    resample_t1w: str = "refuse",
    maps: Sequence[str] = MAPS,
    fetched_dir: str | os.PathLike | None = None,
    scratch_dir: str | os.PathLike = ".",
) -> list[Scan]:
    """The scans of an input of any kind.

    Args:
        source: KINDS; files of one scan as a list, or as text with commas between them.
        participants: a table that names whom to take of a BIDS folder; None takes all.
        box: basal ganglia box of the only scan: half-open voxel ranges along the axes of the array (for DICOM columns,
            rows, slices in rising order along their normal). None: that of the BIDS folder, if any.
        dicom_rules: `configs/dicom_series.yaml`, or a site's own.
        series: map -> number of its series in every DICOM study; what is missing or None is left to the rules.
        include_identifiers: results and messages may name patients.
        resample_t1w: see `scripts.maps.bids.check_grid`.
        maps: what the network sees; those beyond Chimap, R2starmap and T1w must be there too.
        fetched_dir: keeps what is fetched from an archive; None keeps it until this process ends.
        scratch_dir: where it lies until then.

    Returns:
        the scans; those of studies are `DicomScan`.

    Raises:
        InputError: nothing there, nothing known, or several scans for one box.
    """
    suffixes = scan_maps(maps)
    numbers = {suffix: number for suffix, number in (series or {}).items() if number is not None}
    paths = [] if is_address(source) else _as_paths(source, suffixes)
    for path in paths:
        check_plain(path)
    scans: Sequence[Scan]
    if not paths:
        folder = Path(fetched_dir) if fetched_dir is not None else until_the_end(scratch_dir)
        scans = _studies(str(source), dicom_rules, numbers, include_identifiers, suffixes, folder)
    elif len(paths) > 1:
        scans = [_nifti_scan(paths, resample_t1w, suffixes)]
    elif not paths[0].exists():
        raise InputError(f"{paths[0]}: no such file or folder; give --input {KINDS}")
    elif paths[0].is_file():
        scans = [_nifti_scan(paths, resample_t1w, suffixes)]
    elif anat_folders(paths[0]):
        scans = without_copies(chosen_scans(paths[0], participants, incomplete_too=True, maps=maps))
        participants = None
    else:
        if packed := _packed_alone(paths[0]):
            raise InputError(
                f"input: the folder holds compressed files ({packed}) and no NIfTI or plain DICOM; unpack them (gunzip,"
                " unzip) and give it again"
            )
        if _holds_nifti_alone(paths[0]) and _is_of_one_subject(paths[0]):
            raise InputError(
                f"{paths[0]}: is the folder of one subject; give --input the folder that holds the subjects, and"
                " --participants a table that names whom to take"
            )
        if _holds_nifti_alone(paths[0]):
            raise InputError(
                f"{paths[0]}: holds NIfTI files, and is no BIDS folder (sub-01/anat/sub-01_Chimap.nii.gz,"
                " sub-01_R2starmap.nii.gz, sub-01_T1w.nii.gz); name them so, or give --input a scan's files"
            )
        scans = _studies(paths[0], dicom_rules, numbers, include_identifiers, suffixes)
    if participants is not None:
        raise InputError("participants: names scans of a BIDS folder only; leave it out for other input")
    return list(scans) if box is None else _with_box(scans, box)


def _packed_alone(folder: Path) -> str:
    """The ending of compressed files, where a folder holds nothing else that could be an image; else empty."""
    names = [path.name.lower() for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    packed = sorted(name for name in names if name.endswith(_ARCHIVES) and not name.endswith(ENDINGS))
    beside = {*packed, *(name for name in names if Path(name).suffix in NIFTI_AND_BESIDE - {".nii", ".gz"})}
    return re.sub(r".*?((\.dcm|\.ima|\.tar)?\.\w+)$", r"\1", packed[0]) if packed and {*names} <= beside else ""


def _holds_nifti_alone(folder: Path) -> bool:
    """Whether a folder holds NIfTI and what lies beside it, and no file that could be DICOM (which needs no ending)."""
    endings = {path.suffix.lower() for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")}
    return bool(endings & {".nii", ".gz"}) and endings <= NIFTI_AND_BESIDE


def _is_of_one_subject(folder: Path) -> bool:
    """Whether a folder is a subject's of BIDS, or `ses-...` or `anat` in one."""
    place = folder.resolve()
    return any(path.name.startswith("sub-") for path in (place, *place.parents[:2]))


def _as_paths(source: str | os.PathLike | Sequence[str], suffixes: Sequence[str]) -> list[Path]:
    """One folder or file, or a file a map."""
    if isinstance(source, (str, os.PathLike)):
        text = os.fspath(source)
        parts = [text] if os.path.exists(text) else [part.strip() for part in text.split(",")]
    else:
        parts = [str(part) for part in source]
    if len(parts) not in (1, len(suffixes)) or not all(parts):
        files = f"a file of each of {', '.join(suffixes)}"
        wanted = KINDS.replace("NIfTI files (QSM,R2*,T1W)", files)
        raise InputError(f"input: {len(parts)} paths given; give {wanted}")
    return [Path(part) for part in parts]


def _nifti_scan(paths: Sequence[Path], resample_t1w: str, suffixes: tuple[str, ...]) -> Scan:
    """A 3D file a map or one 4D file as a scan, checked by their headers."""
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path}: no such file; give --input {KINDS}")
        if not path.name.endswith(ENDINGS):
            if path.name.lower().endswith(ENDINGS):
                check_ending(path)
            if path.name.lower().endswith(_ARCHIVES):
                raise InputError(f"{path}: is an archive, and archives are not unpacked; unpack it and give its folder")
            raise InputError(f"{path}: is no NIfTI file; give --input {KINDS}")
    if len(paths) > 1:
        paths = _in_order(paths, suffixes)
        check_names(paths)
        check_grid([str(path) for path in paths], resample_t1w, suffixes)
    else:
        shape = read_header(paths[0]).shape
        if len(shape) != 4 or shape[3] != len(suffixes):
            raise InputError(
                f"{paths[0]}: has shape {shape} where one 4D file holds {', '.join(suffixes)} along its last axis;"
                f" stack them, or give {number_word(len(suffixes))} files with commas between"
            )
    named = _BIDS_NAME.fullmatch(paths[0].name.removesuffix(".gz").removesuffix(".nii"))
    participant_id, scan_id = (named[1], named[1] + named[2]) if named else ("scan", "scan")
    return Scan(participant_id=participant_id, scan_id=scan_id, maps=tuple(map(str, paths)), names=suffixes)


def _in_order(paths: Sequence[Path], due: Sequence[str]) -> Sequence[Path]:
    """Files in the order of the maps that are due, where their names say which is which; else as they were given.

    Raises:
        InputError: a name says another map than its place.
    """
    suffixes = [path.name.removesuffix(".gz").removesuffix(".nii").rsplit("_", 1)[-1] for path in paths]
    if sorted(suffixes) == sorted(due):
        return [paths[suffixes.index(suffix)] for suffix in due]
    for path, suffix, place in zip(paths, suffixes, due, strict=False):
        if suffix in due and suffix != place:
            raise InputError(
                f"{path}: stands where {place} is due; give the {number_word(len(due))} files as {', '.join(due)}"
            )
    return paths


def until_the_end(parent: str | os.PathLike) -> Path:
    """A folder in `parent` that is gone when this process ends; what a killed one leaves, the next run removes."""
    kept = ExitStack()
    atexit.register(kept.close)
    return kept.enter_context(part_folder(parent))


def _studies(
    source: str | Path,
    dicom_rules: str | os.PathLike,
    numbers: Mapping[str, int],
    include_identifiers: bool,
    suffixes: tuple[str, ...],
    fetched_dir: Path | None = None,
) -> list[DicomScan]:
    """The DICOM studies below a folder, or in an archive from which they are fetched into a folder, as scans."""
    try:
        from scripts.dicom.rules import read_rules
        from scripts.dicom.study import find_in_archive, find_studies
    except ImportError as error:
        raise InputError(
            f"DICOM needs the package {error.name}; type pip install '.[dicom]' in the repository"
        ) from error
    rules = replace(read_rules(dicom_rules), numbers=numbers)
    unruled = [suffix for suffix in suffixes if suffix not in rules.series]
    if unruled:
        raise InputError(
            f"{dicom_rules}: no rule says which series is the {unruled[0]}, which maps or the record beside the weights"
            " names; add one under series"
        )
    if fetched_dir is not None:
        studies = find_in_archive(
            str(source), rules, fetched_dir, include_identifiers=include_identifiers, maps=suffixes
        )
    else:
        studies = find_studies(source, rules, include_identifiers=include_identifiers, maps=suffixes)
    if not studies:
        # The folder's own name stays out: it was typed by the user, but it ends up in logs and may name a patient.
        raise InputError(f"input: the folder holds neither sub-*/anat (BIDS) nor any DICOM file; give --input {KINDS}")
    return [
        DicomScan(
            participant_id=study.name,
            scan_id=study.name,
            names=suffixes,
            study=study,
            include_identifiers=include_identifiers,
        )
        for study in studies
    ]


def _with_box(scans: Sequence[Scan], box: Box) -> list[Scan]:
    """The only scan with its box."""
    if len(scans) != 1:
        raise InputError(f"box: is of one scan, but the input holds {len(scans)}; leave it out, or give one scan")
    try:
        shaped = [[int(low), int(high)] for low, high in box]
        right = len(shaped) == 3 and all(low < high for low, high in shaped) and shaped == [list(pair) for pair in box]
    except (TypeError, ValueError):
        right = False
    if not right:
        raise InputError(f"box: {box!r} is no box; give three rising pairs of voxel indices [[i0,i1],[j0,j1],[k0,k1]]")
    return [replace(scans[0], box=shaped)]


def _from_dicom(scans: Sequence[Scan]) -> TypeGuard[Sequence[DicomScan]]:
    """Whether an input came as DICOM; all of its scans did then."""
    return isinstance(scans[0], DicomScan)


def fingerprint(source: str | os.PathLike | Sequence[str], scans: Sequence[Scan]) -> dict[str, str | int | bool]:
    """What identifies an input in a result's provenance, without the name of a patient, file or folder of DICOM.

    Args:
        source: as given to `find_input`.
        scans: what it returned.
    """
    about: dict[str, str | int | bool]
    if _from_dicom(scans):
        digest = hashlib.sha256()
        for scan in scans:
            if is_address(source):  # what it holds is not fetched yet
                digest.update(f"{scan.scan_id}\n".encode())
                continue
            sizes = [os.path.getsize(path) for path in scan.study.files] if len(scans) == 1 else []
            digest.update(f"{scan.scan_id} {len(scan.study.files)} {sizes}\n".encode())
        about = {"kind": "dicom", "studies": len(scans), "sha256": digest.hexdigest()}
        if is_address(source):
            return about  # each study says it when it was fetched
        simulated = sum(scan.simulated() for scan in scans)
        return about | {"simulated": simulated > 0, "simulated_studies": simulated}
    paths = _as_paths(source, scans[0].names)
    if len(paths) == 1 and paths[0].is_dir():
        return {"kind": "bids", **cohort_fingerprint(paths[0])}
    digest = hashlib.sha256("".join(sha256(path) for path in paths).encode())
    about = {"kind": "nifti", "maps": len(scans[0].names), "sha256": digest.hexdigest()}
    return about | {"simulated": any(map(says_simulated, paths))}


def record(
    weights: Sequence[str],
    source: str | os.PathLike | Sequence[str],
    scans: Sequence[Scan],
    resolved: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything that made a result (as `scripts.provenance.record`), of an input of any kind.

    Args:
        weights: files whose SHA-256 is recorded.
        source, scans: see `fingerprint`.
        resolved: see `scripts.provenance.settings`. For DICOM the paths among them are left out, for folders are often
            called like patients, unless identifiers are asked for.
    """
    kept = settings(resolved, places=True)
    if _from_dicom(scans):
        if not scans[0].include_identifiers:
            kept = {key: value for key, value in kept.items() if key not in PLACES}
        kept["dicom_rules_sha256"] = rules_sha256(resolved["dicom_rules"])
    return {
        "software": software(),
        "settings": kept,
        "weights": {Path(path).name: sha256(path) for path in weights},
        "input": fingerprint(source, scans),
    }


def rules_sha256(dicom_rules: str | os.PathLike) -> str:
    """SHA-256 of the rules for DICOM: results of other rules are other results.

    Raises:
        InputError: there is no such file.
    """
    try:
        return sha256(dicom_rules)
    except OSError as error:
        raise InputError(f"{dicom_rules}: cannot be read ({error.strerror}); give --dicom_rules a YAML file") from error
