#!/usr/bin/env python3
"""The Q-Net bundle as a BIDS App: maps or raw echoes of a BIDS data set in, predictions, reports and tables out.

    apps/bids_app/run.py BIDS_DIR OUTPUT_DIR participant [--participant-label 01 02] [--n-cpus 4]
    apps/bids_app/run.py BIDS_DIR OUTPUT_DIR group

`participant` may run many times at once, on different participants; `group` once they are done. README.md says what is
written. Research use only, not for clinical use.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

BUNDLE = Path(os.environ.get("QNET_BUNDLE") or Path(__file__).resolve().parents[2] / "bundle")
sys.path.insert(0, str(BUNDLE))

from scripts.errors import InputError, input_error_in, system_reason  # noqa: E402
from scripts.files.json_file import read_json  # noqa: E402
from scripts.files.table import read_table  # noqa: E402
from scripts.files.writing import check_output_dir, write_json, write_table, write_text  # noqa: E402
from scripts.maps.bids import BIDS_VERSION, anat_folders, read_participants  # noqa: E402
from scripts.provenance import RESEARCH_ONLY, bundle_version  # noqa: E402
from scripts.runs.bars import Bar  # noqa: E402
from scripts.runs.failures import NOT_DONE, check_all_done  # noqa: E402
from scripts.runs.outputs import check_apart, check_derivative  # noqa: E402
from scripts.runs.outputs import describe as describe_derivative  # noqa: E402

NAME = "Q-Net bundle, BIDS App"
#: What BIDS has no names for, and what says so to the validator.
IGNORED = ("*_prediction.json", "*_evidence.nii.gz", "*_report.html", "*_report.pdf", "sub-*.html", "predictions.csv",
           "summary.html", "run.json")  # fmt: skip
#: What is written beside the participants' folders.
WRITTEN = ("README.md", ".bidsignore", "participants.tsv", "participants.json", "predictions.csv", "summary.html",
           "run.json")  # fmt: skip
#: Keys of the configs that the app itself sets.
MANAGED = ("bundle_root", "input", "participants", "output_dir")
COLUMNS = {
    "participant_id": {"Description": "Participant of the data set"},
    "age": {"Description": "Age as the data set has it", "Units": "year"},
    "sex": {"Description": "Sex as the data set has it"},
    "probability_HH": {"Description": "Q-Net's probability of hereditary hemochromatosis of the only scan"},
    "class": {"Description": "Side of the threshold", "Levels": {"HH": "hereditary hemochromatosis", "HC": "control"}},
}
README = f"""Q-Net's results for a BIDS data set. {RESEARCH_ONLY}

sub-*/ holds each scan's prediction, evidence map and report, and maps that were reconstructed from raw echoes.
participants.tsv has a row a participant, predictions.csv one a scan and slice, summary.html shows all of them: they are
made by the analysis level `group`. derivatives/ holds the runs that made this; the same command goes on with them.
"""


def parser() -> argparse.ArgumentParser:
    """The arguments that BIDS Apps have, and what is our own."""
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("bids_dir", type=Path, help="the BIDS data set")
    made.add_argument("output_dir", type=Path, help="gets the results as BIDS derivatives")
    made.add_argument("analysis_level", choices=("participant", "group"))
    made.add_argument(
        "--participant-label", "--participant_label", nargs="+", metavar="LABEL",
        help="participants to work on, with or without sub-; all where it is left out",
    )  # fmt: skip
    made.add_argument(
        "--n-cpus", "--n_cpus", type=int, default=os.cpu_count() or 1, metavar="N",
        help="processor cores to use; as many participants are worked on at a time (default: all cores)",
    )  # fmt: skip
    made.add_argument("--weights", type=Path, help="a model of your own (default: the shipped one, simulated cohort)")
    made.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="settings",
        help="a key of the bundle's configs/inference.yaml; may be given several times",
    )  # fmt: skip
    made.add_argument("-v", "--version", action="version", version=bundle_version())
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one analysis level.

    Raises:
        InputError: a folder, label or number that cannot be, or participants that failed.
    """
    given = parser().parse_args(arguments)
    if not given.bids_dir.is_dir():
        raise InputError(f"bids_dir: {given.bids_dir} is no folder; give a BIDS data set")
    if given.n_cpus < 1:
        raise InputError(f"--n-cpus is {given.n_cpus}; give 1 or more")
    for text in given.settings:
        key, equals, _ = text.partition("=")
        if not (key and equals):
            raise InputError(f"--set {text}: has no key or no value; write KEY=VALUE")
        if key in MANAGED:
            raise InputError(f"--set {text}: the app sets {key} itself, from BIDS_DIR and OUTPUT_DIR; leave it out")
    if given.weights is not None and not given.weights.is_file():
        raise InputError(f"--weights {given.weights}: no such file; give a model.pt")
    check_apart({"output_dir": given.output_dir}, {"bids_dir": given.bids_dir})
    labels = chosen(given.bids_dir, given.participant_label)
    check_derivative(given.output_dir, WRITTEN, "output_dir")
    output = check_output_dir(given.output_dir, 5e6 * len(labels))
    describe(output)
    if given.analysis_level == "group":
        group(given.bids_dir, output, labels)
    else:
        keys = dict(text.split("=", 1) for text in given.settings)
        if given.weights is not None:
            keys["weights"] = str(given.weights.resolve())
        participants(given.bids_dir.resolve(), output.resolve(), labels, keys, given.n_cpus)


