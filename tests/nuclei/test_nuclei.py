"""Nuclei against the phantom's truth, their table, the ROI baseline and the age curves."""

import json
import re

import numpy as np
import pytest
from blobs import BUNDLE
from heads import TEMPLATE, head, write_scan
from monai.bundle import ConfigWorkflow
from refusal import refused
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from scripts.anatomy import atlas
from scripts.anatomy.atlas import LABELS, NUCLEI, SIDES
from scripts.crossvalidation.roi_baseline import ROI_MODELS, roi_baseline_rows, roi_features, roi_models
from scripts.files.writing import write_table
from scripts.localisation.localiser import Localiser
from scripts.maps.bids import find_scans
from scripts.nuclei.cohort import measure_cohort
from scripts.nuclei.curves import (
    age_z_scores,
    fit_curve,
    fit_reference_curves,
    iron_curve,
    read_reference_curves,
    write_reference_curves,
)
from scripts.nuclei.figure import age_figure
from scripts.nuclei.reader import core_of, iron_levels, row_of
from scripts.nuclei.slopes import slopes
from scripts.nuclei.table import AXES, MEASURED, data_dictionary, nucleus_means, read_tsv
from scripts.registration.search import Scan
from scripts.simulation.iron import AGE_CURVES

NUMBER = 70_010


# --- labels and values -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """One simulated head without annotation, measured."""
    root = tmp_path_factory.mktemp("nuclei")
    write_scan(root, "sub-01", head(NUMBER))
    localiser = Localiser(TEMPLATE, pictures=False)
    measure_cohort(root / "derivatives" / "nuclei", find_scans(root), localiser, {})
    return root


@pytest.fixture(scope="module")
def label_image(cohort):
    import nibabel as nib

    path = cohort / "derivatives" / "nuclei" / "sub-01" / "anat" / "sub-01_desc-nuclei_dseg.nii.gz"
    return np.asarray(nib.load(path).dataobj)


def test_labels_are_those_of_the_phantom():
    assert LABELS == atlas.LABELS


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("nucleus", ["caudate", "putamen"])
def test_caudate_and_putamen_overlap_the_truth(label_image, nucleus, side):
    value = LABELS[f"{side}_{nucleus}"]
    found, truth = label_image == value, head(NUMBER).labels == value
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) >= 0.75


@pytest.mark.parametrize("suffix", ["Chimap", "R2starmap"])
@pytest.mark.parametrize("nucleus", NUCLEI)
def test_means_are_those_under_the_true_label(cohort, nucleus, suffix):
    """Both sides together, as the ROI baseline and the age curves read them."""
    row = read_tsv(cohort / "derivatives" / "nuclei" / "nuclei.tsv")[0]
    scan = head(NUMBER)
    channel = scan.maps[MEASURED[suffix][0]]
    truth = np.mean([channel[scan.labels == LABELS[f"{side}_{nucleus}"]].mean() for side in SIDES])
    assert nucleus_means(row, "mean", "x")[f"{suffix}_{nucleus}"] == pytest.approx(truth, rel=0.05)


def test_the_table_has_a_data_dictionary_and_is_not_made_twice(cohort, monkeypatch):
    folder = cohort / "derivatives" / "nuclei"
    row = read_tsv(folder / "nuclei.tsv")[0]
    words = json.loads((folder / "nuclei.json").read_text())
    assert set(row) <= set(words)
    assert row["left_putamen_volume"] == pytest.approx(row["right_putamen_volume"], rel=0.4)
    assert 2 < row["left_putamen_volume"] < 9  # ml; the literature's adults lie within
    assert (folder / "sub-01" / "anat" / "sub-01_desc-nuclei_dseg.png").stat().st_size > 10_000
    stats = folder / "sub-01" / "anat" / "sub-01_desc-nuclei_stats.json"
    content = json.loads(stats.read_text())
    assert content["Flags"] == [] and content["T1wRegistration"] is None
    stats.write_text(json.dumps(content | {"Flags": ["QSM: shifted"]}))

    def never(*arguments):
        raise AssertionError("measured again, although it was done")

    monkeypatch.setattr("scripts.nuclei.reader.NucleiReader.measure", never)
    measure_cohort(folder, find_scans(cohort), Localiser(TEMPLATE, pictures=False), {})
    assert read_tsv(folder / "nuclei.tsv")[0] == row
    assert "\tQSM: shifted\t" in (folder / "scans.tsv").read_text()  # a kept flag is told again


