"""Inference as a user runs it: what it writes, and what it says when the input is bad."""

import csv
import errno
import gzip
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from blobs import BOX, BUNDLE, REPOSITORY, SHAPE, stacked, write_cohort
from monai.bundle import ConfigWorkflow
from monai.data import MetaTensor, decollate_batch
from recorded import RECORDED
from refusal import refused

from scripts.errors import report_in_one_line
from scripts.inference.batch import ScanStream
from scripts.inference.inputs import find_input
from scripts.maps.bids import find_scans
from scripts.maps.identity import known_as
from scripts.maps.scan import MAPS, Scan
from scripts.model.evidence import Evidence
from scripts.model.networks import QNet, load_weights, save_weights
from scripts.model.outputs import QNetInferer, Resultd, input_slices, to_input_grid
from scripts.model.trust import CALIBRATED, SEEN, write_calibration
from scripts.provenance import check_trained_with
from scripts.runs.outputs import LOCK
from scripts.training.preprocessing import preprocessing

SETTINGS = {"spatial_size": [32, 32], "num_slices": 4, "hidden_size": 8, "nuclei": "known", "weights_record": "config"}


def infer(weights: Path, dataset_dir: Path, output_dir: Path, **changed) -> subprocess.CompletedProcess:
    """`python -m monai.bundle run --config_file bundle/configs/inference.yaml ...` from the repository's root."""
    settings = {"bundle_root": "bundle", "device": "cpu", "weights": weights, "dataset_dir": dataset_dir}
    settings |= {"output_dir": output_dir, **SETTINGS, **changed}
    arguments = [text for key, value in settings.items() for text in (f"--{key}", str(value))]
    return subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", "--config_file", "bundle/configs/inference.yaml", *arguments],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


def assert_ends_with_one_error_line(done: subprocess.CompletedProcess, *words: str | Path) -> None:
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert [line.startswith("error: ") for line in lines].count(True) == 1
    assert lines[-1].startswith("error: ")
    assert "Traceback" not in done.stderr + done.stdout
    for word in words:
        assert str(word) in lines[-1]


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != LOCK}


