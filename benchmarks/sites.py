"""Random folds against folds that leave a site out, on a simulated cohort of three sites (simulated numbers).

    python benchmarks/sites.py --output benchmarks/results/sites.json [--subjects 120] [--keep FOLDER]

The drop from random folds to folds by site is what a network takes from the sites; there are as many folds of both
kinds, so that both train on as many subjects. With `--confounded` most subjects with HH are at one site: random folds
then look better than the network is. Settings: cross_validation_small.yaml. `--keep` may hold a cohort with a column
`site`, in `cohort`.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUNDLE = HERE.parent / "bundle"
sys.path.insert(0, str(BUNDLE))

from scripts.evaluation.predictions import read_predictions  # noqa: E402
from scripts.evaluation.subgroups import SUBJECTS, read_subjects, subgroup_rows  # noqa: E402
from scripts.files.writing import write_json  # noqa: E402
from scripts.provenance import software  # noqa: E402

TINY = {"full_size": "[64,64]", "cropped_size": "[64,64]", "num_slices": "8", "hidden_size": "16", "image_epochs": "2",
        "imagenet_weights": "none", "scan_epochs": "2", "num_views": "2"}  # fmt: skip


def bundle(*words: object) -> None:
    """One command of the bundle."""
    subprocess.run([sys.executable, "-m", "monai.bundle", "run", *map(str, words)], cwd=BUNDLE, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--subjects", type=int, default=120)
    parser.add_argument("--image_epochs", type=int, default=8, help="of stage 1")
    parser.add_argument("--confounded", action="store_true")
    parser.add_argument("--tiny", action="store_true", help="try whether it runs: the numbers mean nothing")
    parser.add_argument("--keep", type=Path, help="folder that keeps cohort and runs; the same goes on with them")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = (given.keep or Path(scratch)).resolve()
        half = given.subjects // 2
        size = {"hh": half, "hc": half, "men": half, "matrix": [144, 144, 24], "spacing_mm": [1.5, 1.5, 3.0]}
        more = ["--sites#north#hh_share", "0.3", "--sites#west#hh_share", "3"] if given.confounded else []
        if not (root / "cohort").exists():
            bundle(
                "--config_file", "['configs/simulate.yaml','configs/simulate_sites.yaml']",
                "--output_dir", root / "cohort", "--sizes#small", size, *more,
            )  # fmt: skip
        found = {}
        for by in ("random", "site"):
            settings = {"fold_by": by, "num_folds": 3, "image_epochs": given.image_epochs, "precision": "auto"}
            settings |= TINY if given.tiny else {}
            bundle(
                "folds", "--config_file", "['configs/cross_validation.yaml','configs/cross_validation_small.yaml']",
                "--dataset_dir", root / "cohort", "--output_dir", root / by, "--regions", "cropped", "--num_repeats", 1,
                *(word for key, value in settings.items() for word in (f"--training#{key}", value)),
            )  # fmt: skip
            table, people = read_predictions(root / by / "predictions.csv"), read_subjects(root / by / SUBJECTS)
            assert people is not None
            found[by] = [row for row in subgroup_rows(table, people) if row["subgroup"] in ("all", "site")]
    for by, rows in found.items():
        for row in rows:
            print(f"{by:7} {row['model']:12} {row['subgroup']} {row['value']:6} n {row['subjects']:3}"
                  f" AUC {row['auc']:.3f} ({row['auc_low']:.3f} to {row['auc_high']:.3f}), simulated")  # fmt: skip
    if given.output:
        about = {
            "simulated": True,
            "confounded": given.confounded,
            "subjects": given.subjects,
            "folds": 3,
            "image_epochs": given.image_epochs,
            "software": software(),
        }
        write_json(given.output, {**about, "rows": found})


if __name__ == "__main__":
    main()