def test_values_of_a_label_are_those_of_numpy():
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(3, 20, 20, 10)).astype(np.float32)
    labels = rng.integers(0, 8, (20, 20, 10)).astype(np.uint8)  # value 8, the right thalamus, is missing
    row = row_of(maps, labels, labels, (1.0, 2.0, 3.0))
    inside = maps[1][labels == LABELS["left_putamen"]]
    assert row["R2starmap_left_putamen_mean"] == pytest.approx(inside.mean(), rel=1e-5)
    assert row["R2starmap_left_putamen_p95"] == pytest.approx(np.percentile(inside, 95), rel=1e-5)
    assert row["left_putamen_volume"] == pytest.approx(len(inside) * 6 / 1000)
    assert np.isnan(row["Chimap_right_thalamus_mean"])


def test_the_core_leaves_out_the_rim():
    membership = np.zeros((4, 9, 9, 9), np.float32)
    membership[1, 2:7, 2:7, 2:7] = 0.6
    membership[1, 3:6, 3:6, 3:6] = 0.95
    labels = np.where(membership[1] > 0.5, LABELS["left_putamen"], 0).astype(np.uint8)
    assert (core_of(labels, membership, 0.5) > 0).sum() == 125
    assert (core_of(labels, membership, 0.85) > 0).sum() == 27 or (core_of(labels, membership, 0.85) > 0).sum() == 125


def test_the_levels_are_those_of_the_middles_above_their_surroundings():
    membership = np.zeros((4, 40, 30, 20), np.float32)
    iron = np.full((40, 30, 20), 0.1, np.float32)
    for n, level in enumerate((0.3, 0.5, 0.8, 0.05)):
        part = (slice(3 + 9 * n, 10 + 9 * n), slice(8, 22), slice(5, 15))
        membership[(n, *part)] = 1
        iron[part] = 0.1 + level
    brain = np.ones(iron.shape, bool)
    scan = Scan(iron, iron, brain, np.diag([2.0, 2, 2, 1]), iron, np.zeros((2, 2)), [iron] * 3)
    np.testing.assert_allclose(iron_levels(scan, membership), [0.3, 0.5, 0.8, 0.05], atol=1e-6)
    membership[3] = 0  # outside of the scan
    assert iron_levels(scan, membership)[3] == pytest.approx(0.02)


# --- the ROI baseline ------------------------------------------------------------------------------------------------


def tables(root, subjects: int = 60, shift: float = 1.5):
    """nuclei.tsv and participants.tsv of subjects whose putamen tells the groups apart by `shift` deviations."""
    rng = np.random.default_rng(4)
    rows, people = [], ["participant_id\tage\tgroup"]
    for number in range(subjects):
        who, group, age = f"sub-{number:03d}", ("HC", "HH")[number % 2], int(rng.integers(20, 85))
        row = {"participant_id": who, "scan_id": who, "confidence": 0.9}
        for suffix, unit in (("Chimap", 0.006), ("R2starmap", 2.0)):
            for nucleus in NUCLEI:
                limit, rate, birth = AGE_CURVES[nucleus]
                iron = limit * (1 - np.exp(-min(rate, 5.0) * age)) + birth
                for side in SIDES:
                    extra = shift * (number % 2) * (nucleus == "putamen")
                    row[f"{suffix}_{side}_{nucleus}_mean"] = float(unit * (iron + rng.normal() + extra))
                    row |= {f"{suffix}_{side}_{nucleus}_{axis}": float(unit * rng.normal()) for axis in AXES}
        rows.append(row)
        people.append(f"{who}\t{age}\t{group}")
    (root / "participants.tsv").write_text("\n".join(people) + "\n")
    write_table(root / "nuclei.tsv", [name for name in data_dictionary() if name in rows[0]], rows)
    return root / "nuclei.tsv", root / "participants.tsv"


WHERE = {"repeat": 0, "fold": 3, "region": "cropped"}


