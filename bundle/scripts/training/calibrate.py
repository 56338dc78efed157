"""Calibrate trained weights: fit all that `scripts.model.trust` reads to scans that they were not trained on."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import ignite.distributed as idist
import numpy as np
import torch
from monai.data import Dataset

from scripts.errors import InputError
from scripts.evaluation.calibration import fit_calibrator
from scripts.evaluation.predict import predict
from scripts.evaluation.predictions import at_level, read_predictions
from scripts.evaluation.trust import Trusted, cross_fitted, known_scores, measured
from scripts.files.json_file import read_json
from scripts.files.writing import sha256, write_json
from scripts.maps.identity import known_as, met_before
from scripts.maps.scan import LabelledScan
from scripts.model.calibration import check_enough, logits
from scripts.model.conformal import USUAL_ERROR, least_error, rounded
from scripts.model.ensemble import DECISIVE
from scripts.model.familiarity import LEAST_SUBJECTS, fit
from scripts.model.networks import QNet, load_weights
from scripts.model.nucleus_evidence import LEAST_CONTROLS, by_nucleus, healthy_range, label_file, labels_at
from scripts.model.outputs import embedding_of_scan
from scripts.model.trust import read_calibration, set_aside_former, write_calibration
from scripts.provenance import software
from scripts.runs.bars import Bar

#: Where scores may be from, beside a path to a predictions table.
SOURCES = ("auto", "held_out", "inner_folds", "none")
#: What results say of it.
FROM = {
    "held_out": "scans held out of training",
    "inner_folds": "inner folds of the training scans",
    "table": "a predictions table",
}
#: The model whose weights are calibrated.
MODEL = "Q-Net"
#: Settings that a predictions table's models must share with the weights, beside the size of its rows' region.
SHARED = tuple(key for key in DECISIVE if key not in ("region", "spatial_size"))


def source_of(
    calibrate_on: str,
    region: str,
    training: Sequence[LabelledScan],
    held_out: Sequence[LabelledScan],
    inner_folds: int,
    recipe: Mapping[str, Any] | None = None,
) -> str:
    """Where the scores are from, told before any work: `held_out`, `inner_folds`, `none`, or a path.

    Args:
        calibrate_on: one of SOURCES or a path; `auto` takes the held-out fold where it is large enough.
        region: of the network's input; a table must have scans of it.
        training, held_out: scans of both sides.
        inner_folds: how many the training scans are dealt into, where they are asked for.
        recipe: settings of the network and its input, which a table's models must share.

    Raises:
        InputError: too few scans, for as many folds or at all, one group only, no such table, or one of models of
            another recipe.
    """
    if calibrate_on == "none":
        return calibrate_on
    if calibrate_on not in SOURCES:
        if not Path(calibrate_on).is_file():
            raise InputError(
                f"calibrate_on is {calibrate_on!r}: no such predictions table; give its path, or one of"
                f" {', '.join(SOURCES)}"
            )
        scores_of_table(calibrate_on, region, recipe)
        return calibrate_on
    asked = training if calibrate_on == "inner_folds" else held_out
    label_of = {scan.participant_id: scan.label for scan in asked}
    ill = sum(label == 1 for label in label_of.values())
    what = "the training scans" if calibrate_on == "inner_folds" else "the held-out fold"
    try:
        check_enough(len(label_of) - ill, ill, f"calibrate_on {calibrate_on}: {what}")
    except InputError as error:
        if calibrate_on != "auto":
            raise
        if idist.get_rank() == 0:
            print(
                f"no calibration: {error.args[0].split(': ', 1)[1].split(';')[0]}; --calibrate_on inner_folds trains"
                " further models for it, and a cross-validation's predictions.csv does without them"
            )
        return "none"
    fewest = min(ill, len(label_of) - ill)
    if calibrate_on == "inner_folds" and fewest < inner_folds:
        raise InputError(
            f"inner_folds is {inner_folds}, and the smaller class of the training scans has {fewest} subjects; lower it"
        )
    return "held_out" if calibrate_on == "auto" else calibrate_on


def scores_of_table(
    path: str | os.PathLike, region: str, recipe: Mapping[str, Any] | None = None
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Labels `[n]`, logits `[n]` and participants of a predictions table's first repeat, at scan level.

    Raises:
        InputError: the table has no such rows, too few or of one group, or says that its models were of other settings.
    """
    table = read_predictions(path)
    rows = at_level(table, "scan")
    rows = rows[(rows["region"] == region) & (rows["model"] == MODEL)]
    if rows.empty:
        raise InputError(f"{path}: no scan of {MODEL}, region {region}; give predictions of a model of that region")
    rows = rows[rows["repeat"] == rows["repeat"].min()]
    ill = int((rows["label"] == 1).sum())
    check_enough(len(rows) - ill, ill, str(path))
    if recipe is not None:
        check_same_recipe(path, region, recipe)
    return rows["label"].to_numpy(), logits(rows["probability_HH"].to_numpy()), list(rows["participant_id"])


