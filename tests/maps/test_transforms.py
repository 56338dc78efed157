"""From files to the network's input and back: layout, box, stretching, and one tensor for training and inference."""

import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from blobs import BOX, BUNDLE, SHAPE
from monai.bundle import ConfigParser
from monai.transforms import LoadImage, Orientation
from recorded import RECORDED
from refusal import refused

from scripts.anatomy.axes import oriented, oriented_box
from scripts.files import nifti
from scripts.maps.bids import find_scans
from scripts.maps.transforms import CheckMapsd, CropBasalGangliad, LoadImageMapsd, StretchHistogramd, quantiles
from scripts.model.scan_level import AttentionPooling
from scripts.provenance import check_trained_with, settings
from scripts.training.preprocessing import preprocessing

MAPS = ("Chimap", "R2starmap", "T1w")
CODES = ["RAS", "LPS", "PLS", "SLA", "AIR", "IPR"]
#: A volume whose axes are R, A, S up to a small tilt, with unequal voxels.
RAS_SHAPE = (10, 14, 6)
TILT = np.deg2rad(8)
RAS_AFFINE = np.eye(4)
RAS_AFFINE[:3, :3] = [[np.cos(TILT), -np.sin(TILT), 0], [np.sin(TILT), np.cos(TILT), 0], [0, 0, 1]] @ np.diag(
    [2, 2.5, 3]
)
RAS_AFFINE[:3, 3] = [-9, -16, 4]
RAS_BOX = [[2, 8], [3, 12], [1, 5]]


def reoriented(image: nib.Nifti1Image, codes: str) -> nib.Nifti1Image:
    wanted = nib.orientations.axcodes2ornt(codes)
    return image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), wanted))


def box_of(mask: nib.Nifti1Image) -> list[list[int]]:
    """Brute force: the half-open ranges of a mask's voxels."""
    return [[int(v.min()), int(v.max()) + 1] for v in np.nonzero(np.asarray(mask.dataobj))]


def mask_of(box: list[list[int]], shape: tuple[int, ...], affine: np.ndarray) -> nib.Nifti1Image:
    mask = np.zeros(shape, np.uint8)
    mask[tuple(slice(*pair) for pair in box)] = 1
    return nib.Nifti1Image(mask, affine)


def ras_maps() -> np.ndarray:
    """`[3, X, Y, Z]` of random values in the maps' usual ranges."""
    rng = np.random.default_rng(5)
    scale = np.array([0.1, 20.0, 400.0])[:, None, None, None]
    shift = np.array([-0.05, 0, 0])[:, None, None, None]  # QSM has both signs
    return (scale * rng.uniform(0.1, 1, (3, *RAS_SHAPE)) + shift).astype(np.float32)


def write_maps(folder: Path, maps: np.ndarray, codes: str) -> dict:
    """Three files stored in an orientation, with the box along their axes."""
    paths = []
    for name, array in zip(MAPS, maps, strict=True):
        paths.append(str(folder / f"{codes}_{name}.nii.gz"))
        nib.save(reoriented(nib.Nifti1Image(array, RAS_AFFINE), codes), paths[-1])
    box = box_of(reoriented(mask_of(RAS_BOX, RAS_SHAPE, RAS_AFFINE), codes))
    return {"image": paths, "box": box, "scan_id": codes}


def network_layout(maps: np.ndarray) -> np.ndarray:
    """`[3, X, Y, Z]` in RAS -> `[3, H, W, S]`: H to posterior, W to left, S to superior."""
    return maps[:, ::-1, ::-1].transpose(0, 2, 1, 3)


def stretched(image: np.ndarray, lower: float, upper: float) -> np.ndarray:
    """Histogram stretching, by numpy, slice by slice and channel by channel."""
    result = np.empty(image.shape, np.float64)
    for channel in range(image.shape[0]):
        for index in range(image.shape[-1]):
            plane = image[channel, ..., index].astype(np.float64)
            low, high = np.percentile(plane, [lower, upper])
            result[channel, ..., index] = np.clip((plane - low) / (high - low), 0, 1)
    return result


