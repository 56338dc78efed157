"""The commands that the pages and configs tell users to type, and small data and settings to run them with."""

import ast
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import torch
from blobs import BUNDLE, REPOSITORY, write_cohort
from made_predictions import made_predictions
from recorded import RECORDED

from scripts.files.writing import sha256
from scripts.model.networks import QNet, save_weights

PAGES = [
    *(
        REPOSITORY / name
        for name in (
            "README.md",
            "CONTRIBUTING.md",
            "apps/deploy/README.md",
            "apps/bids_app/README.md",
            "apps/nvflare/README.md",
        )
    ),
    *sorted((BUNDLE / "docs").glob("*.md")),
    *sorted((REPOSITORY / "docs").rglob("*.md")),
]
#: Run ids that no page shows, but users may type.
UNWRITTEN = [
    "python -m monai.bundle run image_level --config_file configs/train.yaml --dataset_dir COHORT",
    "python -m monai.bundle run scan_level --config_file configs/train.yaml --dataset_dir COHORT",
    "python -m monai.bundle run folds --dataset_dir COHORT --output_dir OUT"
    " --config_file configs/cross_validation.yaml",
    "python -m monai.bundle run results --dataset_dir COHORT --output_dir OUT"
    " --config_file configs/cross_validation.yaml",
    "python -m monai.bundle run --config_file configs/template.yaml --template template.nii.gz",
]
#: How commands of other programs begin, and who runs them.
OTHERS = {
    "make ": ".ci/run",
    "python -m scripts.settings.command ": "tests/settings/test_settings.py",
    "python3 -m venv ": "make serving-envs",
    "pip install ": "make serving-envs",
    ".venv-deploy/bin/pip install ": "make serving-envs",
    ".venv-deploy/bin/python apps/deploy ": "tests/serving/test_monai_deploy.py",
    ".venv-nvflare/bin/python apps/nvflare/": "tests/training/test_nvflare.py",
    ".venv/bin/python apps/bids_app/run.py ": "tests/bids_app",
    "monailabel ": "tests/serving/test_monai_label.py",
    "cp -r qnet_hemochromatosis ": "tests/serving/test_monai_label.py",
    "curl ": "tests/serving/test_monai_label.py",
    "holoscan package ": "nobody: it needs Docker, which the page says",
}
_BEGIN = re.compile(r"(python3?|torchrun|make|pip|cp|curl|monailabel|holoscan|\.venv\S*)\s")

TRAINING = {
    "num_folds": "2",
    "full_size": "[32,32]",
    "cropped_size": "[32,32]",
    "num_slices": "4",
    "hidden_size": "8",
    "imagenet_weights": "none",
    "image_epochs": "1",
    "image_batch_size": "16",
    "scan_epochs": "1",
    "num_views": "2",
    "val_interval": "1",
}
#: What makes a command quick, by the first config that it names.
TINY = {
    "train": [f"--{key}={value}" for key, value in TRAINING.items()],
    "cross_validation": [f"--training#{key}={value}" for key, value in TRAINING.items()]
    + ["--num_repeats=1", "--folds_on_cpu=2", "--analysis#bootstrap_samples=100"],
    "analyse": ["--bootstrap_samples=100"],
    "compare": ["--bootstrap_samples=100"],
    "localise": ["--num_workers=1"],
    "nuclei": ["--num_workers=1"],
    "reconstruct": ["--num_workers=1"],
    "simulate": [
        "--size=small", "--num_workers=2",
        "--sizes#small={'hh': 2, 'hc': 13, 'men': 9, 'matrix': [96, 96, 24], 'spacing_mm': [2.25, 2.25, 3.0]}",
    ],
    "simulate_raw": [
        "--size=small", "--num_workers=1",
        "--sizes#small={'matrix': [48, 56, 40], 'spacing_mm': [4.0, 4.0, 4.0], 'supersampling': [1, 1, 1]}",
    ],
}  # fmt: skip
#: In which order commands work: each needs what earlier ones made. By run id and first config, and overlay.
ORDER = [
    "ckpt_export", "onnx_export", "template", "simulate", "simulate_raw", "localise", "run nuclei", "reference_curves",
    "inference", "simulate_dicom", "STUDIES", "reconstruct",
    "augmentation_samples", "pretraining", "training", "image_level",
    "scan_level", "evaluate", "contributions", "report", "cross_validation", "folds", "analyse", "compare", "results",
    "calibrate", "ensemble",
]  # fmt: skip


