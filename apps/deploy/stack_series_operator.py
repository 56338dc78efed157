"""The three series of a study as one image of three channels, which is what the bundle's network reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.deploy.core import Fragment, Image, Operator, OperatorSpec
from monai.deploy.core.domain.dicom_series_selection import StudySelectedSeries

from scripts.dicom import SourceSeries, find_studies
from scripts.dicom_rules import read_rules
from scripts.errors import InputError


class StackSeriesOperator(Operator):
    """Stacks the QSM, R2* and T1W series of one study.

    The pixels are read by the bundle's own reader, from the folder: it scales each vendor's numbers, and refuses what
    the SDK's loader passes over in silence (two images of one place, images of another patient, missing slices).

    Named input:
        study_selected_series_list: what the SDK's selector took; its selections are named after the maps.
    Named outputs:
        image: `Image` `[3, W, H, D]` (float32; QSM in ppm, R2* in 1/s, T1W), with its affine to RAS+ mm.
        source: `(name, sources)`: how results call the study, and where each map came from (`SourceSeries`).
    """

    def __init__(self, fragment: Fragment, *args: Any, input_dir: Path, rules: Path, **kwargs: Any) -> None:
        self.input_dir = input_dir
        self.rules = rules
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("study_selected_series_list")
        spec.output("image")
        spec.output("source")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        selected = op_input.receive("study_selected_series_list")
        studies = find_studies(self.input_dir, read_rules(self.rules))
        if len(studies) != 1:
            raise InputError(f"{self.input_dir}: holds {len(studies)} DICOM studies; give -i the folder of one")
        stack, sources = studies[0].load()
        check_selected(studies[0].name, selected, sources)
        spacing = np.linalg.norm(stack.affine.numpy()[:3, :3], axis=0)
        metadata = {**stack.meta, "affine": stack.affine.numpy(), "spacing": spacing}
        op_output.emit(Image(stack.numpy(), metadata), "image")
        op_output.emit((studies[0].name, sources), "source")


def check_selected(name: str, selected: Sequence[StudySelectedSeries], sources: Sequence[SourceSeries]) -> None:
    """Make sure that the reader took series that the selector had taken: both apply the same rules.

    Raises:
        InputError: it took another.
    """
    taken = {
        (selection, str(item.series.SeriesInstanceUID))
        for study in selected
        for selection, items in study.series_by_selection_name.items()
        for item in items
    }
    for source in sources:
        if (source.map, source.series_uid) not in taken:
            raise InputError(
                f"{name}: series {source.number} {source.description!r} is the {source.map} by the rules, but the SDK's"
                " selector passed over it; correct configs/dicom_series.yaml"
            )