# --- layout ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("codes", CODES)
def test_a_marker_at_a_known_place_lands_there_whatever_the_storage(tmp_path, codes):
    maps = ras_maps()
    i, j, k = 7, 2, 4  # right, behind, high
    maps[:, i, j, k] = [0.5, 100, 2000]
    item = write_maps(tmp_path, maps, codes)
    place = RAS_AFFINE @ [i, j, k, 1]
    steps = preprocessing("full", [RAS_SHAPE[1], RAS_SHAPE[0]], RAS_SHAPE[2], [0, 100], "whole")
    image = LoadImageMapsd("image")(item)["image"]
    stored = np.unravel_index(int(image[1].argmax()), image.shape[1:])
    assert np.allclose(image.affine.numpy() @ [*stored, 1], place, atol=1e-4)
    image = steps(item)["image"]
    for channel in image.as_tensor():
        h, w, s = np.unravel_index(int(channel[..., k].argmax()), channel.shape[:2]) + (k,)
        # H counts from the front, W from the patient's right, S from the foot
        assert (h, w, s) == (RAS_SHAPE[1] - 1 - j, RAS_SHAPE[0] - 1 - i, k)
        assert np.allclose(image.affine.numpy() @ [h, w, s, 1], place, atol=1e-4)


def test_the_whole_tensor_is_the_maps_in_network_layout_stretched(tmp_path):
    maps = ras_maps()
    steps = preprocessing("full", [RAS_SHAPE[1], RAS_SHAPE[0]], RAS_SHAPE[2], [2, 98], "whole")
    image = steps(write_maps(tmp_path, maps, "LPS"))["image"]
    np.testing.assert_allclose(image.numpy(), stretched(network_layout(maps), 2, 98), atol=1e-5)


@pytest.mark.parametrize("region", ["full", "cropped"])
def test_the_network_sees_the_same_tensor_whatever_the_storage(tmp_path, region):
    steps = preprocessing(region, [16, 12], 5, [0.5, 99.5], "annotated")
    images = [steps(write_maps(tmp_path, ras_maps(), codes))["image"].as_tensor() for codes in CODES]
    for image in images[1:]:
        torch.testing.assert_close(image, images[0], rtol=0, atol=1e-5)


def test_nibabel_and_monai_orient_alike(tmp_path):
    item = write_maps(tmp_path, ras_maps(), "SLA")
    ours = oriented(nib.load(item["image"][0]))
    image = Orientation(axcodes="PLS", labels=None)(LoadImage(ensure_channel_first=True)(item["image"][0]))
    np.testing.assert_array_equal(ours.get_fdata(dtype=np.float32), image[0].numpy())
    np.testing.assert_allclose(ours.affine, image.affine.numpy(), atol=1e-5)


def test_a_4d_file_gives_the_same_tensor_as_three_files(shared_cohort, tmp_path):
    item = find_scans(shared_cohort)[0].item()
    images = [nib.load(path) for path in item["image"]]
    stack = np.stack([image.get_fdata(dtype=np.float32) for image in images], -1)
    nib.save(nib.Nifti1Image(stack, images[0].affine), tmp_path / "stack.nii.gz")
    steps = preprocessing("cropped", [32, 32], 4, [0.5, 99.5], "annotated")
    together = steps({**item, "image": str(tmp_path / "stack.nii.gz")})["image"]
    assert torch.equal(together.as_tensor(), steps(item)["image"].as_tensor())


# --- box ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["PLS", "RAS"])
@pytest.mark.parametrize("codes", CODES)
def test_an_oriented_box_is_that_of_the_oriented_mask(codes, target):
    rng = np.random.default_rng(0)
    for _ in range(10):
        ends = [sorted(rng.choice(size + 1, 2, replace=False).tolist()) for size in RAS_SHAPE]
        mask = reoriented(mask_of(ends, RAS_SHAPE, RAS_AFFINE), codes)
        moved = reoriented(mask, target)
        assert oriented_box(box_of(mask), mask.affine, moved.affine) == box_of(moved)


