"""Area under the ROC curve: its variance, comparisons, intervals and bootstrap, for slices as well as for scans.

As `predictions.Scores` holds them, `labels` are `[n]` (0 HC, 1 HH), `probabilities` `[k, r, n]` (models x repeats x
cases; any scores that rank cases will do), and `clusters` `[n]` numbers of the participants of the cases.

With several repeats of the cross-validation the AUC of a model is the mean over its repeats. Repeats see the same
subjects, so they are no further sample: the variance is over subjects, and follows from DeLong's structural components
averaged over the repeats. It leaves out what another draw of folds and starting weights would change, which the spread
over repeats shows. With one repeat all this is plain DeLong.

Pooled AUCs compare cases of all folds with each other, although each fold's model has its own level of probabilities.
`within_folds` compares cases of one fold only, which is what new subjects of one model would meet.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm, rankdata

from scripts.errors import InputError

#: The paper's levels of significance (Table 2): the largest p that earns each.
SIGNIFICANCE = ((1e-4, "****"), (1e-3, "***"), (1e-2, "**"), (5e-2, "*"), (1.0, "ns"))
#: A variance below this share of what it is the difference of is rounding.
ROUNDING = 1e-14
#: Cells of the largest temporary array of the bootstrap.
CELLS = 8_000_000


@dataclass(frozen=True)
class Aucs:
    """AUCs of k models on the same cases: `values` `[k]`, 0..1, and their `covariance` `[k, k]`."""

    values: np.ndarray
    covariance: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """Two-sided test that two AUCs are equal, with the columns of the paper's Table 2.

    Identical models give z 0 and p 1. Where the AUCs differ but neither varies over subjects (one model separates the
    groups perfectly and the other not at all) the test has no answer: z and p are NaN, the level `undefined`.
    """

    auc1: float
    auc2: float
    difference_std_error: float
    z: float
    p: float
    level: str


def delong(labels: np.ndarray, probabilities: np.ndarray) -> Aucs:
    """AUCs and their covariance, cases being independent (DeLong, DeLong and Clarke-Pearson 1988).

    In O(n log n) by midranks (Sun and Xu 2014), so ties count half.

    Raises:
        InputError: fewer than two cases of a class.
    """
    positive, negative = _components(labels, probabilities)
    m, n = positive.shape[1], negative.shape[1]
    if min(m, n) < 2:
        raise InputError(f"{m} HH and {n} HC: the variance of an AUC needs two of each; evaluate more participants")
    covariance = np.cov(positive) / m + np.cov(negative) / n
    return Aucs(positive.mean(axis=1), np.atleast_2d(covariance))


def clustered_delong(labels: np.ndarray, probabilities: np.ndarray, clusters: np.ndarray) -> Aucs:
    """AUCs and their covariance where the cases of a cluster are correlated (Obuchowski 1997).

    The AUCs are those of `delong`; the variance is over clusters. A cluster may hold cases of both classes. With one
    case a cluster it is `delong`.

    Raises:
        InputError: fewer than two clusters with cases of a class.
    """
    labels, clusters = np.asarray(labels), np.unique(np.asarray(clusters), return_inverse=True)[1]
    positive, negative = _components(labels, probabilities)
    auc, total = positive.mean(axis=1), int(clusters.max()) + 1
    sums, counts = [], []
    for part, components in ((labels == 1, positive), (labels == 0, negative)):
        of_part = clusters[part]
        centred = (components - auc[:, None]) / len(of_part)
        sums.append(np.stack([np.bincount(of_part, row, total) for row in centred]))
        counts.append(len(np.unique(of_part)))
    if min(counts) < 2:
        raise InputError(
            f"{counts[0]} participants with HH and {counts[1]} with HC: the variance of an AUC needs two of each;"
            " evaluate more participants"
        )
    (a, b), (i, j) = sums, counts
    # the last term: clusters that hold both classes
    covariance = i / (i - 1) * a @ a.T + j / (j - 1) * b @ b.T + total / (total - 1) * (a @ b.T + b @ a.T)
    return Aucs(auc, covariance)


def within_folds(labels: np.ndarray, probabilities: np.ndarray, clusters: np.ndarray, folds: np.ndarray) -> Aucs:
    """Fold-stratified AUCs: the share of rightly ranked pairs among all pairs of a HH and a HC case in one fold.

    Folds count by their number of pairs; a fold without one of the groups has none. A model's probabilities may differ
    in level between folds without changing anything. The variance is over clusters: each pair is shared out to its HH
    and to its HC cluster, squares of both sums are added, and what both hold of the same pair is taken off again
    (two-way clustering: Cameron, Gelbach and Miller 2011). Without that last step, DeLong's variance of a fold of five
    and five is too large by a seventh.

    Args:
        labels, probabilities, clusters: as everywhere here; a cluster's cases are of one class.
        folds: `[r, n]`, in which fold of each repeat a case was held out.

    Returns:
        NaN throughout where a repeat has no fold with both groups.

    Raises:
        InputError: fewer than two clusters of a class.
    """
    probabilities, is_hh = _checked(labels, probabilities)
    hh, hc = (len(np.unique(np.asarray(clusters)[part])) for part in (is_hh, ~is_hh))
    if min(hh, hc) < 2:
        raise InputError(
            f"{hh} participants with HH and {hc} with HC: the variance of an AUC needs two of each; evaluate more"
        )
    models, repeats = probabilities.shape[:2]
    values, shares = np.zeros(models), np.zeros((models, hh, hc))
    for wins, pairs in _pairs_within_folds(is_hh, probabilities, clusters, folds):
        if not pairs.any():
            return Aucs(np.full(models, np.nan), np.full((models, models), np.nan))
        auc = wins.sum(axis=(1, 2)) / pairs.sum()
        values += auc / repeats
        shares += (wins - auc[:, None, None] * pairs) / pairs.sum() / repeats
    of_hh, of_hc = shares.sum(axis=2), shares.sum(axis=1)
    covariance = hh / (hh - 1) * of_hh @ of_hh.T + hc / (hc - 1) * of_hc @ of_hc.T
    same_pair = np.einsum("kij,lij->kl", shares, shares)
    # a handful of subjects may leave nothing; the larger variance then stands
    taken_off = covariance - same_pair
    enough = np.linalg.eigvalsh(taken_off)[0] > -ROUNDING * np.trace(covariance)
    return Aucs(values, taken_off if enough else covariance)


def _pairs_within_folds(
    is_hh: np.ndarray, probabilities: np.ndarray, clusters: np.ndarray, folds: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each repeat: pairs of cases won, `[k, HH clusters, HC clusters]`, and pairs there are, `[HH, HC clusters]`;
    both 0 where the clusters were in different folds. Clusters by sorted number."""
    clusters, folds = np.asarray(clusters), np.asarray(folds)
    if folds.shape != probabilities.shape[1:]:
        raise ValueError(f"folds must be {list(probabilities.shape[1:])}, not {list(folds.shape)}")
    names = [np.unique(clusters[part]) for part in (is_hh, ~is_hh)]
    for repeat, of_repeat in enumerate(folds):
        wins = np.zeros((len(probabilities), *map(len, names)))
        pairs = np.zeros(wins.shape[1:])
        for fold in np.unique(of_repeat):
            hh, hc = (of_repeat == fold) & is_hh, (of_repeat == fold) & ~is_hh
            if not (hh.any() and hc.any()):
                continue
            (hh_names, hh_of), (hc_names, hc_of) = (np.unique(clusters[part], return_inverse=True) for part in (hh, hc))
            place = np.ix_(np.searchsorted(names[0], hh_names), np.searchsorted(names[1], hc_names))
            pairs[place] = np.outer(np.bincount(hh_of), np.bincount(hc_of))
            for k, p in enumerate(probabilities[:, repeat]):
                wins[k][place] = _wins(p[hh], hh_of, p[hc], hc_of, slice(None))
        yield wins, pairs


