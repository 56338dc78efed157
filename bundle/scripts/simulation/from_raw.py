"""Scans of the simulated cohort that went through scanner and reconstruction, with all that this does to them.

The same head as ``subject.image_maps`` images; but its maps are reconstructed from noisy, wrapped echoes by
``scripts/reconstruction`` instead of being drawn with the faults of ``acquisition.Scanner``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from monai.bundle import ConfigParser

from scripts.anatomy import atlas
from scripts.errors import InputError, reason
from scripts.reconstruction.raw import Acquisition, RawScan, Volume
from scripts.simulation.gre import Sequence, field_model, scan
from scripts.simulation.head import Grid, build_head
from scripts.simulation.raw import stored_phase, true_labels
from scripts.simulation.raw_cohort import make_sequence
from scripts.simulation.subject import (
    STEPS,
    Participant,
    Protocol,
    basal_ganglia_box,
    draw_head,
    random_numbers,
)

# A signal of 1 (fully relaxed water, perfect pulse) of the T1-weighted image is stored as this: white matter is
# near 1000, as in the cohort without raw data.
T1W_SCALE = 10_000.0


@dataclass(frozen=True)
class Chain:
    """From head to maps.

    Attributes:
        sequence: how raw data are taken.
        supersampling: fine voxels along each side of a voxel.
        reconstruction: ``scripts.reconstruction.reconstruct.Reconstruction``.
    """

    sequence: Sequence
    supersampling: tuple[int, int, int]
    reconstruction: Any

    def settings(self) -> dict[str, Any]:
        """Plain values that say what made the maps."""
        return {
            "sequence": vars(self.sequence),
            "supersampling": self.supersampling,
            "reconstruction": self.reconstruction.steps(),
        }


def load_chain(scanner: str | Path, reconstruction: str | Path, supersampling: list[int]) -> Chain:
    """Read scanner and reconstruction from their configs.

    Args:
        scanner: config with ``sequence``, as ``configs/simulate_raw.yaml``.
        reconstruction: config with ``reconstruction``, as ``configs/reconstruct.yaml``.
        supersampling: three whole numbers above 0.

    Raises:
        InputError: a config is missing or lacks the key, or the sequence is out of range.
    """
    if len(supersampling) != 3 or any(n != int(n) or n < 1 for n in supersampling):
        raise InputError(f"raw: supersampling={supersampling}; give three whole numbers above 0")
    contents = []
    for path, key in ((scanner, "sequence"), (reconstruction, "reconstruction")):
        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise InputError(f"raw: {path} cannot be read ({reason(error)}); give a config with {key!r}") from error
        if not isinstance(content, dict) or key not in content:
            raise InputError(f"raw: {path} has no {key!r}; give configs/simulate_raw.yaml and configs/reconstruct.yaml")
        contents.append(content)
    parser = ConfigParser(contents[1] | {"device": "cpu"})
    steps = parser.get_parsed_content("reconstruction")
    a, b, c = supersampling
    return Chain(make_sequence(contents[0]["sequence"]), (a, b, c), steps)


def scanned_maps(
    participant: Participant, protocol: Protocol, templates: atlas.Templates, chain: Chain
) -> tuple[dict[str, np.ndarray], np.ndarray, list[list[int]]]:
    """Scan a participant and reconstruct the maps; arguments and result as of ``subject.image_maps``.

    Args:
        participant: who.
        protocol: the scan's grid, and how heads are drawn.
        templates: of the whole head.
        chain: scanner and reconstruction.
    """
    rng = random_numbers(participant, protocol)
    head, _ = draw_head(rng, protocol)
    grid = Grid(protocol.matrix, protocol.affine, chain.supersampling)
    extent = tuple((np.array(protocol.matrix) - 1) / 2.0 * protocol.spacing_mm)
    digital = build_head(participant, head, templates, grid, extent)
    taken = scan(rng, digital, chain.sequence, field_model(grid))
    labels = true_labels(digital)
    del digital

    name = participant.participant_id
    raw = RawScan(name, name, f"{name}/anat")
    step = np.pi / 32767
    by_angle = sorted(zip(chain.sequence.flip_angles_deg, taken.signal, strict=True), key=lambda angle: angle[0])
    for flip, images in by_angle:
        magnitude = [Volume(f"{name} magnitude", None, i.abs().numpy(), protocol.affine) for i in images]
        phases = [stored_phase(i.angle(), "rad")[0] * np.float32(step) for i in images]
        phase = [Volume(f"{name} phase", None, p, protocol.affine) for p in phases]
        raw.acquisitions.append(
            Acquisition(
                ("mag", "phase"),
                magnitude,
                phase,
                list(chain.sequence.echo_times_s),
                float(flip),
                chain.sequence.repetition_time_s,
                chain.sequence.field_strength_t,
                "rad",
            )
        )
    volumes = chain.reconstruction(raw).volumes
    volumes["T1w"] = volumes["T1w"] * T1W_SCALE
    lacking = [suffix for suffix in protocol.maps if suffix not in volumes]
    if lacking:
        raise InputError(f"maps: {lacking[0]} needs two flip angles; give raw a scanner that has them, or leave it out")
    if "PDmap" in volumes:  # relative to the median of the brain
        volumes["PDmap"] = volumes["PDmap"] * 100
    stored = {
        suffix: np.clip(np.round(volumes[suffix] / STEPS[suffix]), -32767, 32767).astype(np.int16)
        for suffix in protocol.maps
    }
    return stored, labels, basal_ganglia_box(rng, labels, protocol.spacing_mm, protocol.box_margin_mm)
