"""A BIDS folder as a list of scans: which files belong together, who they are of, and how subjects split in folds."""

import hashlib
import logging
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from sklearn.model_selection import StratifiedKFold

from scripts.errors import InputError, printable
from scripts.files.json_file import read_json
from scripts.files.nifti import ENDINGS, OTHER_ENDINGS, read_header
from scripts.files.table import MISSING, near_column, read_table
from scripts.files.writing import write_table
from scripts.maps.copies import check_no_copies
from scripts.maps.scan import MAPS, LabelledScan, Scan, scan_maps

LOGGER = logging.getLogger(__name__)

#: What may be done with a T1W on another grid than QSM and R2*: nothing, or a rigid registration (`t1w_grid.py`).
RESAMPLE_T1W = ("refuse", "rigid")
#: Class index of each value of `group` in participants.tsv; HH is the positive class (paper, Results).
GROUPS = {"HC": 0, "HH": 1}
#: What dataset_description.json of the folders that the bundle writes says.
BIDS_VERSION = "1.10.0"
#: Axes of one image may be this far from perpendicular (headers are rounded), degrees.
LARGEST_SHEAR_DEG = 1.0
#: Smallest and largest side of a voxel that a scan of a head can have, mm.
VOXEL_MM = (0.05, 30.0)
_MEANT_FOR_A_SUBJECT = re.compile(r"sub([-_ ]\w|\d)", re.IGNORECASE)
#: Folders of a cohort that are no subjects' (BIDS, Common principles).
_MEANT_OTHERWISE = re.compile(r"deriv.*|sourcedata|rawdata|code|phenotype|stimuli|logs?", re.IGNORECASE)
#: A label by which a study calls a subject, not a name.
_LABEL = re.compile(r"[A-Za-z]{0,8}[-_ ]?\d+")
#: How deep images of a subject lie: `01/anat`, `01/ses-1/anat`, `patients/sub-01/ses-1/anat`.
_LEVELS = 4
MISNAMED = (
    "is no subject's folder by its name, so its images would be passed over; call it sub-01 (with the subject's own"
    " label, in small letters), or move it out of the folder"
)
#: BIDS entities that the maps of one scan share, and what differs where they do not.
SHARED = {"sub": "subjects", "ses": "sessions", "run": "runs", "echo": "echoes", "part": "parts of an image"}
#: Suffixes that gradient echoes have, of which QSM and R2* are made.
RAW = ("MEGRE", "VFA", "MPM", "T2starw", "GRE")
#: How many subjects a message names.
MOST_NAMED = 5
#: Where the basal ganglia boxes of a cohort lie, below its root.
BOX_DERIVATIVE = Path("derivatives") / "basalganglia"
_BOX_ENDING = "_desc-basalganglia_box.json"
#: A name that ends in box, whatever its ending.
_CALLED_BOX = re.compile(r"box(\.[^_]*)?$", re.IGNORECASE)
#: How people spell the two folders.
_LIKE_DERIVATIVES = re.compile(r"deriv.*", re.IGNORECASE)
_LIKE_BASAL_GANGLIA = re.compile(r"basal[-_ ]?gangli.*", re.IGNORECASE)