def test_rows_are_those_of_the_predictions_table(tmp_path):
    features = roi_features(*tables(tmp_path))
    names = [scan["participant_id"] for scan in features]
    rows = roi_baseline_rows(features, names[:40], names[40:], WHERE)
    columns = ["repeat", "fold", "region", "model", "participant_id", "slice", "label", "probability_HH"]
    assert all(list(row) == columns for row in rows)
    assert {(row["model"], row["participant_id"]) for row in rows} == {(m, n) for m in ROI_MODELS for n in names[40:]}
    assert all(0 <= row["probability_HH"] <= 1 and row["slice"] == "" for row in rows)
    for model in ROI_MODELS:  # what separates the groups is found
        scores = {
            label: [r["probability_HH"] for r in rows if r["model"] == model and r["label"] == label]
            for label in (0, 1)
        }
        assert np.mean(scores[1]) > np.mean(scores[0]) + 0.1
    assert roi_baseline_rows(features, names[:40], names[40:], WHERE) == rows


def test_logistic_regression_is_that_of_standardised_training_features(tmp_path):
    features = roi_features(*tables(tmp_path))
    names = [scan["participant_id"] for scan in features]
    rows = [r for r in roi_baseline_rows(features, names[:40], names[40:], WHERE) if r["model"] == "ROI-LR"]
    values, labels = np.stack([s["features"] for s in features]), np.array([s["label"] for s in features])
    scaler = StandardScaler().fit(values[:40])
    model = LogisticRegression(max_iter=1000).fit(scaler.transform(values[:40]), labels[:40])
    expected = model.predict_proba(scaler.transform(values[40:]))[:, 1]
    np.testing.assert_allclose([row["probability_HH"] for row in rows], expected)


def test_held_out_participants_do_not_change_what_is_learned(tmp_path):
    features = roi_features(*tables(tmp_path))
    names = [scan["participant_id"] for scan in features]
    first = roi_baseline_rows(features, names[:40], names[40:50], WHERE)
    changed = [
        {**s, "features": s["features"] * 9, "label": 1 - s["label"]} if s["participant_id"] in names[50:] else s
        for s in features
    ]
    again = roi_baseline_rows(changed, names[:40], names[40:], WHERE)
    kept = [row for row in again if row["participant_id"] in names[40:50]]
    before = [row["probability_HH"] for row in first]  # where arrays lie in memory decides the last digit of a sum
    assert [row["probability_HH"] for row in kept] == pytest.approx(before, abs=1e-12)


def test_patterns_find_what_means_do_not(tmp_path):
    nuclei, people = tables(tmp_path, shift=0.0)
    rows = read_tsv(nuclei)
    for number, row in enumerate(rows):
        for side in SIDES:
            row[f"R2starmap_{side}_putamen_posterior"] += 9.0 * (number % 2)
    write_table(nuclei, list(rows[0]), rows)
    features = roi_features(nuclei, people)
    names = [scan["participant_id"] for scan in features]
    found = roi_baseline_rows(features, names[:40], names[40:], WHERE)
    auc = {}
    for model in ROI_MODELS:
        of_model = [row for row in found if row["model"] == model]
        auc[model] = roc_auc_score([r["label"] for r in of_model], [r["probability_HH"] for r in of_model])
    assert auc["ROI-patterns"] > 0.75 > auc["ROI-LR"]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("R2starmap_left_putamen_posterior", 1e300),
        ("Chimap_left_putamen_mean", 80),
        ("R2starmap_left_putamen_mean", -40),
        ("confidence", 2),
    ],
)
def test_a_number_that_cannot_be_is_refused(tmp_path, column, value):
    nuclei, people = tables(tmp_path)
    rows = read_tsv(nuclei)
    rows = [{**row, "brain_volume": "1200 ml"} for row in rows]  # a column of the user's own
    write_table(nuclei, list(rows[0]), rows)
    assert len(roi_features(nuclei, people)) == len(rows)
    rows[3][column] = value
    write_table(nuclei, list(rows[0]), rows)
    with refused(nuclei, f"{column} of sub-003", "cannot be"):
        roi_features(nuclei, people)


