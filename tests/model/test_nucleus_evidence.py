"""Evidence by nucleus: what covering it does to the output, and nothing else."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from scripts.anatomy.atlas import LABELS, NUCLEI
from scripts.model.networks import QNet
from scripts.model.nucleus_evidence import by_nucleus, covered, healthy_range, on_grid, table_of


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    noise = np.random.default_rng(0).random((3, 32, 32, 3))
    return torch.from_numpy(ndimage.uniform_filter(noise, (0, 5, 5, 0))).float()


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    """A caudate on both sides, a putamen on one; the other nuclei lie outside."""
    made = np.zeros((32, 32, 3), np.uint8)
    made[8:12, 6:10, 1:] = LABELS["left_caudate"]
    made[8:12, 22:26, 1] = LABELS["right_caudate"]
    made[18:24, 8:14, 0] = LABELS["left_putamen"]
    return made


def test_a_covered_nucleus_looks_like_its_surroundings_and_all_else_stays(image, labels):
    hidden = covered(image, labels, NUCLEI.index("caudate"))
    near = np.zeros(labels.shape, bool)
    for values in ("left_caudate", "right_caudate"):
        near |= ndimage.binary_dilation(labels == LABELS[values], np.ones((3, 3, 1)))
    changed = (hidden != image).any(0).numpy()
    assert not (changed & ~near).any()
    inside = (labels == LABELS["left_caudate"])[..., 1] | (labels == LABELS["right_caudate"])[..., 1]
    assert all(len(hidden[c, torch.from_numpy(inside), 1].unique()) == 1 for c in range(3))
    around = image[0, 4:16, 2:30, 1]
    assert float(around.min()) < float(hidden[0, 9, 7, 1]) < float(around.max())


def test_evidence_is_the_fall_of_the_output_and_a_nucleus_that_is_not_there_has_none(image, labels):
    torch.manual_seed(0)
    network = QNet(num_slices=3, hidden_size=4).eval()
    found = by_nucleus(network, image, labels)
    assert torch.isnan(found).tolist() == [name not in ("caudate", "putamen") for name in NUCLEI]
    with torch.no_grad():
        whole, less = (network(one[None])[0] for one in (image, covered(image, labels, 0)))
    assert float(found[0]) == pytest.approx(float((whole[1] - whole[0]) - (less[1] - less[0])), abs=1e-6)


def test_a_row_says_how_a_nucleus_lies_to_healthy_controls():
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, (40, len(NUCLEI)))
    values[30:, 1] = np.nan
    values[5:, 2] = np.nan  # too few
    known = healthy_range(values)
    assert set(known) == {NUCLEI[0], NUCLEI[1], NUCLEI[3]}
    assert known[NUCLEI[1]]["controls"] == 30
    first, *_ = rows = table_of([3.0, np.nan, 1.0, 0.0], known)
    assert [row["nucleus"] for row in rows] == [NUCLEI[0], NUCLEI[2], NUCLEI[3]]
    assert first["evidence"] == 3 and first["high"] == pytest.approx(np.percentile(values[:, 0], 95))
    assert "high" not in rows[1]


def test_labels_come_to_another_grid_voxel_by_voxel():
    labels = np.random.default_rng(0).integers(0, 9, (10, 12, 6)).astype(np.uint8)
    stored = np.diag([2.0, 2.0, 3.0, 1.0])
    turned = stored @ np.array([[0, -1, 0, 9], [1, 0, 0, 1], [0, 0, 1, 2], [0, 0, 0, 1.0]])
    found = on_grid(labels, stored, (8, 10, 4), turned)
    expected = np.zeros((8, 10, 4), np.uint8)
    for h, w, s in np.ndindex(8, 10, 4):
        expected[h, w, s] = labels[9 - w, h + 1, s + 2]
    np.testing.assert_array_equal(found, expected)
