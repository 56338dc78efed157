"""The networks against torchvision's names, a ResNet18 written out by hand, and autograd through the whole network."""

import io
import pickle
from pathlib import Path

import pytest
import torch
from monai.networks.nets import resnet18
from refusal import refused
from torch import Tensor, nn
from torch.nn import functional

from scripts.model.evidence import Evidence
from scripts.model.image_level import IMAGE_MODELS, SliceResNet, check_image_model, slices_of
from scripts.model.networks import (
    QNet,
    image_level_model,
    load_embedding,
    load_weights,
    read_state_dict,
    save_weights,
)
from scripts.model.scan_level import scan_level_model


def torchvision_shapes(classes: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of torchvision's resnet18, by its rule."""

    def batch_norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
        values = dict.fromkeys([f"{name}.{v}" for v in ("weight", "bias", "running_mean", "running_var")], (width,))
        return {**values, f"{name}.num_batches_tracked": ()}

    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7), **batch_norm("bn1", 64)}
    before = 64
    for stage, width in enumerate((64, 128, 256, 512), 1):
        for block in (0, 1):
            name = f"layer{stage}.{block}"
            shapes[f"{name}.conv1.weight"] = (width, before, 3, 3)
            shapes[f"{name}.conv2.weight"] = (width, width, 3, 3)
            shapes |= batch_norm(f"{name}.bn1", width) | batch_norm(f"{name}.bn2", width)
            if before != width:
                shapes[f"{name}.downsample.0.weight"] = (width, before, 1, 1)
                shapes |= batch_norm(f"{name}.downsample.1", width)
            before = width
    return shapes | {"fc.weight": (classes, 512), "fc.bias": (classes,)}


def resnet18_by_hand(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """ResNet18 (He et al., 2016) in evaluation mode, from its weights alone: `[N, 3, H, W]` -> last feature maps."""

    def norm(x: Tensor, name: str) -> Tensor:
        values = [state[f"{name}.{v}"] for v in ("running_mean", "running_var", "weight", "bias")]
        return functional.batch_norm(x, *values)

    x = functional.conv2d(x, state["conv1.weight"], stride=2, padding=3)
    x = functional.max_pool2d(functional.relu(norm(x, "bn1")), 3, 2, 1)
    for stage in (1, 2, 3, 4):
        for block in (0, 1):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = functional.conv2d(x, state[f"{name}.conv1.weight"], stride=stride, padding=1)
            y = functional.relu(norm(y, f"{name}.bn1"))
            y = norm(functional.conv2d(y, state[f"{name}.conv2.weight"], padding=1), f"{name}.bn2")
            if f"{name}.downsample.0.weight" in state:
                x = norm(
                    functional.conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride), f"{name}.downsample.1"
                )
            x = functional.relu(x + y)
    return x


def settle(network: nn.Module) -> None:
    """Give batch norm statistics and affine values that differ from their start, so that a mix-up shows."""
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d)):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)


@pytest.fixture(scope="module")
def network() -> QNet:
    torch.manual_seed(0)
    network = QNet(num_slices=3, hidden_size=5)
    settle(network)
    return network.eval()


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.rand(2, 3, 64, 96, 3, generator=torch.Generator().manual_seed(1))


# --- the embedding --------------------------------------------------------------------------------


def test_parameters_are_named_and_shaped_as_torchvisions():
    expected = torchvision_shapes(2)
    assert len(expected) == 122
    assert {k: tuple(v.shape) for k, v in SliceResNet(3, feed_forward=True).state_dict().items()} == expected


def test_the_embedding_has_no_fc_layer(network):
    without = {k: v for k, v in torchvision_shapes(2).items() if not k.startswith("fc.")}
    assert {k: tuple(v.shape) for k, v in network.embedding.state_dict().items()} == without


