"""Evidence maps: they follow what covering a place does to the network, and add up to what they claim."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from blobs import BUNDLE
from refusal import refused
from scipy.ndimage import uniform_filter
from torch import Tensor, nn

from scripts.model.evidence import METHODS, Evidence, smoothed
from scripts.model.networks import QNet

SIZE, SLICES = 32, 3


@pytest.fixture(scope="module")
def network() -> QNet:
    torch.manual_seed(0)
    network = QNet(num_slices=SLICES, hidden_size=5)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


@pytest.fixture(scope="module")
def image() -> Tensor:
    """Two scans of blobs: smooth, as maps are, and nowhere 0."""
    noise = np.random.default_rng(1).random((2, 3, SIZE, SIZE, SLICES))
    smooth = uniform_filter(noise, (0, 0, 5, 5, 0), mode="wrap")
    low, high = smooth.min((2, 3), keepdims=True), smooth.max((2, 3), keepdims=True)
    return torch.from_numpy((smooth - low) / (high - low)).float()


def evidence(method: str, steps: int = 12, patch: int = 8, smoothing: int = 1) -> Evidence:
    return Evidence(method, steps, patch, smoothing)


def margins(network: QNet, image: Tensor) -> Tensor:
    with torch.no_grad():
        logits = network(image)
    return logits[:, 1] - logits[:, 0]


def means(image: Tensor) -> Tensor:
    return image.mean((2, 3), keepdim=True).expand_as(image)


def covered(network: QNet, image: Tensor, patch: int) -> Tensor:
    """Fall of the margin for each patch set to its slice's mean, by whole forward passes, `[S, H/patch, W/patch]`."""
    count, whole = SIZE // patch, float(margins(network, image))
    found = torch.zeros(SLICES, count, count)
    for s, i, j in np.ndindex(*found.shape):
        other = image.clone()
        place = (..., slice(i * patch, (i + 1) * patch), slice(j * patch, (j + 1) * patch), s)
        other[place] = means(image)[place]
        found[s, i, j] = whole - float(margins(network, other))
    return found


def by_patch(volume: Tensor, patch: int) -> Tensor:
    """Sums over patches of `[1, 1, H, W, S]`, `[S, H/patch, W/patch]`."""
    return nn.functional.avg_pool2d(volume[0, 0].permute(2, 0, 1)[:, None], patch)[:, 0] * patch**2


def default_of(config: str) -> Evidence:
    keys = yaml.safe_load((BUNDLE / "configs" / config).read_text())
    return Evidence(*(keys[f"evidence_{key}"] for key in ("method", "steps", "patch", "smoothing")))


@pytest.mark.parametrize("config", ["inference.yaml", "cross_validation_fold.yaml"])
def test_what_readers_are_shown_follows_what_covering_does_and_the_papers_map_does_not(network, image, config):
    truth = covered(network, image[:1], 8).flatten()
    shown, paper = (
        np.corrcoef(by_patch(make(network, image[:1]), 8).flatten(), truth)[0, 1]
        for make in (default_of(config), evidence("class_activation"))
    )
    assert shown > 0.4
    assert shown > paper + 0.2


def test_integrated_gradients_add_up_to_the_change_from_the_slices_means(network, image):
    expected = margins(network, image) - margins(network, means(image))
    found = evidence("integrated_gradients", steps=80)(network, image).sum((1, 2, 3, 4))
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.04 * float(expected.abs().max()))


def test_input_x_gradient_adds_up_to_the_slope_towards_the_slices_means(network, image):
    double, exact = copy.deepcopy(network).double(), image.double()
    step = 1e-5 * (exact - means(exact))
    expected = (margins(double, exact + step) - margins(double, exact - step)) / 2e-5
    found = evidence("input_x_gradient")(double, exact).sum((1, 2, 3, 4))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