def chosen(bids_dir: Path, labels: Sequence[str] | None) -> list[str]:
    """The participants to work on, as `sub-01`.

    Raises:
        InputError: the data set has none, or not one that was asked for.
    """
    there = sorted(path.name for path in bids_dir.glob("sub-*") if path.is_dir())
    if not there:
        raise InputError(f"bids_dir: {bids_dir} holds no sub-* folder; give a BIDS data set")
    if labels is None:
        return there
    wanted = [f"sub-{label.removeprefix('sub-')}" for text in labels for label in text.replace(",", " ").split()]
    unknown = [label for label in wanted if label not in there]
    if unknown or not wanted:
        raise InputError(
            f"--participant-label: the data set has no {unknown[0] if unknown else 'participant without a name'};"
            f" choose among {', '.join(there[:5])}{' ...' if len(there) > 5 else ''}"
        )
    return list(dict.fromkeys(wanted))


def describe(output: Path) -> None:
    """What makes a folder a BIDS derivative of ours."""
    content = {
        "Name": "Q-Net: hereditary hemochromatosis in brain MRI",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": NAME, "Version": bundle_version(), "Description": RESEARCH_ONLY}],
    }
    describe_derivative(output, content)
    write_text(output / "README.md", README)
    write_text(output / ".bidsignore", "\n".join(IGNORED) + "\n")


# --- participants -----------------------------------------------------------------------------------------------------