def find_scans(dataset_dir: str | os.PathLike, incomplete_too: bool = False, maps: Sequence[str] = MAPS) -> list[Scan]:
    """List the scans of a BIDS folder, in order of their names. Labels are not needed.

    Args:
        incomplete_too: a scan that cannot be used is listed too, `refused`, so that it does not stop the others;
            otherwise it raises.
        dataset_dir: folder with `sub-*/[ses-*/]anat/*_Chimap.nii[.gz]`, `*_R2starmap`, `*_T1w`, further `maps`, and
            optionally `derivatives/basalganglia/.../*_desc-basalganglia_box.json`.
        maps: what a network shall see of them; those beyond Chimap, R2starmap and T1w are listed as well.

    Returns:
        The scans, with `box` where annotated.

    Raises:
        InputError: no such folder, no scan, a map missing or there twice, maps whose names do not belong together, a
            file of another format, a bad box file, see `network_maps`; a further map that no scan has, or, unless
            `incomplete_too`, that some lack.

    Hidden files (`.name`; macOS leaves `._name` beside each file on shared disks) are passed over.
    """
    root, suffixes = Path(dataset_dir), scan_maps(maps)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give --dataset_dir a BIDS folder")
    folders = anat_folders(root)
    if not folders:
        raise InputError(f"{root}: holds no sub-*/anat folder; lay the scans out as BIDS (docs/README.md, Data)")
    subjects = {folder.relative_to(root).parts[0] for folder in folders}
    bare = sorted(path.name for path in root.glob("sub-*") if path.is_dir() and path.name not in subjects)
    if bare:
        LOGGER.warning("%d subjects have no anat folder and are passed over (first: %s)", len(bare), printable(bare[0]))
    for suffix in suffixes[len(MAPS) :]:
        lacking = [folder for folder in folders if not _named(folder, suffix)]
        if len(lacking) == len(folders) or lacking and not incomplete_too:
            raise InputError(_said_lacking(root, suffix, lacking, len(folders)))
    scans: list[Scan] = []
    for name in misnamed_subjects(root, suffixes):
        if not incomplete_too:
            raise InputError(f"{root / name}: {MISNAMED}")
        shown = shown_name(name)
        scans.append(Scan(participant_id=shown, scan_id=shown, refused=f"{shown}: {MISNAMED}"))
    for folder in folders:
        try:
            scans.append(_scan_of(root, folder, {scan.scan_id for scan in scans}, suffixes))
        except InputError as error:
            if not incomplete_too:
                raise
            names = [printable(name) for name in folder.relative_to(root).parts[:-1]]
            scan_id = "_".join(names)
            while any(scan.scan_id == scan_id for scan in scans):
                scan_id += "_again"
            message = str(error).replace(f"{root}{os.sep}", "")
            scans.append(Scan(participant_id=names[0], scan_id=scan_id, refused=message))
    return _without_lost_boxes(root, scans, incomplete_too)


def _without_lost_boxes(root: Path, scans: list[Scan], incomplete_too: bool) -> list[Scan]:
    """The scans, but one that has no box while one of its subject lies at another place is refused: a box that somebody
    drew is never passed over.

    Raises:
        InputError: that, unless `incomplete_too`.
    """
    strangers = 0
    of: dict[str, list[str]] = {}
    for scan in scans:
        of.setdefault(scan.participant_id.casefold(), []).append(scan.scan_id)
    for path in _boxes(root):
        whose = {part.split("_")[0].casefold() for part in path.parts} & set(of)
        whose = whose or {name.casefold() for name in re.findall(r"sub-[A-Za-z0-9]+", path.as_posix(), re.IGNORECASE)}
        names = {name for subject in whose for name in of.get(subject, [])}
        theirs = [scan for scan in scans if scan.scan_id in names] if names else []
        lacking = [scan for scan in theirs if scan.box is None and scan.refused is None]
        lacking.sort(key=lambda scan: scan.scan_id not in path.name)
        if any(root / path == _box_file(root, Path(scan.maps[0])) for scan in theirs if scan.box is not None):
            continue
        if not theirs:
            strangers += 1
        elif lacking:
            due = _box_file(root, Path(lacking[0].maps[0])).relative_to(root)
            said = f"is a box of no scan by its place and name, and {lacking[0].scan_id} has none; move it to {due}"
            if path.suffix.casefold() != ".json":
                said = (
                    f"looks like the basal ganglia box of {lacking[0].scan_id}, which has none, but is no JSON file;"
                    f' write {{"Box": [[i0,i1],[j0,j1],[k0,k1]]}} to {due}'
                )
            if not incomplete_too:
                raise InputError(f"{root / path}: {said}, or away")
            refused = replace(lacking[0], maps=(), refused=f"{path}: {said}, or away")
            scans = [refused if scan is lacking[0] else scan for scan in scans]
    if strangers:
        LOGGER.warning("%d files that look like boxes are of no subject here, and are passed over", strangers)
    return scans


def _boxes(root: Path) -> list[Path]:
    """Files below the root that look like boxes of scans, wherever people put them."""
    above = [root, *(path for path in root.glob("*") if _LIKE_DERIVATIVES.fullmatch(path.name))]
    folders = {path for folder in above for path in folder.glob("*") if _LIKE_BASAL_GANGLIA.fullmatch(path.name)}
    files = [
        path
        for folder in folders
        for path in folder.rglob("*")
        if path.name.casefold().endswith((".json", *ENDINGS, *OTHER_ENDINGS))
        and path.name != "dataset_description.json"
        or _CALLED_BOX.search(path.name)
    ]
    files += [
        path
        for folder in anat_folders(root)
        for path in folder.glob("*")
        if _CALLED_BOX.search(path.name) or path.suffix.casefold() == ".json" and "box" in path.name.casefold()
    ]
    shown = {path for path in files if not path.is_dir() and not path.name.startswith(".")}
    return sorted(path.relative_to(root) for path in shown)


