"""Where commands write: apart from their input, one run at a time, nothing of the user's touched."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from scripts.errors import InputError
from scripts.files.parts import PREFIX, part_file, remove_leftovers
from scripts.localisation.cohort import localise_cohort
from scripts.localisation.localiser import Localiser, check_template
from scripts.localisation.locate import Found
from scripts.maps.bids import find_scans
from scripts.nuclei.cohort import measure_cohort
from scripts.runs.former import say_former
from scripts.runs.outputs import LOCK, MARK, check_apart, check_derivative, claim, describe, own, own_files, release
from scripts.settings.comments import read_comments

BUNDLE = Path(__file__).resolve().parents[2] / "bundle"
#: A process that claims a folder, says so, and works until it is killed.
WORKER = """
import sys, time
from scripts.runs.outputs import claim
from scripts.files.parts import part_file
claim({"output_dir": sys.argv[1]}, {})
with part_file(sys.argv[1] + "/map.nii.gz") as part:
    print("working", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("there", ["", "empty", "kept.txt"])
def test_a_run_that_is_refused_before_work_leaves_no_folder_that_it_made(tmp_path, there):
    folder = tmp_path / "new" / "out"
    if there:
        folder.mkdir(parents=True)
    if there == "kept.txt":
        (folder / there).touch()
    before = sorted(path for path in tmp_path.rglob("*") if path.name != MARK)
    refused = """
import sys
from scripts.errors import InputError
from scripts.files.writing import check_output_dir
from scripts.runs.outputs import claim
claim({"output_dir": sys.argv[1]}, {}, {"output_dir": ["*.pt"]})
check_output_dir(sys.argv[1] + "/folds", 1)
raise InputError("labels: are missing; add them")
"""
    result = subprocess.run([sys.executable, "-c", refused, str(folder)], cwd=BUNDLE, capture_output=True, text=True)
    assert result.returncode == 1 and "labels" in result.stderr
    assert sorted(path for path in tmp_path.rglob("*") if path.name != MARK) == before


@pytest.fixture
def worker(tmp_path: Path) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(tmp_path / "out")], cwd=BUNDLE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "working\n"
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("data", "is"),
        (".", "holds"),
        ("data/maps", "lies in"),
        ("data/sub-01/anat", "lies in"),
        ("data/derivatives", "lies in"),
        ("data/derivatives/basalganglia/new", "lies in"),
        ("link", "is"),
        ("link/maps", "lies in"),
        ("maps/../data", "is"),
    ],
)
def test_an_output_that_touches_the_input_is_refused(tmp_path: Path, output: str, words: str) -> None:
    (tmp_path / "data" / "sub-01" / "anat").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "data")
    with pytest.raises(InputError, match=rf"^output_dir: .* {words} .*, which input names.*--output_dir"):
        check_apart({"output_dir": tmp_path / output}, {"input": tmp_path / "data"})


@pytest.mark.parametrize("output", ["data2", "out/data", "data/derivatives/localise", "link/derivatives/maps"])
def test_an_output_apart_from_the_input_is_taken(tmp_path: Path, output: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    claim({"output_dir": tmp_path / output, "cache_dir": None}, {"input": tmp_path / "data", "box": None})
    assert (tmp_path / output / LOCK).is_file()
    release(tmp_path / output)


def test_single_files_are_guarded_too(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.nii", "b.nii", "c.nii")]
    for path in files:
        path.touch()
    with pytest.raises(InputError, match="holds"):
        check_apart({"output_dir": tmp_path}, {"input": ",".join(map(str, files))})
    check_apart({"output_dir": tmp_path / "out"}, {"input": [[str(path)] for path in files]})


def test_a_second_run_in_one_folder_is_refused_until_the_first_is_gone(
    tmp_path: Path, worker: subprocess.Popen
) -> None:
    with pytest.raises(InputError, match=rf"another run \(process {worker.pid}\) is working"):
        claim({"output_dir": tmp_path / "out"}, {})
    assert list((tmp_path / "out").glob(f"{PREFIX}*")), "what a living run is making stays"
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    assert (tmp_path / "out" / LOCK).exists()
    claim({"output_dir": tmp_path / "out"}, {})
    assert [path.name for path in (tmp_path / "out").iterdir()] == [LOCK]
    release(tmp_path / "out")


def test_what_a_living_process_makes_is_no_leftover(tmp_path: Path, worker: subprocess.Popen) -> None:
    assert remove_leftovers(tmp_path) == 0
    worker.kill()
    worker.wait()
    assert remove_leftovers(tmp_path) == 1


def test_a_pipe_called_like_the_lock_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / LOCK)
    with pytest.raises(InputError, match="is a pipe or device and no file; give a plain file"):
        claim({"output_dir": tmp_path}, {})


def test_only_our_own_leftovers_are_removed(tmp_path: Path) -> None:
    kept = [tmp_path / name for name in (".part-mine.txt", "a.part", ".partition")]
    for path in kept:
        path.touch()
    (tmp_path / "sub-01" / f"{PREFIX}folder").mkdir(parents=True)
    (tmp_path / "sub-01" / f"{PREFIX}folder" / "map.nii.gz").touch()
    (tmp_path / f"{PREFIX}link").symlink_to(tmp_path / "a.part")
    assert remove_leftovers(tmp_path) == 1
    assert all(path.exists() for path in kept)
    assert not list((tmp_path / "sub-01").iterdir())


def test_files_are_made_with_the_users_umask(tmp_path: Path) -> None:
    code = "from scripts.provenance import write_json; import sys; write_json(sys.argv[1], {})"
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "sr.json")],
        cwd=BUNDLE,
        check=True,
        preexec_fn=lambda: os.umask(0o077),
    )
    assert (tmp_path / "sr.json").stat().st_mode & 0o777 == 0o600


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(ValueError), part_file(path) as part:
        Path(part).write_text("half")
        raise ValueError
    assert [p.name for p in tmp_path.iterdir()] == ["table.csv"] and path.read_text() == "old"


