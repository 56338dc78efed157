"""The BIDS App: arguments as BIDS Apps have them, one participant's failure beside the others, valid derivatives."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from blobs import BUNDLE, REPOSITORY, write_cohort
from refusal import refused

sys.path.insert(0, str(REPOSITORY / "apps" / "bids_app"))
sys.path.insert(0, str(REPOSITORY / "tests" / "reconstruction"))
import run as bids_app
from raw_head import write_raw

from scripts.maps.bids import find_scans

APP = REPOSITORY / "apps" / "bids_app"
DESCRIPTOR = json.loads((APP / "boutiques.json").read_text())
FAST = ["--set", "evidence_method=input_x_gradient", "--set", "nuclei=known", "--set", "outputs=[json,evidence]"]


def tool(name: str) -> Path:
    """A program of `.venv-bids`, which `make serving-envs` makes."""
    folder = Path(os.environ.get("QNET_BIDS_ENV") or REPOSITORY / ".venv-bids")
    if not (folder / "bin" / name).exists():
        pytest.skip(f"{folder} holds no {name}; run `make serving-envs`, or name an environment in QNET_BIDS_ENV")
    return folder / "bin" / name


# --- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["participant", "--participant-label", "01", "99"], "sub-99"),
        (["participant", "--n-cpus", "0"], "--n-cpus"),
        (["participant", "--set", "localise"], "KEY=VALUE"),
        (["participant", "--set", "=5"], "KEY=VALUE"),
        (["participant", "--set", "input=elsewhere"], "the app sets input itself"),
        (["participant", "--weights", "nowhere.pt"], "--weights nowhere.pt: no such file"),
        (["group"], "run the analysis level participant first"),
    ],
)
def test_what_cannot_be_is_one_line_before_any_work(shared_cohort, tmp_path, arguments, said):
    with refused(said):
        bids_app.main([str(shared_cohort), str(tmp_path / "out"), *arguments])
    assert not (tmp_path / "out" / "derivatives").exists()


def test_results_do_not_go_into_the_data(shared_cohort):
    with refused("output_dir", "bids_dir"):
        bids_app.main([str(shared_cohort), str(shared_cohort / "sub-01"), "participant"])


def test_labels_are_taken_with_and_without_sub_and_with_commas(shared_cohort):
    assert bids_app.chosen(shared_cohort, ["02", "sub-01,03", "02"]) == ["sub-02", "sub-01", "sub-03"]
    assert len(bids_app.chosen(shared_cohort, None)) == 12


def test_the_descriptor_and_the_recipes_say_what_the_program_takes():
    helped = {word for action in bids_app.parser()._actions for word in action.option_strings}
    flags = {given["command-line-flag"] for given in DESCRIPTOR["inputs"] if "command-line-flag" in given}
    assert flags == {word for word in helped if word.startswith("--")} - {
        "--help", "--version", "--participant_label", "--n_cpus"
    }  # fmt: skip
    assert DESCRIPTOR["tool-version"] == json.loads((BUNDLE / "configs" / "metadata.json").read_text())["version"]
    for recipe in ("Dockerfile", "qnet.def"):
        text = (APP / recipe).read_text()
        assert "install.sh" in text and re.search(r"USER 1000|su qnet", text)
        files = text.partition("%files")[2].partition("%post")[0] or text
        copied = re.findall(r"^(?:COPY --chown=\S+|   ) ((?:[\w./]+ ?)+?) \S+$", files, re.MULTILINE)
        names = " ".join(copied).split()
        assert {"constraints.txt", "bundle"} <= set(names)
        assert [name for name in names if not (REPOSITORY / name).exists()] == []


# --- the whole way ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three participants; the last lacks a map, and so does the second in one of two sessions. Each level run as a
    program."""
    root = tmp_path_factory.mktemp("app")
    data = write_cohort(root / "data", 3)
    (data / "sub-03" / "anat" / "sub-03_T1w.nii.gz").unlink()
    for folder in (data, data / "derivatives" / "basalganglia"):
        anat = folder / "sub-02" / "anat"
        for name in ("before", "after"):
            for path in anat.iterdir():
                place = anat.parent / f"ses-{name}" / "anat" / path.name.replace("sub-02_", f"sub-02_ses-{name}_")
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, place)
        shutil.rmtree(anat)
    (data / "sub-02" / "ses-before" / "anat" / "sub-02_ses-before_T1w.nii.gz").unlink()

    def level(name: str, *more: str) -> subprocess.CompletedProcess:
        command = [sys.executable, APP / "run.py", data, root / "out", name, "--n-cpus", "2", *more]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = level("participant", *FAST)
    assert done.returncode == 1 and "2 of 3 participants failed" in done.stderr.splitlines()[-1], done.stderr
    grouped = level("group")
    assert grouped.returncode == 1 and "2 of 4 scans failed" in grouped.stderr.splitlines()[-1], grouped.stderr
    return root / "out"


