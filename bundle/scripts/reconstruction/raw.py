"""Raw gradient echo data: what belongs together, and echoes as magnitude and phase in radians."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scripts.errors import InputError
from scripts.files import nifti
from scripts.reconstruction.bipolar import remove_ramp
from scripts.reconstruction.checks import check_echoes_differ, check_slices
from scripts.reconstruction.consistency import check_echoes_agree
from scripts.reconstruction.filtered import check_not_filtered
from scripts.reconstruction.phase import (
    Scaled,
    check_no_gap,
    check_not_magnitude,
    scale_phase,
    thinned,
    turn_slices_back,
)
from scripts.reconstruction.places import check_in_one_piece, check_same_place

#: Echo times above this are taken for milliseconds: after 0.3 s nothing is left of a gradient echo in the brain.
_LONGEST_ECHO_TIME_S = 0.3
#: No gradient reads out a head's line faster than this, so echoes are farther apart, s.
_SHORTEST_ECHO_SPACING_S = 1e-4
_LARGEST_ANISOTROPY = 10.0
#: A spoiled gradient echo repeats faster than this; more is a time in ms, s.
_LONGEST_TR_S = 10.0
#: Voxel sizes of heads, mm.
_SMALLEST_MM, _LARGEST_MM = 0.1, 10.0
#: Share of the distance between slices by which their thickness may fall short of it.
_NO_GAP = 0.03
#: Signal over that of the head's bright parts which no coil gives.
_BRIGHTEST = 1000.0
#: An echo's mean brightness in that of an earlier one: fat and water in and out of phase give a few tenths above 1.
_LARGEST_GROWTH = 2.0
#: Growth that rounding gives a signal which does not decay; in few voxels also what chance does, in standard errors.
_LEAST_GROWTH, _CHANCE = 1.02, 4.0
#: How near the echoes' largest values must be to be the same; voxels of that value, above which a range was cut there;
#: and how far above an echo's 98th percentile one voxel is no signal.
_SAME_LARGEST, _FEW, _BURNT_IN = 1e-3, 5, 10.0
#: Share of the summed echoes' 98th percentile from which a voxel is bright.
_BRIGHT = 0.5


@dataclass(frozen=True)
class Volume:
    """Where one volume `[X, Y, Z]` comes from: a NIfTI file, or an array in memory.

    Attributes:
        path: of the file, or what messages call the array.
        index: picks one volume of a 4D file.
        array, affine: in memory.
        marked: an array whose source says that it is simulated.
        component: `real` or `imag` of a file of complex numbers; empty for real ones.
    """

    path: str
    index: int | None = None
    array: np.ndarray | None = None
    affine: np.ndarray | None = None
    marked: bool = False
    component: str = ""

    def simulated(self) -> bool:
        """Whether it says that nobody was scanned."""
        return self.marked if self.array is not None else nifti.says_simulated(self.path)

    @property
    def kinds(self) -> str:
        """Kinds of numbers that the file may hold, see `nifti.read_header`."""
        return nifti.REAL + ("c" if self.component else "")

    def header(self) -> tuple[tuple[int, ...], np.ndarray]:
        """Shape and affine, without reading the voxels.

        Raises:
            InputError: the file is missing, damaged, or holds several volumes where one is due.
        """
        if self.array is not None and self.affine is not None:
            return self.array.shape, self.affine
        image = nifti.read_header(self.path, self.kinds)
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
        stored = nifti.read(self.path, self.kinds).dataobj
        voxels = np.asarray(stored if self.index is None else stored[..., self.index])
        if self.component:
            voxels = getattr(voxels, self.component)
        voxels = voxels.astype(np.float32)
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
        slice_thickness_mm: of the slices alone, without the gaps between them; None if nothing says it.
        notes: what was remarkable when the echoes were found, one line each.
    """

    parts: tuple[str, str]
    first: list[Volume]
    second: list[Volume]
    echo_times_s: list[float]
    flip_angle_deg: float | None = None
    repetition_time_s: float | None = None
    field_strength_t: float | None = None
    phase_units: str = ""
    slice_thickness_mm: float | None = None
    notes: list[str] = field(default_factory=list)

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

    def files(self) -> dict[str, list[str]]:
        """Paths by the key that gives them, `magnitude` (also of complex numbers) or `phase`."""
        return {
            "phase": [volume.path for a in self.acquisitions for volume in a.second],
            "magnitude": [volume.path for a in self.acquisitions for volume in a.first],
        }

    def simulated(self) -> bool:
        """Whether a volume says that nobody was scanned."""
        return any(volume.simulated() for a in self.acquisitions for volume in (*a.first, *a.second))

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
        if count < 2:
            raise InputError(
                f"{where}: one echo only; what grows from echo to echo gives QSM and R2*, so give two echoes or more"
            )
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
        for key, value, least, most, unit in (
            ("FlipAngle", acquisition.flip_angle_deg, 1, 180, "degrees"),
            ("RepetitionTimeExcitation", acquisition.repetition_time_s, 1e-4, _LONGEST_TR_S, "seconds"),
        ):
            if value is not None and not least <= value <= most:
                raise InputError(f"{where}: {key} {value:g} cannot be; it is in {unit}, {least:g} to {most:g}")
    if min(shape) < 8:
        raise InputError(f"{first.path}: its grid {shape} is no 3D scan; QSM needs at least 8 voxels along each axis")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or spacing.min() <= 0 or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise InputError(f"{first.path}: its affine is no valid orientation; export it again")
    if spacing.min() < _SMALLEST_MM or spacing.max() > _LARGEST_MM:
        raise InputError(
            f"{first.path}: voxels of {' x '.join(f'{d:.4g}' for d in spacing)} mm are none of a head; correct the"
            " unit of its header (it is mm)"
        )
    if spacing.max() > _LARGEST_ANISOTROPY * spacing.min():
        raise InputError(
            f"{first.path}: voxels of {' x '.join(f'{d:.3g}' for d in spacing)} mm are too elongated for QSM;"
            f" use a scan with a ratio of at most {_LARGEST_ANISOTROPY:g}"
        )
    if len(scan.acquisitions) > 1:
        angles = [a.flip_angle_deg for a in scan.acquisitions]
        if None in angles or len(set(angles)) < len(angles):
            raise InputError(f"{name}: several acquisitions but flip angles {angles}; give FlipAngle in each sidecar")
        said = [a.repetition_time_s for a in scan.acquisitions]
        times = [time for time in said if time is not None]
        if len(times) < len(said) or max(times) - min(times) > 1e-4:
            raise InputError(
                f"{name}: repetition times {said} s; T1 needs RepetitionTimeExcitation, the same for all flip angles"
            )
        if not 0 < times[0] < 1:
            raise InputError(f"{name}: repetition time {times[0]:g}; it is in seconds, e.g. 0.036")