@pytest.mark.parametrize("codes", ["RAS", "SLA"])
def test_full_keeps_the_plane_and_cropped_the_box(tmp_path, codes):
    item = write_maps(tmp_path, ras_maps(), codes)
    data = LoadImageMapsd("image")(item)
    data["image"] = Orientation(axcodes="PLS", labels=None)(data["image"])
    layout = network_layout(ras_maps())
    (i0, i1), (j0, j1), (k0, k1) = RAS_BOX
    full = CropBasalGangliad("image", "full", "annotated")(data)["image"]
    np.testing.assert_array_equal(full.numpy(), layout[..., k0:k1])
    cropped = CropBasalGangliad("image", "cropped", "annotated")(data)["image"]
    rows, columns = slice(RAS_SHAPE[1] - j1, RAS_SHAPE[1] - j0), slice(RAS_SHAPE[0] - i1, RAS_SHAPE[0] - i0)
    np.testing.assert_array_equal(cropped.numpy(), layout[:, rows, columns, k0:k1])
    whole = CropBasalGangliad("image", "cropped", "whole")(data)["image"]
    np.testing.assert_array_equal(whole.numpy(), layout)


# --- stretching -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("lower", "upper"), [(0.5, 99.5), (0, 100), (10, 60)])
def test_stretching_is_that_of_numpy_percentiles_per_slice_and_channel(shared_cohort, lower, upper):
    image = LoadImageMapsd("image")(find_scans(shared_cohort)[0].item())["image"]
    result = StretchHistogramd("image", lower, upper)({"image": image})["image"]
    np.testing.assert_allclose(result.numpy(), stretched(image.numpy(), lower, upper), atol=2e-5)


def test_a_slice_without_contrast_becomes_zero(shared_cohort):
    image = LoadImageMapsd("image")(find_scans(shared_cohort)[0].item())["image"].clone()
    image[1, ..., 3] = 17
    result = StretchHistogramd("image", 0.5, 99.5)({"image": image})["image"]
    assert torch.all(result[1, ..., 3] == 0)
    assert torch.all(result[1, ..., 4].amax() == 1)


def test_the_unit_of_a_map_makes_no_difference(shared_cohort):
    image = LoadImageMapsd("image")(find_scans(shared_cohort)[0].item())["image"]
    stretched = StretchHistogramd("image", 0.5, 99.5)({"image": image})["image"]
    for unit in (2.0**-66, 2.0**66):
        result = StretchHistogramd("image", 0.5, 99.5)({"image": image * unit})["image"]
        assert torch.equal(result, stretched)


# --- one tensor for training and inference --------------------------------------------------------


def from_config(file: str, key: str, **changed):
    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs" / file)
    nuclei = {"nuclei": "known"} if file == "inference.yaml" else {}  # not measured: the network does not see them
    parser.update({"bundle_root": str(BUNDLE), **nuclei, **changed})
    return parser.get_parsed_content(key)


@pytest.mark.parametrize(("region", "size"), [("full", [48, 40]), ("cropped", [32, 24])])
def test_training_and_inference_feed_the_network_the_same_tensor(shared_cohort, region, size):
    item = find_scans(shared_cohort)[1].item()
    expected = preprocessing(region, size, 5, [1.0, 99.0], "annotated")(item)["image"].as_tensor()
    assert expected.shape == (3, *size, 5)
    settings = {"region": region, "num_slices": 5, "stretch_percentiles": [1.0, 99.0], "localise": "annotated"}
    inference = from_config("inference.yaml", "preprocessing", spatial_size=size, **settings)
    assert torch.equal(inference(item)["image"].as_tensor(), expected)
    for key in ("preprocessing", "train#preprocessing", "validate#preprocessing"):
        training = from_config("train.yaml", key, **{f"{region}_size": size}, **settings)
        assert torch.equal(training(item)["image"].as_tensor(), expected)


