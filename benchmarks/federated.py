"""Federated averaging of three simulated sites by MONAI's client, against one site alone and all scans in one place.

    python benchmarks/federated.py --output benchmarks/results/federated.json [--subjects 120] [--keep FOLDER]

Each arm trains both stages of its own for the same epochs, and is tested on scans of all sites that no arm saw (another
seed), with DeLong's interval and paired test against the federated model. One process runs all sites in turn, so no
server and no network is timed: `overhead` is a round (weights in, training, weights out) over training the same epochs
without. Numbers are simulated. `--keep` keeps cohorts and weights, and goes on with them; `--tiny`: does it run?
"""

import argparse
import sys
import tempfile
import time
from copy import deepcopy
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUNDLE = HERE.parent / "bundle"
sys.path.insert(0, str(BUNDLE))

import pandas as pd  # noqa: E402
import torch  # noqa: E402
import yaml  # noqa: E402
from monai.bundle import ConfigParser, ConfigWorkflow  # noqa: E402
from monai.data import Dataset  # noqa: E402
from monai.fl.client import MonaiAlgo  # noqa: E402
from monai.fl.utils.exchange_object import ExchangeObject  # noqa: E402

from scripts.evaluation.auc import compare, delong, interval  # noqa: E402
from scripts.evaluation.predict import predict  # noqa: E402
from scripts.files.writing import write_json  # noqa: E402
from scripts.maps.bids import labelled_scans  # noqa: E402
from scripts.maps.scan import items  # noqa: E402
from scripts.model.networks import load_weights  # noqa: E402
from scripts.provenance import read_record, software  # noqa: E402
from scripts.training.federated import write_model, write_stage_1  # noqa: E402

Weights = dict[str, torch.Tensor]
#: Rounds whose time is compared.
OVERHEAD_ROUNDS = 3
SETTINGS = {  # of configs/small.yaml, but for the folds
    "num_folds": 10,
    "full_size": [72, 72],
    "cropped_size": [48, 48],
    "num_slices": 8,
    "image_batch_size": 16,
    "num_views": 4,
    "precision": "auto",
}
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


def start_of(site: MonaiAlgo) -> Weights:
    return {name: value.detach().cpu().clone() for name, value in site.trainer.network.state_dict().items()}


def link_cohorts(root: Path) -> list[Path]:
    """A cohort a site, of links into the whole one."""
    people = pd.read_csv(root / "pooled" / "cohort" / "participants.tsv", sep="\t")
    folders = []
    for site, own in people.groupby("site"):
        cohort = root / str(site) / "cohort"
        folders.append(cohort.parent)
        if cohort.is_dir():
            continue
        (cohort / "derivatives" / "basalganglia").mkdir(parents=True)
        own.to_csv(cohort / "participants.tsv", sep="\t", index=False)
        for name in own["participant_id"]:
            whole = root / "pooled" / "cohort"
            (cohort / name).symlink_to(whole / name)
            (cohort / "derivatives" / "basalganglia" / name).symlink_to(whole / "derivatives" / "basalganglia" / name)
    return folders


def simulate(output: Path, subjects: int, seed: int) -> None:
    """A cohort of three sites, both groups alike, where it is not there yet."""
    if (output / "participants.tsv").is_file():
        return
    half = subjects // 2
    size = {"hh": half, "hc": half, "men": half, "matrix": [144, 144, 24], "spacing_mm": [1.5, 1.5, 3.0]}
    sites = yaml.safe_load((BUNDLE / "configs" / "simulate_sites.yaml").read_text())["sites"]
    simulation = ConfigWorkflow(
        str(BUNDLE / "configs" / "simulate.yaml"), logging_file=False, bundle_root=str(BUNDLE), output_dir=str(output),
        sizes={"small": size}, sites=sites, seed=seed,
    )  # fmt: skip
    simulation.initialize()
    simulation.run()


def arm(folders: list[Path], root: Path, rounds: int, epochs: dict[str, int], keys: dict) -> Path:
    """Both stages of one arm, from the same start; returns its weights, which a kept folder may hold already."""
    own = dict(keys)
    settings = {"rounds": rounds, "epochs": epochs, "keys": keys, "software": software()}
    if read_record(root / "settings.json") == settings:
        return root / "model.pt"
    clients = [client("fl_image_level", folder, epochs["stage 1"], own) for folder in folders]
    weights, _ = federate(clients, start_of(clients[0]), rounds)
    write_stage_1(weights, clients[0].trainer.network, root / "stage_1.pt")
    own["embedding_weights"] = str(root / "stage_1.pt")
    clients = [client("fl_scan_level", folder, epochs["stage 2"], own) for folder in folders]
    weights, _ = federate(clients, start_of(clients[0]), rounds)
    network = clients[0].train_workflow.parser.get_parsed_content("network_def")
    write_model(weights, network, root / "stage_1.pt", root / "model.pt")
    write_json(root / "settings.json", settings)  # last: the arm is whole
    return root / "model.pt"


