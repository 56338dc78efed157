"""The headers around the numbers: classic and enhanced MR images, a localizer and a screenshot (DICOM PS3.3)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedMRImageStorage, MRImageStorage, SecondaryCaptureImageStorage
from pydicom.valuerep import DSfloat

from scripts.simulation.vendors import Stored, Style

#: Display slope that Philips writes beside its private scaling; any value but 1 shows who mistakes one for the other.
PHILIPS_DISPLAY_SLOPE = 1.75
_DATE, _TIME = "20250102", "101500"
_ECHO_TIME_MS, _REPETITION_TIME_MS, _FLIP_ANGLE_DEG, _FIELD_T = 20.0, 36.0, 24.0, 3.0  # paper, Dataset


@dataclass(frozen=True)
class Study:
    """What all series share. `uid(*words)` gives this study's UIDs; `age` is the participant's, years."""

    uid: Callable[..., str]
    participant_id: str
    style: Style
    age: float | None = None


@dataclass(frozen=True)
class Series:
    """One series on one grid. `affine` `[4, 4]`: voxel `[column, row, slice]` to RAS+ mm."""

    study: Study
    number: int
    description: str
    protocol: str
    image_type: tuple[str, ...]
    affine: np.ndarray
    uid: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "uid", self.study.uid("series", self.number))

    @property
    def spacing_mm(self) -> list[float]:
        """Of columns, rows and slices."""
        return [float(v) for v in np.linalg.norm(self.affine[:3, :3], axis=0)]

    @property
    def orientation(self) -> list[DSfloat]:
        """Image Orientation (Patient): direction of a row, then of a column, in DICOM's LPS axes."""
        directions = self.affine[:3, :2] / self.spacing_mm[:2] * [[-1], [-1], [1]]
        return [decimal(v) for v in directions.T.ravel()]

    def position(self, index: int) -> list[DSfloat]:
        """Image Position (Patient) of a slice: its first voxel's centre in LPS mm."""
        return [decimal(v) for v in (self.affine @ [0, 0, index, 1])[:3] * [-1, -1, 1]]


def decimal(value: float) -> DSfloat:
    """A decimal string of at most 16 characters, DICOM's limit."""
    return DSfloat(float(value), auto_format=True)


def scan_order(slices: int) -> list[int]:
    """Slices as an interleaved acquisition sends them: the odd ones, then the even ones."""
    return [*range(1, slices, 2), *range(0, slices, 2)]


def _patient_and_study(study: Study) -> Dataset:
    image = Dataset()
    image.SpecificCharacterSet = "ISO_IR 100"
    image.PatientName = f"Simulated^{study.participant_id}"
    image.PatientID = f"SIM-{study.participant_id}"
    image.PatientBirthDate = "19700101" if study.age is None else f"{int(_DATE[:4]) - int(study.age)}0101"
    if study.age is not None:
        image.PatientAge = f"{int(study.age):03d}Y"
    image.PatientSex = "O"
    image.StudyInstanceUID = study.uid("study")
    image.StudyID = "1"
    image.StudyDate = image.SeriesDate = image.ContentDate = image.AcquisitionDate = _DATE
    image.StudyTime = image.SeriesTime = image.ContentTime = image.AcquisitionTime = _TIME
    image.StudyDescription = "Simulated brain iron"
    image.AccessionNumber = ""
    image.ReferringPhysicianName = ""
    image.Manufacturer = study.style.manufacturer
    image.ManufacturerModelName = study.style.model
    image.InstitutionName = "Simulated"
    image.DeviceSerialNumber = "0"
    image.SoftwareVersions = "simulated"
    return image


def _mr_series(series: Series) -> Dataset:
    image = _patient_and_study(series.study)
    image.Modality = "MR"
    image.SeriesInstanceUID = series.uid
    image.SeriesNumber = series.number
    image.SeriesDescription = series.description
    image.ProtocolName = series.protocol
    image.PatientPosition = "HFS"
    image.FrameOfReferenceUID = series.study.uid("frame of reference")
    image.PositionReferenceIndicator = ""
    image.ImageType = list(series.image_type)
    image.AcquisitionNumber = 1
    image.BurnedInAnnotation = "NO"
    image.BodyPartExamined = "HEAD"
    return image


