"""What each map and each nucleus contributes to a trained network: hide it in held-out scans, and see what that costs.

A map is hidden by another subject's in its place: permutation importance (Breiman, Machine Learning 2001; Fisher et
al., JMLR 2019) of whole maps. The other subject is one of like age, since iron rises with age in everybody. A nucleus
is hidden by what lies around it (`scripts.model.nucleus_evidence`), in all maps or in one. No network is trained again.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from monai.data import Dataset

from scripts.anatomy.atlas import NUCLEI
from scripts.errors import InputError
from scripts.evaluation.auc import bootstrap_aucs, bootstrap_weights, delong
from scripts.files.table import read_frame
from scripts.files.writing import check_output_dir, write_json, write_table
from scripts.maps.bids import GROUPS
from scripts.maps.scan import LabelledScan
from scripts.model.networks import QNet
from scripts.model.nucleus_evidence import covered, label_file, labels_at
from scripts.runs.bars import Bar

#: Every probability, a row a scan and what was hidden in it, `draw` times; and what made them, which is written last.
SCANS, RECORD = "contributions_scans.csv", "contributions.json"
#: Columns of SCANS. `map` and `nucleus` are empty where nothing was hidden, `nucleus` where a whole map was.
WHERE = ("repeat", "fold", "region", "participant_id", "scan_id", "label")
HIDDEN = ("map", "nucleus")
SCAN_COLUMNS = (*WHERE, *HIDDEN, "draw", "probability_HH")
#: `map` where a nucleus is hidden in all of them.
ALL = "all"
#: Columns of `contributions.csv`; what has an interval (95 %, over subjects) has its ends behind it.
COLUMNS = (
    *("region", *HIDDEN, "subjects", "auc", "auc_without"),
    *(f"{name}{end}" for name in ("drop", *(f"change_{group}" for group in GROUPS)) for end in ("", "_low", "_high")),
)
#: Columns of both tables that hold numbers.
_NUMBERS = {*SCAN_COLUMNS, *COLUMNS} - {"region", "participant_id", "scan_id", *HIDDEN}


def donors(ages: np.ndarray, people: np.ndarray, draws: int, neighbours: int, seed: int) -> np.ndarray:
    """For each scan, whose map it is given: `[draws, n]`, never one of its own subject.

    Args:
        ages: `[n]`, years; NaN (unknown) for any or all: then any subject may be taken.
        people: `[n]`, number 0.. of each scan's subject, who may have several.
        draws: how often one is drawn.
        neighbours: among how many subjects of the nearest age.
        seed: of the draw.
    """
    rng, count = np.random.default_rng(seed), len(ages)
    distance = np.abs(ages[:, None] - ages[None])
    distance = np.where(np.isfinite(distance), distance, 0.0)  # unknown: as near as anybody
    distance = distance + rng.random((count, count)) * 1e-6  # ties are broken by chance
    distance[people[:, None] == people[None]] = np.inf
    others = int(np.isfinite(distance).sum(1).min())
    if others == 0:
        raise InputError("contributions: one held-out subject alone; take fewer folds or more scans")
    nearest = np.argsort(distance, axis=1)[:, : min(neighbours, others)]
    return nearest[np.arange(count), rng.integers(0, nearest.shape[1], (draws, count))]


def probabilities(
    scans: Dataset,
    network: QNet,
    device: torch.device,
    given: np.ndarray,
    nuclei_dir: str | os.PathLike,
    where: Mapping[str, Any],
    maps: Sequence[str],
) -> list[dict[str, Any]]:
    """Rows of SCANS: each scan whole, with each map of others, and with each nucleus covered in all maps and in one.

    Args:
        scans: preprocessed, `image` `[C, H, W, S]` with its affine, `participant_id`, `scan_id` and `label`.
        network: trained.
        device: what runs it.
        given: from `donors`.
        nuclei_dir: where configs/nuclei.yaml wrote label images; a scan without one has no rows of nuclei.
        where: `repeat`, `fold` and `region` of the rows.
        maps: what the network sees, BIDS suffixes in the order of its channels.
    """
    network = network.to(device).eval()
    rows: list[dict[str, Any]] = []
    with torch.inference_mode():
        for index in Bar(range(len(scans)), desc="contributions", unit="scan"):
            item = scans[index]
            plain = item["image"].as_tensor()
            about = {**where, **{key: item[key] for key in ("participant_id", "scan_id", "label")}}

            def note(image: torch.Tensor, name: str, nucleus: str, draw: int = 0, about: dict = about) -> None:
                probability = float(network(image[None].to(device)).softmax(-1)[0, 1])
                hidden = {"map": name, "nucleus": nucleus, "draw": draw}
                rows.append({**about, **hidden, "probability_HH": probability})

            note(plain, "", "")
            for draw, other in enumerate(given[:, index]):
                foreign = scans[int(other)]["image"].as_tensor()
                for channel, name in enumerate(maps):
                    note(with_channel(plain, foreign, channel), name, "", draw)
            path = label_file(nuclei_dir, item["participant_id"], item["scan_id"])
            if path is None:
                continue
            labels = labels_at(path, item["image"])
            for place, nucleus in enumerate(NUCLEI):
                without = covered(plain, labels, place)
                if without is None:
                    continue
                note(without, ALL, nucleus)
                for channel, name in enumerate(maps):
                    note(with_channel(plain, without, channel), name, nucleus)
    return rows


def with_channel(image: torch.Tensor, other: torch.Tensor, channel: int) -> torch.Tensor:
    """An image with one channel of another."""
    mixed = image.clone()
    mixed[channel] = other[channel]
    return mixed


def write_probabilities(
    output_dir: str | os.PathLike,
    scans: Sequence[LabelledScan],
    dataset: Dataset,
    network: QNet,
    device: torch.device,
    ages: Mapping[str, float],
    draws: int,
    neighbours: int,
    seed: int,
    nuclei_dir: str | os.PathLike,
    where: Mapping[str, Any],
    maps: Sequence[str],
    record: Mapping[str, Any],
) -> None:
    """Write SCANS of held-out scans, then RECORD.

    Args:
        output_dir: gets both.
        scans: held out, in the order of `dataset`.
        dataset: the same, preprocessed.
        network, device, nuclei_dir, where, maps: see `probabilities`.
        ages: participant -> years, as far as known.
        draws, neighbours, seed: see `donors`.
        record: from `scripts.provenance.record`.

    Raises:
        InputError: one subject alone, or the folder cannot be written.
    """
    folder = check_output_dir(output_dir, 10e6)
    people = np.unique([scan.participant_id for scan in scans], return_inverse=True)[1]
    years = np.array([ages.get(scan.participant_id, np.nan) for scan in scans], float)
    lacking = sum(label_file(nuclei_dir, scan.participant_id, scan.scan_id) is None for scan in scans)
    if lacking:
        print(f"contributions of nuclei: {lacking} of {len(scans)} scans have no label image (configs/nuclei.yaml)")
    given = donors(years, people, draws, neighbours, seed)
    write_table(folder / SCANS, SCAN_COLUMNS, probabilities(dataset, network, device, given, nuclei_dir, where, maps))
    write_json(folder / RECORD, dict(record))


def read_probabilities(path: str | os.PathLike) -> pd.DataFrame:
    """SCANS as `write_probabilities` or a cross-validation wrote it.

    Raises:
        InputError: no such file, or a damaged one.
    """
    return read_frame(path, SCAN_COLUMNS, numbers=_NUMBERS, cure="measure the contributions again")


def contributions(table: pd.DataFrame, samples: int, seed: int) -> list[dict[str, Any]]:
    """What hiding each map and nucleus costs: a row a region and what was hidden, COLUMNS.

    `auc` is of whole scans, all folds pooled, `auc_without` of the same scans with the map or nucleus hidden (mean over
    draws and repeats), `drop` the difference. `change_HH` and `change_HC` are mean changes of the probability of HH in
    each group. Intervals are bootstrapped over subjects. What was seen in fewer than two subjects of a group is left
    out, and said.

    Args:
        table: SCAN_COLUMNS.
        samples, seed: of the bootstrap.

    Raises:
        InputError: fewer than two subjects of a group.
    """
    rows = []
    case = ["participant_id", "scan_id"]
    labels_of = table.groupby(case)["label"].first()
    for region, part in table.groupby("region", sort=False):
        by_what = {key: rows for key, rows in part.groupby(list(HIDDEN), sort=False)}
        whole = by_what.pop(("", "")).pivot(index=case, columns="repeat", values="probability_HH")
        _check_both_groups(labels_of.loc[whole.index])
        for (name, nucleus), hidden in by_what.items():
            wide = hidden.pivot(index=case, columns=["repeat", "draw"], values="probability_HH").dropna()
            labels = labels_of.loc[wide.index]
            try:
                _check_both_groups(labels)
            except InputError:
                print(f"contributions: {nucleus} lies in too few scans of a group; it is left out")
                continue
            before = whole.loc[wide.index, wide.columns.get_level_values("repeat")]
            people = np.unique(wide.index.get_level_values("participant_id"), return_inverse=True)[1]
            pair = np.stack([before.to_numpy().T, wide.to_numpy().T])
            measured = _cost(labels.to_numpy().astype(int), people, pair, samples, seed)
            about = {"region": region, "map": name, "nucleus": nucleus, "subjects": len(np.unique(people))}
            rows.append(about | measured)
    return rows


def check_groups(scans: Sequence[LabelledScan]) -> None:
    """Refuse held-out scans of fewer than two subjects of a group, before work starts.

    Raises:
        InputError: see above.
    """
    people = pd.Index([scan.participant_id for scan in scans], name="participant_id")
    _check_both_groups(pd.Series([scan.label for scan in scans], people))


def _check_both_groups(labels: pd.Series) -> None:
    """Refuse labels (indexed by participant) of fewer than two subjects of a group.

    Raises:
        InputError: see above.
    """
    subjects = labels.groupby("participant_id").first().value_counts()
    if min(subjects.get(label, 0) for label in GROUPS.values()) < 2:
        raise InputError("contributions: fewer than two held-out subjects of a group; take fewer folds or more scans")


def _cost(labels: np.ndarray, people: np.ndarray, pair: np.ndarray, samples: int, seed: int) -> dict[str, float]:
    """The measures of COLUMNS.

    Args:
        labels: `[n]`.
        people: `[n]`, number 0.. of each scan's subject.
        pair: `[2, k, n]`, probabilities of whole scans and of those with something hidden, k draws and repeats.
        samples, seed: of the bootstrap.
    """
    auc, without = map(float, delong(labels, pair).values)
    resampled = bootstrap_aucs(labels, pair, people, samples, seed)  # both in one call, so that they are drawn alike
    found = {"auc": auc, "auc_without": without}
    found |= _with_interval("drop", auc - without, resampled[:, 0] - resampled[:, 1])
    weights, change = bootstrap_weights(labels, people, samples, seed), (pair[1] - pair[0]).mean(0)
    for group, label in GROUPS.items():
        own = labels == label
        sums = np.bincount(people[own], change[own], weights.shape[1])
        counts = np.bincount(people[own], minlength=weights.shape[1])
        found |= _with_interval(f"change_{group}", float(change[own].mean()), (weights @ sums) / (weights @ counts))
    return found


def _with_interval(name: str, value: float, resampled: np.ndarray) -> dict[str, float]:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return {name: value, f"{name}_low": float(low), f"{name}_high": float(high)}


def read_contributions(path: str | os.PathLike) -> pd.DataFrame | None:
    """The table of `contributions` from a file; None where there is none.

    Raises:
        InputError: it is damaged.
    """
    if not Path(path).is_file():
        return None
    return read_frame(path, COLUMNS, numbers=_NUMBERS, cure="run the analysis again")