def test_occlusion_is_the_fall_of_the_margin_patch_by_patch(network, image):
    found = evidence("occlusion", patch=16)(network, image[1:])
    assert torch.equal(found[0, 0, :16, 16:, 1], found[0, 0, 0, 31, 1].expand(16, 16))
    coarse = found[0, 0, ::16, ::16].permute(2, 0, 1)
    torch.testing.assert_close(coarse, covered(network, image[1:], 16), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_positive_speaks_for_hh(network, image, method):
    swapped = copy.deepcopy(network)
    with torch.no_grad():
        for value in (swapped.sequence.scan_head.weight, swapped.sequence.scan_head.bias):
            value.copy_(value.flip(0))
    make = evidence(method, steps=2, patch=16)
    ours, theirs = make(network, image[:1]), make(swapped, image[:1])
    assert float(ours.abs().max()) > 0
    torch.testing.assert_close(theirs, -ours, rtol=1e-3, atol=1e-4 * float(ours.abs().max()))


@pytest.mark.parametrize("method", METHODS)
def test_a_scan_has_the_same_map_alone_and_in_a_batch(network, image, method):
    make = evidence(method, steps=2, patch=16, smoothing=3)
    both, alone = make(network, image), make(network, image[1:])
    assert both.shape == (2, 1, SIZE, SIZE, SLICES)
    torch.testing.assert_close(both[1:], alone, rtol=1e-3, atol=1e-3 * float(alone.abs().max()))


@pytest.mark.parametrize("method", METHODS)
def test_maps_are_the_same_where_gradients_are_off_and_for_torchscript(network, image, method, tmp_path):
    make = evidence(method, steps=2, patch=16)
    expected = make(network, image)
    assert not expected.requires_grad
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            torch.testing.assert_close(make(network, image.clone()), expected)
            assert not torch.is_grad_enabled()
    torch.jit.script(network).save(tmp_path / "model.ts")
    scripted = make(torch.jit.load(tmp_path / "model.ts"), image)
    torch.testing.assert_close(scripted, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert torch.is_grad_enabled()
    assert all(p.grad is None for p in network.parameters())


def test_smoothing_is_a_mean_that_keeps_the_sum():
    volume = torch.rand(1, 1, 12, 17, 2, generator=torch.Generator().manual_seed(2))
    found = smoothed(volume, 9)
    expected = uniform_filter(volume.numpy(), (0, 0, 9, 9, 0), mode="reflect")
    torch.testing.assert_close(found, torch.from_numpy(expected))
    torch.testing.assert_close(found.sum((2, 3)), volume.sum((2, 3)))
    assert torch.equal(smoothed(volume, 1), volume)


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"method": "gradcam"}, "evidence_method"),
        ({"steps": 0}, "evidence_steps"),
        ({"steps": 2.5}, "evidence_steps"),
        ({"patch": "8"}, "evidence_patch"),
        ({"smoothing": 4}, "evidence_smoothing"),
        ({"smoothing": True}, "evidence_smoothing"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_their_key(changed, word):
    with refused(word):
        Evidence(**{"method": "occlusion", "steps": 1, "patch": 8, "smoothing": 1, **changed})


def test_smoothing_wider_than_the_slice_is_refused(network, image):
    with refused("evidence_smoothing", "32"):
        evidence("input_x_gradient", smoothing=67)(network, image)


def test_every_method_is_told_apart_in_the_documentation():
    text = (Path(BUNDLE) / "docs" / "evidence.md").read_text()
    for name in METHODS:
        assert f"`{name}`" in text, name


def test_what_the_slices_are_too_small_for_is_refused_before_there_are_any():
    with refused("evidence_patch is 64", "32 pixels"):
        Evidence("occlusion", 2, 64, 1).check((48, 32))
    with refused("evidence_smoothing is 67", "32 pixels"):
        Evidence("integrated_gradients", 2, 8, 67).check((48, 32))
    Evidence("occlusion", 2, 32, 67).check((48, 32))
    Evidence("integrated_gradients", 2, 64, 65).check((48, 32))
