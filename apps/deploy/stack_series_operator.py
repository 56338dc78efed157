"""The series of a study as one image of a channel a map, which is what the bundle's preprocessing reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.deploy.core import Fragment, Image, Operator, OperatorSpec
from monai.deploy.core.domain.dicom_series_selection import StudySelectedSeries

from scripts.dicom.study import DicomStudy
from scripts.errors import InputError
from scripts.inference.inputs import DicomScan, find_input


class StackSeriesOperator(Operator):
    """Stacks the QSM, R2* and T1W series of one study, and those of further maps that the network sees.

    The pixels are read by the bundle's own reader, from the folder: it scales each vendor's numbers, and refuses what
    the SDK's loader passes over in silence (two images of one place, images of another patient, missing slices).

    Named input:
        study_selected_series_list: what the SDK's selector took; its selections are named after the maps.
    Named outputs:
        image: `Image` `[C, W, H, D]` (float32; QSM in ppm, R2* in 1/s, T1W, further maps), with its affine to RAS+ mm.
        source: the study as a scan (`scripts.inference.inputs.DicomScan`).
    """

    def __init__(
        self, fragment: Fragment, *args: Any, input_dir: Path, rules: str | Path, maps: Sequence[str], **kwargs: Any
    ) -> None:
        self.input_dir = input_dir
        self.rules = rules
        self.maps = maps
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("study_selected_series_list")
        spec.output("image")
        spec.output("source")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        selected = op_input.receive("study_selected_series_list")
        scans = find_input(self.input_dir, dicom_rules=self.rules, maps=self.maps)
        if len(scans) != 1 or not isinstance(scans[0], DicomScan):
            raise InputError(f"input: holds {len(scans)} scans where one DICOM study is due; give -i its folder")
        study = scans[0].study
        stack = study.load()
        check_selected(study, selected)
        spacing = np.linalg.norm(stack.affine.numpy()[:3, :3], axis=0)
        metadata = {**stack.meta, "affine": stack.affine.numpy(), "spacing": spacing}
        op_output.emit(Image(stack.numpy(), metadata), "image")
        op_output.emit(scans[0], "source")


def check_selected(study: DicomStudy, selected: Sequence[StudySelectedSeries]) -> None:
    """Make sure that the reader took series that the selector had taken: both apply the same rules.

    Raises:
        InputError: it took another.
    """
    taken = {
        (selection, str(item.series.SeriesInstanceUID))
        for found in selected
        for selection, items in found.series_by_selection_name.items()
        for item in items
    }
    for suffix, (headers, _) in study.choose().items():
        if (suffix, headers[0].series_uid) not in taken:
            raise InputError(
                f"{study.name}: {headers[0].label} is the {suffix} by the rules, but the SDK's selector passed over it;"
                " correct configs/dicom_series.yaml"
            )
