"""A predictions table drawn at random, complete and small, for tests of what is computed from it."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from scripts.evaluation.predictions import MODELS, PREDICTION_COLUMNS, REGIONS
from scripts.evaluation.statistics import vote


def made_predictions(
    subjects: int = 20,
    slices: int = 4,
    repeats: int = 2,
    regions: Sequence[str] = REGIONS,
    models: Sequence[str] = MODELS,
    baselines: Sequence[str] = (),
    folds: int = 5,
    seed: int = 0,
) -> pd.DataFrame:
    """Models in the order given get better; `baselines` have rows of scans only."""
    rng = np.random.default_rng(seed)
    columns = dict.fromkeys(PREDICTION_COLUMNS)
    rows = []
    for repeat in range(repeats):
        fold_of = rng.permutation(subjects) % folds
        for region in regions:
            for strength, model in enumerate((*models, *baselines), 1):
                for subject in range(subjects):
                    label = subject % 2
                    centre = 0.5 + 0.07 * strength * (label - 0.5) + rng.normal(0, 0.1)
                    probabilities = np.clip(rng.normal(centre, 0.1, slices), 0, 1)
                    scan = vote(probabilities) if model.startswith("ResNet") else float(np.clip(centre, 0, 1))
                    cases = [("", scan), *(() if model in baselines else enumerate(probabilities))]
                    who = (repeat, int(fold_of[subject]), region, model, f"sub-{subject + 1:02d}")
                    rows += [(*who, index, label, probability) for index, probability in cases]
    table = pd.DataFrame(rows, columns=list(columns))
    return table.assign(slice=pd.to_numeric(table["slice"]).astype("Int64"))
