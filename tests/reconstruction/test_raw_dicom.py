"""DICOM images become the same echoes on the same grid as they were, whatever the vendor's way of storing them."""

import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from blobs import BUNDLE
from refusal import refused

from scripts.dicom.rules import read_rules
from scripts.errors import InputError
from scripts.reconstruction.dicom import find_dicom
from scripts.reconstruction.raw import check_scan, load_echoes

pydicom = pytest.importorskip("pydicom")
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid  # noqa: E402

RULES = read_rules(BUNDLE / "configs" / "dicom_series.yaml")
DATA = Path(__file__).resolve().parents[1] / "data"
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


# --- whole studies, and multi-frame objects -------------------------------------------------------


def renumbered(study: Path, number: int, into: Path, **headers) -> None:
    """A copy of a study's images as another series of the same study."""
    into.mkdir(parents=True)
    series = generate_uid()
    for path in study.glob("*.dcm"):
        image = pydicom.dcmread(path)
        image.SeriesInstanceUID, image.SeriesNumber = series, number
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        image.update(headers)
        image.save_as(into / path.name, enforce_file_format=True)


def test_other_series_of_a_study_are_passed_over_and_listed(tmp_path, caplog):
    gre = write_study(tmp_path / "study" / "gre", "ge")
    renumbered(gre, 9, tmp_path / "study" / "t1", SeriesDescription="t1_mprage", EchoTime=3.0, InversionTime=900.0)
    renumbered(gre, 10, tmp_path / "study" / "t2", SeriesDescription="t2", EchoTime=400.0)
    with caplog.at_level(logging.INFO):
        (scan,) = find_dicom(tmp_path / "study", "sub-01", RULES)
    assert scan.acquisitions[0].echo_times_s == pytest.approx([0.005, 0.010, 0.015])
    assert "series 9 't1_mprage' was passed over" in caplog.text
    assert "series 10 't2' was passed over: EchoTime 400 ms is none of a gradient echo" in caplog.text


def test_several_scans_are_named_and_a_key_chooses(tmp_path):
    gre = write_study(tmp_path / "made", "siemens")
    renumbered(gre, 5, tmp_path / "study" / "a", SeriesDescription="GRE first")
    renumbered(gre, 7, tmp_path / "study" / "b", SeriesDescription="GRE again", FlipAngle=24.0)
    with refused("2 multi-echo scans", "series 5 'GRE first'; series 7 'GRE again'", "--series [5]"):
        find_dicom(tmp_path / "study", "sub-01", RULES)
    for given in (7, "7", [7]):
        (scan,) = find_dicom(tmp_path / "study", "sub-01", RULES, given)
        assert len(scan.acquisitions) == 1
    with refused("series: 6 is no multi-echo scan", "GRE first"):
        find_dicom(tmp_path / "study", "sub-01", RULES, 6)
    with refused("series: 'GRE' names no series"):
        find_dicom(tmp_path / "study", "sub-01", RULES, "GRE")


def test_two_flip_angles_are_one_scan(tmp_path):
    gre = write_study(tmp_path / "made", "siemens")
    renumbered(gre, 5, tmp_path / "study" / "a", FlipAngle=6.0)
    renumbered(gre, 7, tmp_path / "study" / "b", FlipAngle=24.0)
    (scan,) = find_dicom(tmp_path / "study", "sub-01", RULES)
    assert [a.flip_angle_deg for a in scan.acquisitions] == [6.0, 24.0]


