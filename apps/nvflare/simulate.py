#!/usr/bin/env python3
"""Both stages of Q-Net federated by NVIDIA FLARE's simulator: one server and all sites on this machine.

    apps/nvflare/simulate.py --site north=COHORT --site south=COHORT2 --output_dir OUT [--rounds 8] [--epochs 1]
        [--set KEY=VALUE ...]

Writes OUT/stage_1.pt, and OUT/model.pt with model.json for inference.yaml. Research use only, not for clinical use.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from nvflare.app_opt.pt.file_model_persistor import PTFileModelPersistor
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.recipe import SimEnv, set_per_site_config

HERE = Path(__file__).resolve().parent
BUNDLE = Path(os.environ.get("QNET_BUNDLE") or HERE.parents[1] / "bundle")
sys.path.insert(0, str(BUNDLE))

from monai.bundle import ConfigWorkflow  # noqa: E402

from scripts.errors import InputError, input_error_in  # noqa: E402
from scripts.files.writing import write_json  # noqa: E402
from scripts.provenance import cohort_fingerprint, sha256, software  # noqa: E402
from scripts.runs.outputs import claim  # noqa: E402
from scripts.settings.check import Known  # noqa: E402
from scripts.training.federated import with_embedding, write_model, write_stage_1  # noqa: E402

Weights = dict[str, torch.Tensor]
#: Keys of train.yaml that each site gets from here.
MANAGED = ("bundle_root", "dataset_dir", "output_dir", "ckpt_dir", "embedding_weights")


def of_training(overlay: str, keys: dict[str, Any], *names: str) -> list[Any]:
    """What train.yaml with a stage's overlay makes of its keys, as a site has it."""
    files = [str(BUNDLE / "configs" / f"{file}.yaml") for file in ("train", overlay)]
    workflow: Any = ConfigWorkflow(files, logging_file=False, bundle_root=str(BUNDLE), **keys)
    return [workflow.parser.get_parsed_content(name) for name in names]


def write_model_record(path: Path, sites: dict[str, Path], keys: dict[str, Any]) -> None:
    """Write beside the model what inference needs to know: the input and the networks that it was trained with."""
    names = ("network_input", "image_model", "scan_model", "hidden_size")
    network_input, *models = of_training("fl_scan_level", keys, *names)
    cohorts = {name: cohort_fingerprint(cohort) for name, cohort in sites.items()}
    content = {
        "software": software(),
        "settings": {**network_input, **dict(zip(names[1:], models, strict=True))},
        "weights": {"model.pt": sha256(path.with_name("model.pt"))},
        "input": {
            "name": f"{len(sites)} federated sites",
            "simulated": all(cohort["simulated"] for cohort in cohorts.values()),
            "maps": sum(int(cohort["maps"]) for cohort in cohorts.values()),
            "sites": cohorts,
        },
    }
    write_json(path, content)


