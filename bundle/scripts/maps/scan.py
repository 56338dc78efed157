"""The maps that a scan may have; and one scan: whose it is, where its maps lie, what is known of it beside them."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scripts.errors import InputError
from scripts.files.nifti import says_simulated
from scripts.maps.sidecars import with_sidecars
from scripts.runs.finished import content, digest_of


@dataclass(frozen=True, kw_only=True)
class Map:
    """A kind of map.

    Attributes:
        suffix: in BIDS.
        name: in results and pictures.
        words: with its article, in messages.
        unit: of its values; empty where these have none, so that only their pattern counts.
        units: every unit that it may come in, in small letters -> factor to `unit`; none where it must come in it.
        medians: lowest and highest median of what was measured of a head, in its unit, at 0.5 to 7 T.
        region_medians: the same around the basal ganglia, as is usual.
        never_negative: what it measures has no negative amount.
        with_t1w: 1 where it rises with the brightness of a T1-weighted image, -1 where it falls, 0 where neither.
        shown: grey range in pictures, in its unit; None: between percentiles of what is shown.
    """

    suffix: str
    name: str
    words: str
    unit: str = ""
    units: Mapping[str, float] = field(default_factory=dict)
    medians: tuple[float, float] | None = None
    region_medians: tuple[float, float] | None = None
    never_negative: bool = False
    with_t1w: int = 0
    shown: tuple[float, float] | None = None

    @property
    def title(self) -> str:
        """Name and unit."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


_SECONDS = dict.fromkeys(("s", "sec", "second", "seconds"), 1.0)
_MILLISECONDS = dict.fromkeys(("ms", "msec", "millisecond", "milliseconds"), 1e-3)
_PER_SECOND = dict.fromkeys(("1/s", "s^-1", "s-1", "s\u207b\u00b9", "1/sec", "sec^-1", "/s", "hz"), 1.0)
_PER_MILLISECOND = dict.fromkeys(("1/ms", "ms^-1", "ms-1", "ms\u207b\u00b9", "1/msec", "/ms", "khz"), 1e3)
#: All maps that a network can be given, by BIDS suffix. What is to be known of a map stands here alone; its window is a
#: key of the configs (`t1map_window`), and its DICOM series stand in `configs/dicom_series.yaml`.
KNOWN_MAPS = {
    kind.suffix: kind
    for kind in (
        Map(
            suffix="Chimap",
            name="QSM",
            words="a QSM",
            unit="ppm",
            units=dict.fromkeys(("ppm", "parts per million"), 1.0) | dict.fromkeys(("ppb", "parts per billion"), 1e-3),
            shown=(-0.1, 0.25),
        ),
        Map(
            suffix="R2starmap",
            name="R2*",
            words="an R2* map",
            unit="1/s",
            units=_PER_SECOND | _PER_MILLISECOND,
            shown=(0, 90),
        ),
        Map(suffix="T1w", name="T1W", words="a T1w before contrast agent"),
        # of white matter 0.5 s at 0.5 T, of gray 2 s at 7 T, of fluid 4.5 s (Rooney et al., MRM 2007, 57:308)
        Map(
            suffix="T1map",
            name="T1",
            words="a map of T1",
            unit="s",
            units=_SECONDS | _MILLISECONDS,
            medians=(0.2, 6.0),
            region_medians=(0.4, 2.5),
            never_negative=True,
            with_t1w=-1,  # what relaxes slowly is dark
            shown=(0.3, 2.5),
        ),
        Map(suffix="PDmap", name="PD", words="a map of proton density", never_negative=True),
        # of any unit, since only its pattern counts: myelin saturates most, and relaxes fastest
        Map(suffix="MTsat", name="MTsat", words="a map of magnetisation transfer saturation", with_t1w=1),
    )
}
#: What every scan has, in this order, whatever the network sees of it: localisation, nuclei and plausibility read QSM
#: (ppm), R2* (1/s) and a T1-weighted image (any unit).
MAPS = ("Chimap", "R2starmap", "T1w")
#: Half-open voxel ranges `[[i0, i1], [j0, j1], [k0, k1]]` along the stored array's axes.
Box = Sequence[Sequence[int]]


def network_maps(maps: Sequence[str]) -> tuple[str, ...]:
    """The maps that a network sees, in the order of its channels, as the key `maps` names them.

    Raises:
        InputError: none, one that is not known (it names the nearest), or one twice.
    """
    if not maps or isinstance(maps, str):
        raise InputError(f"maps is {maps!r}; list at least one of {', '.join(KNOWN_MAPS)}, as ['Chimap','R2starmap']")
    for number, suffix in enumerate(maps):
        if suffix not in KNOWN_MAPS:
            near = difflib.get_close_matches(str(suffix), KNOWN_MAPS, 1)
            advice = f"did you mean {near[0]}?" if near else f"use some of {', '.join(KNOWN_MAPS)}"
            raise InputError(f"maps: {suffix!r} is no map that is known here; {advice}")
        if suffix in maps[:number]:
            raise InputError(f"maps: names {suffix} twice; name each map once")
    return tuple(maps)


