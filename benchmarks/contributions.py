"""Do contributions find the map that carries the effect? Simulated cohorts in which HH acts in one map alone.

    python benchmarks/contributions.py OUTPUT            # three cohorts of 120; a run that was stopped goes on
    python benchmarks/contributions.py OUTPUT --subjects 40 --training image_epochs=2 num_folds=2   # a first look

For each map a cohort is simulated below OUTPUT (`effect_maps`, size small) and cross-validated with
`configs/small.yaml` and `configs/quantities.yaml`, with contributions of maps and of true nuclei. The map with the
largest drop should be that in which HH acts, its interval should lie above 0, and those of the others should hold 0.
`OUTPUT/contributions.json` and `.md` get the drops beside the AUC; whoever knows the latents has about 0.95.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "bundle"
sys.path.insert(0, str(BUNDLE))
from scripts.evaluation.contributions import contributions, read_probabilities  # noqa: E402
from scripts.files.writing import write_json, write_text  # noqa: E402
from scripts.maps.scan import KNOWN_MAPS, MAPS  # noqa: E402
from scripts.provenance import software  # noqa: E402


def run(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "monai.bundle", "run", *words], cwd=BUNDLE, check=True)


def measured(
    folder: Path, name: str, subjects: int, seed: int, training: list[str], samples: int, at_once: int
) -> dict[str, Any]:
    """Simulate, train and measure; what is there already is not made again."""
    cohort, output = folder / "cohort", folder / "cross_validation"
    if not (cohort / "participants.tsv").exists():
        size = ("--sizes#small#hh", str(subjects // 2), "--sizes#small#hc", str(subjects - subjects // 2))
        men = ("--sizes#small#men", str(2 * subjects // 3))
        config = ("--config_file", "configs/simulate.yaml", "--output_dir", str(cohort), "--seed", str(seed))
        run(*config, *size, *men, "--effect_maps", f"['{name}']")
    truth = cohort / "derivatives" / "groundtruth"
    run(
        *("folds", "--config_file", "configs/cross_validation.yaml", "--dataset_dir", str(cohort)),
        *("--output_dir", str(output), "--regions", "['cropped']", "--num_repeats", "1", "--contributions", "true"),
        *("--folds_on_cpu", str(at_once)),
        *(
            "--nuclei_table",
            str(truth / "measured.tsv"),
        ),  # which is not there: no ROI baseline, but its folder's labels
        *("--overlays", "['configs/small.yaml','configs/quantities.yaml']"),
        *(word for pair in training for word in (f"--training#{pair.split('=', 1)[0]}", pair.split("=", 1)[1])),
    )
    rows = contributions(read_probabilities(output / "contributions_scans.csv"), samples, seed)
    drops = {row["map"]: row for row in rows if not row["nucleus"]}
    largest = max(drops, key=lambda key: drops[key]["drop"])
    others_hold_0 = all(row["drop_low"] <= 0 <= row["drop_high"] for key, row in drops.items() if key != name)
    return {
        "auc": drops[name]["auc"],
        "largest": largest,
        "found": largest == name and drops[name]["drop_low"] > 0,
        "others_hold_0": others_hold_0,
        "rows": rows,
    }


def as_text(results: dict[str, dict[str, Any]], subjects: int) -> str:
    heads = ["HH acts in", "AUC", *(f"drop without {KNOWN_MAPS[name].name}" for name in MAPS), "found"]
    lines = [f"Simulated cohorts of {subjects}, whole scans, folds pooled; 95 % intervals over subjects.", ""]
    lines += [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for name, result in results.items():
        drops = {row["map"]: row for row in result["rows"] if not row["nucleus"]}
        cells = [f"{r['drop']:.3f} ({r['drop_low']:.2f} to {r['drop_high']:.2f})" for r in map(drops.get, MAPS) if r]
        auc, found = f"{result['auc']:.3f}", "yes" if result["found"] else "no"
        lines.append(f"| {' | '.join([KNOWN_MAPS[name].name, auc, *cells, found])} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--maps", nargs="+", choices=MAPS, default=list(MAPS))
    parser.add_argument("--subjects", type=int, default=120)
    parser.add_argument("--seed", type=int, default=41)
    parser.add_argument("--training", nargs="*", default=[], metavar="KEY=VALUE", help="keys of train.yaml, of all")
    parser.add_argument("--folds_on_cpu", type=int, default=1, help="folds side by side, where there is no GPU")
    parser.add_argument("--samples", type=int, default=2000, help="of the bootstrap")
    given = parser.parse_args()
    results = {}
    for name in given.maps:
        folder = given.output.resolve() / name
        results[name] = measured(
            folder, name, given.subjects, given.seed, given.training, given.samples, given.folds_on_cpu
        )
    content = {"software": software(), "simulated": True, "subjects": given.subjects, "training": given.training}
    write_json(given.output / "contributions.json", {**content, "results": results})
    text = as_text(results, given.subjects)
    write_text(given.output / "contributions.md", text)
    print(text)


if __name__ == "__main__":
    main()
