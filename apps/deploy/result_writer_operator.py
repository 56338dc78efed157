"""Writes what a reader of the study gets."""

from pathlib import Path
from typing import Any

from monai.deploy.core import Fragment, Operator, OperatorSpec

from scripts.inference import save_nifti
from scripts.provenance import sha256, software, write_aside, write_json


class ResultWriterOperator(Operator):
    """Writes `<study>_prediction.json` and `<study>_evidence.nii.gz`.

    Named inputs:
        result: from `QNetBundleOperator`.
        source: from `StackSeriesOperator`.
    """

    def __init__(self, fragment: Fragment, *args: Any, output_dir: Path, bundle: Path, **kwargs: Any) -> None:
        self.output_dir = output_dir
        self.weights = bundle / "models" / "model.pt"
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("result")
        spec.input("source")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        made = op_input.receive("result")
        name, sources = op_input.receive("source")
        provenance = {"software": software(), "weights": {self.weights.name: sha256(self.weights)}}
        write_aside(self.output_dir / f"{name}_evidence.nii.gz", lambda part: save_nifti(made["evidence"], part))
        write_json(
            self.output_dir / f"{name}_prediction.json",
            {
                "scan_id": name,
                **made["result"],
                "source": [source.as_json() for source in sources],
                "provenance": provenance,
            },
        )
