"""The DICOM SR, Parametric Map and Segmentation of a scan: right content, and no error in independent validators."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from blobs import BOX, SHAPE
from monai.data import MetaTensor
from refusal import refused

pytest.importorskip("highdicom")

import pydicom  # noqa: E402
from dicom_study import NAME, PATIENT_ID, write_series, write_study  # noqa: E402

from scripts.dicom.evidence import write_parametric_map, write_segmentation  # noqa: E402
from scripts.dicom.geometry import planes_of, sampled  # noqa: E402
from scripts.dicom.sources import read_series
from scripts.dicom.structured_report import device_uid, write_structured_report

MODEL = {"name": "Q-Net", "version": "0.1.0", "sha256": "ab" * 32}
METHOD = {"method": "occlusion", "name": "occlusion", "says": "what covering a patch does"}
RESULT = {
    "probability_HH": 0.731,
    "class": "HH",
    "threshold": 0.5,
    "note": "Research use only, not for clinical use.",
    "slices": [{"slice": n, "input_slice": 3 + 2 * n, "probability_HH": n / 4} for n in range(4)],
}
NUCLEI = [
    {"nucleus": "caudate", "side": "left", "Chimap": 0.071, "R2starmap": 28.5, "volume_mm3": 3500},
    {"nucleus": "dentate", "side": "", "Chimap": 0.1, "R2starmap": ""},
]
#: Of the NIfTI grid, and of the DICOM series, whose columns and rows run to the left and to the back.
AFFINE = np.diag([3.0, 3, 4, 1])
AFFINE[:3, 3] = [-60, -66, -20]
DICOM_AFFINE = AFFINE @ np.array([[-1.0, 0, 0, SHAPE[0] - 1], [0, -1, 0, SHAPE[1] - 1], [0, 0, 1, 0], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def evidence() -> MetaTensor:
    volume = np.zeros(SHAPE, np.float32)
    inside = tuple(slice(*pair) for pair in BOX)
    volume[inside] = np.random.default_rng(0).normal(size=volume[inside].shape)
    return MetaTensor(torch.from_numpy(volume)[None], affine=torch.from_numpy(AFFINE))


@pytest.fixture(scope="module")
def written(evidence, tmp_path_factory) -> dict[str, Path]:
    """One study's objects, by kind."""
    folder = tmp_path_factory.mktemp("dicom")
    series = read_series(write_study(folder / "study", SHAPE, DICOM_AFFINE))
    paths = {kind: folder / f"{kind}.dcm" for kind in ("sr", "map", "seg")}
    write_structured_report(paths["sr"], RESULT, evidence, series, MODEL, NUCLEI)
    write_parametric_map(paths["map"], evidence, series, MODEL, METHOD)
    write_segmentation(paths["seg"], evidence, series, MODEL, 0.5, METHOD)
    return paths | {"study": folder / "study"}


def items(container: pydicom.Dataset):
    """All content items below one, with their name."""
    for item in container.get("ContentSequence", ()):
        yield item.ConceptNameCodeSequence[0].CodeMeaning if "ConceptNameCodeSequence" in item else "", item
        yield from items(item)


def only_t1w(written: dict[str, Path]) -> dict[str, list[pydicom.Dataset]]:
    """The T1W series as output objects refer to it."""
    return read_series({"T1w": sorted((written["study"] / "T1w").iterdir())})


def source(written: dict[str, Path], name: str) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(path) for path in sorted((written["study"] / name).iterdir())]


@pytest.mark.parametrize(("answer", "prevalence"), [("HH", 0.02), ("HC", None), ("cannot say", 0.02)])
def test_the_report_holds_the_calibrated_probability_and_the_answer(written, evidence, tmp_path, answer, prevalence):
    trust = {"conformal_error": 0.1, "prevalence": prevalence}
    told = {**RESULT, "calibrated_probability_HH": 0.58, "answer": answer, "trust": trust}
    write_structured_report(tmp_path / "sr.dcm", told, evidence, only_t1w(written), MODEL, [])
    found = dict(items(pydicom.dcmread(tmp_path / "sr.dcm")))
    number = found["Calibrated probability of hereditary hemochromatosis"]
    assert float(number.MeasuredValueSequence[0].NumericValue) == 0.58
    meaning = found["Answer at the chosen error"].ConceptCodeSequence[0].CodeMeaning
    assert {"HH": "emochromatosis", "HC": "Healthy", "cannot say": "Cannot say"}[answer] in meaning
    texts = [item.TextValue for _, item in items(pydicom.dcmread(tmp_path / "sr.dcm")) if "TextValue" in item]
    assert "conformal error 0.1" in texts and f"prevalence of HH {prevalence or 'unknown'}" in texts


