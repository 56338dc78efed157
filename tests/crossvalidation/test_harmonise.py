"""ComBat takes sites out and leaves age in, knows only what it was fitted on, and agrees with neuroCombat."""

import numpy as np
import pandas as pd
import pytest
from refusal import refused

from scripts.crossvalidation.harmonise import fit_combat


def measured(n: int, seed: int) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Eight features that grow with age, at three sites that shift and scale them."""
    rng = np.random.default_rng(seed)
    sites = [("a", "b", "c")[i % 3] for i in range(n)]
    age, sex = rng.uniform(20, 80, n), rng.integers(0, 2, n)
    clean = np.outer(age, np.linspace(0.5, 1.5, 8)) + rng.normal(0, 3, (n, 8))
    shift, scale = {"a": 0, "b": 20, "c": -12}, {"a": 1.0, "b": 1.5, "c": 0.7}
    mean = np.outer(age, np.linspace(0.5, 1.5, 8))
    seen = np.stack([mean[i] + (clean[i] - mean[i]) * scale[s] + shift[s] for i, s in enumerate(sites)])
    return seen, sites, np.column_stack([age, sex]).astype(float)


def test_sites_are_gone_from_new_participants_and_age_stays():
    seen, sites, covariates = measured(120, 0)
    combat = fit_combat(seen, sites, covariates)
    new, where, about = measured(90, 1)
    after = combat(new, where, about)
    before = [np.mean([new[i, 0] - about[i, 0] * 0.5 for i in range(90) if where[i] == s]) for s in "abc"]
    left = [np.mean([after[i, 0] - about[i, 0] * 0.5 for i in range(90) if where[i] == s]) for s in "abc"]
    assert np.ptp(before) > 25 and np.ptp(left) < 3
    assert np.polyfit(about[:, 0], after[:, 7], 1)[0] == pytest.approx(1.5, abs=0.1)


def test_a_site_that_nobody_was_trained_on_is_refused_and_so_is_one_participant():
    seen, sites, covariates = measured(30, 0)
    with refused("roi_harmonise", "'d'", "nothing is known"):
        fit_combat(seen, sites, covariates)(seen[:1], ["d"], covariates[:1])
    with refused("roi_harmonise", "'d'", "1 training participant"):
        fit_combat(seen, [*sites[:-1], "d"], covariates)
    with refused("roi_harmonise", "too few"):
        fit_combat(seen[:5], ["a", "a", "b", "b", "b"][:5], np.hstack([covariates[:5]] * 2))


@pytest.mark.other_programs
def test_the_training_participants_come_out_as_from_neurocombat():
    neuro = pytest.importorskip("neuroCombat")
    seen, sites, covariates = measured(60, 2)
    table = pd.DataFrame({"site": sites, "age": covariates[:, 0], "sex": covariates[:, 1]})
    theirs = neuro.neuroCombat(seen.T, table, "site", continuous_cols=["age", "sex"])["data"].T
    ours = fit_combat(seen, sites, covariates)(seen, sites, covariates)
    assert ours == pytest.approx(theirs, abs=0.02)
