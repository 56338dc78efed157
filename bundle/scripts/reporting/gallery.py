"""The figures of a cross-validation: what each is called, what it shows, and all of them drawn at once."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from scripts.evaluation.predictions import LEVELS, REGIONS, regions_of
from scripts.evaluation.trust import too_few
from scripts.reporting import figures
from scripts.reporting.calibration import calibration
from scripts.reporting.style import VECTOR, save_figure, titled
from scripts.reporting.subgroups import decision_curve
from scripts.reporting.trust import abstention, calibrated_reliability
from scripts.runs.bars import Bar

#: What a reader must know of evidence (docs/evidence.md).
OF_EVIDENCE = "It shows what the network used, not where a disease is; colours are shares of each scan's strongest."
OF_EVIDENCE += " Up to half of the scans shown are wrongly classified ones, as far as there are: more than their share."
OF_ACTIVATION = (
    "Coarse maps of the last layer, kept because the paper has them: where they are red, covering the place hardly"
    " moves the output towards HC. See the evidence maps instead."
)
#: File name -> caption, in the order of the report. Numbers in the names are the paper's. `{place}`: from
#: `scripts.reporting.pictures.place_shown`.
CAPTIONS = {
    "figure1_example_maps": "Maps of a subject of each group at {place} (the paper's Figure 1).",
    "figure2_cohort": "Age and sex of the cohort, by group (the paper's Figure 2).",
    "figure3_augmentation": "What augmentation makes of one QSM image, full-size and cropped (the paper's Figure 3).",
    "figure4_architecture": "The network, with the sizes that this run used (the paper's Figure 4).",
    "figure5_roc_inputs": "Full-size against cropped input at image level, for each model (the paper's Figure 5).",
    "figure6_roc_models": "The models at image level, for each input (the paper's Figure 6).",
    "figure7_auc_boxes": "Bootstrapped AUC at image level, with the significance of DeLong's tests over participants"
    " after Holm's correction: ns p > 0.05 (no difference was detected), * p ≤ 0.05, ** p ≤ 0.01, *** p ≤ 0.001, **** p"
    " ≤ 0.0001 (the paper's Figure 7). Whole participants are drawn.",
    "figure8_roc_inputs_scan": "Full-size against cropped input at scan level (the paper's Figure 8). ResNet and"
    " ResNetSWA vote: their score is the share of slices classified HH.",
    "roc_models_scan": "The models at scan level, for each input.",
    "auc_boxes_scan": "Bootstrapped AUC at scan level, with the significance of DeLong's tests (Holm's correction).",
    "calibration_image": "Calibration at image level: share of HH among slices with about the same probability, with"
    " 95 % intervals over participants, and how many cases each probability was given. Brier score and expected"
    " calibration error: lower is better.",
    "calibration_scan": "Calibration at scan level.",
    "reliability_calibrated": "Reliability of scans after calibration, each fold by the scores of other folds alone"
    " (thin lines: before), with 95 % intervals over participants, and how many scans each probability was given.",
    "coverage_abstention": 'Class-conditional conformal prediction: HH, HC or "cannot say". Above: the share of each'
    " group's scans whose group is not ruled out, which should lie on or over the broken line, at every error that a"
    " user may choose; below: the share of scans of which nothing is said.",
    "decision_curve": "Decision curve of whole scans: what acting from a probability on would be worth, in true"
    " positives per subject, against acting on everybody or nobody. The share of HH here is not that of a clinic.",
    "confusion_image": "Confusion matrices at image level, threshold 0.5.",
    "confusion_scan": "Confusion matrices at scan level, threshold 0.5.",
    "contributions": "What hiding each map, and each nucleus in all maps or in one, costs Q-Net's AUC of whole scans,"
    " with 95 % intervals over subjects. Drops do not add up: what has none may be replaced by the others.",
    "learning_curves_full": "Training with full-size input: mean over all folds, band from the lowest to the highest.",
    "learning_curves_cropped": "Training with cropped input: mean over all folds, band from the lowest to the highest.",
    "evidence_full": "What speaks for HH (red, solid outline) and for HC (blue, dashed outline) in full-size input, by"
    f" the method in the title. {OF_EVIDENCE}",
    "evidence_cropped": "What speaks for HH (red, solid outline) and for HC (blue, dashed outline) in cropped input, by"
    f" the method in the title. {OF_EVIDENCE}",
    "figure9_evidence_full": f"Class activation maps of full-size input (the paper's Figure 9). {OF_ACTIVATION}",
    "figure10_evidence_cropped": f"Class activation maps of cropped input (the paper's Figure 10). {OF_ACTIVATION}",
}
STAGES = {"image_level.csv": "stage 1, image level", "scan_level.csv": "stage 2, scan level"}


def draw_predictions(
    table: pd.DataFrame,
    figures_dir: str | os.PathLike,
    simulated: bool,
    samples: int,
    seed: int,
    calibration_method: str = "platt",
) -> list[Path]:
    """Draw every figure that the predictions table holds; no image is needed.

    Args:
        table: from `scripts.evaluation.predictions.read_predictions`.
        figures_dir: gets the figures, named as in CAPTIONS.
        simulated: whether titles must say so.
        samples, seed: of the bootstrap.
        calibration_method: see `scripts.reporting.trust.calibrated_reliability`.

    Returns:
        The files written.
    """
    folder = Path(figures_dir)
    regions = {level: regions_of(table, level) for level in LEVELS}
    panels = {level: [(region, level) for region in regions[level]] for level in LEVELS}
    names = {
        "image": ("figure5_roc_inputs", "figure6_roc_models", "figure7_auc_boxes"),
        "scan": ("figure8_roc_inputs_scan", "roc_models_scan", "auc_boxes_scan"),
    }
    drawings: dict[str, Callable[..., Figure]] = {}
    for level in [level for level in LEVELS if regions[level]]:
        inputs, models, boxes = names[level]
        drawings[inputs] = partial(figures.roc_inputs, table, level)
        drawings[models] = partial(figures.roc_models, table, panels[level])
        drawings[boxes] = partial(figures.auc_boxes, table, level, samples=samples, seed=seed)
        drawings[f"calibration_{level}"] = partial(calibration, table, level)
        if level == "scan":
            drawings["decision_curve"] = partial(decision_curve, table)
        drawings[f"confusion_{level}"] = partial(figures.confusion_matrices, table, level)
    if too_few(table) is None:
        drawings["reliability_calibrated"] = partial(calibrated_reliability, table, calibration_method)
        drawings["coverage_abstention"] = partial(abstention, table, calibration_method)
    written = []
    for name, draw in Bar(drawings.items(), desc="figures", unit="figure"):
        written += save_figure(draw(simulated=simulated), folder / name, VECTOR)
    return written


def draw_learning_curves(folds_dir: str | os.PathLike, figures_dir: str | os.PathLike, simulated: bool) -> list[Path]:
    """Draw the learning curves of all folds and repeats, a figure a region.

    Args:
        folds_dir: holds `<region>/repeat-*/fold-*/image_level.csv` and `scan_level.csv`.
        figures_dir: gets `learning_curves_<region>`.
        simulated: whether titles must say so.

    Returns:
        The files written; none where no fold kept its curves.
    """
    written = []
    for region in REGIONS:
        found = {
            title: sorted(Path(folds_dir).glob(f"{region}/repeat-*/fold-*/{name}")) for name, title in STAGES.items()
        }
        stages = {title: paths for title, paths in found.items() if paths}
        if stages:
            title = titled(f"Learning curves, {figures.INPUTS[region]}", simulated)
            figure = figures.learning_curves(stages, title)
            written += save_figure(figure, Path(figures_dir) / f"learning_curves_{region}", VECTOR)
    return written