def _components(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Structural components averaged over repeats: of positives `[k, m]`, the share of negatives that each exceeds (a
    tie counts half), and of negatives `[k, n]`, the share of positives above each."""
    probabilities, is_hh = _checked(labels, probabilities)
    m, n = int(is_hh.sum()), int((~is_hh).sum())
    ranks = rankdata(probabilities, axis=-1)
    positive = (ranks[..., is_hh] - rankdata(probabilities[..., is_hh], axis=-1)) / n
    negative = 1 - (ranks[..., ~is_hh] - rankdata(probabilities[..., ~is_hh], axis=-1)) / m
    return positive.mean(axis=1), negative.mean(axis=1)


def _checked(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities as `[k, r, n]` floats, and which cases are HH, `[n]`."""
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, dtype=float)
    if probabilities.ndim != 3 or probabilities.shape[2:] != labels.shape or 0 in probabilities.shape:
        raise ValueError(f"probabilities must be [models, repeats, {len(labels)}], not {list(probabilities.shape)}")
    if not np.isfinite(probabilities).all():
        raise ValueError("probabilities must be finite")
    if set(np.unique(labels)) != {0, 1}:
        raise InputError("an AUC needs cases of HC (label 0) and of HH (1), and no other; check the predictions table")
    return probabilities, labels == 1


