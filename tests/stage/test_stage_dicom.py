"""DICOM images become the same echoes on the same grid as they were, whatever the vendor's way of storing them."""

from pathlib import Path

import numpy as np
import pytest
from blobs import BUNDLE
from refusal import refused

from scripts.dicom_rules import read_rules
from scripts.errors import InputError
from scripts.stage.dicom import find_dicom
from scripts.stage.raw import check_scan, load_echoes

pydicom = pytest.importorskip("pydicom")
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid  # noqa: E402

RULES = read_rules(BUNDLE / "configs" / "dicom_series.yaml")
STUDY = "2.25.1"
SHAPE, SPACING = (20, 16, 9), (0.7, 0.8, 2.0)
TIMES_MS = (5.0, 10.0, 15.0)
TILT = np.deg2rad(15)
#: Axes of the array in the patient (LPS): to the left, to the back and down a little, to the head.
AXES = np.array([[1, 0, 0], [0, np.cos(TILT), -np.sin(TILT)], [0, np.sin(TILT), np.cos(TILT)]]).T
ORIGIN = np.array([-7.0, -6.0, -9.0])


def complex_image(echo: int) -> np.ndarray:
    x, y, z = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
    return (400 + 10 * x + 3 * z) * np.exp(-0.1 * echo + 1j * (0.9 * (echo + 1) * (x / 4 + y / 5 - z / 3)))


def stored(image: np.ndarray, vendor: str) -> dict[str, tuple]:
    """Integers, slope, intercept and ImageType of each part."""
    if vendor == "siemens":
        phase = np.round((np.angle(image) / np.pi * 4096 + 4096) / 2).clip(0, 4095)
        return {"M": (np.abs(image), 1, 0), "P": (phase, 2, -4096)}
    return {"R": (image.real, 1, 0), "I": (image.imag, 1, 0)}


def write_study(folder: Path, vendor: str) -> Path:
    folder.mkdir(parents=True)
    series = generate_uid()
    for echo, time in enumerate(TIMES_MS):
        for kind, (volume, slope, intercept) in stored(complex_image(echo), vendor).items():
            for k in range(SHAPE[2]):
                image = Dataset()
                image.file_meta = FileMetaDataset()
                image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
                image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = MRImageStorage
                image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = generate_uid()
                image.StudyInstanceUID, image.FrameOfReferenceUID = STUDY, STUDY + ".1"
                image.SeriesInstanceUID, image.PatientID, image.Modality = series, "simulated", "MR"
                image.ImageType = ["ORIGINAL", "PRIMARY", kind if vendor == "siemens" else "OTHER"]
                if vendor == "ge":
                    image.add_new((0x0043, 0x102F), "SS", "MPRI".index(kind))
                image.EchoTime, image.RepetitionTime, image.FlipAngle, image.MagneticFieldStrength = (
                    time,
                    36.0,
                    24.0,
                    3.0,
                )
                image.ImageOrientationPatient = [float(v) for v in (*AXES[:, 0], *AXES[:, 1])]
                image.ImagePositionPatient = [float(v) for v in ORIGIN + AXES[:, 2] * k * SPACING[2]]
                image.PixelSpacing, image.SliceThickness = [SPACING[1], SPACING[0]], SPACING[2]
                image.Rows, image.Columns = SHAPE[1], SHAPE[0]
                image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
                image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
                image.RescaleSlope, image.RescaleIntercept = slope, intercept
                image.PixelData = np.round(volume[:, :, k].T).astype("<i2").tobytes()
                image.save_as(folder / f"{kind}{echo}_{(7 * k) % SHAPE[2]}.dcm", enforce_file_format=True)
    return folder


@pytest.mark.parametrize("vendor", ["siemens", "ge"])
def test_echoes_and_grid_come_back(tmp_path, vendor):
    scan = find_dicom(write_study(tmp_path / "study", vendor), "sub-01", RULES)[0]
    check_scan(scan)
    acquisition = scan.acquisitions[0]
    assert acquisition.echo_times_s == pytest.approx([0.005, 0.010, 0.015])
    assert (acquisition.flip_angle_deg, acquisition.repetition_time_s, acquisition.field_strength_t) == (24, 0.036, 3)
    read = load_echoes(acquisition, 1)
    magnitude, phase = read.unit * read.magnitude, read.phase
    for echo in range(len(TIMES_MS)):
        image = complex_image(echo)
        assert np.allclose(magnitude[echo], np.abs(image), atol=1.0)
        assert np.abs(np.angle(np.exp(1j * (phase[echo] - np.angle(image))))).max() < 0.01
    to_ras = np.diag([-1.0, -1.0, 1.0])
    assert np.allclose(scan.affine[:3, :3], to_ras @ AXES @ np.diag(SPACING), atol=1e-6)
    assert np.allclose(scan.affine[:3, 3], to_ras @ ORIGIN, atol=1e-6)


def test_a_missing_slice_is_refused(tmp_path):
    study = write_study(tmp_path / "study", "siemens")
    next(study.glob("M1_4.dcm")).unlink()
    with refused("mag of echo time 10 ms", "missing"):
        find_dicom(study, "sub-01", RULES)


def test_uncombined_coils_are_refused(tmp_path):
    study = write_study(tmp_path / "study", "siemens")
    for path in list(study.glob("M0_*")):
        coil = pydicom.dcmread(path)
        coil.SOPInstanceUID = coil.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        coil.save_as(study / f"coil_{path.name}", enforce_file_format=True)
    with refused("18 images at 9 places", "uncombined coils"):
        find_dicom(study, "sub-01", RULES)


def test_two_patients_are_refused_and_nobody_is_named(tmp_path):
    study = write_study(tmp_path / "Jane Doe", "siemens")
    path = study / "M0_0.dcm"
    other = pydicom.dcmread(path)
    other.PatientID = "Doe-1970"
    other.save_as(path, enforce_file_format=True)
    with pytest.raises(InputError, match="two patients") as caught:
        find_dicom(study, "sub-01", RULES)
    assert "Doe" not in str(caught.value)


def test_magnitude_alone_is_refused(tmp_path):
    study = write_study(tmp_path / "study", "siemens")
    for path in study.glob("P*"):
        path.unlink()
    with refused("only mag images"):
        find_dicom(study, "sub-01", RULES)
