"""Writes what a reader of the study gets, by the bundle's own functions."""

from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.deploy.core import Fragment, Operator, OperatorSpec

from scripts.batch import RunFolder
from scripts.provenance import check_output_dir, software
from scripts.results import check_outputs, model_info, write_scan


class ResultWriterOperator(Operator):
    """Writes the study's files: those that `outputs` in the bundle's `configs/inference.yaml` names.

    Named inputs:
        result: from `QNetBundleOperator`.
        source: from `StackSeriesOperator`.
    """

    def __init__(self, fragment: Fragment, *args: Any, output_dir: Path, bundle: Path, **kwargs: Any) -> None:
        self.output_dir = output_dir
        self.bundle = bundle
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("result")
        spec.input("source")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        made = op_input.receive("result")
        name, sources = op_input.receive("source")
        config = ConfigParser()
        config.read_config(self.bundle / "configs" / "inference.yaml")
        config["bundle_root"] = str(self.bundle)
        settings, outputs, weights, include_identifiers, segment_fraction = (
            config.get_parsed_content(key)
            for key in ("settings", "outputs", "weights", "include_identifiers", "segment_fraction")
        )
        model = model_info(weights)
        provenance = {
            "software": software(),
            "settings": settings,
            "weights": {Path(weights).name: model["sha256"]},
            "input": [source.as_json() for source in sources],
        }
        run = RunFolder(check_output_dir(self.output_dir, 100e6), settings, provenance, check_outputs(outputs))
        item = {
            "participant_id": name,
            "scan_id": name,
            "dicom": {source.map: list(dict.fromkeys(source.files)) for source in sources},
        }
        write_scan(item, made, run, model, include_identifiers, segment_fraction)
