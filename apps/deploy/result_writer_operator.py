"""Writes what a reader of the study gets, by the bundle's own functions."""

from pathlib import Path
from typing import Any

from bundle_folder import inference_config
from monai.deploy.core import Fragment, Operator, OperatorSpec

from scripts.files.writing import check_output_dir
from scripts.inference.results import model_info, write_scan
from scripts.nuclei.curves import read_reference_curves


class ResultWriterOperator(Operator):
    """Writes the study's files: those that `outputs` in the bundle's `configs/inference.yaml` names.

    Named inputs:
        result: from `QNetBundleOperator`.
        source: from `StackSeriesOperator`.
    """

    def __init__(
        self, fragment: Fragment, *args: Any, input_dir: Path, output_dir: Path, bundle: Path, **kwargs: Any
    ) -> None:
        self.input_dir = input_dir
        self.output_dir = output_dir
        self.bundle = bundle
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("result")
        spec.input("source")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        made = op_input.receive("result")
        scan = op_input.receive("source")
        config = inference_config(self.bundle)
        config["input"], config["output_dir"] = str(self.input_dir), str(self.output_dir)
        run, weights, include_identifiers, segment_fraction, reference_curves = (
            config.get_parsed_content(key)
            for key in ("run_folder", "weights", "include_identifiers", "segment_fraction", "reference_curves")
        )
        curves = read_reference_curves(reference_curves)
        check_output_dir(self.output_dir, 100e6)
        write_scan(scan, made, run, model_info(weights), include_identifiers, segment_fraction, curves)