def compare(aucs: Aucs, i: int, j: int) -> Comparison:
    """Test whether models i and j have the same AUC; z is positive where i's is larger."""
    auc1, auc2 = float(aucs.values[i]), float(aucs.values[j])
    covariance = aucs.covariance
    both = covariance[i, i] + covariance[j, j]
    variance = both - 2 * covariance[i, j]
    if variance > ROUNDING * both:
        error = float(np.sqrt(variance))
        z = (auc1 - auc2) / error
        p = float(2 * norm.sf(abs(z)))
        return Comparison(auc1, auc2, error, z, p, significance(p))
    if np.isclose(auc1, auc2, rtol=0, atol=1e-12):
        return Comparison(auc1, auc2, 0.0, 0.0, 1.0, significance(1.0))
    return Comparison(auc1, auc2, 0.0, np.nan, np.nan, "undefined")


def significance(p: float) -> str:
    """The paper's level of a p-value: ns, *, **, *** or ****."""
    return next(level for largest, level in SIGNIFICANCE if p <= largest)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's step-down correction (Holm 1979) of the p-values of one family of tests; NaN, no test, counts as none.

    Rejecting where a corrected value is at most alpha rejects any true hypothesis of the family with a probability of
    at most alpha.
    """
    p = np.asarray(p_values, dtype=float)
    corrected, tested = np.full(len(p), np.nan), np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1)
    return corrected


def interval(auc: float, variance: float, confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval of an AUC on the logit scale, so that it stays within 0..1.

    An AUC of 0 or 1, or one whose cases are all tied, has no variance over the subjects at hand, which says nothing of
    others: the bounds are NaN.
    """
    if not 0 < auc < 1 or not variance > 0:
        return np.nan, np.nan
    margin = norm.ppf((1 + confidence) / 2) * np.sqrt(variance) / (auc * (1 - auc))
    return float(expit(logit(auc) - margin)), float(expit(logit(auc) + margin))


