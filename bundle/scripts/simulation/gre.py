"""The scanner: complex multi-echo spoiled gradient echo images of a digital head.

What is modelled: steady state at any flip angle with an uneven transmit field, R2* decay, the field of every tissue
and of air under the shim, dephasing inside voxels, receive sensitivity with its phase, rigid motion between
phase-encoding lines, complex noise. What is not: fat's chemical shift, flow, eddy currents, distortion along the
readout, blurring by decay during it.

Phase convention: ``phase = phase_sign * (2 pi * field_hz * echo_time) + receive phase``, field in Hz relative to the
centre frequency and positive where a paramagnetic source strengthens the main field. ``phase_sign`` is +1 unless set.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from scripts.simulation.acquisition import smooth_field
from scripts.simulation.field import DipoleField, b0_in_voxel_axes, shim_field
from scripts.simulation.head import AIR_PPM, DigitalHead, Grid

# Proton gyromagnetic ratio over 2 pi, MHz/T (CODATA 2018, in water it differs by 26 ppm).
GAMMA_MHZ_PER_T = 42.577478518
# Fine rows that are imaged at once, to keep memory low.
_ROWS = 8


@dataclass(frozen=True)
class Sequence:
    """How the raw data are taken.

    Attributes:
        echo_times_s: rising echo times.
        flip_angles_deg: nominal flip angles, one acquisition each.
        repetition_time_s: excitation to excitation.
        field_strength_t: main field.
        snr: mean white matter magnitude of the first echo at the first flip angle over the noise's standard deviation
            in each of the real and imaginary parts; 0 means no noise.
        shim_order: highest order of the shim's harmonics; -1 for none.
        b1_deviation: largest deviation of the transmit field from its mean in the brain, relative.
        receive_coils: loops of the receive array; 0 means uniform reception.
        receive_phase_rad: standard deviation of the smooth receive phase.
        phase_sign: +1 or -1, see the module.
        dephasing: whether the field's slope inside a fine voxel weakens its signal.
        motion_events: sudden movements during each acquisition.
        motion_mm, motion_deg: standard deviation of each movement along and about the three voxel axes.
    """

    echo_times_s: tuple[float, ...]
    flip_angles_deg: tuple[float, ...]
    repetition_time_s: float
    field_strength_t: float
    snr: float
    shim_order: int
    b1_deviation: float
    receive_coils: int
    receive_phase_rad: float
    phase_sign: int
    dephasing: bool
    motion_events: int
    motion_mm: float
    motion_deg: float

    @property
    def hz_per_ppm(self) -> float:
        """Field of 1 ppm in Hz."""
        return GAMMA_MHZ_PER_T * self.field_strength_t


@dataclass(frozen=True)
class RawScan:
    """What the scanner gives, and what only a simulation knows. Arrays are on the scan's grid ``[H, W, S]``.

    Attributes:
        signal: complex64 ``[flip angles, echoes, H, W, S]``, arbitrary unit.
        noise_sd: standard deviation of the noise in real and imaginary part.
        total_hz: field in each voxel under the shim, mean over the voxel.
        local_hz: field of the sources inside the brain alone, relative to water.
        b1: transmit field, actual over nominal flip angle.
        receive: complex64 sensitivity.
    """

    signal: torch.Tensor
    noise_sd: float
    total_hz: torch.Tensor
    local_hz: torch.Tensor
    b1: torch.Tensor
    receive: torch.Tensor


def spoiled_gre(
    pd: torch.Tensor, t1_s: torch.Tensor, flip_deg: torch.Tensor | float, repetition_time_s: float
) -> torch.Tensor:
    """Steady-state signal of an ideally spoiled gradient echo before decay (Ernst and Anderson 1966).

    Args:
        pd: proton density, any unit; the result has it too.
        t1_s: T1, s, above 0.
        flip_deg: actual flip angle, degrees.
        repetition_time_s: TR.
    """
    e1 = torch.exp(-repetition_time_s / t1_s)
    angle = torch.deg2rad(torch.as_tensor(flip_deg, dtype=torch.float32))
    return pd * torch.sin(angle) * (1.0 - e1) / (1.0 - torch.cos(angle) * e1)


def transmit_field(rng: np.random.Generator, brain: torch.Tensor, affine: np.ndarray, deviation: float) -> torch.Tensor:
    """Smooth transmit field, brightest in the middle of the head as at 3 T: mean 1 in the brain, float32 ``[H, W, S]``.

    Args:
        rng: source of random numbers; a random tilt is added to the common pattern.
        brain: bool ``[H, W, S]``.
        affine: voxel to scanner, mm.
        deviation: largest relative deviation inside the brain.
    """
    spacing = tuple(np.linalg.norm(affine[:3, :3], axis=0))
    position = _positions(brain.shape, affine)
    dome = -sum((p / half) ** 2 for p, half in zip(position, (70.0, 90.0, 80.0), strict=True))
    pattern = dome + 0.2 * torch.from_numpy(smooth_field(rng, tuple(brain.shape), spacing, 120.0))
    pattern = pattern - pattern[brain].mean()
    # Far outside the brain the dome would turn the field around.
    return (1.0 + deviation * pattern / pattern[brain].abs().max()).clamp_(0.2, 2.0)


def receive_sensitivity(
    rng: np.random.Generator, shape: tuple[int, int, int], affine: np.ndarray, coils: int, phase_rad: float
) -> torch.Tensor:
    """Sensitivity of the combined receive array: complex64 ``[H, W, S]``.

    Its magnitude is the root of the sum of squares of loops around the head, 1 in the middle; its phase, what
    combining the channels leaves, is smooth and the same at every echo.

    Args:
        rng: source of random numbers.
        shape: voxels.
        affine: voxel to scanner, mm.
        coils: loops, spread evenly over a sphere; 0 means 1 everywhere.
        phase_rad: standard deviation of the phase around a random constant, radian; 0 means no phase at all.
    """
    spacing = tuple(np.linalg.norm(affine[:3, :3], axis=0))
    anywhere = float(rng.uniform(-np.pi, np.pi)) if phase_rad > 0 else 0.0
    phase = phase_rad * torch.from_numpy(smooth_field(rng, shape, spacing, 120.0)) + anywhere
    magnitude = torch.ones(shape)
    if coils > 0:
        x, y, z = _positions(shape, affine)
        # Loops of 60 mm radius, 140 mm from the middle, on a Fibonacci lattice; on-axis field of a loop.
        n = np.arange(coils) + 0.5
        height, turn = 1 - 2 * n / coils, np.pi * (1 + 5**0.5) * n
        centres = 140.0 * np.stack(
            [np.sqrt(1 - height**2) * np.cos(turn), np.sqrt(1 - height**2) * np.sin(turn), height], 1
        )
        power = torch.zeros(shape)
        for a, b, c in centres.tolist():
            power += (60.0**2 + (x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) ** -3.0
        magnitude = (power / (coils * (60.0**2 + 140.0**2) ** -3.0)).sqrt_()
    return torch.polar(magnitude, phase)


def _positions(shape: tuple[int, ...], affine: np.ndarray) -> list[torch.Tensor]:
    """Scanner coordinates (mm) of all voxels, three float32 ``[H, W, S]``."""
    i, j, k = (torch.arange(n, dtype=torch.float32) for n in shape)
    return [
        (float(r[0]) * i + float(r[3]))[:, None, None] + (float(r[1]) * j)[:, None] + float(r[2]) * k
        for r in affine[:3]
    ]


def scan(rng: np.random.Generator, head: DigitalHead, sequence: Sequence, dipole: DipoleField | None = None) -> RawScan:
    """Scan a digital head.

    Args:
        rng: source of random numbers: transmit and receive patterns, movements, noise.
        head: from ``head.build_head``.
        sequence: how.
        dipole: the grid's field model, if it was made before (it only depends on ``head.grid``).
    """
    grid = head.grid
    dipole = dipole or field_model(grid)
    inside = tuple(slice(a, b) for a, b in grid.target)

    total = dipole(head.chi - AIR_PPM)
    shim_affine = grid.fine_affine.copy()
    shim_affine[:3, 3] += shim_affine[:3, :3] @ np.array([a for a, _ in grid.target])
    total += shim_field(total, head.brain, shim_affine, sequence.shim_order)
    total *= sequence.hz_per_ppm
    sources = torch.zeros(grid.shape)
    sources[inside] = head.chi[inside] * head.brain
    local = grid.voxel_mean(dipole(sources).mul_(sequence.hz_per_ppm))
    del sources

    brain = grid.voxel_mean(head.brain.float()) > 0.5
    b1 = transmit_field(rng, brain, grid.affine, sequence.b1_deviation)
    receive = receive_sensitivity(rng, grid.matrix, grid.affine, sequence.receive_coils, sequence.receive_phase_rad)
    signal = _echoes(head, total, b1, sequence)
    signal *= receive
    white = grid.voxel_mean(head.wm) > 0.9
    noise_sd = float(signal[0, 0].abs()[white].mean()) / sequence.snr if sequence.snr > 0 else 0.0
    for acquisition in signal:
        _move(rng, acquisition, grid.affine, sequence)
    if noise_sd:
        parts = torch.view_as_real(signal)
        for image in parts.flatten(0, 1):
            image += noise_sd * torch.from_numpy(rng.standard_normal(tuple(image.shape), dtype=np.float32))
    return RawScan(signal, noise_sd, grid.voxel_mean(total), local, b1, receive)


def field_model(grid: Grid) -> DipoleField:
    """The dipole field on a grid, the main field along the scanner's axis."""
    return DipoleField(grid.shape, grid.target, grid.spacing_mm, b0_in_voxel_axes(grid.affine))


