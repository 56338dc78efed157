"""The whole way as a user goes it: raw data, maps, inference; and what is said of bad input, with nothing written."""

import json
import re
import shutil
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from blobs import BUNDLE
from monai.bundle import ConfigWorkflow
from raw_head import SHAPE, TIMES, affine, echoes, save, true_maps, write_raw
from refusal import refused

from scripts.reconstruction.bids import find_raw
from scripts.reconstruction.run import give_field_strength
from scripts.runs.outputs import LOCK

#: The toy head is coarse and small: what is published in mm and voxels is scaled to it.
TOY = {"mask::island_size": 200, "mask::erosion_mm": 2.0, "inversion::radii_mm": [8, 4]}


def workflow(raw: Path | None, output: Path, overlays: list[str] = (), **changed) -> ConfigWorkflow:
    files = [str(BUNDLE / "configs" / name) for name in ("reconstruct.yaml", *overlays)]
    keys = {"bundle_root": str(BUNDLE), "device": "cpu", "output_dir": str(output), "num_workers": 1, **changed}
    if raw is not None:
        keys["input"] = str(raw)
    flow = ConfigWorkflow(files, workflow_type="infer", logging_file=False, run_id="reconstruct", **keys)
    flow.initialize_id, flow.finalize_id = "none", "none"
    return flow


def run(flow: ConfigWorkflow) -> None:
    hook = sys.excepthook
    try:
        flow.run()
    finally:
        sys.excepthook = hook


def load(path: Path) -> np.ndarray:
    return nib.load(path).get_fdata(dtype=np.float32)


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """Raw data that no test changes."""
    return write_raw(tmp_path_factory.mktemp("raw") / "raw")


@pytest.fixture(scope="module")
def maps(raw, tmp_path_factory) -> Path:
    """Maps of the recommended recipe."""
    output = tmp_path_factory.mktemp("maps") / "maps"
    run(workflow(raw, output, **TOY))
    return output


def test_the_maps_are_those_of_the_spheres(maps):
    truth, folder = true_maps(), maps / "sub-01" / "anat"
    chi, r2star, t1 = (load(folder / f"sub-01_{suffix}.nii.gz") for suffix in ("Chimap", "R2starmap", "T1map"))
    known = chi != 0
    tissue = known & ~truth["nuclei"]
    contrast = chi[truth["nuclei"]].mean() - chi[tissue].mean()
    assert contrast == pytest.approx(0.15, rel=0.15)
    assert (known & truth["brain"]).sum() / truth["brain"].sum() > 0.85
    assert abs(chi[known].mean()) < 1e-3
    assert r2star[truth["nuclei"]].mean() == pytest.approx(45, abs=1.0)
    assert np.median(r2star[tissue]) == pytest.approx(20, abs=0.5)
    assert t1[truth["nuclei"]].mean() == pytest.approx(1.2, rel=0.05)
    assert np.median(t1[tissue]) == pytest.approx(0.878, rel=0.03)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_makes_the_maps_of_the_cpu(raw, maps, tmp_path):
    run(workflow(raw, tmp_path / "gpu", device="cuda:0", **TOY))
    for suffix, tolerance in (("Chimap", 2e-3), ("R2starmap", 0.05), ("T1map", 5e-3)):
        cpu, gpu = (load(folder / "sub-01" / "anat" / f"sub-01_{suffix}.nii.gz") for folder in (maps, tmp_path / "gpu"))
        assert np.percentile(np.abs(cpu - gpu), 99) < tolerance, suffix


