"""The evidence volume as DICOM: a Parametric Map with its values, and a Segmentation of where it is strong."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import highdicom as hd
import numpy as np
from monai.data import MetaTensor
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from scripts.anatomy.axes import LPS_RAS
from scripts.dicom.codes import HEALTHY, HEMOCHROMATOSIS, MANUFACTURER, NO_UNITS, REFERENCE
from scripts.dicom.geometry import Plane, planes_of, sampled
from scripts.dicom.identity import claim, decimals
from scripts.errors import InputError
from scripts.files.writing import write_aside
from scripts.provenance import RESEARCH_USE

EVIDENCE = Code("EVIDENCE", "99QNET", "Evidence for HH (positive) or HC (negative)")
#: Segments: label, sign of the evidence, what it speaks for, CIELab-like display colour (RGB, 0-255).
SEGMENTS = (("speaks for HH", 1, HEMOCHROMATOSIS, (200, 30, 40)), ("speaks for HC", -1, HEALTHY, (40, 80, 200)))


def evidence_frames(evidence: MetaTensor, series: Mapping[str, Sequence[Dataset]]) -> tuple[list[Plane], np.ndarray]:
    """The source frames that hold evidence, and the evidence on them, `[F, rows, columns]` float32.

    Raises:
        InputError: no source frame crosses the evidence.
    """
    datasets = series[REFERENCE] if REFERENCE in series else next(iter(series.values()))
    volume, affine = evidence[0].cpu().numpy(), evidence.affine.cpu().numpy().astype(np.float64)
    planes = [(frame, sampled(volume, affine, frame)) for frame in planes_of(datasets)]
    planes = [(frame, plane) for frame, plane in planes if plane.any()]
    if not planes:
        raise InputError(f"the evidence lies outside the {REFERENCE} series; check that the series share their space")
    return [frame for frame, _ in planes], np.stack([plane for _, plane in planes])


def source_images(frames: Sequence[Plane]) -> list[Dataset]:
    """The instances that hold the frames, each once."""
    return list({str(frame.dataset.SOPInstanceUID): frame.dataset for frame in frames}.values())


def geometry(frames: Sequence[Plane]) -> dict[str, Any]:
    """Positions, orientation and spacing of the frames, as highdicom takes them."""
    affines = [LPS_RAS @ frame.affine[:3] for frame in frames]  # back to DICOM's axes
    spacing = np.linalg.norm(affines[0][:3, :2], axis=0)
    normal = affines[0][:3, 2]
    gaps = np.diff([affine[:3, 3] @ normal for affine in affines])
    thickness = float(np.median(np.abs(gaps))) if len(gaps) else 1.0
    return {
        "plane_positions": [
            hd.PlanePositionSequence(hd.CoordinateSystemNames.PATIENT, decimals(affine[:3, 3])) for affine in affines
        ],
        "plane_orientation": hd.PlaneOrientationSequence(
            hd.CoordinateSystemNames.PATIENT, decimals((affines[0][:3, :2] / spacing).T.ravel())
        ),
        "pixel_measures": hd.PixelMeasuresSequence(
            pixel_spacing=decimals(spacing[::-1]), slice_thickness=decimals([thickness])[0]
        ),
    }


def made_by(model: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes that say which network made an object; new UIDs."""
    return {
        "series_instance_uid": hd.UID(),
        "sop_instance_uid": hd.UID(),
        "instance_number": 1,
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": model["name"],
        "software_versions": model["version"],
        "device_serial_number": model["sha256"],
        "content_creator_name": None,
    }