def told(value: float | None, what: str) -> float:
    """A number that headers or sidecars must say by now.

    Raises:
        InputError: nothing says it.
    """
    if value is None:
        raise InputError(f"{what}: neither sidecar nor header says it; add it, or give it on the command line")
    return value


def check_echo_times(where: str, times: Sequence[float]) -> None:
    """Echo times must be numbers above 0, in seconds, and as far apart as a scanner's echoes are.

    Raises:
        InputError: they are not.
    """
    listed = ", ".join(f"{t:g}" for t in times)
    if not np.isfinite(times).all():
        raise InputError(f"{where}: echo times {listed} are not all numbers; correct EchoTime")
    if max(times) > _LONGEST_ECHO_TIME_S:
        raise InputError(f"{where}: echo times {listed} look like milliseconds; write them in seconds")
    if min(times) <= 0 or len(set(times)) < len(times):
        raise InputError(f"{where}: echo times {listed} s are not all different and above 0; correct EchoTime")
    nearest = float(np.diff(np.sort(times)).min(initial=np.inf))
    if nearest < _SHORTEST_ECHO_SPACING_S:
        raise InputError(
            f"{where}: echo times {listed} s are only {1000 * nearest:.2g} ms apart, and no scanner reads echoes so"
            " fast; write them in seconds, with all their digits"
        )