def table(output_dir: Path) -> list[dict[str, str]]:
    with (output_dir / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    save_weights(QNet(num_slices=4, hidden_size=8), path, torch.float16)
    return path


@pytest.fixture(scope="module")
def good(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess, Path, Path]:
    """One run over two scans: the process, its cohort and its output folder."""
    folder = tmp_path_factory.mktemp("good")
    cohort = write_cohort(folder / "cohort", 2)
    (cohort / "participants.tsv").unlink()  # inference needs no labels
    return infer(weights, cohort, folder / "output"), cohort, folder / "output"


# --- a good run -----------------------------------------------------------------------------------


def test_a_good_run_ends_well_and_leaves_only_results(good):
    done, _, output = good
    assert done.returncode == 0, done.stderr
    assert "error:" not in done.stderr
    scans = {
        f"{name}/{name}_{kind}"
        for name in ("sub-01", "sub-02")
        for kind in ("prediction.json", "evidence.nii.gz", "report.html", "report.pdf")
    }
    assert files(output) == {"predictions.csv", "summary.html", "run.json", *scans}


def test_the_json_holds_what_the_network_says_of_the_scan(good, weights):
    _, cohort, output = good
    network = load_weights(QNet(num_slices=4, hidden_size=8), weights)
    steps = preprocessing("cropped", [32, 32], 4, [0.5, 99.5], "annotated")
    for scan in find_scans(cohort):
        name = scan.scan_id
        found = json.loads((output / name / f"{name}_prediction.json").read_text())
        image = steps(scan.item())["image"].as_tensor()[None]
        with torch.no_grad():
            expected = float(torch.softmax(network(image), 1)[0, 1])
            slices = torch.softmax(network.image_logits(image), 2)[0, :, 1].tolist()
        assert found["participant_id"] == found["scan_id"] == name
        assert found["probability_HH"] == pytest.approx(expected, abs=1e-5)
        assert found["class"] == ("HH" if expected >= 0.5 else "HC")
        assert [row["probability_HH"] for row in found["slices"]] == pytest.approx(slices, abs=1e-5)
        assert [row["slice"] for row in found["slices"]] == [0, 1, 2, 3]
        assert found["box"] == {"source": "annotated", "voxels": scan.box}


def test_the_json_says_what_made_it(good, weights):
    _, _, output = good
    made = json.loads((output / "sub-01" / "sub-01_prediction.json").read_text())["provenance"]
    assert made["weights"] == {"model.pt": hashlib.sha256(weights.read_bytes()).hexdigest()}
    assert (
        made["software"]["torch"] == torch.__version__.split("+")[0] or made["software"]["torch"] == torch.__version__
    )
    assert made["input"]["maps"] == 6
    assert not any(str(good[1]) in str(value) for value in made["settings"].values())  # no place, it may hold a name
    for key, value in {**SETTINGS, "region": "cropped", "threshold": 0.5, "stretch_percentiles": [0.5, 99.5]}.items():
        assert made["settings"][key] == value


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("processes", [1, 2])
def test_a_gpu_gives_what_the_cpu_gives(processes, good, weights, tmp_path):
    _, cohort, on_cpu = good
    done = infer(weights, cohort, tmp_path / "output", device="cuda:0", num_workers=processes)
    assert done.returncode == 0, done.stderr
    for name in ("sub-01", "sub-02"):
        cpu, gpu = (
            json.loads((folder / name / f"{name}_prediction.json").read_text())
            for folder in (on_cpu, tmp_path / "output")
        )
        assert gpu["probability_HH"] == pytest.approx(cpu["probability_HH"], abs=2e-3)
        evidence = [
            nib.load(folder / name / f"{name}_evidence.nii.gz").get_fdata().ravel()
            for folder in (on_cpu, tmp_path / "output")
        ]
        assert np.corrcoef(evidence)[0, 1] > 0.99


def test_the_csv_repeats_the_json(good):
    _, _, output = good
    rows = table(output)
    assert len(rows) == 2 * (1 + 4)
    for name in ("sub-01", "sub-02"):
        found = json.loads((output / name / f"{name}_prediction.json").read_text())
        scan, *slices = [row for row in rows if row["scan_id"] == name]
        assert (scan["slice"], scan["class"], scan["status"]) == ("", found["class"], "ok")
        assert float(scan["probability_HH"]) == found["probability_HH"]
        assert [float(row["probability_HH"]) for row in slices] == [row["probability_HH"] for row in found["slices"]]
        assert [int(row["input_slice"]) for row in slices] == [row["input_slice"] for row in found["slices"]]


def test_evidence_lies_on_the_grid_of_the_t1w(good):
    _, cohort, output = good
    t1w = nib.load(cohort / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    evidence = nib.load(output / "sub-01" / "sub-01_evidence.nii.gz")
    assert evidence.shape == t1w.shape
    np.testing.assert_allclose(evidence.affine, t1w.affine, atol=1e-4)
    volume = evidence.get_fdata()
    inside = np.zeros(SHAPE, bool)
    inside[tuple(slice(*pair) for pair in BOX)] = True
    assert np.isfinite(volume).all() and np.ptp(volume[inside]) > 0
    assert np.all(volume[~inside] == 0)


# --- bad input ------------------------------------------------------------------------------------


def test_bad_weights_end_in_one_line_and_no_file(shared_cohort, tmp_path):
    (tmp_path / "model.pt").write_text("no weights")
    done = infer(tmp_path / "model.pt", shared_cohort, tmp_path / "output")
    assert_ends_with_one_error_line(done, tmp_path / "model.pt", "state dict")
    assert files(tmp_path) == {"model.pt"}


def test_one_bad_scan_is_reported_and_the_others_are_done(weights, cohort, tmp_path):
    damaged = cohort / "sub-02" / "anat" / "sub-02_R2starmap.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:20000])
    done = infer(weights, cohort, tmp_path / "output", outputs="json")
    assert_ends_with_one_error_line(done, "1 of 4 scans failed", damaged.name, tmp_path / "output" / "predictions.csv")
    assert "input summary" not in done.stdout  # MONAI's, which shows every path of the command line
    rows = [row for row in table(tmp_path / "output") if row["slice"] == ""]
    assert {row["scan_id"]: row["status"] for row in rows} == {
        "sub-01": "ok",
        "sub-02": "failed",
        "sub-03": "ok",
        "sub-04": "ok",
    }
    failed = next(row for row in rows if row["status"] == "failed")
    assert (
        damaged.name in failed["message"]
        and str(cohort) not in failed["message"]
        and failed["probability_HH"] == failed["class"] == ""
    )
    written = {path.parts[-2] for path in (tmp_path / "output").rglob("*_prediction.json")}
    assert written == {"sub-01", "sub-03", "sub-04"}


def workflow(weights: Path, dataset_dir: Path, output_dir: Path, **changed) -> ConfigWorkflow:
    """The same as `infer`, in this process."""
    return ConfigWorkflow(
        config_file=str(REPOSITORY / "bundle" / "configs" / "inference.yaml"),
        workflow_type="infer",
        logging_file=False,
        bundle_root=str(REPOSITORY / "bundle"),
        device="cpu",
        weights=str(weights),
        dataset_dir=str(dataset_dir),
        output_dir=str(output_dir),
        **{**SETTINGS, **changed},
    )


def run(flow: ConfigWorkflow) -> None:
    hook = sys.excepthook
    try:
        flow.initialize()
        flow.run()
    finally:
        sys.excepthook = hook


def test_a_batch_of_bad_scans_only_is_reported_too(weights, cohort, tmp_path):
    for number in range(1, 5):
        (cohort / f"sub-{number:02d}" / "anat" / f"sub-{number:02d}_T1w.nii.gz").write_bytes(b"")
    with refused("4 of 4 scans failed"):
        run(workflow(weights, cohort, tmp_path / "output"))
    assert [row["status"] for row in table(tmp_path / "output")] == ["failed"] * 4
    assert files(tmp_path / "output") == {"predictions.csv", "summary.html", "run.json"}


def test_a_scan_that_the_weights_know_is_told_by_inference_and_to_clients_of_its_config(weights, tmp_path):
    cohort = write_cohort(tmp_path / "cohort", 3)
    names = {path.name[:6]: known_as(path) for path in cohort.glob("sub-*/anat/*_Chimap.nii.gz")}
    of_map, of_file = zip(*(names[f"sub-0{number}"] for number in (1, 2, 3)), strict=True)
    again = cohort / "sub-02" / "anat" / "sub-02_Chimap.nii.gz"
    again.write_bytes(gzip.compress(gzip.decompress(again.read_bytes()), 1))
    own = Path(shutil.copy(weights, tmp_path / "model.pt"))
    content = {
        "scores_from": "some scans",
        "calibration": {"method": "platt", "slope": 1.0, "intercept": 0.0, "prevalence": 0.5},
        "scores": {"HC": [0.0] * 20, "HH": [0.0] * 20},
        "seen": [of_file[0], of_map[1]],  # as older versions wrote it, and as it is now
        "calibrated_by": [of_map[1]],
    }
    write_calibration(own, content)
    flow = workflow(own, cohort, tmp_path / "output", outputs=["json"])
    run(flow)
    found = [
        json.loads(path.read_text())["flags"] for path in sorted((tmp_path / "output").glob("sub-*/*_prediction.json"))
    ]
    told = [[flag for flag in flags if flag in (SEEN, CALIBRATED)] for flags in found]
    assert told == [[SEEN], [CALIBRATED], []]
    nib.save(stacked(cohort, "sub-02"), tmp_path / "study.nii.gz")  # as MONAI Label has it
    steps = {key: flow.parser.get_parsed_content(key) for key in ("preprocessing", "inferer", "postprocessing")}
    item = steps["preprocessing"]({"image": str(tmp_path / "study.nii.gz"), "box": BOX})
    output = steps["inferer"](item["image"][None], flow.parser.get_parsed_content("evaluator").network)
    result = steps["postprocessing"]({**item, "pred": decollate_batch(output)[0]})["result"]
    assert CALIBRATED in result["flags"]


def test_weights_of_other_settings_are_refused_before_anything_is_written(weights, shared_cohort, tmp_path):
    with refused(weights, "num_slices, hidden_size"):
        run(workflow(weights, shared_cohort, tmp_path / "output", num_slices=6))
    assert not (tmp_path / "output").exists()


def test_an_output_folder_that_cannot_be_made_is_refused(weights, shared_cohort, tmp_path):
    (tmp_path / "file").write_text("")
    with refused(tmp_path / "file" / "output", "choose another output folder"):
        run(workflow(weights, shared_cohort, tmp_path / "file" / "output"))


def test_a_missing_dataset_is_refused(weights, tmp_path):
    with refused(tmp_path / "nowhere", "BIDS"):
        run(workflow(weights, tmp_path / "nowhere", tmp_path / "output"))


def test_only_the_participants_of_a_table_are_classified(weights, shared_cohort, tmp_path):
    (tmp_path / "chosen.tsv").write_text("participant_id\nsub-05\n")
    run(workflow(weights, shared_cohort, tmp_path / "output", participants=str(tmp_path / "chosen.tsv")))
    assert {row["scan_id"] for row in table(tmp_path / "output")} == {"sub-05"}


def test_a_stopped_command_says_that_it_goes_on(monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    report_in_one_line()
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err.splitlines() == ["stopped: the same command goes on with what is finished"]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "error: the disk is full; free some space"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "out/x"), "error: out/x: a file lies where a folder"),
        (MemoryError(), "error: not enough memory; close other programs"),
    ],
)
def test_what_disk_and_memory_refuse_is_one_line_whatever_wraps_it(fault, said, monkeypatch, capsys):
    monkeypatch.setattr("sys.excepthook", sys.__excepthook__)
    report_in_one_line()
    try:
        try:
            raise fault
        except Exception as error:
            raise RuntimeError("torch says: unexpected pos 704 vs 598") from error
    except RuntimeError as error:
        sys.excepthook(RuntimeError, error, None)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(said)


