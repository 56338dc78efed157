"""What is written of each scan, and the tables and the page of a whole batch."""

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import ignite.distributed as idist
from ignite.engine import Engine, Events
from monai.data import MetaTensor

from scripts.errors import InputError
from scripts.files.json_file import read_json
from scripts.files.parts import check_no_folder, part_folder
from scripts.files.seal import SEAL
from scripts.files.writing import sha256, write_aside, write_json, write_table
from scripts.inference.batch import OUTPUTS, RunFolder, ScanStream, content_sha256
from scripts.inference.summary import write_summary
from scripts.maps.plausibility import nuclei_flags
from scripts.maps.scan import Scan
from scripts.model.outputs import save_nifti
from scripts.model.trust import read_calibration
from scripts.nuclei.curves import bands, usual_for_age
from scripts.provenance import BUNDLE_ROOT, PLACES, RESEARCH_ONLY, bundle_version, is_place, read_record, record_beside
from scripts.reporting.scan import write_scan_report
from scripts.runs.failures import log_of
from scripts.runs.finished import contents
from scripts.runs.former import keep_changed, say_former

#: Of OUTPUTS, what a scan gets only where it came as DICOM.
DICOM_OUTPUTS = ("sr", "parametric_map", "segmentation")
COLUMNS = (
    *("participant_id", "scan_id", "status", "slice", "input_slice", "probability_HH", "class", "message", "flags"),
    *("calibrated_probability_HH", "answer", "strangeness", "simulated"),
)


#: What of a scan's result stands in the table too.
SAID_OF_SCAN = ("probability_HH", "class", "calibrated_probability_HH", "answer")


def check_outputs(outputs: Sequence[str]) -> tuple[str, ...]:
    """The kinds of output a config asks for, checked.

    Raises:
        InputError: an unknown kind, or no `json`, which marks a scan as done.
    """
    outputs = (outputs,) if isinstance(outputs, str) else tuple(outputs)
    for name in outputs:
        if name not in OUTPUTS:
            raise InputError(f"outputs: {name!r} is unknown; use some of {', '.join(OUTPUTS)}")
    if "json" not in outputs:
        raise InputError("outputs: json is missing; it marks a scan as done, so keep it in the list")
    return outputs


def without_places(record: dict[str, Any], include_identifiers: bool) -> dict[str, Any]:
    """A provenance record whose paths are left out, unless identifiers are asked for."""
    if include_identifiers:
        return record
    kept = {key: value for key, value in record["settings"].items() if key not in PLACES and not is_place(value)}
    return {**record, "settings": kept}


def model_info(weights: str | os.PathLike) -> dict[str, Any]:
    """What is known of a model: name, SHA-256 of its weights, what trained it on what, how well it did.

    Returns:
        `name`, `version` of the bundle that runs, `sha256`, `trained_with`, the version that trained the weights, and
        `trained_on` (None: no record beside the weights), `simulated` (None: unknown),
        and `performance`, measure -> value: of `performance` in the record beside the weights, or of metadata.json for
        the weights that the bundle ships; empty where nothing was measured; `performance_of`, what that was measured
        on, and how (None: not said); and `training_places`, where the training scans lie
        (`scripts.model.familiarity.fit`), empty where no calibration says it.
    """
    calibration = read_calibration(weights)[0] or {}
    digest = sha256(weights)
    record = record_beside(weights)
    if not record.get("weights"):
        record = {}  # nothing shows that it is of these weights
    trained = record.get("input", {})
    performance, measured_on = record.get("performance", {}), record.get("performance_of")
    shipped = read_record(BUNDLE_ROOT / "models" / "model.json").get("weights", {}).values()
    if not performance and digest in shipped:
        metadata = read_json(BUNDLE_ROOT / "configs" / "metadata.json", "metadata")
        performance, measured_on = metadata["eval_metrics"], metadata["eval_metrics_of"]
    return {
        "name": "Q-Net",
        "version": bundle_version(),
        "sha256": digest,
        "trained_with": record.get("software", {}).get("qnet_hemochromatosis"),
        "trained_on": trained.get("name"),
        "simulated": trained.get("simulated"),
        "performance": performance,
        "performance_of": measured_on,
        "training_places": (calibration.get("familiarity") or {}).get("places", []),
    }


def note_on(model: Mapping[str, Any], simulated: int, scans: int = 1) -> str:
    """The warning that stands on everything a model made of a number of scans, so many of which are simulated."""
    note = RESEARCH_ONLY
    if model["simulated"]:
        note += " The weights are trained on a simulated cohort: expect nothing of them on real scans."
    if simulated == scans:
        note += " The scans are simulated." if scans > 1 else " The scan is simulated."
    elif simulated:
        note += f" {simulated} of the {scans} scans {'is' if simulated == 1 else 'are'} simulated, as their rows say."
    return note


def input_hashes(scan: Scan) -> dict[str, str]:
    """Map -> SHA-256 over the bytes of its files in their order."""
    hashes = {}
    for name, paths in scan.files().items():
        digest = hashlib.sha256()
        for path in paths:
            digest.update(Path(path).read_bytes())
        hashes[name] = digest.hexdigest()
    return hashes


