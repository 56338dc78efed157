"""`--input` takes whatever a scan comes as and knows which; inference gives the same result for the same maps."""

import contextlib
import hashlib
import json
import os
import shutil
import socket
import sys
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from blobs import BOX, REPOSITORY, SHAPE, write_cohort
from monai.bundle import ConfigWorkflow
from refusal import refused
from studies import QSM, RULES, edit, edit_series, files_of

from scripts.anatomy.atlas import NUCLEI, SIDES
from scripts.inference.batch import RunFolder, ScanStream
from scripts.inference.inputs import find_input, fingerprint
from scripts.maps.bids import find_scans
from scripts.maps.scan import MAPS, Scan
from scripts.model.networks import QNet, save_weights
from scripts.nuclei.table import MEASURED
from scripts.simulation.dicom import stored_maps, write_study
from scripts.simulation.subject import STEPS, nifti_bytes
from scripts.training.preprocessing import preprocessing


def found(source: object, **settings) -> list:
    return find_input(source, dicom_rules=RULES, **settings)


@pytest.fixture(scope="module")
def stacked(scan: Scan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scan's maps as one 4D file."""
    images = [nib.load(path) for path in scan.maps]
    path = tmp_path_factory.mktemp("stacked") / "Doe_Jane.nii.gz"
    nib.save(nib.Nifti1Image(np.stack([i.get_fdata(dtype=np.float32) for i in images], -1), images[0].affine), path)
    return path


@pytest.fixture
def tiny_maps(scan: Scan, tmp_path: Path) -> list[str]:
    """The scan's maps as a simulation writes them, called as anybody might call them."""
    paths = []
    for path, name in zip(scan.maps, MAPS, strict=True):
        image = nib.load(path)
        stored = np.rint(image.get_fdata() / STEPS[name]).astype(np.int16)
        paths.append(tmp_path / f"{name}.nii.gz")
        paths[-1].write_bytes(nifti_bytes(stored, image.affine, STEPS[name]))
    return [str(path) for path in paths]


# --- kinds ----------------------------------------------------------------------------------------


def test_every_kind_is_known_for_what_it_is(scan, shared_cohort, template, stacked):
    assert found(shared_cohort) == find_scans(shared_cohort)
    for source in (scan.maps, ",".join(scan.maps)):
        (item,) = found(source)
        assert item == Scan(participant_id="sub-01", scan_id="sub-01", maps=scan.maps)
    (item,) = found(stacked)
    assert item == Scan(participant_id="scan", scan_id="scan", maps=(str(stacked),))  # the name may be somebody's
    (item,) = found(template)
    assert item.scan_id == item.participant_id == item.study.name
    assert {name: len(files) for name, files in item.series().items()} == dict.fromkeys(MAPS, 8)
    assert item.patient() == {} and item.box is None
    assert item.scanner().keys() == {"manufacturer", "model", "field_strength_t"}
    assert item.scanner()["field_strength_t"] == 3.0
    (item,) = found(template, include_identifiers=True)
    assert item.patient()["PatientID"] == "SIM-sub-01"


def test_pipes_and_sockets_beside_dicom_files_are_passed_over_and_counted(template, tmp_path, caplog):
    study = shutil.copytree(template, tmp_path / "in" / "study")
    os.mkfifo(study / "IM0001")
    with contextlib.chdir(study), socket.socket(socket.AF_UNIX) as listening:  # a path to a socket must be short
        listening.bind("IM0002")
        (item,) = found(tmp_path / "in")
    assert item.study.load().shape[0] == len(MAPS)
    assert "2 pipes, sockets or devices" in caplog.text


def test_what_was_simulated_says_so_as_single_files_and_as_dicom_too(scan, tiny_maps, tmp_path):
    study = write_study(tmp_path / "in" / "study", tiny_maps, "sub-01", extras=False)
    for source in (",".join(tiny_maps), study):
        assert fingerprint(source, found(source))["simulated"] is True
    assert fingerprint(",".join(scan.maps), found(",".join(scan.maps)))["simulated"] is False


def test_every_study_of_a_batch_says_by_itself_whether_it_is_simulated(template, tiny_maps, tmp_path):
    shutil.copytree(template, tmp_path / "in" / "real")
    for path in files_of(tmp_path / "in" / "real"):
        edit(path, lambda dataset: setattr(dataset, "SoftwareVersions", "syngo MR E11"))
    write_study(tmp_path / "in" / "made", tiny_maps, "sub-02", seed=4, extras=False)
    for studies in (found(tmp_path / "in"), found(tmp_path / "in")[::-1]):
        assert sorted(scan.simulated() for scan in studies) == [False, True]
        about = fingerprint(tmp_path / "in", studies)
        assert about["simulated"] is True and about["simulated_studies"] == 1
    for scan in studies:
        before = scan.simulated()
        scan.study.choose()
        assert scan.simulated() is before


def test_a_folder_of_studies_costs_nothing_until_one_is_read(template, scan, tmp_path):
    shutil.copytree(template, tmp_path / "archive" / "one")
    write_study(tmp_path / "archive" / "two", scan.maps, "sub-02", "ge", seed=4, box=BOX, extras=False)
    edit(files_of(tmp_path / "archive" / "two")[-1], lambda dataset: setattr(dataset, "PatientID", "another"))
    items = found(tmp_path / "archive")
    assert len(items) == 2
    with refused(items[1].scan_id, "two patients"):
        items[1].study.load()
    assert items[0].study.load().shape == (3, 24, 26, 8)


def test_maps_of_every_kind_give_the_network_the_same(scan, stacked, tmp_path):
    """In the file's box; the study's own axes run to the left and back where the file's run to the right and front."""
    steps = preprocessing("cropped", [32, 32], 6, [0.5, 99.5], "annotated")
    maps, affine = stored_maps(scan.maps)
    paths = [tmp_path / f"scan_{suffix}.nii.gz" for suffix in MAPS]
    for stored, path in zip(maps, paths, strict=True):
        turned = nib.Nifti1Image(stored.maps_unit, affine).as_reoriented(np.array([[0, -1], [1, -1], [2, 1]]))
        nib.save(turned, path)
    study = write_study(tmp_path / "study", scan.maps, "sub-01")
    (i0, i1), (j0, j1), k = BOX
    turned_box = [[SHAPE[0] - i1, SHAPE[0] - i0], [SHAPE[1] - j1, SHAPE[1] - j0], k]
    expected = steps(found([str(path) for path in paths], box=BOX)[0].item())["image"].as_tensor()
    from_dicom = steps(found(study, box=turned_box)[0].item())["image"].as_tensor()
    assert float((from_dicom - expected).abs().max()) < 1e-5
    one = steps(found(stacked, box=BOX)[0].item())["image"].as_tensor()
    three = steps(found(scan.maps, box=BOX)[0].item())["image"].as_tensor()
    assert float((one - three).abs().max()) < 1e-5


# --- bad input ------------------------------------------------------------------------------------


def test_what_is_not_there_or_not_known_is_refused(tmp_path, scan, template):
    with refused(tmp_path / "none", "no such file or folder"):
        found(tmp_path / "none")
    with refused("neither sub-*/anat (BIDS) nor any DICOM file"):
        found(tmp_path)
    with refused("2 paths given"):
        found(scan.maps[:2])
    with refused(scan.maps[0], "one 4D file"):
        found(scan.maps[0])
    with refused(files_of(template)[0], "no NIfTI file"):
        found(files_of(template)[0])
    (tmp_path / "text.nii").write_text("no image")
    with refused(tmp_path / "text.nii", "cannot be read as NIfTI"):
        found(tmp_path / "text.nii")


def test_an_archive_is_refused_unopened(tmp_path):
    """A bomb, and a name that would lead out of the folder: neither is ever unpacked."""
    path = tmp_path / "study.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../escaped.dcm", bytes(5_000_000))
    with refused(path, "archives are not unpacked", "unpack it"):
        found(path)
    assert list(tmp_path.iterdir()) == [path]


