"""One small cohort for all tests of the simulation, made twice with other worker counts."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.simulation import cohort
from scripts.simulation.iron import Latent

CONFIG = Path(__file__).resolve().parents[2] / "bundle" / "configs" / "simulate.yaml"
# Coarse, but with the same head, nuclei and faults.
TINY = {"hh": 16, "hc": 16, "men": 21, "matrix": [72, 72, 18], "spacing_mm": [3.0, 3.0, 4.0]}


@pytest.fixture(scope="session")
def settings() -> dict[str, Any]:
    """Keyword arguments of ``cohort.simulate`` from ``configs/simulate.yaml``, with a tiny size."""
    config = yaml.safe_load(CONFIG.read_text())
    names = ("ages", "latents", "texture", "anatomy", "shell_mm", "box_margin_mm", "scanner", "further", "targets")
    return {name: config[name] for name in names} | {"size": "tiny", "sizes": {"tiny": TINY}, "seed": 3}


@pytest.fixture(scope="session")
def latents(settings: dict[str, Any]) -> dict[str, Latent]:
    return {name: Latent(**values) for name, values in settings["latents"].items()}


@pytest.fixture(scope="session")
def tiny_cohort(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated") / "two_workers"
    cohort.simulate(folder, num_workers=2, **settings)
    return folder


@pytest.fixture(scope="session")
def same_cohort_again(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated") / "one_worker"
    cohort.simulate(folder, num_workers=1, **settings)
    return folder
