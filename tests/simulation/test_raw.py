"""Raw data on disk: BIDS names, sidecars, truth, repeatability, DICOM, refusals."""

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from refusal import refused

from scripts.anatomy.atlas import LABELS
from scripts.simulation import raw_cohort

CONFIG = Path(__file__).resolve().parents[2] / "bundle" / "configs" / "simulate_raw.yaml"
TINY = {"matrix": [36, 44, 30], "spacing_mm": [5.0, 5.0, 5.0], "supersampling": [1, 1, 1]}
# Entities in the order that BIDS 1.10 prescribes.
BIDS_NAME = re.compile(r"sub-\d+_acq-[a-z0-9]+_echo-\d+_part-(mag|phase)_MEGRE\.(nii\.gz|json)")


@pytest.fixture(scope="module")
def settings():
    config = yaml.safe_load(CONFIG.read_text())
    names = ("ages", "seed", "tilt_deg", "slice_gap_mm", "sequence", "head", "phase_scale", "dicom")
    return {name: config[name] for name in names} | {"size": "tiny", "sizes": {"tiny": TINY}, "num_workers": 1}


@pytest.fixture(scope="module")
def raw(settings, tmp_path_factory):
    changed = {"dicom": "siemens", "phase_scale": "scanner", "tilt_deg": [12.0, 0.0, 0.0]}
    changed["sequence"] = settings["sequence"] | {"echo_times_s": [0.005, 0.01, 0.03]}
    return raw_cohort.simulate_raw(tmp_path_factory.mktemp("raw") / "data", **settings | changed)


def load(path):
    return np.asarray(nib.load(path).dataobj)


def test_names_and_sidecars_are_bids(raw):
    files = sorted(p.name for p in (raw / "sub-01" / "anat").iterdir())
    assert len(files) == 2 * 3 * 2 * 2
    assert all(BIDS_NAME.fullmatch(name) for name in files)
    content = json.loads((raw / "sub-01" / "anat" / "sub-01_acq-fa24_echo-2_part-phase_MEGRE.json").read_text())
    wanted = {"EchoTime": 0.01, "FlipAngle": 24, "RepetitionTimeExcitation": 0.036, "MagneticFieldStrength": 3.0}
    assert {key: content[key] for key in wanted} == wanted
    assert content["Simulated"] is True
    assert json.loads((raw / "dataset_description.json").read_text())["DatasetType"] == "raw"
    assert not raw.with_name("data.part").exists()


def test_scanner_phase_is_even_integers_of_one_turn(raw):
    phase = load(raw / "sub-01" / "anat" / "sub-01_acq-fa06_echo-3_part-phase_MEGRE.nii.gz")
    assert phase.min() >= -4096
    assert phase.max() <= 4094
    assert (phase % 2 == 0).all()
    assert np.ptp(phase) > 8000


def test_truth_is_that_of_a_head(raw):
    folder = raw / "derivatives" / "groundtruth" / "sub-01" / "anat"
    names = ("Chimap", "R2starmap", "T1map", "PDmap", "desc-brain_mask", "desc-nuclei_dseg", "desc-local_fieldmap")
    chi, r2star, t1, pd, brain, labels, local = (load(folder / f"sub-01_{name}.nii.gz") for name in names)
    volume = brain.sum() * 0.125 / 1000  # voxels of 125 mm^3 in litres
    assert 1.3 < volume < 2.2  # hull of an adult's brain
    pallidum = np.isin(labels, [LABELS["left_pallidum"], LABELS["right_pallidum"]])
    putamen = np.isin(labels, [LABELS["left_putamen"], LABELS["right_putamen"]])
    assert chi[putamen].mean() < chi[pallidum].mean() < 0.25
    assert 40 < r2star[pallidum].mean() < 90
    assert 0.8 < t1[pallidum].mean() < 1.3
    assert 0.65 < pd[brain > 0].min() <= pd.max() <= 1.0
    assert np.abs(local[brain > 0]).max() < 60
    left = np.argwhere(labels == LABELS["left_putamen"]).mean(0)
    right = np.argwhere(labels == LABELS["right_putamen"]).mean(0)
    affine = nib.load(folder / "sub-01_Chimap.nii.gz").affine
    assert (affine[:3, :3] @ left)[0] < (affine[:3, :3] @ right)[0]  # x grows to the right


