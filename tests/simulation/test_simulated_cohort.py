"""The folder: names, units, boxes, repeatability, refusals, and no shortcut to the group."""

import csv
import gzip
import json
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from scripts.anatomy.atlas import LABELS, NUCLEI, load_templates
from scripts.errors import InputError
from scripts.provenance import simulated
from scripts.simulation import cohort
from scripts.simulation.difficulty import READERS, cross_validated_auc
from scripts.simulation.iron import draw_latents
from scripts.simulation.subject import BOX_NUCLEI, UNITS, Participant, Protocol, image_maps


def read_table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_participants_are_matched(tiny_cohort):
    people = read_table(tiny_cohort / "participants.tsv")
    ages = {g: [int(p["age"]) for p in people if p["group"] == g] for g in ("HH", "HC")}
    assert [len(ages[g]) for g in ("HH", "HC")] == [16, 16]
    assert min(sum(ages.values(), [])) == 20
    assert max(sum(ages.values(), [])) == 85
    assert abs(np.mean(ages["HH"]) - np.mean(ages["HC"])) < 3
    assert sum(p["sex"] == "M" for p in people) == 21
    assert set(json.loads((tiny_cohort / "participants.json").read_text())) == set(people[0])


def test_bids_names_units_and_settings(tiny_cohort):
    description = json.loads((tiny_cohort / "dataset_description.json").read_text())
    assert "Simulated" in description["Name"]
    assert description["GeneratedBy"][0]["Settings"]["seed"] == 3
    for person in read_table(tiny_cohort / "participants.tsv"):
        name = person["participant_id"]
        for suffix, units in UNITS.items():
            assert (tiny_cohort / name / "anat" / f"{name}_{suffix}.nii.gz").exists()
            sidecar = json.loads((tiny_cohort / name / "anat" / f"{name}_{suffix}.json").read_text())
            assert sidecar["Units"] == units
            assert sidecar["Simulated"] is True
    assert not tiny_cohort.with_name(tiny_cohort.name + ".part").exists()


def test_maps_say_that_they_are_simulated_wherever_they_are_copied(tiny_cohort, tmp_path):
    assert simulated(tiny_cohort)
    alone = tmp_path / "sub-7" / "anat" / "sub-7_T1w.nii.gz"
    alone.parent.mkdir(parents=True)
    shutil.copy(tiny_cohort / "sub-001" / "anat" / "sub-001_T1w.nii.gz", alone)
    assert simulated(tmp_path)
    nib.save(nib.Nifti1Image(nib.load(alone).get_fdata(), np.eye(4)), alone)
    assert not simulated(tmp_path)
    shutil.copy(tiny_cohort / "sub-001" / "anat" / "sub-001_T1w.json", alone.with_name("sub-7_T1w.json"))
    assert simulated(tmp_path)


def test_values_are_those_of_heads(tiny_cohort):
    qsm, r2star, t1w = (
        nib.load(tiny_cohort / "sub-001" / "anat" / f"sub-001_{suffix}.nii.gz").get_fdata() for suffix in UNITS
    )
    truth = tiny_cohort / "derivatives" / "groundtruth"
    labels = np.asarray(nib.load(truth / "sub-001" / "anat" / "sub-001_desc-nuclei_dseg.nii.gz").dataobj)
    pallidum = np.isin(labels, [LABELS["left_pallidum"], LABELS["right_pallidum"]])
    assert 0.08 < qsm[pallidum].mean() < 0.30
    assert 35 < r2star[pallidum].mean() < 110
    assert r2star.min() >= 0
    assert 0.15 < np.mean(qsm != 0) < 0.6
    assert qsm[0].any() == 0
    assert t1w[labels > 0].mean() > 10 * np.median(t1w[:3])


def test_nuclei_table_is_measured_on_the_written_files(tiny_cohort):
    truth = tiny_cohort / "derivatives" / "groundtruth"
    row = read_table(truth / "nuclei.tsv")[4]
    name = row["participant_id"]
    labels = np.asarray(nib.load(truth / name / "anat" / f"{name}_desc-nuclei_dseg.nii.gz").dataobj)
    qsm = nib.load(tiny_cohort / name / "anat" / f"{name}_Chimap.nii.gz").get_fdata()
    for nucleus in NUCLEI:
        mean = qsm[labels == LABELS[f"right_{nucleus}"]].mean()
        assert float(row[f"Chimap_right_{nucleus}"]) == pytest.approx(mean, rel=1e-4)