def test_found_boxes_stay_in_the_cohort_whatever_the_folders_above_are_called(tmp_path: Path) -> None:
    localiser = Localiser(tmp_path / "template.nii.gz")
    cohort = tmp_path / "sub-study" / "ses-all" / "cohort"
    root, stem = localiser.where(str(cohort / "sub-01" / "ses-2" / "anat" / "sub-01_ses-2_Chimap.nii.gz"))
    assert root == cohort / "derivatives" / "localise"
    assert stem == root / "sub-01" / "ses-2" / "anat" / "sub-01_ses-2"
    assert localiser.where(str(cohort / "sub-01" / "anat" / "sub-01_Chimap.nii"))[0] == root
    assert localiser.where(str(tmp_path / "sub-study" / "Chimap.nii.gz")) == (None, None)


@pytest.mark.parametrize("place", ["", "sub-01/anat", "derivatives/basalganglia"])
def test_found_boxes_are_not_kept_among_maps_and_drawn_boxes(cohort: Path, place: str) -> None:
    localiser = Localiser(cohort / "none.nii.gz", cache_dir=cohort / place)
    with pytest.raises(InputError, match=r"^localise_dir: .*; give --localise_dir a folder apart"):
        check_template("auto", localiser, find_scans(cohort))


def test_a_drawn_box_is_not_replaced_by_a_found_one(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = shutil.copytree(cohort / "derivatives" / "basalganglia", tmp_path / "kept")
    drawn = kept / "sub-01" / "anat" / "sub-01_desc-basalganglia_box.json"
    before = drawn.read_bytes()
    found = Found([[4, 20], [4, 20], [4, 10]], 0.9, {"t1": 1.0, "tissue": 1.0, "iron": 1.0}, None, np.zeros((1, 3)))
    monkeypatch.setattr("scripts.localisation.localiser.locate", lambda *arguments: found)
    name = find_scans(cohort)[0].maps[0]
    localiser = Localiser(BUNDLE / "models" / "template.nii.gz", cache_dir=kept)
    with pytest.raises(InputError, match=r"not found by this bundle, so it is not replaced; .*--localise_dir"):
        localiser(np.ones((3, 80, 88, 40), np.float32), np.diag([2.0, 2.0, 3.0, 1.0]), name)
    assert drawn.read_bytes() == before


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("localise", "localise.tsv"),
        ("localise", "index.html"),
        ("localise", "sub-01/anat/sub-01_desc-basalganglia_box.png"),
        ("nuclei", "nuclei.tsv"),
        ("nuclei", "scans.tsv"),
        ("nuclei", "dataset_description.json"),
        ("nuclei", "sub-01/anat/sub-01_desc-nuclei_dseg.nii.gz"),
        ("nuclei", "../localise/localise.tsv"),  # boxes are kept there
    ],
)
def test_a_derivative_of_the_users_is_refused_before_work(cohort: Path, command: str, name: str) -> None:
    output = cohort / "derivatives" / command
    path = output / name
    (output / path.parent).mkdir(parents=True)
    path.write_text('{"Name": "my own", "DatasetType": "derivative", "GeneratedBy": [{"Name": "me"}]}')
    before = {file: file.read_bytes() for file in cohort.rglob("*") if file.is_file()}
    localiser = Localiser(cohort / "none.nii.gz", cache_dir=output if command == "localise" else None)
    with pytest.raises(InputError, match=r"is there and was not made by this bundle; move it, or choose"):
        if command == "nuclei":
            measure_cohort(output, find_scans(cohort), localiser, {})
        else:
            localise_cohort(output, find_scans(cohort), localiser, True)
    assert {file: file.read_bytes() for file in cohort.rglob("*") if file.is_file()} == before