class ResultWriter:
    """Write each scan's files as it is done, in a thread beside the network; the batch's table and page at the end.

    Args:
        run: the output folder.
        dataset: the stream of scans.
        model: from `model_info`.
        include_identifiers: whether JSON and report name the patient as DICOM does; the DICOM outputs always do.
        segment_fraction: evidence from this fraction of the scan's strongest on is segmented (DICOM Segmentation).
        curves: of healthy controls against age, from `scripts.nuclei.curves.read_reference_curves`, if there are any.
    """

    def __init__(
        self,
        run: RunFolder,
        dataset: ScanStream,
        model: Mapping[str, Any],
        include_identifiers: bool = False,
        segment_fraction: float = 0.5,
        curves: Mapping[str, Any] | None = None,
    ) -> None:
        self.run = run
        self.dataset = dataset
        self.model = model
        self.include_identifiers = include_identifiers
        self.segment_fraction = segment_fraction
        self.curves = curves
        self.written = 0
        self.thread: ThreadPoolExecutor | None = None
        self.pending: list[Future] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.hand_over)
        engine.add_event_handler(Events.COMPLETED, self.wait)

    def hand_over(self, engine: Engine) -> None:
        """Let the thread write what the engine has just made; at most one scan waits, so memory stays flat."""
        self.wait()
        self.thread = self.thread or ThreadPoolExecutor(1, thread_name_prefix="write")
        if not engine.state.output:  # this scan failed
            return
        batch, outputs = (cast(Sequence[Mapping[str, Any]], part) for part in (engine.state.batch, engine.state.output))
        for item, output in zip(batch, outputs, strict=True):
            self.pending.append(self.thread.submit(self.write, self.dataset.by_scan[item["scan_id"]], output))

    def wait(self) -> None:
        """Wait for the thread, and raise what went wrong in it."""
        while self.pending:
            self.pending.pop(0).result()

    def write(self, scan: Scan, output: Mapping[str, Any]) -> None:
        """Write one scan's files, the JSON last; a scan that cannot be written as asked is noted as failed."""
        try:
            made = write_scan(
                scan, output, self.run, self.model, self.include_identifiers, self.segment_fraction, self.curves
            )
        except Exception as error:
            self.run.fail(scan, error)
            return
        self.written += 1
        log_of(self.run.path, scan.scan_id).unlink(missing_ok=True)  # of an earlier try
        self.run.done(scan, "ok", probability_HH=made["probability_HH"], **{"class": made["class"]})

    def finish(self) -> None:
        """Once all processes are done: `predictions.csv` and `summary.html`, by the first of them.

        Raises:
            InputError: some scans failed; the table says which and why.
        """
        self.wait()
        if self.thread is not None:
            self.thread.shutdown()
        if self.run.bar is not None:
            self.run.bar.close()
        self.run.resumed = int(idist.all_reduce(self.run.resumed))  # also waits for all processes
        if idist.get_rank() == 0:
            try:
                finish_batch(self.run, self.dataset.data, self.model)
            except OSError as error:
                raise InputError(
                    f"{self.run.path}: its tables cannot be written ({error.strerror}); free some space or correct"
                    " the permissions, and give the same command again"
                ) from error