def _pixels(image: Dataset, style: Style, frames: np.ndarray) -> None:
    """Frames `[rows, columns]` or `[frames, rows, columns]` of 16-bit whole numbers."""
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.Rows, image.Columns = frames.shape[-2:]
    image.BitsAllocated = 16
    image.BitsStored = style.bits
    image.HighBit = style.bits - 1
    image.PixelRepresentation = int(style.signed)
    image.PixelData = np.ascontiguousarray(frames).astype("<i2" if style.signed else "<u2").tobytes()


def _rescale(style: Style, stored: Stored) -> tuple[float, float] | None:
    """Rescale slope and intercept; None where the vendor writes none."""
    if style.scaling == "none":
        return None
    if style.scaling == "philips":
        return PHILIPS_DISPLAY_SLOPE, PHILIPS_DISPLAY_SLOPE * stored.intercept / stored.slope
    return stored.slope, stored.intercept


def _philips_private(image: Dataset, stored: Stored) -> None:
    block = image.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
    block.add_new(0x0D, "FL", -stored.intercept / stored.slope)  # scale intercept
    block.add_new(0x0E, "FL", 1 / stored.slope)  # scale slope


def _frame_of_slice(values: np.ndarray, index: int) -> np.ndarray:
    return values[:, :, index].T


def classic(series: Series, stored: Stored) -> Iterator[Dataset]:
    """One MR Image Storage file a slice, in the order of the acquisition."""
    style = series.study.style
    columns_mm, rows_mm, slices_mm = series.spacing_mm
    for number, index in enumerate(scan_order(stored.values.shape[2]), 1):
        image = _mr_series(series)
        image.SOPClassUID = MRImageStorage
        image.SOPInstanceUID = series.study.uid("image", series.number, index)
        image.InstanceNumber = number
        image.ScanningSequence, image.SequenceVariant, image.ScanOptions = "GR", "SP", ""
        image.MRAcquisitionType = "3D"
        image.EchoTime, image.RepetitionTime = decimal(_ECHO_TIME_MS), decimal(_REPETITION_TIME_MS)
        image.FlipAngle, image.MagneticFieldStrength = decimal(_FLIP_ANGLE_DEG), decimal(_FIELD_T)
        image.EchoTrainLength = 6
        image.SliceThickness = image.SpacingBetweenSlices = decimal(slices_mm)
        image.PixelSpacing = [decimal(rows_mm), decimal(columns_mm)]
        image.ImageOrientationPatient = series.orientation
        image.ImagePositionPatient = series.position(index)
        if (rescale := _rescale(style, stored)) is not None:
            image.RescaleSlope, image.RescaleIntercept = map(decimal, rescale)
            image.RescaleType = "US"
        if style.scaling == "philips":
            _philips_private(image, stored)
        _pixels(image, style, _frame_of_slice(stored.values, index))
        yield image


def enhanced(series: Series, stored: Stored) -> Iterator[Dataset]:
    """One Enhanced MR Image Storage file for the series, its frames in the order of the acquisition."""
    style = series.study.style
    order = scan_order(stored.values.shape[2])
    columns_mm, rows_mm, slices_mm = series.spacing_mm
    image = _mr_series(series)
    image.SOPClassUID = EnhancedMRImageStorage
    image.SOPInstanceUID = series.study.uid("image", series.number)
    image.InstanceNumber = 1
    image.ImageType = ["DERIVED", "PRIMARY", "OTHER", "NONE"]
    image.AcquisitionDateTime = _DATE + _TIME
    image.AcquisitionDuration = 300.0
    image.ContentQualification = "RESEARCH"
    image.ResonantNucleus, image.MagneticFieldStrength = "1H", _FIELD_T
    image.KSpaceFiltering, image.AcquisitionContrast = "NONE", "UNKNOWN"
    image.PixelPresentation, image.VolumetricProperties = "MONOCHROME", "VOLUME"
    image.VolumeBasedCalculationTechnique, image.ComplexImageComponent = "NONE", "MAGNITUDE"
    image.PresentationLUTShape, image.LossyImageCompression = "IDENTITY", "00"
    image.NumberOfFrames = len(order)
    image.AcquisitionContextSequence = []
    organization = Dataset()
    organization.DimensionOrganizationUID = series.study.uid("dimension", series.number)
    image.DimensionOrganizationSequence = [organization]
    index_item = Dataset()
    index_item.DimensionOrganizationUID = organization.DimensionOrganizationUID
    index_item.DimensionIndexPointer = 0x00209057  # In-Stack Position Number
    index_item.FunctionalGroupPointer = 0x00209111  # Frame Content Sequence
    image.DimensionIndexSequence = [index_item]

    shared = Dataset()
    measures = Dataset()
    measures.PixelSpacing = [decimal(rows_mm), decimal(columns_mm)]
    measures.SliceThickness = measures.SpacingBetweenSlices = decimal(slices_mm)
    shared.PixelMeasuresSequence = [measures]
    orientation = Dataset()
    orientation.ImageOrientationPatient = series.orientation
    shared.PlaneOrientationSequence = [orientation]
    frame_type = Dataset()
    frame_type.FrameType = image.ImageType
    frame_type.PixelPresentation, frame_type.VolumetricProperties = "MONOCHROME", "VOLUME"
    frame_type.VolumeBasedCalculationTechnique, frame_type.ComplexImageComponent = "NONE", "MAGNITUDE"
    frame_type.AcquisitionContrast = "UNKNOWN"
    shared.MRImageFrameTypeSequence = [frame_type]
    anatomy, brain = Dataset(), Dataset()
    brain.CodeValue, brain.CodingSchemeDesignator, brain.CodeMeaning = "12738006", "SCT", "Brain"
    anatomy.FrameLaterality, anatomy.AnatomicRegionSequence = "B", [brain]
    shared.FrameAnatomySequence = [anatomy]
    image.SharedFunctionalGroupsSequence = [shared]

    image.PerFrameFunctionalGroupsSequence = [_frame_groups(series, stored, index) for index in order]
    _pixels(image, style, np.stack([_frame_of_slice(stored.values, index) for index in order]))
    yield image


