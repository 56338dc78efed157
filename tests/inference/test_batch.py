"""A batch of scans: shared, read ahead, resumed after a kill, refused with changed settings, summed up on a page."""

import csv
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from blobs import REPOSITORY, write_cohort
from matplotlib.colors import to_hex
from monai.data import MetaTensor
from refusal import refused
from test_inference import SETTINGS, files, run, table, workflow

from scripts.errors import system_reason
from scripts.inference.batch import RunFolder, ScanStream, origin_of, told_apart
from scripts.inference.results import ResultWriter, model_info, note_on
from scripts.inference.summary import histogram, write_summary
from scripts.maps.bids import find_scans
from scripts.maps.scan import Scan
from scripts.model.networks import QNet, save_weights, write_tensors
from scripts.model.trust import SEEN, STRANGE
from scripts.reporting.style import GROUP_STYLE
from scripts.runs.failures import NOT_DONE

FAST = {"outputs": ["json", "evidence"]}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    save_weights(QNet(num_slices=4, hidden_size=8), path, torch.float16)
    return path


@pytest.fixture(scope="module")
def batch_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("batch") / "cohort", 6)


def predictions(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*_prediction.json")}


def folder(path: Path, outputs: tuple[str, ...] = ("json",), **settings) -> RunFolder:
    return RunFolder(path, settings, {}, outputs)


def item(name: str, *paths: Path) -> Scan:
    return Scan(participant_id=name, scan_id=name, maps=tuple(map(str, paths)))


# --- resuming -------------------------------------------------------------------------------------


def command(weights: Path, cohort: Path, output: Path, *words: str) -> list[str]:
    arguments = {"bundle_root": "bundle", "weights": weights, "dataset_dir": cohort, "output_dir": output, **SETTINGS}
    arguments |= {"outputs": "['json','evidence']", "num_threads": 1}
    given = [text for key, value in arguments.items() for text in (f"--{key}", str(value))]
    return [*words, "-m", "monai.bundle", "run", "--config_file", "bundle/configs/inference.yaml", *given]


def start(words: list[str], **options) -> subprocess.Popen:
    environment = os.environ | {"PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, cwd=REPOSITORY, env=environment, text=True, **options)


def test_a_killed_run_goes_on_where_it_stopped(weights, tmp_path):
    cohort, output = write_cohort(tmp_path / "cohort", 40), tmp_path / "output"
    process = start(command(weights, cohort, output, sys.executable), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while len(predictions(output)) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = predictions(output)
    assert 3 <= len(before) < 40
    assert not (output / "predictions.csv").exists()

    run(workflow(weights, cohort, output, **FAST))
    after = predictions(output)
    assert len(after) == 40 and {name: after[name] for name in before} == before  # not run again
    scans = [row for row in table(output) if not row["slice"]]
    assert [row["scan_id"] for row in scans] == [f"sub-{n:02d}" for n in range(1, 41)]
    assert all(row["status"] == "ok" for row in scans)
    assert not any(name.startswith("progress") for name in files(output))
    assert f"{len(before)} were done by an earlier run" in (output / "summary.html").read_text()

    run(workflow(weights, cohort, tmp_path / "fresh", **FAST))
    assert table(tmp_path / "fresh") == table(output)


def test_only_what_changed_or_failed_is_run_again(weights, cohort, tmp_path):
    output, damaged = tmp_path / "output", cohort / "sub-03" / "anat" / "sub-03_T1w.nii.gz"
    good = damaged.read_bytes()
    damaged.write_bytes(good[:100])
    with refused("1 of 4 scans failed"):
        run(workflow(weights, cohort, output, **FAST))
    before = predictions(output)
    damaged.write_bytes(good)
    changed = cohort / "sub-02" / "anat" / "sub-02_T1w.nii.gz"
    image = nib.load(changed)
    nib.save(nib.Nifti1Image(image.get_fdata()[::-1], image.affine), changed)
    os.utime(cohort / "sub-01" / "anat" / "sub-01_T1w.nii.gz", (1, 1))  # touched, the same content
    (output / "sub-04" / "sub-04_evidence.nii.gz").write_bytes(b"")  # as a full disk leaves it
    run(workflow(weights, cohort, output, **FAST))
    assert nib.load(output / "sub-04" / "sub-04_evidence.nii.gz").get_fdata().any()
    csv_of_run = output / "predictions.csv"
    theirs = csv_of_run.read_text().replace("scan_id", "scan_id,seen_by", 1)
    csv_of_run.write_text(theirs)
    tampered = output / "sub-04" / "sub-04_prediction.json"
    tampered.write_text(json.dumps(json.loads(tampered.read_text()) | {"probability_HH": 7}))
    lost = output / "sub-03" / "sub-03_prediction.json"  # whose list of files says that nothing is due
    content = json.loads(lost.read_text())
    lost.write_text(json.dumps({**content, "run": {**content["run"], "files": {}}}))
    (output / "sub-03" / "sub-03_evidence.nii.gz").unlink()
    run(workflow(weights, cohort, output, **FAST))
    assert json.loads(tampered.read_text())["probability_HH"] <= 1
    assert (output / "sub-03" / "sub-03_evidence.nii.gz").is_file()
    after = predictions(output)
    again = {name for name in after if after[name] != before.get(name)}
    assert again == {f"sub-0{n}_prediction.json" for n in (2, 3, 4)}
    assert (output / "predictions_of_yours.csv").read_text() == theirs and "seen_by" not in csv_of_run.read_text()
    assert all(row["status"] == "ok" for row in table(output))


def test_a_sidecar_that_came_or_was_corrected_makes_a_result_an_old_one(cohort):
    scan = find_scans(cohort)[0]
    before = origin_of(scan, {}).basis()
    sidecar = cohort / "Chimap.json"  # of all subjects
    for units in ("ppm", "ppb"):
        assert origin_of(scan, {}).made(before)
        sidecar.write_text(json.dumps({"Units": units}))
        assert not origin_of(scan, {}).made(before)
        before = origin_of(scan, {}).basis()


def test_a_cohort_that_now_calls_itself_simulated_gets_results_that_say_so(weights, cohort, tmp_path):
    named = cohort / "dataset_description.json"
    for name, simulated in (("Patients", "no"), ("Simulated heads", "yes")):
        named.write_text(json.dumps({"Name": name, "BIDSVersion": "1.10.0"}))
        run(workflow(weights, cohort, tmp_path / "output", outputs=["json"]))
        assert {row["simulated"] for row in table(tmp_path / "output") if not row["slice"]} == {simulated}


def test_a_map_that_was_not_fetched_fails_its_own_scan_alone(weights, cohort, tmp_path):
    missing = cohort / "sub-02" / "anat" / "sub-02_T1w.nii.gz"
    missing.unlink()
    missing.symlink_to("../.git/annex/objects/none")
    with refused("1 of 4 scans failed"):
        run(workflow(weights, cohort, tmp_path / "output", **FAST))
    assert len(predictions(tmp_path / "output")) == 3


def test_changed_settings_are_refused_by_their_key_before_any_work(weights, batch_cohort, tmp_path):
    run(workflow(weights, batch_cohort, tmp_path / "output", **FAST))
    before = predictions(tmp_path / "output")
    with refused(tmp_path / "output" / "run.json", "threshold 0.5, not 0.7", "--output_dir"):
        run(workflow(weights, batch_cohort, tmp_path / "output", threshold=0.7, **FAST))
    assert predictions(tmp_path / "output") == before


def test_other_weights_are_changed_settings(tmp_path):
    folder(tmp_path, weights_sha256="a").open()
    folder(tmp_path, weights_sha256="a").open()
    with refused("run.json: use another --output_dir", "other weights"):
        folder(tmp_path, weights_sha256="b").open()


def test_a_calibration_made_since_is_told_in_words_and_not_by_hashes(tmp_path):
    folder(tmp_path, calibration_sha256="ab" * 32).open()
    words = told_apart("calibration_sha256", "ab" * 32, "cd" * 32)
    assert "abab" not in words and "cdcd" not in words
    with refused(f"run.json: use another --output_dir; the results there are of {words}"):
        folder(tmp_path, calibration_sha256="cd" * 32).open()


def test_what_a_killed_run_logged_is_not_counted_again(tmp_path):
    run = folder(tmp_path)
    run.open()
    run.done(item("sub-01"), "failed", message="was full")
    again = folder(tmp_path)
    again.open()
    assert again.failures() == {} and not list(tmp_path.glob("progress-*.csv"))


def test_a_folder_with_a_damaged_record_is_refused(tmp_path):
    (tmp_path / "run.json").write_text("{")
    with refused(tmp_path / "run.json"):
        folder(tmp_path).open()


# --- several processes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["predictions.csv", "summary.html", "progress-0.csv", "sub-01_error.log", "a/a_report.pdf"]
)
def test_somebody_elses_file_is_never_written_over(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with refused(tmp_path / name, "--output_dir"):
        folder(tmp_path, ("json", "report")).open()
    assert (tmp_path / name).read_text() == "mine"
    assert not (tmp_path / "run.json").exists()


def test_two_processes_share_the_scans_and_make_the_same_table(weights, batch_cohort, tmp_path):
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = start([sys.executable, *words, *command(weights, batch_cohort, tmp_path / "two")], stderr=subprocess.PIPE)
    errors = done.communicate()[1]
    assert done.returncode == 0, errors[-2000:]
    run(workflow(weights, batch_cohort, tmp_path / "one", **FAST))
    assert "2 processes" in (tmp_path / "two" / "summary.html").read_text()
    ours, theirs = table(tmp_path / "one"), table(tmp_path / "two")
    assert [row["scan_id"] for row in ours] == [row["scan_id"] for row in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert float(a["probability_HH"]) == pytest.approx(float(b["probability_HH"]), abs=1e-5)


# --- streaming ------------------------------------------------------------------------------------


def test_scans_are_read_ahead_but_never_more_than_there_are_threads():
    begun = []

    def transform(scan: dict) -> dict:
        begun.append(scan["scan_id"])
        return scan

    stream = iter(ScanStream([item(f"sub-{n}") for n in range(20)], transform, num_threads=3))
    for taken in range(1, 6):
        assert next(stream)["scan_id"] == f"sub-{taken - 1}"  # in order
        time.sleep(0.05)
        assert taken + 1 <= len(begun) <= taken + 3
    stream.close()


def test_num_threads_below_one_is_refused():
    with refused("num_threads"):
        ScanStream([], lambda scan: scan, num_threads=0)


# --- hostile names --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../sub-01", "..", "sub/../../01", "/sub-01", "C:\\sub", "sub\n01", ".hidden", "-x", ""]
)
def test_a_name_that_leads_elsewhere_fails_its_scan_and_writes_nothing(tmp_path, name):
    run_folder = folder(tmp_path / "a" / "output")
    run_folder.path.mkdir(parents=True)
    assert list(ScanStream([replace(item("sub-01"), scan_id=name)], lambda scan: scan, run_folder)) == []
    assert "cannot be part of a file name" in run_folder.failures()[name]
    assert files(tmp_path) == {"a/output/progress-0.csv"}


@pytest.mark.parametrize("name", ["sub-01", "sub-01_ses-2_acq-a.b", "sub-Åse", "sub-01 copy"])
def test_ordinary_names_are_kept(tmp_path, name):
    assert folder(tmp_path).stem(item(name)) == tmp_path / name / name


# --- the page -------------------------------------------------------------------------------------


def write_predictions(path: Path, rows: list[dict]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(
            file,
            [
                "participant_id",
                "scan_id",
                "status",
                "slice",
                "probability_HH",
                "class",
                "message",
                "flags",
                "calibrated_probability_HH",
                "answer",
            ],
        )
        writer.writeheader()
        writer.writerows(rows)


def test_the_summary_counts_scans_links_reports_and_escapes_what_it_shows(tmp_path):
    ok = {"participant_id": "sub 1", "scan_id": "sub 1", "status": "ok"}
    rows = [
        {**ok, "probability_HH": 0.9, "class": "HH"},
        {**ok, "probability_HH": 0.8, "class": "HH", "slice": 0},
        {"participant_id": "x", "scan_id": "<b>x", "status": "failed", "message": "<script>alert(1)</script>"},
    ]
    write_predictions(tmp_path / "predictions.csv", rows)
    model = {"name": "Q-Net", "version": "1", "sha256": "ab"}
    run_folder = folder(tmp_path, ("json", "report"), threshold=0.5)
    for name in ("sub 1_sr.dcm", "sub 1_report.html", "sub 11_report.html"):
        (tmp_path / "sub 1").mkdir(exist_ok=True)
        (tmp_path / "sub 1" / name).touch()
    write_summary(tmp_path / "summary.html", tmp_path / "predictions.csv", run_folder, model, "Research use only.")
    page = (tmp_path / "summary.html").read_text()
    assert "<b>2</b>scans" in page and "<b>1</b>HH" in page and "<b>0</b>HC" in page and "<b>1</b>failed" in page
    links = re.findall(r'href="(sub[^"]*)"', page)
    assert links == ["sub%201/sub%201_report.html", "sub%201/sub%201_sr.dcm"]
    assert "<script>alert" not in page and "<b>x" not in page


def test_the_summary_counts_flags_but_not_scans_that_the_weights_know_and_names_the_probability(tmp_path):
    rows = [
        {"participant_id": name, "scan_id": name, "status": "ok", "class": "HH", "probability_HH": 0.813,
         "flags": flags, "calibrated_probability_HH": 0.627, "answer": "HH"}
        for name, flags in (("a", SEEN), ("b", f"{STRANGE}, 1.2 times the limit; {SEEN}"), ("c", ""))
    ]  # fmt: skip
    rows.append({"participant_id": "d", "scan_id": "d", "status": NOT_DONE})
    write_predictions(tmp_path / "predictions.csv", rows)
    model = {"name": "Q-Net", "version": "1", "sha256": "ab"}
    run_folder = folder(tmp_path, threshold=0.5)
    write_summary(tmp_path / "summary.html", tmp_path / "predictions.csv", run_folder, model, "Research use only.")
    page = (tmp_path / "summary.html").read_text()
    assert "<b>1</b>with flags" in page and page.count(f"Note: {SEEN}") == 2
    assert "<th>calibrated P(HH)</th>" in page and "0.627" in page and "0.813" not in page
    assert "<b>0</b>failed" in page and "<b>1</b>not done yet" in page
    assert page.count("do not rely on it") == 1 and "unlikely maps" not in page


def test_each_probability_is_drawn_on_its_side_of_the_threshold():
    (axes,) = histogram([0.0, 0.04, 0.5, 0.97, 1.0], 0.5).axes
    bars = {round(bar.get_x(), 2): (bar.get_height(), to_hex(bar.get_facecolor())) for bar in axes.patches}
    hh, hc = GROUP_STYLE["HH"].colour, GROUP_STYLE["HC"].colour
    assert {x: bar for x, bar in bars.items() if bar[0]} == {0.0: (2, hc), 0.5: (1, hh), 0.95: (2, hh)}


def test_performance_is_claimed_for_the_weights_it_was_measured_with_only(weights):
    shipped = model_info(REPOSITORY / "bundle" / "models" / "model.pt")
    metadata = json.loads((REPOSITORY / "bundle" / "configs" / "metadata.json").read_text())
    assert shipped["performance"] == metadata["eval_metrics"] and shipped["simulated"] is True
    assert "trained on a simulated cohort" in note_on(shipped, 0)
    assert "scan" not in note_on(shipped, 0).split("real scans.")[1]
    assert note_on(shipped, 1).endswith("The scan is simulated.")
    assert note_on(shipped, 2, 2).endswith("The scans are simulated.")
    assert note_on(shipped, 1, 3).endswith("1 of the 3 scans is simulated, as their rows say.")
    record = json.loads((REPOSITORY / "bundle" / "models" / "model.json").read_text())
    assert shipped["trained_with"] == record["software"]["qnet_hemochromatosis"] != shipped["version"]
    other = model_info(weights)
    assert other["performance"] == {} and other["simulated"] is other["trained_with"] is None
    assert note_on(other, 0) == "Research use only, not for clinical use."


@contextmanager
def largest_file_written(size: int) -> Iterator[None]:
    """The system refuses to write more into a file, as where a disk or a quota ends."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)


def test_a_scan_that_the_disk_cannot_take_leaves_its_reason_and_no_half_of_its_files(tmp_path):
    (tmp_path / "map.nii").write_bytes(b"")
    scan = item("sub-01", tmp_path / "map.nii")
    run = RunFolder(tmp_path, {}, {"software": {}, "input": {}}, ("json", "evidence", "report"))
    image = MetaTensor(torch.rand(3, 12, 16, 4), affine=torch.eye(4).double())
    result = {"probability_HH": 0.7, "class": "HH", "threshold": 0.5}
    result["slices"] = [{"slice": n, "input_slice": n, "probability_HH": 0.5} for n in range(4)]
    output = {"result": result, "image": image, "pred": image[:1], "evidence": torch.zeros(1, 12, 16, 4)}
    model = {"name": "Q-Net", "version": "0", "sha256": "6c" * 32, "trained_on": None, "simulated": None}
    model |= {"performance": {}, "performance_of": None, "trained_with": None}
    writer = ResultWriter(run, ScanStream([scan], dict), model)
    with largest_file_written(20_000):  # evidence fits, the page does not
        writer.write(scan, output)
    assert "ulimit -f" in run.failures()["sub-01"]
    assert not (tmp_path / "sub-01").exists() and not list(tmp_path.glob("*.log"))
    writer.write(scan, output)
    assert sorted(path.name for path in (tmp_path / "sub-01").iterdir()) == [
        f"sub-01_{ending}" for ending in ("evidence.nii.gz", "prediction.json", "report.html", "report.pdf")
    ]
    assert run.prediction(scan) is not None


def test_what_libraries_say_of_a_file_that_was_not_written_whole_is_told_as_the_disk_s(tmp_path):
    for write in (
        lambda: write_tensors(tmp_path / "model.pt", {"a": torch.rand(9000)}),
        lambda: torch.save({"a": torch.rand(9000)}, tmp_path / "model.pt"),
        lambda: np.save(tmp_path / "a.npy", np.zeros(9000)),
    ):
        with largest_file_written(3000), pytest.raises((OSError, RuntimeError)) as caught:
            write()
        assert "ulimit -f" in (system_reason(caught.value) or "")
    assert system_reason(RuntimeError("shapes do not fit")) is None