def test_the_defaults_of_training_and_inference_agree(shared_cohort):
    item = find_scans(shared_cohort)[1].item()
    training = from_config("train.yaml", "preprocessing")(item)["image"].as_tensor()
    assert torch.equal(from_config("inference.yaml", "preprocessing")(item)["image"].as_tensor(), training)


def test_inference_takes_the_recipe_from_the_record_beside_the_weights(shared_cohort, tmp_path):
    recipe = ConfigParser.load_config_files([BUNDLE / "configs" / n for n in ("train.yaml", "quantities.yaml")])
    parser = ConfigParser({**recipe, "bundle_root": str(BUNDLE), "localise": "annotated"})
    item = find_scans(shared_cohort)[1].item()
    expected = parser.get_parsed_content("preprocessing")(item)["image"].as_tensor()
    keys = ("intensity", "chimap_window", "r2starmap_window", "maps", "image_model", "scan_model")
    kept = settings({key: parser.get_parsed_content(key) for key in keys})
    (tmp_path / "model.json").write_text(json.dumps({"settings": RECORDED | kept}))
    given = {"weights": str(tmp_path / "model.pt"), "localise": "annotated"}
    found = from_config("inference.yaml", "preprocessing", **given)(item)["image"]
    assert torch.equal(found.as_tensor(), expected)
    assert not torch.equal(from_config("inference.yaml", "preprocessing", localise="annotated")(item)["image"], found)
    network = from_config("inference.yaml", "network_def", **given)
    assert isinstance(network.sequence, AttentionPooling)
    with refused("model.pt", "scan_model 'attention', not 'bilstm'"):
        check_trained_with(given["weights"], scan_model="bilstm")


def test_weights_of_version_0_6_that_left_a_map_out_get_it_as_zeros_from_inference_alone(shared_cohort, tmp_path):
    (tmp_path / "model.json").write_text(json.dumps({"settings": RECORDED | {"leave_out": ["R2starmap"]}}))
    given = {"weights": str(tmp_path / "model.pt"), "localise": "annotated"}
    item = find_scans(shared_cohort)[1].item()
    image = from_config("inference.yaml", "preprocessing", **given)(item)["image"]
    assert len(image) == 3 and [bool(channel.any()) for channel in image] == [True, False, True]
    with refused("leave_out ['R2starmap']", "--maps"):
        check_trained_with(given["weights"], region="cropped")
    check_trained_with(given["weights"], leave_out=["R2starmap"])


# --- the way back ---------------------------------------------------------------------------------


@pytest.mark.parametrize("codes", CODES)
def test_evidence_returns_to_the_grid_of_the_input(tmp_path, codes):
    item = write_maps(tmp_path, ras_maps(), codes)
    size, num_slices = (18, 12), 8  # the box has 9 x 6 x 4 voxels, so each became 2 x 2 x 2
    settings = {"region": "cropped", "spatial_size": list(size), "num_slices": num_slices, "nuclei": "known"}
    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs" / "inference.yaml")
    parser.update({"bundle_root": str(BUNDLE), **settings})
    ready = parser.get_parsed_content("preprocessing")(item)
    h, w, s = np.meshgrid(*(np.arange(n) for n in (*size, num_slices)), indexing="ij")
    peak = np.exp(-(((h - 4.5) / 3) ** 2 + ((w - 8.5) / 3) ** 2 + ((s - 2.5) / 3) ** 2)) + 0.01
    output = {
        "probability": torch.tensor(0.7),
        "slice_probability": torch.full((num_slices,), 0.7),
        "evidence": torch.tensor(peak, dtype=torch.float32)[None],
    }
    evidence = parser.get_parsed_content("postprocessing")({**ready, "pred": output})["pred"]
    stored = nib.load(item["image"][2])
    assert evidence.shape == (1, *stored.shape)
    np.testing.assert_allclose(evidence.affine.numpy(), stored.affine, atol=1e-4)
    volume = evidence[0].numpy()
    outside = np.ones(stored.shape, bool)
    outside[tuple(slice(*pair) for pair in item["box"])] = False
    assert np.all(volume[outside] == 0)
    assert np.all(volume[~outside] > 0)
    # network rows 4, 5: the box's third from the front; columns 8, 9: its fifth from the right; slices 2, 3: its second
    (_, i1), (_, j1), (k0, _) = RAS_BOX
    place = RAS_AFFINE @ [i1 - 1 - 4, j1 - 1 - 2, k0 + 1, 1]
    found = stored.affine @ [*np.unravel_index(int(volume.argmax()), volume.shape), 1]
    np.testing.assert_allclose(found, place, atol=1e-3)


