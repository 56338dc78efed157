"""What each map and each nucleus is worth to a trained network."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from monai.data import Dataset, MetaTensor
from refusal import refused
from sklearn.metrics import roc_auc_score

from scripts.anatomy.atlas import LABELS
from scripts.evaluation.contributions import SCAN_COLUMNS, check_groups, contributions, donors, probabilities
from scripts.maps.scan import MAPS, LabelledScan
from scripts.model.networks import QNet
from scripts.reporting.contributions import cells, drawn

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
    return Dataset(
        [
            {
                "image": MetaTensor(torch.rand(3, 32, 32, 2, generator=generator), affine=torch.eye(4)),
                "participant_id": f"sub-{n}",
                "scan_id": f"sub-{n}",
                "label": n % 2,
            }
            for n in range(SUBJECTS)
        ]
    )


@pytest.fixture(scope="module")
def nuclei(tmp_path_factory):
    """Label images of all but the last scan: a putamen, and a caudate that lies beside the network's input."""
    labels = np.zeros((32, 32, 4), np.uint8)
    labels[8:16, 8:16, 0] = LABELS["left_putamen"]
    labels[8:16, 8:16, 3] = LABELS["left_caudate"]
    folder = tmp_path_factory.mktemp("nuclei")
    for n in range(SUBJECTS - 1):
        path = folder / f"sub-{n}" / "anat" / f"sub-{n}_desc-nuclei_dseg.nii.gz"
        path.parent.mkdir(parents=True)
        nib.save(nib.Nifti1Image(labels, np.eye(4)), path)
    return folder


@pytest.mark.parametrize("channel", [0, 2])
def test_what_the_network_does_not_read_changes_nothing(scans, nuclei, channel):
    given = donors(np.full(SUBJECTS, np.nan), np.arange(SUBJECTS), 3, 5, seed=0)
    where = {"repeat": 0, "fold": 1, "region": "cropped"}
    rows = probabilities(scans, network_that_reads(channel), torch.device("cpu"), given, nuclei, where, MAPS)
    table = pd.DataFrame(rows, columns=list(SCAN_COLUMNS))
    assert set(table["nucleus"]) == {"", "putamen"} and set(table["fold"]) == {1}
    counts = table.groupby(["map", "nucleus"]).size()
    assert counts[("", "")] == SUBJECTS and counts[("T1w", "")] == 3 * SUBJECTS
    assert counts[("all", "putamen")] == counts[("T1w", "putamen")] == SUBJECTS - 1  # no label image of the last
    whole = table[(table["map"] == "")].set_index("scan_id")["probability_HH"]
    changed = (table["probability_HH"] - table["scan_id"].map(whole)).abs().groupby([table["map"], table["nucleus"]])
    read = MAPS[channel]
    assert set(changed.max()[lambda change: change > 1e-6].index) == {(read, ""), (read, "putamen"), ("all", "putamen")}


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


def made_table(hidden: dict[tuple[str, str], np.ndarray], whole: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """A table of one repeat: `hidden` `[draws, n]`, NaN where there is no row."""
    rows = []
    for (name, nucleus), values in {("", ""): whole[None], **hidden}.items():
        for draw, of_draw in enumerate(values):
            for n in np.flatnonzero(np.isfinite(of_draw)):
                who = (0, n % 5, "cropped", f"sub-{n:02d}", f"sub-{n:02d}", labels[n])
                rows.append((*who, name, nucleus, draw, of_draw[n]))
    return pd.DataFrame(rows, columns=list(SCAN_COLUMNS))


def test_the_cost_is_that_of_auc_and_probability_with_intervals_over_subjects():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    whole = np.clip(0.5 + 0.2 * (labels - 0.5) + rng.normal(0, 0.1, 60), 0.1, 1)
    noise = rng.random((4, 60))
    fall = np.where(labels == 1, whole - 0.05, whole)[None].copy()
    fall[0, :10] = np.nan  # not seen there
    rare = np.full((1, 60), np.nan)
    rare[0, :2] = 0.5
    hidden = {
        ("Chimap", ""): noise,
        ("T1w", ""): np.repeat(whole[None], 4, 0),
        ("all", "putamen"): fall,
        ("all", "thalamus"): rare,
    }
    table = made_table(hidden, whole, labels)
    first, second, third = rows = contributions(table, 200, seed=0)
    assert first["auc"] == pytest.approx(roc_auc_score(labels, whole))
    assert first["auc_without"] == pytest.approx(np.mean([roc_auc_score(labels, draw) for draw in noise]))
    assert 0 < first["drop_low"] < first["drop"] < first["drop_high"]
    assert [second[key] for key in ("drop", "drop_low", "drop_high", "change_HH", "change_HC")] == [0] * 5
    assert (third["map"], third["nucleus"], third["subjects"]) == ("all", "putamen", 50)
    assert third["auc"] == pytest.approx(roc_auc_score(labels[10:], whole[10:]))
    for end in ("", "_low", "_high"):
        assert third[f"change_HH{end}"] == pytest.approx(-0.05) and third[f"change_HC{end}"] == pytest.approx(0)
    shown = cells(pd.DataFrame(rows))
    assert list(shown["Hidden"]) == ["QSM", "T1W", "putamen in all maps"]
    assert shown["Change in HH"].iloc[2] == "-0.050 (-0.050 to -0.050)"
    axes = drawn(pd.DataFrame(rows), simulated=True).axes
    assert [label.get_text() for label in axes[1].get_xticklabels()] == ["putamen"]


def test_a_fold_with_one_subject_of_a_group_is_refused_before_work():
    sessions = [("sub-1", 0), ("sub-2", 0), ("sub-3", 1), ("sub-3", 1)]
    scans = [
        LabelledScan(participant_id=who, scan_id=f"{who}_{n}", label=label) for n, (who, label) in enumerate(sessions)
    ]
    with refused("fewer than two held-out subjects"):
        check_groups(scans)
    check_groups([*scans, LabelledScan(participant_id="sub-4", scan_id="sub-4", label=1)])
