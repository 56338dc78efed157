"""What each map is worth to a trained network."""

import numpy as np
import pytest
import torch
from monai.data import Dataset, MetaTensor
from refusal import refused
from sklearn.metrics import roc_auc_score

from scripts.evaluation.contributions import contributions, donors, probabilities
from scripts.model.networks import QNet

SUBJECTS = 8


def network_that_reads(channel: int) -> QNet:
    torch.manual_seed(0)
    network = QNet(num_slices=2, hidden_size=4, scan_model="mean")
    with torch.no_grad():
        for other in {0, 1, 2} - {channel}:
            network.embedding.conv1.weight[:, other] = 0
    return network.eval()


@pytest.fixture(scope="module")
def scans() -> Dataset:
    generator = torch.Generator().manual_seed(1)
    return Dataset([{"image": MetaTensor(torch.rand(3, 32, 32, 2, generator=generator))} for _ in range(SUBJECTS)])


@pytest.mark.parametrize("channel", [0, 2])
def test_a_map_that_the_network_does_not_read_changes_nothing(scans, channel):
    given = donors(np.full(SUBJECTS, np.nan), np.arange(SUBJECTS), 3, 5, seed=0)
    whole, swapped = probabilities(scans, network_that_reads(channel), torch.device("cpu"), given)
    changed = {name: np.abs(found - whole).max() for name, found in swapped.items()}
    assert [name for name, change in changed.items() if change > 1e-6] == [["Chimap", "R2starmap", "T1w"][channel]]


def test_donors_are_others_of_like_age():
    ages = np.array([20.0, 22, 24, 60, 62, 64, 66, 68])
    given = donors(ages, np.arange(8), 50, 2, seed=3)
    assert given.shape == (50, 8)
    assert (given != np.arange(8)).all()
    assert set(given[:, 0]) == {1, 2}
    assert (given == donors(ages, np.arange(8), 50, 2, seed=3)).all()
    assert set(donors(np.full(8, np.nan), np.arange(8), 200, 99, seed=0)[:, 0]) == set(
        range(1, 8)
    )  # unknown ages: anybody


def test_another_session_of_the_same_subject_is_no_donor():
    people = np.array([0, 0, 1, 1, 2, 2])
    given = donors(np.array([50.0, 50, 30, 30, 70, 70]), people, 20, 1, seed=0)
    assert (people[given] != people).all()


def test_the_drop_is_that_of_the_auc_with_its_interval():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    whole = np.clip(0.5 + 0.2 * (labels - 0.5) + rng.normal(0, 0.1, 60), 0, 1)
    swapped = {"Chimap": rng.random((4, 60)), "R2starmap": np.repeat(whole[None], 4, 0)}
    first, second = contributions(labels, np.arange(60), whole, swapped, 200, seed=0)
    assert first["auc"] == pytest.approx(roc_auc_score(labels, whole))
    assert first["auc_without"] == pytest.approx(np.mean([roc_auc_score(labels, draw) for draw in swapped["Chimap"]]))
    assert first["ci_low"] < first["drop"] < first["ci_high"]
    assert first["ci_low"] > 0
    assert (second["drop"], second["ci_low"], second["ci_high"], second["mean_change"]) == (0, 0, 0, 0)


def test_a_fold_with_one_subject_of_a_group_is_refused():
    with refused("fewer than two held-out subjects"):
        contributions(np.array([0, 0, 1]), np.arange(3), np.zeros(3), {"Chimap": np.zeros((1, 3))}, 100, 0)
