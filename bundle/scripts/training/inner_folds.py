"""Train anew on parts of the training scans, so that every training scan is predicted by a model that never saw it."""

import copy
import os
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from scripts.evaluation.predict import predict
from scripts.model.networks import load_weights
from scripts.settings.overlay import running
from scripts.settings.values import literal


def inner_predictions(folds: int, output_dir: str | os.PathLike) -> list[dict[str, Any]]:
    """Rows of the predictions table of all training scans, each by a model of both stages trained without its fold.

    The config that evaluates this runs its `inner_fold` once a fold, in a folder of its own, where a stopped run goes
    on. The scans that the run itself holds out take no part.

    Args:
        folds: how many, at least 2.
        output_dir: gets `inner_folds/fold-*/` with curves, checkpoints and weights.
    """
    rows = []
    for fold in range(folds):
        print(f"inner fold {fold + 1} of {folds}")
        parser = ConfigParser(copy.deepcopy(running().parser.config))
        folder = Path(output_dir) / "inner_folds" / f"fold-{fold:02d}"
        (folder / "models").mkdir(parents=True, exist_ok=True)
        parts = f"scripts.maps.bids.split(@outer_training, {folds}, {fold}, @seed)"
        parser["outer_training"] = parser["train_datalist"]
        parser["train_datalist"], parser["val_datalist"] = f"${parts}[0]", f"${parts}[1]"
        parser["calibrate_on"] = "none"
        parser["output_dir"], parser["ckpt_dir"] = literal(folder), literal(folder / "models")
        parser.get_parsed_content("inner_fold")
        network = load_weights(parser.get_parsed_content("network_def"), folder / "models" / "model.pt")
        scans, device = (parser.get_parsed_content(key) for key in ("validate#dataset", "device"))
        where = {"repeat": 0, "fold": fold, "region": parser.get_parsed_content("region")}
        rows += predict(scans, {"Q-Net": network}, device, where)
    return rows
