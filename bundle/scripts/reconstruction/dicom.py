"""Raw gradient echo data from DICOM: the multi-echo scan of a whole study, in classic or multi-frame images.

An image is one plane: a classic file, or one frame of a multi-frame object. Each says its part (magnitude, phase, real
or imaginary), echo time and flip angle. Series are put together to acquisitions, and what is no multi-echo scan is
passed over with its reason.
"""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from scripts.dicom.files import (
    MAP_CLASSES,
    Header,
    check_sizes,
    folders_with_files,
    is_dicom,
    read_dataset,
    read_headers,
    says_simulated,
)
from scripts.dicom.frames import Frame
from scripts.dicom.identity import text
from scripts.dicom.rules import Rule, Rules
from scripts.dicom.scaling import check_one_meaning, has_philips_scale
from scripts.dicom.series import OTHER_MODALITIES, check_one_patient, group_series
from scripts.dicom.volume import frames_of, read_frames, volume_of
from scripts.errors import InputError
from scripts.reconstruction.raw import Acquisition, RawScan, Volume

LOGGER = logging.getLogger(__name__)
#: What values of ImageType (and of GE's tag 0043,102F) say about an image.
_KINDS = {"M": "mag", "P": "phase", "R": "real", "I": "imag"}
_WORDS = {"MAGNITUDE": "mag", "PHASE": "phase", "PHASE MAP": "phase", "REAL": "real", "IMAGINARY": "imag"}
_GE_KIND = 0x0043102F
_GE_KINDS = ("mag", "phase", "real", "imag")
#: Siemens' ImageType of a frame of a multi-frame object, where the standard's own says nothing.
_SIEMENS_GROUP, _SIEMENS_CREATORS, _SIEMENS_TYPE = 0x0021, ("SIEMENS MR SDI 02", "SIEMENS MR SDS 01"), 0x75
_PAIRS = (("mag", "phase"), ("real", "imag"))
#: Numbers as the files' rescaling gives them, or freed of Philips' scaling for display: echoes have no unit.
_AS_STORED, _PHILIPS = (Rule(where={}, unless={}, unit="any", factor=1.0, scaling=s) for s in ("rescale", "philips"))
#: Longest echo time of a gradient echo in the brain, ms.
_LONGEST_MS = 300.0


@dataclass(frozen=True)
class Plane:
    """One plane of a series. `index` counts frames of a multi-frame file from 0; None in a classic one."""

    header: Header
    index: int | None
    part: str
    echo_ms: float
    place: tuple[float, ...]
    facts: "Facts"


@dataclass(frozen=True)
class Facts:
    """What all planes of one acquisition share: ms, degrees, T; None where nothing says it."""

    grid: tuple
    flip: float | None
    repetition_ms: float | None
    field_t: float | None = field(compare=False)


@dataclass
class Candidate:
    """Series that may be one acquisition together."""

    facts: Facts
    planes: list[Plane]

    @property
    def series(self) -> list[str]:
        """The series' labels."""
        return list(dict.fromkeys(plane.header.label for plane in self.planes))

    @property
    def name(self) -> str:
        return " with ".join(self.series)

    def parts(self) -> dict[str, dict[float, list[Plane]]]:
        """Planes by part and echo time."""
        found: dict[str, dict[float, list[Plane]]] = defaultdict(lambda: defaultdict(list))
        for plane in self.planes:
            found[plane.part][plane.echo_ms].append(plane)
        return found

    def incomplete(self) -> str:
        """Why this is no multi-echo scan with magnitude and phase; empty if it is one."""
        parts = self.parts()
        pair = pair_of(parts)
        if pair is None:
            return f"only {', '.join(sorted(parts))} images; QSM needs magnitude and phase, so export both"
        times = sorted(set(parts[pair[0]]) | set(parts[pair[1]]))
        if len(times) < 2:
            return f"one echo ({times[0]:g} ms)"
        for part in pair:
            missing = [time for time in times if time not in parts[part]]
            if missing:
                return f"no {part} images at echo time {missing[0]:g} ms; export all echoes"
        for part in pair:
            for time, planes in parts[part].items():
                places = len({plane.place for plane in planes})
                if places < len(planes):
                    return (
                        f"{part} of echo time {time:g} ms: {len(planes)} images at {places} places, as uncombined coils"
                        " are stored; export the combined images of one series"
                    )
        return ""