def test_a_table_without_slopes_has_no_patterns(tmp_path):
    nuclei, people = tables(tmp_path)
    rows = read_tsv(nuclei)
    kept = [name for name in rows[0] if not name.endswith(AXES)]
    write_table(nuclei, kept, [{name: row[name] for name in kept} for row in rows])
    features = roi_features(nuclei, people)
    names = [scan["participant_id"] for scan in features]
    assert {row["model"] for row in roi_baseline_rows(features, names[:40], names[40:], WHERE)} == {"ROI-LR", "ROI-SVM"}


def test_slopes_are_those_of_a_plane_in_the_template():
    rng = np.random.default_rng(0)
    places = np.stack(np.meshgrid(np.arange(-20, -8), np.arange(-5, 9), np.arange(3, 9), indexing="ij")).astype(float)
    core = np.full(places.shape[1:], LABELS["right_putamen"], np.uint8)
    maps = np.stack([2 * places[1], 50 - 0.5 * places[0] + 3 * places[2], rng.normal(size=core.shape)])
    row = slopes(maps, core, places)
    x, y, z = places
    assert row["Chimap_right_putamen_posterior"] == pytest.approx(2 * y.std())
    assert row["Chimap_right_putamen_lateral"] == pytest.approx(0, abs=1e-9)
    assert row["R2starmap_right_putamen_lateral"] == pytest.approx(0.5 * x.std())  # x is negative on the right
    assert row["R2starmap_right_putamen_superior"] == pytest.approx(3 * z.std())
    assert np.isnan(row["Chimap_left_putamen_posterior"])


def test_sides_are_averaged_or_kept(tmp_path):
    paths = tables(tmp_path)
    assert roi_features(*paths)[0]["features"].shape == (9,)
    assert roi_features(*paths, sides="both")[0]["features"].shape == (17,)
    with refused("roi_sides", "left"):
        roi_features(*paths, sides="left")


def test_the_svm_gives_probabilities_fitted_within_the_training_fold():
    assert roi_models(0)["ROI-SVM"].method == "sigmoid"


def test_bad_tables_and_folds_are_refused(tmp_path):
    nuclei, people = tables(tmp_path)
    features = roi_features(nuclei, people)
    names = [scan["participant_id"] for scan in features]
    with refused("sub-000", "in training and in test"):
        roi_baseline_rows(features, names[:10], names[:3], WHERE)
    with refused("sub-999"):
        roi_baseline_rows(features, names[:20], ["sub-999"], WHERE)
    with refused("training scans"):
        roi_baseline_rows(features, names[:5], names[5:], WHERE)
    people.write_text(re.sub(r"sub-003\t\d+", "sub-003\tsixty", people.read_text()))
    with refused(people, "sixty"):
        roi_features(nuclei, people)
    with refused(tmp_path / "none.tsv", "configs/nuclei.yaml"):
        roi_features(tmp_path / "none.tsv", people)


# --- age -------------------------------------------------------------------------------------------------------------


def test_the_fit_recovers_a_known_curve():
    rng = np.random.default_rng(0)
    ages = rng.uniform(5, 90, 400)
    values = iron_curve(ages, 14.62, 0.04, 0.46) + rng.normal(0, 1.0, 400)
    curve = fit_curve(ages, values)
    grid = np.array([20.0, 50, 85])
    fitted = iron_curve(grid, curve["rise"], curve["rate"], curve["start"])
    np.testing.assert_allclose(fitted, iron_curve(grid, 14.62, 0.04, 0.46), atol=0.4)
    assert curve["sd"] == pytest.approx(1.0, abs=0.12)


def test_too_few_controls_are_refused():
    with refused("reference curves", "8 healthy controls"):
        fit_curve(np.arange(20, 28), np.ones(8))


def test_curves_come_from_the_training_controls_alone(tmp_path):
    nuclei, _ = tables(tmp_path, 80)
    training = tmp_path / "train.tsv"
    training.write_text("participant_id\n" + "\n".join(f"sub-{n:03d}" for n in range(50)) + "\n")
    curves = fit_reference_curves(nuclei, tmp_path, training)
    assert curves["Curves"]["Chimap"]["putamen"]["controls"] == 25  # every second of fifty
    text = nuclei.read_text().splitlines()
    text[60:] = []  # what is held out may vanish
    nuclei.write_text("\n".join(text) + "\n")
    assert fit_reference_curves(nuclei, tmp_path, training)["Curves"] == curves["Curves"]