# --- bad input ------------------------------------------------------------------------------------


def scan_of(cohort: Path) -> dict:
    return find_scans(cohort)[0].item()


def rewrite(path: str, change) -> None:
    image = nib.load(path)
    nib.save(nib.Nifti1Image(change(image.get_fdata()).astype(np.float32), image.affine), path)


def with_value(value: float):
    def change(array: np.ndarray) -> np.ndarray:
        array[5, 6, 7] = value
        return array

    return change


STEPS = preprocessing("cropped", [32, 32], 4, [0.5, 99.5], "annotated")


@pytest.mark.parametrize("channel", [0, 1, 2])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (with_value(np.nan), "NaN"),
        (with_value(np.inf), "infinite"),
        (with_value(-np.inf), "infinite"),
        (np.zeros_like, "everywhere"),
        (np.ones_like, "everywhere"),
        (lambda array: array[:, :, ::2], "grid"),
        (lambda array: array[..., None].repeat(3, -1), "3D"),
    ],
)
def test_a_map_that_the_network_would_misread_is_refused(cohort, channel, change, words):
    item = scan_of(cohort)
    rewrite(item["image"][channel], change)
    if words == "grid" and channel == 0:
        channel = 1  # the first map is the measure of the others
    with refused(item["image"][channel], words):
        STEPS(item)


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_gzip_file_that_is_cut_off_is_refused(cohort, share):
    item = scan_of(cohort)
    path = Path(item["image"][1])
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with refused(path, "export or copy it again"):
        STEPS(item)


def test_an_uncompressed_file_that_is_cut_off_is_refused(cohort):
    item = scan_of(cohort)
    path = Path(item["image"][2]).with_suffix("")
    path.write_bytes(gzip.decompress(Path(item["image"][2]).read_bytes())[:20000])
    item["image"][2] = str(path)
    with refused(path):
        STEPS(item)


def test_a_file_that_is_not_there_is_refused(cohort):
    item = scan_of(cohort)
    Path(item["image"][1]).unlink()
    with refused(item["image"][1], "no such file"):
        STEPS(item)


@pytest.mark.parametrize("name", ["scan.mgz", "scan.dcm", "scan"])
def test_a_file_of_another_format_is_refused(tmp_path, name):
    with refused(tmp_path / name, "NIfTI"):
        STEPS({"image": str(tmp_path / name)})


def test_qsm_in_ppb_is_refused_and_in_ppm_accepted(cohort):
    item = scan_of(cohort)
    STEPS(item)
    rewrite(item["image"][0], lambda array: 1000 * array)
    with refused(item["image"][0], "ppb", "divide it by 1000"):
        STEPS(item)


def test_qsm_in_ppb_is_refused_also_when_masked_to_the_brain(cohort):
    item = scan_of(cohort)
    rewrite(item["image"][0], lambda array: 1000 * np.where(np.abs(array) > 0.02, array, 0))
    with refused(item["image"][0], "ppb"):
        STEPS(item)


def test_a_few_extreme_voxels_of_qsm_in_ppm_are_accepted(cohort):
    item = scan_of(cohort)
    rewrite(item["image"][0], with_value(40))  # an artefact of the dipole inversion at a vessel
    assert STEPS(item)["image"].isfinite().all()