def sorted_by_time(acquisition: Acquisition) -> Acquisition:
    """The acquisition with its echoes by rising echo time, with a note where they were not.

    Names and lists count echoes as somebody did; only times say which came first.
    """
    times = acquisition.echo_times_s
    order = sorted(range(len(times)), key=times.__getitem__)
    if order != list(range(len(times))):
        given = ", ".join(f"{1000 * t:g}" for t in times)
        acquisition.notes.append(f"The echoes came with echo times {given} ms and were sorted by them.")
        for name in ("first", "second", "echo_times_s"):
            setattr(acquisition, name, [getattr(acquisition, name)[n] for n in order])
    return acquisition


def note_on_gaps(slice_thickness_mm: float | None, between_mm: float) -> list[str]:
    """What is to be said of slices that are thinner than the distance between them (both mm)."""
    if slice_thickness_mm is None or slice_thickness_mm >= (1 - _NO_GAP) * between_mm:
        return []
    return [
        f"Slices are {slice_thickness_mm:.3g} mm thick but {between_mm:.3g} mm apart: nothing is seen of what lies in"
        " the gaps, so QSM is less sure; acquire 3D, or slices without gaps."
    ]


@dataclass
class Echoes:
    """What was read of one acquisition.

    Attributes:
        magnitude: float32 `[E, X, Y, Z]`, divided by `unit`.
        phase: rad, -pi..pi, float32 `[E, X, Y, Z]`.
        unit: 98th percentile of the first echo, in the scanner's unit: results must not depend on that.
        facts: for sidecars.
        warnings: one line each.
    """

    magnitude: np.ndarray
    phase: np.ndarray
    unit: float
    facts: dict[str, Any]
    warnings: list[str]


def repetition_notes(acquisition: Acquisition) -> list[str]:
    """A line where the next excitation would come before the last echo: one of the times is wrong, and T1 with it."""
    repetition, last = acquisition.repetition_time_s, max(acquisition.echo_times_s)
    if repetition is None or repetition > last:
        return []
    return [
        f"RepetitionTimeExcitation is {repetition:g} s, but the last echo comes {last:g} s after the excitation, which"
        " cannot be; T1 and T1w are wrong until the one (--repetition_time_s) or the other (EchoTime) is corrected"
    ]


def load_echoes(acquisition: Acquisition, sign: int) -> Echoes:
    """Read magnitude and phase.

    Args:
        acquisition: checked with `check_scan`.
        sign: 1, or -1 to flip the phase.

    Raises:
        InputError: the voxels cannot be magnitude and phase.
    """
    first, second = load_all(acquisition.first), load_all(acquisition.second)
    where, path = acquisition.first[0].path, acquisition.second[0].path
    paths, others = ([volume.path for volume in part] for part in (acquisition.first, acquisition.second))
    bright = first > 0.2 * np.quantile(first, 0.99) if acquisition.parts == ("mag", "phase") else None
    for volumes, files, signal in ((first, paths, None), (second, others, bright)):
        check_slices(volumes, files, signal)
        if np.any(volumes):
            check_echoes_differ(volumes, files)
    if acquisition.parts == ("real", "imag"):
        check_no_gap(first, paths)
        check_no_gap(second, others)
        check_both_signs(first, where, "real")
        check_both_signs(second, path, "imaginary")
        scaled = Scaled(np.arctan2(second, first), "angle of real and imaginary part", [])
        magnitude = np.hypot(first, second)
    else:
        magnitude = first
        check_no_empty_echo(first, acquisition.first, "magnitude")
        for echo, file in zip(first, paths, strict=True):
            if echo.min() < 0:
                raise InputError(
                    f"{file}: has negative values, a magnitude has none; were magnitude and phase exchanged? Check the"
                    " names (part-mag, part-phase), or --magnitude and --phase"
                )
        if not np.any(second):
            raise InputError(f"{path}: the phase is 0 throughout; export phase images, or real and imaginary ones")
        check_no_empty_echo(second[1:], acquisition.second[1:], "phase")  # the first may be what the others refer to
        scaled = scale_phase(second, acquisition.phase_units, others)
        check_not_magnitude(second, first, path)
    scales = one_largest(magnitude)
    grown = check_decay(magnitude, acquisition.first, acquisition.echo_times_s)
    if not np.any(magnitude):
        raise InputError(f"{where}: the magnitude is 0 throughout; export it again")
    check_in_one_piece(magnitude[0], where)
    unit, odd = normalise(magnitude)
    warnings = [
        *acquisition.notes,
        *repetition_notes(acquisition),
        *scaled.warnings,
        *odd,
        *grown,
        *scales,
        *turn_slices_back(scaled.phase, magnitude),
    ]
    warnings += remove_ramp(scaled.phase, magnitude, acquisition.echo_times_s)
    if acquisition.parts == ("mag", "phase"):
        for phases, magnitudes, file in zip(scaled.phase, magnitude, others, strict=True):
            check_same_place(phases, magnitudes, file)
    spacing = np.linalg.norm(acquisition.first[0].header()[1][:3, :3], axis=0)
    last, field = acquisition.echo_times_s[-1], acquisition.field_strength_t
    if field is not None:
        warnings += check_not_filtered(scaled.phase[-1], magnitude[-1], spacing.tolist(), last, field)
    warnings += check_echoes_agree(scaled.phase, magnitude, acquisition.echo_times_s, spacing.tolist(), others)
    phase = scaled.phase if sign == 1 else -scaled.phase
    return Echoes(magnitude, phase, unit, {"PhaseScaling": scaled.how, "PhaseSign": sign}, warnings)


