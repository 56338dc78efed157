"""Both stages through MONAI's own federated client: what travels is loaded on either side, and becomes a model."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from blobs import BUNDLE, REPOSITORY, write_cohort
from monai.fl.client import MonaiAlgo
from monai.fl.utils.exchange_object import ExchangeObject
from refusal import refused

from scripts.model.networks import QNet, load_weights
from scripts.training.federated import with_embedding, write_model, write_stage_1

TINY = {
    "num_folds": 2, "full_size": [32, 32], "cropped_size": [32, 32], "num_slices": 4, "hidden_size": 8,
    "image_batch_size": 16, "num_views": 2, "localise": "annotated", "precision": "auto",
}  # fmt: skip


def client(overlay: str, cohort: Path, folder: Path, **keys: object) -> MonaiAlgo:
    """MONAI's client of a site, ready."""
    files = ["configs/train.yaml", f"configs/{overlay}.yaml"]
    given = {**TINY, "device": "$torch.device('cpu')", "bundle_root": str(BUNDLE), "dataset_dir": str(cohort),
             "output_dir": str(folder / "out"), "ckpt_dir": str(folder / "models"), **keys}  # fmt: skip
    algo = MonaiAlgo(
        bundle_root=str(BUNDLE), local_epochs=1, send_weight_diff=False, config_train_filename=files,
        train_kwargs=dict(given), config_evaluate_filename=files, eval_kwargs=dict(given), eval_workflow_name="train",
    )  # fmt: skip
    algo.initialize({"CLIENT_NAME": folder.name})
    return algo


def rounds(sites: list[MonaiAlgo], number: int) -> dict[str, torch.Tensor]:
    """Federated averaging of sites of one size."""
    state = {k: v.detach().cpu().clone() for k, v in sites[0].trainer.network.state_dict().items()}
    for _ in range(number):
        made = []
        for site in sites:
            site.train(ExchangeObject(weights={k: v.numpy() for k, v in state.items()}))
            made.append(site.get_weights().weights)
        state = {
            k: torch.stack([torch.as_tensor(own[k]).float() for own in made]).mean(0).to(value.dtype)
            for k, value in state.items()
        }
    return state


@pytest.mark.other_programs  # four clients, each with two workflows
def test_both_stages_are_federated_tested_and_become_a_model(tmp_path):
    cohorts = [write_cohort(tmp_path / name / "cohort", 8) for name in ("a", "b")]
    sites = [client("fl_image_level", cohort, cohort.parent) for cohort in cohorts]
    first = rounds(sites, 2)
    tested = sites[0].evaluate(ExchangeObject(weights={k: v.numpy() for k, v in first.items()})).metrics
    assert 0 <= tested["val_auc"] <= 1
    own = sites[0].evaluator.network.state_dict()
    assert all(torch.equal(own[name].cpu(), value) for name, value in first.items())  # every key was loaded
    write_stage_1(first, sites[0].trainer.network, tmp_path / "stage_1.pt")

    weights = str(tmp_path / "stage_1.pt")
    sites = [client("fl_scan_level", cohort, cohort.parent, embedding_weights=weights) for cohort in cohorts]
    assert sites[0].trainer.network.state_dict().keys() == sites[0].evaluator.network.state_dict().keys()
    second = rounds(sites, 2)
    tested = sites[1].evaluate(ExchangeObject(weights={k: v.numpy() for k, v in second.items()})).metrics
    assert 0 <= tested["val_auc"] <= 1
    before, after = first["conv1.weight"], sites[0].train_workflow.parser.get_parsed_content("network_def")
    assert torch.equal(after.embedding.state_dict()["conv1.weight"].cpu(), before)  # the embedding stays as it is

    whole = QNet(num_slices=4, hidden_size=8)
    write_model(second, whole, weights, tmp_path / "model.pt")
    found = load_weights(QNet(num_slices=4, hidden_size=8), tmp_path / "model.pt")
    for name, value in second.items():
        assert np.allclose(found.sequence.state_dict()[name], value)


@pytest.mark.other_programs  # a client with two workflows
def test_the_round_on_the_page_runs(tmp_path, capsys):
    page = (REPOSITORY / "docs" / "how_to" / "federated.md").read_text()
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
    names = {"BUNDLE": BUNDLE, "COHORT": write_cohort(tmp_path / "cohort", 8), "OUT": tmp_path / "out"}
    for name, path in names.items():
        code = code.replace(f'"{name}', f'"{path}')
    assert code.count("keys = {") == 1
    exec(code.replace("keys = {", "keys = {**TINY, "), {"TINY": {**TINY, "device": "$torch.device('cpu')"}})
    assert capsys.readouterr().out.count("{'val_auc': ") == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: None, "NoneType"),
        (lambda w: {**w, "conv1.weight": None}, "no array of numbers"),
        (lambda w: {**w, "conv1.weight": "abc"}, "no array of numbers"),
        (lambda w: {**w, "conv1.weight": np.array([None])}, "no array of numbers"),
        (
            lambda w: {name: value * 0 for name, value in w.items()},
            "0 throughout",
        ),  # as a server that sends differences
        (lambda w: {**w, "conv1.weight": w["conv1.weight"] * 0 + 3e38}, "throughout"),
        (lambda w: {**w, "bn1.running_var": -w["bn1.running_var"]}, "variance of -1"),
    ],
)
def test_what_no_training_leaves_is_not_written(tmp_path, change, said):
    network = QNet(num_slices=4, hidden_size=8).image_level()
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    write_stage_1({name: value.numpy() for name, value in weights.items()}, network, tmp_path / "good.pt")
    with refused("the server's weights", said):
        write_stage_1(change(weights), network, tmp_path / "bad.pt")
    assert not (tmp_path / "bad.pt").exists()


def test_a_site_without_stage_1_is_told_so(tmp_path):
    with refused("embedding_weights", "fl_image_level"):
        with_embedding(QNet(num_slices=4, hidden_size=8), tmp_path / "absent.pt")
