"""Raw gradient echo data: what belongs together, and echoes as magnitude and phase in radians."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scripts.errors import InputError
from scripts.files import nifti

#: Echo times above this are taken for milliseconds: after 0.3 s nothing is left of a gradient echo in the brain.
_LONGEST_ECHO_TIME_S = 0.3
_LARGEST_ANISOTROPY = 10.0
_FEWEST_ECHOES = 3


@dataclass(frozen=True)
class Volume:
    """Where one volume `[X, Y, Z]` comes from: a NIfTI file (`index` picks one of a 4D file), or an array in memory."""

    path: str
    index: int | None = None
    array: np.ndarray | None = None
    affine: np.ndarray | None = None

    def header(self) -> tuple[tuple[int, ...], np.ndarray]:
        """Shape and affine, without reading the voxels.

        Raises:
            InputError: the file is missing, damaged, or holds several volumes where one is due.
        """
        if self.array is not None:
            return self.array.shape, self.affine
        image = nifti.read_header(self.path)
        shape = tuple(image.shape)
        if self.index is not None:
            shape = shape[:3]
        if len(shape) == 4:
            raise InputError(
                f"{self.path}: holds {shape[3]} volumes of one echo, as uncombined coils do;"
                " combine the coils (e.g. on the scanner) and give one volume an echo"
            )
        if len(shape) != 3:
            raise InputError(f"{self.path}: has shape {image.shape} where one 3D volume is due; split it")
        return shape, image.affine

    def load(self) -> np.ndarray:
        """The voxels, float32 `[X, Y, Z]`.

        Raises:
            InputError: the file is damaged or holds NaN or infinite values.
        """
        if self.array is not None:
            return self.array.astype(np.float32)
        stored = nifti.read(self.path).dataobj
        voxels = np.asarray(stored if self.index is None else stored[..., self.index], dtype=np.float32)
        if not np.isfinite(voxels).all():
            raise InputError(f"{self.path}: holds NaN or infinite values; export it again")
        return voxels


@dataclass
class Acquisition:
    """The echoes of one flip angle.

    Attributes:
        parts: `("mag", "phase")` or `("real", "imag")`.
        first, second: one volume an echo of the two parts, in the order of echo times.
        echo_times_s: s.
        flip_angle_deg: degrees; None if nothing says it.
        repetition_time_s: s; None if nothing says it.
        field_strength_t: T; None if nothing says it.
        phase_units: what the sidecar says of the phase's unit, or "".
    """

    parts: tuple[str, str]
    first: list[Volume]
    second: list[Volume]
    echo_times_s: list[float]
    flip_angle_deg: float | None = None
    repetition_time_s: float | None = None
    field_strength_t: float | None = None
    phase_units: str = ""

    def magnitude_of(self, echo: int) -> np.ndarray:
        """Magnitude of one echo, counted from 0: float32 `[X, Y, Z]`."""
        first = self.first[echo].load()
        return first if self.parts[0] == "mag" else np.hypot(first, self.second[echo].load())


@dataclass
class RawScan:
    """All acquisitions of one scan, by rising flip angle."""

    participant_id: str
    scan_id: str
    folder: str
    acquisitions: list[Acquisition] = field(default_factory=list)

    @property
    def spacing_mm(self) -> np.ndarray:
        """Voxel size."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def affine(self) -> np.ndarray:
        """Voxel to world."""
        return self.acquisitions[0].first[0].header()[1]

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along the axes."""
        return self.acquisitions[0].first[0].header()[0]


def check_scan(scan: RawScan) -> None:
    """Check what headers and sidecars tell, before any voxel is read.

    Raises:
        InputError: a list of reasons; see the messages.
    """
    name = scan.scan_id
    first = scan.acquisitions[0].first[0]
    shape, affine = first.header()
    for acquisition in scan.acquisitions:
        where = acquisition.first[0].path
        count = len(acquisition.echo_times_s)
        if len(acquisition.second) != len(acquisition.first):
            raise InputError(
                f"{where}: {len(acquisition.first)} echoes of {acquisition.parts[0]} but {len(acquisition.second)} of"
                f" {acquisition.parts[1]}; give both parts of every echo"
            )
        if count != len(acquisition.first):
            raise InputError(f"{where}: {len(acquisition.first)} echoes but {count} echo times; give one an echo")
        if count < _FEWEST_ECHOES:
            raise InputError(f"{where}: {count} echoes; R2* and unwrapping need at least {_FEWEST_ECHOES}")
        check_echo_times(where, acquisition.echo_times_s)
        for volume in (*acquisition.first, *acquisition.second):
            found, other = volume.header()
            if found != shape:
                raise InputError(f"{volume.path}: its shape {found} is not {shape} of {first.path}; export both alike")
            if not np.allclose(other, affine, atol=1e-3):
                raise InputError(f"{volume.path}: lies elsewhere than {first.path}; export both from one scan")
        if acquisition.field_strength_t is None:
            raise InputError(f"{where}: no MagneticFieldStrength in its sidecar; add it (T) or give --field_strength_t")
        if not 0.1 <= acquisition.field_strength_t <= 20:
            raise InputError(f"{where}: MagneticFieldStrength {acquisition.field_strength_t:g}; it is in tesla, e.g. 3")
    if min(shape) < 8:
        raise InputError(f"{first.path}: its grid {shape} is no 3D scan; QSM needs at least 8 voxels along each axis")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or spacing.min() <= 0 or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise InputError(f"{first.path}: its affine is no valid orientation; export it again")
    if spacing.max() > _LARGEST_ANISOTROPY * spacing.min():
        raise InputError(
            f"{first.path}: voxels of {' x '.join(f'{d:.3g}' for d in spacing)} mm are too elongated for QSM;"
            f" use a scan with a ratio of at most {_LARGEST_ANISOTROPY:g}"
        )
    if len(scan.acquisitions) > 1:
        angles = [a.flip_angle_deg for a in scan.acquisitions]
        if None in angles or len(set(angles)) < len(angles):
            raise InputError(f"{name}: several acquisitions but flip angles {angles}; give FlipAngle in each sidecar")
        times = [a.repetition_time_s for a in scan.acquisitions]
        if None in times or max(times) - min(times) > 1e-4:
            raise InputError(
                f"{name}: repetition times {times} s; T1 needs RepetitionTimeExcitation, the same for all flip angles"
            )
        if not 0 < times[0] < 1:
            raise InputError(f"{name}: repetition time {times[0]:g}; it is in seconds, e.g. 0.036")


def check_echo_times(where: str, times: Sequence[float]) -> None:
    """Echo times must rise and be in seconds.

    Raises:
        InputError: they are not.
    """
    listed = ", ".join(f"{t:g}" for t in times)
    if max(times) > _LONGEST_ECHO_TIME_S:
        raise InputError(f"{where}: echo times {listed} look like milliseconds; write them in seconds")
    if min(times) <= 0 or any(b <= a for a, b in zip(times, times[1:], strict=False)):
        raise InputError(f"{where}: echo times {listed} s do not rise; correct EchoTime or the order of the echoes")


def load_echoes(acquisition: Acquisition, sign: int) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Read magnitude and phase.

    Args:
        acquisition: checked with `check_scan`.
        sign: 1, or -1 to flip the phase.

    Returns:
        Magnitude and phase (rad, -pi..pi), float32 `[E, X, Y, Z]`, and how the phase was scaled, for sidecars.

    Raises:
        InputError: the voxels cannot be magnitude and phase.
    """
    first, second = load_all(acquisition.first), load_all(acquisition.second)
    path = acquisition.second[0].path
    if acquisition.parts == ("real", "imag"):
        magnitude, phase = np.hypot(first, second), sign * np.arctan2(second, first)
        scaling = "angle of real and imaginary part"
        if not np.any(second):
            raise InputError(f"{path}: the imaginary part is 0 throughout; export real and imaginary images")
    else:
        magnitude = first
        if first.min() < 0:
            raise InputError(f"{acquisition.first[0].path}: has negative values; a magnitude has none: check the names")
        if not np.any(second):
            raise InputError(f"{path}: the phase is 0 throughout; export phase images, or real and imaginary ones")
        phase, scaling = scale_phase(second, acquisition.phase_units, path)
        check_not_magnitude(second, first, path)
        phase *= sign
    if not np.any(magnitude):
        raise InputError(f"{acquisition.first[0].path}: the magnitude is 0 throughout; export it again")
    return magnitude, phase, {"PhaseScaling": scaling, "PhaseSign": sign}


