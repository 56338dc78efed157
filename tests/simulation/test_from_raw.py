"""The simulated cohort's scans through digital scanner and reconstruction: the same head, real artefacts."""

import numpy as np
import pytest
from blobs import BUNDLE
from refusal import refused

from scripts.anatomy import atlas
from scripts.anatomy.atlas import LABELS, NUCLEI, SIDES
from scripts.simulation import subject
from scripts.simulation.from_raw import load_chain, scanned_maps
from scripts.simulation.subject import STEPS, Participant, Protocol

SCANNER, RECONSTRUCTION = (BUNDLE / "configs" / f"{name}.yaml" for name in ("simulate_raw", "reconstruct"))


@pytest.fixture(scope="module")
def images(settings, latents):
    """One subject imaged both ways: through raw data, and directly."""
    protocol = Protocol(
        (80, 88, 24),
        (2.5, 2.5, 4.0),
        3,
        settings["anatomy"],
        settings["scanner"],
        settings["texture"]["sd"],
        settings["texture"]["length_mm"],
        tuple(settings["shell_mm"]),
        tuple(settings["box_margin_mm"]),
    )
    person = Participant("sub-001", 0, 55, "F", "HC", {name: v.mean for name, v in latents.items()})
    templates = atlas.load_templates(atlas.WHOLE_Z_RANGE_MM)
    chain = load_chain(SCANNER, RECONSTRUCTION, [1, 1, 2])
    return scanned_maps(person, protocol, templates, chain), subject.image_maps(person, protocol, templates)


def means(stored, labels, suffix):
    """Mean of each nucleus."""
    return np.array(
        [
            stored[suffix][np.isin(labels, [LABELS[f"{side}_{name}"] for side in SIDES])].mean() * STEPS[suffix]
            for name in NUCLEI
        ]
    )


def test_both_ways_image_the_same_head(images):
    (_, labels, box), (_, direct_labels, direct_box) = images
    assert (labels != direct_labels).mean() < 1e-3
    assert np.abs(np.array(box) - direct_box).max() <= 6  # margins of the expert's hand are drawn anew


def test_nuclei_keep_their_iron_through_scanner_and_reconstruction(images):
    (stored, labels, _), (direct, direct_labels, _) = images
    rates = means(stored, labels, "R2starmap")
    assert rates == pytest.approx(means(direct, direct_labels, "R2starmap"), rel=0.2)
    ppm, wanted = means(stored, labels, "Chimap"), means(direct, direct_labels, "Chimap")
    assert np.array_equal(np.argsort(ppm), np.argsort(wanted))
    assert np.corrcoef(ppm, wanted)[0, 1] > 0.95


def test_settings_say_how_scans_were_made_and_bad_configs_are_refused(tmp_path):
    chain = load_chain(SCANNER, RECONSTRUCTION, [1, 1, 2])
    assert chain.settings()["sequence"]["echo_times_s"][-1] == 0.030
    assert chain.settings()["reconstruction"]["inversion"]["method"]
    with refused("supersampling"):
        load_chain(SCANNER, RECONSTRUCTION, [1, 2])
    with refused("none.yaml"):
        load_chain(tmp_path / "none.yaml", RECONSTRUCTION, [1, 1, 1])
    with refused("simulate_raw.yaml", "reconstruction"):
        load_chain(SCANNER, SCANNER, [1, 1, 1])