@pytest.mark.other_programs
def test_a_participant_that_fails_does_not_stop_the_others_and_the_group_has_all(results):
    people = pd.read_csv(results / "participants.tsv", sep="\t", index_col="participant_id")
    assert list(people.index) == ["sub-01", "sub-02"]
    assert people["probability_HH"].between(0, 1).all() and list(people["age"]) == [41, 42]
    table = pd.read_csv(results / "predictions.csv")
    scans = table[table["slice"].isna()]
    assert dict(zip(scans["scan_id"], scans["status"], strict=True)) == {
        "sub-01": "ok", "sub-02_ses-after": "ok", "sub-02_ses-before": "failed", "sub-03": "failed"
    }  # fmt: skip
    assert scans["message"].iloc[-1].startswith("sub-03")
    for scan in ("sub-01", "sub-02_ses-after"):
        assert (results / scan[:6] / f"{scan}_evidence.nii.gz").is_file()
    page = (results / "summary.html").read_text()
    assert 'href="sub-01/sub-01_prediction.json"' in page


def test_a_scan_whose_echoes_became_no_maps_is_in_the_groups_table_beside_those_that_did(tmp_path):
    for name, text in (
        ("inference-sub-01/predictions.csv", "participant_id,scan_id,status,slice\nsub-01,sub-01_ses-1,ok,\n"),
        (
            "maps-sub-01/reconstruct.tsv",
            "participant_id\tscan_id\tstatus\tmessage\n"
            "sub-01\tsub-01_ses-1\tok\t\nsub-01\tsub-01_ses-2\tfailed\thas no phase\n",
        ),
    ):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    found = [(row["scan_id"], row["status"]) for row in bids_app.rows_of(tmp_path, "sub-01")]
    assert found == [("sub-01_ses-1", "ok"), ("sub-01_ses-2", "failed")]
    waiting = next(bids_app.rows_of(tmp_path, "sub-02"))
    assert waiting["status"] == "not done yet" and "was not done" in waiting["message"]


@pytest.fixture
def two_sessions(tmp_path: Path) -> Path:
    """One participant with maps in one session and raw echoes in another."""
    data, raw = write_cohort(tmp_path / "data", 1), write_raw(tmp_path / "raw", flips=(24,))
    for source, root, session in (
        (data, data, "maps"),
        (data / "derivatives" / "basalganglia", data / "derivatives" / "basalganglia", "maps"),
        (raw, data, "echoes"),
    ):
        place = root / "sub-01" / f"ses-{session}" / "anat"
        place.mkdir(parents=True)
        for path in (source / "sub-01" / "anat").iterdir():
            path.rename(place / path.name.replace("sub-01_", f"sub-01_ses-{session}_"))
        (source / "sub-01" / "anat").rmdir()
    return data