def test_maps_on_two_grids_are_refused_before_work_starts(scan, tmp_path):
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4)), tmp_path / "T1w.nii.gz")
    with refused(tmp_path / "T1w.nii.gz", "grid"):
        found([*scan.maps[:2], str(tmp_path / "T1w.nii.gz")])


@pytest.mark.parametrize("box", [[[0, 4], [0, 4]], [[4, 0], [0, 4], [0, 4]], [[0, 4.5], [0, 4], [0, 4]], "box", 3])
def test_a_box_that_is_none_is_refused(stacked, box):
    with refused("box"):
        found(stacked, box=box)


def test_one_box_for_several_scans_is_refused(shared_cohort):
    with refused("box", "12"):
        found(shared_cohort, box=BOX)


def test_participants_are_of_a_bids_folder_only(template, tmp_path):
    with refused("participants", "BIDS"):
        found(template, participants=tmp_path / "table.tsv")


# --- inference ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    save_weights(QNet(num_slices=4, hidden_size=8), path, torch.float16)
    return path


def infer(weights: Path, source: object, output_dir: Path, **changed) -> None:
    changed = {"nuclei": "known", **changed}
    flow = ConfigWorkflow(
        config_file=str(REPOSITORY / "bundle" / "configs" / "inference.yaml"),
        workflow_type="infer", logging_file=False, bundle_root=str(REPOSITORY / "bundle"), device="cpu",
        weights=str(weights), weights_record="config", output_dir=str(output_dir), spatial_size=[32, 32], num_slices=4,
        hidden_size=8, **({} if source is None else {"input": source}), **changed,
    )  # fmt: skip
    hook = sys.excepthook
    try:
        flow.initialize()
        flow.run()
    finally:
        sys.excepthook = hook