def written() -> list[tuple[str, str]]:
    """Every command in a fenced block of a page or at the head of a config: where it stands, and its one line."""
    found = []
    for page in PAGES:
        for block in re.findall(r"^ *```\w*\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE):
            found += [(page.name, line) for line in _lines(block)]
    for config in sorted((BUNDLE / "configs").glob("*.yaml")):
        head = "\n".join(re.findall(r"^# ?(.*)$", config.read_text(), re.MULTILINE))
        found += [(config.name, line) for line in _lines(head) if _BEGIN.match(line)[1] in ("python", "torchrun")]
    return found + [("tests", line) for line in UNWRITTEN]


def _lines(text: str) -> list[str]:
    lines = [line.strip() for line in re.sub(r"\\\n\s*", " ", text).splitlines()]
    return [re.sub(r"\s+#.*$", "", line) for line in lines if _BEGIN.match(line)]


def bundle_commands() -> list[str]:
    """The commands of `monai.bundle`, each once, in an order in which they work."""
    commands = {" ".join(line.replace(" ...", "").split()) for _, line in written() if "monai.bundle" in line}
    return sorted(commands, key=lambda line: (place(line), line))


def place(command: str) -> int:
    """Where a command stands in ORDER."""
    words = command.split()
    after = words[words.index("monai.bundle") + 1 :]
    run_id = after[1] if after[0] == "run" and not after[1].startswith("-") else "run"
    names = configs(command)
    if after[0] != "run":
        return ORDER.index(after[0])
    if "STUDIES" in words and names == ["inference"]:
        return ORDER.index("STUDIES")
    for key in (run_id, f"{run_id} {names[0]}", *names[::-1]):
        if key in ORDER:
            return ORDER.index(key)
    raise AssertionError(f"say in ORDER when {command} can be run")


def configs(command: str) -> list[str]:
    """Names of a command's configs, without ending."""
    words = shlex.split(command)
    given = words[words.index("--config_file") + 1]
    files = ast.literal_eval(given) if given.startswith("[") else [given]
    return [Path(path).stem for path in files]


class Place:
    """A folder like the repository, where commands find small data and may write what they like."""

    def __init__(self, root: Path, cohort: Path, raw: Path) -> None:
        self.root, self.cohort, self.raw = root, cohort, raw
        self.made = 0
        bundle = root / "bundle"
        bundle.mkdir(parents=True)
        for name in ("configs", "scripts", "docs"):
            (bundle / name).symlink_to(BUNDLE / name)
        shutil.copytree(BUNDLE / "models", bundle / "models")
        self.other = write_cohort(root / "other", len(list(cohort.glob("sub-*"))) + 2, seed=1)

    def words(self, command: str) -> tuple[Path, list[str]]:
        """The folder to type a command in, and its words with names filled in and small settings."""
        words, names = shlex.split(command), configs(command)
        here = self.root if "bundle/configs" in command else self.root / "bundle"
        simulated = self.root / "bundle" / "SIMULATED"
        heads = names[0] in ("localise", "nuclei")
        fixed = {
            "COHORT": simulated if heads else self.cohort,
            "MAPS": simulated if heads else self.cohort,
            "OTHER": self.other,
            "TRAINING_COHORT": self.cohort,
            "SCANS": self.cohort,
            "OUT": self.root / "out",
            "OUT2": self.root / "out2",
            "RESULTS": self.root / "results",
            "RAW": self.raw,
            "STUDIES": self.root / "studies",
            "TRAINING_OUTPUT": simulated,
        }
        filled = []
        for before, word in zip(["", *words], words, strict=False):
            name = word.split("/")[0]
            own = names[0] in ("simulate_raw", "reconstruct") or (names[0] == "cross_validation" and names[1:])
            if before == "--evaluation_dir" or (before == "--output_dir" and own):  # others write the same names
                word = str(self._fresh())
            elif before == "--output_dir" and name in ("RESULTS", "STUDIES"):
                word = str(self._fresh() if fixed[name].exists() else fixed[name])
            elif before == "--output_dir" and names[0] == "simulate":
                word = str(self._fresh() if simulated.exists() else simulated)
            elif name in fixed:
                word = str(Path(fixed[name], *word.split("/")[1:]))
            filled.append(word)
        filled += [word for word in TINY.get(names[0], []) if word.split("=")[0] not in words]
        if (
            names[0] == "train"
            and place(command) == ORDER.index("training")
            and (names[1:] or here == self.root or {"--image_model", "--maps", "--imagenet_weights"} & set(words))
        ):
            filled += ["--output_dir", str(self._fresh()), "--ckpt_dir", str(self._fresh())]
        if "calibrate" in names:  # of more subjects than the small cohort has
            table = self._fresh() / "predictions.csv"
            table.parent.mkdir()
            made_predictions(subjects=24).to_csv(table, index=False)
            filled += ["--calibrate_on", str(table)]
        if names[0] == "compare":  # with another recipe's run of the same folds
            shutil.copytree(fixed["OUT"], fixed["OUT2"])
            table = pd.read_csv(fixed["OUT2"] / "predictions.csv")
            table.assign(probability_HH=0.9 * table["probability_HH"]).to_csv(
                fixed["OUT2"] / "predictions.csv", index=False
            )
        if names[0] == "ensemble":
            members = [self._fresh() / "model.pt" for _ in range(2)]
            for path in members:
                save_weights(QNet(num_slices=4, hidden_size=8), path, torch.float16)
                record = {
                    "settings": RECORDED | {"num_slices": 4, "hidden_size": 8},
                    "weights": {"model.pt": sha256(path)},
                }
                path.with_suffix(".json").write_text(json.dumps(record))
            filled[filled.index("--members") + 1] = str([str(path) for path in members])
        if names[1:] == ["report"]:  # of an inference by the weights that were trained here
            self._infer(inferred := self._fresh())
            at = filled.index("--inference_dir") if "--inference_dir" in filled else len(filled)
            filled[at : at + 2] = ["--inference_dir", str(inferred)]
        if names == ["inference", "small"]:  # with weights of that overlay
            save_weights(QNet(num_slices=8), weights := self._fresh() / "model.pt", torch.float16)
            filled += ["--weights", str(weights), "--weights_record", "config"]
        if names[0] == "simulate_dicom":
            filled += ["--slab", "basalganglia"]
        if "STUDIES" in words and names == ["inference"]:
            filled += ["--localise", "whole"]
        return here, filled

    def _infer(self, folder: Path) -> None:
        words = ["--config_file", "configs/inference.yaml", "--input", str(self.cohort), "--output_dir", str(folder)]
        words += [f"--{key}={TRAINING[key]}" for key in ("full_size", "cropped_size", "num_slices", "hidden_size")]
        command = [sys.executable, "-m", "monai.bundle", "run", *words, "--nuclei", "known"]
        subprocess.run(command, cwd=self.root / "bundle", check=True, capture_output=True)

    def _fresh(self) -> Path:
        self.made += 1
        return self.root / f"made-{self.made}"

    def name_controls(self) -> None:
        """`training.tsv` of the simulated cohort: everybody, as a training would leave it."""
        folder = self.root / "bundle" / "SIMULATED"
        if (folder / "participants.tsv").exists():
            shutil.copy(folder / "participants.tsv", folder / "training.tsv")


def run_ids() -> dict[str, list[str]]:
    """What the pages run, by config."""
    found: dict[str, list[str]] = {}
    for command in bundle_commands():
        words = command.split()
        after = words[words.index("monai.bundle") + 1 :]
        if after[0] == "run":
            for name in configs(command):
                found.setdefault(name, []).append("run" if after[1].startswith("-") else after[1])
    return found
