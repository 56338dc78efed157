"""Nuclei of a whole cohort: `nuclei.tsv` with its data dictionary, label images, and pictures with outlines."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from scripts.anatomy.atlas import LABELS, LOOKUP, NUCLEI
from scripts.errors import InputError
from scripts.files.json_file import read_json
from scripts.files.writing import check_output_dir, write_aside, write_json, write_table
from scripts.localisation.localiser import Localiser, check_kept, check_place, is_simulated
from scripts.localisation.picture import draw
from scripts.maps.bids import BIDS_VERSION
from scripts.maps.plausibility import LEAST_IRON, found_flags, region_flags
from scripts.maps.scan import Scan
from scripts.maps.transforms import reading
from scripts.nuclei.current import STATS, measured_files
from scripts.nuclei.reader import NucleiReader
from scripts.nuclei.table import data_dictionary
from scripts.provenance import bundle_version
from scripts.registration.t1w_grid import in_words
from scripts.runs.engines import Engine, LocalEngine, run_jobs
from scripts.runs.failures import called, check_all_done, log_of, why
from scripts.runs.finished import Origin, code_of, digest_of, settings_of
from scripts.runs.former import say_former
from scripts.runs.outputs import check_derivative, describe

LOGGER = logging.getLogger(__name__)
#: Of the whole cohort.
TABLES = ("nuclei.tsv", "nuclei.json", "desc-nuclei_dseg.tsv", "scans.tsv")
#: Of a scan, behind its name.
ENDINGS = (STATS, "desc-nuclei_dseg.nii.gz", "desc-nuclei_dseg.png")
#: What other code measured is measured again.
CODE = ("scripts.maps.transforms", "scripts.nuclei.reader", "scripts.localisation.locate", "scripts.anatomy.template")


def measure_cohort(
    output_dir: str | os.PathLike,
    scans: Sequence[Scan],
    localiser: Localiser,
    reader_settings: Mapping[str, Any],
    pictures: bool = True,
    resample_t1w: str = "refuse",
    engine: Engine | None = None,
) -> None:
    """Write `nuclei.tsv` (a row a scan), `nuclei.json` (what its columns mean) and each scan's label image.

    A scan that is done is not done again, as long as maps, code and settings stay; a refused one has `n/a` and its
    reason, and the others go on.

    Args:
        output_dir: root of the derivative, e.g. `derivatives/nuclei`.
        scans: from `scripts.maps.bids.chosen_scans`.
        localiser: finds the basal ganglia.
        reader_settings: keyword arguments of `NucleiReader` beside template and atlas.
        pictures: draw box and outlines of every scan.
        resample_t1w: `refuse` or `rigid`: what is done with a T1W on another grid.
        engine: where scans are worked on; None: in this process.

    Raises:
        InputError: the atlas or the template is missing, see `check_derivative`, or some scans were refused.
    """
    check_place(localiser, scans)
    check_kept(localiser, scans, "localise_dir")
    check_derivative(output_dir, [name for scan in scans for name in names_of(scan)] + [*TABLES], "output_dir")
    folder = check_output_dir(output_dir, 2e6 * len(scans))
    reader = NucleiReader(localiser.ready()[0], **reader_settings)
    made_by = {"Code": code_of(*CODE), "Settings": dict(reader_settings), "Version": bundle_version()}
    decided_by = digest_of(
        [settings_of(localiser), dict(reader_settings), reader.template.sha256, reader.atlas.membership, resample_t1w]
    )
    description = {
        "Name": "Nuclei of the basal ganglia and thalamus from a registered atlas",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "Q-Net bundle, configs/nuclei.yaml", "Version": bundle_version()}],
    }
    describe(folder, description)
    shared = Measuring(folder, localiser, dict(reader_settings), made_by, decided_by, pictures, resample_t1w)
    shared.__dict__["reader"] = reader  # this process has it already
    jobs = {scan.scan_id: scan for scan in scans}
    made = dict(run_jobs(engine or LocalEngine(["cpu"], stay=True), work, shared, jobs, title="nuclei", unit="scan"))
    rows, said = [], []
    for scan in scans:
        row: dict[str, Any] = {"participant_id": scan.participant_id, "scan_id": scan.scan_id}
        said.append({**row, "status": "ok", "t1w_registration": "", "flags": "", "message": ""})
        log = log_of(folder, scan.scan_id)
        kept = made[scan.scan_id]
        if isinstance(kept, Exception):
            said[-1] |= {"status": "failed", "message": why(kept, log, called(scan.files(), scan.scan_id))}
        else:
            row |= {name: float("nan") if value is None else value for name, value in kept["Nuclei"].items()}
            said[-1]["flags"] = "; ".join(kept.get("Flags", ()))
            if kept.get("T1wRegistration"):
                said[-1]["t1w_registration"] = in_words(kept["T1wRegistration"])
            log.unlink(missing_ok=True)  # of an earlier try
        rows.append(row)
    columns = list(data_dictionary())
    write_table(folder / "nuclei.tsv", columns, rows)
    write_json(folder / "nuclei.json", {**data_dictionary(), "GeneratedBy": made_by})
    write_table(folder / "desc-nuclei_dseg.tsv", ("index", "name"), LOOKUP)
    write_table(folder / "scans.tsv", list(said[0]), said)
    say_former(folder, f"_{STATS}", {scan.scan_id for scan in scans}, "nuclei.tsv")
    bad = [row for row in said if row["status"] != "ok"]
    print(f"{len(rows) - len(bad)} of {len(rows)} scans measured; {folder / 'nuclei.tsv'}")
    check_all_done(said, folder / "scans.tsv")


def names_of(scan: Scan) -> list[Path]:
    """All that a scan may get, below the derivative's root."""
    stem = Path(scan.participant_id) / "anat" / scan.scan_id
    return [log_of("", scan.scan_id), *(Path(f"{stem}_{ending}") for ending in ENDINGS)]


