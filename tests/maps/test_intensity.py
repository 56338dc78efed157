"""Fixed windows: quantities on one scale for all scans."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from refusal import refused

from scripts.maps.intensity import LeaveOutMapsd, WindowIntensityd, scaling
from scripts.maps.transforms import StretchHistogramd

PERCENTILES = (0.5, 99.5)


@pytest.fixture
def image() -> MetaTensor:
    values = torch.rand(3, 6, 5, 4, generator=torch.Generator().manual_seed(0))
    scale, offset = (torch.tensor(numbers).view(3, 1, 1, 1) for numbers in ([0.5, 200.0, 900.0], [0.2, 10.0, 0.0]))
    return MetaTensor(values * scale - offset)


def test_quantities_lie_on_one_scale_and_t1w_on_its_scans(image):
    result = scaling("window", PERCENTILES, (-0.1, 0.3), (0, 120))({"image": image})["image"].numpy()
    maps = image.numpy()
    assert np.allclose(result[0], np.clip((maps[0] + 0.1) / 0.4, 0, 1), atol=1e-6)
    assert np.allclose(result[1], np.clip(maps[1] / 120, 0, 1), atol=1e-6)
    low, high = np.percentile(maps[2], PERCENTILES)
    assert np.allclose(result[2], np.clip((maps[2] - low) / (high - low), 0, 1), atol=1e-5)


def test_what_was_done_can_be_undone(image):
    result = scaling("window", PERCENTILES, (-0.3, 0.4), (-20, 200))({"image": image})["image"]
    low, span = result.meta["stretch"][:, :, None, None, :]
    assert torch.allclose((low + result.as_tensor() * span)[:2], image.as_tensor()[:2], atol=1e-4)


def test_a_map_without_contrast_becomes_zero(image):
    image[2] = 7
    assert (scaling("window", PERCENTILES, (-0.1, 0.3), (0, 120))({"image": image})["image"][2] == 0).all()


def test_the_papers_is_the_stretching_of_each_slice(image):
    result = scaling("stretch", PERCENTILES, (-0.1, 0.3), (0, 120))({"image": image})["image"]
    assert torch.equal(result, StretchHistogramd("image", *PERCENTILES)({"image": image})["image"])


def test_other_words_and_windows_are_refused(image):
    with refused("intensity 'zscore'", "stretch or window"):
        scaling("zscore", PERCENTILES, (-0.1, 0.3), (0, 120))
    with refused("window [0.3, -0.1]", "what becomes 0"):
        scaling("window", PERCENTILES, (0.3, -0.1), (0, 120))
    with refused("3 maps but 2 windows"):
        WindowIntensityd("image", [(0, 1), None], 0, 100)({"image": image})


def test_a_window_in_which_no_voxel_lies_is_refused_with_the_values_that_are_there(image):
    for given, key, values in (
        (((5, 6), (0, 120)), "chimap_window", image[0]),
        (((-9, -8), (0, 120)), "chimap_window", image[0]),
        (((-0.1, 0.3), (900, 950)), "r2starmap_window", image[1]),
    ):
        with refused(f"--{key}", f"{float(values.min()):.3g} to {float(values.max()):.3g}"):
            scaling("window", PERCENTILES, *given)({"image": image})


def test_a_map_that_is_left_out_is_zero_and_the_others_stay(image):
    before = image.clone()
    result = LeaveOutMapsd("image", ["R2starmap"])({"image": image})["image"]
    assert (result[1] == 0).all()
    assert torch.equal(result[[0, 2]], before[[0, 2]])
    assert torch.equal(image, before)  # what was read stays as it is
    with refused("leave_out 'QSM'", "Chimap"):
        LeaveOutMapsd("image", ["QSM"])
    with refused("all maps"):
        LeaveOutMapsd("image", ["T1w", "Chimap", "R2starmap"])