def _box_file(root: Path, first_map: Path) -> Path:
    """Where the box of the scan lies whose QSM is given."""
    name = first_map.name.removesuffix(".gz").removesuffix(".nii").removesuffix("_Chimap") + _BOX_ENDING
    return root / BOX_DERIVATIVE / first_map.parent.relative_to(root) / name


def _said_lacking(root: Path, suffix: str, lacking: Sequence[Path], count: int) -> str:
    """That scans lack a map which `maps` names."""
    names = ["_".join(printable(part) for part in folder.relative_to(root).parts[:-1]) for folder in lacking]
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    who = "no scan has" if len(names) == count else f"{len(names)} of {count} scans have no"
    return (
        f"{root}: {who} *_{suffix}.nii.gz, which maps names ({', '.join(names[:MOST_NAMED])}{more}); add the map, leave"
        " those scans out, or leave it out of maps"
    )


def misnamed_subjects(root: Path, suffixes: Sequence[str] = MAPS) -> list[str]:
    """Folders that hold images of subjects, but are not called as BIDS wants it: `SUB-02`, `sub03`, `04`.

    Args:
        root: of the cohort.
        suffixes: of images that make any folder one of these; what its name means for a subject is one with any image.

    Folders that BIDS keeps for other things, hidden ones, and cohorts of their own (`dataset_description.json`) are
    none.
    """
    found = []
    for path in root.iterdir():
        if path.name.startswith(("sub-", ".")) or not path.is_dir():
            continue
        if _MEANT_FOR_A_SUBJECT.match(path.name):
            meant = any(image.is_file() for image in path.rglob("*.nii*"))
        elif _MEANT_OTHERWISE.fullmatch(path.name) or (path / "dataset_description.json").exists():
            continue
        else:
            meant = any(_is_of_subjects(image, suffixes) for image in _files_near(path, _LEVELS))
        if meant:
            found.append(path.name)
    return sorted(found)


def shown_name(folder: str) -> str:
    """What tables call a folder that is no `sub-...`: its name where that is a label (`S01`, `patient-01`), else, as
    it may be somebody's name, `folder-` and ten digits of its SHA-256."""
    if _MEANT_FOR_A_SUBJECT.match(folder) or _LABEL.fullmatch(folder):
        return printable(folder)
    return f"folder-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:10]}"


def _is_of_subjects(image: Path, suffixes: Sequence[str]) -> bool:
    """Whether a file is called as a subject's image; templates are T1w images too, but lie in no anat folder."""
    match = re.fullmatch(r"(?:.*_)?([A-Za-z0-9]+)\.nii(\.gz)?", image.name)
    suffix = next((s for s in suffixes if match and match[1].casefold() == s.casefold()), None)
    return suffix is not None and (suffix != "T1w" or image.parent.name.casefold() == "anat")


def _files_near(folder: Path, levels: int) -> Iterator[Path]:
    """Files of a folder and of those below it, so many levels deep; what may not be listed has none."""
    for root, folders, files in os.walk(folder):
        yield from (Path(root) / name for name in files)
        if len(Path(root).relative_to(folder).parts) >= levels:
            folders.clear()


def anat_folders(root: Path) -> list[Path]:
    """Where a BIDS folder keeps images of the head, `sub-*/anat` and `sub-*/ses-*/anat`, in order; what is a link to
    nothing, a file, may not be read, or is spelled in capitals is listed as well (see `check_anat`).

    Raises:
        InputError: the root may not be read.
    """
    if root.is_dir():
        check_listed(root)
    places = [*root.glob("sub-*"), *root.glob("sub-*/[sS][eE][sS]-*")]
    places = [place for place in places if place.is_dir() or place.is_symlink() and not place.exists()]
    closed = {place for place in places if place.is_dir() and _why_not_listed(place)}
    there = {place for place in places if os.path.lexists(place / "anat") or not place.exists()}
    capitals = [path for place in {*places} - there - closed for path in place.glob("[aA][nN][aA][tT]")]
    return sorted([*(place / "anat" for place in there | closed), *capitals])


def _why_not_listed(folder: Path) -> str | None:
    """What the system says to a request for the names in a folder; None where it gives them."""
    try:
        with os.scandir(folder):
            return None
    except OSError as error:
        return error.strerror


def check_listed(folder: Path) -> None:
    """Refuse a folder whose names may not be read: its files would be passed over as if they were not there.

    Raises:
        InputError: it is one.
    """
    if why := _why_not_listed(folder):
        raise InputError(f"{folder}: cannot be listed ({why}); correct its permissions, or move it away")