def test_a_fault_that_is_not_the_inputs_is_not_hidden():
    def faulty(item: dict) -> dict:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(ScanStream([Scan(participant_id="sub-01", scan_id="sub-01")], faulty))


@pytest.mark.parametrize(("outputs", "word"), [(["json", "poem"], "poem"), (["evidence"], "json")])
def test_outputs_that_cannot_be_are_refused(weights, shared_cohort, tmp_path, outputs, word):
    with refused("outputs", word):
        run(workflow(weights, shared_cohort, tmp_path / "output", outputs=outputs))
    assert not (tmp_path / "output").exists()


# --- the parts ------------------------------------------------------------------------------------


def network_image(size: int) -> MetaTensor:
    image = MetaTensor(torch.zeros(3, 8, 8, size), affine=torch.diag(torch.tensor([1.0, 1, 2, 1]).double()))
    image.meta["original_affine"] = np.diag([1.0, 1, 2, 1])
    return image


@pytest.mark.parametrize(
    ("probability", "threshold", "expected"),
    [(0.5, 0.5, "HH"), (0.4999, 0.5, "HC"), (0.6, 0.7, "HC"), (0.7, 0.6, "HH"), (0.0, 0.0, "HH"), (1.0, 1.0, "HH")],
)
def test_the_class_is_hh_from_the_threshold_on(probability, threshold, expected):
    output = {
        "probability": torch.tensor(probability, dtype=torch.float64),
        "slice_probability": torch.tensor([0.2, 0.3]),
        "evidence": torch.zeros(1, 8, 8, 2),
    }
    result = Resultd("pred", threshold=threshold)({"image": network_image(2), "pred": output})["result"]
    assert result["class"] == expected
    assert result["threshold"] == threshold


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_that_is_no_probability_is_refused(threshold):
    with refused("threshold"):
        Resultd("pred", threshold=threshold)


