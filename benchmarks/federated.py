"""Federated averaging of three simulated sites by MONAI's client, against one site alone and all scans in one place.

    python benchmarks/federated.py --output benchmarks/results/federated.json [--subjects 120] [--rounds 8]

One process runs all sites in turn, so no server and no network is timed: `overhead` is a round (weights in, training,
weights out) over training the same epochs without. Numbers are simulated. `--tiny` tries whether it runs.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUNDLE = HERE.parent / "bundle"
sys.path.insert(0, str(BUNDLE))

import pandas as pd  # noqa: E402
import torch  # noqa: E402
import yaml  # noqa: E402
from monai.bundle import ConfigWorkflow  # noqa: E402
from monai.fl.client import MonaiAlgo  # noqa: E402
from monai.fl.utils.exchange_object import ExchangeObject  # noqa: E402

from scripts.provenance import software  # noqa: E402
from scripts.training.federated import write_stage_1  # noqa: E402

Weights = dict[str, torch.Tensor]
SETTINGS = {"num_folds": 4, "full_size": [128, 128], "cropped_size": [64, 64], "num_slices": 16, "num_views": 4}
TINY = {
    "num_folds": 2,
    "full_size": [32, 32],
    "cropped_size": [32, 32],
    "num_slices": 4,
    "hidden_size": 8,
    "num_views": 2,
}


def client(overlay: str, folder: Path, epochs: int, keys: dict) -> MonaiAlgo:
    """MONAI's client on the cohort in a folder."""
    files = ["configs/train.yaml", f"configs/{overlay}.yaml"]
    given = {"bundle_root": str(BUNDLE), "dataset_dir": str(folder / "cohort"), "localise": "annotated",
             "output_dir": str(folder / "out"), "ckpt_dir": str(folder / "models"), **keys}  # fmt: skip
    algo = MonaiAlgo(
        bundle_root=str(BUNDLE), local_epochs=epochs, send_weight_diff=False, config_train_filename=files,
        train_kwargs=dict(given), config_evaluate_filename=files, eval_kwargs=dict(given), eval_workflow_name="train",
    )  # fmt: skip
    algo.initialize({"CLIENT_NAME": folder.name})
    return algo


def travelling(weights: Weights) -> ExchangeObject:
    return ExchangeObject(weights={name: value.numpy() for name, value in weights.items()})


def federate(sites: list[MonaiAlgo], start: Weights, rounds: int) -> tuple[Weights, float]:
    """Federated averaging, sites weighed by their scans. Returns the weights and the seconds of all rounds."""
    state, began = start, time.perf_counter()
    sizes = [len(site.train_workflow.parser.get_parsed_content("train#dataset")) for site in sites]
    for _ in range(rounds):
        made = []
        for site in sites:
            site.train(travelling(state))
            made.append(site.get_weights().weights)
        state = {
            name: sum(torch.as_tensor(own[name]).double() * n for own, n in zip(made, sizes, strict=True))
            .div(sum(sizes)).to(value.dtype)
            for name, value in state.items()
        }  # fmt: skip
    return state, time.perf_counter() - began


def auc(sites: list[MonaiAlgo], weights: Weights) -> float:
    """Mean AUC on the held-out subjects of each site."""
    found = [site.evaluate(travelling(weights)).metrics["val_auc"] for site in sites]
    return float(sum(found) / len(found))


def start_of(site: MonaiAlgo) -> Weights:
    return {name: value.detach().cpu().clone() for name, value in site.trainer.network.state_dict().items()}


def link_cohorts(root: Path) -> list[Path]:
    """A cohort a site, of links into the whole one."""
    people = pd.read_csv(root / "pooled" / "cohort" / "participants.tsv", sep="\t")
    folders = []
    for site, own in people.groupby("site"):
        cohort = root / str(site) / "cohort"
        (cohort / "derivatives" / "basalganglia").mkdir(parents=True)
        own.to_csv(cohort / "participants.tsv", sep="\t", index=False)
        for name in own["participant_id"]:
            whole = root / "pooled" / "cohort"
            (cohort / name).symlink_to(whole / name)
            (cohort / "derivatives" / "basalganglia" / name).symlink_to(whole / "derivatives" / "basalganglia" / name)
        folders.append(cohort.parent)
    return folders


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--subjects", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=1, help="of each round, at each site")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    keys: dict = dict(TINY if given.tiny else SETTINGS)
    with tempfile.TemporaryDirectory() as folder:
        root, half = Path(folder), given.subjects // 2
        size = {"hh": half, "hc": half, "men": half, "matrix": [144, 144, 24], "spacing_mm": [1.5, 1.5, 3.0]}
        sites = yaml.safe_load((BUNDLE / "configs" / "simulate_sites.yaml").read_text())["sites"]
        config, output = str(BUNDLE / "configs" / "simulate.yaml"), str(root / "pooled" / "cohort")
        simulation = ConfigWorkflow(
            config, logging_file=False, bundle_root=str(BUNDLE), sizes={"small": size}, sites=sites, output_dir=output
        )
        simulation.initialize()
        simulation.run()
        folders, results = link_cohorts(root), {}
        for stage, overlay in (("stage 1", "fl_image_level"), ("stage 2", "fl_scan_level")):
            clients = [client(overlay, site, given.epochs, keys) for site in folders]
            pooled = client(overlay, root / "pooled", given.epochs, keys)
            start = start_of(clients[0])
            found: dict[str, float] = {}
            weights, seconds = federate(clients, start, given.rounds)
            found["federated"] = auc(clients, weights)
            alone = client(overlay, folders[0], given.epochs * given.rounds, keys)
            began = time.perf_counter()
            alone.train(travelling(start))
            local = time.perf_counter() - began
            found[f"only {folders[0].name}"] = auc(clients, alone.get_weights().weights)
            first_seconds = federate([client(overlay, folders[0], given.epochs, keys)], start, given.rounds)[1]
            found["round over local training"] = first_seconds / local
            found["pooled"] = auc(clients, federate([pooled], start, given.rounds)[0])
            found["seconds of all rounds"] = seconds
            results[stage] = found
            if stage == "stage 1":
                write_stage_1(weights, clients[0].trainer.network, root / "stage_1.pt")
                keys["embedding_weights"] = str(root / "stage_1.pt")
            print(stage, {name: round(value, 3) for name, value in found.items()}, "simulated")
    if given.output:
        about = {"simulated": True, "subjects": given.subjects, "rounds": given.rounds, "software": software()}
        given.output.write_text(json.dumps({**about, "auc_and_overhead": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
