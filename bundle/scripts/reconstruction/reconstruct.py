"""The steps in order: one scan from echoes to maps."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from scripts.errors import InputError
from scripts.maps.plausibility import brain_r2star_flags, check_maps
from scripts.maps.scan import MAPS
from scripts.provenance import plain_attributes
from scripts.reconstruction.checks import check_finite, check_map
from scripts.reconstruction.combine import Mapped
from scripts.reconstruction.fourier import PaddedFourier, b0_direction
from scripts.reconstruction.mask import bounding_box
from scripts.reconstruction.phase import check_not_noise
from scripts.reconstruction.planes import Planes
from scripts.reconstruction.progress import Progress
from scripts.reconstruction.r2star import ARLO, check_even, noise_level, without_dephasing
from scripts.reconstruction.raw import Acquisition, RawScan, Volume, load_echoes, normalise, note_on_gaps, told
from scripts.reconstruction.t1 import GivenB1, despot1
from scripts.reconstruction.voxel_dipole import voxel_dipole
from scripts.runs.bars import Bar

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


class Work:
    """A scan on its way through the steps: what they hand to each other. After `brain`, tensors are cut to `box`.

    Attributes:
        scan: what is reconstructed.
        acquisition: the one that gives field and R2*.
        spacing: voxel size, mm.
        unit: what a magnitude of 1 is in the files.
        noise: standard deviation of the magnitudes' noise.
        magnitude, phase: `[E, X, Y, Z]`; phase in rad, gone once it is unwrapped.
        unwrapped: the phase without jumps, rad; gone once it is mapped.
        whole_brain: bool, on the scan's grid; brain, good: bool, cut: brain, and where its phase is good.
        box: of the brain, with a margin.
        r2star: 1/s.
        volumes, findings, warnings, planes, seconds, processor_seconds: see `Maps`.
    """

    unit: float
    noise: float
    magnitude: torch.Tensor
    phase: torch.Tensor
    unwrapped: torch.Tensor
    whole_brain: torch.Tensor
    brain: torch.Tensor
    good: torch.Tensor
    box: tuple[slice, ...]
    r2star: torch.Tensor
    planes: Planes

    def __init__(self, scan: RawScan, acquisition: Acquisition) -> None:
        self.scan, self.acquisition = scan, acquisition
        self.spacing = [float(d) for d in scan.spacing_mm]
        self.volumes: dict[str, np.ndarray] = {}
        self.findings: dict[str, Any] = {}
        self.warnings: list[str] = []
        self.seconds: dict[str, float] = {}
        self.processor_seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[Progress]:
        """A progress bar for one step; keeps its times."""
        start, used = time.perf_counter(), time.process_time()
        with progress_bar(f"{self.scan.scan_id} {name}") as progress:
            yield progress
        self.seconds[name] = round(time.perf_counter() - start, 2)
        self.processor_seconds[name] = round(time.process_time() - used, 2)

    def whole(self, volume: torch.Tensor) -> np.ndarray:
        """A cut volume on the scan's grid, 0 around it."""
        full = torch.zeros(self.whole_brain.shape, dtype=volume.dtype)
        full[self.box] = volume.cpu()
        return full.numpy()


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
        work = Work(scan, scan.acquisitions[0 if self.field_from == "low" else -1])
        self._read(work)
        self._find_brain(work, given_mask)
        self._unwrap(work)
        self._map_r2star(work)
        self._map_susceptibility(work)
        del work.unwrapped
        self._keep_t1w(work)
        if len(scan.acquisitions) > 1:
            self._map_t1(work)
        else:
            work.warnings.append("One flip angle only: no T1 and PD maps.")
        check_maps(np.stack([work.volumes[suffix] for suffix in MAPS]), [f"{scan.scan_id}_{suffix}" for suffix in MAPS])
        work.volumes["mask"] = work.whole_brain.cpu().numpy()
        return Maps(
            work.volumes,
            self.steps(),
            work.findings,
            work.warnings,
            work.planes,
            work.seconds,
            work.processor_seconds,
        )

    def _read(self, work: Work) -> None:
        """Magnitude and phase of every echo."""
        acquisition = work.acquisition
        with work.step("reading") as progress:
            read = load_echoes(acquisition, self.phase_sign)
            check_not_noise(read.phase, read.magnitude, [volume.path for volume in acquisition.second])
            progress(1.0)
        work.magnitude, work.phase = (torch.from_numpy(v).to(self.device) for v in (read.magnitude, read.phase))
        work.findings, work.unit = read.facts, read.unit
        work.warnings += read.warnings
        work.warnings += note_on_gaps(acquisition.slice_thickness_mm, float(work.scan.spacing_mm[2]))
        if len(acquisition.echo_times_s) == 2:
            work.warnings.append(
                "R2* rests on two echoes: noise and fat go into it unseen; more echoes, up to 20 ms or later, would"
                " tell."
            )

    def _find_brain(self, work: Work, given_mask: np.ndarray | None) -> None:
        """Brain, good phase and noise; then everything is cut to the brain's box."""
        with work.step("brain mask") as progress:
            brain, good, doubts = self.mask(
                work.magnitude, work.phase, work.acquisition.echo_times_s, work.spacing, given_mask, progress
            )
        work.warnings += doubts
        work.noise = noise_level(work.magnitude[-1], brain)
        work.findings["NoiseStandardDeviation"] = work.noise * work.unit
        if work.noise == 0:
            work.warnings.append("No noise found around the head: R2* is fitted without a noise floor.")
        box = bounding_box(brain, _MARGIN)
        work.box, work.whole_brain = box, brain
        work.magnitude, work.phase = (v[(slice(None), *box)].clone() for v in (work.magnitude, work.phase))
        work.brain, work.good = brain[box].clone(), good[box].clone()
        work.planes = Planes(work.brain.cpu().numpy(), work.spacing)
        work.planes.add("magnitude, echo 2", work.magnitude[1], "a.u.", outline=work.brain)
        work.planes.add("phase, echo 2, wrapped", work.phase[1], "rad", (-np.pi, np.pi), mask=work.good)

    def _unwrap(self, work: Work) -> None:
        """Phase without jumps; the wrapped one is needed no more."""
        with work.step("unwrapping") as progress:
            work.unwrapped, corrected = self.unwrapping(
                work.phase, work.magnitude, work.good, work.acquisition.echo_times_s, work.spacing, progress
            )
            check_finite("unwrapping", work.unwrapped, work.good)
        work.warnings += corrected
        del work.phase
        work.planes.add("phase, last echo, unwrapped", work.unwrapped[-1], "rad", mask=work.good)

    def _map_r2star(self, work: Work) -> None:
        """R2*, from magnitudes that may be corrected for dephasing."""
        times = work.acquisition.echo_times_s
        with work.step("R2*") as progress:
            shown = work.magnitude
            if self.dephasing_limit is not None:
                shown = restored(shown, work.unwrapped, work.good, times, work.spacing, self.dephasing_limit)
            work.r2star = check_finite("r2star", torch.where(work.brain, self.r2star(shown, times, work.noise), 0.0))
            rates = work.r2star[work.brain].cpu().numpy()
            strength = told(work.acquisition.field_strength_t, "MagneticFieldStrength")
            work.warnings += brain_r2star_flags(rates, strength, work.acquisition.first[0].path)
            progress(1.0)

    def _map_susceptibility(self, work: Work) -> None:
        """Field, local field and QSM; QSM's mean is 0."""
        acquisition, good, spacing, r2star = work.acquisition, work.good, work.spacing, work.r2star
        with work.step("QSM") as progress:
            b0 = [float(part) for part in b0_direction(work.scan.affine)]
            chain = self.chain(good, spacing, b0, r2star)
            mapped = self.echoes(
                work.unwrapped,
                work.magnitude,
                good,
                acquisition.echo_times_s,
                spacing,
                told(acquisition.field_strength_t, "MagneticFieldStrength"),
                chain,
                progress,
            )
        check_map(mapped.chi, mapped.total_field, mapped.local_field, mapped.mask)
        chi = torch.where(mapped.mask, mapped.chi - mapped.chi[mapped.mask].mean(), 0.0)
        work.planes.add("total field", mapped.total_field, "ppm", mask=good)
        work.planes.add("local field", mapped.local_field, "ppm", (-0.05, 0.05), mask=mapped.mask)
        work.planes.add("QSM", chi, "ppm", (-0.1, 0.2), mask=mapped.mask)
        work.planes.add("R2*", r2star, "1/s", (0, 80), mask=work.brain)
        covered = float(mapped.mask.sum() / work.brain.sum())
        work.findings["QSMCoverageOfBrain"] = covered
        work.warnings += self.doubts(chi, r2star, mapped.mask, covered, spacing)
        work.volumes |= {"Chimap": work.whole(chi), "R2starmap": work.whole(r2star)}

    def _keep_t1w(self, work: Work) -> None:
        """The first echo of the last flip angle."""
        acquisition = work.scan.acquisitions[-1]
        t1w = acquisition.magnitude_of(0)
        if not t1w.any():
            raise InputError(f"{acquisition.first[0].path}: the magnitude is 0 throughout; export it again")
        unit, odd = normalise(t1w[None])  # one odd voxel takes the others' precision, and inference refuses it
        t1w *= np.float32(unit)
        work.warnings += [line for line in odd if line not in work.warnings]
        work.volumes["T1w"] = t1w
        work.planes.add("T1W", torch.from_numpy(t1w[work.box]), "a.u.", outline=work.brain)

    def _map_t1(self, work: Work) -> None:
        """T1, PD and B1 of two or more flip angles."""
        scan, box, planes = work.scan, work.box, work.planes
        with work.step("T1 and PD") as progress:
            signals = [a.magnitude_of(0)[box] for a in scan.acquisitions[:-1]] + [work.volumes["T1w"][box]]
            stacked = torch.from_numpy(np.stack(signals) / np.float32(work.unit)).to(self.device)
            t1, pd, b1 = self.relaxation(scan, stacked, work.r2star, work.brain, box)
            progress(1.0)
        planes.add("B1 (true over nominal flip angle)", b1, "", (0.7, 1.3), mask=work.brain)
        planes.add("T1", t1, "s", (0, 2.5), mask=work.brain)
        planes.add("PD", pd, "a.u.", (0.5, 1.5), mask=work.brain)
        work.volumes |= {"T1map": work.whole(t1), "PDmap": work.whole(pd), "TB1map": work.whole(b1)}

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

    def relaxation(
        self, scan: RawScan, signals: torch.Tensor, r2star: torch.Tensor, brain: torch.Tensor, box: tuple[slice, ...]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """T1 (s), PD and B1 on the cut grid, 0 outside the brain."""
        angles = [told(a.flip_angle_deg, "FlipAngle") for a in scan.acquisitions]
        repetition = told(scan.acquisitions[0].repetition_time_s, "RepetitionTimeExcitation")
        b1 = self.b1(signals, angles, repetition, brain, box)
        t1, pd = despot1(signals, angles, repetition, b1, self.t1_limit_s)
        pd = pd * torch.exp(r2star * scan.acquisitions[0].echo_times_s[0])
        pd = pd / pd[brain].median().clamp_min(1e-30)
        t1, pd, b1 = (torch.where(brain, volume, 0.0) for volume in (t1, pd, b1))
        return t1, pd, b1

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


def restored(
    magnitude: torch.Tensor,
    unwrapped: torch.Tensor,
    mask: torch.Tensor,
    times: Sequence[float],
    spacing: Sequence[float],
    least: float,
) -> torch.Tensor:
    """Magnitudes corrected for dephasing through the slice; `least`: see `without_dephasing`."""
    field_hz = (unwrapped[1] - unwrapped[0]) / (2 * np.pi * (times[1] - times[0]))
    return without_dephasing(magnitude, field_hz, mask, times, int(np.argmax(spacing)), least)


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
    with Bar(total=100, desc=words, bar_format="{desc}: {percentage:3.0f}% {elapsed}", leave=True) as bar:

        def progress(share: float) -> None:
            bar.update(100 * share - bar.n)

        yield progress
