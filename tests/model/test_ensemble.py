"""Several trainings as one network: the mean of what they say, and their spread."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from recorded import RECORDED
from refusal import refused

from scripts.model.ensemble import Ensemble, as_trained, join
from scripts.model.evidence import Evidence
from scripts.model.networks import QNet, load_weights, save_weights
from scripts.model.outputs import QNetInferer, spread_of


@pytest.fixture(scope="module")
def members() -> list[QNet]:
    made = []
    for seed in range(2):
        torch.manual_seed(seed)
        made.append(QNet(num_slices=3, hidden_size=4).eval())
    return made


@pytest.fixture(scope="module")
def files(members, tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("members")
    for place, member in enumerate(members):
        save_weights(member, folder / f"{place}.pt", torch.float32)
        settings = RECORDED | {"seed": place, "fold": 0, "num_slices": 3, "hidden_size": 4}
        (folder / f"{place}.json").write_text(json.dumps({"settings": settings, "input": {"simulated": True}}))
    return [folder / f"{place}.pt" for place in range(len(members))]


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.rand(2, 3, 32, 32, 3, generator=torch.Generator().manual_seed(1))


def test_joined_weights_are_read_as_the_networks_that_they_hold(files, members, image, tmp_path):
    join(files, tmp_path / "model.pt")
    network = load_weights(as_trained(tmp_path / "model.pt", 3, 4), tmp_path / "model.pt")
    assert isinstance(as_trained(files[0], 3, 4), QNet)
    with torch.no_grad():
        expected = torch.stack([one(image) for one in members]).mean(0)
        torch.testing.assert_close(network(image), expected, rtol=0.02, atol=0.02)  # kept as float16
    record = json.loads((tmp_path / "model.json").read_text())
    assert [(one["seed"], one["fold"]) for one in record["members"]] == [(0, 0), (1, 0)]
    assert record["input"] == {"simulated": True} and "seed" not in record["settings"]


@pytest.mark.parametrize("method", ["integrated_gradients", "occlusion", "class_activation"])
def test_evidence_of_an_ensemble_is_the_mean_of_its_members(members, image, method):
    make = Evidence(method, 2, 16, 1)
    network = Ensemble([copy.deepcopy(one) for one in members]).eval()
    expected = torch.stack([make(one, image[:1]) for one in members]).mean(0)
    torch.testing.assert_close(make(network, image[:1]), expected, rtol=1e-3, atol=1e-5)


def test_the_spread_is_that_of_the_members_probabilities(members, image):
    network = Ensemble(members).eval()
    output = QNetInferer(Evidence("input_x_gradient", 1, 8, 1))(image, network)
    with torch.no_grad():
        each = torch.stack([one(image).softmax(-1)[:, 1] for one in members], 1)
    torch.testing.assert_close(output["members"], each, rtol=1e-4, atol=1e-6)
    told = spread_of(output["members"][0])
    assert told["probabilities_HH"] == pytest.approx(each[0].tolist(), abs=1e-5)
    assert told["sd"] == pytest.approx(float(each[0].std()), abs=1e-6)


def test_an_ensemble_is_scripted_like_a_single_network(members, image, tmp_path):
    network = Ensemble(members).eval()
    torch.jit.script(network).save(tmp_path / "model.ts")
    scripted = torch.jit.load(tmp_path / "model.ts")
    with torch.no_grad():
        torch.testing.assert_close(scripted(image), network(image))
        torch.testing.assert_close(scripted.embed(image), network.embed(image))


def test_what_cannot_be_joined_is_refused(files, tmp_path):
    with refused("members", "1 given"):
        join(files[:1], tmp_path / "model.pt")
    with refused("0.pt", "same weights"):
        join([files[0], files[0]], tmp_path / "model.pt")
    shutil.copy(files[1], tmp_path / "alone.pt")
    with refused("alone.pt", "alone.json, its training record, is not beside it"):
        join([files[0], tmp_path / "alone.pt"], tmp_path / "model.pt")
    copied = shutil.copy(files[0], tmp_path / "saved.pt")
    torch.save({name: value.half() for name, value in torch.load(copied).items()}, copied)
    with refused("saved.pt", "same weights"):
        join([files[0], copied], tmp_path / "model.pt")
    settings = json.loads(files[1].with_suffix(".json").read_text())["settings"]
    shutil.copy(files[1], tmp_path / "roomy.pt")
    for file, margin in ((files[0].with_suffix(".json"), None), (tmp_path / "roomy.json", 9.5)):
        file.write_text(json.dumps({"settings": settings | {"annotated_margin_mm": margin}}))
    with refused("roomy.pt", "annotated_margin_mm 9.5"):
        join([files[0], tmp_path / "roomy.pt"], tmp_path / "model.pt")
    assert not (tmp_path / "model.pt").exists()


@pytest.mark.parametrize(
    ("state", "record", "words"),
    [
        ({}, {"settings": {"num_slices": 4}}, ("num_slices 4", "one kind")),
        ({}, {"settings": {"maps": ["T1w", "R2starmap", "Chimap"]}}, ("maps", "one kind")),  # the first says none
        ({}, {"settings": {"region": None}}, ("region",)),
        ({}, {"input": {"sha256": "b" * 64}}, ("another cohort",)),
        ({"sequence.scan_head.bias": torch.tensor([0.0, 1000.0])}, {}, ("one answer to everything",)),
        ({"sequence.scan_head.weight": None}, {}, ("sequence.scan_head.weight", "not in both")),
        ({"sequence.scan_head.bias": torch.zeros(3)}, {}, ("sequence.scan_head.bias", "shape [3]")),
    ],
    ids=["slices", "maps", "record", "cohort", "one answer", "part", "shape"],
)
def test_a_member_of_another_kind_or_that_inference_would_refuse_is_not_joined(files, tmp_path, state, record, words):
    first, second = (Path(shutil.copy(path, tmp_path)) for path in files)
    changed = torch.load(second, weights_only=True) | state
    torch.save({name: value for name, value in changed.items() if value is not None}, second)
    for path, of_it in ((first, {"input": {"sha256": "a" * 64}}), (second, record)):
        known = json.loads(files[int(path.stem)].with_suffix(".json").read_text())
        settings = {k: v for k, v in (known["settings"] | of_it.get("settings", {})).items() if v is not None}
        path.with_suffix(".json").write_text(json.dumps(known | of_it | {"settings": settings}))
    with refused(f"{second.stem}.", *words):
        join([first, second], tmp_path / "model.pt")
    assert not (tmp_path / "model.pt").exists()


def test_an_ensemble_is_no_member_and_replaces_ensembles_alone(files, tmp_path):
    join(files, tmp_path / "model.pt")
    join(files, tmp_path / "model.pt")
    with refused("model.pt", "members.0.", "no single Q-Net"):
        join([tmp_path / "model.pt", files[0]], tmp_path / "twice.pt")
    for file in (files[0], files[0].with_suffix(".json")):
        shutil.copy(file, tmp_path / f"model{file.suffix}")
    before = (tmp_path / "model.pt").read_bytes()
    with refused("model.pt", "another training", "--ckpt_dir"):
        join(files, tmp_path / "model.pt")
    assert (tmp_path / "model.pt").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("members.x.", "member x"),
        ("members.999999999999.", "member 99999"),
        ("members.01.", "member 01"),
        ("", "member none"),
        ("members.1.members.0.", "is not in both"),
    ],
)
def test_members_are_counted_by_what_the_network_has(files, name, said, tmp_path):
    state = torch.load(files[0])
    joined = {f"members.0.{own}": value for own, value in state.items()}
    torch.save(joined | {f"{name}{own}": value for own, value in state.items()}, tmp_path / "model.pt")
    with refused("model.pt", said):
        as_trained(tmp_path / "model.pt", 3, 4)