def check_anat(root: Path, folder: Path) -> None:
    """Refuse what is no folder where images must lie, one that may not be read, and one that is not called as BIDS has
    it.

    Raises:
        InputError: names it, or the link to nothing that it would lie in.
    """
    for path in [*(path for path in reversed(folder.parents) if path.is_relative_to(root)), folder]:
        if path.is_symlink() and not path.exists():
            raise InputError(
                f"{path}: is a link to what is not there; fetch it (datalad get, git annex get) or move it"
            )
        if path.is_dir():
            check_listed(path)
    if folder.name != "anat" or folder.parent.name[:4] not in ("sub-", "ses-"):
        raise InputError(f"{folder}: is not called as BIDS has it, ses-... and anat in small letters; rename it")
    if not folder.is_dir():
        raise InputError(f"{folder}: is a file where a folder with the maps must be; move it away")


def _scan_of(root: Path, folder: Path, taken: Collection[str], suffixes: tuple[str, ...]) -> Scan:
    """The scan of one anat folder; `taken` are the names of those before it, `suffixes` the maps that it must have."""
    check_text(folder)
    check_anat(root, folder)
    paths = [_one_map(folder, suffix, suffixes) for suffix in suffixes]
    for path in paths:
        check_text(path)
    check_names(paths, folder.relative_to(root))
    scan_id = paths[0].name.removesuffix(".gz").removesuffix(".nii").removesuffix("_Chimap")
    if scan_id in taken:
        raise InputError(f"{paths[0]}: another scan has this name too; put sub-, and ses- if any, into the file names")
    box_file = _box_file(root, paths[0])
    box = None
    if os.path.lexists(box_file):
        box = read_box(box_file)
    elif other := sorted(p for p in box_file.parent.glob(f"*{_BOX_ENDING}") if p.name[0] != "."):
        raise InputError(f"{other[0]}: is a box of no scan there; call it {box_file.name}, or move it away")
    participant_id = folder.relative_to(root).parts[0]
    return Scan(participant_id=participant_id, scan_id=scan_id, maps=tuple(map(str, paths)), names=suffixes, box=box)


def _named(folder: Path, suffix: str) -> list[Path]:
    """Files of an anat folder that are called as a map is, but for its sidecar and hidden ones."""
    wanted = re.compile(rf".*_{suffix}\.(?!json$).*", re.IGNORECASE)
    return sorted(p for p in folder.glob("*") if wanted.fullmatch(p.name) and not p.name.startswith("."))


def _one_map(folder: Path, suffix: str, suffixes: Sequence[str]) -> Path:
    """The single NIfTI file of a map in one anat folder."""
    named = _named(folder, suffix)
    found = [p for p in named if p.name.lower().endswith(ENDINGS)]
    if len(found) == 1 and not re.fullmatch(rf".*_{suffix}\.nii(\.gz)?", found[0].name):
        raise InputError(
            f"{found[0]}: is not called as BIDS has it, in small and capital letters: *_{suffix}.nii.gz; rename it"
        )
    if not found and named:
        raise InputError(f"{named[0]}: not a .nii or .nii.gz file; convert it to NIfTI")
    if not found:
        raise InputError(
            f"{folder}: no *_{suffix}.nii.gz; Q-Net needs the maps {', '.join(suffixes)} of every scan"
            + (_raw_instead(folder) if suffix in MAPS[:2] else "")
        )
    if others := [p for p in named if p.name.casefold().endswith(OTHER_ENDINGS)]:
        raise InputError(
            f"{folder}: the {suffix} is there in two formats ({found[0].name}, {others[0].name}); keep the one that is"
            " meant, as NIfTI"
        )
    if len(found) > 1:
        raise InputError(f"{folder}: {len(found)} files end in _{suffix} ({found[0].name}, {found[1].name}); keep one")
    return found[0]


def _raw_instead(folder: Path) -> str:
    """What lies in an anat folder in the place of QSM and R2*, and what it is good for; empty where nothing does."""
    raw = [path for suffix in RAW for path in _named(folder, suffix)]
    if not raw:
        return ""
    if len({entities(path.name).get("echo") for path in raw}) > 1:
        return ", and configs/reconstruct.yaml makes them of its raw echoes"
    return f", and {raw[0].name} is one echo by its name, of which QSM and R2* cannot be made: leave the subject out"