def pair_of(parts: Mapping[str, object]) -> tuple[str, str] | None:
    """Magnitude and phase, or else real and imaginary part, if both are there."""
    return next((pair for pair in _PAIRS if all(part in parts for part in pair)), None)


def find_dicom(
    root: Path, participant_id: str, rules: Rules, series: int | str | Sequence[int | str] | None = None
) -> list[RawScan]:
    """Read the multi-echo gradient echo scan of the DICOM images below a folder, which are of one patient.

    Args:
        root: folder; files that are no DICOM images are passed over, and series that are no such scan, which are
            listed in the log.
        participant_id: name of the output, `sub-...`.
        rules: from `scripts.dicom.rules.read_rules`, for their limits and tolerance.
        series: numbers of the series to take; None: the only scan there is.

    Raises:
        InputError: no images, several patients, no multi-echo scan or several, or echoes that are no volume
            (`scripts.dicom.volume`). No message names a file or a patient.
    """
    files = [path for _, names in folders_with_files(root) for path in names]
    if not any(is_dicom(path) for path in files):
        raise InputError("input: neither sub-* folders nor DICOM images are there; give --input a BIDS or DICOM folder")
    check_sizes("input", files, rules)
    headers = read_headers("input", files)
    check_one_patient("input", headers)
    candidates, passed = candidates_of(group_series("input", headers))
    complete = [candidate for candidate in candidates if not candidate.incomplete()]
    passed |= {c.name: said for c in candidates if (said := c.incomplete())}
    chosen = named(complete, passed, numbers_of(series)) if series is not None else the_only(complete, passed)
    for label, why in passed.items():
        LOGGER.info("input: %s was passed over: %s", label, why)
    LOGGER.info("input: the echoes are those of %s", " and ".join(candidate.name for candidate in chosen))
    scan = RawScan(participant_id, participant_id, f"{participant_id}/anat")
    chosen = sorted(chosen, key=lambda candidate: candidate.facts.flip or 0.0)
    scan.acquisitions = [acquisition_of(candidate, rules) for candidate in chosen]
    return [scan]


# --- which series belong together -------------------------------------------------------------------------------------


def candidates_of(series: Sequence[Sequence[Header]]) -> tuple[list[Candidate], dict[str, str]]:
    """Series put together to acquisitions, and why others were passed over (label -> reason).

    A series that is complete by itself stands alone. Others with the same grid, flip angle, repetition time and echo
    times (or with one echo a series) are parts of one acquisition, in the order of their numbers, until one would bring
    a plane that is there already: it begins the next.
    """
    passed: dict[str, str] = {}
    open_ones: dict[tuple, Candidate] = {}
    found: list[Candidate] = []
    for headers in series:
        try:
            planes = planes_of(headers)
        except InputError as error:
            passed[headers[0].label] = str(error)
            continue
        by_facts: dict[Facts, list[Plane]] = defaultdict(list)
        for plane in planes:
            by_facts[plane.facts].append(plane)
        for facts, mine in by_facts.items():
            alone = Candidate(facts, mine)
            if not alone.incomplete():
                found.append(alone)
                continue
            times = tuple(sorted({plane.echo_ms for plane in mine}))
            key = (facts, times if len(times) > 1 else ())
            candidate = open_ones.get(key)
            there = {(p.part, p.echo_ms, p.place) for p in candidate.planes} if candidate else set()
            if candidate is None or any((p.part, p.echo_ms, p.place) in there for p in mine):
                open_ones[key] = alone
                found.append(alone)
            else:
                candidate.planes += mine
    return found, passed


def planes_of(headers: Sequence[Header]) -> list[Plane]:
    """The planes of one series.

    Raises:
        InputError: why it is no gradient echo series.
    """
    first = headers[0]
    if first.sop_class_uid not in MAP_CLASSES or first.headers["Modality"].upper() in OTHER_MODALITIES:
        raise InputError("no MR images")
    planes = []
    for header in headers:
        dataset = read_dataset(header.path, header.where, pixels=False)
        try:
            for frame in frames_of(dataset, header.label):
                planes.append(plane_of(frame, header))
        except InputError:
            raise
        except Exception as error:  # values that pydicom parses late
            raise InputError(f"{header.where}: is damaged ({type(error).__name__}); export or send it again") from error
    return planes


