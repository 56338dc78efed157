"""From a predictions table to the paper's tables and figures: needs neither images nor weights nor a GPU."""

import os
from pathlib import Path

from scripts.errors import InputError
from scripts.evaluation.contributions import SCANS
from scripts.evaluation.predictions import read_predictions, recorded_rows
from scripts.evaluation.subgroups import SUBJECTS, read_subjects
from scripts.files.json_file import read_json
from scripts.files.writing import check_output_dir
from scripts.model.conformal import check_error
from scripts.reporting.contributions import write_contributions
from scripts.reporting.gallery import draw_learning_curves, draw_predictions
from scripts.reporting.subgroups import write_subgroups
from scripts.reporting.tables import write_tables


def analyse(
    predictions: str | os.PathLike,
    output_dir: str | os.PathLike,
    folds_dir: str | os.PathLike,
    simulated: bool | None,
    bootstrap_samples: int,
    seed: int,
    calibration_method: str = "platt",
    conformal_error: float = 0.1,
) -> None:
    """Write `tables/` and `figures/` of a cross-validation.

    Args:
        predictions: the table, see `scripts.evaluation.predictions`.
        output_dir: gets both folders.
        folds_dir: where the folds' learning curves may lie; none there, none drawn.
        simulated: whether the cohort is; None reads it from the record beside the table (`predictions.json`).
        bootstrap_samples, seed: of the bootstrapped AUCs.
        calibration_method, conformal_error: of calibration and abstention, see `scripts.evaluation.trust.trust_table`.

    Raises:
        InputError: see `read_predictions` and `read_subjects`; nobody says whether the cohort is simulated; fewer than
            100 samples; an error that is none.
    """
    check_error(conformal_error)
    if bootstrap_samples < 100:
        raise InputError(f"bootstrap_samples is {bootstrap_samples}; a box plot needs at least 100; raise it")
    table = read_predictions(predictions)
    count = f"{Path(predictions).name}: {len(table)} rows of {table['participant_id'].nunique()} subjects"
    unsure = "; no record beside it says how many there should be" if recorded_rows(predictions) is None else ""
    print(count + unsure)
    if simulated is None:
        simulated = recorded_as_simulated(Path(predictions).with_suffix(".json"))
    people = read_subjects(Path(predictions).with_name(SUBJECTS), table["participant_id"])
    folder = check_output_dir(output_dir, 50e6)
    tables = write_tables(folder / "tables", table, simulated, calibration_method, conformal_error)
    if people is not None:
        tables += write_subgroups(folder / "tables", table, people, simulated)
    if (scans := Path(predictions).with_name(SCANS)).is_file():
        parts = folder / "tables", folder / "figures"
        write_contributions(scans, *parts, simulated, bootstrap_samples, seed)
    draw_predictions(table, folder / "figures", simulated, bootstrap_samples, seed, calibration_method)
    draw_learning_curves(folds_dir, folder / "figures", simulated)
    for path in tables:
        if path.suffix == ".md":
            print("\n" + path.read_text())
    print(f"tables: {folder / 'tables'}\nfigures: {folder / 'figures'}")


def recorded_as_simulated(record: Path) -> bool:
    """What the record of a predictions table says of its cohort.

    Raises:
        InputError: no record, or one that does not say it.
    """
    if not os.path.lexists(record) and os.path.lexists(record.with_name("evaluation.json")):  # of evaluate.yaml
        record = record.with_name("evaluation.json")
    if not os.path.lexists(record):
        raise InputError(
            f"{record}: the table's record is not beside it, so nothing says whether its subjects were simulated; copy"
            " it there from where the table was written, or give --simulated true or false"
        )
    return read_json(record, "predictions record", "give --simulated true or false")["input"]["simulated"]
