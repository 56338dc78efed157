"""Figures say what the predictions table says: their numbers against scikit-learn, their styles, their titles."""

import re

import numpy as np
import pandas as pd
import pytest
from made_predictions import made_predictions
from matplotlib.colors import to_hex
from refusal import refused
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, roc_auc_score, roc_curve

from scripts.evaluation.calibration import bin_intervals, reliability
from scripts.evaluation.predictions import REGIONS, regions_of, scores, without_input_once
from scripts.reporting import figures, gallery
from scripts.reporting.calibration import calibration
from scripts.reporting.gallery import CAPTIONS, draw_learning_curves, draw_predictions
from scripts.reporting.style import MODEL_STYLE, VECTOR, save_figure, styles_of
from scripts.reporting.subjects import cohort_figure, demographics, summary
from scripts.reporting.tables import delong_tests

BASELINE = "ROI logistic regression"


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return made_predictions(20, 3, 2, baselines=[BASELINE])


def texts(figure) -> str:
    return " | ".join(
        [t.get_text() for t in figure.findobj(lambda artist: hasattr(artist, "get_text")) if t.get_text()]
    )


def curve_of(axes, start: str):
    return next(line for line in axes.lines if str(line.get_label()).startswith(start))


def test_legends_of_roc_curves_hold_the_auc_that_scikit_learn_finds(table):
    figure = figures.roc_models(table, [(region, "scan") for region in REGIONS], simulated=True)
    for axes, region in zip(figure.axes, REGIONS, strict=True):
        chosen = scores(table, region, "scan")
        for model, repeats in zip(chosen.models, chosen.probabilities, strict=True):
            expected = np.mean([roc_auc_score(chosen.labels, p) for p in repeats])
            shown = re.search(r"AUC ([\d.]+)", curve_of(axes, f"{model},").get_label())[1]
            assert float(shown) == pytest.approx(expected, abs=6e-4)


def test_roc_curve_of_one_repeat_is_scikit_learns(table):
    once = table[table["repeat"] == 0]
    figure = figures.roc_inputs(once, "image", simulated=False)
    axes = next(axes for axes in figure.axes if axes.get_title() == "Q-Net")
    for region in REGIONS:
        chosen = scores(once, region, "image", ["Q-Net"])
        expected = roc_curve(chosen.labels, chosen.probabilities[0, 0], drop_intermediate=False)
        drawn = curve_of(axes, f"{figures.INPUTS[region]},").get_xydata()
        np.testing.assert_allclose(drawn, np.stack(expected[:2], 1))
    assert not axes.collections, "one repeat has no spread to draw"


def test_several_repeats_are_averaged_vertically():
    labels = np.array([0, 0, 1, 1])
    perfect, worst = np.array([0.1, 0.2, 0.8, 0.9]), np.array([0.8, 0.9, 0.1, 0.2])
    roc = figures.average_roc(labels, np.stack([perfect, worst]))
    inside = (roc.false_positive_rate > 0) & (roc.false_positive_rate < 1)
    np.testing.assert_allclose(roc.true_positive_rate[inside], 0.5)
    np.testing.assert_allclose(roc.spread[inside], np.std([0, 1], ddof=1))
    assert roc.operating_point == (0.5, 0.5)


def test_a_model_has_one_colour_and_line_in_every_figure(table):
    styles = styles_of(table["model"])
    panels = [("cropped", "scan")]
    roc, calibrated = figures.roc_models(table, panels, True), calibration(table, "scan", True)
    boxes = figures.auc_boxes(table, "scan", True, samples=50, seed=0)
    for index, (model, style) in enumerate(styles.items()):
        line = curve_of(roc.axes[0], f"{model},")
        assert to_hex(line.get_color()) == style.colour
        assert to_hex(curve_of(calibrated.axes[0], model).get_color()) == style.colour
        assert to_hex(boxes.axes[0].patches[index].get_facecolor()) == style.colour
    assert len({style.colour for style in styles.values()}) == len(styles)
    assert len({str(style.line) for style in styles.values()}) == len(styles), "they must differ in grey print"
    assert list(styles)[:3] == list(MODEL_STYLE)


def test_further_models_keep_their_style_whatever_their_order():
    assert styles_of(["b", "Q-Net", "a"]) == styles_of(["a", "b"])
    assert styles_of(["b"])["Q-Net"] == MODEL_STYLE["Q-Net"]


def test_box_plots_mark_each_pair_pooled_and_within_folds_below_the_end_of_the_scale(table):
    strong = made_predictions(40, 3, 1, regions=["full"], models=["ResNet", "Q-Net"])
    strong.loc[strong["model"] == "Q-Net", "probability_HH"] = strong["label"] * 0.6 + 0.2
    for drawn, wanted in ((table, None), (strong, ["**** / ****"])):
        figure = figures.auc_boxes(drawn, "image", True, samples=100, seed=0)
        tests = delong_tests(drawn).query("region == 'full' and test in ('image_clustered', 'image_within_folds')")
        axes = figure.axes[0]
        marks = [text.get_text() for text in axes.child_axes[0].texts]
        assert sorted(marks) == sorted(" / ".join(rows["level"]) for _, rows in tests.groupby(["model1", "model2"]))
        assert wanted is None or marks == wanted
        # brackets stand above the panel, not at AUCs that do not exist
        assert axes.get_ylim()[1] <= 1.005
        assert not axes.texts


