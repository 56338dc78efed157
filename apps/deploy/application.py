"""The application: which operators there are, and what flows between them."""

import sys
from pathlib import Path
from typing import Any

from bundle_folder import find_bundle, inference_config
from monai.deploy.conditions import CountCondition
from monai.deploy.core import Application
from monai.deploy.operators.dicom_data_loader_operator import DICOMDataLoaderOperator
from monai.deploy.operators.dicom_series_selector_operator import DICOMSeriesSelectorOperator


class QNetApplication(Application):
    """DICOM study in; prediction, evidence and reports out.

    `loader -> selector -> stack -> bundle -> writer`: the first two are the SDK's, the stack and the writer call the
    bundle's own functions, and the bundle runs in the SDK's `MonaiBundleInferenceOperator`.
    """

    name = "qnet_hemochromatosis"

    def __init__(self, argv: list[str], *args: Any, **kwargs: Any) -> None:
        self.context = Application.init_app_context(argv)
        self.bundle = find_bundle(Path(self.context.model_path))
        self.context.models = None  # the SDK takes the folder itself for a network; its operator loads the right one
        sys.path.insert(0, str(self.bundle))  # the operators below import the bundle's `scripts`
        super().__init__(*args, **kwargs)

    def compose(self) -> None:
        from bundle_operator import QNetBundleOperator
        from result_writer_operator import ResultWriterOperator
        from selection_rules import selection_rules
        from stack_series_operator import StackSeriesOperator

        config = inference_config(self.bundle)
        rules, maps = config.get_parsed_content("dicom_rules"), config.get_parsed_content("maps")
        study, out = Path(self.context.input_path), Path(self.context.output_path)
        loader = DICOMDataLoaderOperator(self, CountCondition(self, 1), input_folder=study, name="loader")
        selections = selection_rules(rules, maps)
        selector = DICOMSeriesSelectorOperator(self, rules=selections, all_matched=True, name="selector")
        stack = StackSeriesOperator(self, input_dir=study, rules=rules, maps=maps, name="stack")
        bundle = QNetBundleOperator(self, app_context=self.context, bundle=self.bundle, name="bundle")
        writer = ResultWriterOperator(self, input_dir=study, output_dir=out, bundle=self.bundle, name="writer")
        self.add_flow(loader, selector, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(selector, stack, {("study_selected_series_list", "study_selected_series_list")})
        self.add_flow(stack, bundle, {("image", "image")})
        self.add_flow(bundle, writer, {("pred", "result")})
        self.add_flow(stack, writer, {("source", "source")})


def main() -> None:
    """Run the application on the command line's arguments; bad input ends it with one line and status 1."""
    try:
        QNetApplication(sys.argv).run()
    except Exception as error:
        message = one_line(error)
        if message is None:
            raise
        sys.exit(f"error: {message}")


def one_line(error: Exception) -> str | None:
    """The bundle's one-line message about bad input, if that is what ended the application."""
    from scripts.errors import input_error_in

    found = input_error_in(error)
    return None if found is None else str(found)