def entities(name: str) -> dict[str, str]:
    """BIDS entities of a file or folder name: `sub-01_run-2_T1w.nii.gz` -> `{"sub": "01", "run": "2"}`.

    Whole numbers lose their leading zeros where BIDS counts (`run-01` is `run-1`), but labels such as `sub-01` do not.
    """
    pairs = dict(re.findall(r"(?:^|[_/])([a-zA-Z]+)-([a-zA-Z0-9]+)", name))
    return {k: v.lstrip("0") or "0" if k in ("run", "echo") and v.isdigit() else v for k, v in pairs.items()}


def check_names(paths: Sequence[Path], folder: Path | None = None, shared: Sequence[str] = tuple(SHARED)) -> None:
    """Check that the names of a scan's files belong together, as far as they say anything.

    Args:
        paths: the files.
        folder: where they lie below the cohort's root (`sub-01/ses-1/anat`), if in one.
        shared: keys of SHARED that must agree.

    Raises:
        InputError: two names, or a name and its folder, differ in one of them.
    """
    of_folder = {} if folder is None else entities(folder.as_posix())
    known = {key: (value, str(folder)) for key, value in of_folder.items()}
    session = of_folder.get("ses", "none")
    for path in paths:
        # a file without a session is of its folder's, or of none
        for key, value in ({"ses": session} | entities(path.name)).items():
            if key not in shared:
                continue
            other, where = known.setdefault(key, (value, path.name))
            if other != value:
                raise InputError(
                    f"{path}: is {key}-{value} but lies with {key}-{other} ({where}); files of different {SHARED[key]}"
                    " are no scan, so put each where it belongs"
                )


def check_text(path: Path) -> None:
    """Refuse a name whose bytes are no UTF-8, as old disks and archives hold them: results could not say it.

    Raises:
        InputError: it is one.
    """
    if printable(str(path)) != str(path):
        raise InputError(f"{path}: its name is not in UTF-8; rename it with letters, digits and hyphens")


def read_box(path: str | os.PathLike) -> list[list[int]]:
    """Read a basal ganglia box.

    Returns:
        Half-open voxel ranges `[[i0, i1], [j0, j1], [k0, k1]]` along the stored array's axes.

    Raises:
        InputError: not JSON, or `Box` is not three rising pairs of whole numbers.
    """
    return checked_box(read_json(path, "box", 'write {"Box": [[i0,i1],[j0,j1],[k0,k1]]}')["Box"], path)


def checked_box(box: Any, path: str | os.PathLike) -> list[list[int]]:
    """A basal ganglia box of the form that `read_box` returns, from the file `path`.

    Raises:
        InputError: not three rising pairs of whole numbers.
    """
    try:
        shaped = [[int(low), int(high)] for low, high in box]
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{path}: not a basal ganglia box; write {{'Box': [[i0,i1],[j0,j1],[k0,k1]]}}") from error
    numbers = [value for pair in box for value in pair]
    whole = not any(isinstance(value, bool) for value in numbers) and shaped == [list(pair) for pair in box]
    if len(shaped) != 3 or any(low >= high for low, high in shaped) or not whole:
        raise InputError(f"{path}: Box is {box}; give three rising pairs of whole voxel indices")
    return shaped


def participant_name(cell: str) -> str:
    """The id that a cell of participant_id means: `01`, `Sub-01` and `"sub-01"` are `sub-01`."""
    name = cell.strip("\"'\u2018\u2019\u201c\u201d ")
    return "sub-" + (name[4:] if name[:4].casefold() == "sub-" else name)


def read_participants(path: str | os.PathLike, columns: Sequence[str]) -> dict[str, dict[str, str]]:
    """Read a participants table (tab-separated): participant_id -> row.

    Raises:
        InputError: no such file, a table that `read_table` refuses, one of `columns` missing, or a participant with
            two rows.

    Participants may be written as `participant_name` reads them; the ids that are returned have `sub-`.
    """
    path = Path(path)
    if not os.path.lexists(path):
        near = _near_file(path)
        there = "" if near is None else f", but {printable(near)} is there"
        raise InputError(
            f"{path}: no such file{there}; give a table that lists {' and '.join(columns)} of every subject,"
            " tab-separated"
        )
    participants: dict[str, dict[str, str]] = {}
    for row in read_table(path, columns):
        name = participant_name(row["participant_id"])
        if name in participants:
            raise InputError(f"{path}: participant {name!r} has more than one row; keep one")
        participants[name] = {**row, "participant_id": name}
    return participants