def bootstrap_weights(labels: np.ndarray, clusters: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """How often each cluster is drawn in each sample, `[samples, clusters]`, columns by sorted cluster number.

    Whole clusters are drawn with replacement, within each class as many as there are, so no sample lacks a class;
    clusters with cases of both classes are drawn among themselves.
    """
    labels, (names, clusters) = np.asarray(labels), np.unique(np.asarray(clusters), return_inverse=True)
    positives = np.bincount(clusters, labels == 1, len(names)) > 0
    negatives = np.bincount(clusters, labels == 0, len(names)) > 0
    stratum = positives + 2 * negatives
    rng = np.random.default_rng(seed)
    weights = np.zeros((samples, len(names)))
    for kind in np.unique(stratum):
        columns = np.flatnonzero(stratum == kind)
        weights[:, columns] = rng.multinomial(len(columns), np.full(len(columns), 1 / len(columns)), samples)
    return weights


def bootstrap_within_folds(
    labels: np.ndarray, probabilities: np.ndarray, clusters: np.ndarray, folds: np.ndarray, samples: int, seed: int
) -> np.ndarray:
    """Fold-stratified AUCs `[samples, k]` (mean over repeats) of the same samples as `bootstrap_aucs`.

    See `within_folds` for the arguments. A sample without a pair in a repeat gives NaN.
    """
    probabilities, is_hh = _checked(labels, probabilities)
    weights = bootstrap_weights(labels, clusters, samples, seed)
    names = np.unique(clusters)
    hh, hc = (weights[:, np.searchsorted(names, np.unique(np.asarray(clusters)[part]))] for part in (is_hh, ~is_hh))
    found = np.zeros((samples, len(probabilities)))
    with np.errstate(invalid="ignore"):
        for wins, pairs in _pairs_within_folds(is_hh, probabilities, clusters, folds):
            drawn = np.einsum("bj,bj->b", hh @ pairs, hc)
            for k, won in enumerate(wins):
                found[:, k] += np.einsum("bj,bj->b", hh @ won, hc) / drawn
    return found / len(folds)


def bootstrap_aucs(
    labels: np.ndarray, probabilities: np.ndarray, clusters: np.ndarray, samples: int, seed: int
) -> np.ndarray:
    """AUCs `[samples, k]` (mean over repeats) of samples of whole participants, as `bootstrap_weights` draws them.

    A sample's AUC is a bilinear form in its weights: which share of the pairs of a HH and a HC participant's cases is
    ranked rightly is counted once, from one sort a model and repeat, and each sample weighs these counts. Models share
    the samples, so differences between them may be taken sample by sample.
    """
    probabilities, is_hh = _checked(labels, probabilities)
    weights = bootstrap_weights(labels, clusters, samples, seed)
    clusters = np.unique(np.asarray(clusters), return_inverse=True)[1]
    hh, hh_of = np.unique(clusters[is_hh], return_inverse=True)
    hc, hc_of = np.unique(clusters[~is_hh], return_inverse=True)
    hh_weights, hc_weights = weights[:, hh], weights[:, hc]
    pairs = (hh_weights @ np.bincount(hh_of)) * (hc_weights @ np.bincount(hc_of))
    width = max(1, CELLS // (len(is_hh) + samples))
    won = np.zeros((samples, len(probabilities)))
    for k, model in enumerate(probabilities):
        for first in range(0, len(hc), width):
            columns = slice(first, first + width)
            wins = np.mean([_wins(p[is_hh], hh_of, p[~is_hh], hc_of, columns) for p in model], axis=0)
            won[:, k] += np.einsum("bj,bj->b", hh_weights @ wins, hc_weights[:, columns])
    return won / pairs[:, None]


def _wins(hh: np.ndarray, hh_of: np.ndarray, hc: np.ndarray, hc_of: np.ndarray, columns: slice) -> np.ndarray:
    """Pairs in which a HH cluster's case exceeds a HC cluster's, ties half: `[HH clusters, HC clusters in columns]`."""
    order = np.argsort(hc, kind="stable")
    chosen = np.arange(hc_of.max() + 1)[columns]
    below = np.zeros((len(hc) + 1, len(chosen)))  # row s: how many of the s lowest HC cases each cluster has
    np.cumsum(hc_of[order][:, None] == chosen, axis=0, out=below[1:])
    ranks = [np.searchsorted(hc[order], hh, side) for side in ("left", "right")]
    cases = (below[ranks[0]] + below[ranks[1]]) / 2
    wins = np.zeros((hh_of.max() + 1, len(chosen)))
    np.add.at(wins, hh_of, cases)
    return wins
