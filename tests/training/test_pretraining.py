"""Stage 1 pretrained on what a simulation knows: what it learns from, and that training starts from it."""

import shutil
from pathlib import Path

import pytest
import torch
from refusal import refused
from test_training import train

from scripts.maps.bids import labelled_scans
from scripts.model.networks import image_level_model, read_state_dict
from scripts.provenance import read_record
from scripts.training.pretraining import LATENTS, GroupOfLatentsd, LatentLoss, Latents

SHORT = {"image_epochs": 2, "val_interval": 1, "localise": "annotated"}


@pytest.fixture(scope="module")
def known_cohort(shared_cohort, tmp_path_factory) -> Path:
    cohort = tmp_path_factory.mktemp("known") / "cohort"
    shutil.copytree(shared_cohort, cohort)
    table = cohort / "derivatives" / "groundtruth" / "latents.tsv"
    table.parent.mkdir(parents=True)
    rows = [f"sub-{number:02d}\t{number / 10}\t{number % 2}" for number in range(1, 13)]
    table.write_text("\n".join(["participant_id\thead\tasymmetry", *rows]) + "\n")
    return cohort


def test_training_starts_from_what_was_pretrained_but_for_the_last_layer(known_cohort, tmp_path):
    train(known_cohort, tmp_path / "first", "pretraining", ["pretrain"], **SHORT)
    weights = tmp_path / "first" / "models" / "pretrained_simulated.pt"
    learned = read_state_dict(weights)
    assert learned["fc.weight"].shape[0] == 2 + 2 and weights.with_suffix(".json").is_file()
    start = image_level_model(str(weights), tmp_path).state_dict()
    assert all(torch.equal(start[name], value) for name, value in learned.items() if not name.startswith("fc."))
    assert start["fc.weight"].shape[0] == 2
    table = known_cohort / LATENTS
    before = table.read_text()
    table.write_text(before.replace("0.5", "0.6"))
    with refused("the table of latents changed since that run began"):
        train(known_cohort, tmp_path / "first", "pretraining", ["pretrain"], **SHORT)
    table.write_text(before)
    train(known_cohort, tmp_path / "then", "image_level", imagenet_weights=str(weights), fold=1, **SHORT)
    known, before = (
        {*read_record(path)["trained_by"]}
        for path in (tmp_path / "then" / "models" / "resnet.json", weights.with_suffix(".json"))
    )
    assert len(before) == 8 and before < known and len(known) == 12  # who pretrained is no test of it either


def test_latents_are_between_mean_and_spread_of_the_training_scans(known_cohort):
    scans = labelled_scans(known_cohort)
    latents = Latents(known_cohort, scans[:6])
    assert latents.names == ["head", "asymmetry"]
    training = torch.stack([latents.by_participant[scan.participant_id] for scan in scans[:6]])
    torch.testing.assert_close(training.mean(0), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(training.std(0, correction=0), torch.ones(2))
    assert latents.by_participant["sub-12"][0] > 2  # beyond the training scans


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.encode("utf-16-le"), "UTF-8"),
        (lambda text: text.replace("head", "h\xe4ad").encode("latin-1"), "line 1 is not text in UTF-8"),
        (lambda text: text.replace("0.5", "n/a").encode(), "head of sub-05 is empty"),
        (lambda text: text.replace("0.5", "").encode(), "head of sub-05 is empty"),
        (lambda text: text.replace("sub-12", "sub-13").encode(), "no row sub-12"),
        (lambda text: "".join(f"{line.split()[0]}\n" for line in text.splitlines()).encode(), "no column beside"),
    ],
)
def test_a_table_of_latents_that_cannot_be_learned_from_is_refused(known_cohort, tmp_path, change, said):
    scans = labelled_scans(known_cohort)
    table = tmp_path / LATENTS
    table.parent.mkdir(parents=True)
    table.write_bytes(change((known_cohort / LATENTS).read_text()))
    with refused(table, said):
        Latents(tmp_path, scans[:6], scans[6:])


def test_a_table_of_latents_is_read_with_a_byte_order_mark(known_cohort, tmp_path):
    table = tmp_path / LATENTS
    table.parent.mkdir(parents=True)
    table.write_text((known_cohort / LATENTS).read_text(), encoding="utf-16")
    assert Latents(tmp_path, labelled_scans(known_cohort)).names == ["head", "asymmetry"]


def test_the_loss_is_the_groups_and_the_latents(known_cohort):
    outputs = torch.tensor([[0.0, 0.0, 1.0, 3.0]])
    loss = LatentLoss(0.5)(outputs, torch.tensor([[1.0, 0.0, 0.0]]))
    assert loss.item() == pytest.approx(0.693147 + 0.5 * (1 + 9) / 2, abs=1e-5)
    told = GroupOfLatentsd("pred")({"pred": outputs, "label": torch.tensor([[1.0, 0.2, 0.3]])})
    assert told["pred"].shape == (1, 2) and told["label"].tolist() == [1]


def test_a_cohort_of_which_nothing_is_known_is_refused_before_work(shared_cohort, tmp_path):
    with refused("latents.tsv", "pretrain on a cohort of configs/simulate.yaml"):
        train(shared_cohort, tmp_path / "out", "pretraining", ["pretrain"], **SHORT)
    assert not (tmp_path / "out" / "models" / "pretrained_simulated.pt").exists()