def test_a_model_without_images_is_drawn_once_without_a_region():
    table = made_predictions(12, 2, 1, baselines=["ROI-LR"])
    once = without_input_once(
        table.assign(probability_HH=table["probability_HH"].where(table["model"] != "ROI-LR", table["label"] * 0.5))
    )
    for draw in (
        lambda: figures.roc_models(once, [(region, "scan") for region in regions_of(once, "scan")], True),
        lambda: figures.auc_boxes(once, "scan", True, samples=20, seed=0),
        lambda: figures.confusion_matrices(once, "scan", True),
        lambda: calibration(once, "scan", True),
    ):
        words = texts(draw()).split(" | ")
        assert any("no input region" in text for text in words)
        assert len({text for text in words if "ROI-LR" in text}) == 1
    assert "ROI-LR" not in texts(figures.roc_inputs(once, "scan", True)), "it has no inputs to compare"


def test_footers_fit_the_width_of_a_single_panel():
    figure = figures.roc_models(made_predictions(8, 2, 2, regions=["full"]), [("full", "scan")], simulated=True)
    figure.canvas.draw()
    for words in (figure._supxlabel, figure._suptitle):
        box = words.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width


def test_confusion_matrices_count_as_scikit_learn_does(table):
    figure = figures.confusion_matrices(table, "scan", True)
    chosen = scores(table, "full", "scan", ["ResNet"])
    truth = np.tile(chosen.labels, len(chosen.probabilities[0]))
    (tn, fp), (fn, tp) = confusion_matrix(truth, chosen.probabilities[0].ravel() >= 0.5)
    shown = [text.get_text() for text in figure.axes[0].texts]
    assert [words.split("\n")[1] for words in shown] == [f"{n}/{len(truth) // 2}" for n in (tp, fn, fp, tn)]
    assert shown[0].startswith(f"{100 * tp / (tp + fn):.1f} %")
    assert "summed over 2 repeats" in texts(figure)


def test_calibration_of_a_case_worked_by_hand():
    labels, probabilities = np.array([0, 0, 1, 1, 1]), np.array([0.05, 0.1, 0.1, 0.5, 0.95])
    found = reliability(labels, probabilities, 10)  # 0.1 and 0.5 are edges, and of the bins below
    assert found.place.tolist() == [0, 4, 9] and found.cases.tolist() == [3, 1, 1]
    assert found.mean_probability == pytest.approx([0.25 / 3, 0.5, 0.95])
    assert found.share_positive == pytest.approx([1 / 3, 1, 1])
    assert found.brier == pytest.approx((0.05**2 + 0.1**2 + 0.9**2 + 0.5**2 + 0.05**2) / 5)
    assert found.ece == pytest.approx((0.75 + 0.5 + 0.05) / 5)


def test_calibration_leaves_out_empty_bins_and_counts_cases():
    table = made_predictions(20, 2, 1, regions=["full"], models=["Q-Net"])
    table["probability_HH"] = np.where(table["label"] == 1, 0.95, 0.15)
    curve, counts = calibration(table, "scan", True).axes
    mean = curve_of(curve, "Q-Net").get_xdata()
    assert np.flatnonzero(np.isfinite(mean)).tolist() == [1, 9]
    low, high = bin_intervals(np.ones(10, int), np.full(10, 0.95), np.arange(10), 10)[0]
    expected = binomtest(10, 10).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high))
    assert counts.patches[0].get_data().values.tolist() == [0, 10, 0, 0, 0, 0, 0, 0, 0, 10]


def test_perfect_calibration_has_no_error():
    labels = np.array([0, 1] * 10)
    assert reliability(labels, np.full(20, 0.5), 10).ece == 0


def write_curves(folder, epochs, losses, val):
    folder.mkdir(parents=True)
    for name in ("image_level.csv", "scan_level.csv"):
        pd.DataFrame({"epoch": epochs, "train_loss": losses, "train_auc": 0.9, "val_auc": val}).to_csv(folder / name)


def test_learning_curves_show_mean_and_range_of_the_folds(tmp_path):
    write_curves(tmp_path / "full" / "repeat-0" / "fold-00", [1, 2], [0.8, 0.4], [None, 0.7])
    write_curves(tmp_path / "full" / "repeat-0" / "fold-01", [1, 2], [0.6, 0.2], [None, 0.9])
    paths = sorted(tmp_path.glob("full/*/*/image_level.csv"))
    loss, auc = figures.learning_curves({"stage 1": paths}, "Learning curves").axes
    np.testing.assert_allclose(loss.lines[0].get_xydata(), [[1, 0.7], [2, 0.3]])
    band = loss.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (0.2, 0.8)
    np.testing.assert_allclose(curve_of(auc, "held out").get_xydata(), [[2, 0.8]])
    written = draw_learning_curves(tmp_path, tmp_path / "figures", simulated=True)
    assert [path.name for path in written] == [f"learning_curves_full{suffix}" for suffix in VECTOR]


