"""Fine-tuning on labelled 4D studies, as MONAI Label starts it, without the server."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from blobs import BUNDLE, write_labelled_studies
from monai.bundle import run
from recorded import RECORDED
from refusal import refused

from scripts.files.writing import sha256
from scripts.model.networks import QNet, read_state_dict, save_weights
from scripts.training.fine_tuning import labelled_studies


@pytest.fixture
def studies(tmp_path: Path) -> list[dict[str, str]]:
    return write_labelled_studies(tmp_path / "studies", 4)


def test_stage_2_goes_on_from_the_given_weights_and_its_embedding_stays(studies, tmp_path):
    torch.manual_seed(0)
    save_weights(QNet(), tmp_path / "model.pt", torch.float16)
    before, start = read_state_dict(tmp_path / "model.pt"), sha256(tmp_path / "model.pt")
    run(
        run_id="fine_tune",
        config_file=str(BUNDLE / "configs" / "train.yaml"),
        meta_file=str(BUNDLE / "configs" / "metadata.json"),
        bundle_root=str(BUNDLE),
        ckpt_dir=str(tmp_path),
        output_dir=str(tmp_path / "output"),
        device="cpu",
        weights_record="config",
        num_views=1,
        **{"train#dataset#data": studies, "train#trainer#max_epochs": 2},
    )
    after = read_state_dict(tmp_path / "model.pt")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("sequence.") for name in changed)
    record = json.loads((tmp_path / "model.json").read_text())
    assert record["fine_tuned_from"] == start
    assert record["weights"] == {"model.pt": sha256(tmp_path / "model.pt")}
    assert record["input"]["studies"] == {"HC": 2, "HH": 2}


@pytest.mark.parametrize("text", ["", '{"group": "healthy"}', '["HH"]', '{"Group": "HH"}'])
def test_a_label_of_another_form_is_refused(studies, text):
    Path(studies[1]["label"]).write_text(text)
    with refused(studies[1]["label"], '{"group": "HH"}'):
        labelled_studies(studies)


def test_studies_of_one_group_alone_are_refused(studies):
    for item in studies:
        Path(item["label"]).write_text('{"group": "HH"}')
    with refused("4 labelled studies", "HC and HH"):
        labelled_studies(studies)


def test_a_box_that_is_none_is_refused(studies):
    Path(studies[0]["label"]).write_text('{"group": "HH", "box": [[5, 2], [0, 1], [0, 1]]}')
    with refused(studies[0]["label"], "three rising pairs"):
        labelled_studies(studies)


@pytest.mark.parametrize("wrong", ["path", {"image": "a.nii.gz"}, None])
def test_a_list_that_is_none_of_studies_is_refused(studies, wrong):
    with refused("train#dataset#data", "'label': PATH"):
        labelled_studies([*studies, wrong] if wrong else wrong)


def test_a_study_that_is_there_twice_is_refused(studies, tmp_path):
    with refused(studies[0]["image"], "twice"):
        labelled_studies([*studies, studies[0]])
    copy = shutil.copy(studies[0]["image"], tmp_path / "copy.nii.gz")
    with refused("is a copy of the image of"):
        labelled_studies([*studies, {"image": str(copy), "label": studies[1]["label"]}])


def test_weights_of_another_input_are_not_fine_tuned(studies, tmp_path):
    save_weights(QNet(), tmp_path / "model.pt", torch.float16)
    record = {"settings": RECORDED | {"stretch_percentiles": [1.0, 99.0]}}
    (tmp_path / "model.json").write_text(json.dumps(record))
    start = sha256(tmp_path / "model.pt")
    with refused("model.pt", "stretch_percentiles [1.0, 99.0]"):
        run(
            run_id="fine_tune",
            config_file=str(BUNDLE / "configs" / "train.yaml"),
            bundle_root=str(BUNDLE),
            ckpt_dir=str(tmp_path),
            output_dir=str(tmp_path / "output"),
            device="cpu",
            num_views=1,
            **{"train#dataset#data": studies, "train#trainer#max_epochs": 1},
        )
    assert sha256(tmp_path / "model.pt") == start
