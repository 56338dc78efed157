"""The steps in order: one scan from echoes to maps."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from scripts.errors import InputError
from scripts.provenance import plain_attributes
from scripts.reconstruction.checks import check_finite, check_map
from scripts.reconstruction.combine import Mapped
from scripts.reconstruction.fourier import PaddedFourier, b0_direction
from scripts.reconstruction.mask import bounding_box
from scripts.reconstruction.phase import check_not_noise
from scripts.reconstruction.planes import Planes
from scripts.reconstruction.progress import Progress
from scripts.reconstruction.r2star import ARLO, check_even, noise_level, without_dephasing
from scripts.reconstruction.raw import RawScan, Volume, load_echoes, note_on_gaps
from scripts.reconstruction.t1 import GivenB1, despot1
from scripts.reconstruction.voxel_dipole import voxel_dipole

#: Voxels kept around the brain when the scan is cut to it.
_MARGIN = 2
#: Zeros around a map whose field is computed, mm.
_MARGIN_MM = 20.0
#: Edge of the map that is not asked for the sign of the phase, mm.
_EDGE_MM = 6.0


@dataclass
class Maps:
    """What a scan became.

    Attributes:
        volumes: BIDS suffix -> float32 `[X, Y, Z]` on the scan's grid: Chimap (ppm), R2starmap (1/s), T1w, and with
            two flip angles T1map (s), PDmap, TB1map (true over nominal flip angle); bool `mask` and `qsm_mask`.
        steps: name of each step -> its class and parameters.
        findings: numbers found on the way (scaling of the phase, noise, coverage).
        warnings: one line each.
        planes: pictures of the intermediates.
        seconds: wall time of each step.
        processor_seconds: CPU time of each step.
    """

    volumes: dict[str, np.ndarray]
    steps: dict[str, Any]
    findings: dict[str, Any]
    warnings: list[str]
    planes: Planes
    seconds: dict[str, float]
    processor_seconds: dict[str, float]


class Reconstruction:
    """STAGE's chain with exchangeable steps.

    Args:
        mask: `scripts.reconstruction.mask.BrainMask`.
        unwrapping: from `scripts.reconstruction.unwrap`.
        echoes: from `scripts.reconstruction.combine`.
        background: from `scripts.reconstruction.background`; None for an inversion that starts from the total field.
        inversion: from `scripts.reconstruction.inversion`.
        r2star: from `scripts.reconstruction.r2star`.
        b1: from `scripts.reconstruction.t1`, or a given B1 map's file.
        field_from: which flip angle gives field and R2*: `low` or `high`; a single one is always taken.
        phase_sign: 1, or -1 where the phase falls with a higher field.
        dephasing_limit: see `without_dephasing`; None leaves R2* as it is.
        t1_limit_s: largest T1.
        device: where the tensors live.
    """

    def __init__(
        self,
        mask: Callable,
        unwrapping: Callable,
        echoes: Callable,
        background: Callable | None,
        inversion: Callable,
        r2star: Callable,
        b1: Callable,
        field_from: str,
        phase_sign: int,
        dephasing_limit: float | None,
        t1_limit_s: float,
        device: torch.device | str,
    ) -> None:
        if field_from not in ("low", "high"):
            raise InputError(f"field_from {field_from!r} is unknown; use low or high")
        if phase_sign not in (1, -1):
            raise InputError(f"phase_sign {phase_sign!r} is unknown; use 1 or -1")
        self.mask, self.unwrapping, self.echoes = mask, unwrapping, echoes
        self.background, self.inversion, self.r2star, self.b1 = background, inversion, r2star, b1
        self.field_from, self.phase_sign = field_from, phase_sign
        self.dephasing_limit, self.t1_limit_s = dephasing_limit, t1_limit_s
        self.device = torch.device(device)

    def check(self, scan: RawScan) -> None:
        """Check a scan against the steps, before any work.

        Raises:
            InputError: echoes that R2* cannot use, or a given B1 map that does not fit.
        """
        if isinstance(self.r2star, ARLO):
            check_even(scan.acquisitions[0 if self.field_from == "low" else -1].echo_times_s)
        if isinstance(self.b1, GivenB1):
            shape, affine = Volume(self.b1.path).header()
            if shape != scan.shape or not np.allclose(affine, scan.affine, atol=1e-2):
                raise InputError(f"{self.b1.path}: the B1 map lies on another grid than the scan; resample it")

    def steps(self) -> dict[str, Any]:
        """Each step's class and parameters, for sidecars."""
        named = ("mask", "unwrapping", "echoes", "background", "inversion", "r2star", "b1")
        described = {
            name: None if step is None else description(step)
            for name, step in ((name, getattr(self, name)) for name in named)
        }
        settings = ("field_from", "phase_sign", "dephasing_limit", "t1_limit_s")
        return {**described, **{name: getattr(self, name) for name in settings}}

    def __call__(self, scan: RawScan, given_mask: np.ndarray | None = None) -> Maps:
        """Reconstruct.

        Args:
            scan: checked with `check_scan`.
            given_mask: bool on the scan's grid, instead of a brain found.

        Raises:
            InputError: the voxels cannot be magnitude and phase, or no brain is found.
        """
        seconds, processor_seconds = {}, {}

        @contextmanager
        def step(name: str) -> Iterator[Progress]:
            """A progress bar for one step; keeps its times."""
            start, used = time.perf_counter(), time.process_time()
            with progress_bar(f"{scan.scan_id} {name}") as progress:
                yield progress
            seconds[name] = round(time.perf_counter() - start, 2)
            processor_seconds[name] = round(time.process_time() - used, 2)

        spacing = [float(d) for d in scan.spacing_mm]
        chosen = scan.acquisitions[0 if self.field_from == "low" else -1]
        times, strength = chosen.echo_times_s, chosen.field_strength_t
        with step("reading") as progress:
            read = load_echoes(chosen, self.phase_sign)
            check_not_noise(read.phase, read.magnitude, chosen.second[0].path)
            progress(1.0)
        magnitude, phase = (torch.from_numpy(v).to(self.device) for v in (read.magnitude, read.phase))
        findings, warnings, unit = read.facts, read.warnings, read.unit
        warnings += note_on_gaps(chosen.slice_thickness_mm, float(scan.spacing_mm[2]))
        del read
        with step("brain mask") as progress:
            brain, good, doubts = self.mask(magnitude, phase, times, spacing, given_mask, progress)
        warnings += doubts
        if len(times) == 2:
            warnings.append(
                "R2* rests on two echoes: noise and fat go into it unseen; more echoes, up to 20 ms or later, would"
                " tell."
            )
        noise = noise_level(magnitude[-1], brain)
        findings["NoiseStandardDeviation"] = noise * unit
        if noise == 0:
            warnings.append("No noise found around the head: R2* is fitted without a noise floor.")
        box = bounding_box(brain, _MARGIN)
        full_shape, all_brain = brain.shape, brain
        magnitude, phase = magnitude[(slice(None), *box)].clone(), phase[(slice(None), *box)].clone()
        brain, good = brain[box].clone(), good[box].clone()
        planes = Planes(brain.cpu().numpy(), spacing)
        planes.add("magnitude, echo 2", magnitude[1], "a.u.", outline=brain)
        planes.add("phase, echo 2, wrapped", phase[1], "rad", (-np.pi, np.pi), mask=good)

        with step("unwrapping") as progress:
            unwrapped, corrected = self.unwrapping(phase, magnitude, good, times, spacing, progress)
            check_finite("unwrapping", unwrapped, good)
        warnings += corrected
        del phase
        planes.add("phase, last echo, unwrapped", unwrapped[-1], "rad", mask=good)

        with step("R2*") as progress:
            shown = magnitude
            if self.dephasing_limit is not None:
                shown = self.restored(magnitude, unwrapped, good, times, strength, spacing)
            r2star = check_finite("r2star", torch.where(brain, self.r2star(shown, times, noise), 0.0))
            progress(1.0)

        with step("QSM") as progress:
            b0 = b0_direction(scan.affine)
            mapped = self.echoes(
                unwrapped, magnitude, good, times, spacing, strength, self.chain(good, spacing, b0, r2star), progress
            )
        check_map(mapped.chi, mapped.total_field, mapped.local_field, mapped.mask)
        chi = torch.where(mapped.mask, mapped.chi - mapped.chi[mapped.mask].mean(), 0.0)
        planes.add("total field", mapped.total_field, "ppm", mask=good)
        planes.add("local field", mapped.local_field, "ppm", (-0.05, 0.05), mask=mapped.mask)
        planes.add("QSM", chi, "ppm", (-0.1, 0.2), mask=mapped.mask)
        planes.add("R2*", r2star, "1/s", (0, 80), mask=brain)
        covered = float(mapped.mask.sum() / brain.sum())
        findings["QSMCoverageOfBrain"] = covered
        warnings += self.doubts(chi, r2star, mapped.mask, covered, spacing)

        def whole(volume: torch.Tensor) -> np.ndarray:
            full = torch.zeros(full_shape, dtype=volume.dtype)
            full[box] = volume.cpu()
            return full.numpy()

        volumes = {"Chimap": whole(chi), "R2starmap": whole(r2star)}
        del unwrapped, mapped
        t1w = scan.acquisitions[-1].magnitude_of(0)
        volumes["T1w"] = t1w
        planes.add("T1W", torch.from_numpy(t1w[box]), "a.u.", outline=brain)
        if len(scan.acquisitions) > 1:
            with step("T1 and PD") as progress:
                signals = [a.magnitude_of(0)[box] for a in scan.acquisitions[:-1]] + [t1w[box]]
                t1, pd, b1 = self.relaxation(
                    scan, torch.from_numpy(np.stack(signals) / np.float32(unit)).to(self.device), r2star, brain, box
                )
                progress(1.0)
            planes.add("B1 (true over nominal flip angle)", b1, "", (0.7, 1.3), mask=brain)
            planes.add("T1", t1, "s", (0, 2.5), mask=brain)
            planes.add("PD", pd, "a.u.", (0.5, 1.5), mask=brain)
            volumes |= {"T1map": whole(t1), "PDmap": whole(pd), "TB1map": whole(b1)}
        else:
            warnings.append("One flip angle only: no T1 and PD maps.")
        volumes["mask"] = all_brain.cpu().numpy()
        return Maps(volumes, self.steps(), findings, warnings, planes, seconds, processor_seconds)

    def chain(
        self, mask: torch.Tensor, spacing: Sequence[float], b0: Sequence[float], r2star: torch.Tensor
    ) -> Callable:
        """Background removal and inversion of one field, as `combine.Chain`."""

        def run(total_field: torch.Tensor, weight: torch.Tensor, progress: Progress) -> Mapped:
            if self.background is None:
                chi = self.inversion(total_field, mask, weight, spacing, b0, r2star, progress)
                fourier = PaddedFourier(mask.shape, spacing, b0, _MARGIN_MM, mask.device)
                local = torch.where(mask, fourier.inverse(fourier.forward(chi) * voxel_dipole(fourier)), 0.0)
                return Mapped(chi, local, mask, total_field)
            local, known = self.background(total_field, mask, weight, spacing, b0, lambda share: progress(0.4 * share))
            if not known.any():
                raise InputError("background: no voxel is left after background removal; use smaller radii or erosion")
            chi = self.inversion(local, known, weight, spacing, b0, r2star, lambda share: progress(0.4 + 0.6 * share))
            return Mapped(chi, local, known, total_field)

        return run

    def restored(
        self,
        magnitude: torch.Tensor,
        unwrapped: torch.Tensor,
        mask: torch.Tensor,
        times: Sequence[float],
        strength: float,
        spacing: Sequence[float],
    ) -> torch.Tensor:
        """Magnitudes corrected for dephasing through the slice."""
        field_hz = (unwrapped[1] - unwrapped[0]) / (2 * np.pi * (times[1] - times[0]))
        return without_dephasing(magnitude, field_hz, mask, times, int(np.argmax(spacing)), self.dephasing_limit)

    def relaxation(
        self, scan: RawScan, signals: torch.Tensor, r2star: torch.Tensor, brain: torch.Tensor, box: tuple[slice, ...]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """T1 (s), PD and B1 on the cut grid, 0 outside the brain."""
        angles = [a.flip_angle_deg for a in scan.acquisitions]
        repetition = scan.acquisitions[0].repetition_time_s
        b1 = self.b1(signals, angles, repetition, brain, box)
        t1, pd = despot1(signals, angles, repetition, b1, self.t1_limit_s)
        pd = pd * torch.exp(r2star * scan.acquisitions[0].echo_times_s[0])
        pd = pd / pd[brain].median().clamp_min(1e-30)
        return tuple(torch.where(brain, v, 0.0) for v in (t1, pd, b1))

    def doubts(
        self, chi: torch.Tensor, r2star: torch.Tensor, mask: torch.Tensor, covered: float, spacing: Sequence[float]
    ) -> list[str]:
        """Warnings that the maps themselves raise."""
        found = []
        if covered < 0.8:
            found.append(
                f"QSM covers {100 * covered:.0f} % of the brain mask only: the rest was eroded or its phase is poor."
            )
        # Not at the edge: there air raises R2* as well, and the susceptibility is least sure.
        deep = without_edge(mask, spacing)
        mask = deep if deep.sum() > 0.2 * mask.sum() else mask
        inside, rates = chi[mask], r2star[mask]
        limit = torch.quantile(rates[:: max(1, len(rates) // 100_000)], 0.98)
        # Iron and veins relax fastest, and are paramagnetic.
        if inside[rates > limit].mean() < inside.mean():
            found.append(
                "Where R2* is highest the susceptibility is low: the sign of the phase seems wrong;"
                f" try --phase_sign {-self.phase_sign}."
            )
        return found


def without_edge(mask: torch.Tensor, spacing_mm: Sequence[float]) -> torch.Tensor:
    """A bool mask `[X, Y, Z]` cut back by `_EDGE_MM` along each axis; the image's faces are edges too."""
    outside = (~mask).float()[None, None]
    for axis, size in enumerate(spacing_mm):
        reach = [0, 0, 0]
        reach[axis] = round(_EDGE_MM / size)
        outside = torch.nn.functional.pad(outside, [n for n in reversed(reach) for _ in range(2)], value=1.0)
        outside = torch.nn.functional.max_pool3d(outside, [2 * n + 1 for n in reach], stride=1)
    return outside[0, 0] == 0


def description(step: object) -> dict[str, Any]:
    """Class and parameters of a step, and of the steps within it."""
    within = {name: description(part) for name, part in vars(step).items() if callable(part)}
    return {"method": type(step).__name__, **plain_attributes(step), **within}


@contextmanager
def progress_bar(words: str) -> Iterator[Progress]:
    """A bar from 0 to 100 %; the block tells it how far its work is, 0..1."""
    with tqdm(total=100, desc=words, bar_format="{desc}: {percentage:3.0f}% {elapsed}", leave=True) as bar:

        def progress(share: float) -> None:
            bar.update(100 * share - bar.n)

        yield progress