def plane_of(frame: Frame, header: Header) -> Plane:
    """One image plane.

    Raises:
        InputError: it has no echo time or no place, or is neither magnitude nor phase, real nor imaginary part.
    """
    time = number(frame.acquisition("EchoTime"))
    if time is None:
        raise InputError("has no EchoTime; export the echoes with their headers")
    if time > _LONGEST_MS:
        raise InputError(f"EchoTime {time:g} ms is none of a gradient echo")
    grid = (frame.size, *(tuple(np.round(value, 3)) for value in (frame.spacing, frame.orientation)))
    facts = Facts(
        grid,
        number(frame.acquisition("FlipAngle")),
        number(frame.acquisition("RepetitionTime")),
        number(text(frame.get("MagneticFieldStrength"))),
    )
    return Plane(header, frame.index, part_of(frame), round(time, 4), tuple(np.round(frame.position, 2)), facts)


def number(said: str) -> float | None:
    """A header's first number, None if there is none."""
    try:
        value = float(said.split("\\")[0])
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def part_of(frame: Frame) -> str:
    """`mag`, `phase`, `real` or `imag`.

    Raises:
        InputError: nothing says it.
    """
    component = text(frame.get("ComplexImageComponent", "MRImageFrameTypeSequence")).upper()
    if frame.index is not None and component in _WORDS:
        return _WORDS[component]
    values = frame.acquisition("ImageType").upper().split("\\")
    for value in [*values[2:], *_siemens_type(frame), *([] if values[2:] else values)]:
        if value in _KINDS or value in _WORDS:
            return _KINDS.get(value) or _WORDS[value]
    private = frame.dataset.get(_GE_KIND)
    if private is not None and str(private.value) in ("0", "1", "2", "3"):
        return _GE_KINDS[int(private.value)]
    if component in _WORDS:
        return _WORDS[component]
    raise InputError(f"ImageType {values} says neither magnitude nor phase; export both kinds of images")


def _siemens_type(frame: Frame) -> list[str]:
    """Siemens' own ImageType of a frame (XA software); empty without."""
    for group in frame.groups:
        for element in group:
            if element.tag.group == _SIEMENS_GROUP and element.VR == "SQ":
                for item in element.value[:1]:
                    for creator in _SIEMENS_CREATORS:
                        try:
                            said = item.private_block(_SIEMENS_GROUP, creator)[_SIEMENS_TYPE].value
                        except (KeyError, TypeError):
                            continue
                        return text(said).upper().split("\\")[2:]
    return []


def numbers_of(series: int | str | Sequence[int | str]) -> set[str]:
    """The numbers that `--series` names.

    Raises:
        InputError: something else than numbers.
    """
    given = series.split(",") if isinstance(series, str) else [series] if isinstance(series, int) else list(series)
    found = {str(value).strip() for value in given}
    if not found or not all(value.isdigit() for value in found):
        raise InputError(f"series: {series!r} names no series; give their numbers, e.g. --series 5 or --series [5,6]")
    return {str(int(value)) for value in found}


def named(complete: list[Candidate], passed: dict[str, str], numbers: set[str]) -> list[Candidate]:
    """The candidates that some of these series belong to; all others are noted in `passed`.

    Raises:
        InputError: a number that is of no complete candidate, or candidates that are not one scan.
    """

    def numbers_in(candidate: Candidate) -> set[str]:
        return {number_of(plane.header) for plane in candidate.planes}

    chosen = [candidate for candidate in complete if numbers & numbers_in(candidate)]
    for missing in sorted(numbers - set().union(*map(numbers_in, chosen)), key=int):
        said = next((f": {why}" for label, why in passed.items() if f"series {missing} " in label), "")
        raise InputError(f"series: {missing} is no multi-echo scan of the input{said}; {listed(complete, passed)}")
    passed |= {c.name: "another was asked for" for c in complete if c not in chosen}
    if not one_scan(chosen):
        raise InputError(f"series: {' and '.join(c.name for c in chosen)} are several scans; name the series of one")
    return chosen


def number_of(header: Header) -> str:
    said = header.headers["SeriesNumber"]
    return str(int(said)) if said.isdigit() else said