def _near_file(path: Path) -> str | None:
    """The name of a file beside one that is not there, of its name in other letters or with another ending."""
    stem = path.name.split(".")[0].casefold() + "."
    names = sorted(other.name for other in path.parent.glob("*.*") if other.is_file())
    return next((name for name in names if name.casefold().startswith(stem) and not name.endswith(".json")), None)


def known_ages(table: str | os.PathLike, folders: Collection[str] = ()) -> dict[str, float]:
    """Participant -> age in years, of those whose age is given; none without a table or a column `age`.

    Args:
        table: participants.tsv.
        folders: participants with scans. The log says it where a row spells one otherwise, so that nothing of it is
            known of the scan; training refuses it (`labelled_scans`).

    Raises:
        InputError: as `read_participants` and `ages_of`.
    """
    table = Path(table)
    if not os.path.lexists(table):
        if (near := _near_file(table)) is not None:
            LOGGER.warning("%s is not read, so that no age is known; call it %s", printable(near), table.name)
        return {}
    people = read_participants(table, ["participant_id"])
    columns = next(iter(people.values()), {})
    if "age" not in columns and (near := near_column("age", columns)) is not None:
        LOGGER.warning("%s: column %r is not read; ages in years are read from a column 'age'", table.name, near)
    without, told = set(folders) - people.keys(), []
    for name in people.keys() - set(folders) if without else ():
        try:
            _check_spelling(table.name, people, name, without)
        except InputError as error:
            told.append(str(error))
    if told:
        more = f"; and {len(told) - 1} more rows" if len(told) > 1 else ""
        LOGGER.warning("%s; until then its age is not known%s", sorted(told)[0], more)
    return ages_of(table, people)


def ages_of(table: str | os.PathLike, people: Mapping[str, Mapping[str, str]]) -> dict[str, float]:
    """Participant -> age in years, of those whose age is given.

    Args:
        table: for messages.
        people: participant -> row of it.

    Raises:
        InputError: an age that is no number of years (`89+` is 89, as BIDS writes it).
    """
    ages = {}
    for name, person in people.items():
        word = person.get("age", "")
        if word.lower() in ("", "n/a", "na", "nan"):
            continue
        found = re.fullmatch(r"(\d{1,3}(?:\.\d+)?)\+?", word)
        if found is None or float(found[1]) > 120:
            raise InputError(f"{table}: the age of {name!r} is {word!r}; write years, 0 to 120, or n/a")
        ages[name] = float(found[1])
    return ages


def chosen_scans(
    dataset_dir: str | os.PathLike,
    participants: str | os.PathLike | None,
    incomplete_too: bool = False,
    maps: Sequence[str] = MAPS,
) -> list[Scan]:
    """`find_scans`, but only of the participants that a table names; None takes all.

    Raises:
        InputError: as `find_scans` and `read_participants`, or a participant without a scan.
    """
    scans = find_scans(dataset_dir, incomplete_too, maps)
    return scans if participants is None else of_participants(scans, participants)


class _Whose(Protocol):
    """What has a participant."""

    @property
    def participant_id(self) -> str: ...


_Scan = TypeVar("_Scan", bound=_Whose)


def of_participants(scans: Sequence[_Scan], participants: str | os.PathLike) -> list[_Scan]:
    """The scans of those whom a table names.

    Raises:
        InputError: as `read_participants`; the table names nobody, or somebody without a scan.
    """
    wanted = read_participants(participants, ["participant_id"])
    if not wanted:
        raise InputError(f"{participants}: names nobody; add a row a participant, or leave it out to take everybody")
    missing = wanted.keys() - {scan.participant_id for scan in scans}
    if missing:
        _check_spelling(participants, wanted, sorted(missing)[0], {scan.participant_id for scan in scans})
        raise InputError(f"{participants}: {sorted(missing)[0]!r} has no scan in the input; correct the table")
    return [scan for scan in scans if scan.participant_id in wanted]


def _check_spelling(table: str | os.PathLike, participants: Iterable[str], name: str, folders: Collection[str]) -> None:
    """Refuse a row whose participant is one of the folders, but for signs, letters' case or zeros.

    Raises:
        InputError: names row and spelling.
    """

    def bare(word: str) -> str:
        word = re.sub(r"(\d)[.,]0+$", r"\1", word)  # a spreadsheet makes the number 1.0 of 01
        return re.sub(r"[\W_]", "", re.sub(r"^(sub[\W_]*)+", "", word.casefold())).lstrip("0")

    meant = [folder for folder in folders if bare(folder) == bare(name)]
    if len(meant) == 1:
        row = list(participants).index(name) + 1
        typed = name.removeprefix("sub-")
        typed = name if typed.startswith("sub-") else typed  # sub-sub-01 was typed whole
        raise InputError(
            f"{table}: row {row} below the header names {typed!r}, and the folder is called"
            f" {meant[0]}; write {meant[0]} there"
        )