def test_the_command_fits_training_controls_draws_them_and_scores_a_held_out_subject(tmp_path):
    nuclei, _ = tables(tmp_path, 80)
    training = tmp_path / "train.tsv"
    training.write_text("participant_id\n" + "\n".join(f"sub-{n:03d}" for n in range(50)) + "\n")
    workflow = ConfigWorkflow(
        config_file=str(BUNDLE / "configs" / "nuclei.yaml"),
        run_id="reference_curves",
        logging_file=False,
        bundle_root=str(BUNDLE),
        dataset_dir=str(tmp_path),
        output_dir=str(tmp_path),
        curves=str(tmp_path / "curves.json"),
        training_participants=str(training),
    )
    workflow.initialize()
    workflow.run()
    curves = read_reference_curves(tmp_path / "curves.json")
    assert curves["Curves"] == fit_reference_curves(nuclei, tmp_path, training)["Curves"]
    assert curves["Curves"]["Chimap"]["putamen"]["controls"] == 25
    assert (tmp_path / "age.png").stat().st_size > 20_000 and (tmp_path / "age.pdf").exists()
    held_out = read_tsv(nuclei)[61]
    assert len(age_z_scores(held_out, 50, curves)["nuclei"]) == 8


def test_curves_that_others_replace_are_kept_and_the_new_ones_say_whose_they_are(tmp_path, capsys):
    nuclei, _ = tables(tmp_path, 80)
    training = tmp_path / "train.tsv"
    training.write_text("participant_id\n" + "\n".join(f"sub-{n:03d}" for n in range(50)) + "\n")
    for chosen in (None, None, training):
        write_reference_curves(tmp_path / "curves.json", nuclei, tmp_path, chosen)
    (kept,) = (tmp_path / "earlier").glob("*/curves.json")
    assert read_reference_curves(kept)["Curves"] == fit_reference_curves(nuclei, tmp_path, None)["Curves"]
    told = capsys.readouterr().out
    assert re.search(r"reference curves of 40 healthy controls of \d+ to \d+ years", told)
    assert told.count("it is kept in earlier/") == 1 and "of 25 healthy controls" in told


def test_z_scores_are_deviations_from_the_curve(tmp_path):
    nuclei, _ = tables(tmp_path, 80)
    write_reference_curves(tmp_path / "curves.json", nuclei, tmp_path, None)
    curves = read_reference_curves(tmp_path / "curves.json")
    row = read_tsv(nuclei)[1]
    scores = age_z_scores(row, 50, curves)
    assert len(scores["nuclei"]) == 8
    curve = curves["Curves"]["R2starmap"]["pallidum"]
    value = (row["R2starmap_left_pallidum_mean"] + row["R2starmap_right_pallidum_mean"]) / 2
    expected = (value - iron_curve(50, curve["rise"], curve["rate"], curve["start"])) / curve["sd"]
    found = next(s for s in scores["nuclei"] if (s["map"], s["nucleus"]) == ("R2starmap", "pallidum"))
    assert found["z"] == pytest.approx(expected)
    assert age_z_scores(row, 99, curves)["extrapolated"] and not scores["extrapolated"]
    with refused("age"):
        age_z_scores(row, float("nan"), curves)


def test_damaged_curves_are_refused_and_missing_ones_are_none(tmp_path):
    assert read_reference_curves(tmp_path / "none.json") is None
    (tmp_path / "curves.json").write_text('{"Curves": {}}')
    with refused(tmp_path / "curves.json"):
        read_reference_curves(tmp_path / "curves.json")


def test_the_age_figure_is_drawn_and_says_when_it_is_simulated(tmp_path):
    nuclei, _ = tables(tmp_path, 60)
    (tmp_path / "dataset_description.json").write_text('{"Name": "Simulated tables"}')
    curves = fit_reference_curves(nuclei, tmp_path, None)
    age_figure(tmp_path / "age", nuclei, tmp_path, curves, age_z_scores(read_tsv(nuclei)[1], 50, curves))
    assert (tmp_path / "age.png").stat().st_size > 20_000
    from scripts.nuclei.curves import cohort_rows
    from scripts.nuclei.figure import draw_ages

    figure = draw_ages(cohort_rows(nuclei, tmp_path), curves, None)
    assert "Simulated" in figure.get_suptitle()
