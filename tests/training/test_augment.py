"""The batched augmentation against Albumentations and scikit-image, and its promises on random numbers."""

import albumentations as A
import albumentations.augmentations.geometric.functional as geometric
import albumentations.augmentations.pixel.functional as pixel
import cv2
import numpy as np
import pytest
import torch
import yaml
from blobs import BUNDLE
from matplotlib.image import imread
from monai.data import MetaTensor
from skimage.transform import AffineTransform, warp

from scripts.reporting.pictures import augmentation_samples
from scripts.training.augment import BatchAugment, _intensity

DEFAULTS = yaml.safe_load((BUNDLE / "configs" / "train.yaml").read_text())["augment"]
STEPS = 5
NOTHING = dict.fromkeys(
    [
        "horizontal_flip_prob",
        "vertical_flip_prob",
        "brightness_contrast_prob",
        "gamma_prob",
        "grid_distortion_prob",
        "shift_scale_rotate_prob",
    ],
    0.0,
)
ALWAYS = dict.fromkeys(NOTHING, 1.0)
SIZES = pytest.mark.parametrize("size", [(128, 128), (96, 143)], ids=["square", "oblong"])


def augmenting(**changed) -> BatchAugment:
    """What train.yaml sets, but for the given."""
    return BatchAugment(**{k: v for k, v in DEFAULTS.items() if k != "_target_"} | {"seed": 0} | changed)


def smooth(size, channels=3):
    """Image `[1, channels, H, W]` in 0..1 that is smooth across its reflected edges too."""
    y, x = (torch.arange(n, dtype=torch.float64) * torch.pi / (n - 1) for n in size)
    planes = [
        0.5 + 0.2 * torch.cos((c + 2) * y)[:, None] * torch.cos(3 * x) + 0.15 * torch.cos(y[:, None]) * torch.cos(c * x)
        for c in range(channels)
    ]
    return torch.stack(planes)[None].float()


def identity(batch=1):
    return augmenting(**NOTHING).draw(batch)


def moved(angle, scale, shift):
    return identity()._replace(
        shift_scale_rotate=torch.tensor([True]),
        angle=torch.tensor([angle]),
        scale=torch.tensor([scale]),
        shift=torch.tensor([shift]),
    )


def distorted(seed):
    numbers = np.random.default_rng(seed).uniform(0.7, 1.3, (2, STEPS + 1))
    return identity()._replace(
        grid_distortion=torch.tensor([True]), steps=torch.tensor(numbers, dtype=torch.float32)[None]
    )


def apply(images, parameters, **arguments):
    return augmenting(**arguments).apply_parameters(images, parameters)


def hwc(images):
    return np.ascontiguousarray(images[0].permute(1, 2, 0).numpy())


# each step against an independent implementation


@SIZES
def test_flips_are_those_of_albumentations(size):
    images = torch.rand(1, 3, *size)
    yes = torch.tensor([True])
    left_right = apply(images, identity()._replace(horizontal_flip=yes))
    up_down = apply(images, identity()._replace(vertical_flip=yes))
    both = apply(images, identity()._replace(horizontal_flip=yes, vertical_flip=yes))
    np.testing.assert_array_equal(hwc(left_right), A.HorizontalFlip(p=1)(image=hwc(images))["image"])
    np.testing.assert_array_equal(hwc(up_down), A.VerticalFlip(p=1)(image=hwc(images))["image"])
    np.testing.assert_array_equal(hwc(both), hwc(images)[::-1, ::-1])


@pytest.mark.parametrize("contrast, brightness", [(1.2, 0.2), (0.8, -0.2), (0.9, 0.07)])
def test_brightness_and_contrast_are_those_of_albumentations(contrast, brightness):
    images = torch.rand(1, 3, 40, 50)
    ours = apply(images, identity()._replace(contrast=torch.tensor([contrast]), brightness=torch.tensor([brightness])))
    # a range of zero width makes the random transform use exactly this value
    step = A.RandomBrightnessContrast(
        brightness_limit=(brightness, brightness), contrast_limit=(contrast - 1, contrast - 1), p=1
    )
    np.testing.assert_allclose(hwc(ours), step(image=hwc(images))["image"], atol=1e-6)


@pytest.mark.parametrize("gamma", [0.8, 1.2])
def test_gamma_is_that_of_albumentations(gamma):
    images = torch.rand(1, 3, 40, 50)
    ours = apply(images, identity()._replace(gamma=torch.tensor([gamma])))
    np.testing.assert_allclose(hwc(ours), pixel.gamma_transform(hwc(images), gamma), atol=1e-6)