def _echoes(head: DigitalHead, total_hz: torch.Tensor, b1: torch.Tensor, sequence: Sequence) -> torch.Tensor:
    """Noise-free signal, complex64 ``[flip angles, echoes, H, W, S]``: mean of the fine voxels' signals."""
    a, b, c = head.grid.supersampling
    times, angles = sequence.echo_times_s, sequence.flip_angles_deg
    signal = torch.empty((len(angles), len(times), *head.grid.matrix), dtype=torch.complex64)
    rows = max(1, _ROWS // a)
    for start in range(0, signal.shape[2], rows):
        stop = min(start + rows, signal.shape[2])
        fine = slice(start * a, stop * a)
        slopes = _slopes(total_hz, fine) if sequence.dephasing else ()
        field, r2star, pd, t1 = total_hz[fine], head.r2star[fine], head.pd[fine], head.t1[fine]
        local_b1 = b1[start:stop].repeat_interleave(a, 0).repeat_interleave(b, 1).repeat_interleave(c, 2)
        steady = [spoiled_gre(pd, t1, angle * local_b1, sequence.repetition_time_s) for angle in angles]
        for e, time in enumerate(times):
            decay = torch.exp(-time * r2star)
            for slope in slopes:
                # Spins spread evenly over a linear slope of the field (Haacke et al., textbook, ch. 20).
                decay *= torch.sinc(slope * time)
            turned = torch.polar(decay.abs(), (sequence.phase_sign * 2 * np.pi * time) * field)
            turned = torch.where(decay < 0, -turned, turned)
            for f, amplitude in enumerate(steady):
                signal[f, e, start:stop] = head.grid.voxel_mean(amplitude * turned)
    return signal


def _slopes(field: torch.Tensor, rows: slice) -> list[torch.Tensor]:
    """Change of the field across each fine voxel along the three axes, for some rows."""
    low, high = max(rows.start - 1, 0), min(rows.stop + 1, field.shape[0])
    wider = field[low:high]
    own = slice(rows.start - low, rows.stop - low)
    return [
        torch.gradient(wider, dim=axis)[0][own] if field.shape[axis] > 1 else torch.zeros_like(wider[own])
        for axis in range(3)
    ]


def _move(rng: np.random.Generator, images: torch.Tensor, affine: np.ndarray, sequence: Sequence) -> None:
    """Replace phase-encoding lines by those of the moved head, in place: complex64 ``[echoes, H, W, S]``.

    Lines run along the second axis and are taken in order from one edge of k-space to the other; all echoes of a
    line share its position. Each event moves the head to a new place, which it keeps until the next. The head
    carries its field along: the change of the field with the head's angle is left out.
    """
    if sequence.motion_events < 1:
        return
    lines = images.shape[2]
    starts = np.sort(rng.choice(np.arange(1, lines), min(sequence.motion_events, lines - 1), replace=False))
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    shifts = rng.normal(0, sequence.motion_mm, (len(starts), 3))
    angles = np.deg2rad(rng.normal(0, sequence.motion_deg, (len(starts), 3)))
    shape = np.array(images.shape[1:])
    for image in images:
        lines_of_k = torch.fft.fftshift(torch.fft.fft(image, dim=1), dim=1)
        for n, start in enumerate(starts):
            stop = starts[n + 1] if n + 1 < len(starts) else lines
            moved = _rigid(image, angles[n], shifts[n], spacing, shape)
            lines_of_k[:, start:stop] = torch.fft.fftshift(torch.fft.fft(moved, dim=1), dim=1)[:, start:stop]
        image.copy_(torch.fft.ifft(torch.fft.ifftshift(lines_of_k, dim=1), dim=1))


def _rigid(
    image: torch.Tensor, angles: np.ndarray, shift_mm: np.ndarray, spacing: np.ndarray, shape: np.ndarray
) -> torch.Tensor:
    """A complex image ``[H, W, S]``, rotated about its middle (radian about each axis) and shifted (mm)."""
    rotation = Rotation.from_euler("xyz", angles).as_matrix()
    half = shape * spacing / 2.0
    # From where each place takes its signal, in grid_sample's units: -1..1 over the outer edges, axes reversed.
    matrix = (rotation.T * half / half[:, None])[::-1, ::-1]
    offset = (-rotation.T @ shift_mm / half)[::-1]
    theta = torch.from_numpy(np.column_stack([matrix, offset]).astype(np.float32))[None]
    grid = torch.nn.functional.affine_grid(theta, [1, 2, *image.shape], align_corners=False)
    parts = torch.view_as_real(image).permute(3, 0, 1, 2)[None].contiguous()
    moved = torch.nn.functional.grid_sample(parts, grid, align_corners=False)[0]
    return torch.complex(moved[0], moved[1])