def check_both_signs(part: np.ndarray, path: str, what: str) -> None:
    """Refuse a real or imaginary part `[E, X, Y, Z]` without values on both sides of 0 in any echo: the phase of a head
    goes round, so an offset was added, or it is something else.

    Raises:
        InputError: names the first echo's file.
    """
    low, high = float(part.min()), float(part.max())
    if low == high == 0:
        raise InputError(f"{path}: the {what} part is 0 throughout; export real and imaginary images")
    if low >= 0 or high <= 0:
        raise InputError(
            f"{path}: the {what} part lies in {low:.6g}..{high:.6g}, but should have both signs (an offset, or another"
            " part by this name?); take the offset away (scl_inter, RescaleIntercept), or correct the name"
        )


def check_no_empty_echo(echoes: np.ndarray, volumes: Sequence[Volume], what: str) -> None:
    """Refuse echoes `[E, X, Y, Z]` of which one has one value throughout.

    Raises:
        InputError: names the first of those files.
    """
    for echo, volume in zip(echoes, volumes, strict=True):
        if echo.max() == echo.min():
            raise InputError(f"{volume.path}: the {what} of this echo is {echo.max():g} throughout; export it again")


def one_largest(magnitude: np.ndarray) -> list[str]:
    """A line where three or more echoes `[E, X, Y, Z]` have the same largest value: signal decays, so each was scaled
    to its own. What R2* then is decides whether the scan is refused (`scripts.reconstruction.checks`).

    Values cut at the end of a scanner's range are the same in many voxels, and a burnt-in one is far above the head's:
    neither tells anything.
    """
    largest = [float(echo.max()) for echo in magnitude]
    if len(largest) < 3 or min(largest) < (1 - _SAME_LARGEST) * max(largest) or max(largest) <= 0:
        return []
    cut = any(np.count_nonzero(echo == most) > _FEW for echo, most in zip(magnitude, largest, strict=True))
    burnt = any(
        most > _BURNT_IN * float(np.quantile(thinned(echo), 0.98))
        for echo, most in zip(magnitude, largest, strict=True)
    )
    if cut or burnt:
        return []
    return [
        f"the largest value of all {len(largest)} echoes is the same ({largest[0]:.6g}), though signal decays: if each"
        " image was scaled to its own largest, R2* is lost; export all echoes with one scale"
    ]


