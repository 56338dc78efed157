"""A DICOM structured report of one scan: TID 1500 (Measurement Report, DICOM PS3.16), by highdicom."""

import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import highdicom as hd
import numpy as np
from monai.data import MetaTensor
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from scripts.dicom.codes import HEALTHY, HEMOCHROMATOSIS, MANUFACTURER, NO_UNITS, REFERENCE
from scripts.dicom.geometry import Plane, nearest_plane, planes_of
from scripts.dicom.identity import claim
from scripts.files.writing import write_aside
from scripts.provenance import DO_NOT_RELY, RESEARCH_USE

PROBABILITY = Code("PROBHH", "99QNET", "Probability of hereditary hemochromatosis")
CALIBRATED = Code("CALPROBHH", "99QNET", "Calibrated probability of hereditary hemochromatosis")
CLASSIFICATION = Code("CLASS", "99QNET", "Class given by the network")
ANSWER = Code("ANSWER", "99QNET", "Answer at the chosen error")
RELIANCE = Code("RELIANCE", "99QNET", "Whether the answer is to be relied on")
STRANGER = Code("UNLIKE", "99QNET", DO_NOT_RELY)
UNDECIDED = Code("CANNOTSAY", "99QNET", "Cannot say")
#: Column of a nuclei table -> what was measured, its UCUM unit, and how the column sums up the nucleus.
QUANTITIES = {
    "Chimap": (codes.DCM.MagneticSusceptibility, Code("[ppm]", "UCUM", "ppm"), codes.SCT.Mean),
    "R2starmap": (codes.DCM.R2Star, Code("/s", "UCUM", "/s"), codes.SCT.Mean),
    "volume_mm3": (codes.SCT.Volume, codes.UCUM.CubicMillimeter, None),
}
NUCLEI = {
    "caudate": Code("11000004", "SCT", "Caudate nucleus"),
    "putamen": Code("89278009", "SCT", "Putamen"),
    "pallidum": Code("14738005", "SCT", "Globus pallidus"),
    "thalamus": Code("42695009", "SCT", "Thalamus"),
    "substantia_nigra": Code("70007007", "SCT", "Substantia nigra"),
}
SIDES = {"left": codes.SCT.Left, "right": codes.SCT.Right}


def device_uid(model: Mapping[str, Any]) -> str:
    """A UID of the network as observer, the same wherever the same weights run."""
    return hd.UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, model['sha256']).int}")


def algorithm(model: Mapping[str, Any], parameters: Sequence[str] = ()) -> hd.sr.AlgorithmIdentification:
    """Name, version and weights of the network (TID 4019)."""
    return hd.sr.AlgorithmIdentification(
        name=model["name"],
        version=model["version"],
        parameters=[f"weights sha256 {model['sha256']}", *parameters],
    )


def write_structured_report(
    path: str | os.PathLike,
    result: Mapping[str, Any],
    evidence: MetaTensor,
    series: Mapping[str, Sequence[Dataset]],
    model: Mapping[str, Any],
    nuclei: Iterable[Mapping[str, Any]] | None = None,
) -> None:
    """Write one scan's DICOM SR (Comprehensive 3D SR, unverified), aside then renamed.

    It holds the finding with its probability, the probability of each slice with the source image that it is of, the
    nuclei's measurements, and the network as device observer. Patient and study are those of the source series.

    Args:
        path: the file.
        result: `probability_HH`, `class`, `threshold`, `slices` and `note`, as in the scan's JSON.
        evidence: `[1, I, J, K]` on the input's grid, by whose affine the slices find their source images.
        series: from `read_series`.
        model: `name`, `version`, `sha256`, as `scripts.inference.results.model_info` gives.
        nuclei: rows with `nucleus`, optionally `side` (left, right) and `volume_mm3`, and means by map:
            `Chimap` in ppm, `R2starmap` in 1/s.

    Raises:
        InputError: the source series cannot be referenced.
    """
    observer = hd.sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
            uid=device_uid(model),
            name=model["name"],
            manufacturer_name=MANUFACTURER,
            model_name=f"{model['name']} {model['version']}",
            serial_number=model["sha256"],
        ),
    )
    sources = [dataset for datasets in series.values() for dataset in datasets]
    frames = slice_frames(result, evidence, series.get(REFERENCE, sources))
    # The report's evidence lists every source image; its library describes one of each series and those it speaks of.
    spoken_of = [datasets[len(datasets) // 2] for datasets in series.values()] + [frame.dataset for frame in frames]
    library = list({str(dataset.SOPInstanceUID): dataset for dataset in spoken_of}.values())
    report = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=observer),
        procedure_reported=codes.LN.BrainMRI,
        imaging_measurements=[
            scan_group(result, model),
            *slice_groups(result, frames),
            *nucleus_groups(nuclei or ()),
        ],
        title=codes.DCM.ImagingMeasurementReport,
        referenced_images=library,
    )
    document = hd.sr.Comprehensive3DSR(
        evidence=sources,
        content=report[0],
        series_instance_uid=hd.UID(),
        series_number=9001,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=True,
        is_verified=False,
        series_description=f"{model['name']} report, {RESEARCH_USE}",
    )
    document.SoftwareVersions = model["version"]
    claim(document, sources)
    write_aside(path, document.save_as)


