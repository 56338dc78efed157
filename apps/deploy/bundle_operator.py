"""The SDK's operator for MONAI bundles, handing on all that the bundle's postprocessing makes."""

from pathlib import Path
from typing import Any

from monai.data import decollate_batch
from monai.deploy.core import AppContext, Fragment, Image, IOType
from monai.deploy.operators.monai_bundle_inference_operator import IOMapping, MonaiBundleInferenceOperator


class QNetBundleOperator(MonaiBundleInferenceOperator):
    """Runs `configs/inference.yaml` of the bundle: its preprocessing, network, inferer and postprocessing, unchanged.

    The SDK's operator sends an output that metadata.json calls probabilities as a list of class names; Q-Net's
    postprocessing makes more than that, so both are sent: the plain result and the evidence volume.

    Named input:
        image: `Image` `[C, W, H, D]` from `StackSeriesOperator`.
    Named output:
        pred: what the postprocessing made: `result`, `pred` (evidence `[1, W, H, D]` on the series' grid), and
            `evidence` and `image`, both on the network's grid.
    """

    def __init__(self, fragment: Fragment, *args: Any, app_context: AppContext, bundle: Path, **kwargs: Any) -> None:
        super().__init__(
            fragment,
            *args,
            app_context=app_context,
            input_mapping=[IOMapping("image", Image, IOType.IN_MEMORY)],
            output_mapping=[IOMapping("pred", dict, IOType.IN_MEMORY)],
            bundle_path=bundle,
            **kwargs,
        )

    def _get_compose(self, obj_name: str, disallowed_prefixes: Any) -> Any:
        """A list of transforms from the config, which must know where the bundle lies: the SDK does not tell it."""
        self.parser["bundle_root"] = str(self.bundle_path)
        return super()._get_compose(obj_name, disallowed_prefixes)

    def predict(self, data: Any, *args: Any, **kwargs: Any) -> tuple[Any]:
        """The output of the inferer in a tuple: the SDK goes on with the first item of what it gets, here the whole."""
        return (super().predict(data, *args, **kwargs),)

    def post_process(self, data: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """One scan's output of the inferer through the bundle's postprocessing."""
        item = {"pred": decollate_batch(data)[0], **kwargs[self.kw_preprocessed_inputs]}
        return {"pred": self._postproc(item)}

    def _send_output(self, value: Any, name: str, metadata: dict, op_output: Any, context: Any) -> None:
        op_output.emit(value, name)