@dataclass
class Measuring:
    """What all scans of a run have in common: arguments of `one_scan`."""

    folder: Path
    localiser: Localiser
    reader_settings: dict[str, Any]
    made_by: dict[str, Any]
    decided_by: str
    pictures: bool
    resample_t1w: str

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "reader"}

    @cached_property
    def reader(self) -> NucleiReader:
        """Made once in each process."""
        return NucleiReader(self.localiser.ready()[0], **self.reader_settings)


def work(shared: Measuring, scan: Scan, device: str) -> dict[str, Any]:
    """`one_scan` as a job of an engine."""
    scan.check_usable()
    return one_scan(
        shared.folder, scan, shared.localiser, shared.reader, shared.made_by, shared.decided_by, shared.pictures,
        shared.resample_t1w,
    )  # fmt: skip


def one_scan(
    folder: Path,
    scan: Scan,
    localiser: Localiser,
    reader: NucleiReader,
    made_by: Mapping[str, Any],
    decided_by: str,
    pictures: bool,
    resample_t1w: str,
) -> dict[str, Any]:
    """Measure one scan, or read what was measured before from the same by the same, where all of it is there.

    Returns:
        `Nuclei` (a number each, None where it is none), `Flags` (what is unlikely about the maps) and
        `T1wRegistration` (how good it is, None where the T1W is on the grid of the others).
    """
    stem = folder / scan.participant_id / "anat" / scan.scan_id
    kept, labelled, outlined = (Path(f"{stem}_{ending}") for ending in ENDINGS)
    origin = Origin(measured_files(scan), decided_by, CODE)
    whole = labelled.exists() and (outlined.exists() or not pictures)
    content = read_stats(kept) if whole else {}
    if origin.made(content.get("Basis")):
        return content
    basis = origin.basis()  # before anything is read
    image = reading(resample_t1w)(scan.item())["image"]
    maps, affine = image.numpy(), np.asarray(image.affine, float)
    found = localiser(maps, affine, scan.maps[0])
    flags = region_flags(maps, found.box) + found_flags(found.measures, LEAST_IRON)
    for flag in flags:
        LOGGER.warning("%s: %s", scan.scan_id, flag)
    row, labels = reader.measure(maps, affine, found)
    row = {"confidence": found.confidence, **row}
    label_image = nib.Nifti1Image(labels, affine)
    write_aside(labelled, lambda part: nib.save(label_image, part))
    if pictures:
        title = f"{'Simulated. ' if is_simulated(scan.maps[0]) else ''}{scan.scan_id}"
        outlines = {name: np.isin(labels, [LABELS[f"{side}_{name}"] for side in ("left", "right")]) for name in NUCLEI}
        write_aside(outlined, lambda part: draw(part, maps, affine, found, title, outlines))
    values = {n: None if math.isnan(v) else v for n, v in row.items()}
    quality = json.loads(image.meta.get("t1w_registration", "null"))
    content = {"Nuclei": values, "Flags": flags, "T1wRegistration": quality}
    write_json(kept, {"GeneratedBy": dict(made_by), "Basis": basis, **content})
    return content


def read_stats(path: Path) -> dict[str, Any]:
    """What is kept of a measured scan; empty where nothing is or where it is damaged: it is measured again."""
    try:
        return read_json(path, "nuclei of a scan")
    except InputError:
        return {}
