"""Results of studies stored back into the archive (PACS) whose studies they are of."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import ignite.distributed as idist

from scripts.dicom.address import parse_address
from scripts.errors import InputError
from scripts.inference.batch import RunFolder
from scripts.inference.inputs import DicomScan
from scripts.inference.results import DICOM_OUTPUTS, OUTPUTS
from scripts.maps.scan import MAPS, Scan
from scripts.runs.bars import Bar
from scripts.runs.failures import log_of, why

if TYPE_CHECKING:
    from scripts.dicom.web import Archive

LOGGER = logging.getLogger(__name__)


class Sender:
    """Stores what each finished scan got as DICOM into the study that the scan came from.

    What the archive has already is not sent again, so the same command goes on where it was stopped.

    Args:
        address: of the archive, `dicomweb:URL`; None sends nothing.
        run: the output folder.
        scans: of the run.
    """

    def __init__(self, address: str | None, run: RunFolder, scans: Sequence[Scan]) -> None:
        self.run = run
        self.scans = scans
        self.archive = _archive(address) if address is not None else None
        self.failed: list[str] = []
        self.sent = self.done = 0

    def check(self) -> None:
        """Before any work: there is something to send, and an archive that takes requests.

        Raises:
            InputError: the reason.
        """
        if self.archive is None:
            return
        if not set(DICOM_OUTPUTS) & set(self.run.outputs):
            raise InputError(f"send: outputs has nothing that an archive takes; add {', '.join(DICOM_OUTPUTS[:2])}")
        if not all(isinstance(scan, DicomScan) for scan in self.scans):
            raise InputError(
                "send: results are stored into the DICOM study that a scan came from, and this input is none; give"
                " DICOM as --input, or leave --send out"
            )
        self.archive.check("send")

    def send(self) -> None:
        """Send what this process's finished scans got; one that fails is said, and the others go on."""
        if self.archive is None:
            return
        mine = self.scans[idist.get_rank() :: idist.get_world_size()]
        for scan in Bar(mine, desc="sending", unit="scan", disable=idist.get_rank() > 0):
            try:
                if self.run.prediction(scan) is not None:
                    self.sent += self._send(scan)
                    self.done += 1
            except Exception as error:
                reason = why(error, log_of(self.run.path, f"{scan.scan_id}_sending"))
                LOGGER.error("%s", reason)
                self.failed.append(reason)

    def _send(self, scan: Scan) -> int:
        """Send one scan's objects and return how many were not in the archive before."""
        from scripts.dicom.files import read_dataset
        from scripts.dicom.identity import allowed

        assert self.archive is not None
        stem = self.run.stem(scan)
        endings = [ending for name in DICOM_OUTPUTS if name in self.run.outputs for ending in OUTPUTS[name]]
        source = read_dataset(
            scan.files()[MAPS[0]][0], scan.scan_id, pixels=False, tags=["PatientID", "StudyInstanceUID"]
        )
        return self.archive.store(
            [Path(f"{stem}_{ending}") for ending in endings],
            allowed("PatientID", source.get("PatientID")),
            allowed("StudyInstanceUID", source.get("StudyInstanceUID")),
            scan.scan_id,
        )

    def finish(self) -> None:
        """Say how it went.

        Raises:
            InputError: results of some scans are not in the archive.
        """
        if self.archive is None:
            return
        print(f"results of {self.done} scans are in the archive at {self.archive.host} ({self.sent} objects sent now)")
        if self.failed:
            raise InputError(
                f"results of {len(self.failed)} scans are not in the archive, all are in {self.run.path}; give the same"
                f" command again once it can take them (first: {self.failed[0]})"
            )


def _archive(address: str) -> "Archive":
    url, query = parse_address(address, "send")
    if query:
        raise InputError("send: takes the archive's address alone, each result goes into its own study; remove the ?")
    try:
        from scripts.dicom.web import Archive
    except ImportError as error:
        raise InputError(
            f"DICOM needs the package {error.name}; type pip install '.[dicom]' in the repository"
        ) from error
    return Archive(url)
