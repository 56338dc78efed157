"""Simulated sites: who is where, what differs there and what does not, and what cannot be."""

import numpy as np
import pandas as pd
import pytest
import yaml
from blobs import BUNDLE
from refusal import refused

from scripts.maps.bids import labelled_scans, site_folds, split
from scripts.maps.scan import LabelledScan
from scripts.simulation import cohort
from scripts.simulation.acquisition import at_field
from scripts.simulation.sites import Site, assign, protocol_of, read_sites
from scripts.simulation.subject import Participant, Protocol

SITES = yaml.safe_load((BUNDLE / "configs" / "simulate_sites.yaml").read_text())["sites"]


def people(n: int = 120) -> list[Participant]:
    return [Participant(f"sub-{i:03d}", i, 50.0, "M", ("HH", "HC")[i % 2], {}) for i in range(n)]


def test_shares_are_kept_in_each_group_and_the_seed_decides_who_is_where():
    sent = assign(people(), read_sites(SITES), 1)
    table = pd.DataFrame([{"group": p.group, "site": p.site} for p in sent])
    assert dict(table.groupby(["group", "site"]).size()) == {
        (group, site): n for group in ("HC", "HH") for site, n in (("north", 30), ("south", 15), ("west", 15))
    }
    assert assign(people(), read_sites(SITES), 1) == sent != assign(people(), read_sites(SITES), 2)
    uneven = assign(people(), read_sites({"a": {"hh_share": 3}, "b": {}}), 1)
    assert sum(p.site == "a" and p.group == "HH" for p in uneven) == 45
    assert sum(p.site == "a" and p.group == "HC" for p in uneven) == 30


def test_the_field_scales_r2star_and_noise_and_leaves_susceptibility():
    protocol = Protocol((40, 40, 20), (4.0, 4.0, 4.0), 0, {}, {"qsm_noise": [0.1, 0.2], "r2star_noise": [1, 2],
                        "t1w_noise": [0.1, 0.1]}, 0.1, 6.0, (1, 1, 1), (7, 11))  # fmt: skip
    seven = protocol_of(Site(field_strength_t=7.0, spacing_mm=(2, 4, 4)), protocol)
    assert seven.matrix == (80, 40, 20) and seven.scanner["r2star_noise"] == pytest.approx([3 / 7, 6 / 7])
    maps = tuple(np.full((2, 2, 2), value, np.float32) for value in (0.1, 30.0, 0.8))
    qsm, r2star, t1w = at_field(maps, 7.0, 0.005, 1.0)
    assert qsm == pytest.approx(maps[0]) and r2star == pytest.approx(70.0, rel=1e-5) and (t1w < maps[2]).all()
    assert at_field(maps, 3.0, 0.005, 1.0) is maps


@pytest.mark.parametrize(
    ("sites", "word"),
    [({"a": {"field": 3}}, "field"), ({"a": {"field_strength_t": 0}}, "field_strength_t"), ({"a/b": {}}, "a/b"),
     ({"a": {"spacing_mm": [1, 2]}}, "spacing_mm")],
)  # fmt: skip
def test_a_site_that_cannot_be_is_refused(sites, word):
    with refused("sites", word):
        read_sites(sites)


def test_a_cohort_of_two_sites_says_so_and_splits_by_them(settings, tmp_path):
    few = {"tiny": {**settings["sizes"]["tiny"], "hh": 4, "hc": 4, "men": 4}}
    two = {"low": {"field_strength_t": 1.5}, "high": {"field_strength_t": 7, "spacing_mm": [4.0, 4.0, 4.0]}}
    cohort.simulate(tmp_path / "sites", num_workers=1, **{**settings, "sizes": few}, sites=two)
    table = pd.read_csv(tmp_path / "sites" / "participants.tsv", sep="\t")
    assert sorted(table["site"].value_counts()) == [4, 4]
    scans = labelled_scans(tmp_path / "sites")
    train, test = split(scans, 2, 0, 0, "site")
    assert {scan.site for scan in train} == {"low"} and {scan.site for scan in test} == {"high"}
    truth = pd.read_csv(tmp_path / "sites" / "derivatives" / "groundtruth" / "nuclei.tsv", sep="\t")
    iron = truth.merge(table, on="participant_id").groupby("site")["R2starmap_left_putamen"].mean()
    assert iron["high"] / iron["low"] == pytest.approx(7 / 1.5, rel=0.25)


def scan(n: int, site: str | None, label: int) -> LabelledScan:
    return LabelledScan(participant_id=f"sub-{n}", scan_id=f"sub-{n}", label=label, site=site)


@pytest.mark.parametrize(
    ("scans", "words"),
    [
        ([scan(1, "a", 0), scan(2, None, 1)], ("sub-2", "--fold_by random")),
        ([scan(1, "a", 0), scan(2, "a", 1), scan(3, "b", 1), scan(4, "b", 1)], ("'b'", "only HH")),
        ([scan(1, "a", 0), scan(2, "a", 1), scan(3, "b", 1)], ("'b'", "one subject")),
        ([scan(1, "a", 0), scan(2, "a", 1), scan(1, "b", 0)], ("sub-1", "two sites")),
        ([scan(1, "a", 0), scan(2, "a", 1)], ("1 sites", "--num_folds 1")),
    ],
)
def test_sites_that_cannot_be_left_out_are_refused(scans, words):
    with refused("fold_by site", *words):
        site_folds(scans, 2)