@pytest.mark.parametrize(("codes", "axis"), [("RAS", 2), ("LPI", 2), ("SLA", 0), ("AIR", 1)])
def test_each_network_slice_names_its_slice_of_the_file(tmp_path, codes, axis):
    """A map whose value is its height; the network's slices show which heights they hold."""
    height = np.broadcast_to(np.arange(12.0), (9, 10, 12)) + np.random.default_rng(0).normal(0, 1e-3, (9, 10, 12))
    wanted = nib.orientations.axcodes2ornt(codes)
    paths = []
    noise = np.random.default_rng(1)
    for name, first, step in (("Chimap", -0.05, 0.01), ("R2starmap", 15, 1), ("T1w", 300, 10)):
        values = first + step * (height + noise.normal(0, 0.05, height.shape))
        image = nib.Nifti1Image(values.astype(np.float32), np.diag([2, 2, 3, 1.0]))
        image = image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), wanted))
        paths.append(str(tmp_path / f"scan_{name}.nii.gz"))
        nib.save(image, paths[-1])
    rising = image.affine[2, axis] > 0
    box = [[0, size] for size in image.shape]
    box[axis] = [2, 11] if rising else [12 - 11, 12 - 2]  # heights 2 to 10, resampled to 3: centres 3, 6, 9
    ready = preprocessing("cropped", [8, 8], 3, [0, 100], "annotated")({"image": paths, "box": box})["image"]
    assert input_slices(ready) == ([3, 6, 9] if rising else [11 - 3, 11 - 6, 11 - 9])


