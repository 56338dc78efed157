"""Boxes of scans that nobody annotated: found once, kept beside the scan, read back as long as nothing changed."""

from __future__ import annotations

import hashlib
import os
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from scripts.anatomy.template import Template, load_template
from scripts.errors import InputError
from scripts.files.json_file import read_json
from scripts.files.nifti import says_simulated
from scripts.files.parts import remove_leftovers
from scripts.files.writing import write_aside, write_json
from scripts.localisation.locate import Found, check_scan, locate, weakest
from scripts.localisation.picture import draw
from scripts.maps.bids import BIDS_VERSION
from scripts.maps.scan import Scan
from scripts.provenance import bundle_version, declared_name
from scripts.registration import search as registration
from scripts.runs.finished import code_of
from scripts.runs.outputs import check_apart, check_derivative, describe

#: Where found boxes are kept, below the cohort's root.
LOCALISE_DERIVATIVE = Path("derivatives") / "localise"
#: The code that decides where a box lies: a box that other code found is found again.
CODE = ("scripts.anatomy.template", "scripts.localisation.locate")
#: What `configs/localise.yaml` adds to them.
TABLES = ("localise.tsv", "index.html")
GENERATED_BY = {"Name": "Q-Net bundle, scripts/localisation/localiser.py", "Version": bundle_version()}

#: What the derivative says of itself.
DESCRIPTION = {
    "Name": "Basal ganglia boxes, found by registration",
    "BIDSVersion": BIDS_VERSION,
    "DatasetType": "derivative",
    "GeneratedBy": [GENERATED_BY],
}


