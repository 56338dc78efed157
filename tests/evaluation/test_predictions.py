"""The predictions table: what is read, what is refused, and cases that stay aligned over models and repeats."""

import json

import numpy as np
import pandas as pd
import pytest
from blobs import REPOSITORY
from made_predictions import made_predictions
from refusal import refused

from scripts.evaluation.predictions import MODELS, PREDICTION_COLUMNS, at_level, read_predictions, scores
from scripts.files.writing import write_table


@pytest.fixture
def table() -> pd.DataFrame:
    return made_predictions(subjects=6, slices=3, folds=3)


def written(table: pd.DataFrame, folder) -> str:
    path = folder / "predictions.csv"
    table.to_csv(path, index=False)
    return str(path)


def test_a_table_is_read_as_it_was_written(table, tmp_path):
    pd.testing.assert_frame_equal(read_predictions(written(table.assign(note="x"), tmp_path)), table)


def test_what_the_evaluation_writes_is_read(tmp_path):
    rows = made_predictions(subjects=4).astype(object).to_dict("records")
    rows = [row | {"slice": "" if pd.isna(row["slice"]) else row["slice"]} for row in rows]
    write_table(tmp_path / "predictions.csv", PREDICTION_COLUMNS, rows)
    assert len(read_predictions(tmp_path / "predictions.csv")) == len(rows)


def test_the_kept_predictions_of_the_shipped_weights_are_read():
    table = read_predictions(REPOSITORY / "benchmarks" / "results" / "paper_size_seed2" / "predictions.csv")
    found = scores(table, "cropped", "image")
    assert found.models == MODELS
    assert found.probabilities.shape == (3, 1, 99 * 16)


def test_a_table_with_fewer_rows_than_its_record_says_is_refused(table, tmp_path):
    (tmp_path / "predictions.json").write_text(json.dumps({"rows": len(table)}))
    assert len(read_predictions(path := written(table, tmp_path))) == len(table)
    one = table[table["model"] == "Q-Net"]  # a whole subject less is no fault that the table itself shows
    written(one[one["participant_id"] != one["participant_id"].iloc[-1]], tmp_path)
    with refused(path, f"of {len(table)} (its record's)", "cut off"):
        read_predictions(path)


def test_a_number_as_participant_id_keeps_its_zeros(table, tmp_path):
    table["participant_id"] = table["participant_id"].str.replace("sub-", "")
    assert read_predictions(written(table, tmp_path))["participant_id"].iloc[0] == "01"


def test_cases_are_aligned_whatever_the_order_of_the_rows(table):
    shuffled = table.sample(frac=1, random_state=0)
    for level in ("image", "scan"):
        found = scores(shuffled, "full", level)
        assert found.models == MODELS
        cases = at_level(table[table["region"] == "full"], level)
        number = {name: i for i, name in enumerate(sorted(set(table["participant_id"])))}
        for k, model in enumerate(MODELS):
            for repeat in (0, 1):
                rows = cases[(cases["model"] == model) & (cases["repeat"] == repeat)]
                rows = rows.sort_values(["participant_id", "slice"])
                assert found.probabilities[k, repeat].tolist() == rows["probability_HH"].tolist()
                assert found.labels.tolist() == rows["label"].tolist()
                assert found.clusters.tolist() == [number[name] for name in rows["participant_id"]]


def test_models_beyond_the_papers_come_after_them_and_may_have_scans_only():
    table = made_predictions(models=("other", *MODELS), baselines=("ROI means",), subjects=6)
    assert scores(table, "full", "scan").models == (*MODELS, "other", "ROI means")
    assert scores(table, "full", "image").models == (*MODELS, "other")
    assert scores(table, "full", "scan", ("ROI means", "Q-Net")).models == ("ROI means", "Q-Net")
    with refused("image", "ROI means"):
        scores(table, "full", "image", ("ROI means",))


def test_a_region_that_was_not_evaluated_is_refused():
    with refused("full", "any model"):
        scores(made_predictions(regions=("cropped",), subjects=6), "full", "scan")


def test_a_fold_may_hold_one_class(table, tmp_path):
    assert len(read_predictions(written(table.assign(fold=table["label"]), tmp_path))) == len(table)


