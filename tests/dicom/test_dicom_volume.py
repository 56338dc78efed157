"""DICOM studies give the network what the same maps in NIfTI give it, and what cannot be one volume is refused."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from blobs import BOX
from monai.data import PydicomReader
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSNearLossless,
)
from refusal import refused
from studies import QSM, R2STAR, RULES, T1W, edit, edit_series, files_of, only_study

from scripts.maps.bids import MAPS
from scripts.simulation.dicom import stored_maps, write_study
from scripts.training.preprocessing import preprocessing

STEPS = preprocessing("cropped", [32, 32], 6, [0.5, 99.5], "whole")


def network_input(image: object) -> torch.Tensor:
    return STEPS({"image": image, "scan_id": "scan"})["image"].as_tensor()


def nifti_input(scan: dict, folder: Path, **stored) -> torch.Tensor:
    """The network's input from NIfTI files of the numbers that the study stores."""
    maps, affine = stored_maps(scan.maps, box=BOX, **stored)
    paths = [folder / f"scan_{suffix}.nii.gz" for suffix in MAPS]
    for stored_map, path in zip(maps, paths, strict=True):
        nib.save(nib.Nifti1Image(stored_map.maps_unit, affine), path)
    return network_input([str(path) for path in paths])


# --- equality -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("style", "layout", "transfer_syntax", "oblique_deg"),
    [
        ("siemens", "classic", "explicit", 0.0),
        ("ge", "classic", "explicit", 0.0),
        ("philips", "classic", "explicit", 0.0),
        ("siemens", "enhanced", "explicit", 0.0),
        ("philips", "enhanced", "rle", 0.0),
        ("siemens", "classic", "explicit", 15.0),
        ("ge", "enhanced", "jpegls", -20.0),
        ("siemens", "classic", "jpegls", 0.0),
        ("philips", "classic", "rle", 0.0),
        ("ge", "classic", "implicit", 0.0),
    ],
)
def test_the_network_sees_the_same_as_from_nifti(scan, tmp_path, style, layout, transfer_syntax, oblique_deg):
    study = write_study(
        tmp_path / "study", scan.maps, "sub-01", style, layout=layout, transfer_syntax=transfer_syntax,
        oblique_deg=oblique_deg, box=BOX,
    )  # fmt: skip
    found = network_input(only_study(study))
    expected = nifti_input(scan, tmp_path, style=style, oblique_deg=oblique_deg)
    assert found.shape == expected.shape == (3, 32, 32, 6)
    assert float((found - expected).abs().max()) < 1e-5


def test_numbers_and_places_are_those_of_monais_own_reader(study):
    """MONAI's reader trusts InstanceNumber where ours looks at the geometry, so the numbers are put right for it."""
    expected = only_study(study).load()
    for channel, (number, factor) in enumerate(((QSM, 1e-3), (R2STAR, 1.0), (T1W, 1.0))):
        files = files_of(study, number)
        for place, path in enumerate(files, 1):
            edit(path, lambda dataset, place=place: setattr(dataset, "InstanceNumber", place))
        volume, meta = (reader := PydicomReader()).get_data(reader.read(str(files[0].parent)))
        np.testing.assert_allclose(expected[channel].numpy(), volume * factor, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(expected.affine.numpy(), meta["affine"], atol=1e-5)


def test_slope_and_intercept_may_differ_from_slice_to_slice(study):
    expected = only_study(study).load()

    def other_scaling(dataset: Dataset) -> None:
        step = 1 + int(dataset.InstanceNumber) % 3
        values = dataset.pixel_array // step
        dataset.PixelData = values.astype("<i2").tobytes()
        dataset.RescaleSlope, dataset.RescaleIntercept = dataset.RescaleSlope * step, dataset.RescaleSlope * step / 2

    edit_series(study, R2STAR, other_scaling)
    found = only_study(study).load()
    assert float((found[1] - expected[1]).abs().max()) <= 0.016  # half of the coarsest step, 0.03 1/s
    assert not torch.equal(found[1], expected[1])


def test_the_real_world_value_mapping_is_used_where_the_rule_says_so(study, tmp_path):
    expected = only_study(study).load()

    def to_real_world(dataset: Dataset) -> None:
        mapping, unit = Dataset(), Dataset()
        mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept = float(dataset.RescaleSlope), 0.0
        unit.CodeValue, unit.CodingSchemeDesignator, unit.CodeMeaning = "[ppb]", "UCUM", "parts per billion"
        mapping.MeasurementUnitsCodeSequence = [unit]
        dataset.RealWorldValueMappingSequence = [mapping]
        del dataset.RescaleSlope, dataset.RescaleIntercept

    edit_series(study, QSM, to_real_world)
    rules = tmp_path / "rules.yaml"
    text = RULES.read_text()
    rules.write_text(text.replace("unit: ppb\n    scaling: rescale", "unit: ppb\n    scaling: real_world"))
    assert torch.equal(only_study(study, rules).load(), expected)
    rules.write_text(text.replace("unit: ppb\n    scaling: rescale", "unit: ppm\n    scaling: real_world"))
    with refused("its unit is [ppb]", "the rule says ppm"):
        only_study(study, rules).load()


def mapping(slope: float, unit: str, **others) -> Dataset:
    """A Real World Value Mapping without intercept."""
    found, code = Dataset(), Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = unit, "UCUM", "unit"
    found.RealWorldValueSlope, found.RealWorldValueIntercept = slope, 0.0
    found.MeasurementUnitsCodeSequence = [code]
    found.update(others)
    return found


def test_a_mapping_that_contradicts_the_scaling_is_refused_and_one_that_agrees_is_not(study):
    expected = only_study(study).load()

    def also_in_ppm(dataset: Dataset) -> None:
        dataset.RealWorldValueMappingSequence = [mapping(float(dataset.RescaleSlope) / 1000, "[ppm]")]

    edit_series(study, QSM, also_in_ppm)
    assert torch.equal(only_study(study).load(), expected)
    edit_series(study, QSM, lambda d: setattr(d.RealWorldValueMappingSequence[0], "RealWorldValueSlope", 5.0))
    with refused("series 3", "real world mapping (5 x stored", "give two values"):
        only_study(study).load()


def test_numbers_that_a_mapping_does_not_cover_are_refused(study, tmp_path):
    def narrow(dataset: Dataset) -> None:
        dataset.RealWorldValueMappingSequence = [mapping(float(dataset.RescaleSlope), "[ppb]")]
        for end, value in (("First", 0), ("Last", 5)):
            dataset.RealWorldValueMappingSequence[0].add_new(f"RealWorldValue{end}ValueMapped", "SS", value)

    edit_series(study, QSM, narrow)
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES.read_text().replace("ppb\n    scaling: rescale", "ppb\n    scaling: real_world"))
    with refused("series 3", "covers stored numbers of 0 to 5"):
        only_study(study, rules).load()