def check_decay(magnitude: np.ndarray, volumes: Sequence[Volume], times_s: Sequence[float]) -> list[str]:
    """Refuse echoes whose signal grows with echo time, or of which one is far brighter than one before it: signal
    decays, and echoes that were scaled each on its own have lost R2*.

    The median of the voxels that are bright in the sum of all echoes decides, whatever the echoes' order.

    Args:
        magnitude: `[E, X, Y, Z]`.
        volumes: where the echoes come from.
        times_s: rising echo times, s.

    Returns:
        a warning for each echo that is over 2 % brighter than the one before it, and not by chance.

    Raises:
        InputError: names the file of the first echo, or of one that is far brighter.
    """
    echoes = np.stack([thinned(echo) for echo in magnitude])
    total = echoes.sum(0)
    limit = _BRIGHT * float(np.quantile(total, 0.98))
    inside = [echo[total > limit] for echo in echoes] if limit > 0 else []
    bright = [float(np.median(echo)) for echo in inside]
    if not bright or min(bright) <= 0:
        return []
    relative = [echo / value for echo, value in zip(inside, bright, strict=True)]
    steps = [after / before for before, after in zip(bright[:-1], bright[1:], strict=True)]
    slope = float(np.polyfit(times_s, np.log(bright), 1)[0])
    growth = float(np.exp(slope * (times_s[-1] - times_s[0])))
    grows = growth > largest_by_chance(relative[0], relative[-1])
    cure = "correct EchoTime (of plain NIfTI: --echo_times_s), or export all echoes with one scale"
    if grows and min(steps) > 1:
        raise InputError(
            f"{volumes[0].path}: the signal grows from echo to echo, to {bright[-1] / bright[0]:.3g} times the first,"
            f" though signal decays (echo times in reverse order?); {cure}"
        )
    for number in range(1, len(bright)):
        before = min(bright[:number])
        if before < bright[number] / _LARGEST_GROWTH:
            raise InputError(
                f"{volumes[number].path}: echo {number + 1} is {bright[number] / before:.3g} times as bright as one"
                " before it, though signal decays; export all echoes with one scale, in the order of their times"
            )
    if grows:
        raise InputError(
            f"{volumes[0].path}: the signal grows with echo time, {growth:.3g} times from the first echo to the last,"
            f" though signal decays (echo times in another order?); {cure}"
        )
    return [
        f"Echo {number} ({1000 * times_s[number - 1]:g} ms) is {100 * (step - 1):.0f} % brighter than the one before"
        " it, though signal decays: were echoes swapped, or scaled each on its own? R2* is wrong then."
        for number, step in enumerate(steps, 2)
        if step > largest_by_chance(relative[number - 2], relative[number - 1])
    ]


def largest_by_chance(one: np.ndarray, other: np.ndarray) -> float:
    """Growth of the median between two echoes that noise and rounding may give; `[N]`, both over their medians."""
    spread = 1.48 * float(np.median(np.abs(other - one)))  # a normal distribution's standard deviation
    return max(_LEAST_GROWTH, 1 + _CHANCE * 1.25 * spread / np.sqrt(len(one)))


def normalise(magnitude: np.ndarray) -> tuple[float, list[str]]:
    """Divide a magnitude `[E, X, Y, Z]` by what is bright in its first echo, in place; returns that, and warnings.

    Voxels that are brighter than anything a coil sees are cut down, so that sums of squares stay finite.
    """
    first = thinned(magnitude[0])
    unit = float(np.quantile(first[first > 0], 0.98)) if (first > 0).any() else float(magnitude.max())
    magnitude /= np.float32(unit)
    odd = int(np.count_nonzero(magnitude > _BRIGHTEST))
    if odd:
        np.minimum(magnitude, _BRIGHTEST, out=magnitude)
        return unit, [f"{odd} voxels of the magnitude are over {_BRIGHTEST:g} times as bright as the head: cut down."]
    return unit, []


def load_all(volumes: Sequence[Volume]) -> np.ndarray:
    """The voxels of several volumes of one shape, float32 `[E, X, Y, Z]`; unpacked in two threads."""
    with ThreadPoolExecutor(2) as pool:
        return np.stack(list(pool.map(Volume.load, volumes)))
