"""How far a scan lies from those that a model was trained on: flagged beyond a limit, refused beyond a second one.

Two things are looked at: what the network makes of the scan (its embedding), and what the maps look like without any
network (`scripts.maps.appearance`). For each, the distance to the nearest group's mean is Mahalanobis' with a shrunk
covariance (Ledoit and Wolf 2004; Lee et al., NeurIPS 2018), embeddings on their main axes and by what those leave over.
A distance counts in standard deviations of its logarithm among the training scans, each of which is judged by others
than its own group of scans. The largest of them is the scan's distance; the limit is the distance that a chosen share
of training scans is beyond, and a scan's strangeness is its distance in limits.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pandas import factorize
from sklearn.covariance import ledoit_wolf
from sklearn.model_selection import StratifiedKFold

from scripts.maps.appearance import least_spread

#: Main axes that an embedding is described by, at most, and scans that each axis needs.
AXES, SCANS_PER_AXIS = 16, 5
#: Standard deviation of what main axes leave over, as a logarithm, at least.
LEAST_REST = 0.1
#: Groups of scans that are judged by the others.
GROUPS = 10
#: Training scans of fewer people set no limit.
LEAST_SUBJECTS = 20
#: A scan so many times the limit strange is refused, where the calibration says nothing (before 0.9.0).
REFUSE_BEYOND = 2.0
#: The limit is at least so many standard deviations: nothing below is strange, and ratios to one about 0 say nothing.
LEAST_LIMIT = 1.0
#: What a scan is looked at by, in words.
WORDS = {"embedding": "what the network makes of it", "appearance": "what its maps look like"}


def axes_of(values: np.ndarray) -> dict[str, Any]:
    """Main axes of embeddings `[n, d]`: `centre`, `axes` `[k, d]`, `spread` `[k]`, and of what they leave, `rest`."""
    centre = values.mean(0)
    count = max(1, min(AXES, len(values) // SCANS_PER_AXIS, values.shape[1]))
    _, singular, axes = np.linalg.svd(values - centre, full_matrices=False)
    axes, spread = axes[:count], np.maximum(singular[:count] / np.sqrt(len(values)), 1e-9)
    rest = np.log(_rest(values - centre, axes))
    return {"centre": centre, "axes": axes, "spread": spread, "rest": [rest.mean(), max(rest.std(), LEAST_REST)]}


def _rest(centred: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Length of what the axes do not explain, `[n]`."""
    return np.linalg.norm(centred - centred @ axes.T @ axes, axis=1) + 1e-9


def placed(values: np.ndarray, along: Mapping[str, Any]) -> np.ndarray:
    """Embeddings `[n, d]` on main axes, in standard deviations, the rest last, `[n, k + 1]`."""
    centred, axes = values - np.asarray(along["centre"]), np.asarray(along["axes"])
    mean, sd = along["rest"]
    rest = (np.log(_rest(centred, axes)) - mean) / sd
    return np.column_stack([centred @ axes.T / np.asarray(along["spread"]), rest])


def reference_of(values: np.ndarray, labels: np.ndarray, least: np.ndarray | None) -> dict[str, Any]:
    """Means of the groups and shrunk precision of what scans differ by within them.

    Args:
        values: `[n, d]`.
        labels: `[n]`, group of each.
        least: `[d]`, standard deviation that each number has at least; None looks at main axes first.
    """
    made: dict[str, Any] = {} if least is not None else {"along": axes_of(values)}
    if least is None:
        values = placed(values, made["along"])
        least = np.full(values.shape[1], 1e-3)
    centre = values.mean(0)
    means = np.stack([values[labels == label].mean(0) for label in np.unique(labels)])
    within = values - means[np.searchsorted(np.unique(labels), labels)]
    spread = np.maximum(within.std(0), least)
    covariance, _ = ledoit_wolf(within / spread, assume_centered=True)
    # a number that hardly varied is as if it varied by its least spread, and no covariance shrinks it to nothing
    covariance[np.diag_indices_from(covariance)] = np.maximum(np.diag(covariance), 0.5)
    return made | {
        "centre": centre,
        "spread": spread,
        "means": (means - centre) / spread,
        "precision": np.linalg.inv(covariance),
    }