def test_sessions_with_echoes_alone_are_told_from_those_with_maps(two_sessions, tmp_path):
    raw, others = bids_app.by_kind(two_sessions, "sub-01")
    assert [folder.parent.name for folder in (*raw, *others)] == ["ses-echoes", "ses-maps"]
    seen = bids_app.view(two_sessions, tmp_path / "view", others)
    (scan,) = find_scans(seen)
    assert scan.scan_id == "sub-01_ses-maps" and scan.box is not None and (seen / "participants.tsv").is_file()
    shutil.rmtree(seen)  # links alone
    assert len(find_scans(two_sessions, incomplete_too=True)) == 2


@pytest.mark.other_programs
def test_a_participant_with_maps_in_one_session_and_echoes_in_another_gets_a_row_of_each(two_sessions, tmp_path):
    for level in ("participant", "group"):  # spheres are no head to a network that looks for one
        keys = [*FAST, "--set", "localise=whole", "--set", "refuse_beyond=null"]
        bids_app.main([str(two_sessions), str(tmp_path / "out"), level, *keys])
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    scans = table[table["slice"].isna()]
    assert dict(zip(scans["scan_id"], scans["status"], strict=True)) == {
        "sub-01_ses-maps": "ok", "sub-01_ses-echoes": "ok"
    }  # fmt: skip


@pytest.mark.other_programs
def test_the_bids_validator_accepts_the_results_and_would_not_accept_others(results, tmp_path):
    def errors(folder: Path) -> list[str]:
        said = subprocess.run(
            [tool("bids-validator-deno"), "--json", folder], capture_output=True, text=True, check=False
        ).stdout
        issues = json.loads(said)["issues"]["issues"]
        return [f"{issue['code']} {issue.get('location')}" for issue in issues if issue["severity"] == "error"]

    assert errors(results) == []
    other = shutil.copytree(results, tmp_path / "other")
    (other / "sub-01" / "sub-01_unheard-of.nii.gz").write_bytes(b"")
    assert errors(other) != []


@pytest.mark.other_programs
def test_boutiques_accepts_the_descriptor_and_makes_a_command_that_runs(shared_cohort, tmp_path):
    bosh = tool("bosh")
    done = subprocess.run([bosh, "validate", APP / "boutiques.json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    call = {
        "bids_dir": str(shared_cohort), "output_dir_name": str(tmp_path / "out"), "analysis_level": "participant",
        "participant_label": ["01", "77"],
    }  # fmt: skip
    (tmp_path / "call.json").write_text(json.dumps(call))
    made = subprocess.run(
        [bosh, "exec", "simulate", "-i", tmp_path / "call.json", APP / "boutiques.json"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    (command,) = re.findall(r"run\.py .*", made)
    python, app = shlex.quote(sys.executable), shlex.quote(str(APP))  # a path may hold spaces
    said = subprocess.run(f"{python} {app}/{command}", shell=True, capture_output=True, text=True, check=False)
    assert said.returncode == 1 and "sub-77" in said.stderr.splitlines()[-1]


@pytest.mark.other_programs
def test_hadolint_finds_nothing_in_the_dockerfile():
    done = subprocess.run([tool("hadolint"), APP / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.other_programs
def test_the_recipes_steps_make_an_environment_in_which_the_app_starts(tmp_path):
    """What both recipes run, from a copy of just the files that they copy."""
    repository = tmp_path / "repository"
    repository.mkdir()
    for name in ("constraints.txt", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, repository / name)
    shutil.copytree(APP, repository / "apps" / "bids_app")
    shutil.copytree(BUNDLE, repository / "bundle")
    environment = tmp_path / "environment"
    subprocess.run(["sh", "apps/bids_app/install.sh", ".", environment], cwd=repository, check=True)
    said = subprocess.run(
        [environment / "bin" / "python", repository / "apps" / "bids_app" / "run.py", "--version"],
        cwd="/", env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout.strip() == DESCRIPTOR["tool-version"]