def test_r2star_without_a_positive_value_is_refused(cohort):
    item = scan_of(cohort)
    rewrite(item["image"][1], lambda array: -np.abs(array))
    with refused(item["image"][1], "R2"):
        STEPS(item)


@pytest.mark.parametrize("count", [1, 2])
def test_a_stack_of_too_few_maps_is_refused(cohort, count):
    item = scan_of(cohort)
    item["image"] = item["image"][:count]
    with refused(item["image"][0], "Chimap, R2starmap, T1w"):
        STEPS(item)


def test_an_image_without_a_file_is_named_by_its_scan():
    with refused("sub-07", "three 3D maps"):
        CheckMapsd("image")({"image": torch.rand(2, 4, 4, 4), "scan_id": "sub-07"})


def test_a_scan_without_a_box_is_refused(cohort):
    item = scan_of(cohort)
    del item["box"]
    with refused(item["image"][0], "--localise whole"):
        STEPS(item)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("beyond", [-1, 1])
def test_a_box_outside_the_image_is_refused(cohort, axis, beyond):
    item = scan_of(cohort)
    item["box"] = [list(pair) for pair in BOX]
    if beyond < 0:
        item["box"][axis][0] = -1
    else:
        item["box"][axis][1] = SHAPE[axis] + 1
    with refused(item["image"][0], item["box"][axis], "outside"):
        STEPS(item)


def test_fewer_than_two_slices_are_refused(cohort):
    item = scan_of(cohort)
    item["box"] = [BOX[0], BOX[1], [6, 7]]
    with refused(item["image"][0], "only 1"):
        STEPS(item)


@pytest.mark.parametrize(("region", "localise"), [("half", "whole"), ("full", "atlas")])
def test_an_unknown_region_or_localisation_is_refused(region, localise):
    with refused("unknown"):
        CropBasalGangliad("image", region, localise)


@pytest.mark.parametrize(("lower", "upper"), [(50, 50), (90, 10), (-1, 99), (0, 101)])
def test_stretch_percentiles_that_do_not_rise_are_refused(lower, upper):
    with refused("percentiles"):
        StretchHistogramd("image", lower, upper)


@pytest.mark.parametrize("size", [1, 2, 7, 4096])
def test_quantiles_are_torchs_to_the_bit(size):
    values = torch.from_numpy(np.random.default_rng(size).normal(size=(3, size, 5)).astype(np.float32))
    wanted = [0.005, 0.5, 0.995, 0.0, 1.0]
    torch.testing.assert_close(
        quantiles(values, wanted), torch.quantile(values, torch.tensor(wanted), dim=1), rtol=0, atol=0
    )


def rounded(path: Path, sizes: list[float]) -> Path:
    """A file as tools leave it that place voxels by the sform alone and write other voxel sizes."""
    image = nib.Nifti1Image(np.arange(60, dtype=np.float32).reshape(3, 4, 5), np.diag([-3.0, 3.0, 4.0, 1.0]))
    image.header.set_sform(image.affine, 1)
    image.header.set_qform(None, 0)
    image.header["pixdim"][1:4] = sizes
    nib.save(image, path)
    return path


def test_left_stays_left_where_voxel_sizes_are_rounded(tmp_path):
    paths = [rounded(tmp_path / f"sub-01_{suffix}.nii", [3.002, 3.002, 4.01]) for suffix in MAPS]
    image = LoadImageMapsd("image")({"image": list(map(str, paths))})["image"]
    assert nib.aff2axcodes(image.affine) == ("L", "A", "S")
    np.testing.assert_allclose(image.affine, nib.load(paths[0]).affine)


def test_voxel_sizes_that_contradict_the_sform_are_refused(tmp_path):
    path = rounded(tmp_path / "sub-01_Chimap.nii", [1, 1, 1])
    with refused(path, "1 x 1 x 1 mm (pixdim)", "3 x 3 x 4 mm apart"):
        nifti.read_header(path)
