"""The paper's tables: values against scikit-learn, the paper's digits beside ours, and files that programs read."""

import json
import re
import shutil
import subprocess
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from blobs import BUNDLE
from made_predictions import made_predictions
from refusal import refused
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, f1_score, recall_score, roc_auc_score

from scripts.evaluation.auc import clustered_delong, compare, delong, significance, within_folds
from scripts.evaluation.predictions import MODELS, read_predictions, scores
from scripts.evaluation.trust import trust_table
from scripts.reporting.markup import fixed
from scripts.reporting.table_text import trust_sections
from scripts.reporting.tables import delong_tests, image_level, scan_level, write_tables

AWKWARD = "ROI_means & LR* [50 %] {a} #1 ~ x^2 <b> $c$ p|q \\d"


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return made_predictions(repeats=3, baselines=(AWKWARD,))


def paper(name: str) -> pd.DataFrame:
    return pd.read_csv(BUNDLE / "docs" / "paper" / f"{name}.csv")


@pytest.mark.parametrize(("level", "made"), [("image", image_level), ("scan", scan_level)])
def test_measures_are_means_and_deviations_over_repeats(table, level, made):
    found = made(table).set_index(["region", "measure", "model"])
    rows = table[table["slice"].isna() == (level == "scan")]
    for region in ("full", "cropped"):
        for model in MODELS:
            measured = {"accuracy": [], "sensitivity": [], "specificity": [], "f1": [], "auc": []}
            for repeat in range(3):
                chosen = rows[(rows["region"] == region) & (rows["model"] == model) & (rows["repeat"] == repeat)]
                label, probability = chosen["label"], chosen["probability_HH"]
                predicted = (probability >= 0.5).astype(int)
                measured["accuracy"].append(100 * accuracy_score(label, predicted))
                measured["sensitivity"].append(100 * recall_score(label, predicted))
                measured["specificity"].append(100 * recall_score(label, predicted, pos_label=0))
                measured["f1"].append(100 * f1_score(label, predicted, average="weighted"))
                measured["auc"].append(roc_auc_score(label, probability))
            for measure, values in measured.items():
                row = found.loc[(region, measure, model)]
                assert row["mean"] == pytest.approx(np.mean(values)), (region, model, measure)
                assert row["std"] == pytest.approx(np.std(values, ddof=1))
                if measure in ("accuracy", "sensitivity", "specificity"):
                    assert 100 * row["count"] / row["total"] == pytest.approx(row["mean"])
                    assert row["total"] == 3 * len(label) // (1 if measure == "accuracy" else 2)
                if measure != "f1":
                    assert row["ci_low"] < row["mean"] < row["ci_high"]


def test_a_scan_of_one_repeat_has_wilsons_interval():
    row = scan_level(made_predictions(repeats=1)).iloc[0]
    expected = binomtest(int(row["count"]), 20).proportion_ci(method="wilson")
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((100 * expected.low, 100 * expected.high))


def test_the_same_repeat_thrice_narrows_no_interval():
    once = made_predictions(repeats=1)
    thrice = pd.concat([once.assign(repeat=repeat) for repeat in range(3)])
    for made in (scan_level, image_level):
        columns = ["ci_low", "ci_high"]
        np.testing.assert_allclose(made(thrice)[columns], made(once)[columns], rtol=1e-9)


def test_the_papers_counts_give_the_papers_table_3():
    # 95 scans, 49 of HH; cropped Q-Net finds 42 of HH and 37 of HC
    label = np.repeat([1, 0], (49, 46))
    hit = np.concatenate([np.arange(49) < 42, np.arange(46) < 37])
    rows = {
        "repeat": 0,
        "fold": np.arange(95) % 10,
        "region": "cropped",
        "model": "Q-Net",
        "participant_id": [f"sub-{i:02d}" for i in range(95)],
        "slice": pd.array([pd.NA] * 95, dtype="Int64"),
        "label": label,
        "probability_HH": np.where(hit, label, 1 - label) * 0.8 + 0.1,
    }
    found = scan_level(pd.DataFrame(rows)).set_index("measure")
    for measure in ("accuracy", "f1", "sensitivity", "specificity"):
        assert round(found.loc[measure, "mean"], 2) == found.loc[measure, "paper"], measure