class Localiser:
    """Finds boxes and keeps them: once found, a box is read back as long as scan, template and settings stay.

    Kept as a BIDS derivative (`*_desc-basalganglia_box.json`, the transform, a picture) beside BIDS scans, or in
    `cache_dir`. Where that cannot be written, one warning says so, and the box is found again the next time.

    Args:
        template: path of the small template.
        margin_mm: added to each in-plane side of the box.
        least_confidence: 0..1; scans below are refused.
        cache_dir: root of the derivative; None takes `derivatives/localise` of the scan's own cohort.
        pictures: draw a picture of every scan.
    """

    def __init__(
        self,
        template: str | os.PathLike,
        margin_mm: float = 5.0,
        least_confidence: float = 0.5,
        cache_dir: str | os.PathLike | None = None,
        pictures: bool = True,
    ) -> None:
        if not 0 <= margin_mm <= 40:
            raise InputError(f"localise_margin_mm is {margin_mm}; give 0 to 40 mm")
        if not 0 <= least_confidence <= 1:
            raise InputError(f"localise_confidence is {least_confidence}; give 0 to 1")
        self.path = template
        self.margin_mm = float(margin_mm)
        self.least_confidence = float(least_confidence)
        self.cache_dir = cache_dir
        self.pictures = pictures
        self.code = code_of(*CODE)
        self._lock = threading.Lock()
        self._ready: tuple[Template, registration.Target] | None = None
        self._warned = False
        self._recent: dict[tuple, Found] = {}

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs; it reads the template itself."""
        return {**self.__dict__, "_lock": None, "_ready": None, "_recent": {}}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def ready(self) -> tuple[Template, registration.Target]:
        """The template, read when it is first needed."""
        with self._lock:
            if self._ready is None:
                template = load_template(self.path)
                self._ready = template, registration.target_of(template)
            return self._ready

    def __call__(self, maps: np.ndarray, affine: np.ndarray, name: str) -> Found:
        """Find or read back the box of one scan.

        Args:
            maps, affine: see `locate`.
            name: the path of its first map, or what the scan is called.

        Raises:
            InputError: as `locate`, or a confidence below the least one.
        """
        check_scan(maps.shape[1:], affine, name)
        template, target = self.ready()
        root, stem = self.where(name)
        made_by = {
            "InputSha256": fingerprint(maps, affine),
            "TemplateSha256": template.sha256,
            "MarginMM": self.margin_mm,
            "CodeSha256": self.code,
            "GeneratedBy": [GENERATED_BY],
        }
        asked = (name, made_by["InputSha256"])
        found = self._recent.get(asked) or (read_back(stem, made_by, self.pictures) if stem is not None else None)
        if found is None:
            found = locate(maps, affine, template, target, self.margin_mm, name)
            if root is not None and stem is not None:
                self.keep(root, stem, found, made_by, maps, affine, name)
        self.remember(asked, found)
        if found.confidence < self.least_confidence:
            raise InputError(
                f"{name}: the basal ganglia were not found with confidence ({found.confidence:.2f}, at least"
                f" {self.least_confidence:g} is due; {weakest(found.measures)}); annotate a box, or look at the maps"
            )
        return found

    def remember(self, asked: tuple, found: Found) -> None:
        """Keep the last few answers in memory: two steps that ask about one scan cost one registration."""
        with self._lock:
            self._recent[asked] = found
            while len(self._recent) > 16:
                del self._recent[next(iter(self._recent))]

    def where(self, name: str) -> tuple[Path | None, Path | None]:
        """Root of the derivative, and path of the scan's own without its ending; None outside of BIDS folders."""
        path = Path(name)
        folders = bids_folders(path)
        if folders is None:
            return None, None
        root = Path(self.cache_dir or path.parents[len(folders)] / LOCALISE_DERIVATIVE)
        scan_id = path.name.removesuffix(".gz").removesuffix(".nii").removesuffix("_Chimap")
        return root, root.joinpath(*folders) / scan_id

    def keep(
        self,
        root: Path,
        stem: Path,
        found: Found,
        made_by: dict[str, Any],
        maps: np.ndarray,
        affine: np.ndarray,
        name: str,
    ) -> None:
        """Write box, transform and picture; warn once where that is not possible."""
        content = {
            "Box": found.box,
            "Confidence": found.confidence,
            "Measures": found.measures,
            "Description": "Box around caudate, putamen and pallidum, found by registration to a template: half-open"
            " voxel ranges along the axes of the stored array. OutlineMM: corners of the nuclei's hull, RAS mm",
            "Sources": [Path(name).name],
            "OutlineMM": found.outline_mm.round(2).tolist(),
            **made_by,
        }
        own, transform, picture = kept_files(stem)
        if drawn_by_hand(own):
            raise InputError(
                f"{own}: was not found by this bundle, so it is not replaced; move it away, or set --localise_dir to"
                " another folder"
            )
        check_derivative(root, [*TABLES, *(path.relative_to(root) for path in kept_files(stem))], "localise_dir")
        try:
            describe(root, DESCRIPTION)
            remove_leftovers(stem.parent)  # of a killed run, which may have been another command's
            write_aside(transform, lambda part: sitk.WriteTransform(found.transform, part))
            if self.pictures:
                title = f"{'Simulated. ' if is_simulated(name) else ''}{stem.name}, margin {self.margin_mm:g} mm"
                write_aside(picture, lambda part: draw(part, maps, affine, found, title))
            write_json(own, content)
        except OSError as error:
            if not self._warned:
                self._warned = True
                warnings.warn(
                    f"localise_dir: found boxes cannot be kept there ({error.strerror}) and are found again each time;"
                    " set --localise_dir to a folder that can be written",
                    RuntimeWarning,
                    stacklevel=2,
                )


def bids_folders(path: Path) -> tuple[str, ...] | None:
    """The folders that BIDS puts a file into, `sub-X[, ses-Y], anat`; None for a file that lies elsewhere.

    Counted from the file, for the folders above a cohort may be called anything.
    """
    folders = path.parent.parts[-3:]
    if len(folders) < 3 or not (folders[0].startswith("sub-") and folders[1].startswith("ses-")):
        folders = folders[-2:]
    return folders if len(folders) > 1 and folders[0].startswith("sub-") and folders[-1] == "anat" else None


