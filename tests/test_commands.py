"""What is written must run: every command of the pages and at the heads of the configs."""

import contextlib
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import fire
import monai.bundle
import pytest
from blobs import BUNDLE, REPOSITORY, write_cohort, write_further_maps
from commands import OTHERS, Place, bundle_commands, configs, run_ids, written
from refusal import refused
from typed import typed

from scripts.settings.comments import read_comments

sys.path.insert(0, str(Path(__file__).parent / "reconstruction"))

from raw_head import write_raw  # noqa: E402

COMMANDS = bundle_commands()
#: Run ids that need what only MONAI Label makes, or that only a cross-validation runs: their tests are elsewhere.
ELSEWHERE = {
    "share": "tests/inference/test_shares.py",
    "fine_tune": "tests/training/test_fine_tuning.py",
    "fine_tuning": "tests/training/test_fine_tuning.py",
    "inner_fold": "tests/training/test_calibrate.py",
    "fill_cache": "tests/crossvalidation/test_crossval.py",
    "draw_augmentation": "tests/crossvalidation/test_crossval.py",
    "train_and_test": "tests/crossvalidation/test_crossval.py",
}
#: Parts of run ids, and what MONAI runs itself.
PARTS = {"prepare", "checks", "check_scans", "note_scans", "stage_1", "stage_2", "calibration", "finalize"}
PARTS |= {
    "check_batches",
    "check_stage_1",
    "own_pretraining",
    "tell",
    "own_stage_1",
    "own_stage_2",
    "train_folds",
    "tables_figures_report",
    "measure_contributions",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_written_command_names_what_there_is(command, tmp_path):
    words = shlex.split(command)
    words = words[words.index("monai.bundle") + 1 :]
    here = REPOSITORY if "bundle/configs" in command else BUNDLE
    if words[0] != "run":
        assert hasattr(monai.bundle, words[0])
        return
    run_id = "run" if words[1].startswith("-") else words.pop(1)
    base = [str(BUNDLE / "configs" / f"{name}.yaml") for name in configs(command)]
    assert run_id in monai.bundle.ConfigParser.load_config_files(base)
    at = words.index("--config_file")
    lacking = "--tracking" in words and any(find_spec(name) is None for name in ("mlflow", "tensorboard"))
    with refused("pip install") if lacking else contextlib.nullcontext():
        typed(tmp_path, ",".join(configs(command)), *words[1:at], *words[at + 2 :], here=here)


def test_every_run_id_is_run():
    shown = run_ids()
    for path in (BUNDLE / "configs").glob("*.yaml"):
        for key in read_comments(path).keys:
            if key.steps and key.name not in PARTS | ELSEWHERE.keys():
                assert key.name in {run_id for name in shown for run_id in shown[name]}, f"{path.name}: {key.name}"


def test_commands_of_other_programs_are_known():
    others = [line for _, line in written() if "monai.bundle" not in line]
    assert [line for line in others if not line.startswith(tuple(OTHERS))] == []


@pytest.fixture(scope="module")
def somewhere(tmp_path_factory) -> Place:
    root = tmp_path_factory.mktemp("commands")
    return Place(root / "repository", write_further_maps(write_cohort(root / "cohort", 8)), write_raw(root / "raw"))


@pytest.mark.other_programs  # minutes in all, so not with every `make test`
@pytest.mark.parametrize("command", [c for c in COMMANDS if "--tracking" not in c])  # those: tests/test_tracking.py
def test_a_written_command_runs(command, somewhere):
    somewhere.name_controls()
    here, words = somewhere.words(command)
    if words[0] == "torchrun":
        words = [word.replace("nproc_per_node=4", "nproc_per_node=2") for word in words[1:]]
        done = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", *words], cwd=here, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return
    words = words[words.index("monai.bundle") + 1 :]
    with contextlib.chdir(here):
        fire.Fire({words[0]: getattr(monai.bundle, words[0])}, command=words)