def test_the_papers_values_stand_beside_ours(table):
    for frame, name in ((image_level(table), "table1_image_level"), (scan_level(table), "table3_scan_level")):
        printed = paper(name).set_index(["input", "model"])
        for _, row in frame[frame["model"].isin(MODELS)].iterrows():
            if row["measure"] in printed:
                expected = printed.loc[(row["region"], row["model"]), row["measure"]]
                assert row["paper"] == expected or (np.isnan(expected) and np.isnan(row["paper"]))
        assert frame.loc[~frame["model"].isin(MODELS), ["paper", "paper_std"]].isna().all(axis=None)
    # Figures 5 and 6
    auc = image_level(table).query("measure == 'auc' and model in @MODELS")
    assert auc["paper"].tolist() == [0.747, 0.763, 0.851, 0.749, 0.766, 0.866]


def test_pairs_stand_in_the_papers_order_with_its_values(table):
    found = delong_tests(table)
    ours = found[(found["test"] == "image")].reset_index(drop=True)
    printed = paper("table2_delong_image_level")
    assert ours[["region", "model1", "model2"]].to_numpy().tolist() == printed.iloc[:, :3].to_numpy().tolist()
    for column in printed.columns[3:]:
        assert ours[f"{column}_paper"].tolist() == printed[column].tolist()
    assert ours["level"].isna().all()
    others = found[found["test"] != "image"]
    assert others.filter(like="_paper").isna().all(axis=None)
    assert list(dict.fromkeys(found["test"])) == [
        "image_clustered", "image_within_folds", "image", "scan", "scan_within_folds"
    ]  # fmt: skip
    assert AWKWARD in set(others["model1"])


def test_tests_are_those_of_the_scores(table):
    found = delong_tests(table).set_index(["test", "region", "model1", "model2"])
    for test in ("image", "image_clustered", "image_within_folds", "scan", "scan_within_folds"):
        chosen = scores(table, "cropped", test.split("_")[0], ("ResNet", "Q-Net"))
        aucs = delong(chosen.labels, chosen.probabilities)
        if test == "image_clustered":
            aucs = clustered_delong(chosen.labels, chosen.probabilities, chosen.clusters)
        elif test.endswith("within_folds"):
            aucs = within_folds(chosen.labels, chosen.probabilities, chosen.clusters, chosen.folds)
        expected, row = compare(aucs, 1, 0), found.loc[(test, "cropped", "Q-Net", "ResNet")]
        for column in ("auc1", "auc2", "difference_std_error", "z", "p"):
            assert row[column] == pytest.approx(getattr(expected, column))
        # slices taken for independent get no level: that test rejects far too often
        if test == "image":
            assert pd.isna(row["level"])
        else:
            assert row["level"] == significance(row["p_holm"])


def test_every_p_has_holms_correction_over_the_pairs_of_its_test(table):
    for test, rows in delong_tests(table).groupby("test"):
        # plainly: the m-th smallest of n is multiplied by n - m + 1, and none falls below a smaller one
        corrected, largest = {}, 0.0
        for place, p in enumerate(sorted(rows["p"])):
            largest = max(largest, min(1.0, p * (len(rows) - place)))
            corrected[p] = largest
        assert rows["p_holm"].tolist() == pytest.approx([corrected[p] for p in rows["p"]]), test


def test_a_cross_validation_has_its_auc_within_folds_beside_the_pooled_one(table, tmp_path):
    for made, level in ((image_level, "image"), (scan_level, "scan")):
        found = made(table).query("measure == 'auc_within_folds'").set_index(["region", "model"])
        rows = table[table["slice"].isna() == (level == "scan")]
        for (region, model), row in found.iterrows():
            each = []
            for _, of_repeat in rows[(rows["region"] == region) & (rows["model"] == model)].groupby("repeat"):
                won = pairs = 0.0
                for _, fold in of_repeat.groupby("fold"):
                    hh, hc = (fold.loc[fold["label"] == label, "probability_HH"].to_numpy() for label in (1, 0))
                    won += np.sum(hh[:, None] > hc) + 0.5 * np.sum(hh[:, None] == hc)
                    pairs += len(hh) * len(hc)
                each.append(won / pairs)
            assert row["mean"] == pytest.approx(np.mean(each))
            assert row["std"] == pytest.approx(np.std(each, ddof=1))
            assert row["ci_low"] < row["mean"] < row["ci_high"]
    # predictions of one model need no second AUC, and are no cross-validation
    write_tables(tmp_path, made_predictions(repeats=1, folds=1), True)
    text = (tmp_path / "table3_scan_level.md").read_text()
    assert "within folds" not in text
    assert "one training run, tested once" in text