@SIZES
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_grid_distortion_is_that_of_albumentations(size, seed):
    images = smooth(size)
    parameters = distorted(seed)
    steps = geometric.normalize_grid_distortion_steps(size, STEPS, *parameters.steps[0].double().tolist())
    map_x, map_y = geometric.generate_grid(size, steps["steps_x"], steps["steps_y"], STEPS)
    expected = geometric.remap(hwc(images), map_x, map_y, cv2.INTER_LINEAR, cv2.BORDER_REFLECT_101)
    # OpenCV rounds positions to 1/32 pixel: a few thousandths on this image
    np.testing.assert_allclose(hwc(apply(images, parameters)), expected, atol=2e-3)
    # scikit-image does not round
    for channel in range(3):
        exact = warp(images[0, channel].numpy(), np.stack([map_y, map_x]), order=1, mode="reflect")
        ours = apply(images, parameters)[0, channel].numpy()
        # scikit-image's reflect treats a point beyond the edge otherwise: the last pixel is one
        np.testing.assert_allclose(ours[:-1, :-1], exact[:-1, :-1], atol=2e-5)


CASES = [(45.0, 1.0, (0.0, 0.0)), (-30.0, 1.1, (0.0625, -0.03)), (12.5, 0.9, (-0.05, 0.0625)), (0.0, 0.9, (0.0, 0.06))]


@SIZES
@pytest.mark.parametrize("angle, scale, shift", CASES)
def test_shift_scale_rotate_is_that_of_albumentations(size, angle, scale, shift):
    images = smooth(size)
    ours = hwc(apply(images, moved(angle, scale, shift)))
    translate = {"x": shift[0] * size[1], "y": shift[1] * size[0]}
    matrix = geometric.create_affine_transformation_matrix(
        translate, {"x": 0, "y": 0}, {"x": scale, "y": scale}, angle, geometric.center(size)
    )
    expected = geometric.warp_affine(hwc(images), matrix, cv2.INTER_LINEAR, 0, cv2.BORDER_REFLECT_101, size)
    np.testing.assert_allclose(ours, expected, atol=2e-3)


@SIZES
@pytest.mark.parametrize("angle, scale, shift", CASES)
def test_shift_scale_rotate_is_that_of_scikit_image(size, angle, scale, shift):
    images = smooth(size)
    ours = hwc(apply(images, moved(angle, scale, shift), padding_mode="zeros"))
    centre = (np.array(size[::-1]) - 1) / 2
    forward = (
        AffineTransform(translation=-centre)
        + AffineTransform(scale=scale)
        + AffineTransform(rotation=-np.deg2rad(angle))
        + AffineTransform(translation=centre + np.array(shift) * size[::-1])
    )
    expected = warp(hwc(images).astype(np.float64), forward.inverse, order=1, mode="constant")
    seen = warp(np.ones(size), forward.inverse, order=1, mode="constant") > 0.999
    assert seen.mean() > 0.5
    np.testing.assert_allclose(ours[seen], expected[seen], atol=2e-5)


@SIZES
@pytest.mark.parametrize("padding_mode", ["reflection", "border"])
@pytest.mark.parametrize("flip", [(False, False), (True, False), (True, True)])
def test_one_grid_equals_the_steps_in_turn(size, padding_mode, flip):
    images = smooth(size)
    flips = identity()._replace(horizontal_flip=torch.tensor([flip[0]]), vertical_flip=torch.tensor([flip[1]]))
    intensity = identity()._replace(
        contrast=torch.tensor([1.1]), brightness=torch.tensor([-0.05]), gamma=torch.tensor([1.15])
    )
    distortion, move = distorted(5), moved(25.0, 1.05, (0.03, -0.05))
    together = flips._replace(
        contrast=intensity.contrast,
        brightness=intensity.brightness,
        gamma=intensity.gamma,
        grid_distortion=distortion.grid_distortion,
        steps=distortion.steps,
        shift_scale_rotate=move.shift_scale_rotate,
        angle=move.angle,
        scale=move.scale,
        shift=move.shift,
    )
    in_turn = images
    for step in (flips, intensity, distortion, move):
        in_turn = apply(in_turn, step, padding_mode=padding_mode)
    # two interpolations blur a little more than one
    torch.testing.assert_close(apply(images, together, padding_mode=padding_mode), in_turn, atol=2e-3, rtol=0)


def test_zeros_are_seen_beyond_a_distorted_and_moved_image():
    images = torch.ones(1, 1, 100, 100)
    move = moved(0.0, 1.0, (0.2, 0.0))
    for flip in (False, True):
        both = distorted(3)._replace(
            shift_scale_rotate=move.shift_scale_rotate, shift=move.shift, horizontal_flip=torch.tensor([flip])
        )
        out = apply(images, both, padding_mode="zeros")[0, 0]
        assert (out[:98, :19] == 0).all()
        torch.testing.assert_close(out[:98, 21:98], torch.ones(98, 77))