@pytest.mark.parametrize("codes", ["RAS", "LPI", "SLA", "AIR"])
@pytest.mark.parametrize("region", ["cropped", "full"])
def test_evidence_returns_to_the_input_as_monais_own_inverse_returns_it(tmp_path, codes, region):
    wanted = nib.orientations.axcodes2ornt(codes)
    rng, paths = np.random.default_rng(0), []
    for name, least in (("Chimap", -0.5), ("R2starmap", 20), ("T1w", 300)):
        image = nib.Nifti1Image((least + rng.random((9, 10, 12))).astype(np.float32), np.diag([2, 2.5, 3, 1.0]))
        image = image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), wanted))
        paths.append(str(tmp_path / f"scan_{name}.nii.gz"))
        nib.save(image, paths[-1])
    box = [[1, size - 2] for size in image.shape]
    steps = preprocessing(region, [6, 8], 5, [0, 100], "annotated")
    ready = steps({"image": paths, "box": box})["image"]
    evidence = MetaTensor(
        torch.randn(1, 6, 8, 5), meta=dict(ready.meta), applied_operations=list(ready.applied_operations)
    )
    ours = to_input_grid(evidence)
    theirs = steps.inverse({"image": evidence})["image"]
    torch.testing.assert_close(ours.as_tensor(), theirs.as_tensor())
    np.testing.assert_allclose(ours.affine, image.affine)


def test_the_inferer_gives_probabilities_of_each_scan():
    torch.manual_seed(0)
    network = QNet(num_slices=2, hidden_size=8).eval()
    image = torch.rand(3, 3, 32, 32, 2)
    output = QNetInferer(Evidence("input_x_gradient", 1, 8, 1))(MetaTensor(image), network)
    assert {k: tuple(v.shape) for k, v in output.items()} == {
        "probability": (3,),
        "slice_probability": (3, 2),
        "embedding": (3, 512),
        "evidence": (3, 1, 32, 32, 2),
    }
    logits = network(image)
    torch.testing.assert_close(output["probability"], torch.sigmoid(logits[:, 1] - logits[:, 0]).detach())
    assert all(type(v) is torch.Tensor for v in output.values())


def test_other_input_than_trained_on_is_refused_by_its_key(tmp_path):
    weights = tmp_path / "model.pt"
    (tmp_path / "model.json").write_text(json.dumps({"settings": RECORDED | {"region": "full", "num_slices": 4}}))
    check_trained_with(weights, region="full", num_slices=4)
    with refused("model.pt", "region", "cropped"):
        check_trained_with(weights, region="cropped", num_slices=4)
    with refused("model.pt", "intensity 'stretch', not 'window'"):  # the record is older than the key
        check_trained_with(weights, intensity="window")
    (tmp_path / "model.json").write_text(json.dumps({"settings": {"num_slices": "4"}}))
    with refused("model.json", "settings.num_slices is text"):
        check_trained_with(weights, num_slices=4)


