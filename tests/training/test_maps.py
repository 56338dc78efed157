"""Networks of other maps than the three: trained, and asked by what their record says."""

import json
from pathlib import Path

import pytest
from blobs import BUNDLE, write_cohort, write_further_maps
from monai.bundle import ConfigWorkflow
from refusal import refused
from test_training import TINY, train

from scripts.maps.scan import MAPS
from scripts.model.networks import read_state_dict
from scripts.provenance import trained_with

SHORT = {"image_epochs": 1, "scan_epochs": 1, "num_views": 1, "val_interval": 1}
SHORT |= {"swa": False, "localise": "annotated"}
INPUT = ("cropped_size", "num_slices", "hidden_size")


@pytest.fixture(scope="module")
def further(tmp_path_factory) -> Path:
    return write_further_maps(write_cohort(tmp_path_factory.mktemp("further") / "cohort", 8))


def files(cohort: Path, suffixes) -> str:
    return ",".join(str(cohort / "sub-03" / "anat" / f"sub-03_{suffix}.nii.gz") for suffix in suffixes)


def infer(source: str, weights: Path, output: Path, **keys) -> None:
    workflow = ConfigWorkflow(
        config_file=str(BUNDLE / "configs" / "inference.yaml"),
        logging_file=False,
        run_id="run",
        bundle_root=str(BUNDLE),
        input=source,
        weights=str(weights),
        output_dir=str(output),
        nuclei="known",
        localise="whole",
        outputs=["json", "report"],
        num_threads=1,
        **{key: TINY[key] for key in INPUT},
        **keys,
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()


@pytest.mark.parametrize("maps", [[*MAPS, "T1map"], ["R2starmap"]])
def test_a_network_of_other_maps_is_asked_by_its_record(further, shared_cohort, tmp_path, maps):
    train(further, tmp_path, maps=maps, intensity="window", **SHORT)
    weights = tmp_path / "models" / "model.pt"
    assert trained_with(weights)["maps"] == maps
    assert read_state_dict(weights)["embedding.conv1.weight"].shape[1] == len(maps)
    asked = [*MAPS, *(name for name in maps if name not in MAPS)]
    infer(files(further, asked), weights, tmp_path / "out")
    made = json.loads((tmp_path / "out" / "sub-03" / "sub-03_prediction.json").read_text())
    assert made["provenance"]["settings"]["maps"] == maps
    assert list(made["input"]) == asked
    page = (tmp_path / "out" / "sub-03" / "sub-03_report.html").read_text()
    assert ("Three slices of QSM, R2*, T1W, T1 with" if len(maps) == 4 else "Three slices of R2* with") in page
    with refused("maps", "not ['T1w']"):
        infer(files(further, MAPS), weights, tmp_path / "other", maps=["T1w"])
    assert not (tmp_path / "other").exists()
    if len(maps) == 4:
        with refused("no scan has *_T1map.nii.gz"):
            infer(str(shared_cohort), weights, tmp_path / "other")


def test_a_map_that_no_scan_has_is_refused_before_training(shared_cohort, tmp_path):
    with refused("no scan has *_T1map.nii.gz"):
        train(shared_cohort, tmp_path, maps=["T1map"])
    assert not (tmp_path / "output" / "scans.tsv").exists()