def test_models_without_images_are_compared_once(tmp_path):
    table = made_predictions(repeats=1, baselines=("ROI-LR", "ROI-SVM"))
    roi = table[table["model"].str.startswith("ROI") & (table["region"] == "full")]
    table = pd.concat([table[~table["model"].str.startswith("ROI")], roi, roi.assign(region="cropped")])
    table.to_csv(tmp_path / "predictions.csv", index=False)
    found = read_predictions(tmp_path / "predictions.csv")
    pairs = delong_tests(found).query("test == 'scan'")
    assert len(pairs) == 2 * (3 + 3 * 2) + 1  # in each region: the networks, and each against both; then both
    assert (pairs["region"] == "none").sum() == 1
    assert scan_level(found).query("model == 'ROI-LR'")["region"].unique().tolist() == ["none"]


def test_a_half_is_rounded_up_however_it_was_computed():
    # an AUC that was counted, and the same as a sum of shares
    assert [fixed(v, 3) for v in (0.7175, 0.7175 - 1e-16, 0.7174999, 0.0625, 1.0)] == [
        "0.718", "0.718", "0.717", "0.063", "1.000"
    ]  # fmt: skip


def test_csv_keeps_full_precision_and_says_what_it_is_of(table, tmp_path):
    paths = write_tables(tmp_path, table, True)
    assert sorted(path.name for path in paths) == sorted(path.name for path in tmp_path.iterdir())
    for name, frame in (
        ("table1_image_level", image_level(table)),
        ("table2_delong", delong_tests(table)),
        ("table3_scan_level", scan_level(table)),
    ):
        read = pd.read_csv(tmp_path / f"{name}.csv", float_precision="round_trip")
        numbers = frame.select_dtypes("float").columns
        np.testing.assert_array_equal(read[numbers], frame[numbers])
        for column, value in {"simulated": True, "repeats": 3, "folds": 5, "threshold": 0.5}.items():
            assert (read[column] == value).all()


def test_every_file_says_whether_the_cohort_is_simulated(table, tmp_path):
    for simulated in (True, False):
        for path in write_tables(tmp_path, table, simulated):
            text = path.read_text()
            if path.suffix in (".md", ".tex"):
                assert ("Simulated cohort, no patients" in text) is simulated
                assert (", simulated cohort" in text) is simulated
                assert ("Cohort not simulated" in text) is not simulated
                assert "20 participants (10 HH, 10 HC), 80 slices; 3 repeats of 5 folds" in text
                assert "threshold 0.5" in text
        assert json.loads((tmp_path / "tables.json").read_text())["simulated"] is simulated


def test_one_repeat_has_no_deviation_and_says_so(tmp_path):
    table = made_predictions(repeats=1)
    write_tables(tmp_path, table, True)
    assert pd.read_csv(tmp_path / "table1_image_level.csv")["std"].isna().all()
    ours = [
        line.split("|")[3] for line in (tmp_path / "table1_image_level.md").read_text().splitlines() if "Q-Net" in line
    ]
    assert ours
    assert not any("±" in cell for cell in ours)
    assert "One repeat, hence no SD" in (tmp_path / "table1_image_level.md").read_text()


def test_a_promise_that_was_not_kept_is_taken_back():
    frame = trust_table(made_predictions(30, 4, 1, regions=["cropped"]), "platt", 0.1)
    whole = {"coverage_HC": 0.9, "coverage_HH": 0.93, "ece": 0.02, "ece_raw": 0.1}
    calibration, said = (section.note for section in trust_sections(frame.assign(**whole), ""))
    assert "It was not so" not in said and "larger" not in calibration
    broken = frame.assign(**whole, subjects=100)
    broken.loc[broken.index[0], ["coverage_HH", "ece"]] = 0.5, 0.3
    calibration, said = (section.note for section in trust_sections(broken, ""))
    name = broken["model"].iloc[0]
    assert f"It was not so for {name} (" in said and f"larger for {name} (" in calibration


def test_counts_stand_beside_rates(table, tmp_path):
    write_tables(tmp_path, table, True)
    row = image_level(table).iloc[0]
    line = next(line for line in (tmp_path / "table1_image_level.md").read_text().splitlines() if "Accuracy" in line)
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        "Accuracy (%)",
        "ResNet",
        f"{row['mean']:.2f} ± {row['std']:.2f}",
        "68.19 ± 0.24",
        f"{row['ci_low']:.2f}–{row['ci_high']:.2f}",
        f"{row['count']}/{row['total']}",
    ]