def load_all(volumes: Sequence[Volume]) -> np.ndarray:
    """The voxels of several volumes of one shape, float32 `[E, X, Y, Z]`; unpacked in two threads."""
    with ThreadPoolExecutor(2) as pool:
        return np.stack(list(pool.map(Volume.load, volumes)))


def scale_phase(stored: np.ndarray, units: str, path: str) -> tuple[np.ndarray, str]:
    """Phase as stored to radians, by its unit where known and else by its range.

    Args:
        stored: `[E, X, Y, Z]`.
        units: of the sidecar: `rad`, or anything else for a scanner's own scale.
        path: for messages.

    Returns:
        Phase (rad, -pi..pi) and one line that says how it was scaled.

    Raises:
        InputError: given in rad, it leaves one wrap; or its echoes do not span one common wrap.
    """
    low, high = float(stored.min()), float(stored.max())
    turn = 2 * np.pi
    if units == "rad" and high - low > turn * 1.01:
        raise InputError(
            f"{path}: phase from {low:.4g} to {high:.4g} is more than one wrap; give wrapped phase,"
            " or correct Units if it is not in rad"
        )
    if units == "rad" or (high - low <= turn * 1.01 and high - low > 0.8 * turn and high < 1.01 * turn):
        scaled, line = stored.astype(np.float32), f"rad as stored ({low:.4g}..{high:.4g})"
        if max(-low, high) > np.pi * (1 + 1e-6):
            scaled -= np.float32(turn) * np.round(scaled / np.float32(turn))
    else:
        # A wrapped phase with noise around the head fills its range; scanners store -n..n-1 or 0..n-1.
        spans = [float(echo.max() - echo.min()) for echo in stored]
        if min(spans) < 0.9 * max(spans):
            raise InputError(
                f"{path}: the echoes' ranges of phase differ ({', '.join(f'{s:.4g}' for s in spans)}), so they are not"
                " wrapped phase on one scale; export the scanner's phase images again"
            )
        scaled = stored.astype(np.float32)
        scaled -= (low + high) / 2
        scaled *= turn / (high - low)
        line = f"range {low:.6g}..{high:.6g} taken as one turn"
    return scaled, line


def check_not_magnitude(phase: np.ndarray, magnitude: np.ndarray, path: str) -> None:
    """Refuse a phase that follows the magnitude voxel by voxel.

    Raises:
        InputError: correlation of the first echo above 0.9.
    """
    a, b = phase[0, ::2, ::2, ::2].ravel(), magnitude[0, ::2, ::2, ::2].ravel()
    if a.std() > 0 and b.std() > 0 and abs(np.corrcoef(a, b)[0, 1]) > 0.9:
        raise InputError(
            f"{path}: looks like magnitude, not phase; check which images were exported or how they are named"
        )
