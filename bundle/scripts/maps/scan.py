"""One scan: whose it is, where its maps lie, and what is known of it beside them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scripts.errors import InputError
from scripts.files.nifti import says_simulated
from scripts.runs.finished import content, digest_of

#: Channel order of every scan in this bundle, by BIDS suffix: QSM (ppm), R2* (1/s), T1-weighted (any unit).
MAPS = ("Chimap", "R2starmap", "T1w")
#: Half-open voxel ranges `[[i0, i1], [j0, j1], [k0, k1]]` along the stored array's axes.
Box = Sequence[Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class Scan:
    """A scan of which nothing has been read but names, headers and tables.

    Attributes:
        participant_id: of whom it is.
        scan_id: its name, of one scan alone: the BIDS entities of its files.
        maps: paths of the maps in the order of MAPS, or of one 4D file that holds them.
        box: of the basal ganglia, where annotated.
        age: years, where known.
        nuclei: as `scripts.nuclei.table.rows_of` returns them, where measured.
        nuclei_labels: their label image on the maps' grid, a NIfTI, where there is one.
        refused: why the scan cannot be used; it has no `maps` then.
    """

    participant_id: str
    scan_id: str
    maps: tuple[str, ...] = ()
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
        names = MAPS if len(self.maps) == len(MAPS) else ("maps",)
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
    """What a training depends on in its scans: words that name a scan -> hash of its maps, box and label."""
    return {
        f"{scan.scan_id} of the cohort (its maps, box or label)": digest_of(
            [content({"maps": scan.maps}), scan.box, scan.label, scan.participant_id]
            + ([] if scan.site is None else [scan.site])
        )
        for scan in scans
    }