@pytest.mark.parametrize("strange", [True, False])
def test_the_report_says_not_to_rely_on_the_answer_for_a_strange_scan(written, evidence, tmp_path, strange):
    told = {**RESULT, "calibrated_probability_HH": 0.58, "answer": "HH", "familiarity": {"flagged": strange}}
    told["trust"] = {"conformal_error": 0.1, "prevalence": 0.02}
    write_structured_report(tmp_path / "sr.dcm", told, evidence, only_t1w(written), MODEL, [])
    codes = [
        item.ConceptCodeSequence[0]
        for _, item in items(pydicom.dcmread(tmp_path / "sr.dcm"))
        if "ConceptCodeSequence" in item
    ]
    assert any("do not rely on this" in code.CodeMeaning for code in codes) == strange


# --- independent validators -----------------------------------------------------------------------


@pytest.mark.other_programs
@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="needs dicom3tools")
@pytest.mark.parametrize("kind", ["sr", "map", "seg"])
def test_dciodvfy_finds_no_error(written, kind):
    done = subprocess.run(["dciodvfy", written[kind]], capture_output=True, text=True)
    said = (done.stdout + done.stderr).splitlines()
    assert {"sr": "Comprehensive3DSR", "map": "ParametricMap", "seg": "Segmentation"}[kind] in said[0]
    assert [line for line in said if line.startswith("Error")] == []


@pytest.mark.other_programs
@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="needs dicom3tools")
def test_dciodvfy_would_find_one(written, tmp_path):
    damaged = pydicom.dcmread(written["sr"])
    del damaged.CompletionFlag
    damaged.save_as(tmp_path / "damaged.dcm")
    done = subprocess.run(["dciodvfy", tmp_path / "damaged.dcm"], capture_output=True, text=True)
    assert "Error" in done.stdout + done.stderr