def tested(models: dict[str, Path], cohort: Path, keys: dict) -> pd.DataFrame:
    """Scan-level probabilities of all arms, for every scan of a cohort."""
    parser = ConfigParser(ConfigParser.load_config_file(str(BUNDLE / "configs" / "train.yaml")))
    parser.update({**keys, "bundle_root": str(BUNDLE), "dataset_dir": str(cohort), "localise": "annotated"})
    network = parser.get_parsed_content("network_def")
    networks = {name: load_weights(deepcopy(network), path) for name, path in models.items()}
    scans = Dataset(items(labelled_scans(cohort)), parser.get_parsed_content("preprocessing"))
    where = {"repeat": 0, "fold": 0, "region": "cropped"}
    table = pd.DataFrame(predict(scans, networks, torch.device("cpu"), where))
    return table[table["slice"] == ""].pivot(
        index=["participant_id", "label"], columns="model", values="probability_HH"
    )


def compared(table: pd.DataFrame) -> dict[str, dict[str, float]]:
    """AUC of each arm with its interval, and its paired test against the federated one."""
    names = list(table)
    aucs = delong(table.index.get_level_values("label").to_numpy(), table.to_numpy().T[:, None])
    found = {}
    for place, name in enumerate(names):
        low, high = interval(aucs.values[place], aucs.covariance[place, place])
        found[name] = {"auc": float(aucs.values[place]), "ci_low": float(low), "ci_high": float(high)}
        if name != "federated":
            found[name]["p_against_federated"] = float(compare(aucs, names.index("federated"), place).p)
    return found


def overhead(folder: Path, rounds: int, epochs: int, keys: dict) -> float:
    """Seconds of the rounds of one site over those of the same epochs in one go, stage 1."""
    once = client("fl_image_level", folder, epochs * rounds, keys)
    began = time.perf_counter()
    once.train(travelling(start_of(once)))
    local = time.perf_counter() - began
    again = client("fl_image_level", folder, epochs, keys)
    return federate([again], start_of(again), rounds)[1] / local


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--subjects", type=int, default=120)
    parser.add_argument("--test_subjects", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--epochs", type=int, nargs=2, default=[2, 4], help="of each round at each site, by stage")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    keys: dict = dict(TINY if given.tiny else SETTINGS)
    epochs = dict(zip(("stage 1", "stage 2"), given.epochs, strict=True))
    with tempfile.TemporaryDirectory() as scratch:
        root = (given.keep or Path(scratch)).resolve()
        simulate(root / "pooled" / "cohort", given.subjects, 1)
        simulate(root / "test", given.test_subjects, 2)
        folders = link_cohorts(root)
        arms = {
            **{f"only {folder.name}": [folder] for folder in folders},
            "federated": folders,
            "pooled": [root / "pooled"],
        }
        models = {}
        for name, members in arms.items():
            place = root / "arms" / name.replace(" ", "_")
            place.mkdir(parents=True, exist_ok=True)
            models[name] = arm(members, place, given.rounds, epochs, keys)
            print(name, "trained", flush=True)
        counts = {name: sum(len(labelled_scans(folder / "cohort")) for folder in arms[name]) for name in arms}
        results = compared(tested(models, root / "test", keys))
        ratio = overhead(folders[0], OVERHEAD_ROUNDS, epochs["stage 1"], keys)
    for name, row in results.items():
        print(f"{name:12} AUC {row['auc']:.3f} ({row['ci_low']:.3f} to {row['ci_high']:.3f}), simulated")
    print(f"rounds over local training: {ratio:.3f}")
    if given.output:
        about = {
            "simulated": True,
            "subjects": given.subjects,
            "test_subjects": given.test_subjects,
            "trained_on": counts,
            "rounds": given.rounds,
            "overhead_rounds": OVERHEAD_ROUNDS,
            "epochs_of_a_round": epochs,
            "settings": keys,
            "software": software(),
        }
        write_json(given.output, {**about, "scans": results, "round_over_local_training": ratio})


if __name__ == "__main__":
    main()