def to_table(dataset: Dataset) -> None:
    """A Modality LUT in the place of slope and intercept."""
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [4096, 0, 16])
    table.add_new("LUTData", "OW", b"\0" * 8192)
    table.ModalityLUTType = "US"
    dataset.ModalityLUTSequence = [table]
    del dataset.RescaleSlope, dataset.RescaleIntercept


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (to_table, ("ModalityLUTSequence (0028,3000)", "RescaleSlope")),
        (lambda d: setattr(d, "PixelIntensityRelationship", "LOG"), ("PixelIntensityRelationship (0028,1040) is LOG",)),
        (lambda d: setattr(d, "HighBit", 14), ("HighBit (0028,0102) is 14", "makes it 15")),
        (lambda d: setattr(d, "PhotometricInterpretation", "MONOCHROME1"), ("MONOCHROME2",)),
    ],
)
def test_what_gives_stored_numbers_another_meaning_is_refused(study, change, words):
    edit_series(study, QSM, change)
    with refused("series 3", *words):
        only_study(study).load()


def without_scaling(dataset: Dataset) -> None:
    del dataset.RescaleSlope, dataset.RescaleIntercept


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda d: setattr(d, "PixelRepresentation", 1 - d.PixelRepresentation),
            "PixelRepresentation (0028,0103) (0, 1)",
        ),
        (lambda d: setattr(d, "RescaleType", "other"), "RescaleType (0028,1054)"),
        (lambda d: d.add_new("PixelPaddingValue", "SS", -7), "PixelPaddingValue (0028,0120)"),
        (without_scaling, "whether they have a RescaleSlope"),
    ],
)
def test_one_slice_whose_numbers_mean_something_else_is_refused(study, change, words):
    edit_series(study, QSM, lambda d: (d.add_new("PixelPaddingValue", "SS", -32768), setattr(d, "RescaleType", "US")))
    only_study(study).load()
    edit(files_of(study, QSM)[3], change)
    with refused("series 3", words):
        only_study(study).load()


def test_padding_becomes_zero(study):
    def pad(dataset: Dataset) -> None:
        values = dataset.pixel_array.copy()
        values[:2] = -32768
        dataset.PixelData = values.tobytes()
        dataset.add_new("PixelPaddingValue", "SS", -32768)

    edit_series(study, QSM, pad)
    image = only_study(study).load()
    assert float(image[0, :, :2].abs().max()) == 0
    assert float(image[0, :, 2:].abs().max()) > 0