def _frame_groups(series: Series, stored: Stored, index: int) -> Dataset:
    """What differs from frame to frame: position and scaling."""
    groups, content, position, scaling = Dataset(), Dataset(), Dataset(), Dataset()
    content.FrameAcquisitionNumber = 1
    content.StackID, content.InStackPositionNumber = "1", index + 1
    content.DimensionIndexValues = index + 1
    content.FrameAcquisitionDateTime = content.FrameReferenceDateTime = _DATE + _TIME
    content.FrameAcquisitionDuration = 300.0
    groups.FrameContentSequence = [content]
    position.ImagePositionPatient = series.position(index)
    groups.PlanePositionSequence = [position]
    slope, intercept = _rescale(series.study.style, stored) or (1, 0)
    scaling.RescaleSlope, scaling.RescaleIntercept, scaling.RescaleType = decimal(slope), decimal(intercept), "US"
    groups.PixelValueTransformationSequence = [scaling]
    if series.study.style.scaling == "philips":
        private = Dataset()
        _philips_private(private, stored)
        groups.private_block(0x2005, "Philips MR Imaging DD 005", create=True).add_new(0x0F, "SQ", [private])
    return groups


def localizer(study: Study, stored: Stored, affine: np.ndarray) -> Iterator[Dataset]:
    """Three single slices, axial, coronal and sagittal, in one series, as planning scans are."""
    size = stored.values.shape
    axes = {0: (0, 1, 2), 1: (0, 2, 1), 2: (1, 2, 0)}
    for number, (first, second, third) in axes.items():
        turned = affine[:, [first, second, third, 3]].copy()
        middle = size[third] // 2
        turned[:3, 3] += turned[:3, 2] * middle
        series = Series(study, 1, "localizer", "localizer", ("ORIGINAL", "PRIMARY", "M", "ND"), turned)
        volume = np.take(stored.values, [middle], axis=third).transpose(first, second, third)
        (image,) = classic(series, replace(stored, values=volume))
        image.SOPInstanceUID = study.uid("image", 1, number)
        image.InstanceNumber = number + 1
        yield image


def screenshot(study: Study, stored: Stored, description: str) -> Dataset:
    """A secondary capture of the QSM with something burned in: it looks like a map and must not be taken for one."""
    image = _patient_and_study(study)
    image.SOPClassUID = SecondaryCaptureImageStorage
    image.SOPInstanceUID = study.uid("image", 99, 0)
    image.SeriesInstanceUID = study.uid("series", 99)
    image.SeriesNumber, image.InstanceNumber = 99, 1
    image.SeriesDescription = f"{description} screenshot"
    image.Modality, image.ConversionType = "MR", "WSD"
    image.ImageType = ["DERIVED", "SECONDARY", "SCREEN SAVE"]
    image.BurnedInAnnotation = "YES"
    picture = _frame_of_slice(stored.values, stored.values.shape[2] // 2).copy()
    picture[: max(1, picture.shape[0] // 10)] = picture.max()  # where the name would stand
    _pixels(image, study.style, picture)
    return image