def test_same_settings_give_the_same_bytes(settings, tmp_path):
    short = settings["sequence"] | {"echo_times_s": [0.005, 0.02], "motion_events": 1}
    folders = [raw_cohort.simulate_raw(tmp_path / n, **settings | {"sequence": short}) for n in ("a", "b")]
    files = sorted(p.relative_to(folders[0]) for p in folders[0].rglob("*") if p.is_file())
    assert any("fieldmap" in str(p) for p in files)
    assert all((folders[0] / p).read_bytes() == (folders[1] / p).read_bytes() for p in files)


def test_dicom_reads_back_to_the_same_values(raw):
    """Sorted by nothing but headers: echo, kind and position of every slice."""
    pydicom = pytest.importorskip("pydicom")
    images = [pydicom.dcmread(p) for p in (raw / "sourcedata").rglob("*.IMA")]
    assert len(images) == 2 * 3 * 2 * 30
    assert len({i.SOPInstanceUID for i in images}) == len(images)
    assert len({i.SeriesInstanceUID for i in images}) == 4
    assert len({i.StudyInstanceUID for i in images}) == 1
    nifti = nib.load(raw / "sub-01" / "anat" / "sub-01_acq-fa24_echo-2_part-phase_MEGRE.nii.gz")
    voxels = np.asarray(nifti.dataobj)
    wanted = [i for i in images if i.FlipAngle == 24 and i.EchoNumbers == 2 and "P" in i.ImageType]
    assert {float(i.EchoTime) for i in wanted} == {10.0}
    assert {float(i.MagneticFieldStrength) for i in wanted} == {3.0}
    for image in wanted[::7]:
        row, column = np.array(image.ImageOrientationPatient, float).reshape(2, 3)
        spacing = np.array(image.PixelSpacing, float)
        y, x = np.mgrid[: image.Rows, : image.Columns]
        start = np.array(image.ImagePositionPatient, float)[:, None, None]
        lps = start + row[:, None, None] * x * spacing[1] + column[:, None, None] * y * spacing[0]
        index = np.linalg.inv(nifti.affine) @ np.vstack(
            [(lps * [[[-1]], [[-1]], [[1]]]).reshape(3, -1), np.ones(x.size)]
        )
        assert np.abs(index - index.round()).max() < 1e-3
        values = image.pixel_array * float(image.RescaleSlope) + float(image.RescaleIntercept)
        assert np.array_equal(values.ravel(), voxels[tuple(index[:3].round().astype(int))])