def write_multi_frame(path: Path, parts: dict[str, str], number: int) -> None:
    """All echoes of some parts (DICOM's word -> ours) in one object, frames mixed up, Siemens' scaling."""
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = EnhancedMRImageStorage
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = generate_uid()
    image.StudyInstanceUID, image.FrameOfReferenceUID, image.SeriesInstanceUID = STUDY, STUDY + ".1", generate_uid()
    image.PatientID, image.Modality, image.SeriesNumber = "simulated", "MR", number
    image.ImageType, image.ComplexImageComponent = ["ORIGINAL", "PRIMARY", "SUSCEPTIBILITY", "NONE"], "MIXED"
    image.MagneticFieldStrength = 3.0
    image.Rows, image.Columns, image.SamplesPerPixel = SHAPE[1], SHAPE[0], 1
    image.PhotometricInterpretation, image.PixelRepresentation = "MONOCHROME2", 1
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
    pixels, groups = [], []
    for k in reversed(range(SHAPE[2])):
        for echo, time in enumerate(TIMES_MS):
            for component, part in parts.items():
                whole = stored(complex_image(echo), "siemens" if part in "MP" else "ge")
                volume, slope, intercept = whole[part]
                frame = {
                    "MREchoSequence": {"EffectiveEchoTime": time},
                    "MRImageFrameTypeSequence": {"ComplexImageComponent": component},
                    "PlanePositionSequence": {
                        "ImagePositionPatient": [float(v) for v in ORIGIN + AXES[:, 2] * k * SPACING[2]]
                    },
                    "PixelValueTransformationSequence": {"RescaleSlope": slope, "RescaleIntercept": intercept},
                }
                groups.append(items(frame))
                pixels.append(np.round(volume[:, :, k].T).astype("<i2").tobytes())
    image.SharedFunctionalGroupsSequence = [
        items(
            {
                "MRTimingAndRelatedParametersSequence": {"FlipAngle": 24.0, "RepetitionTime": 36.0},
                "PlaneOrientationSequence": {"ImageOrientationPatient": [float(v) for v in AXES[:, :2].T.ravel()]},
                "PixelMeasuresSequence": {"PixelSpacing": [SPACING[1], SPACING[0]], "SliceThickness": SPACING[2]},
            }
        )
    ]
    image.PerFrameFunctionalGroupsSequence, image.NumberOfFrames = groups, len(groups)
    image.PixelData = b"".join(pixels)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save_as(path, enforce_file_format=True)


def items(groups: dict[str, dict]) -> Dataset:
    """Functional groups of one item each."""
    frame = Dataset()
    for sequence, values in groups.items():
        item = Dataset()
        item.update(values)
        setattr(frame, sequence, [item])
    return frame


@pytest.mark.parametrize(
    "objects",
    [
        [{"MAGNITUDE": "M", "PHASE": "P"}],
        [{"MAGNITUDE": "M"}, {"PHASE": "P"}],
        [{"REAL": "R", "IMAGINARY": "I"}],
    ],
    ids=["one object", "an object a series", "real and imaginary"],
)
def test_multi_frame_objects_give_the_same_echoes(tmp_path, objects):
    for number, parts in enumerate(objects, 5):
        write_multi_frame(tmp_path / "study" / f"{number}.dcm", parts, number)
    (scan,) = find_dicom(tmp_path / "study", "sub-01", RULES)
    check_scan(scan)
    acquisition = scan.acquisitions[0]
    assert acquisition.echo_times_s == pytest.approx([0.005, 0.010, 0.015])
    assert (acquisition.flip_angle_deg, acquisition.repetition_time_s, acquisition.field_strength_t) == (24, 0.036, 3)
    echoes = load_echoes(acquisition, 1)
    for echo in range(len(TIMES_MS)):
        image = complex_image(echo)
        assert np.allclose(echoes.magnitude[echo] * echoes.unit, np.abs(image), atol=1.1)
        assert np.abs(np.angle(np.exp(1j * (echoes.phase[echo] - np.angle(image))))).max() < 0.01


def test_a_real_philips_export_is_read_as_dcm2niix_reads_it(caplog):
    """Magnitude and phase of two echoes in one object, beside perfusion and Raw Data Storage."""
    with caplog.at_level(logging.INFO):
        (scan,) = find_dicom(DATA / "philips_enhanced", "sub-01", RULES)
    assert "1 Raw Data Storage" in caplog.text and "series 1901 '3DpCASL' was passed over: only real" in caplog.text
    acquisition = scan.acquisitions[0]
    assert acquisition.parts == ("mag", "phase") and acquisition.phase_units == "rad"
    assert acquisition.echo_times_s == pytest.approx([0.0023, 0.0046])
    assert (acquisition.flip_angle_deg, acquisition.repetition_time_s, acquisition.field_strength_t) == (10, 0.02, 3)
    for part, volumes in (("mag", acquisition.first), ("ph", acquisition.second)):
        for echo, volume in enumerate(volumes, 1):
            theirs = nib.load(DATA / "philips_head" / f"philips_{part}{echo}.nii.gz")
            # that copy is cut otherwise and kept in coarser steps
            step = np.linalg.solve(theirs.affine, volume.affine)
            index = np.rint(step[:3, :3] @ np.indices(volume.array.shape).reshape(3, -1) + step[:3, 3:]).astype(int)
            inside = np.all((index >= 0) & (index < np.array(theirs.shape)[:, None]), axis=0)
            assert inside.mean() > 0.6
            ours, expected = volume.array.ravel()[inside], theirs.get_fdata()[tuple(index[:, inside])]
            away = np.angle(np.exp(1j * (ours - expected))) if part == "ph" else (ours - expected) / 2000
            assert np.abs(away).max() < (0.0013 if part == "ph" else 0.51)