def the_only(complete: list[Candidate], passed: dict[str, str]) -> list[Candidate]:
    """The acquisitions of the only scan.

    Raises:
        InputError: none, or several.
    """
    if not complete:
        raise InputError(f"input: no multi-echo gradient echo with magnitude and phase is there; {listed([], passed)}")
    if not one_scan(complete):
        numbers = sorted({number_of(p.header) for p in complete[0].planes})
        raise InputError(
            f"input: {len(complete)} multi-echo scans are there ({'; '.join(c.name for c in complete)}); choose one by"
            f" --series, e.g. --series [{','.join(numbers)}]"
        )
    return complete


def listed(complete: Sequence[Candidate], passed: Mapping[str, str]) -> str:
    """What is there, for messages."""
    said = [c.name for c in complete] + [f"{label} ({why})" for label, why in list(passed.items())[:20]]
    return f"the study holds {', '.join(said)}" if said else "the study holds nothing else"


def one_scan(candidates: Sequence[Candidate]) -> bool:
    """Whether acquisitions differ in nothing but the flip angle."""
    flips = {candidate.facts.flip for candidate in candidates}
    alike = {
        (candidate.facts.grid, candidate.facts.repetition_ms, tuple(sorted({p.echo_ms for p in candidate.planes})))
        for candidate in candidates
    }
    return len(flips) == len(candidates) and len(alike) == 1


# --- from planes to echoes --------------------------------------------------------------------------------------------


def acquisition_of(candidate: Candidate, rules: Rules) -> Acquisition:
    """One flip angle from its planes."""
    parts = candidate.parts()
    pair = pair_of(parts)
    if pair is None:
        raise InputError(f"input, {candidate.name}: has no magnitude and phase; send the whole series")
    times = sorted(parts[pair[0]])
    files: dict[str, list[Frame]] = {}  # a multi-frame file holds several echoes, and is read once
    frames = {part: [frames_at(parts[part][time], files) for time in times] for part in pair}
    for part in pair:
        check_one_meaning([frame for stack in frames[part] for frame in stack])
    every = [frame for stacks in frames.values() for stack in stacks for frame in stack]
    philips = all(has_philips_scale(frame) for frame in every)
    stacks = {
        part: [
            echo_of(part, time, stack, _PHILIPS if philips else _AS_STORED, rules)
            for time, stack in zip(times, frames[part], strict=True)
        ]
        for part in pair
    }
    low, high = _range_of(stacks[pair[1]])
    radians = philips and pair[1] == "phase" and -np.pi * 1.01 <= low and high <= np.pi * 1.01
    facts = candidate.facts
    return Acquisition(
        pair,
        stacks[pair[0]],
        stacks[pair[1]],
        [time / 1000.0 for time in times],
        facts.flip,
        None if facts.repetition_ms is None else facts.repetition_ms / 1000.0,
        facts.field_t,
        "rad" if radians else "",
        number(text(frames[pair[0]][0][0].get("SliceThickness", "PixelMeasuresSequence"))),
    )


def _range_of(volumes: Sequence[Volume]) -> tuple[float, float]:
    arrays = [volume.array for volume in volumes if volume.array is not None]
    return min(float(array.min()) for array in arrays), max(float(array.max()) for array in arrays)


def frames_at(planes: Sequence[Plane], files: dict[str, list[Frame]]) -> list[Frame]:
    """The frames of some planes, with their pixels; `files` keeps those of multi-frame files."""
    frames = []
    for plane in planes:
        if plane.index is None:
            frames += read_frames(plane.header)
            continue
        if plane.header.path not in files:
            files[plane.header.path] = read_frames(plane.header)
        frames.append(files[plane.header.path][plane.index])
    return frames


def echo_of(part: str, time_ms: float, frames: Sequence[Frame], rule: Rule, rules: Rules) -> Volume:
    """The images of one echo as a volume on a grid.

    Raises:
        InputError: as `scripts.dicom.volume.volume_of`.
    """
    name = f"{part} of echo time {time_ms:g} ms"
    try:
        volume = volume_of(frames, rule, rules)
    except InputError as error:
        raise InputError(f"input, {name}: {error}") from error
    return Volume(name, None, volume.values, volume.affine, any(says_simulated(frame.dataset) for frame in frames))
