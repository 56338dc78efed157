"""The bundle below the model path, which is the bundle itself or, in a packaged application, its parent; its config."""

import sys
from pathlib import Path

from monai.bundle import ConfigParser

NEEDED = (
    *("configs/inference.yaml", "configs/metadata.json", "models/model.pt", "models/model.json"),
    "scripts/__init__.py",
)


def find_bundle(model_path: Path) -> Path:
    """The bundle's folder. Ends the program with one line if there is none, or more than one."""
    candidates = [model_path, *sorted(model_path.glob("*"))] if model_path.is_dir() else []
    found = [folder for folder in candidates if all((folder / name).is_file() for name in NEEDED)]
    if len(found) != 1:
        sys.exit(
            f"error: {model_path}: holds {len(found)} Q-Net bundles where one is due; give -m the bundle's folder"
            f" (with {', '.join(NEEDED)})"
        )
    return found[0].resolve()


def inference_config(bundle: Path) -> ConfigParser:
    """The bundle's `configs/inference.yaml`, ready to give single settings."""
    config = ConfigParser()
    config.read_config(bundle / "configs" / "inference.yaml")
    config["bundle_root"] = str(bundle)
    return config