def tracking(name: str) -> hd.sr.TrackingIdentifier:
    return hd.sr.TrackingIdentifier(uid=hd.UID(), identifier=name)


def scan_group(result: Mapping[str, Any], model: Mapping[str, Any]) -> hd.sr.MeasurementsAndQualitativeEvaluations:
    """The finding, which is the class at the threshold, and the probability of HH (TID 1501).

    Where the weights are calibrated, also the calibrated probability, and the answer, which may be that none is given;
    and of a scan that is unlike the training scans, that neither is to be relied on.
    """
    finding = HEMOCHROMATOSIS if result["class"] == "HH" else HEALTHY
    measured = [(PROBABILITY, result["probability_HH"])]
    said, parameters = [(CLASSIFICATION, finding)], [f"threshold {result['threshold']:g}", result["note"]]
    if "answer" in result:
        measured.append((CALIBRATED, result["calibrated_probability_HH"]))
        said.append((ANSWER, {"HH": HEMOCHROMATOSIS, "HC": HEALTHY}.get(result["answer"], UNDECIDED)))
        trust = result["trust"]
        share = "unknown" if trust["prevalence"] is None else f"{trust['prevalence']:.4g}"
        parameters += [f"conformal error {trust['conformal_error']:g}", f"prevalence of HH {share}"]
        if result.get("familiarity", {}).get("flagged"):
            said.append((RELIANCE, STRANGER))
    elif "calibration_missing" in result:
        parameters.append(f"not calibrated: {result['calibration_missing']}")
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=tracking("scan"),
        finding_type=finding,
        finding_sites=[hd.sr.FindingSite(codes.SCT.Brain)],
        algorithm_id=algorithm(model, parameters),
        measurements=[hd.sr.Measurement(name=name, value=round(value, 6), unit=NO_UNITS) for name, value in measured],
        qualitative_evaluations=[hd.sr.QualitativeEvaluation(name=name, value=value) for name, value in said],
    )


def slice_frames(result: Mapping[str, Any], evidence: MetaTensor, datasets: Sequence[Dataset]) -> list[Plane]:
    """For each of the result's slices, the source image nearest to it."""
    frames = planes_of(datasets)
    affine = evidence.affine.cpu().numpy()
    axis = int(np.argmax(np.abs(affine[2, :3])))  # of the input's slices, from foot to head
    voxel = (np.array(evidence.shape[1:]) - 1) / 2
    nearest = []
    for row in result["slices"]:
        voxel[axis] = row["input_slice"]
        nearest.append(nearest_plane(frames, affine[:3, :3] @ voxel + affine[:3, 3]))
    return nearest


def slice_groups(
    result: Mapping[str, Any], frames: Sequence[Plane]
) -> list[hd.sr.MeasurementsAndQualitativeEvaluations]:
    """The probability of each slice, with its source image."""
    return [
        hd.sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=tracking(f"slice {row['slice']}"),
            measurements=[hd.sr.Measurement(name=PROBABILITY, value=round(row["probability_HH"], 6), unit=NO_UNITS)],
            source_images=[
                hd.sr.SourceImageForMeasurementGroup(
                    frame.dataset.SOPClassUID,
                    frame.dataset.SOPInstanceUID,
                    None if frame.number is None else [frame.number],
                )
            ],
        )
        for row, frame in zip(result["slices"], frames, strict=True)
    ]


def nucleus_groups(nuclei: Iterable[Mapping[str, Any]]) -> list[hd.sr.MeasurementsAndQualitativeEvaluations]:
    """The measurements of each nucleus and side; a value that a row lacks is left out."""
    groups = []
    for row in nuclei:
        name, side = str(row["nucleus"]), str(row.get("side") or "")
        site = NUCLEI.get(name, Code(name.upper()[:16], "99QNET", name.replace("_", " ")[:64]))
        measurements = [
            hd.sr.Measurement(name=quantity, value=round(float(row[key]), 6), unit=unit, derivation=derivation)
            for key, (quantity, unit, derivation) in QUANTITIES.items()
            if row.get(key) not in (None, "") and np.isfinite(float(row[key]))
        ]
        if measurements:
            groups.append(
                hd.sr.MeasurementsAndQualitativeEvaluations(
                    tracking_identifier=tracking(f"{name} {side}".strip()),
                    finding_sites=[hd.sr.FindingSite(site, laterality=SIDES.get(side))],
                    measurements=measurements,
                )
            )
    return groups