def test_ge_sends_real_and_imaginary(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    import torch

    from scripts.simulation.raw_dicom import write_raw_study

    config = yaml.safe_load(CONFIG.read_text())["sequence"] | {"echo_times_s": [0.005], "flip_angles_deg": [6]}
    signal = torch.polar(torch.rand(1, 1, 6, 7, 4) + 0.1, 6 * torch.rand(1, 1, 6, 7, 4))
    write_raw_study(tmp_path, "sub-01", signal, raw_cohort.make_sequence(config), np.eye(4), "ge", 0)
    images = [pydicom.dcmread(p) for p in tmp_path.rglob("*") if p.is_file()]
    at = {(int(i[0x0043, 0x102F].value), int(i.ImagePositionPatient[2])): i.pixel_array for i in images}
    assert len(at) == 8
    # An affine of ones runs to the right and front; DICOM to the left and back.
    value = at[2, 1][::-1, ::-1].T + 1j * at[3, 1][::-1, ::-1].T
    expected = signal[0, 0, :, :, 1].numpy()
    assert np.abs(value / 16000 * np.abs(signal.numpy()).max() - expected).max() < 1e-4


@pytest.mark.parametrize("vendor", ["siemens", "ge"])
def test_the_reconstruction_reads_the_raw_dicom_as_it_was_scanned(tmp_path, vendor):
    pytest.importorskip("pydicom")
    import torch

    from scripts.dicom.rules import read_rules
    from scripts.reconstruction.dicom import find_dicom
    from scripts.reconstruction.raw import check_scan, load_echoes, note_on_gaps
    from scripts.simulation.raw_dicom import write_raw_study

    config = yaml.safe_load(CONFIG.read_text())["sequence"]
    config |= {"echo_times_s": [0.005, 0.01, 0.015], "flip_angles_deg": [6, 24]}
    generator = torch.Generator().manual_seed(0)
    shape = (2, 3, 9, 10, 8)
    # phases over all of the circle, as real ones are: the reader tells phase from magnitude by its range
    magnitude, phase = (torch.rand(shape, generator=generator) for _ in range(2))
    signal = torch.polar(magnitude + 0.1, 6.28 * phase)
    write_raw_study(tmp_path, "sub-01", signal, raw_cohort.make_sequence(config), np.eye(4), vendor, 0, 0.75)
    (scan,) = find_dicom(tmp_path, "sub-01", read_rules(CONFIG.with_name("dicom_series.yaml")))
    check_scan(scan)
    assert [a.flip_angle_deg for a in scan.acquisitions] == [6, 24]
    assert np.allclose(scan.spacing_mm, 1.0)  # slices lie where their positions say, however thin they are
    thickness = scan.acquisitions[0].slice_thickness_mm
    assert (thickness, note_on_gaps(1.0, 1.0)) == (0.75, [])
    assert "0.75 mm thick but 1 mm apart" in note_on_gaps(thickness, scan.spacing_mm[2])[0]
    to_scanner = scan.affine @ np.array([0, 0, 0, 1.0])
    for flip, acquisition in enumerate(scan.acquisitions):
        assert acquisition.echo_times_s == pytest.approx([0.005, 0.01, 0.015])
        found = load_echoes(acquisition, 1)
        read = found.magnitude * np.exp(1j * found.phase)
        # the study's axes run to the left and back; turned back they are the scanner's
        turned = read[:, ::-1, ::-1] if scan.affine[0, 0] < 0 else read
        expected = signal[flip].numpy()
        scale = np.abs(turned).max() / np.abs(expected).max()
        # magnitudes are stored in 4095 steps, phases in 4096
        assert np.abs(turned / scale - expected).max() < 0.004
    assert np.allclose(np.abs(to_scanner[:2]), [8, 9])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"size": "huge"}, "huge"),
        ({"ages": []}, "ages"),
        ({"phase_scale": "degrees"}, "degrees"),
        ({"dicom": "agfa"}, "agfa"),
        ({"seed": -1}, "seed"),
        ({"num_workers": 0}, "num_workers"),
        ({"sizes": {"tiny": TINY | {"supersampling": [1, 1, 0]}}}, "supersampling"),
        ({"slice_gap_mm": 5.0}, "slice_gap_mm"),
        ({"slice_gap_mm": 1.0}, "supersampling"),
        ({"sizes": {"tiny": TINY | {"matrix": [8, 8, 8]}}}, "matrix"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(settings, tmp_path, changed, words):
    with refused(words):
        raw_cohort.simulate_raw(tmp_path / "out", **settings | changed)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("echo_times_s", [0.01, 0.005]),
        ("echo_times_s", [5, 10]),
        ("flip_angles_deg", [6, 6]),
        ("field_strength_t", 0),
        ("snr", -1),
        ("b1_deviation", 0.9),
        ("shim_order", 4),
        ("phase_sign", 0),
    ],
)
def test_bad_sequences_are_refused(settings, key, value):
    with refused("sequence", key):
        raw_cohort.make_sequence(settings["sequence"] | {key: value})