def test_box_holds_the_nuclei_and_lies_inside(tiny_cohort):
    wanted = [LABELS[f"{side}_{nucleus}"] for side in ("left", "right") for nucleus in BOX_NUCLEI]
    for path in sorted((tiny_cohort / "derivatives" / "basalganglia").glob("sub-*/anat/*_box.json")):
        name = path.name.split("_")[0]
        box = json.loads(path.read_text())["Box"]
        dseg = tiny_cohort / "derivatives" / "groundtruth" / name / "anat" / f"{name}_desc-nuclei_dseg.nii.gz"
        nuclei = np.isin(np.asarray(nib.load(dseg).dataobj), wanted)
        assert all(0 <= low < high <= n for (low, high), n in zip(box, nuclei.shape, strict=True))
        assert nuclei[tuple(slice(*pair) for pair in box)].sum() >= 0.99 * nuclei.sum()


def test_same_seed_same_bytes_whatever_the_workers(tiny_cohort, same_cohort_again):
    files = [p.relative_to(tiny_cohort) for p in sorted(tiny_cohort.rglob("*")) if p.is_file()]
    assert files == [p.relative_to(same_cohort_again) for p in sorted(same_cohort_again.rglob("*")) if p.is_file()]
    for file in files:
        assert (tiny_cohort / file).read_bytes() == (same_cohort_again / file).read_bytes(), file


def test_another_seed_gives_another_cohort(settings, latents):
    preset = settings["sizes"]["tiny"]
    draws = [
        cohort.draw_participants(
            np.random.default_rng(seed),
            latents=latents,
            **settings["ages"],
            **{k: preset[k] for k in ("hh", "hc", "men")},
        )
        for seed in (1, 2)
    ]
    assert draws[0] != draws[1]


def test_where_hh_acts_in_one_map_the_others_know_nothing_of_the_group(settings, latents):
    people = [
        Participant("sub-001", 0, 50.0, "M", group, dict(zip(latents, drawn, strict=True)))
        for group in ("HH", "HC")
        for drawn in draw_latents(np.random.default_rng(0), [group], latents)
    ]
    preset = settings["sizes"]["tiny"]
    everywhere = Protocol(
        tuple(preset["matrix"]), tuple(preset["spacing_mm"]), 3, settings["anatomy"], settings["scanner"],
        settings["texture"]["sd"], settings["texture"]["length_mm"], (2.5, 6.0, 6.0), (7.0, 11.0), latents=latents,
    )  # fmt: skip
    templates = load_templates()
    usual = [image_maps(person, everywhere, templates)[0] for person in people]
    alone = [image_maps(person, replace(everywhere, effect_maps=("R2starmap",)), templates)[0] for person in people]
    assert all((a["R2starmap"] == u["R2starmap"]).all() for a, u in zip(alone, usual, strict=True))
    for suffix in UNITS:
        assert (usual[0][suffix] != usual[1][suffix]).any()
        assert (alone[0][suffix] == alone[1][suffix]).all() == (suffix != "R2starmap")
    assert any((alone[1][suffix] != usual[1][suffix]).any() for suffix in ("Chimap", "T1w"))  # HC too: drawn anew


def test_further_maps_change_nothing_else_and_t1_falls_with_iron(settings, latents):
    preset, further = settings["sizes"]["tiny"], settings["further"]
    protocol = Protocol(
        tuple(preset["matrix"]), tuple(preset["spacing_mm"]), 3, settings["anatomy"], settings["scanner"],
        settings["texture"]["sd"], settings["texture"]["length_mm"], (2.5, 6.0, 6.0), (7.0, 11.0), latents=latents,
    )  # fmt: skip
    more = replace(protocol, maps=(*UNITS, "T1map", "PDmap"), further=further)
    values = {name: latent.mean for name, latent in latents.items()}
    person, templates = Participant("sub-001", 0, 50.0, "M", "HC", values), load_templates()
    three, labels, box = image_maps(person, protocol, templates)
    five, _, same_box = image_maps(person, more, templates)
    assert list(five) == [*UNITS, "T1map", "PDmap"] and box == same_box
    assert all((three[suffix] == five[suffix]).all() for suffix in UNITS)
    rich = replace(person, latents=values | {"level_putamen": np.log(2)})
    inside = np.isin(labels, [LABELS["left_putamen"], LABELS["right_putamen"]])
    t1, shorter = (image_maps(p, more, templates)[0]["T1map"][inside].mean() * 1e-3 for p in (person, rich))
    # 13.0 mg iron per 100 g at 50 years, again as much: 0.13 1/s (Ogg and Steen)
    assert 1.0 < t1 < 1.45 and 0.07 < 1 / shorter - 1 / t1 < 0.15
    assert 60 < np.median(five["PDmap"][five["PDmap"] > 0]) * 0.01 < 100  # percent of water
    hidden = image_maps(rich, replace(more, effect_maps=tuple(UNITS)), templates)[0]
    assert (hidden["Chimap"] == image_maps(rich, more, templates)[0]["Chimap"]).all()
    assert hidden["T1map"][inside].mean() * 1e-3 > shorter + 0.05