def test_the_sidecars_tell_units_sources_and_every_parameter(maps):
    for suffix, unit in (("Chimap", "ppm"), ("R2starmap", "1/s"), ("T1map", "s")):
        sidecar = json.loads((maps / "sub-01" / "anat" / f"sub-01_{suffix}.json").read_text())
        assert sidecar["Units"] == unit
        assert sidecar["Simulated"] is True
        assert len(sidecar["RawSources"]) == 24
        assert sidecar["Steps"]["inversion"]["method"] == "SingleStepTV"
        assert sidecar["Steps"]["inversion"]["strength"] == 5e-5
        assert sidecar["Steps"]["phase_sign"] == 1
        assert "rad as stored" in sidecar["Findings"]["PhaseScaling"]
    description = json.loads((maps / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert "simulated" in description["Name"].lower()


def test_the_page_shows_every_intermediate_and_says_simulated(maps):
    page = (maps / "sub-01.html").read_text()
    for title in ("magnitude", "wrapped", "unwrapped", "total field", "local field", "QSM", "R2*", "T1W", "B1", "PD"):
        assert title in page
    assert page.count("data:image/png;base64,") >= 11
    assert "Simulated data" in page
    assert not re.search(r"https?://", page)  # self-contained


def test_nothing_half_written_is_left(maps):
    assert not list(maps.rglob(".part-*"))
    written = {"sub-01", "sub-01.html", "participants.tsv", "dataset_description.json", "reconstruct.tsv", LOCK}
    assert {p.name for p in maps.iterdir()} == written


def predict(maps: Path, output: Path) -> None:
    """Inference on a folder of maps."""
    settings: dict[str, object] = {"bundle_root": str(BUNDLE), "device": "cpu", "localise": "whole", "nuclei": "known"}
    settings["refuse_beyond"] = None  # spheres are unlike any training scan
    run(
        ConfigWorkflow(
            str(BUNDLE / "configs" / "inference.yaml"),
            workflow_type="infer",
            logging_file=False,
            dataset_dir=str(maps),
            output_dir=str(output),
            **settings,
        )
    )


def test_the_maps_go_into_inference_as_they_are(maps, tmp_path):
    predict(maps, tmp_path)
    found = json.loads((tmp_path / "sub-01" / "sub-01_prediction.json").read_text())
    assert 0 < found["probability_HH"] < 1


def test_the_same_scan_is_not_done_twice_and_other_steps_are_refused(raw, maps, capsys):
    stamp = (maps / "sub-01" / "anat" / "sub-01_Chimap.nii.gz").stat().st_mtime_ns
    run(workflow(raw, maps, **TOY))
    assert "1 of 1 scans were there already" in capsys.readouterr().out
    assert (maps / "sub-01" / "anat" / "sub-01_Chimap.nii.gz").stat().st_mtime_ns == stamp
    with refused("sub-01_Chimap.json", "other steps"):
        run(workflow(raw, maps, **TOY | {"inversion::strength": 1e-3}))


def test_the_papers_recipe_runs_and_says_what_it_did(raw, tmp_path, known_brain):
    settings = {key: value for key, value in TOY.items() if key != "inversion::radii_mm"}
    run(workflow(raw, tmp_path / "maps", ["reconstruct_paper.yaml"], brain_mask=known_brain, **settings))
    steps = json.loads((tmp_path / "maps" / "sub-01" / "anat" / "sub-01_Chimap.json").read_text())["Steps"]
    assert steps["background"] == {
        "method": "SHARP",
        "threshold": 0.05,
        "harmonic_degree": 0,
        "pad_mm": 10,
        "radii_mm": [6.0],
    }
    assert (steps["inversion"]["threshold"], steps["inversion"]["iterations"]) == (0.1, 4)
    assert (steps["echoes"]["first_echo"], steps["echoes"]["last_echo"]) == (2, 6)


@pytest.fixture
def known_brain(tmp_path) -> str:
    """A mask file: these tests are not about finding the brain."""
    save(tmp_path / "brain.nii.gz", true_maps()["brain"])
    return str(tmp_path / "brain.nii.gz")


def test_one_flip_angle_as_real_and_imaginary_parts_gives_the_same_qsm(maps, tmp_path):
    raw = write_raw(tmp_path / "raw", flips=(24,), parts=("real", "imag"))
    run(workflow(raw, tmp_path / "maps", **TOY))
    folder = tmp_path / "maps" / "sub-01" / "anat"
    assert not (folder / "sub-01_T1map.nii.gz").exists()
    chi = load(folder / "sub-01_Chimap.nii.gz")
    nuclei = true_maps()["nuclei"]
    assert chi[nuclei].mean() == pytest.approx(
        load(maps / "sub-01" / "anat" / "sub-01_Chimap.nii.gz")[nuclei].mean(), abs=0.01
    )


def test_flip_angles_may_be_told_apart_as_bids_does_for_vfa(raw, tmp_path):
    folder = tmp_path / "raw" / "sub-01" / "anat"
    folder.mkdir(parents=True)
    for path in (raw / "sub-01" / "anat").iterdir():
        name = path.name.replace("acq-fa06", "flip-1").replace("acq-fa24", "flip-2").replace("MEGRE", "VFA")
        shutil.copy(path, folder / name)
    (scan,) = find_raw(tmp_path / "raw")
    assert scan.scan_id == "sub-01"
    assert [a.flip_angle_deg for a in scan.acquisitions] == [6, 24]
    assert [len(a.first) for a in scan.acquisitions] == [6, 6]
    assert all("flip-2" in v.path for v in scan.acquisitions[1].first)


def test_raw_dicom_becomes_maps_and_a_prediction(tmp_path):
    pytest.importorskip("pydicom")
    import torch

    from scripts.simulation.raw_cohort import make_sequence
    from scripts.simulation.raw_dicom import write_raw_study

    signal = torch.from_numpy(echoes(24, np.random.default_rng(0))[None, :3]).to(torch.complex64)
    config = yaml.safe_load((BUNDLE / "configs" / "simulate_raw.yaml").read_text())["sequence"]
    config |= {"echo_times_s": list(TIMES[:3]), "flip_angles_deg": [24]}
    write_raw_study(tmp_path / "dicom", "sub-01", signal, make_sequence(config), affine(), "siemens", 0)
    run(workflow(tmp_path / "dicom", tmp_path / "maps", participant_id="sub-D1", **TOY))
    chi = nib.load(tmp_path / "maps" / "sub-D1" / "anat" / "sub-D1_Chimap.nii.gz")
    truth = nib.Nifti1Image(true_maps()["nuclei"].astype(np.uint8), affine())
    nuclei = nib.as_closest_canonical(truth).get_fdata() > 0
    ppm = nib.as_closest_canonical(chi).get_fdata()
    assert ppm[nuclei].mean() - ppm[~nuclei & (ppm != 0)].mean() == pytest.approx(0.15, rel=0.2)
    predict(tmp_path / "maps", tmp_path / "out")
    found = json.loads((tmp_path / "out" / "sub-D1" / "sub-D1_prediction.json").read_text())
    assert 0 < found["probability_HH"] < 1


def test_a_wrong_phase_sign_is_noticed_and_the_key_mends_it(tmp_path, known_brain):
    raw = write_raw(tmp_path / "raw", flips=(24,), sign=-1)
    run(workflow(raw, tmp_path / "wrong", brain_mask=known_brain, **TOY))
    assert "sign of the phase" in (tmp_path / "wrong" / "sub-01.html").read_text()
    run(workflow(raw, tmp_path / "right", phase_sign=-1, brain_mask=known_brain, **TOY))
    assert "sign of the phase" not in (tmp_path / "right" / "sub-01.html").read_text()
    chi = load(tmp_path / "right" / "sub-01" / "anat" / "sub-01_Chimap.nii.gz")
    assert chi[true_maps()["nuclei"]].mean() > 0.1


def test_plain_nifti_files_in_a_scanners_scale_are_taken_by_keys(tmp_path, known_brain):
    image = echoes(24, np.random.default_rng(0))
    for name, volume in (("mag", abs(image)), ("phase", np.round(np.angle(image) * 4096 / np.pi))):
        save(tmp_path / f"{name}.nii.gz", np.moveaxis(volume, 0, 3))
    given = {"magnitude": [str(tmp_path / "mag.nii.gz")], "phase": [str(tmp_path / "phase.nii.gz")]}
    keys = given | {
        "echo_times_s": list(TIMES),
        "field_strength_t": 3.0,
        "participant_id": "sub-A1",
        "brain_mask": known_brain,
    }
    run(workflow(None, tmp_path / "maps", **keys, **TOY))
    sidecar = json.loads((tmp_path / "maps" / "sub-A1" / "anat" / "sub-A1_Chimap.json").read_text())
    assert "4096" in sidecar["Findings"]["PhaseScaling"]
    chi = load(tmp_path / "maps" / "sub-A1" / "anat" / "sub-A1_Chimap.nii.gz")
    assert chi[true_maps()["nuclei"]].mean() > 0.1
    assert not [line for line in sidecar["Warnings"] if line.startswith("R2*")]
    with refused("first: sub-A1: magnitude (*.nii.gz): has negative values", "exchanged"):
        swapped = {"magnitude": given["phase"], "phase": given["magnitude"]}
        run(workflow(None, tmp_path / "swapped", **keys | swapped, **TOY))


# --- bad input -----------------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(raw, tmp_path) -> Path:
    """One flip angle that a test may damage."""
    folder = tmp_path / "raw" / "sub-01" / "anat"
    folder.mkdir(parents=True)
    for path in (raw / "sub-01" / "anat").glob("*acq-fa24*"):
        shutil.copy(path, folder)
    return tmp_path / "raw"


def file(raw: Path, echo: int, part: str, ending: str = "nii.gz") -> Path:
    return raw / "sub-01" / "anat" / f"sub-01_acq-fa24_echo-{echo}_part-{part}_MEGRE.{ending}"


def edit(path: Path, **changes) -> None:
    content = {k: v for k, v in (json.loads(path.read_text()) | changes).items() if v is not None}
    path.write_text(json.dumps(content))


def refuse(raw: Path, *words, **changed) -> None:
    """The run is refused with one line, and nothing is left behind."""
    output = raw.parent / "maps"
    with refused(*words):
        run(workflow(raw, output, **TOY | changed))
    assert {path.name for path in output.rglob("*")} <= {
        LOCK,
        "reconstruct.tsv",
        "dataset_description.json",
        "participants.tsv",
    }


def test_a_missing_echo_is_refused(damaged):
    file(damaged, 3, "phase").unlink()
    refuse(damaged, "part-phase has no echo-3")


def test_magnitude_alone_is_refused(damaged):
    for path in damaged.rglob("*part-phase*"):
        path.unlink()
    refuse(damaged, "only part-mag")


def test_two_echoes_with_one_echo_time_are_refused(damaged):
    edit(file(damaged, 2, "mag", "json"), EchoTime=0.02)
    refuse(damaged, "not all different")


def test_echo_times_in_milliseconds_are_refused(damaged):
    for echo, time in enumerate(TIMES, 1):
        edit(file(damaged, echo, "mag", "json"), EchoTime=1000 * time)
    refuse(damaged, "milliseconds")


def test_no_echo_time_is_refused(damaged):
    edit(file(damaged, 2, "mag", "json"), EchoTime=None)
    refuse(damaged, "no EchoTime")


def test_one_echo_is_refused(damaged):
    for echo in range(2, 7):
        for part in ("mag", "phase"):
            file(damaged, echo, part).unlink()
    refuse(damaged, "one echo only", "two echoes or more")


def test_no_field_strength_is_refused_and_a_key_gives_it(damaged):
    edit(file(damaged, 1, "mag", "json"), MagneticFieldStrength=None)
    refuse(damaged, "MagneticFieldStrength", "--field_strength_t")


@pytest.mark.parametrize(("key", "value"), [("FlipAngle", -5.0), ("RepetitionTimeExcitation", 40.0)])
def test_a_sequence_that_cannot_be_is_refused(damaged, key, value):
    for echo in range(1, 7):
        edit(file(damaged, echo, "mag", "json"), **{key: value})
    refuse(damaged, key, f"{value:g}")


@pytest.mark.parametrize("part", ["mag", "phase"])
def test_one_echo_of_zeros_is_refused(damaged, part):
    save(file(damaged, 3, part), np.zeros(SHAPE))
    refuse(damaged, "0 throughout", file(damaged, 3, part).name)


def test_phase_that_is_magnitude_is_refused(damaged):
    for echo in range(1, 7):
        shutil.copy(file(damaged, echo, "mag"), file(damaged, echo, "phase"))
        edit(file(damaged, echo, "phase", "json"), Units="arbitrary")
    refuse(damaged, "phase")


def test_phase_of_zeros_is_refused(damaged):
    for echo in range(1, 7):
        save(file(damaged, echo, "phase"), np.zeros(SHAPE))
    refuse(damaged, "0 throughout")


def test_phase_beyond_one_wrap_is_refused(damaged):
    for echo in range(1, 7):
        save(file(damaged, echo, "phase"), 3 * load(file(damaged, echo, "phase")))
    refuse(damaged, "more than one wrap")


def test_a_magnitude_of_another_shape_is_refused(damaged):
    save(file(damaged, 2, "mag"), load(file(damaged, 2, "mag"))[:-1])
    refuse(damaged, "shape")


def test_uncombined_coils_are_refused(damaged):
    save(file(damaged, 1, "mag"), np.repeat(load(file(damaged, 1, "mag"))[..., None], 4, axis=3))
    refuse(damaged, "uncombined coils")


def test_needles_instead_of_voxels_are_refused(damaged):
    for path in damaged.rglob("*.nii.gz"):
        save(path, load(path), np.diag([0.5, 0.5, 6.0, 1.0]))
    refuse(damaged, "elongated")


def test_a_mask_of_another_grid_is_refused(damaged, tmp_path):
    save(tmp_path / "mask.nii.gz", np.ones((10, 10, 10)))
    refuse(damaged, "mask.nii.gz", "another grid", brain_mask=str(tmp_path / "mask.nii.gz"))


def test_an_empty_mask_is_refused(damaged, tmp_path):
    save(tmp_path / "mask.nii.gz", np.zeros(SHAPE))
    refuse(damaged, "mask is empty", brain_mask=str(tmp_path / "mask.nii.gz"))


@pytest.mark.parametrize("values", [(0, 122), (-1, 1)])
def test_an_image_is_no_mask(damaged, tmp_path, values):
    save(tmp_path / "mask.nii.gz", np.random.default_rng(0).integers(*values, SHAPE).astype(float))
    refuse(damaged, "brain_mask", "not a mask", brain_mask=str(tmp_path / "mask.nii.gz"))


@pytest.mark.parametrize(
    ("key", "value"),
    [("echo_times_s", [0.01]), ("flip_angles_deg", [24]), ("repetition_time_s", 0.03), ("participant_id", "sub-7")],
)
def test_a_key_that_a_bids_folder_has_no_use_for_is_refused(damaged, key, value):
    refuse(damaged, key, "a BIDS folder", "sidecars", **{key: value})


def test_a_field_strength_against_its_frequency_is_noted(damaged):
    for frequency, noted in ((123.2, 0), (63.9, 1)):
        edit(file(damaged, 1, "mag", "json"), ImagingFrequency=frequency)
        (scan,) = find_raw(damaged)
        assert sum("63.9 MHz is that of 1.5 T" in note for note in scan.acquisitions[0].notes) == noted


def test_a_field_strength_counts_only_where_nothing_says_it(damaged, caplog):
    edit(file(damaged, 1, "mag", "json"), MagneticFieldStrength=None)
    (scan,) = find_raw(damaged)
    give_field_strength([scan], 1.5)
    assert scan.acquisitions[0].field_strength_t == 1.5 and not caplog.messages
    edit(file(damaged, 1, "mag", "json"), MagneticFieldStrength=3)
    (scan,) = find_raw(damaged)
    give_field_strength([scan], 1.5)
    assert scan.acquisitions[0].field_strength_t == 3 and "say 3 T, which counts" in caplog.messages[0]


def test_broken_files_and_not_finite_values_are_refused(damaged):
    volume = load(file(damaged, 1, "mag"))
    volume[3, 3, 3] = np.nan
    save(file(damaged, 1, "mag"), volume)
    refuse(damaged, "NaN")
    file(damaged, 1, "mag").write_bytes(b"nothing")
    refuse(damaged, "cannot be read")


@pytest.mark.parametrize(("key", "value"), [("phase_sign", 2), ("field_from", "both")])
def test_unknown_settings_are_refused(damaged, key, value):
    refuse(damaged, key, **{key: value})


def test_a_folder_without_scans_is_refused(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "notes.txt").write_text("empty")
    refuse(tmp_path / "raw", "neither sub-* folders nor DICOM")
    refuse(tmp_path / "nowhere", "no such folder")


def test_the_affine_of_the_maps_is_the_scans(maps):
    assert np.allclose(nib.load(maps / "sub-01" / "anat" / "sub-01_Chimap.nii.gz").affine, affine())


def test_an_incomplete_subject_does_not_stop_the_others_and_finished_means_all_is_there(damaged, tmp_path):
    good, output = damaged / "sub-02", tmp_path / "maps"
    shutil.copytree(damaged / "sub-01", good)
    for path in good.rglob("sub-01*"):
        path.rename(path.with_name(path.name.replace("sub-01", "sub-02")))
    (damaged / "participants.tsv").write_text("participant_id\tgroup\nsub-01\tHC\nsub-02\tHH\n")
    file(damaged, 3, "phase").unlink()
    with refused("1 of 2 scans failed", "reconstruct.tsv", "part-phase has no echo-3"):
        run(workflow(damaged, output, **TOY))
    rows = [line.split("\t") for line in (output / "reconstruct.tsv").read_text().splitlines()[1:]]
    assert [row[:3] for row in rows] == [["sub-01", "sub-01", "failed"], ["sub-02", "sub-02", "ok"]]
    assert str(damaged) not in rows[0][3]
    assert (output / "participants.tsv").read_text() == "participant_id\tgroup\nsub-02\tHH\n"

    (output / "participants.tsv").write_text("participant_id\tgroup\tferritin\nsub-02\tn/a\t900\nsub-07\tHH\t12\n")
    (damaged / "participants.tsv").write_text("participant_id\tgroup\tferritin\n01\tHC\t1\n02\tHH\t2\n")
    shutil.rmtree(damaged / "sub-01")
    page, lesion = output / "sub-02.html", output / "sub-02" / "anat" / "sub-02_lesion_mask.nii.gz"
    page.unlink()  # as after a kill between maps and page
    chi = output / "sub-02" / "anat" / "sub-02_Chimap.nii.gz"
    lesion.write_bytes(b"the user's")
    mask = chi.with_name("sub-02_desc-brain_mask.nii.gz")
    nib.save(nib.Nifti1Image(np.ones(3, np.uint8), affine()), mask)
    theirs = mask.read_bytes()  # corrected by hand
    chi.write_bytes(chi.read_bytes()[:100])
    run(workflow(damaged, output, **TOY))
    assert load(chi).any()
    assert mask.with_name("sub-02_desc-brain_mask_of_yours.nii.gz").read_bytes() == theirs != mask.read_bytes()
    assert page.exists() and lesion.read_bytes() == b"the user's"
    rows = (output / "participants.tsv").read_text().splitlines()  # what stood there stays, what was missing is new
    assert rows == ["participant_id\tgroup\tferritin", "sub-02\tHH\t900", "sub-07\tHH\t12"]

    edit(chi.with_name("sub-02_Chimap.json"), Contents={})  # which says that no file is due
    chi.write_bytes(chi.read_bytes()[:100])
    run(workflow(damaged, output, **TOY))
    assert load(chi).any()


def test_maps_that_reconstruction_did_not_make_are_not_replaced(damaged, tmp_path):
    own = tmp_path / "maps" / "sub-01" / "anat" / "sub-01_Chimap.nii.gz"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"the user's")
    with refused("sub-01_Chimap.nii.gz", "was not made by reconstruction"):
        run(workflow(damaged, tmp_path / "maps", **TOY))
    assert own.read_bytes() == b"the user's"
    own.with_name("sub-01_Chimap.json").write_text("{}")
    with refused("sub-01_Chimap.json", "is damaged", "restore it"):
        run(workflow(damaged, tmp_path / "maps", **TOY))