def test_the_embedding_is_resnet18(network, image):
    slices = torch.stack([image[b, ..., s] for b in range(2) for s in range(3)])
    with torch.no_grad():
        maps = resnet18_by_hand(network.embedding.state_dict(), slices)
        torch.testing.assert_close(network.embedding.feature_maps(image), maps, rtol=1e-4, atol=1e-5)
        pooled = maps.mean((2, 3)).reshape(2, 3, 512)  # scan by scan, slice by slice
        torch.testing.assert_close(network.embed(image), pooled, rtol=1e-4, atol=1e-5)


def test_a_slice_is_embedded_on_its_own(network, image):
    changed = image.clone()
    changed[0, ..., 1] = 0
    same = (network.embed(changed) - network.embed(image)).abs().amax(-1) < 1e-6
    assert same.tolist() == [[True, False, True], [True, True, True]]


def test_the_image_level_model_is_resnet18_with_two_outputs(image):
    torch.manual_seed(2)
    model = image_level_model("none", ".").eval()
    settle(model)
    state = model.state_dict()
    with torch.no_grad():
        pooled = resnet18_by_hand(state, image[..., 0]).mean((2, 3))
        expected = pooled @ state["fc.weight"].T + state["fc.bias"]
        torch.testing.assert_close(model(image[..., 0]), expected, rtol=1e-4, atol=1e-5)


def test_a_local_imagenet_file_gives_all_but_the_fc_layer(tmp_path):
    generator = torch.Generator().manual_seed(3)
    state = {
        k: torch.rand(shape, generator=generator) if shape else torch.tensor(7)
        for k, shape in torchvision_shapes(1000).items()
    }
    torch.save(state, tmp_path / "resnet18.pth")
    loaded = image_level_model(str(tmp_path / "resnet18.pth"), tmp_path).state_dict()
    assert loaded["fc.weight"].shape == (2, 512)
    for name in state:
        if not name.startswith("fc."):
            assert torch.equal(loaded[name], state[name]), name


def test_stage_2_takes_the_image_level_model_as_its_embedding(tmp_path):
    torch.manual_seed(4)
    model = image_level_model("none", tmp_path)
    settle(model)
    save_weights(model, tmp_path / "resnet.pt", torch.float32)
    network = QNet(3, 5)
    load_embedding(network, tmp_path / "resnet.pt")
    expected = {k: v for k, v in model.state_dict().items() if not k.startswith("fc.")}
    for name, value in network.embedding.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_the_frozen_embedding_stays_as_it_is_through_training(image):
    torch.manual_seed(5)
    network = QNet(3, 5).train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        functional.cross_entropy(network(image), torch.tensor([0, 1])).backward()
        optimizer.step()
    after = network.state_dict()
    assert network.sequence.training
    for name in before:
        if name.startswith("embedding."):
            assert torch.equal(before[name], after[name]), name
    for name in ("sequence.scan_head.weight", "sequence.lstm.weight_ih_l0", "sequence.lstm.weight_hh_l0_reverse"):
        assert not torch.equal(before[name], after[name]), name


# --- the scan-level model -------------------------------------------------------------------------


def test_forward_is_the_sequence_on_the_embeddings(network, image):
    scan_logits, image_logits = network.sequence(network.embed(image))
    assert torch.equal(network(image), scan_logits)
    assert torch.equal(network.image_logits(image), image_logits)
    assert scan_logits.shape == (2, 2) and image_logits.shape == (2, 3, 2)


@pytest.mark.parametrize("training", [False, True])
def test_the_sequence_is_torchs_bidirectional_lstm_and_two_heads(network, training):
    embeddings = torch.rand(4, 3, 512, generator=torch.Generator().manual_seed(6))
    sequence = network.sequence.train(training)
    outputs, _ = sequence.lstm(embeddings)
    scan_logits, image_logits = sequence(embeddings)
    sequence.eval()
    assert outputs.shape == (4, 3, 2 * 5)
    torch.testing.assert_close(image_logits, sequence.image_head(outputs))
    torch.testing.assert_close(scan_logits, sequence.scan_head(outputs.reshape(4, 30)))