@pytest.mark.other_programs
@pytest.mark.skipif(not shutil.which("dsrdump"), reason="needs dcmtk")
def test_dsrdump_reads_the_report(written):
    done = subprocess.run(["dsrdump", "+Pl", written["sr"]], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    assert "Comprehensive 3D SR Document" in done.stdout
    assert '"Probability of hereditary hemochromatosis")="0.731"' in done.stdout
    assert f"weights sha256 {MODEL['sha256']}" in done.stdout


# --- content --------------------------------------------------------------------------------------


def test_the_report_names_the_patient_and_study_of_its_sources(written):
    report, image = pydicom.dcmread(written["sr"]), source(written, "T1w")[0]
    assert (str(report.PatientName), report.PatientID) == (NAME, PATIENT_ID)
    assert report.StudyInstanceUID == image.StudyInstanceUID
    assert report.SeriesInstanceUID != image.SeriesInstanceUID
    assert report.VerificationFlag == "UNVERIFIED"
    assert report.SpecificCharacterSet == "ISO_IR 100"  # UTF-8 only where letters ask for it: old readers lack it


def test_the_report_refers_to_every_source_image(written):
    report = pydicom.dcmread(written["sr"])
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    referenced = {
        image.ReferencedSOPInstanceUID
        for part in study.ReferencedSeriesSequence
        for image in part.ReferencedSOPSequence
    }
    images = [image for name in ("Chimap", "R2starmap", "T1w") for image in source(written, name)]
    assert referenced == {image.SOPInstanceUID for image in images}


def test_the_network_is_the_device_observer(written):
    content = dict(items(pydicom.dcmread(written["sr"])))
    assert content["Device Observer Name"].TextValue == "Q-Net"
    assert content["Device Observer Serial Number"].TextValue == MODEL["sha256"]
    assert device_uid(MODEL) == content["Device Observer UID"].UID
    assert content["Algorithm Version"].TextValue == MODEL["version"]


def test_the_same_weights_are_the_same_device_and_others_are_not():
    assert device_uid(MODEL) == device_uid({**MODEL, "version": "9"}) != device_uid({**MODEL, "sha256": "cd" * 32})


@pytest.mark.parametrize(("label", "code"), [("HH", "E83.110"), ("HC", "HC")])
def test_the_finding_is_the_class(written, evidence, tmp_path, label, code):
    series = only_t1w(written)
    write_structured_report(tmp_path / "sr.dcm", {**RESULT, "class": label}, evidence, series, MODEL)
    content = dict(items(pydicom.dcmread(tmp_path / "sr.dcm")))
    assert content["Finding"].ConceptCodeSequence[0].CodeValue == code


def test_each_slice_has_its_probability_and_its_source_image(written):
    slices = {image.SOPInstanceUID: index for index, image in enumerate(source(written, "T1w"))}
    found = []
    for name, group in items(pydicom.dcmread(written["sr"])):
        inside = dict(items(group))
        if name == "Measurement Group" and inside["Tracking Identifier"].TextValue.startswith("slice"):
            value = inside["Probability of hereditary hemochromatosis"].MeasuredValueSequence[0].NumericValue
            image = inside["Source of Measurement"].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
            found.append((slices[image], float(value)))
    assert found == [(row["input_slice"], row["probability_HH"]) for row in RESULT["slices"]]


def test_each_nucleus_has_its_measurements_and_no_made_up_ones(written):
    found = {}
    for name, group in items(pydicom.dcmread(written["sr"])):
        inside = list(items(group))
        who = dict(inside).get("Tracking Identifier")
        if name == "Measurement Group" and who.TextValue in ("caudate left", "dentate"):
            found[who.TextValue] = {
                n: (
                    float(i.MeasuredValueSequence[0].NumericValue),
                    i.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue,
                )
                for n, i in inside
                if i.ValueType == "NUM"
            }
    assert found == {
        "caudate left": {"Magnetic Susceptibility": (0.071, "[ppm]"), "R2*": (28.5, "/s"), "Volume": (3500, "mm3")},
        "dentate": {"Magnetic Susceptibility": (0.1, "[ppm]")},
    }


def frame_positions(image: pydicom.Dataset) -> list[float]:
    return [
        float(frame.PlanePositionSequence[0].ImagePositionPatient[2])
        for frame in image.PerFrameFunctionalGroupsSequence
    ]


def test_the_parametric_map_holds_the_evidence_of_each_slice(written, evidence):
    image = pydicom.dcmread(written["map"])
    values = np.frombuffer(image.FloatPixelData, np.float32).reshape(image.NumberOfFrames, image.Rows, image.Columns)
    slices = range(*BOX[2])
    heights = [AFFINE[2, 3] + AFFINE[2, 2] * k for k in slices]
    order = [frame_positions(image).index(height) for height in heights]
    expected = evidence[0].numpy()[::-1, ::-1].transpose(2, 1, 0)[slices.start : slices.stop]  # frame, row, column
    np.testing.assert_array_equal(values[order], expected)


def test_the_parametric_map_refers_to_the_images_it_lies_on(written):
    image = pydicom.dcmread(written["map"])
    at = {float(source.ImagePositionPatient[2]): source.SOPInstanceUID for source in source(written, "T1w")}
    for height, frame in zip(frame_positions(image), image.PerFrameFunctionalGroupsSequence, strict=True):
        derived = frame.DerivationImageSequence[0].SourceImageSequence[0]
        assert derived.ReferencedSOPInstanceUID == at[height]


def test_the_segmentation_marks_strong_evidence_of_either_sign(written, evidence):
    import highdicom

    segmentation = highdicom.seg.segread(written["seg"])
    assert segmentation.segment_numbers is not None and len(segmentation.SegmentSequence) == 2
    strongest = float(evidence.abs().max())
    voxels = [int((sign * evidence >= 0.5 * strongest).sum()) for sign in (1, -1)]
    volume = segmentation.get_volume(combine_segments=False).array
    assert [int(volume[..., number].sum()) for number in range(2)] == voxels


def test_planes_between_the_grids_slices_are_interpolated(evidence, tmp_path):
    shifted = DICOM_AFFINE.copy()
    shifted[2, 3] += 2  # half a slice
    paths = write_series(tmp_path / "series", SHAPE, shifted, "1.2.3", "1.2.4", 1)
    frame = planes_of(read_series({"T1w": paths})["T1w"])[5]
    plane = sampled(evidence[0].numpy(), AFFINE, frame)
    middle = evidence[0, ..., 5:7].mean(-1).numpy()[::-1, ::-1].T
    np.testing.assert_allclose(plane, middle, atol=1e-6)


# --- bad input ------------------------------------------------------------------------------------


def test_series_of_two_patients_are_refused_without_a_name(tmp_path):
    files = {
        name: write_series(tmp_path / name, (8, 8, 2), AFFINE, "1.2.3", "1.2.4", 1, PatientID=patient)
        for name, patient in (("Chimap", "SECRET-1"), ("T1w", "SECRET-2"))
    }
    with refused("PatientID") as _:
        read_series(files)


def test_a_source_that_is_no_dicom_is_refused_without_its_path(tmp_path):
    (tmp_path / "Doe_Jane.dcm").write_bytes(b"no DICOM")
    with pytest.raises(ValueError) as caught:
        read_series({"T1w": [tmp_path / "Doe_Jane.dcm"]})
    assert "T1w" in str(caught.value) and "Doe" not in str(caught.value)


def test_evidence_away_from_the_series_is_refused(written, evidence, tmp_path):
    far = AFFINE.copy()
    far[2, 3] += 1000
    with refused("outside"):
        write_parametric_map(
            tmp_path / "map.dcm", MetaTensor(evidence.as_tensor(), affine=torch.from_numpy(far)),
            only_t1w(written), MODEL, METHOD,
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fraction", [0, -1, 1.5, float("nan")])
def test_a_fraction_that_is_none_is_refused(written, evidence, tmp_path, fraction):
    with refused("segment_fraction"):
        write_segmentation(tmp_path / "seg.dcm", evidence, only_t1w(written), MODEL, fraction, METHOD)