def test_jpeg_2000_is_unpacked_by_pillow(study):
    from io import BytesIO

    from PIL import Image

    expected = only_study(study).load()

    def to_jpeg_2000(dataset: Dataset) -> None:
        buffer = BytesIO()
        Image.fromarray(dataset.pixel_array.astype(np.uint16)).save(buffer, "JPEG2000", irreversible=False, no_jp2=True)
        dataset.PixelData = encapsulate([buffer.getvalue()])
        dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
        dataset.PixelRepresentation = 0
        dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless

    edit_series(study, T1W, to_jpeg_2000)  # no negative number among them
    assert torch.equal(only_study(study).load(), expected)


# --- geometry that is refused ---------------------------------------------------------------------


def test_a_missing_slice_is_refused(study):
    files_of(study, R2STAR)[3].unlink()
    with refused("series 4 'STAGE_tra_R2Star'", "1 of its slices is missing after slice 3 of 7"):
        only_study(study).load()


def test_a_missing_end_slice_is_refused_by_the_other_maps(study):
    files_of(study, T1W)[-1].unlink()
    with refused("series 5", "(24, 26, 7)", "(24, 26, 8)"):
        only_study(study).load()


def test_uneven_slices_are_refused(study):
    def move(dataset: Dataset) -> None:
        dataset.ImagePositionPatient[2] += 1.7

    edit(files_of(study, QSM)[4], move)
    with refused("series 3", "mm apart"):
        only_study(study).load()


def test_gantry_tilt_is_refused(study):
    def shear(dataset: Dataset) -> None:
        dataset.ImagePositionPatient[1] += 0.2 * dataset.ImagePositionPatient[2]

    for number in (QSM, R2STAR, T1W):
        edit_series(study, number, shear)
    with refused("series 3", "gantry tilt"):
        only_study(study).load()


def test_a_tilt_that_the_header_tells_is_refused(study):
    edit_series(study, QSM, lambda dataset: setattr(dataset, "GantryDetectorTilt", 8.5))
    with refused("series 3", "gantry tilt of 8.5 degrees"):
        only_study(study).load()


def test_mixed_orientations_are_refused(study):
    edit(files_of(study, QSM)[2], lambda d: setattr(d, "ImageOrientationPatient", [1, 0, 0, 0, 0, -1]))
    with refused("series 3", "two orientations"):
        only_study(study).load()


def test_an_orientation_that_is_none_is_refused(study):
    edit_series(study, QSM, lambda d: setattr(d, "ImageOrientationPatient", [1, 0, 0, 1, 0, 0]))
    with refused("series 3", "ImageOrientationPatient is not two directions"):
        only_study(study).load()


def test_two_acquisitions_are_refused_by_name(study):
    for path in files_of(study, QSM):
        dataset = pydicom.dcmread(path)
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{dataset.SOPInstanceUID[:-3]}.7"
        dataset.EchoTime = 25
        dataset.save_as(path.with_name(f"second_{path.name}"))
    with refused("series 3", "16 images at 8 places", "EchoTime 20.0, 25"):
        only_study(study).load()


def test_slices_of_two_acquisitions_are_refused(study):
    for path in files_of(study, QSM)[4:]:
        edit(path, lambda dataset: setattr(dataset, "AcquisitionNumber", 2))
    with refused("series 3", "several acquisitions", "AcquisitionNumber 1, 2"):
        only_study(study).load()


def test_a_number_for_every_slice_is_no_acquisition(study):
    edit_series(study, QSM, lambda dataset: setattr(dataset, "AcquisitionNumber", dataset.InstanceNumber))
    assert len(only_study(study).load()) == 3


def test_maps_on_two_grids_are_refused(study):
    edit_series(study, T1W, lambda d: setattr(d, "ImagePositionPatient", [p + 3 for p in d.ImagePositionPatient]))
    with refused("series 5", "lies elsewhere", "series 3"):
        only_study(study).load()


def test_another_frame_of_reference_is_refused_unless_the_site_allows_it(study, tmp_path):
    expected = only_study(study).load()
    edit_series(study, QSM, lambda dataset: setattr(dataset, "FrameOfReferenceUID", "2.25.5"))
    with refused("FrameOfReferenceUID", "one_frame_of_reference"):
        only_study(study).load()
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES.read_text().replace("one_frame_of_reference: true", "one_frame_of_reference: false"))
    assert torch.equal(only_study(study, rules).load(), expected)


@pytest.mark.parametrize(
    "keyword",
    ["ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "Rows", "Columns", "BitsAllocated",
     "BitsStored", "PixelRepresentation", "SamplesPerPixel", "FrameOfReferenceUID", "RescaleIntercept",
     "PixelData"],
)  # fmt: skip
def test_a_missing_tag_is_named(study, keyword):
    edit(files_of(study, QSM)[0], lambda dataset: delattr(dataset, keyword))
    with refused("pixel data" if keyword == "PixelData" else keyword):
        only_study(study).load()


