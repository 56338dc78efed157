r"""How good are the weights that the bundle ships? Simulated cohorts that they never saw, scan by scan.

    python ../benchmarks/shipped.py WORK --test TEST/* --former OLD/model.pt        # from bundle/

TEST are the cohorts of `learning_curve.py`. The weights are asked as their record says (the former ones too), on
annotated boxes; DeLong's test between the two is paired. Writes `results/shipped/predictions.csv` and `shipped.json`,
from which model card, metadata and [Measured] take their numbers (`in_text.py`).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from monai.bundle import ConfigParser

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "bundle"), str(HERE)]

from learning_curve import BUNDLE, CEILINGS, aligned, ceilings_of, p_of, without_nan  # noqa: E402
from networks import with_interval  # noqa: E402

from scripts.evaluation.auc import delong  # noqa: E402
from scripts.evaluation.predict import predict  # noqa: E402
from scripts.evaluation.predictions import PREDICTION_COLUMNS  # noqa: E402
from scripts.files.writing import sha256, write_json, write_table  # noqa: E402
from scripts.maps.bids import labelled_scans  # noqa: E402
from scripts.maps.scan import MAPS, items  # noqa: E402
from scripts.model.networks import load_weights  # noqa: E402
from scripts.provenance import software, trained_with  # noqa: E402
from scripts.training.cache import CachedScans  # noqa: E402

RESULTS = HERE / "results" / "shipped"
SHIPPED = BUNDLE / "models" / "model.pt"


def predicted(work: Path, weights: Path, name: str, tests: Sequence[Path]) -> pd.DataFrame:
    """Predictions of some weights for all scans of the test cohorts."""
    record = trained_with(weights)
    parser = ConfigParser(ConfigParser.load_config_file(str(BUNDLE / "configs/train.yaml")))
    parser.update({key: record[key] for key in ("intensity", "scan_model", "image_model") if key in record})
    parser.update({"bundle_root": str(BUNDLE), "localise": "annotated", "maps": list(record.get("maps", MAPS))})
    models = {name: load_weights(parser.get_parsed_content("network_def"), weights)}
    rows: list[dict[str, Any]] = []
    for fold, cohort in enumerate(tests):
        data = items(labelled_scans(cohort))
        scans = CachedScans(data, parser.get_parsed_content("preprocessing"), work / "cache")
        made = predict(scans, models, torch.device("cpu"), {"repeat": 0, "fold": fold, "region": "cropped"})
        rows += [row | {"participant_id": f"{cohort.name}/{row['participant_id']}"} for row in made]
    return pd.DataFrame(rows).replace({"slice": {"": None}})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="gets the cache of preprocessed scans")
    parser.add_argument("--test", type=Path, nargs="+", required=True, help="simulated cohorts")
    parser.add_argument("--former", type=Path, help="weights to compare with, their record beside them")
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    tables = [predicted(given.work, SHIPPED, "Q-Net", given.test)]
    if given.former is not None:
        tables.append(predicted(given.work, given.former, "former", given.test))
    names = ["Q-Net", "former"][: len(tables)]
    first = tables[0][tables[0]["slice"].isna()]
    tables += ceilings_of(first, given.test)
    labels, _, scans = aligned(pd.concat(tables, ignore_index=True), [*names, *CEILINGS], scan=True)
    aucs = delong(labels, scans)
    record = json.loads(SHIPPED.with_suffix(".json").read_text())
    content = {
        "software": software(),
        "simulated": True,
        "weights_sha256": sha256(SHIPPED),
        "trained_on": record["input"],
        "settings": record["settings"],
        "cohorts": len(given.test),
        "subjects": len(first),
        "scan_auc": {name: with_interval(aucs, place) for place, name in enumerate([*names, *CEILINGS])},
        "p_former": p_of(aucs, 0, 1) if given.former is not None else None,
        "former_sha256": sha256(given.former) if given.former is not None else None,
    }
    given.output.mkdir(parents=True, exist_ok=True)
    rows = tables[0].astype(object).where(tables[0].notna(), "").to_dict("records")
    write_table(given.output / "predictions.csv", PREDICTION_COLUMNS, rows)
    write_json(given.output / "shipped.json", without_nan(content))
    print(json.dumps(content["scan_auc"], indent=1), content["p_former"])


if __name__ == "__main__":
    main()