def write_participants(path: str | os.PathLike, scans: Sequence[LabelledScan]) -> None:
    """Write the participants of some scans and their groups as a table: those that training held out, for
    `inference.yaml`'s `participants`, and those that it saw, for `nuclei.yaml`'s `training_participants`."""
    names = {index: name for name, index in GROUPS.items()}
    rows = sorted({(scan.participant_id, names[scan.label]) for scan in scans})
    write_table(path, ["participant_id", "group"], [{"participant_id": name, "group": group} for name, group in rows])


def labelled_scans(
    dataset_dir: str | os.PathLike, resample_t1w: str = "refuse", maps: Sequence[str] = MAPS
) -> list[LabelledScan]:
    """The scans of a cohort with their labels, checked before any work starts.

    Every map's header is read, so a wrong grid is found in seconds and not after hours. `resample_t1w`: see
    `check_grid`; `maps`: see `find_scans`.

    Raises:
        InputError: as `find_scans`, `read_participants`, `ages_of`, `check_grid` and `check_no_copies`; a scan without
            a row or a row without a scan; a group that is not HH or HC; only one class in the cohort.
    """
    scans = find_scans(dataset_dir, maps=maps)
    table = Path(dataset_dir) / "participants.tsv"
    participants = read_participants(table, ["participant_id", "group"])
    with_scans = {scan.participant_id for scan in scans}
    for participant_id, row in participants.items():
        if participant_id not in with_scans:
            _check_spelling(table, participants, participant_id, with_scans)
            raise InputError(f"{table}: {participant_id!r} has no scan; remove the row or add {participant_id}/anat")
        if row["group"] not in GROUPS:
            raise InputError(f"{table}: group {row['group']!r} of {participant_id!r} is unknown; use HH or HC")
    ages_of(table, participants)
    labelled = []
    for scan in scans:
        if scan.participant_id not in participants:
            for name in participants.keys() - with_scans:
                _check_spelling(table, participants, name, {scan.participant_id})
            raise InputError(f"{table}: no row for {scan.participant_id!r}, which has scans; add it")
        label = GROUPS[participants[scan.participant_id]["group"]]
        site = participants[scan.participant_id].get("site")
        labelled.append(LabelledScan(**vars(scan), label=label, site=None if site in (None, *MISSING) else site))
        check_grid(scan.maps, resample_t1w, scan.names)
    check_no_copies(labelled)
    labels = {scan.label for scan in labelled}
    if len(labels) < 2:
        only = next(name for name, index in GROUPS.items() if index in labels)
        raise InputError(f"{table}: every subject is {only}; a classifier needs both HH and HC")
    return labelled


def check_grid(paths: Sequence[str], resample_t1w: str = "refuse", names: Sequence[str] = MAPS) -> None:
    """Check from the headers alone that maps are 3D and lie on one grid.

    Args:
        paths: of QSM, R2*, T1W, and further maps.
        resample_t1w: one of RESAMPLE_T1W; `rigid` lets the T1W lie on another grid, since it will be registered, and
            further maps on that of the T1W.
        names: the maps' BIDS suffixes.

    Raises:
        InputError: a file that is no readable NIfTI, is not 3D, or lies on another grid than the first map.
    """
    if resample_t1w not in RESAMPLE_T1W:
        raise InputError(f"resample_t1w is {resample_t1w!r}; use {' or '.join(RESAMPLE_T1W)}")
    first, of_t1w = None, None
    for number, path in enumerate(paths):
        header = read_header(path)
        twice = next((other for other in paths[:number] if os.path.samefile(path, other)), None)
        if twice is not None:
            raise InputError(f"{path}: is given for two of the maps {', '.join(names)}; give each map its own file")
        shape, affine = header.shape, header.affine
        if len(shape) != 3:
            raise InputError(f"{path}: has shape {shape} where one 3D map is due; split it into one file a map")
        check_affine(affine, path)
        t1w = number == MAPS.index("T1w")
        cure = "resample it to that grid" + (", or let --resample_t1w rigid do it" if t1w else "")
        if first is None:
            first = (path, shape, affine)
        elif t1w and resample_t1w == "rigid":
            of_t1w = (shape, affine)
        elif of_t1w is not None and shape == of_t1w[0] and np.allclose(affine, of_t1w[1], atol=1e-3):
            continue
        elif shape != first[1]:
            raise InputError(f"{path}: its grid {shape} is not that of {first[0]} {first[1]}; {cure}")
        elif not np.allclose(affine, first[2], atol=1e-3):
            raise InputError(f"{path}: its orientation or position is not that of {first[0]}; {cure}")