def distances(values: np.ndarray, reference: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Mahalanobis distance to the nearest group's mean per number, `[n]`, and how far each number is off, `[n, d]`.

    Args:
        values: `[n, d]`.
        reference: from `reference_of`.
    """
    if "along" in reference:
        values = placed(values, reference["along"])
    standard = (values - np.asarray(reference["centre"])) / np.asarray(reference["spread"])
    off = standard[:, None] - np.asarray(reference["means"])[None]  # [n, groups, d]
    squared = np.einsum("ngd,de,nge->ng", off, np.asarray(reference["precision"]), off) / standard.shape[1]
    nearest = squared.argmin(1)
    rows = np.arange(len(values))
    return np.sqrt(np.maximum(squared[rows, nearest], 1e-12)), off[rows, nearest]


def groups_of(labels: np.ndarray, people: Sequence[Any] | np.ndarray | None = None) -> np.ndarray:
    """Which of GROUPS groups each scan is in, `[n]`: all scans of a person in one, both classes evenly, always alike.

    Args:
        labels: `[n]`, group of each scan, two people of each at least, or one group alone.
        people: `[n]`, whose scan each is; None: each of another person.
    """
    places = np.arange(len(labels)) if people is None else factorize(np.asarray(people))[0]  # numbered as they come
    first = np.unique(places, return_index=True)[1]
    label_of = labels[first]
    folds = min(GROUPS, int(np.unique(label_of, return_counts=True)[1].min()))
    parts = np.zeros(len(label_of), dtype=int)
    for part, (_, other) in enumerate(StratifiedKFold(folds, shuffle=True, random_state=0).split(label_of, label_of)):
        parts[other] = part
    return parts[places]


def fit(
    embeddings: np.ndarray,
    appearances: Sequence[Mapping[str, float]],
    labels: np.ndarray,
    flagged_share: float,
    refuse_beyond: float | None,
    people: Sequence[str] | None = None,
) -> dict[str, Any]:
    """What is known of the training scans, as plain values for JSON.

    Args:
        embeddings: `[n, d]`, what the network makes of each scan.
        appearances: `[n]`, from `scripts.maps.appearance.appearance`; names that not all have are left out.
        labels: `[n]`, 0 HC or 1 HH.
        flagged_share: share of scans like the training scans that may be flagged, above 0 and below 1.
        refuse_beyond: inference refuses a scan so many times the limit strange, unless it is told otherwise; None: it
            flags it only.
        people: `[n]`, whose scan each is, who is judged by others alone; None: each of another person.
    """
    groups, owners = labels, np.arange(len(labels)) if people is None else np.asarray(people)
    if min(len(np.unique(owners[labels == label])) for label in np.unique(labels)) < 2:  # one person is no group
        labels = np.zeros(len(labels), dtype=int)
    names = [name for name in appearances[0] if all(name in one for one in appearances)] if appearances else []
    seen: dict[str, tuple[np.ndarray, np.ndarray | None]] = {"embedding": (np.asarray(embeddings, dtype=float), None)}
    if names:
        numbers = np.array([[one[name] for name in names] for one in appearances], dtype=float)
        seen["appearance"] = numbers, np.array([least_spread(name) for name in names])
    parts, strange = groups_of(labels, owners), []
    references: dict[str, Any] = {}
    for name, (values, least) in seen.items():
        found, most = np.empty(len(labels)), np.empty(len(labels))
        for part in np.unique(parts):
            here = parts == part
            other = reference_of(values[~here], labels[~here], least)
            found[here], off = distances(values[here], other)
            most[here] = np.abs(off).max(1)
        made = reference_of(values, labels, least)
        made["usual"] = {"distance": _usual(found), "largest": _usual(most)}
        references[name] = made
        strange += [_standard(found, made["usual"]["distance"]), _standard(most, made["usual"]["largest"])]
    if names:
        references["appearance"]["names"] = names
    total = np.sort(np.max(strange, axis=0))
    rank = min(len(total), int(np.ceil((len(total) + 1) * (1 - flagged_share))))
    first = placed(seen["embedding"][0], references["embedding"]["along"])[:, :2]
    return {
        "scans": len(labels),
        "flagged_share": flagged_share,
        "refuse_beyond": refuse_beyond,
        "limit": round(max(float(total[rank - 1]), LEAST_LIMIT), 4),
        "references": {name: {key: _plain(value) for key, value in made.items()} for name, made in references.items()},
        "places": [
            [round(float(x), 3), round(float(y), 3), int(group)] for (x, y), group in zip(first, groups, strict=True)
        ],
    }


def _usual(values: np.ndarray) -> list[float]:
    """Mean and standard deviation of the logarithms."""
    logs = np.log(values)
    return [float(logs.mean()), max(float(logs.std()), 0.05)]


def _standard(values: np.ndarray, usual: Sequence[float]) -> np.ndarray:
    return (np.log(np.maximum(values, 1e-12)) - usual[0]) / usual[1]


def _plain(value: Any) -> Any:
    """Numbers of JSON with six digits, which is more than any of them is known to."""
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(part) for part in value]
    return float(f"{float(value):.6g}") if isinstance(value, (float, np.floating)) else value


def check_known(known: Mapping[str, Any]) -> None:
    """Whether the numbers of a file are such as `fit` makes, before the first scan finds out.

    Raises:
        ValueError, KeyError, TypeError, IndexError: they do not fit together.
    """
    if not set(known["references"]) <= set(WORDS):
        raise ValueError("an unknown reference")
    for reference in known["references"].values():
        names, precision = reference.get("names", []), np.asarray(reference["precision"], dtype=float)
        if len(set(names)) < len(names) or not np.linalg.eigvalsh(precision).min() > 0:
            raise ValueError("a name that is there twice, or a distance below 0")
    strangeness(known, np.asarray(known["references"]["embedding"]["along"]["centre"]), {})


def strangeness(known: Mapping[str, Any], embedding: np.ndarray, appearance: Mapping[str, float]) -> dict[str, Any]:
    """How strange a scan is to what was trained.

    Args:
        known: from `fit`.
        embedding: `[d]`, of the scan.
        appearance: of the scan; a name that it lacks counts as usual.

    Returns:
        `strangeness`: the distance in limits, beyond 1 strange, below 0 nearer than most training scans; `distance`
        (of the training scans' distances, in standard deviations; the largest of `by`) and `limit` in the same unit;
        `by`: name of a reference -> its distance; `most`: the three numbers of the appearance that are furthest off, a
        name and standard deviations each; `place`: `[2]`, where the embedding lies on the first main axes.
    """
    by: dict[str, float] = {}
    most: list[tuple[str, float]] = []
    place = None
    for name, reference in known["references"].items():
        if name == "embedding":
            values = np.asarray(embedding, dtype=float)[None]
            place = placed(values, reference["along"])[0, :2].tolist()
        else:
            usual = np.asarray(reference["centre"])
            values = np.array([[appearance.get(key, usual[n]) for n, key in enumerate(reference["names"])]])
        distance, off = distances(values, reference)
        parts = [
            _standard(distance, reference["usual"]["distance"])[0],
            _standard(np.abs(off).max(1), reference["usual"]["largest"])[0],
        ]
        by[name] = round(float(np.max(parts)), 3)  # NaN stays NaN, which Python's max may lose
        if name == "appearance":
            order = np.argsort(-np.abs(off[0]))[:3]
            most = [(reference["names"][n], round(float(off[0, n]), 1)) for n in order]
    largest = float(np.max([*by.values()]))
    return {
        "strangeness": largest / known["limit"],
        "distance": largest,
        "limit": known["limit"],
        "by": by,
        "most": most,
        "place": [round(value, 3) for value in place] if place else None,
    }