def test_no_two_columns_of_a_table_have_one_name(table, tmp_path):
    write_tables(tmp_path, table, True)
    lines = (tmp_path / "table2_delong.md").read_text().splitlines()
    heads = [head.strip("|").split("|") for head, rule in pairwise(lines) if rule.startswith("|:--")]
    assert any("Paper, AUC 1" in map(str.strip, head) for head in heads)
    assert all(len(set(head)) == len(head) for head in heads)


def test_markdown_rows_have_as_many_cells_as_heads(table, tmp_path):
    for path in write_tables(tmp_path, table, True):
        if path.suffix == ".md":
            blocks = re.findall(r"(?:^\|.*\n)+", path.read_text(), re.MULTILINE)
            assert len(blocks) == (5 if "table2" in path.name else 2)
            for block in blocks:
                assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_latex_rows_have_as_many_cells_as_columns(table, tmp_path):
    for path in write_tables(tmp_path, table, True):
        if path.suffix == ".tex":
            text = path.read_text()
            assert text.startswith("% Needs \\usepackage{booktabs}\n")
            assert text.isascii()
            for columns, body in re.findall(
                r"\\begin\{tabular\}\{@\{\}(l+)@\{\}\}(.*?)\\end\{tabular\}", text, re.DOTALL
            ):
                lines = [line for line in body.splitlines() if line.endswith(r"\\")]
                assert len(lines) > 3
                assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in lines} == {len(columns)}
            assert len(re.findall(r"(?<!\\)\{", text)) == len(re.findall(r"(?<!\\)\}", text))
            assert not re.search(r"(?<!\\)[#~^]", text)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles_without_a_line_too_wide(table, tmp_path):
    paths = [path for path in write_tables(tmp_path, table, True) if path.suffix == ".tex"]
    (tmp_path / "main.tex").write_text(
        r"\documentclass{article}\usepackage[a4paper,margin=2cm]{geometry}\usepackage{booktabs}\begin{document}"
        + "".join(rf"\input{{{path.name}}}" for path in paths)
        + r"\end{document}"
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "main.pdf").stat().st_size > 10_000


def test_the_same_predictions_give_the_same_bytes(table, tmp_path):
    first, second = (write_tables(tmp_path / name, table, True) for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_predictions_of_scans_alone_give_the_tables_that_they_can(tmp_path):
    table = made_predictions(models=(), baselines=("ROI means", "radiomics"))
    names = {path.name for path in write_tables(tmp_path, table, True)}
    assert names == {"tables.json"} | {
        f"{name}.{ending}"
        for name in ("table2_delong", "table3_scan_level", "calibration_and_abstention")
        for ending in ("csv", "md", "tex")
    }
    names = {path.stem for path in write_tables(tmp_path / "one", made_predictions(models=("Q-Net",)), True)}
    assert names == {"table1_image_level", "table3_scan_level", "calibration_and_abstention", "tables"}


def test_perfect_separation_has_no_interval_and_no_test_against_chance(tmp_path):
    table = made_predictions(models=("ResNet", "Q-Net"), regions=("cropped",))
    table["probability_HH"] = table["label"].where(table["model"] == "Q-Net", 0.5).astype(float)
    write_tables(tmp_path, table, True)
    auc = scan_level(table).query("measure == 'auc' and model == 'Q-Net'").iloc[0]
    assert auc["mean"] == 1
    assert np.isnan(auc["ci_low"])
    assert "not estimable" in (tmp_path / "table3_scan_level.md").read_text()
    tests = delong_tests(table)
    assert set(tests["level"].dropna()) == {"undefined"}
    assert tests["p_holm"].isna().all()


def test_too_few_subjects_are_told_and_get_no_table_of_trust(tmp_path, capsys):
    names = {path.stem for path in write_tables(tmp_path, made_predictions(subjects=18), True)}
    assert "calibration_and_abstention" not in names
    assert "18 subjects" in capsys.readouterr().out


def test_one_participant_of_a_group_is_refused(tmp_path):
    table = made_predictions()
    few = table[(table["label"] == 0) | (table["participant_id"] == "sub-02")]
    with refused("1 participants with HH"):
        write_tables(tmp_path, few, True)
    assert list(tmp_path.iterdir()) == []
