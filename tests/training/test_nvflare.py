"""NVIDIA FLARE's simulator federates both stages: its average is the one that is computed by hand."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from blobs import REPOSITORY, write_cohort
from monai.fl.utils.exchange_object import ExchangeObject
from test_federated import TINY, client

from scripts.model.networks import QNet, load_weights
from scripts.provenance import trained_with

sys.path.insert(0, str(REPOSITORY / "tests" / "serving"))

from environments import environment  # noqa: E402

APP = REPOSITORY / "apps" / "nvflare" / "simulate.py"
GIVEN = TINY | {"imagenet_weights": "none"}


def simulate(python: Path, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run([str(python), "-W", "ignore", str(APP), *words], capture_output=True, text=True)


@pytest.fixture(scope="module")
def python() -> Path:
    """Of an environment that has FLARE besides ours."""
    return environment("QNET_NVFLARE_ENV", ".venv-nvflare", "nvflare")


@pytest.mark.other_programs
def test_flare_averages_both_stages_as_computed_by_hand(tmp_path, python):
    cohorts = {name: write_cohort(tmp_path / name / "cohort", size) for name, size in (("north", 8), ("south", 6))}
    out = tmp_path / "out"
    done = simulate(
        python, *(f"--site={name}={cohort}" for name, cohort in cohorts.items()), f"--output_dir={out}", "--rounds=1",
        *(f"--set={key}={value}" for key, value in GIVEN.items()),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]

    start = torch.load(out / "nvflare" / "fl_image_level_start.pt", weights_only=True)
    made, sizes = [], []
    for name, cohort in cohorts.items():
        site = client("fl_image_level", cohort, tmp_path / "by_hand" / name, imagenet_weights="none")
        site.train(ExchangeObject(weights={key: value.numpy() for key, value in start.items()}))
        made.append(site.get_weights().weights)
        sizes.append(len(site.train_workflow.parser.get_parsed_content("train#dataset")))
    assert sizes[0] > sizes[1]  # or weighing by samples is not seen
    found = torch.load(out / "stage_1.pt", weights_only=True)
    for name, value in found.items():
        if value.is_floating_point():
            weighed = (torch.as_tensor(own[name]).double() * n for own, n in zip(made, sizes, strict=True))
            assert torch.allclose(value.double(), sum(weighed) / sum(sizes), atol=1e-5), name

    assert trained_with(out / "model.pt")["spatial_size"] == [32, 32]  # inference is told
    whole = load_weights(QNet(num_slices=4, hidden_size=8), out / "model.pt")
    assert torch.equal(whole.embedding.state_dict()["conv1.weight"], found["conv1.weight"])


@pytest.mark.other_programs
def test_one_site_is_no_federation(tmp_path, python):
    done = simulate(python, f"--site=north={tmp_path}", f"--output_dir={tmp_path / 'out'}")
    assert done.returncode == 1
    assert "--site: one site is no federation" in done.stderr.splitlines()[-1]


@pytest.mark.other_programs
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set=num_folds=2"], ["--site south", "every subject is"]),
        (["--set=num_fold=2"], ["--set num_fold", "num_folds"]),
        (["--set=output_dir=elsewhere"], ["--set output_dir", "for each site"]),
    ],
)
def test_a_site_or_a_key_that_cannot_be_is_one_line_before_flare_starts(tmp_path, python, words, said):
    cohorts = {name: write_cohort(tmp_path / name, 4) for name in ("north", "south")}
    table = cohorts["south"] / "participants.tsv"
    table.write_text(table.read_text().replace("\tHH", "\tHC"))
    done = simulate(
        python, *(f"--site={name}={cohort}" for name, cohort in cohorts.items()), f"--output_dir={tmp_path / 'out'}",
        *words,
    )  # fmt: skip
    assert done.returncode == 1
    assert [word for word in said if word not in done.stderr.splitlines()[-1]] == [], done.stderr[-2000:]
    assert not (tmp_path / "out" / "nvflare").exists()


@pytest.mark.other_programs
def test_a_folder_that_flare_cannot_work_in_is_refused(tmp_path, python):
    sites = (f"--site={name}={tmp_path}" for name in ("north", "south"))
    done = simulate(python, *sites, f"--output_dir={tmp_path / 'the sites'}")
    assert done.returncode == 1
    assert "spaces" in done.stderr.splitlines()[-1]