def kept_files(stem: Path) -> tuple[Path, Path, Path]:
    """Where box, transform and picture of a scan are kept; `stem`: see `Localiser.where`."""
    box = f"{stem}_desc-basalganglia_box"
    return Path(f"{box}.json"), Path(f"{stem}_from-MNI152NLin2009aSym_to-T1w_mode-image_xfm.tfm"), Path(f"{box}.png")


def is_simulated(name: str) -> bool:
    """Whether a map, or the cohort that its path lies in, says that it is simulated."""
    folders = bids_folders(Path(name))
    named = folders is not None and "simulated" in declared_name(Path(name).parents[len(folders)]).lower()
    return named or says_simulated(name)


def fingerprint(maps: np.ndarray, affine: np.ndarray) -> str:
    """SHA-256 of what was registered."""
    digest = hashlib.sha256(np.asarray(affine, np.float64).round(5).tobytes())
    digest.update(np.ascontiguousarray(maps).data)
    return digest.hexdigest()


def read_back(stem: Path, made_by: Mapping[str, Any], picture: bool) -> Found | None:
    """A kept box, if it was made from the same by the same and all of it is there (with its picture); else None."""
    own, kept, drawn = kept_files(stem)
    if picture and not drawn.exists():
        return None
    try:
        content = read_json(own, "found box")
        if any(content.get(key) != value for key, value in made_by.items()):
            return None
        transform = sitk.ReadTransform(str(kept))
        return Found(
            [[int(a), int(b)] for a, b in content["Box"]],
            float(content["Confidence"]),
            {key: float(value) for key, value in content["Measures"].items()},
            transform,
            np.array(content["OutlineMM"], float),
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):
        return None  # missing, or damaged: it is found again


def drawn_by_hand(path: Path) -> bool:
    """Whether a box file is sound, and none of those that this bundle found and kept."""
    try:
        return "CodeSha256" not in read_json(path, "box")
    except InputError:
        return False


def check_place(localiser: Localiser, scans: Sequence[Scan]) -> None:
    """Refuse to keep found boxes among the maps or the boxes that somebody drew.

    Raises:
        InputError: as `scripts.runs.outputs.check_apart`.
    """
    if localiser.cache_dir is None:
        return
    roots = set()
    for scan in scans:
        first = next(iter(scan.maps), None)
        if first is not None and (folders := bids_folders(Path(first))) is not None:
            roots.add(str(Path(first).parents[len(folders)]))
    check_apart({"localise_dir": localiser.cache_dir}, {"dataset_dir or input": sorted(roots)})


def check_kept(localiser: Localiser, scans: Sequence[Scan], key: str) -> None:
    """Refuse, before any work starts, to keep boxes of scans over files that the bundle did not make.

    Raises:
        InputError: as `scripts.runs.outputs.check_derivative`.
    """
    files: dict[Path, list[str | os.PathLike]] = {}
    for first in (scan.maps[0] for scan in scans if scan.maps):
        root, stem = localiser.where(str(first))
        if root is not None and stem is not None:
            files.setdefault(root, [*TABLES]).extend(path.relative_to(root) for path in kept_files(stem))
    for root, names in files.items():
        check_derivative(root, names, key)


def check_template(localise: str, localiser: Localiser, scans: Sequence[Scan]) -> None:
    """Make sure, before any work starts, that there is a template if a scan will need it, and a place for boxes.

    Raises:
        InputError: there is none.
    """
    if localise == "auto":
        check_place(localiser, scans)
    bare = [scan for scan in scans if scan.box is None and scan.refused is None]
    if localise == "auto" and bare:
        check_kept(localiser, bare, "localise_dir")
        localiser.ready()


def check_boxes(localise: str, localiser: Localiser, scans: Sequence[Scan]) -> None:
    """Make sure, before training starts, that every scan has a box or can get one.

    Raises:
        InputError: as `check_template`; or, for `annotated`, the first scan without a box.
    """
    bare = [scan for scan in scans if scan.box is None]
    if bare and localise == "annotated":
        raise InputError(
            f"{bare[0].maps[0]}: no basal ganglia box ({len(bare)} of {len(scans)} scans have none); annotate it,"
            " or use --localise auto"
        )
    check_template(localise, localiser, scans)