def participants(bids_dir: Path, output: Path, labels: Sequence[str], keys: Mapping[str, str], cpus: int) -> None:
    """Work on every participant, several at a time; one that fails does not stop the others.

    Raises:
        InputError: some failed.
    """
    at_a_time = min(cpus, len(labels))
    failed: dict[str, str] = {}
    with ThreadPoolExecutor(at_a_time) as pool:
        jobs = {pool.submit(one, bids_dir, output, label, keys, cpus // at_a_time): label for label in labels}
        for job in Bar(as_completed(jobs), total=len(jobs), desc="participants", unit="participant"):
            try:
                job.result()
            except InputError as error:
                failed[jobs[job]] = str(error)
                Bar.write(f"{jobs[job]}: {error}", file=sys.stderr)
    if failed:
        label, message = min(failed.items())
        raise InputError(
            f"{len(failed)} of {len(labels)} participants failed, the others are done ({label}: {message})"
        )


def inferences(label: str) -> tuple[str, str]:
    """Folders of a participant's runs: of maps that were there or, where none were, reconstructed; and of those that
    were reconstructed beside others."""
    return f"inference-{label}", f"inference-{label}-reconstructed"


def one(bids_dir: Path, output: Path, label: str, keys: Mapping[str, str], cpus: int) -> None:
    """Maps where a session has some, else maps from its raw echoes; then inference, which finds the basal ganglia.

    Of several sessions one that fails does not stop the others; what they got is shown.

    Raises:
        InputError: what the steps that failed say.
    """
    runs = output / "derivatives"
    runs.mkdir(exist_ok=True)
    table = runs / f"{label}_participants.tsv"
    write_table(table, ["participant_id"], [{"participant_id": label}])
    raw, others = by_kind(bids_dir, label)
    failed: list[InputError] = []

    def reconstruct(source: Path) -> Path:
        made = runs / f"maps-{label}"
        try:
            step("reconstruct", "reconstruct", cpus, input=source, participants=table, output_dir=made)
        except InputError as error:
            failed.append(error)
        show(made / label, output / label)
        return made

    def infer(source: Path, name: str) -> None:
        own = {"localise_dir": runs / "localise", "num_threads": 1}
        given = {"input": source, "participants": table, "output_dir": runs / name, **own, **keys}  # the user's win
        try:
            step("run", "inference", cpus, **given)
        except InputError as error:
            failed.append(error)
        show(runs / name / label, output / label)

    of_maps, of_echoes = inferences(label)
    if not raw or not others:
        made = reconstruct(bids_dir) if raw else bids_dir
        if not raw or has_maps(made / label):
            infer(made, of_maps)
    else:
        with tempfile.TemporaryDirectory(prefix="qnet-") as scratch:
            infer(view(bids_dir, Path(scratch) / "maps", others), of_maps)
            made = reconstruct(view(bids_dir, Path(scratch) / "echoes", raw))
        if has_maps(made / label):
            infer(made, of_echoes)
    if failed:
        raise InputError("; also: ".join(map(str, failed)))


def has_maps(folder: Path) -> bool:
    """Whether a QSM lies anywhere in a folder."""
    return any(folder.glob("**/*_Chimap.nii*"))


def by_kind(bids_dir: Path, label: str) -> tuple[list[Path], list[Path]]:
    """A participant's `anat` folders that hold raw echoes and no maps; and the others. Where none has maps, all that
    may be reconstructed is."""
    from scripts.maps.bids import RAW

    folders = [folder for folder in anat_folders(bids_dir) if folder.relative_to(bids_dir).parts[0] == label]
    if not any(map(has_maps, folders)):
        return folders, []
    raw = [
        folder
        for folder in folders
        if not has_maps(folder) and any(folder.glob(f"*_echo-*_{suffix}.nii*") for suffix in RAW)
    ]
    return raw, [folder for folder in folders if folder not in raw]


def view(bids_dir: Path, place: Path, folders: Sequence[Path]) -> Path:
    """A folder of links to some `anat` folders of a data set and to what lies beside its participants."""
    for path in [*folders, *(path for path in bids_dir.iterdir() if not path.name.startswith("sub-"))]:
        link = place / path.relative_to(bids_dir)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())
    return place


def step(run_id: str, config: str, cpus: int, /, **keys: Any) -> None:
    """Run one of the bundle's configs in a process of its own.

    Raises:
        InputError: its last line.
    """
    file = BUNDLE / "configs" / f"{config}.yaml"
    command = [sys.executable, "-m", "monai.bundle", "run", run_id, "--config_file", file, "--bundle_root", BUNDLE]
    command += [word for key, value in keys.items() for word in (f"--{key}", value)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, cpus)), "TQDM_DISABLE": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, errors="replace")
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        said = next((line for line in reversed(lines) if line.startswith("error: ")), None)
        if said is None and done.returncode < 0:
            said = f"{config} was killed (signal {-done.returncode}), perhaps for want of memory; lower --n-cpus"
        raise InputError(
            (said or f"{config}: {lines[-1] if lines else 'failed without a word'}").removeprefix("error: ")
        )


def show(made: Path, target: Path) -> None:
    """Give the files of a run their place among the results: the same file under a second name where the disk can."""
    for path in (path for path in sorted(made.rglob("*")) if path.is_file()):
        place = target / path.relative_to(made)
        if any(part.startswith(".") for part in path.relative_to(made).parts):
            continue  # half written by a run that was killed
        if place.exists() and (place.samefile(path) or place.stat().st_mtime_ns == path.stat().st_mtime_ns):
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_name(f".part-qnet-{place.name}")
        part.unlink(missing_ok=True)
        try:
            os.link(path, part)
        except OSError:
            shutil.copy2(path, part)
        os.replace(part, place)


# --- group ------------------------------------------------------------------------------------------------------------