def check_affine(affine: np.ndarray, name: str) -> None:
    """Check that an affine (`[4, 4]`, voxel to world, mm) is a rotation and a voxel size: not flat, sheared, or in m.

    Raises:
        InputError: it is not.
    """
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise InputError(f"{name}: its affine is not a valid orientation; export it again")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if spacing.min() < VOXEL_MM[0] or spacing.max() > VOXEL_MM[1]:
        raise InputError(
            f"{name}: voxels of {' x '.join(f'{v:.3g}' for v in spacing)} mm are none of a head; correct the voxel size"
            " or its unit (NIfTI: xyzt_units)"
        )
    axes = affine[:3, :3] / spacing
    off = np.rad2deg(np.arcsin(min(np.abs(axes.T @ axes - np.eye(3)).max(), 1.0)))
    if off > LARGEST_SHEAR_DEG:
        raise InputError(f"{name}: its axes are {off:.1f} degrees from being perpendicular; resample it to a grid")


def split(
    scans: Sequence[LabelledScan], num_folds: int, fold: int, seed: int, by: str = "random"
) -> tuple[list[LabelledScan], list[LabelledScan]]:
    """Split a cohort by subject, stratified by group (paper, Training Procedure: 10 folds), or by site.

    Args:
        scans: from `labelled_scans`.
        num_folds: how many folds, at least 2.
        fold: which one is held out, 0 to num_folds - 1.
        seed: decides which subjects share a fold.
        by: `random`; or `site`: each fold holds out all subjects of one site, in order of the sites' names.

    Returns:
        Training scans and held-out scans. All scans of one subject are on one side.

    Raises:
        InputError: fewer than num_folds subjects in a class, a fold that does not exist, or see `site_folds`.
    """
    if num_folds < 2 or not 0 <= fold < num_folds:
        raise InputError(f"fold {fold} of {num_folds} cannot be; take at least 2 folds, and count fold from 0")
    if by == "site":
        left_out = site_folds(scans, num_folds)[fold]
        return [scan for scan in scans if scan.site != left_out], [scan for scan in scans if scan.site == left_out]
    label_of = {scan.participant_id: scan.label for scan in scans}
    subjects = np.array(sorted(label_of))
    labels = np.array([label_of[name] for name in subjects])
    fewest = int(np.bincount(labels, minlength=len(GROUPS)).min())
    if fewest < num_folds:
        raise InputError(f"the smaller class has {fewest} subjects, too few for {num_folds} folds; lower --num_folds")
    folds = StratifiedKFold(num_folds, shuffle=True, random_state=seed).split(subjects, labels)
    held_out = set(subjects[list(folds)[fold][1]])
    train = [scan for scan in scans if scan.participant_id not in held_out]
    test = [scan for scan in scans if scan.participant_id in held_out]
    return train, test


def site_folds(scans: Sequence[LabelledScan], num_folds: int) -> list[str]:
    """The sites, each of which is held out once.

    Raises:
        InputError: a subject without a site or with two, a site with one group or subject, or another number of folds
            than sites.
    """
    of: dict[str, str] = {}
    groups: dict[str, dict[str, int]] = {}
    for scan in scans:
        if scan.site is None:
            raise InputError(
                f"fold_by site: {scan.participant_id!r} has none; fill in the column site of participants.tsv, or use"
                " --fold_by random"
            )
        if of.setdefault(scan.participant_id, scan.site) != scan.site:
            raise InputError(
                f"fold_by site: {scan.participant_id!r} is of two sites, and a subject is on one side; keep one"
            )
        groups.setdefault(scan.site, {})[scan.participant_id] = scan.label
    for site, labels in sorted(groups.items()):
        if len(labels) < 2 or len(set(labels.values())) < 2:
            have = "one subject" if len(labels) < 2 else f"only {'HC' if 0 in labels.values() else 'HH'}"
            raise InputError(
                f"fold_by site: site {site!r} has {have}, so nothing can be measured there; merge it with another in"
                " participants.tsv, or leave it out"
            )
    if len(groups) != num_folds:
        raise InputError(f"fold_by site: the cohort has {len(groups)} sites; give --num_folds {len(groups)}")
    return sorted(groups)