# random numbers


def test_steps_come_with_their_probability_and_range():
    count = 20000
    drawn = augmenting(seed=3).draw(count)
    realised = {
        0.5: [drawn.horizontal_flip, drawn.vertical_flip, drawn.shift_scale_rotate],
        0.7: [drawn.contrast != 1, drawn.brightness != 0],
        0.3: [drawn.gamma != 1],
        0.25: [drawn.grid_distortion],
    }
    for probability, masks in realised.items():
        five_sigma = 5 * (probability * (1 - probability) / count) ** 0.5
        for mask in masks:
            assert abs(mask.double().mean().item() - probability) < five_sigma
    for values, low, high in [
        (drawn.contrast, 0.8, 1.2),
        (drawn.brightness, -0.2, 0.2),
        (drawn.gamma, 0.8, 1.2),
        (drawn.steps, 0.7, 1.3),
        (drawn.shift, -0.0625, 0.0625),
        (drawn.scale, 0.9, 1.1),
        (drawn.angle, -45.0, 45.0),
    ]:
        margin = 0.01 * (high - low)
        assert low - 1e-6 <= values.min() < low + margin
        assert high - margin < values.max() <= high + 1e-6


def test_everything_is_drawn_independently():
    count = 20000
    usual, always = augmenting(seed=3).draw(count), augmenting(**ALWAYS, seed=3).draw(count)
    chances = [usual.horizontal_flip, usual.vertical_flip, usual.contrast != 1, usual.gamma != 1]
    chances += [usual.grid_distortion, usual.shift_scale_rotate]
    values = [always.contrast, always.brightness, always.gamma, always.scale, always.angle]
    values += [*always.shift.unbind(1), *always.steps.flatten(1).unbind(1)]
    correlation = torch.corrcoef(torch.stack([column.double() for column in chances + values]))
    assert correlation.fill_diagonal_(0).abs().max() < 5 / count**0.5


def test_same_seed_same_result_and_another_seed_another():
    images = torch.rand(16, 3, 32, 32)
    first, second, other = augmenting(seed=1), augmenting(seed=1), augmenting(seed=2)
    torch.manual_seed(0)
    a = first(images)
    torch.manual_seed(1)
    assert torch.equal(a, second(images)), "the global generator plays no part"
    assert not torch.equal(a, other(images))
    assert not torch.equal(a, first(images)), "the next epoch is another"


def test_a_restored_state_continues_the_same_numbers(tmp_path):
    images = torch.rand(8, 3, 32, 32)
    augment = augmenting(seed=4)
    augment(images)
    torch.save(augment.state_dict(), tmp_path / "state.pt")
    expected = [augment(images) for _ in range(2)]
    resumed = augmenting(seed=99)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for batch in expected:
        assert torch.equal(resumed(images), batch)


def test_one_probability_leaves_the_other_numbers_alone():
    usual, no_gamma = augmenting(seed=5).draw(100), augmenting(seed=5, gamma_prob=0).draw(100)
    for name in usual._fields:
        if name != "gamma":
            assert torch.equal(getattr(usual, name), getattr(no_gamma, name)), name
    assert (no_gamma.gamma == 1).all()


# what comes back


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_nothing_drawn_returns_the_input_bit_for_bit(dtype):
    images = torch.rand(8, 3, 33, 40).to(dtype)
    out = augmenting(**NOTHING)(images)
    assert out.dtype == dtype and torch.equal(out, images)
    assert out.data_ptr() != images.data_ptr()


def test_images_without_a_draw_in_a_mixed_batch_are_untouched():
    augment = augmenting(seed=6, horizontal_flip_prob=0.2, vertical_flip_prob=0.2, brightness_contrast_prob=0.2)
    images = torch.rand(256, 1, 16, 16)
    kept = images.clone()
    drawn = augment.draw(256)
    out = augment.apply_parameters(images, drawn)
    untouched = (
        ~(drawn.horizontal_flip | drawn.vertical_flip | drawn.grid_distortion | drawn.shift_scale_rotate)
        & (drawn.contrast == 1)
        & (drawn.gamma == 1)
    )
    assert 5 < untouched.sum() < 100
    assert torch.equal(out[untouched], images[untouched])
    assert (out[~untouched] != images[~untouched]).flatten(1).any(1).all()
    assert torch.equal(images, kept), "the caller's batch is not written to"