def test_scans_of_a_batch_do_not_mix(network, image):
    torch.testing.assert_close(network(image)[1:], network(image[1:]), rtol=1e-4, atol=1e-5)


# --- the class activation map -------------------------------------------------------------------------------------


def gradient_weighted_maps(network: QNet, image: Tensor) -> Tensor:
    """Grad-CAM without ReLU, `[B, S, h, w]`, by hooks: the HH-minus-HC logit's gradient through the whole network.

    The gradient of mean pooling is 1 / (h w) everywhere, so its sum over pixels is that by the embedding.
    """
    kept = {}
    handle = network.embedding.layer4.register_forward_hook(lambda _, inputs, output: kept.update(maps=output))
    logits = network(image.clone().requires_grad_())
    handle.remove()
    gradient = torch.autograd.grad((logits[:, 1] - logits[:, 0]).sum(), kept["maps"])[0]
    weighted = (gradient.sum((2, 3), keepdim=True) * kept["maps"]).sum(1)
    return weighted.detach().unflatten(0, (image.shape[0], image.shape[4]))


def test_the_class_activation_map_is_gradcam_without_relu(network, image):
    expected = gradient_weighted_maps(network, image)
    expected = functional.interpolate(expected, image.shape[2:4], mode="bilinear").permute(0, 2, 3, 1)[:, None]
    found = network.class_activation(image)
    assert found.shape == (2, 1, 64, 96, 3)
    assert float(expected.abs().max()) > 0
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_the_class_activation_map_adds_up_to_gradient_times_embedding(network, image):
    embeddings = network.embed(image).detach().requires_grad_()
    logits = network.sequence(embeddings)[0]
    gradient = torch.autograd.grad((logits[:, 1] - logits[:, 0]).sum(), embeddings)[0]
    expected = (gradient * embeddings).sum((1, 2)).detach()
    found = network.class_activation(image)
    # bilinear enlargement by a whole number keeps the mean
    torch.testing.assert_close(found.mean((1, 2, 3)).sum(-1), expected, rtol=1e-3, atol=1e-5)


def test_the_class_activation_map_is_the_same_without_grad_mode_and_leaves_it_alone(network, image):
    expected = network.class_activation(image)
    with torch.no_grad():
        torch.testing.assert_close(network.class_activation(image), expected)
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()
    assert not expected.requires_grad
    assert all(p.grad is None for p in network.parameters())


def test_torchscript_gives_the_same(network, image, tmp_path):
    torch.jit.script(network).save(tmp_path / "model.ts")
    scripted = torch.jit.load(tmp_path / "model.ts")
    with torch.no_grad():
        torch.testing.assert_close(scripted(image), network(image))
        torch.testing.assert_close(scripted.image_logits(image), network.image_logits(image))
        ours, theirs = network.class_activation(image), scripted.class_activation(image)
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)


# --- weights files --------------------------------------------------------------------------------


def test_weights_stored_as_halves_read_back_as_floats(network, tmp_path):
    save_weights(network, tmp_path / "model.pt", torch.float16)
    loaded = load_weights(QNet(3, 5).train(), tmp_path / "model.pt")
    assert not loaded.training
    for name, value in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.half().float() if value.is_floating_point() else value)
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]