def write_scan(
    scan: Scan,
    output: Mapping[str, Any],
    run: RunFolder,
    model: Mapping[str, Any],
    include_identifiers: bool,
    segment_fraction: float,
    curves: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write the files of one scan that the run asks for, all or none, and return the content of its JSON.

    Args:
        scan: what was read.
        output: `result`, `pred` (evidence on the input's grid), `evidence` (the same on the network's), `image`.
        run, model, include_identifiers, segment_fraction, curves: see `ResultWriter`.
    """
    stem, series = run.stem(scan), scan.series()
    outputs = [name for name in run.outputs if series or name not in DICOM_OUTPUTS]
    endings = [ending for name in outputs for ending in OUTPUTS[name]]
    made: dict[str, Any] = {"participant_id": scan.participant_id, "scan_id": scan.scan_id}
    if include_identifiers and (patient := scan.patient()):
        made["patient"] = patient
    known = {"age": scan.years(), "nuclei": scan.nuclei, "scanner": scan.scanner() or None}
    made |= {**output["result"], **{key: value for key, value in known.items() if value is not None}}
    if (scores := usual_for_age(made.get("nuclei"), made.get("age"), curves)) is not None:
        made["age_z_scores"] = scores
    made["flags"] = [*made.get("flags", ()), *nuclei_flags(made.get("nuclei"), curves)]
    made["simulated"] = run.simulated or scan.simulated()
    made |= {
        "note": note_on(model, int(made["simulated"])),
        "input": input_hashes(scan),
        "run": {
            "settings_sha256": run.settings_sha256,
            "basis": run.basis(scan),
        },
        "provenance": run.provenance,
    }
    for ending in endings:
        check_no_folder(Path(f"{stem}_{ending}"))
    new = not stem.parent.exists()
    try:
        with part_folder(stem.parent) as part:
            path = {ending: part / f"{stem.name}_{ending}" for ending in endings}
            _write_files(path, outputs, output, made, series, model, segment_fraction, curves)
            for written in sorted(path.values(), key=path["prediction.json"].__eq__):  # that marks the scan as done
                os.replace(written, stem.parent / written.name)
    except BaseException:
        if new:
            with contextlib.suppress(OSError):
                stem.parent.rmdir()  # nothing of the scan is in it
        raise
    return made


def _write_files(
    path: Mapping[str, Path],
    outputs: Sequence[str],
    output: Mapping[str, Any],
    made: dict[str, Any],
    series: Mapping[str, Sequence[str]],
    model: Mapping[str, Any],
    segment_fraction: float,
    curves: Mapping[str, Any] | None,
) -> None:
    """Write each of a scan's files to its `path`, by ending; the hashes of the others go into the JSON."""
    if "evidence" in outputs:
        write_evidence(path["evidence.nii.gz"], output["pred"])
    if "report" in outputs:
        write_scan_report(
            path["report.html"], path["report.pdf"], made, output["image"], output["evidence"], model,
            made.get("nuclei"), made.get("age"), bands(curves) if curves else None,
        )  # fmt: skip
    if series:
        write_dicom(path, series, made, output["pred"], model, segment_fraction)
    others = sorted(p.name for ending, p in path.items() if ending != "prediction.json")
    made["run"]["files"] = contents(path["prediction.json"].parent, others)
    made["run"][SEAL] = content_sha256(made)
    write_json(path["prediction.json"], made)


def write_evidence(path: str | os.PathLike, evidence: MetaTensor) -> None:
    """The evidence volume `[1, I, J, K]` as NIfTI on the input's grid."""
    write_aside(path, lambda part: save_nifti(evidence, part))


def write_dicom(
    path: Mapping[str, Path],
    files: Mapping[str, Sequence[str]],
    made: Mapping[str, Any],
    evidence: MetaTensor,
    model: Mapping[str, Any],
    segment_fraction: float,
) -> None:
    """The DICOM objects of one scan that `path` has a place for; they share a study with its series' `files`."""
    from scripts.dicom import evidence as evidence_objects  # highdicom is needed for DICOM alone
    from scripts.dicom import sources, structured_report

    series = sources.read_series(files)
    if "evidence_map.dcm" in path:
        evidence_objects.write_parametric_map(path["evidence_map.dcm"], evidence, series, model, made["evidence"])
    if "evidence_seg.dcm" in path:
        evidence_objects.write_segmentation(
            path["evidence_seg.dcm"], evidence, series, model, segment_fraction, made["evidence"]
        )
    if "sr.dcm" in path:
        structured_report.write_structured_report(path["sr.dcm"], made, evidence, series, model, made.get("nuclei"))


def finish_batch(run: RunFolder, scans: Sequence[Scan], model: Mapping[str, Any]) -> None:
    """Write `predictions.csv` and `summary.html`.

    The table has a row a scan (empty `slice`), a row a slice, and a row for each scan that failed. Rows come
    from the scans' JSONs one by one, so memory does not grow with the batch.

    Raises:
        InputError: some scans failed.
    """
    why = run.failures()
    failed: dict[str, str] = {}
    simulated: list[bool] = []

    def rows() -> Iterator[dict[str, Any]]:
        for scan in scans:
            who = {"participant_id": scan.participant_id, "scan_id": scan.scan_id}
            try:
                found = run.prediction(scan)
            except InputError as error:
                found, why[scan.scan_id] = None, str(error)
            if found is None:
                failed[scan.scan_id] = why.get(scan.scan_id, "was not reached; run the same command again")
                yield {**who, "status": "failed", "message": failed[scan.scan_id]}
                continue
            flags = "; ".join(found.get("flags", ()))
            simulated.append(found["simulated"])
            whole = {key: found[key] for key in SAID_OF_SCAN if key in found} | {"flags": flags}
            whole["simulated"] = "yes" if found["simulated"] else "no"
            if (familiarity := found.get("familiarity")) is not None:
                whole["strangeness"] = round(familiarity["strangeness"], 3)
            yield {**who, "status": "ok", **whole}
            yield from ({**who, "status": "ok", **row} for row in found["slices"])

    table, record = run.path / "predictions.csv", run.path / "run.json"
    said = read_json(record, "run", "use another --output_dir")
    keep_changed(table, said.get("table_sha256"))
    write_table(table, COLUMNS, rows())
    write_json(record, {**said, "table_sha256": sha256(table)})
    note = note_on(model, sum(simulated), len(simulated)) if simulated else note_on(model, 0)
    write_summary(run.path / "summary.html", table, run, model, note)
    run.clear_log()
    say_former(run.path, "_prediction.json", {scan.scan_id for scan in scans}, table.name)
    print(f"{len(scans) - len(failed)} of {len(scans)} scans done, see {run.path / 'summary.html'}")
    if failed:
        first = next(iter(failed.values()))
        raise InputError(
            f"{len(failed)} of {len(scans)} scans failed, the others are done; {table} says why (first: {first})"
        )