@pytest.mark.parametrize("padding_mode", ["reflection", "border", "zeros"])
def test_shape_dtype_and_range_stay(padding_mode):
    augment = augmenting(**ALWAYS, padding_mode=padding_mode, seed=7)
    for dtype in (torch.float64, torch.float32, torch.float16):
        for shape in [(5, 1, 64, 48), (2, 4, 11, 11), (3, 3, 5, 7)]:
            images = torch.rand(shape).to(dtype)
            out = augment(images)
            assert out.shape == images.shape and out.dtype == dtype
            assert out.min() >= 0 and out.max() <= 1


def test_a_metatensor_comes_back_as_a_plain_tensor():
    out = augmenting()(MetaTensor(torch.rand(2, 3, 16, 16)))
    assert type(out) is torch.Tensor


def test_channels_share_the_draw_and_images_do_not():
    plane = torch.rand(1, 1, 48, 48).expand(8, 4, -1, -1)
    out = augmenting(**ALWAYS)(plane)
    for channel in range(1, 4):
        assert torch.equal(out[:, channel], out[:, 0])
    for image in range(1, 8):
        assert not torch.equal(out[image], out[0])


def test_slices_of_a_scan_share_the_draw():
    scans = torch.rand(4, 3, 32, 40, 6)
    out = augmenting(seed=8)(scans)
    assert out.shape == scans.shape
    slices = augmenting(seed=8)
    drawn = slices.draw(4)
    for index in range(6):
        assert torch.equal(out[..., index], slices.apply_parameters(scans[..., index], drawn))


@pytest.mark.parametrize(
    "arguments",
    [
        {"horizontal_flip_prob": 1.5},
        {"vertical_flip_prob": -0.1},
        {"gamma_prob": float("nan")},
        {"brightness_limit": -0.2},
        {"contrast_limit": 2},
        {"gamma_limit": (1.2, 0.8)},
        {"gamma_limit": (80,)},
        {"grid_distortion_steps": 0},
        {"grid_distortion_steps": 2.5},
        {"grid_distortion_limit": 1},
        {"shift_limit": 8},
        {"scale_limit": 1},
        {"rotate_limit": 360},
        {"padding_mode": "reflect"},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_a_bad_argument_is_refused_by_name(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        augmenting(**arguments)


@pytest.mark.parametrize(
    "images, message",
    [
        (torch.rand(3, 32, 32), r"\[B, C, H, W\]"),
        (torch.rand(2, 3, 4, 32), "at least 5"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), "floating point"),
    ],
)
def test_bad_images_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        augmenting()(images)
    with pytest.raises(ValueError, match="parameters are for 3 images, got 2"):
        augmenting().apply_parameters(torch.rand(2, 3, 32, 32), augmenting().draw(3))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_gives_what_the_cpu_gives():
    images = smooth((96, 80)).expand(32, -1, -1, -1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        on_gpu = augmenting(seed=9)(images.cuda(non_blocking=True))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(on_gpu.cpu(), augmenting(seed=9)(images), atol=1e-4, rtol=0)


# the picture


def test_the_picture_of_samples_is_written(tmp_path):
    images = {"full-size": smooth((64, 64))[0], "cropped": smooth((32, 32))[0]}
    output = tmp_path / "pictures" / "augmentation.png"
    written = augmentation_samples(images, augmenting(seed=1), output, num_samples=3)
    assert written == [output, output.with_suffix(".pdf")]
    assert sorted(path.name for path in output.parent.iterdir()) == ["augmentation.pdf", "augmentation.png"]
    picture = imread(output)
    assert picture.shape[0] > 300 and picture.shape[1] > 600 and picture[..., :3].std() > 0.1
    again = tmp_path / "again.png"
    augmentation_samples(images, augmenting(seed=1), again, num_samples=3)
    assert again.read_bytes() == output.read_bytes(), "same seed, same picture"


def test_a_picture_without_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match="images"):
        augmentation_samples({}, augmenting(), tmp_path / "x.png")


@pytest.mark.parametrize("padding_mode", ["reflection", "border", "zeros"])
def test_images_all_at_once_as_on_a_gpu_give_the_same_as_one_by_one(padding_mode):
    augment = augmenting(seed=3, padding_mode=padding_mode)
    images, parameters = torch.rand(24, 2, 20, 31), augment.draw(24)
    one_by_one = augment.apply_parameters(images, parameters)
    for at_once in (5, 24):
        out = _intensity(images, parameters, at_once)
        augment._geometry(out, parameters, at_once)
        torch.testing.assert_close(out, one_by_one, rtol=0, atol=1e-6)
