"""Fine-tuning on labelled 4D studies, as MONAI Label starts it, without the server."""

import json
from pathlib import Path

import nibabel as nib
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


@pytest.mark.parametrize(
    "change",
    [
        lambda s: None,
        lambda s: "abc",
        lambda s: {"a": 1},
        lambda s: [None, *s],
        lambda s: ["abc", *s],
        lambda s: [{"image": s[0]["image"]}, *s],
        lambda s: [{"label": s[0]["label"]}, *s],
        lambda s: [{**s[0], "image": None}, *s],
        lambda s: [{**s[0], "label": [s[0]["label"]]}, *s],
    ],
)
def test_what_is_no_list_of_studies_is_refused(studies, change):
    with refused("train#dataset#data", "{'image': 'STUDY.nii.gz', 'label': 'STUDY.json'}"):
        labelled_studies(change(studies))


def test_a_study_is_listed_once(studies, tmp_path):
    assert len(labelled_studies(studies)) == 4
    with refused(studies[0]["image"], "twice"):
        labelled_studies([*studies, studies[0]])
    with refused(studies[0]["image"], "twice"):  # as HH and HC at once
        labelled_studies([*studies, {**studies[1], "image": studies[0]["image"]}])
    again = tmp_path / "sub-09.nii"
    nib.save(nib.load(studies[0]["image"]), again)
    with refused(again, "is a copy of", "'sub-01'"):
        labelled_studies([*studies, {"image": str(again), "label": studies[1]["label"]}])


def test_a_box_that_is_none_is_refused(studies):
    Path(studies[0]["label"]).write_text('{"group": "HH", "box": [[5, 2], [0, 1], [0, 1]]}')
    with refused(studies[0]["label"], "three rising pairs"):
        labelled_studies(studies)


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