def write_parametric_map(
    path: str | os.PathLike,
    evidence: MetaTensor,
    series: Mapping[str, Sequence[Dataset]],
    model: Mapping[str, Any],
    method: Mapping[str, str],
) -> None:
    """Write the signed evidence as a DICOM Parametric Map (float32) on the frames of the T1W series that hold some.

    Args:
        path: the file; written aside, then renamed.
        evidence: `[1, I, J, K]` with the affine of its grid.
        series: from `scripts.dicom.sources.read_series`.
        model: `name`, `version`, `sha256`.
        method: what made the evidence: `name` and what it `says` (`scripts.model.evidence.Evidence.describe`).

    Raises:
        InputError: see `evidence_frames`.
    """
    frames, values = evidence_frames(evidence, series)
    limit = float(np.abs(values).max())
    mapping = hd.pm.RealWorldValueMapping(
        lut_label="EVIDENCE",
        lut_explanation=f"evidence, {method['name']}",
        unit=NO_UNITS,
        value_range=(-limit, limit),
        slope=1.0,
        intercept=0.0,
        quantity_definition=EVIDENCE,
    )
    # evidence may stay below 1, and only an exact linear window may be narrower than that
    window = hd.VOILUTTransformation(
        window_center=0.0, window_width=2 * limit, voi_lut_function=hd.VOILUTFunctionValues.LINEAR_EXACT
    )
    document = hd.pm.ParametricMap(
        source_images=source_images(frames),
        pixel_array=values,
        series_number=9002,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[window],
        content_label="EVIDENCE",
        content_description="Positive speaks for HH, negative for HC",
        series_description=f"{model['name']} evidence, {method['name']}, research only",
        **geometry(frames),
        **made_by(model),
    )
    document.ImageComments = explanation(method)
    document.BodyPartExamined = "BRAIN"  # without it a Laterality would be due
    claim(document, [frame.dataset for frame in frames])
    write_aside(path, document.save_as)


def explanation(method: Mapping[str, str]) -> str:
    """What the evidence is and its limits, as a DICOM comment."""
    return f"{method['name']}: {method['says']}. It shows what the network used, not where a disease is."


def write_segmentation(
    path: str | os.PathLike,
    evidence: MetaTensor,
    series: Mapping[str, Sequence[Dataset]],
    model: Mapping[str, Any],
    fraction: float,
    method: Mapping[str, str],
) -> None:
    """Write where the evidence is strong as a DICOM Segmentation: a segment for HH, and one for HC.

    Args:
        path, evidence, series, model, method: see `write_parametric_map`.
        fraction: of the strongest evidence of either sign from which a voxel belongs to a segment, 0 to 1.

    Raises:
        InputError: a fraction that is none, and see `evidence_frames`.
    """
    if not 0 < fraction <= 1:
        raise InputError(f"segment_fraction is {fraction}; give a fraction above 0, up to 1")
    frames, values = evidence_frames(evidence, series)
    limit = fraction * float(np.abs(values).max())
    masks = np.stack([sign * values >= limit for _, sign, _, _ in SEGMENTS], axis=-1)
    present = [number for number in range(len(SEGMENTS)) if masks[..., number].any()]
    algorithm = hd.AlgorithmIdentificationSequence(
        name=model["name"], family=codes.DCM.ArtificialIntelligence, version=model["version"]
    )
    descriptions = []
    for number, index in enumerate(present, 1):
        label, _, finding, colour = SEGMENTS[index]
        descriptions.append(
            hd.seg.SegmentDescription(
                segment_number=number,
                segment_label=label,
                segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure
                if finding is HEMOCHROMATOSIS
                else codes.SCT.AnatomicalStructure,
                segmented_property_type=finding,
                algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
                algorithm_identification=algorithm,
                display_color=hd.color.CIELabColor.from_rgb(*colour),
            )
        )
    document = hd.seg.Segmentation(
        source_images=source_images(frames),
        pixel_array=masks[..., present],
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=descriptions,
        series_number=9003,
        content_label="EVIDENCE",
        content_description="Strong evidence",
        series_description=f"{model['name']} strong evidence, {RESEARCH_USE}",
        **geometry(frames),
        **made_by(model),
    )
    document.ImageComments = explanation(method)
    document.BodyPartExamined = "BRAIN"  # without it a Laterality would be due
    claim(document, [frame.dataset for frame in frames])
    write_aside(path, document.save_as)