def test_difficulty_is_written(tiny_cohort):
    difficulty = json.loads((tiny_cohort / "derivatives" / "groundtruth" / "difficulty.json").read_text())
    assert set(difficulty["auc"]) == set(difficulty["targets"]) == set(READERS)
    assert all(0 <= auc <= 1 for auc in difficulty["auc"].values())


def test_headers_are_the_same_for_everybody(tiny_cohort):
    for suffix in UNITS:
        # Byte 352 ends the NIfTI header: geometry, scaling, time, text, everything.
        headers = {gzip.decompress(p.read_bytes())[:352] for p in tiny_cohort.glob(f"sub-*/anat/*_{suffix}.nii.gz")}
        assert len(headers) == 1


def shortcuts(root):
    """Features of each subject that must not tell the group, ``{name: [subjects, features]}``, and the groups."""
    people = read_table(root / "participants.tsv")
    found = {"subject id": [], "file size": [], "background": [], "image mean": []}
    for index, person in enumerate(people):
        name = person["participant_id"]
        paths = [root / name / "anat" / f"{name}_{suffix}.nii.gz" for suffix in UNITS]
        maps = [nib.load(path).get_fdata() for path in paths]
        corner = maps[2][:4, :4]
        found["subject id"].append([index])
        found["file size"].append([path.stat().st_size for path in paths])
        found["background"].append([corner.mean(), corner.std(), *(np.mean(m != 0) for m in maps)])
        found["image mean"].append([m.mean() for m in maps])
    return {k: np.array(v, float) for k, v in found.items()}, np.array([p["group"] == "HH" for p in people])


def test_no_shortcut(tiny_cohort):
    """Within what shuffled groups give in all but one of a hundred shuffles: no feature beats chance."""
    features, is_hh = shortcuts(tiny_cohort)
    rng = np.random.default_rng(0)
    shuffles = [rng.permutation(is_hh) for _ in range(99)]
    for name, values in features.items():
        by_chance = [cross_validated_auc(values, shuffled, repeats=1) for shuffled in shuffles]
        assert cross_validated_auc(values, is_hh, repeats=1) <= max(by_chance), name


def test_existing_folder_is_refused(tiny_cohort, settings):
    with pytest.raises(InputError, match="exists and is not empty") as error:
        cohort.simulate(tiny_cohort, num_workers=1, **settings)
    assert "\n" not in str(error.value)


def test_unwritable_folder_is_refused(tmp_path, settings):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write there"):
        cohort.simulate(tmp_path / "file" / "cohort", num_workers=1, **settings)


def test_full_disk_is_refused(tmp_path, settings, monkeypatch):
    monkeypatch.setattr(cohort, "_BYTES_PER_VOXEL", 1e15)
    with pytest.raises(InputError, match="GB are free"):
        cohort.simulate(tmp_path / "cohort", num_workers=1, **settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": "huge"}, "size=huge is unknown"),
        ({"num_workers": 0}, "num_workers"),
        ({"seed": -1}, "seed"),
        ({"from_raw": True, "raw": None}, "raw: is missing"),
        ({"effect_maps": ["QSM"]}, "effect_maps: 'QSM' is no map"),
        ({"from_raw": True, "effect_maps": ["Chimap"]}, "one head for all maps"),
        ({"effect_maps": ["PDmap"]}, "effect_maps: 'PDmap' is no map in which HH can act"),
        ({"maps": ["Chimap", "T1map"]}, "maps: has no R2starmap"),
        ({"maps": [*UNITS, "TB1map"]}, "maps: 'TB1map' is no map that is simulated"),
    ],
)
def test_bad_settings_are_refused_and_leave_nothing(tmp_path, settings, change, words):
    with pytest.raises(InputError, match=words):
        cohort.simulate(tmp_path / "cohort", **{"num_workers": 1, **settings, **change})
    assert not list(tmp_path.iterdir())


def test_failure_leaves_no_folder(tmp_path, settings):
    with pytest.raises(TypeError):
        cohort.simulate(tmp_path / "cohort", num_workers=1, **{**settings, "scanner": {"unknown": 1}})
    assert not list(tmp_path.iterdir())