def test_a_missing_file_is_refused(tmp_path):
    with refused(tmp_path / "none.csv"):
        read_predictions(tmp_path / "none.csv")


@pytest.mark.parametrize("content", [b"", b"\x00\xff\xfe,1\n", b'a,b\n1,2,3\n"'])
def test_what_is_no_table_is_refused(tmp_path, content):
    path = tmp_path / "predictions.csv"
    path.write_bytes(content)
    with refused(path):
        read_predictions(path)


def test_missing_columns_are_named(table, tmp_path):
    with refused("'fold'", "'label'"):
        read_predictions(written(table.drop(columns=["fold", "label"]), tmp_path))


def test_a_table_without_rows_is_refused(table, tmp_path):
    with refused("no rows"):
        read_predictions(written(table.iloc[:0], tmp_path))


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("probability_HH", "nan", ("line 7", "probability_HH 'nan'")),
        ("probability_HH", "", ("line 7", "probability_HH ''")),
        ("probability_HH", "1.01", ("line 7", "1.01")),
        ("probability_HH", "inf", ("line 7",)),
        ("label", "2", ("line 7", "label '2'")),
        ("label", "HH", ("line 7", "label 'HH'")),
        ("label", "1", ("sub-02", "both HC and HH")),
        ("repeat", "first", ("line 7", "repeat 'first'")),
        ("repeat", "-1", ("line 7", "repeat '-1'")),
        ("slice", "0.5", ("line 7", "slice '0.5'")),
        ("region", "middle", ("line 7", "middle", "full, cropped")),
        ("model", "", ("line 7", "model ''")),
        ("participant_id", "", ("line 7", "participant_id ''")),
    ],
)
def test_a_wrong_cell_is_named(table, tmp_path, column, value, words):
    table = table.astype(object)
    table["label"] = 1 - table["label"]  # sub-02, to whom line 7 belongs, becomes HC
    table.loc[5, column] = value
    with refused(*words):
        read_predictions(written(table, tmp_path))


def test_a_row_that_is_there_twice_is_refused(table, tmp_path):
    for row, what in ((0, "scan"), (2, "slice 1")):
        with refused("two rows", what, "sub-01"):
            read_predictions(written(pd.concat([table, table.iloc[[row]]]), tmp_path))


def test_a_participant_in_two_folds_is_refused(table, tmp_path):
    row = (table["participant_id"] == "sub-03") & (table["repeat"] == 1) & (table["model"] == "Q-Net")
    table.loc[row, "fold"] += 1
    with refused("sub-03", "two folds"):
        read_predictions(written(table, tmp_path))


@pytest.mark.parametrize("level", ["image", "scan"])
def test_a_model_without_some_participants_is_refused(table, tmp_path, level):
    one = (table["participant_id"] == "sub-03") & (table["repeat"] == 1) & (table["model"] == "ResNetSWA")
    lost = table[one & (table["slice"].isna() == (level == "scan"))].index
    with refused("repeat 1", "ResNetSWA", f"{level} level", "sub-03", "1 of 6"):
        read_predictions(written(table.drop(lost), tmp_path))


def test_a_model_that_lacks_a_repeat_is_refused(table, tmp_path):
    lost = (table["repeat"] == 1) & (table["model"] == "Q-Net") & (table["region"] == "cropped")
    with refused("repeat 1", "cropped", "Q-Net", "6 of 6"):
        read_predictions(written(table[~lost], tmp_path))


def test_a_participant_that_one_repeat_lacks_is_refused(table, tmp_path):
    lost = (table["repeat"] == 0) & (table["participant_id"] == "sub-05")
    with refused("repeat 0", "sub-05"):
        read_predictions(written(table[~lost], tmp_path))


def test_a_slice_that_one_model_lacks_is_refused(table, tmp_path):
    with refused("17 slices", "18"):
        read_predictions(written(table.drop(index=2), tmp_path))


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_only_is_refused(table, tmp_path, label):
    with refused(("all participants of region full are HC", "all participants of region full are HH")[label]):
        read_predictions(written(table[table["label"] == label], tmp_path))


def test_an_unchecked_table_with_holes_is_refused_by_scores(table):
    with refused("differ in their cases"):
        scores(table.drop(index=2), "full", "image")
    assert np.isfinite(scores(table, "full", "image").probabilities).all()
