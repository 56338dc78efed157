"""One site in NVIDIA FLARE: MONAI's own client (`monai.fl.client.MonaiAlgo`) behind FLARE's client API.

    federated_site.py --settings FILE.json     # or its file: address; started by FLARE, not by hand

The settings are the site's own: `bundle_root`, `overlay` (`fl_image_level` or `fl_scan_level`), `local_epochs`, and in
`keys` what train.yaml is given there (`dataset_dir`, `output_dir`, `ckpt_dir`, ...). What leaves the site are weights,
the AUC of the received weights on its held-out subjects, and how many samples it trains on. Research use only.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import nvflare.client as flare
import torch
from monai.fl.client import MonaiAlgo
from monai.fl.utils.exchange_object import ExchangeObject
from nvflare.apis.fl_constant import FLMetaKey


def client(settings: dict[str, Any], name: str) -> MonaiAlgo:
    """MONAI's client on the site's own cohort, ready for the first round.

    Args:
        settings: as above.
        name: of the site.

    Raises:
        InputError: as training has them: a cohort of one group only, no weights of stage 1, an unknown key.
    """
    root = settings["bundle_root"]
    sys.path.insert(0, root)  # the configs name code in its scripts/
    files = ["configs/train.yaml", f"configs/{settings['overlay']}.yaml"]
    given = {"bundle_root": root, **settings["keys"]}
    algo = MonaiAlgo(
        bundle_root=root, local_epochs=settings["local_epochs"], send_weight_diff=False, config_train_filename=files,
        train_kwargs=dict(given), config_evaluate_filename=files, eval_kwargs=dict(given), eval_workflow_name="train",
    )  # fmt: skip
    algo.initialize({"CLIENT_NAME": name})
    return algo


def travelling(weights: dict[str, Any]) -> ExchangeObject:
    """Weights as MONAI's client takes them: NumPy arrays."""
    return ExchangeObject(weights={name: torch.as_tensor(value).numpy() for name, value in weights.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--settings", required=True)
    given = parser.parse_args().settings
    path = url2pathname(urlparse(given).path) if given.startswith("file:") else given
    settings = json.loads(Path(path).read_text(encoding="utf-8"))
    flare.init()
    algo = client(settings, flare.get_site_name())
    workflow: Any = algo.train_workflow
    samples = len(workflow.parser.get_parsed_content("train#dataset"))
    while flare.is_running():
        received = flare.receive()
        if received is None:
            break
        tested = algo.evaluate(travelling(received.params)).metrics["val_auc"]
        algo.train(travelling(received.params))
        made = {name: torch.as_tensor(value) for name, value in algo.get_weights().weights.items()}
        flare.send(
            flare.FLModel(
                params=made,
                metrics={"val_auc": float(tested)},
                meta={FLMetaKey.NUM_STEPS_CURRENT_ROUND: samples},
            )
        )


if __name__ == "__main__":
    main()