def test_a_derivative_of_ours_is_gone_on_with_and_keeps_what_users_say_of_it(tmp_path: Path) -> None:
    description = tmp_path / "dataset_description.json"
    ours = {"Name": "n", "DatasetType": "derivative", "GeneratedBy": [{"Name": "Q-Net bundle, configs/nuclei.yaml"}]}
    describe(tmp_path, ours)
    (tmp_path / "nuclei.tsv").touch()
    check_derivative(tmp_path, ["nuclei.tsv"], "output_dir")
    description.write_text(json.dumps({**ours, "License": "CC0"}))
    describe(tmp_path, {**ours, "Name": "new"})
    assert json.loads(description.read_text()) == {**ours, "Name": "new", "License": "CC0"}
    for other in ({"DatasetType": "raw"}, {"GeneratedBy": [{"Name": "me"}]}, {"GeneratedBy": "Q-Net bundle, x"}):
        description.write_text(json.dumps({**ours, **other}))
        with pytest.raises(InputError, match=r"dataset_description.json: is there"):
            check_derivative(tmp_path, ["nuclei.tsv"], "output_dir")


def test_a_folder_with_files_of_the_users_is_refused_and_ours_is_taken_again(tmp_path: Path) -> None:
    theirs, ours, old = (tmp_path / name for name in ("theirs", "ours", "old"))
    for folder in (theirs, old):
        folder.mkdir()
        (folder / "metrics.csv").write_text("mine")
    (old / "evaluation.json").write_text('{"software": {"qnet_hemochromatosis": "0.5.0"}}')
    with pytest.raises(InputError, match=r"metrics.csv: is there, and nothing says .*--evaluation_dir"):
        claim({"evaluation_dir": theirs}, {}, {"evaluation_dir": ["metrics.*"]})
    assert [path.name for path in theirs.iterdir()] == ["metrics.csv"]
    for folder in (ours, old):
        for _ in range(2):
            claim({"evaluation_dir": folder}, {}, {"evaluation_dir": ["metrics.*"]})
            release(folder)
            (folder / "metrics.csv").write_text("ours")


def test_of_a_folder_of_ours_only_what_we_made_is_replaced(tmp_path: Path) -> None:
    own("output_dir", tmp_path, ["tables/*"])
    (tmp_path / "predictions.csv").write_text("mine")
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "table1.csv").write_text("ours")
    own("output_dir", tmp_path, ["tables/*"])
    with pytest.raises(InputError, match=r"predictions.csv: is there, and nothing says .*--output_dir"):
        claim({"output_dir": tmp_path}, {}, {"output_dir": ["predictions.*", "tables/*"]})


def test_a_file_of_the_users_is_not_replaced_and_ours_is(tmp_path: Path) -> None:
    named = {"age_figure": [tmp_path / "age[1].png", tmp_path / "new" / "age.pdf"]}
    for _ in range(2):
        own_files(named)
        (tmp_path / "age[1].png").write_text("ours")
    (tmp_path / "other.png").write_text("mine")
    with pytest.raises(InputError, match=r"other.png: is there, and nothing says .*--age_figure"):
        own_files({"age_figure": [tmp_path / "fresh" / "age.png", tmp_path / "other.png"]})
    assert not (tmp_path / "fresh").exists()


def test_a_cross_validation_from_before_the_mark_goes_on(tmp_path: Path) -> None:
    (tmp_path / "folds" / "a").mkdir(parents=True)
    (tmp_path / "cross_validation.json").write_text('{"version": "0.6.0", "code": "1", "input": {}, "training": {}}')
    own("output_dir", tmp_path, ["folds/*", "cross_validation.json"])


#: Keys that name an output of which no file of the user's is ever replaced for another reason: the derivatives check
#: what they write (`check_derivative`), inference its own folder (`RunFolder.open`), a simulation takes an empty one
#: or its own, curves replace curves alone, and cached files are called by their content.
GUARDED_OTHERWISE = {
    ("nuclei", "output_dir"), ("localise", "output_dir"), ("reconstruct", "output_dir"), ("inference", "output_dir"),
    ("simulate", "output_dir"), ("simulate_raw", "output_dir"), ("simulate_dicom", "output_dir"),
    ("cross_validation", "cache_dir"), ("nuclei", "curves"), ("track_tensorboard", "configs#tensorboard_dir"),
}  # fmt: skip


@pytest.mark.parametrize("path", sorted((BUNDLE / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_output_of_every_config_is_guarded(path: Path) -> None:
    text = path.read_text()
    outputs = {key.name for key in read_comments(path).keys if re.match(r"gets\b|where .* goes", key.words)}
    for name in outputs - {key for config, key in GUARDED_OTHERWISE if config == path.stem}:
        if path.stem != "cross_validation_fold":  # its folders lie in the cross-validation's
            guarded = rf"(claim|own|own_files)\([^$]*'{name}'(: *\[|, @{name}, \[)"
            assert re.search(guarded, text.replace("\n", " ")), f"{name}: foreign files are not refused"


def test_results_of_scans_that_are_gone_stay_and_one_line_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("sub-01", "sub-02", "sub-03"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}_prediction.json").write_text("{}")
    assert say_former(tmp_path, "_prediction.json", ["sub-01", "sub-02", "sub-03"], "predictions.csv") == 0
    assert caplog.messages == []
    assert say_former(tmp_path, "_prediction.json", ["sub-01"], "predictions.csv") == 2
    (line,) = caplog.messages
    assert line.startswith("2 results in output_dir of scans that this input does not hold; they stay, ")
    assert len(list(tmp_path.glob("*/*.json"))) == 3