def scan_maps(maps: Sequence[str]) -> tuple[str, ...]:
    """The maps that a scan must have for such a network, in the order of its channels: MAPS, then further ones.

    Raises:
        InputError: see `network_maps`.
    """
    return (*MAPS, *(suffix for suffix in network_maps(maps) if suffix not in MAPS))


def number_word(count: int) -> str:
    """A small number as text has it."""
    return ("no", "one", "two", "three", "four", "five", "six")[count] if count < 7 else str(count)


def recorded_maps(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """What a network sees by the settings in a record; those of version 0.6 and before saw MAPS, and do not say it."""
    return tuple(settings.get("maps", MAPS))


@dataclass(frozen=True, kw_only=True)
class Scan:
    """A scan of which nothing has been read but names, headers and tables.

    Attributes:
        participant_id: of whom it is.
        scan_id: its name, of one scan alone: the BIDS entities of its files.
        maps: paths of the maps in the order of `names`, or of one 4D file that holds them.
        names: BIDS suffixes of the maps: MAPS, then further ones.
        box: of the basal ganglia, where annotated.
        age: years, where known.
        nuclei: as `scripts.nuclei.table.rows_of` returns them, where measured.
        nuclei_labels: their label image on the maps' grid, a NIfTI, where there is one.
        refused: why the scan cannot be used; it has no `maps` then.
    """

    participant_id: str
    scan_id: str
    maps: tuple[str, ...] = ()
    names: tuple[str, ...] = MAPS
    box: Box | None = None
    age: float | None = None
    nuclei: Sequence[Mapping[str, Any]] | None = None
    nuclei_labels: str | None = None
    refused: str | None = None

    def item(self) -> dict[str, Any]:
        """The dictionary that transforms and MONAI's datasets read: names, `image`, and what is known of `box` and
        `nuclei`."""
        known = {"box": self.box, "nuclei": self.nuclei, "nuclei_labels": self.nuclei_labels}
        names = {"participant_id": self.participant_id, "scan_id": self.scan_id}
        return {**names, "image": self.image()} | {key: value for key, value in known.items() if value is not None}

    def image(self) -> Any:
        """What `scripts.maps.transforms.LoadImageMapsd` reads the maps from."""
        return list(self.maps)

    def files(self) -> dict[str, list[str]]:
        """The files that the scan is read from, by map (`maps` where one file holds all).

        Raises:
            InputError: they cannot be told apart (DICOM).
        """
        names = self.names if len(self.maps) == len(self.names) else ("maps",)
        return {name: [path] for name, path in zip(names, self.maps, strict=False)}

    def check_usable(self) -> None:
        """Refuse a scan that was found to be none.

        Raises:
            InputError: the reason.
        """
        if self.refused is not None:
            raise InputError(self.refused)

    def simulated(self) -> bool:
        """Whether a map says that nobody was scanned."""
        return any(map(says_simulated, self.maps))

    def series(self) -> dict[str, list[str]]:
        """The files of each map's DICOM series; none where the scan did not come as DICOM."""
        return {}

    def patient(self) -> dict[str, str]:
        """What DICOM says of the person, where results may name people."""
        return {}

    def scanner(self) -> dict[str, str | float]:
        """What DICOM says of the machine: `manufacturer`, `model`, `field_strength_t`; nothing that names a place."""
        return {}

    def years(self) -> float | None:
        """The age in years, where it is known."""
        return self.age


@dataclass(frozen=True, kw_only=True)
class LabelledScan(Scan):
    """A scan whose group is known.

    Attributes:
        label: 0 HC, 1 HH.
        site: where it was scanned, if participants.tsv has a column `site`.
    """

    label: int
    site: str | None = None

    def item(self) -> dict[str, Any]:
        """As that of a scan, with `label`."""
        return {**super().item(), "label": self.label}


def items(scans: Iterable[Scan]) -> list[dict[str, Any]]:
    """The scans as MONAI's datasets want them."""
    return [scan.item() for scan in scans]


def of_scans(scans: Iterable[LabelledScan]) -> dict[str, str]:
    """What a training depends on in its scans: words that name a scan -> hash of its maps with their
    sidecars, box and label."""
    return {
        f"{scan.scan_id} of the cohort (its maps, box or label)": digest_of(
            [content(with_sidecars({"maps": scan.maps})), scan.box, scan.label, scan.participant_id]
            + ([] if scan.site is None else [scan.site])
        )
        for scan in scans
    }