def test_every_figure_is_drawn_and_has_its_caption(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "VECTOR", [".png"])  # one format will do
    table = made_predictions(20, 2, 1, models=["ResNet", "Q-Net"])
    written = draw_predictions(table, tmp_path, simulated=True, samples=50, seed=0)
    assert {path.stem for path in written} <= set(CAPTIONS)
    assert len(written) == 13
    assert all(path.stat().st_size > 5000 for path in written)


@pytest.mark.parametrize(
    "draw",
    [
        lambda table, simulated: figures.roc_models(table, [("full", "image")], simulated),
        lambda table, simulated: figures.roc_inputs(table, "scan", simulated),
        lambda table, simulated: figures.auc_boxes(table, "scan", simulated, samples=20, seed=0),
        lambda table, simulated: figures.confusion_matrices(table, "image", simulated),
        lambda table, simulated: calibration(table, "image", simulated),
    ],
    ids=["roc_models", "roc_inputs", "auc_boxes", "confusion", "calibration"],
)
def test_titles_say_simulated_where_it_is(table, draw):
    assert "simulated cohort" in draw(table, True).get_suptitle()
    assert "simulated" not in texts(draw(table, False))


def test_figures_are_drawn_of_one_region_without_slices(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "VECTOR", [".png"])
    scans = made_predictions(12, 2, 1, regions=["cropped"])
    written = draw_predictions(scans[scans["slice"].isna()], tmp_path, simulated=False, samples=20, seed=0)
    assert {path.stem for path in written} == {
        "figure8_roc_inputs_scan", "roc_models_scan", "auc_boxes_scan", "calibration_scan", "confusion_scan",
        "decision_curve",
    }  # fmt: skip


def test_a_fold_with_one_subject_of_a_group_still_has_its_roc_curve():
    table = made_predictions(3, 2, 1, regions=["full"])
    figure = figures.roc_models(table, [("full", "image")], simulated=True)
    assert "(" not in curve_of(figure.axes[0], "Q-Net,").get_label()


def test_same_figure_gives_the_same_bytes(table, tmp_path):
    for name in ("one", "other"):
        save_figure(figures.confusion_matrices(table, "scan", True), tmp_path / name, VECTOR)
    for suffix in VECTOR:
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"other{suffix}").read_bytes()


def test_cohort_figure_counts_every_subject(cohort):
    people = demographics(cohort, ["sub-01", "sub-02", "sub-03", "sub-04"])
    figure = cohort_figure(people, simulated=True)
    assert sum(bar.get_height() for bar in figure.axes[0].patches) == 4
    assert "4 subjects: 2 HH, 2 HC; 2 women, 2 men, simulated cohort" in figure.get_suptitle()
    assert summary(people).set_index("group").loc["all", "age range (years)"] == "41–44"


def test_ages_and_sexes_not_given_are_counted_as_such(cohort):
    path = cohort / "participants.tsv"
    path.write_text(path.read_text().replace("41\tM", "n/a\tn/a"))
    people = demographics(cohort, ["sub-01", "sub-02"])
    assert summary(people).iloc[-1].to_dict() == {
        "group": "all", "subjects": 2, "women": 1, "men": 0, "sex not given": 1,
        "age, mean ± SD (years)": "42.0 ± nan", "age range (years)": "42–42", "age not given": 1,
    }  # fmt: skip
    assert sum(bar.get_height() for bar in cohort_figure(people, True).axes[1].patches) == 2


@pytest.mark.parametrize("column", ["age", "sex", "group"])
def test_a_table_of_participants_without_a_column_is_refused(cohort, column):
    path = cohort / "participants.tsv"
    path.write_text(path.read_text().replace(column, "other", 1))
    with pytest.raises(ValueError, match=f"no column '{column}'"):
        demographics(cohort, ["sub-01"])


def test_a_participant_without_a_row_is_refused(cohort):
    with refused(cohort / "participants.tsv", "sub-99"):
        demographics(cohort, ["sub-99"])


@pytest.mark.parametrize("epoch", ["-1", "0", "1.5"])
def test_a_learning_curve_of_impossible_epochs_is_refused(tmp_path, epoch):
    path = tmp_path / "scan_level.csv"
    path.write_text(f"epoch,train_loss,train_auc,val_auc\n{epoch},0.5,0.7,\n")
    with refused(path, "whole numbers from 1"):
        figures.read_curve(path)


@pytest.mark.parametrize("row, said", [("0.7,-1e9,", "train_auc is not 0 to 1"), ("-3,0.6,", "train_loss is negative")])
def test_a_learning_curve_of_an_impossible_loss_or_auc_is_refused(tmp_path, row, said):
    path = tmp_path / "scan_level.csv"
    path.write_text(f"epoch,learning_rate,train_loss,train_auc,val_auc\n1,0.1,{row}\n")
    with refused(path, said):
        figures.read_curve(path)