def federate(
    overlay: str,
    start: Weights,
    sites: dict[str, dict[str, Any]],
    folder: Path,
    rounds: int,
    epochs: int,
) -> Weights:
    """Federated averaging by FLARE, sites weighed by their samples.

    Args:
        overlay: `fl_image_level` or `fl_scan_level`.
        start: the server's first weights.
        sites: name -> what train.yaml is given there.
        folder: for what FLARE writes, and each site's settings.
        rounds: of the server.
        epochs: of each round, at each site.

    Returns:
        The weights of the last round.

    Raises:
        InputError: a site or the server stopped; what FLARE printed and its logs say why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(start, folder / f"{overlay}_start.pt")
    recipe = FedAvgRecipe(
        name=overlay, min_clients=len(sites), num_rounds=rounds, key_metric="val_auc",
        train_script=str(HERE / "federated_site.py"),
        model_persistor=PTFileModelPersistor(source_ckpt_file_full_name=str(folder / f"{overlay}_start.pt")),
    )  # fmt: skip
    arguments = {}
    for name, keys in sites.items():
        path = folder / f"{overlay}_{name}.json"
        settings = {"bundle_root": str(BUNDLE), "overlay": overlay, "local_epochs": epochs, "keys": keys}
        path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        arguments[name] = {"train_args": f"--settings {path.resolve().as_uri()}"}  # FLARE splits at spaces
    set_per_site_config(recipe, arguments)
    recipe.execute(SimEnv(clients=list(sites), num_threads=len(sites), workspace_root=str(folder)))
    made = folder / overlay / "server" / "simulate_job" / "app_server" / "FL_global_model.pt"
    if not made.is_file():
        raise InputError(f"{overlay}: no round was finished; see log.txt of the server and the sites in {folder.name}/")
    averaged = torch.load(made, map_location="cpu", weights_only=True)["model"]
    return {name: torch.as_tensor(averaged[name]).to(value.dtype) for name, value in start.items()}  # counts, averaged


def checked(keys: dict[str, Any]) -> dict[str, Any]:
    """Keys of train.yaml as each wants its value.

    Raises:
        InputError: one that does not exist or is set here, or a value that it cannot have.
    """
    known = Known([str(BUNDLE / "configs" / f"{file}.yaml") for file in ("train", "fl_image_level", "fl_scan_level")])
    for key in keys:
        if key in MANAGED:
            raise InputError(f"--set {key}: is set for each site from --site and --output_dir; leave it out")
    return {key: known.checked(key.split("#"), value, f"--set {key}") for key, value in keys.items()}


def check_sites(sites: dict[str, dict[str, Any]]) -> None:
    """Before FLARE starts: every site's cohort can be read and split.

    Raises:
        InputError: one cannot, with the site's name in front.
    """
    for name, keys in sites.items():
        try:
            of_training("fl_image_level", keys, "split")
        except Exception as error:
            if (known := input_error_in(error)) is None:
                raise
            raise InputError(f"--site {name}: {known}") from error


def pair(text: str, what: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise InputError(f"--{what} {text}: give NAME=VALUE")
    return name, value


def run(sites: dict[str, Path], output_dir: Path, rounds: int, epochs: int, keys: dict[str, Any]) -> None:
    """Stage 1, then stage 2 on its embedding, then one model; see above."""
    if len(sites) < 2:
        raise InputError("--site: one site is no federation; give at least two, each with its own cohort")
    if len(str(output_dir).split()) > 1:
        raise InputError(
            f"--output_dir {output_dir}: FLARE's simulator takes no folder with spaces in its path; give another"
        )
    written = ("stage_1.pt", "model.pt", "model.json", "nvflare", "sites")
    claim({"output_dir": output_dir}, {"site": [str(cohort) for cohort in sites.values()]}, {"output_dir": written})
    stages, weights = output_dir / "nvflare", output_dir / "stage_1.pt"
    own: dict[str, dict[str, Any]] = {
        name: {
            "dataset_dir": str(cohort.resolve()),
            "output_dir": str(output_dir / "sites" / name),
            "ckpt_dir": str(output_dir / "sites" / name / "models"),
            **keys,
        }
        for name, cohort in sites.items()
    }
    check_sites(own)
    first_keys = next(iter(own.values()))
    (first,) = of_training("fl_image_level", first_keys, "image#network_def")
    first = first.cpu()
    state = federate("fl_image_level", first.state_dict(), own, stages, rounds, epochs)
    write_stage_1(state, first, weights)
    own = {name: {**given, "embedding_weights": str(weights)} for name, given in own.items()}
    second_keys = {**first_keys, "embedding_weights": str(weights)}
    whole = with_embedding(of_training("fl_scan_level", second_keys, "network_def")[0].cpu(), weights)
    state = federate("fl_scan_level", whole.sequence.state_dict(), own, stages, rounds, epochs)
    write_model(state, whole, weights, output_dir / "model.pt")
    write_model_record(output_dir / "model.json", sites, second_keys)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--site", action="append", required=True, metavar="NAME=COHORT")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=1, help="of each round, at each site")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a key of train.yaml")
    given = parser.parse_args()
    try:
        named = [pair(text, "site") for text in given.site]
        sites = {name: Path(cohort) for name, cohort in named}
        if len(sites) < len(named):
            raise InputError("--site: two sites have one name; give each its own")
        keys = checked({key: yaml.safe_load(value) for key, value in (pair(text, "set") for text in given.set)})
        run(sites, given.output_dir.resolve(), given.rounds, given.epochs, keys)
    except InputError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
