"""A minimal DICOM study for tests of what refers to one: three classic MR series of one grid."""

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

NAME, PATIENT_ID = "Doe^Jane", "SECRET-4711"


def write_series(
    folder: Path,
    shape: tuple[int, int, int],
    affine: np.ndarray,
    study: str,
    frame: str,
    number: int,
    **changed: object,
) -> list[Path]:
    """Axial slices of a grid (columns, rows, slices; `affine` in RAS), pixels of noise."""
    folder.mkdir(parents=True)
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    series, rng, paths = generate_uid(), np.random.default_rng(number), []
    for index in range(shape[2]):
        image = Dataset()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.SOPClassUID, image.SOPInstanceUID = MRImageStorage, generate_uid()
        image.PatientName, image.PatientID, image.PatientBirthDate, image.PatientSex = NAME, PATIENT_ID, "19600101", "F"
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = study, series, frame
        image.StudyID, image.AccessionNumber, image.ReferringPhysicianName = "1", "", ""
        image.StudyDate, image.StudyTime, image.SeriesNumber, image.InstanceNumber = (
            "20260101",
            "120000",
            number,
            index + 1,
        )
        image.Modality, image.Manufacturer, image.ImageType = "MR", "Tests", ["DERIVED", "PRIMARY", "OTHER"]
        image.PositionReferenceIndicator, image.PatientPosition, image.Laterality = "", "HFS", ""
        image.ScanningSequence, image.SequenceVariant, image.ScanOptions = "GR", "SP", ""
        image.MRAcquisitionType, image.EchoTime, image.EchoTrainLength, image.RepetitionTime = "3D", "20", "1", "36"
        image.ImagePositionPatient = [round(float(v), 6) for v in (lps @ [0, 0, index, 1])[:3]]
        image.ImageOrientationPatient = [round(float(v), 6) for v in (lps[:3, :2] / spacing[:2]).T.ravel()]
        image.PixelSpacing = [float(spacing[1]), float(spacing[0])]
        image.SliceThickness = float(spacing[2])
        image.Rows, image.Columns, image.SamplesPerPixel = shape[1], shape[0], 1
        image.PhotometricInterpretation, image.PixelRepresentation = "MONOCHROME2", 0
        image.BitsAllocated, image.BitsStored, image.HighBit = 16, 12, 11
        image.PixelData = rng.integers(0, 4000, (shape[1], shape[0])).astype(np.uint16).tobytes()
        for keyword, value in changed.items():
            setattr(image, keyword, value)
        paths.append(folder / f"{index:03d}.dcm")
        image.save_as(paths[-1], enforce_file_format=True)
    return paths


def write_study(folder: Path, shape: tuple[int, int, int], affine: np.ndarray) -> dict[str, list[Path]]:
    """The three series of a scan: map -> files."""
    study, frame = generate_uid(), generate_uid()
    return {
        name: write_series(folder / name, shape, affine, study, frame, number)
        for number, name in enumerate(("Chimap", "R2starmap", "T1w"), 1)
    }