def check_same_recipe(path: str | os.PathLike, region: str, recipe: Mapping[str, Any]) -> None:
    """Refuse a table whose record says that its models see other input than the weights; one without a record passes.

    Args:
        path: of the table.
        region: of the weights' input.
        recipe: settings that the weights were, or will be, trained with; those that it lacks are not compared.

    Raises:
        InputError: names the setting.
    """
    ours = {key: list(value) if isinstance(value, tuple) else value for key, value in recipe.items()}
    if "spatial_size" in ours:
        ours[f"{region}_size"] = ours["spatial_size"]
    for other in (Path(path).with_suffix(".json"), Path(path).with_name("evaluation.json")):
        if other.is_file():
            theirs = read_json(other, "record").get("settings", {})
            for key in (*SHARED, f"{region}_size"):
                if key in theirs and key in ours and theirs[key] != ours[key]:
                    raise InputError(
                        f"{path}: its models were trained with {key} {theirs[key]}, the weights with {ours[key]};"
                        " give predictions of models trained as they are"
                    )
            return


def scores_of_scans(
    scans: Dataset, network: QNet, device: torch.device, where: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Labels, logits and participants of scans that the network is asked about."""
    return scores_of_rows(predict(scans, {MODEL: network}, device, where))


def scores_of_rows(rows: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Labels, logits and participants of the rows of scans, from `scripts.evaluation.predict.predict`."""
    scans = [row for row in rows if row["slice"] == "" and row["model"] == MODEL]
    labels, probabilities = ([float(row[key]) for row in scans] for key in ("label", "probability_HH"))
    return np.array(labels, dtype=int), logits(probabilities), [row["participant_id"] for row in scans]


def familiarity_of(
    scans: Dataset, network: QNet, device: torch.device, flagged_share: float, refuse_beyond: float | None
) -> dict[str, Any] | None:
    """What the training scans are like, see `scripts.model.familiarity.fit`; None where they are too few."""
    people = [scan["participant_id"] for scan in scans.data]
    if len(set(people)) < LEAST_SUBJECTS:
        print(f"no limit for strange scans: {len(set(people))} training subjects are too few, {LEAST_SUBJECTS} are due")
        return None
    embeddings, appearances, labels = [], [], []
    network = network.to(device).eval()
    with torch.inference_mode():
        for index in Bar(range(len(scans)), desc="what scans are like", unit="scan"):
            item = scans[index]
            embedded = network.embed(item["image"].as_tensor()[None].to(device))
            embeddings.append(embedding_of_scan(embedded)[0].cpu().numpy())
            appearances.append(json.loads(item["appearance"]))
            labels.append(item["label"])
    return fit(np.stack(embeddings), appearances, np.array(labels), flagged_share, refuse_beyond, people)


def nucleus_evidence_of(
    scans: Sequence[Dataset], network: QNet, device: torch.device, nuclei_dir: str | os.PathLike
) -> dict[str, Any] | None:
    """What each nucleus says for HH in healthy controls, of the first dataset with enough of them; None, and a line
    that says why, without.

    Args:
        scans: preprocessed scans, those first that the network was not trained on.
        network: with its weights.
        device: what runs it.
        nuclei_dir: where configs/nuclei.yaml wrote label images.
    """
    network = network.to(device).eval()
    labelled = 0
    for part in scans:
        values: dict[str, np.ndarray] = {}  # of each person the first scan
        for index in range(len(part)):
            scan = part.data[index]  # not read yet
            path = label_file(nuclei_dir, scan["participant_id"], scan["scan_id"])
            if scan["label"] or path is None or scan["participant_id"] in values:
                continue
            image = part[index]["image"]
            seen = by_nucleus(network, image.as_tensor().to(device), labels_at(path, image))
            values[scan["participant_id"]] = seen.numpy()
        known = healthy_range(np.stack([*values.values()])) if values else {}
        if known:
            return known
        labelled = max(labelled, len(values))
    print(
        f"no healthy range of the evidence by nucleus: {labelled or 'no'} healthy control{'s' * (labelled != 1)} with"
        f" labels in derivatives/{Path(nuclei_dir).name} of the cohort, {LEAST_CONTROLS} are due; measure them"
        " with configs/nuclei.yaml, then calibrate again"
    )
    return None


def calibration_of(
    labels: np.ndarray, scores: np.ndarray, method: str, scores_from: str, people: Sequence[str]
) -> dict[str, Any] | None:
    """The calibration's part of the JSON: fitted to all scores, and how good it is where each person is left out, by
    the first scan of each.

    None, and a line that says so, where all scores are alike, or higher ones do not mean more HH: turned round, they
    would be no probabilities of this model.

    Args:
        labels, scores: `[n]`, 0 or 1, logits.
        method: of `scripts.model.calibration.METHODS`.
        scores_from: for readers.
        people: `[n]`, whose scan each is.
    """
    made = fit_calibrator(labels, scores, method, people) if np.ptp(scores) > 0 else None
    if made is None or not made.slope > 0:
        why = (
            f"a higher probability did not mean more HH (slope {made.slope:.2g})"
            if made
            else "all have one probability"
        )
        print(
            f"no calibration: of {len(labels)} scans from {scores_from}, {why}; this model tells nothing there: train"
            " longer, on more scans, or calibrate on others"
        )
        return None
    known = {group: rounded(values).tolist() for group, values in known_scores(labels, scores, people).items()}
    if least_error(known) > USUAL_ERROR:
        print(
            f"few to compare with, {len(known['HC'])} HC and {len(known['HH'])} HH: this calibration allows"
            f" conformal_error from {least_error(known):g} on; run inference with that, or calibrate on more"
        )
    one = np.zeros(len(labels), dtype=int)
    calibrated, p = cross_fitted(labels, scores, one, method, people)
    first = np.sort(np.unique(np.asarray(people), return_index=True)[1])
    raw = 1 / (1 + np.exp(-scores))
    seen = (values[first][None] for values in (raw, scores, calibrated, p))
    found = Trusted("", MODEL, labels[first], *seen)
    return {
        "model": MODEL,
        "scores_from": scores_from,
        "participants": len(set(people)),
        "calibration": {
            "method": made.method,
            "slope": made.slope,
            "intercept": made.intercept,
            "prevalence": made.prevalence,
        },
        "scores": known,
        "measured": {key: None if np.isnan(value) else round(value, 5) for key, value in measured(found).items()},
    }


def calibrate(
    weights: str | os.PathLike,
    source: str,
    method: str,
    network: QNet,
    training: Dataset,
    held_out: Dataset,
    device: torch.device,
    where: Mapping[str, Any],
    flagged_share: float,
    refuse_beyond: float | None,
    nuclei_dir: str | os.PathLike,
    record: Mapping[str, Any],
    inner: Callable[[], Sequence[Mapping[str, Any]]] | None = None,
) -> None:
    """Write the calibration beside weights, and its hash into their record; only the first process of a run does.

    Args:
        weights: the file, as inference reads it.
        source: from `source_of`; `none` only sets the calibration of former weights aside.
        method: of `scripts.model.calibration.METHODS`.
        network: takes the weights.
        training, held_out: preprocessed scans of both sides.
        device: what runs the network.
        where: `repeat`, `fold` and `region`.
        flagged_share: share of scans like the training scans that may be flagged.
        refuse_beyond: from so many times the limit on a scan is refused; None: flagged only.
        nuclei_dir: where configs/nuclei.yaml wrote label images, for what each nucleus says in healthy controls.
        record: from `scripts.provenance.record`.
        inner: trains inner folds and gives the rows of their predictions; called where `source` is `inner_folds`.

    Raises:
        InputError: see `source_of` and `scores_of_table`.

    Where `calibration_of` gives none, none is written.
    """
    if source == "none":
        if idist.get_rank() == 0:
            set_aside_former(weights)
        return
    rows = inner() if source == "inner_folds" and inner is not None else []  # all processes of a run train together
    if idist.get_rank() > 0:
        return
    load_weights(network, weights)
    if source == "inner_folds":
        labels, scores, people = scores_of_rows(rows)
    elif source == "held_out":
        labels, scores, people = scores_of_scans(held_out, network, device, where)
    else:
        labels, scores, people = scores_of_table(source, where["region"])  # `source_of` compared its recipe
    content = calibration_of(labels, scores, method, FROM.get(source, FROM["table"]), people)
    if content is None:
        set_aside_former(weights)
        return
    content["familiarity"] = familiarity_of(training, network, device, flagged_share, refuse_beyond)
    whom = {*people}
    calibrating = [known_as(scan["image"][0]) for scan in held_out.data if scan["participant_id"] in whom]
    seen, calibrated_by = seen_before(weights)
    alone = [names for names in calibrating if met_before(names, seen, calibrated_by) != "seen"]  # who may have trained
    content["seen"] = sorted(seen.union(scan_hashes(training), *calibrating))
    content["calibrated_by"] = sorted(calibrated_by.union(*alone))
    content["nucleus_evidence"] = nucleus_evidence_of([held_out, training], network, device, nuclei_dir)
    table = {} if source in FROM else {"predictions_sha256": sha256(source)}
    path = write_calibration(weights, {**content, "software": software(), "input": record["input"], **table})
    note_in_record(weights, path)
    shown = content["measured"]
    print(
        f"{path.name}: calibrated on {len(labels)} scans of {content['participants']} people"
        f" ({content['scores_from']}); ECE"
        f" {shown['ece_raw']:.3f} before, {shown['ece']:.3f} after (a perfect model: {shown['ece_perfect']:.3f})"
    )


def scan_hashes(scans: Dataset) -> list[str]:
    """By what scans are known again: of each both that `scripts.maps.identity.known_as` gives, the map's and the
    file's, of which a list in a calibration may hold either."""
    return [name for item in scans.data for name in known_as(item["image"][0])]


def seen_before(weights: str | os.PathLike) -> tuple[set[str], set[str]]:
    """Hashes of the scans that a former calibration of these very weights names, who know them all the same; and of
    those that are known to have calibrated them alone."""
    try:
        known, _ = read_calibration(weights)
    except InputError:
        known = None
    return {*(known or {}).get("seen", ())}, {*(known or {}).get("calibrated_by", ())}


def write_familiarity(
    path: str | os.PathLike | None,
    scans: Dataset,
    network: QNet,
    weights: str | os.PathLike,
    device: torch.device,
    flagged_share: float,
    refuse_beyond: float | None,
) -> None:
    """Write what the training scans are like, and their hashes, for a calibration that is fitted later; None writes
    nothing."""
    if path is not None:
        loaded = cast(QNet, load_weights(network, weights))
        known = familiarity_of(scans, loaded, device, flagged_share, refuse_beyond)
        write_json(path, {"familiarity": known, "seen": sorted(scan_hashes(scans))})


def note_in_record(weights: str | os.PathLike, path: Path) -> None:
    """Put the calibration's SHA-256 beside that of the weights into their record, where there is one."""
    own = Path(weights).with_suffix(".json")
    if own.is_file():
        known = read_json(own, "record")
        known["weights"] = {**known.get("weights", {}), path.name: sha256(path)}
        write_json(own, known)