@pytest.mark.parametrize(
    ("sequence", "said"),
    [("PlanePositionSequence", "(0020,0032)"), ("PixelValueTransformationSequence", "(0028,1053)")],
)
def test_a_missing_functional_group_is_named(enhanced_study, sequence, said):
    def change(dataset: Dataset) -> None:
        del dataset.PerFrameFunctionalGroupsSequence[2][sequence]

    edit_series(enhanced_study, QSM, change)
    with refused("series 3", said):
        only_study(enhanced_study).load()


def test_philips_without_its_private_tags_is_refused(scan, tmp_path):
    study = write_study(tmp_path / "study", scan.maps, "sub-01", "philips", box=BOX)
    edit_series(study, QSM, lambda dataset: dataset.remove_private_tags())
    with refused("series 3 'sQSM 3D STAGE'", "(2005,100E)"):
        only_study(study).load()


# --- pixel data that is refused -------------------------------------------------------------------


def test_too_little_pixel_data_is_refused_before_it_is_decoded(study):
    edit(files_of(study, QSM)[0], lambda dataset: setattr(dataset, "PixelData", dataset.PixelData[:-10]))
    with refused("series 3", "bytes of pixels where 1248 are due"):
        only_study(study).load()


def test_a_huge_claim_is_refused_before_it_is_believed(study):
    edit(files_of(study, QSM)[0], lambda dataset: dataset.update({"Rows": 65535, "Columns": 65535}))
    with refused("series 3", "bytes of pixels"):
        only_study(study).load()


def test_a_codestream_of_another_size_is_refused_before_it_is_decoded(scan, tmp_path):
    study = write_study(tmp_path / "study", scan.maps, "sub-01", box=BOX, transfer_syntax="jpegls", extras=False)
    path = files_of(study, QSM)[0]
    data = path.read_bytes()
    at = data.index(b"\xff\xf7") + 5  # SOF55: marker, length, precision, then lines and samples a line
    path.write_bytes(data[:at] + b"\xff\xff\xff\xff" + data[at + 4 :])
    with refused("series 3", "not 26 x 24 as its header says"):
        only_study(study).load()


@pytest.mark.parametrize(
    ("syntax", "said"),
    [(JPEGLosslessSV1, "no installed package unpacks JPEG Lossless"), (JPEGLSNearLossless, "loses information")],
)
def test_compression_that_cannot_be_undone_is_refused(study, syntax, said):
    def claim(dataset: Dataset) -> None:
        dataset.PixelData = encapsulate([b"\xff\xd8 not decoded anyway"])
        dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
        dataset.file_meta.TransferSyntaxUID = syntax

    edit_series(study, QSM, claim)
    with refused("series 3", said, "export it uncompressed"):
        only_study(study).load()


def test_a_deflated_file_is_refused_unread(study):
    """Its whole content is compressed, so it can unpack to any size: a bomb of 20 MB in 20 kB here."""

    def deflate(dataset: Dataset) -> None:
        dataset.PixelData = bytes(20_000_000)
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian

    path = files_of(study, QSM)[0]
    edit(path, deflate)
    assert path.stat().st_size < 50_000
    with refused("deflated", "export it uncompressed"):
        only_study(study).load()


def test_a_colour_picture_is_refused(study):
    edit_series(study, QSM, lambda d: d.update({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}))
    with refused("series 3", "MONOCHROME2"):
        only_study(study).load()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"BitsAllocated": 8}, ("BitsStored (0028,0101) is 16, more than the 8 of BitsAllocated (0028,0100)",)),
        ({"BitsAllocated": 24}, ("BitsAllocated (0028,0100) is 24, where 8 or 16 or 32 are due",)),
        ({"BitsStored": 8, "HighBit": 7}, ("BitsStored (0028,0101) is 8, and", "pixels hold more")),
        ({"PixelRepresentation": 7}, ("PixelRepresentation (0028,0103) is 7",)),
        ({"RescaleSlope": [1, 2]}, ("RescaleSlope (0028,1053) is not a finite number",)),
        ({"PixelSpacing": [1, 2, 3]}, ("PixelSpacing (0028,0030) is not 2 finite numbers",)),
    ],
)
def test_a_number_that_cannot_be_is_named_with_what_is_due(study, change, words):
    edit(files_of(study, QSM)[0], lambda dataset: dataset.update(change))
    with refused("series 3", *words):
        only_study(study).load()


@pytest.mark.parametrize("syntax", ["rle", "explicit"])
def test_lossy_history_is_refused(scan, tmp_path, syntax):
    kind = {"transfer_syntax": syntax} if syntax == "rle" else {}
    study = write_study(tmp_path / "study", scan.maps, "sub-01", box=BOX, extras=False, **kind)
    edit_series(study, QSM, lambda dataset: setattr(dataset, "LossyImageCompression", "01"))
    with refused("series 3", "compressed with loss"):
        only_study(study).load()