class Broken(torch.nn.Module):
    """A network that fails on its second scan as nobody expected, and gives no number for its third."""

    def __init__(self, network: QNet) -> None:
        super().__init__()
        self.network, self.calls = network, 0
        self.sequence = network.sequence

    def embed(self, image: torch.Tensor) -> torch.Tensor:
        self.calls += not torch.is_grad_enabled()  # with gradients, it is asked for the evidence
        if self.calls == 2:
            raise KeyError("Smith")
        return self.network.embed(image) * (math.nan if self.calls == 3 else 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.sequence(self.embed(image))[0]


def test_a_network_that_fails_on_one_scan_goes_on_with_the_next(weights, cohort, tmp_path, monkeypatch):
    shutil.rmtree(cohort / "sub-04" / "anat")
    (cohort / "sub-04" / "anat").touch()  # a file where a folder should be
    (cohort / "sub-01").rename(cohort / "sub-0$1$_")  # a name that is half a formula
    for path in (cohort / "sub-0$1$_").rglob("sub-01*"):
        path.rename(path.with_name(path.name.replace("sub-01", "sub-0$1$_")))
    flow = workflow(weights, cohort, tmp_path / "output", num_threads=1, localise="whole")
    flow.initialize()
    broken = Broken(flow.parser.get_parsed_content("network_def"))
    flow.parser.get_parsed_content("evaluator").network = broken
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # put back what the run replaces
    with refused("3 of 4 scans failed"):
        flow.run()
    rows = {row["scan_id"]: row for row in table(tmp_path / "output") if row["slice"] == ""}
    assert rows["sub-0$1$_"]["status"] == "ok"
    assert "KeyError" in rows["sub-02"]["message"] and "sub-02_error.log" in rows["sub-02"]["message"]
    assert "KeyError: 'Smith'" in (tmp_path / "output" / "sub-02_error.log").read_text()
    assert "no number" in rows["sub-03"]["message"]
    assert "is a file where a folder" in rows["sub-04"]["message"]
    assert "Smith" not in "".join(row["message"] for row in rows.values())


def test_three_files_are_put_in_order_by_their_names_or_refused(cohort):
    chimap, r2star, t1w = (cohort / "sub-01/anat" / f"sub-01_{suffix}.nii.gz" for suffix in MAPS)
    mixed = find_input(f"{chimap},{t1w},{r2star}", dicom_rules=BUNDLE / "configs" / "dicom_series.yaml")
    assert mixed[0].maps == tuple(map(str, (chimap, r2star, t1w)))
    shutil.copy(t1w, cohort / "qsm.nii.gz")
    with refused("sub-01_T1w.nii.gz", "R2starmap is due"):
        find_input(f"{cohort / 'qsm.nii.gz'},{t1w},{r2star}", dicom_rules=BUNDLE / "configs" / "dicom_series.yaml")


def test_a_folder_of_nifti_that_is_not_bids_is_said_to_be_that(cohort, tmp_path):
    (tmp_path / "Patient 01").mkdir()
    shutil.copy(cohort / "sub-01/anat/sub-01_T1w.nii.gz", tmp_path / "Patient 01" / "T1.nii.gz")
    with refused("no BIDS folder", "sub-01_Chimap.nii.gz"):
        find_input(str(tmp_path), dicom_rules=BUNDLE / "configs" / "dicom_series.yaml")
    (tmp_path / "Patient 01" / "T1.nii.gz").rename(tmp_path / "Patient 01" / "IM0001.dcm.gz")
    with refused("compressed files (.dcm.gz)", "unpack"):
        find_input(str(tmp_path / "Patient 01"), dicom_rules=BUNDLE / "configs" / "dicom_series.yaml")