def probabilities(output_dir: Path) -> list[float]:
    found = [json.loads(path.read_text()) for path in sorted(output_dir.rglob("*_prediction.json"))]
    return [f["probability_HH"] for f in found] + [s["probability_HH"] for f in found for s in f["slices"]]


def test_inference_says_the_same_of_a_study_and_names_nobody(scan, weights, tmp_path, capfd):
    study = write_study(tmp_path / "Secretname_Jane" / "study", scan.maps, "sub-01", box=BOX)
    maps, affine = stored_maps(scan.maps, box=BOX)
    paths = [tmp_path / f"scan_{suffix}.nii.gz" for suffix in MAPS]
    for stored, path in zip(maps, paths, strict=True):
        nib.save(nib.Nifti1Image(stored.maps_unit, affine), path)
    infer(weights, ",".join(map(str, paths)), tmp_path / "from_nifti", localise="whole")
    capfd.readouterr()
    infer(weights, str(study), tmp_path / "from_dicom", localise="whole")
    said = capfd.readouterr()
    assert probabilities(tmp_path / "from_dicom") == pytest.approx(probabilities(tmp_path / "from_nifti"), abs=1e-5)
    (evidence,) = (tmp_path / "from_dicom").rglob("*_evidence.nii.gz")
    volume = nib.load(evidence)
    assert volume.shape == (24, 26, 8)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-4)
    (made,) = (tmp_path / "from_dicom").rglob("*_prediction.json")
    provenance = json.loads(made.read_text())["provenance"]
    assert provenance["settings"]["dicom_rules_sha256"] == hashlib.sha256(RULES.read_bytes()).hexdigest()
    assert provenance["input"]["kind"] == "dicom"
    # a DICOM report belongs into the patient's study and does name the patient
    written = [p for p in (tmp_path / "from_dicom").rglob("*") if p.is_file() and p.suffix != ".dcm"]
    assert written
    everything = said.out + said.err + "".join(path.name + path.read_bytes().decode("latin-1") for path in written)
    for name in ("Secretname", "SIM-sub", "Simulated^", "19700101"):
        assert name not in everything


