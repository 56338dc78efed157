"""What came out of a whole cross-validation, in the user's MLflow or TensorBoard, beside the runs of its folds."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.files.table import read_frame

#: Name of the run that holds the measures of all folds together.
RUN = "results"
#: Folders and files that it gets.
ARTIFACTS = ("cross_validation.json", "predictions.csv", "predictions.json", "tables", "report")
LEVELS = {"image": "table1_image_level.csv", "scan": "table3_scan_level.csv"}


def log_results(output_dir: str | os.PathLike, tracking: Mapping[str, Any]) -> None:
    """Log every measure of the tables, and with MLflow settings, tables and report as artifacts.

    Logged again after another analysis, the same run gets the new values.

    Args:
        output_dir: of the cross-validation.
        tracking: from `scripts.settings.check.tracking`; empty logs nothing.
    """
    if not tracking:
        return
    folder = Path(output_dir)
    if "tracking_uri" in tracking:
        _log_to_mlflow(folder, tracking["tracking_uri"], tracking["experiment_name"])
    else:
        _log_to_tensorboard(folder)


def measures(folder: Path) -> dict[str, float]:
    """The measures of all tables: `scan/cropped/Q-Net/auc` -> value (AUCs 0 to 1, all else in %)."""
    found = {}
    for level, name in LEVELS.items():
        path = folder / "tables" / name
        if path.is_file():
            for row in read_frame(path, ["region", "measure", "model", "mean"], numbers={"mean"}).to_dict("records"):
                found["/".join((level, row["region"], row["model"], row["measure"]))] = float(row["mean"])
    return found


def _log_to_mlflow(folder: Path, uri: str, experiment_name: str) -> None:
    import mlflow

    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name(experiment_name)
    # the folds' runs have made it; where they were made before tracking was asked for, it is made now
    number = experiment.experiment_id if experiment else client.create_experiment(experiment_name)
    before = [run for run in client.search_runs([number]) if run.info.run_name == RUN]
    run = before[0] if before else client.create_run(number, run_name=RUN)
    for name, value in measures(folder).items():
        client.log_metric(run.info.run_id, name, value)
    for name in ARTIFACTS:
        path = folder / name
        if path.is_dir():
            client.log_artifacts(run.info.run_id, str(path), name)
        elif path.is_file():
            client.log_artifact(run.info.run_id, str(path))
    client.set_terminated(run.info.run_id)


def _log_to_tensorboard(folder: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder / "tensorboard" / RUN)) as writer:
        for name, value in measures(folder).items():
            writer.add_scalar(name, value)
        settings = folder / "cross_validation.json"
        if settings.is_file():
            writer.add_text("settings", f"```\n{settings.read_text()}\n```")