class Malicious:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def pickled(value: object) -> bytes:
    return pickle.dumps(value)


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        pickled({"a": 1}),
        pickled(Malicious()),
        saved(Malicious()),
        saved(nn.Linear(2, 2)),
        saved([torch.zeros(2)]),
        saved({}),
        saved({"state_dict": {"a": torch.zeros(2)}, "epoch": 3}),
        saved({0: torch.zeros(2)}),
        saved({"a": torch.zeros(200)})[:-300],
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        b"<!DOCTYPE html>",
    ],
    ids=lambda content: repr(content[:12]),
)
def test_a_file_that_is_no_state_dict_is_refused_and_not_executed(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.pt").write_bytes(content)
    with refused(tmp_path / "model.pt"):
        read_state_dict(tmp_path / "model.pt")
    assert not (tmp_path / "executed").exists()


def test_a_text_file_is_refused_whatever_its_first_character(tmp_path):
    path = tmp_path / "model.pt"
    for first in range(256):  # each is another instruction of the pickle format
        path.write_bytes(bytes([first]) + b"ust some text.\n")
        with refused(path):
            read_state_dict(path)


@pytest.mark.parametrize("name", ["nowhere.pt", "."])
def test_a_missing_weights_file_is_refused(tmp_path, name):
    with refused(tmp_path / name, "no such weights file"):
        read_state_dict(tmp_path / name)


@pytest.mark.parametrize(
    "value",
    [
        torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8),
        torch.ones(2, dtype=torch.complex64),
    ],
    ids=["quantised", "complex"],
)
def test_weights_that_are_no_plain_tensors_are_refused_by_name(value, tmp_path):
    torch.save({"a": torch.rand(2), "conv1.weight": value}, tmp_path / "model.pt")
    with refused("model.pt", "'conv1.weight' is no plain tensor", "quantised"):
        read_state_dict(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("other", "name"),
    [
        (lambda: QNet(4, 5), "sequence.scan_head.weight"),
        (lambda: QNet(3, 6), "sequence.lstm.weight_ih_l0"),
        (lambda: SliceResNet(3, feed_forward=True), "embedding.conv1.weight"),
    ],
)
def test_weights_of_another_network_are_refused_by_the_first_that_differs(tmp_path, other, name):
    save_weights(other(), tmp_path / "model.pt", torch.float32)
    with refused(tmp_path / "model.pt", name):
        load_weights(QNet(3, 5), tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: {k: torch.zeros_like(v) for k, v in s.items()}, ("embedding.conv1.weight", "0 throughout")),
        (lambda s: s | {"sequence.scan_head.weight": torch.zeros(2, 30)}, ("scan_head.weight", "0 throughout")),
        (lambda s: s | {"embedding.layer4.1.bn2.weight": torch.zeros(512)}, ("layer4.1.bn2.weight", "0 throughout")),
        (
            lambda s: s | {"sequence.lstm.weight_hh_l0": torch.full((20, 5), 0.1)},
            ("lstm.weight_hh_l0", "0.1 throughout"),
        ),
        (lambda s: s | {"embedding.bn1.running_var": torch.full((64,), -1.0)}, ("bn1.running_var", "variance")),
        (lambda s: s | {"embedding.bn1.bias": torch.full((64,), -1e9)}, ("one answer", "image_learning_rate")),
        (lambda s: s | {"sequence.scan_head.bias": torch.tensor([0.0, 1000.0])}, ("one answer", "scan_learning_rate")),
        (lambda s: s | {"embedding.bn1.weight": torch.full((64,), 1e38)}, ("answers are no numbers",)),
    ],
    ids=["all 0", "head 0", "norm 0", "constant", "variance", "dead", "sure", "overflow"],
)
def test_weights_that_no_training_leaves_are_refused(network, tmp_path, change, words):
    torch.save(change(dict(network.state_dict())), tmp_path / "model.pt")
    with refused(tmp_path / "model.pt", *words):
        load_weights(QNet(3, 5), tmp_path / "model.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_of_a_training_that_diverged_are_refused(network, tmp_path, value):
    state = {k: v.clone() for k, v in network.state_dict().items()}
    state["sequence.scan_head.bias"][1] = value
    torch.save(state, tmp_path / "model.pt")
    with refused(tmp_path / "model.pt", "sequence.scan_head.bias"):
        load_weights(QNet(3, 5), tmp_path / "model.pt")


def test_an_embedding_of_another_network_is_refused(network, tmp_path):
    save_weights(network, tmp_path / "qnet.pt", torch.float32)
    with refused(tmp_path / "qnet.pt", "conv1.weight"):
        load_embedding(QNet(3, 5), tmp_path / "qnet.pt")


def test_imagenet_weights_that_are_not_there_are_refused(tmp_path):
    with refused(tmp_path / "resnet18.pth"):
        image_level_model(str(tmp_path / "resnet18.pth"), tmp_path)


# --- readers of the slices ------------------------------------------------------------------------


def test_attention_is_a_weighted_mean_of_the_slices():
    torch.manual_seed(3)
    reader = scan_level_model("attention", num_slices=4, hidden_size=5)
    embeddings = torch.randn(2, 4, 512)
    with torch.no_grad():
        first, _, second = reader.attention
        scores = torch.tanh(embeddings @ first.weight.T + first.bias) @ second.weight.T + second.bias
        weights = scores.exp() / scores.exp().sum(1, keepdim=True)
        expected = sum(weights[:, i] * embeddings[:, i] for i in range(4)) @ reader.scan_head.weight.T
        torch.testing.assert_close(reader(embeddings)[0], expected + reader.scan_head.bias)


@pytest.mark.parametrize("scan_model", ["attention", "mean"])
def test_pooling_knows_no_order_and_no_number_of_slices(scan_model):
    torch.manual_seed(3)
    reader = scan_level_model(scan_model, num_slices=4, hidden_size=5)
    embeddings = torch.randn(2, 4, 512)
    scan, image = reader(embeddings)
    assert image.shape == (2, 4, 2)
    torch.testing.assert_close(reader(embeddings.flip(1))[0], scan)
    torch.testing.assert_close(reader(torch.cat([embeddings, embeddings], 1))[0], scan)


@pytest.mark.parametrize("scan_model", ["bilstm", "attention", "mean"])
def test_every_reader_is_scripted_and_explained(scan_model, image):
    torch.manual_seed(3)
    network = QNet(num_slices=3, hidden_size=5, scan_model=scan_model).eval()
    scripted = torch.jit.script(network)
    torch.testing.assert_close(scripted(image), network(image))
    torch.testing.assert_close(scripted.class_activation(image), network.class_activation(image))


def test_an_unknown_reader_is_refused():
    with refused("scan_model 'lstm'", "bilstm, attention or mean"):
        scan_level_model("lstm", 4, 5)


# --- other networks of stage 1 --------------------------------------------------------------------


@pytest.fixture(scope="module", params=[name for name in IMAGE_MODELS if name != "resnet18"])
def other(request) -> QNet:
    torch.manual_seed(4)
    network = QNet(3, 5, image_model=request.param, num_maps=2, spatial_size=(32, 48))
    return network.eval()


@pytest.fixture(scope="module")
def two_maps() -> Tensor:
    return torch.rand(2, 2, 32, 48, 3, generator=torch.Generator().manual_seed(1))


def test_every_network_embeds_each_slice_by_the_mean_of_its_maps(other, two_maps):
    with torch.no_grad():
        maps, embeddings = other.embedding.feature_maps(two_maps), other.embed(two_maps)
    assert embeddings.shape == (2, 3, IMAGE_MODELS[other.image_model].features)
    torch.testing.assert_close(embeddings.flatten(0, 1), maps.mean((2, 3)))
    assert (embeddings[:, 0] - embeddings[:, 1]).abs().max() > 1e-4


def test_only_a_network_of_volumes_sees_the_neighbours_of_a_slice(other, two_maps):
    changed = two_maps.clone()
    changed[..., 2] = 0
    with torch.no_grad():
        difference = (other.embed(changed) - other.embed(two_maps)).abs().amax((0, 2))
    assert difference[2] > 1e-4
    assert (difference[1] > 1e-6) == other.reads_volumes


def test_stage_1_of_every_network_classifies_what_its_slices_say(other, two_maps):
    torch.manual_seed(5)
    stage_1 = other.image_level().eval()
    with torch.no_grad():
        slices = stage_1.slice_logits(two_maps)
        given = two_maps if other.reads_volumes else slices_of(two_maps)
        expected = slices.mean(1) if other.reads_volumes else slices.flatten(0, 1)
        torch.testing.assert_close(stage_1(given), expected, rtol=1e-4, atol=1e-5)
    assert {name for name in stage_1.state_dict() if name not in other.embedding.state_dict()} == {
        "fc.weight",
        "fc.bias",
    }


def test_every_network_is_scripted_and_explained(other, two_maps):
    scripted = torch.jit.script(other)
    torch.testing.assert_close(scripted(two_maps), other(two_maps), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        scripted.class_activation(two_maps), other.class_activation(two_maps), rtol=1e-3, atol=1e-5
    )
    assert scripted.reads_volumes == other.reads_volumes
    image = two_maps[:1]
    found = Evidence("occlusion", 1, 16, 1)(other, image)
    covered = image.clone()
    covered[:, :, 16:32, :16, 1] = image[..., 1].mean((2, 3))[:, :, None, None]
    margins = [(logits[0, 1] - logits[0, 0]).detach() for logits in (other(image), other(covered))]
    torch.testing.assert_close(found[0, 0, 20, 3, 1], margins[0] - margins[1], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("image_model", "size", "weights", "words"),
    [
        ("vit", (128, 120), "none", ["vit", "multiples of 16", "128 x 120", "cropped_size"]),
        ("densenet_3d", (24, 64), "none", ["densenet_3d", "from 32", "24 x 64"]),
        ("resnet18_3d", (64, 64), "download", ["imagenet_weights", "MedicalNet", "none"]),
        ("densenet_3d", (64, 64), "weights.pth", ["imagenet_weights", "--imagenet_weights none"]),
        ("resnet", (64, 64), "none", ["image_model 'resnet'", "resnet18"]),
    ],
)
def test_what_a_network_cannot_take_is_refused(image_model, size, weights, words):
    with refused(*words):
        check_image_model(image_model, size, weights)


def test_imagenets_colours_are_shared_by_another_number_of_maps(tmp_path):
    torch.manual_seed(6)
    state = SliceResNet(3, feed_forward=False).state_dict()
    torch.save(state, tmp_path / "resnet18.pth")
    loaded = image_level_model(str(tmp_path / "resnet18.pth"), tmp_path, num_maps=2).state_dict()["conv1.weight"]
    assert loaded.shape == (64, 2, 7, 7)
    torch.testing.assert_close(loaded.sum(1), state["conv1.weight"].sum(1))


def test_medicalnets_weights_start_the_3d_resnet18(tmp_path):
    torch.manual_seed(7)
    shape = {"spatial_dims": 3, "n_input_channels": 1, "conv1_t_stride": 2}
    theirs = resnet18(**shape, feed_forward=False, shortcut_type="A").eval()
    settle(theirs)
    checkpoint = {"state_dict": {f"module.{name}": value for name, value in theirs.state_dict().items()}}
    torch.save(checkpoint, tmp_path / "resnet_18_23dataset.pth")  # as they publish it
    ours = image_level_model(str(tmp_path / "resnet_18_23dataset.pth"), tmp_path, "resnet18_3d", 3, (64, 64)).eval()
    one_map = torch.rand(2, 1, 64, 64, 1)  # of a single slice, which both leave as it is
    with torch.no_grad():
        torch.testing.assert_close(
            ours.embed(one_map.repeat(1, 3, 1, 1, 1))[:, 0], theirs(one_map), rtol=1e-4, atol=1e-5
        )


def test_weights_of_another_number_of_maps_are_told_so(tmp_path):
    torch.save(QNet(3, 5, num_maps=4).state_dict(), tmp_path / "model.pt")
    with refused("model.pt", "reads 4 maps, but maps names 3"):
        load_weights(QNet(3, 5), tmp_path / "model.pt")