def group(bids_dir: Path, output: Path, labels: Sequence[str]) -> None:
    """Tables and page of all participants that are done.

    Raises:
        InputError: nobody is done, the runs are of different settings, or some participants are not done.
    """
    from scripts.inference.batch import RunFolder, told_apart
    from scripts.inference.results import COLUMNS as PREDICTED
    from scripts.inference.summary import write_summary

    runs = {name: output / "derivatives" / name for label in labels for name in inferences(label)}
    records = {
        name: read_json(run / "run.json", "run") for name, run in runs.items() if (run / "predictions.csv").is_file()
    }
    if not records:
        raise InputError(f"output_dir: {output} holds nobody's results; run the analysis level participant first")
    first, record = next(iter(records.items()))
    for label, other in records.items():
        for key in sorted({*record["run"], *other["run"]}):
            if record["run"].get(key) != other["run"].get(key):
                what = told_apart(key, other["run"].get(key), record["run"].get(key))
                raise InputError(
                    f"{label}: run participant again with one set of settings, into a new folder; beside those of"
                    f" {first}, its results are of {what}"
                )

    table = output / "predictions.csv"
    write_table(table, PREDICTED, (row for label in labels for row in rows_of(output / "derivatives", label)))
    scans = [row for row in read_table(table, ["scan_id", "status", "slice"]) if not row["slice"]]
    write_people(bids_dir, output, scans)
    settings, provenance = record["run"], record["provenance"]
    write_json(output / "run.json", {"run": settings, "provenance": provenance})
    folder = RunFolder(output, settings, provenance, settings["outputs"])
    folder.resumed = sum(row["status"] == "ok" for row in scans)
    made = sorted(output.glob("sub-*/**/*_prediction.json"))
    model = next((read_json(path, "prediction", "run the analysis level participant again") for path in made), None)
    if model is None:
        raise InputError(f"{table}: no scan could be classified, and it says why (first: {scans[0]['message']})")
    about = {
        "name": "Q-Net",
        "version": model["provenance"]["software"]["qnet_hemochromatosis"],
        "sha256": settings["weights_sha256"],
    }
    write_summary(output / "summary.html", table, folder, about, model["note"])
    failed = [row for row in scans if row["status"] != "ok"]
    print(f"{len(scans) - len(failed)} of {len(scans)} scans, see {output / 'summary.html'}")
    check_all_done(scans, table)


def rows_of(runs: Path, label: str) -> Iterator[dict[str, Any]]:
    """A participant's rows of predictions, and one of each scan whose raw echoes became no maps."""
    told: set[str] = set()
    for name in inferences(label):
        if (runs / name / "predictions.csv").is_file():
            for row in read_table(runs / name / "predictions.csv", ["scan_id", "status", "slice"]):
                told.add(row["scan_id"])
                yield row
    reconstructed = runs / f"maps-{label}" / "reconstruct.tsv"
    if reconstructed.is_file():
        for row in read_table(reconstructed, ["scan_id", "status", "message"]):
            if row["status"] != "ok" and row["scan_id"] not in told:
                told.add(row["scan_id"])
                yield row
    if not told:
        message = "was not done; run the analysis level participant on it"
        yield {"participant_id": label, "scan_id": label, "status": NOT_DONE, "message": message}


def write_people(bids_dir: Path, output: Path, scans: Sequence[Mapping[str, str]]) -> None:
    """`participants.tsv`: what the data set says of each participant, and its only scan's result."""
    given = bids_dir / "participants.tsv"
    known = read_participants(given, ["participant_id"]) if given.is_file() else {}
    found = []
    for label in sorted({row["participant_id"] for row in scans}):
        own = [row for row in scans if row["participant_id"] == label and row["status"] == "ok"]
        if not (output / label).is_dir():
            continue  # BIDS wants a folder a row
        about = {key: known.get(label, {}).get(key) or "n/a" for key in ("age", "sex")}
        result = {key: own[0][key] if len(own) == 1 else "n/a" for key in ("probability_HH", "class")}
        found.append({"participant_id": label, **about, **result})
    write_table(output / "participants.tsv", list(COLUMNS), found)
    write_json(output / "participants.json", COLUMNS)


if __name__ == "__main__":
    try:
        main()
    except Exception as problem:
        message = input_error_in(problem) or system_reason(problem)
        if message is None:
            raise
        sys.exit(f"error: {message}")