def test_a_study_with_known_nuclei_gets_its_dicom_objects_and_they_hold_the_nuclei(weights, template, tmp_path):
    (scan,) = found(template)
    means = {f"{suffix}_{side}_{n}_mean": "0.08" for suffix in MEASURED for side in SIDES for n in NUCLEI}
    volumes = {f"{side}_{n}_volume": "1.5" for side in SIDES for n in NUCLEI}
    row = {"participant_id": scan.participant_id, "scan_id": scan.scan_id, **volumes, **means}
    table = tmp_path / "nuclei.tsv"
    table.write_text("\t".join(row) + "\n" + "\t".join(row.values()) + "\n")
    outputs = ["json", "sr", "parametric_map"]
    infer(weights, str(template), tmp_path / "out", localise="whole", outputs=outputs, nuclei_table=str(table))
    folder = tmp_path / "out" / scan.participant_id
    assert (folder / f"{scan.scan_id}_evidence_map.dcm").exists()
    assert "putamen" in str(pydicom.dcmread(folder / f"{scan.scan_id}_sr.dcm")).lower()
    assert len(json.loads((folder / f"{scan.scan_id}_prediction.json").read_text())["nuclei"]) == 2 * len(NUCLEI)


def test_one_bad_study_does_not_stop_the_others(scan, weights, template, tmp_path):
    shutil.copytree(template, tmp_path / "archive" / "one")
    other = write_study(tmp_path / "archive" / "two", scan.maps, "sub-02", "philips", box=BOX, extras=False)
    files_of(other, QSM)[3].unlink()
    with refused("1 of 2 scans failed", "1 of its slices is missing"):
        infer(weights, str(tmp_path / "archive"), tmp_path / "output", localise="whole")
    assert len(list((tmp_path / "output").rglob("*_prediction.json"))) == 1


@pytest.mark.parametrize("place", ["sub-01", "sub-01/anat"])
def test_the_folder_of_one_subject_is_told_from_a_cohort(shared_cohort, place):
    with refused(place, "the folder of one subject", "the folder that holds the subjects"):
        found(shared_cohort / place)


def test_the_bids_folder_can_still_be_called_dataset_dir(weights, tmp_path):
    cohort = write_cohort(tmp_path / "cohort", 2)
    infer(weights, None, tmp_path / "output", dataset_dir=str(cohort))
    assert len(list((tmp_path / "output").rglob("*_prediction.json"))) == 2


def test_the_fingerprint_changes_with_the_input_and_names_nothing(template, scan, shared_cohort, tmp_path):
    study = Path(shutil.copytree(template, tmp_path / "Secretname"))
    first = fingerprint(study, found(study))
    assert first == fingerprint(template, found(template))
    files_of(study)[0].unlink()
    assert fingerprint(study, found(study)) != first
    assert "Secretname" not in json.dumps(first)
    assert fingerprint(shared_cohort, found(shared_cohort))["maps"] == 36
    assert fingerprint(scan.maps, found(scan.maps))["kind"] == "nifti"


def test_junk_and_a_study_of_two_patients_are_failed_rows_and_a_good_one_is_read(template, tmp_path):
    studies = tmp_path / "studies"
    shutil.copytree(template, studies / "good")
    shutil.copytree(template, studies / "mixed")
    for path in files_of(studies / "mixed"):
        edit(path, lambda dataset: setattr(dataset, "StudyInstanceUID", f"{dataset.StudyInstanceUID}.1"))
    edit_series(studies / "mixed", QSM, lambda dataset: setattr(dataset, "PatientID", "somebody else"))
    (studies / "junk").mkdir()
    (studies / "junk" / "IM0").write_bytes(bytes(128) + b"DICM" + b"junk" * 40)
    (tmp_path / "out").mkdir()
    run = RunFolder(tmp_path / "out", {}, {}, ["json"])
    read = list(ScanStream(found(studies), lambda item: {**item, "image": item["image"].load()}, run))
    assert len(read) == 1
    junk, mixed = sorted(run.failures().values(), key=lambda message: "two patients" in message)
    assert "DICOM" in junk and "IM0" not in junk
    assert "two patients" in mixed and "somebody else" not in mixed
