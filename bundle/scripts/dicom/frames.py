"""One image plane of a DICOM series, whether its headers stand in the file or in functional groups (multi-frame)."""

from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from scripts.dicom.identity import text
from scripts.errors import InputError

#: What tells two images of one place apart, in the order in which it is looked at.
ACQUISITION_TAGS = ("AcquisitionNumber", "EchoNumbers", "EchoTime", "TemporalPositionIdentifier", "FlipAngle",
                    "ImageType")  # fmt: skip
#: What says how an image was weighted.
TIMING_TAGS = ("EchoTime", "RepetitionTime", "InversionTime", "FlipAngle")


class Frame:
    """One image plane: where its headers are, whether in the file itself or in its functional groups."""

    def __init__(self, dataset: Dataset, name: str, index: int | None) -> None:
        """`name`: its series' for messages. `index`: counted from 0 in a multi-frame file, None in a classic one."""
        self.dataset, self.name, self.index = dataset, name, index
        self.groups: list[Dataset] = []
        if index is not None:
            per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
            if len(per_frame) <= index:
                raise InputError(f"{self.name}: describes {len(per_frame)} of its frames only; export it again")
            self.groups = [per_frame[index], *(dataset.get("SharedFunctionalGroupsSequence") or [])[:1]]

    def get(self, keyword: str, sequence: str = "") -> Any:
        """A header's value or None: in a multi-frame file from the functional group `sequence`, if it is there."""
        for group in self.groups:
            for item in (group.get(sequence) or [])[:1] if sequence else ():
                if keyword in item:
                    return item.get(keyword)
        return self.dataset.get(keyword)

    def numbers(self, keyword: str, sequence: str, count: int) -> np.ndarray:
        """A header's numbers. Raises InputError if it is missing or does not hold `count` finite ones."""
        value = self.get(keyword, sequence)
        if value is None or value == "":
            raise InputError(f"{self.name}: has no {keyword} {Tag(keyword)}; export it again")
        try:
            found = np.array(value, dtype=np.float64).reshape(-1)
        except (TypeError, ValueError):
            found = np.array([])
        if len(found) != count or not np.isfinite(found).all():
            due = "a finite number" if count == 1 else f"{count} finite numbers"
            raise InputError(f"{self.name}: {keyword} {Tag(keyword)} is not {due}; export it again")
        return found

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        return int(self.numbers("Columns", "", 1)[0]), int(self.numbers("Rows", "", 1)[0])

    @property
    def spacing(self) -> np.ndarray:
        """Distance of columns and of rows, mm."""
        return self.numbers("PixelSpacing", "PixelMeasuresSequence", 2)[::-1]

    @property
    def orientation(self) -> np.ndarray:
        return self.numbers("ImageOrientationPatient", "PlaneOrientationSequence", 6)

    @property
    def position(self) -> np.ndarray:
        return self.numbers("ImagePositionPatient", "PlanePositionSequence", 3)

    def acquisition(self, keyword: str) -> str:
        """What a tag of ACQUISITION_TAGS, or of TIMING_TAGS, says of this frame; empty if it says nothing."""
        where = {
            "AcquisitionNumber": ("FrameAcquisitionNumber", "FrameContentSequence"),
            "EchoTime": ("EffectiveEchoTime", "MREchoSequence"),
            "TemporalPositionIdentifier": ("TemporalPositionIndex", "FrameContentSequence"),
            "FlipAngle": ("FlipAngle", "MRTimingAndRelatedParametersSequence"),
            "ImageType": ("FrameType", "MRImageFrameTypeSequence"),
            "RepetitionTime": ("RepetitionTime", "MRTimingAndRelatedParametersSequence"),
            "InversionTime": ("InversionTimes", "MRModifierSequence"),
        }.get(keyword)
        value = self.get(*where) if where else None
        return text(self.dataset.get(keyword) if value is None else value)
