"""What made a result: version, settings, weights and input, in a form that goes into every result file."""

import hashlib
import inspect
import logging
import os
import platform
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import ignite.distributed as idist

from scripts.errors import InputError
from scripts.files.json_file import read_json
from scripts.files.nifti import says_simulated
from scripts.files.text import read_content
from scripts.files.writing import sha256, write_json

LOGGER = logging.getLogger(__name__)

BUNDLE_ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "monai", "captum", "numpy", "nibabel", "pytorch-ignite", "scikit-learn")

#: What everything that decides about a scan says of itself.
RESEARCH_USE = "research use only"
RESEARCH_ONLY = "Research use only, not for clinical use."
#: Beside the answer for a scan that is unlike the training scans.
DO_NOT_RELY = "Unlike the scans that trained it: do not rely on this"
#: Components of a config whose own keys are settings: `augment#rotate_limit`.
SET_BY_USERS = {"augment"}
#: Settings whose value may be a path, and a path may hold a patient's name.
PLACES = (
    "bundle_root",
    "dataset_dir",
    "ckpt_dir",
    "input",
    "fetched_dir",
    "send",
    "output_dir",
    "participants",
    "weights",
    "dicom_rules",
    "nuclei_table",
    "reference_curves",
)


def bundle_version() -> str:
    """Version of this bundle, as `configs/metadata.json` declares it."""
    return read_json(BUNDLE_ROOT / "configs" / "metadata.json", "metadata")["version"]


def software() -> dict[str, str]:
    """Versions of the bundle, Python and the packages that decide the numbers; absent packages are left out."""
    versions = {"qnet_hemochromatosis": bundle_version(), "python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def settings(resolved: Mapping[str, Any], places: bool = False) -> dict[str, Any]:
    """Config keys with plain values: those at the top, and those of the components in `SET_BY_USERS`.

    Args:
        resolved: the config parser's resolved content (`__local_refs` inside a `$` expression): id -> value.
        places: whether paths are kept; they may hold the name of a person.

    Returns:
        key -> value for every key whose value is a number, text, bool, None or a list of these.
    """
    kept = {k: v for k, v in resolved.items() if "#" not in k and "::" not in k and k != "imports" and _plain(v)}
    for name in SET_BY_USERS & resolved.keys():
        kept |= {f"{name}#{key}": value for key, value in arguments_of(resolved[name]).items()}
    kept = dict(sorted(kept.items()))
    return kept if places else {k: v for k, v in kept.items() if k not in PLACES and not is_place(v)}


def arguments_of(item: object) -> dict[str, Any]:
    """The plain arguments that a component was made with, as far as it keeps them under their names."""
    values = {name: getattr(item, name, ...) for name in inspect.signature(type(item)).parameters}
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items() if _plain(v)}


def _plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_plain(v) for v in value)
    return value is None or isinstance(value, (bool, int, float, str))


def is_place(value: Any) -> bool:
    """Whether a setting, or one in a list of them, names a place on this machine."""
    if isinstance(value, (list, tuple)):
        return any(is_place(v) for v in value)
    return isinstance(value, str) and (os.path.isabs(value) or (os.sep in value and os.path.exists(value)))


def plain_attributes(item: object) -> dict[str, Any]:
    """A component's plain public attributes (numbers, text, lists of numbers), to tell whether its settings changed."""
    values = {k: v.tolist() if hasattr(v, "tolist") else v for k, v in vars(item).items() if not k.startswith("_")}
    return {k: v for k, v in values.items() if isinstance(v, (bool, int, float, str, list, tuple))}


def keys_of(key: str, item: object) -> dict[str, Any]:
    """`plain_attributes` of a component by their config keys: `augment#rotate_limit`."""
    return {f"{key}#{name}": value for name, value in plain_attributes(item).items()}


def declared_name(dataset_dir: str | os.PathLike) -> str:
    """The cohort's name in dataset_description.json; its folder's name may be a person's and is not passed on."""
    description = Path(dataset_dir) / "dataset_description.json"
    declared = (
        read_json(description, "description", "correct it as BIDS has it") if os.path.lexists(description) else {}
    )
    return declared.get("Name", "unnamed cohort")


def simulated(dataset_dir: str | os.PathLike) -> bool:
    """Whether a cohort says that it is simulated: in its declared name, or any of its maps does, wherever it went."""
    maps = Path(dataset_dir).glob("sub-*/**/*.nii*")
    return "simulated" in declared_name(dataset_dir).lower() or any(map(says_simulated, maps))


def cohort_fingerprint(dataset_dir: str | os.PathLike) -> dict[str, str | int | bool]:
    """What identifies a cohort: its declared name, number of maps, and a hash of participants and of files by size."""
    root = Path(dataset_dir)
    maps = sorted(root.glob("sub-*/**/*.nii*"))
    digest = hashlib.sha256()
    participants = root / "participants.tsv"
    if os.path.lexists(participants):
        digest.update(read_content(participants))
    for path in maps:
        # a link that leads nowhere, or a name that is no UTF-8, is that scan's own failure later
        size = path.stat().st_size if path.exists() else None
        digest.update(f"{path.relative_to(root)} {size}\n".encode(errors="surrogateescape"))
    return {
        "name": declared_name(root),
        "simulated": simulated(root),
        "maps": len(maps),
        "sha256": digest.hexdigest(),
    }


def record(weights: list[str], dataset_dir: str | os.PathLike, resolved: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that made a result, to be stored with it.

    Args:
        weights: files whose SHA-256 is recorded.
        dataset_dir: the cohort.
        resolved: see `settings`.
    """
    return {
        "software": software(),
        "settings": settings(resolved),
        "weights": {Path(path).name: sha256(path) for path in weights},
        "input": cohort_fingerprint(dataset_dir),
    }


def read_record(path: str | os.PathLike) -> dict[str, Any]:
    """A JSON object from a file; empty where there is no such file.

    Raises:
        InputError: the file is no record.
    """
    return read_json(path, "record") if os.path.lexists(path) else {}


def record_beside(
    weights: str | os.PathLike, kind: str = "record", path: str | os.PathLike | None = None
) -> dict[str, Any]:
    """The training record beside weights; empty where there is none.

    Args:
        weights: the weights file.
        kind: of record, see `scripts.files.schemas`.
        path: of the record; None: the weights' name with `.json`.

    Raises:
        InputError: the record is damaged, or see `check_of_weights`.
    """
    path = Path(weights).with_suffix(".json") if path is None else path
    if not os.path.lexists(path):
        return {}
    content = read_json(path, kind)
    check_of_weights(content, path, weights, "set it aside and give --weights_record config")
    return content


def check_of_weights(
    content: Mapping[str, Any], path: str | os.PathLike, weights: str | os.PathLike, cure: str
) -> None:
    """Refuse a record that lies beside other weights than those that it names by their SHA-256. One that names none
    is spoken of in the log.

    Args:
        content: of the record; `weights` maps names to hashes.
        path: of the record.
        weights: the file beside it; where there is none, nothing is said.
        cure: what else can be done.

    Raises:
        InputError: that.
    """
    named = content.get("weights", {})
    if not named:
        _say_no_hash(str(path), Path(weights).name)
    elif Path(weights).is_file() and sha256(weights) not in named.values():
        raise InputError(
            f"{path}: is of other weights than {Path(weights).name} beside it (their sha256 differ); put the two that"
            f" were made together there, or {cure}"
        )


@lru_cache
def _say_no_hash(path: str, name: str) -> None:
    LOGGER.warning("%s: holds no sha256 of weights, so nothing shows that it is of %s", path, name)


#: What records of version 0.5 and before do not say, since there was no other.
_BEFORE = {"intensity": "stretch", "image_model": "resnet18", "scan_model": "bilstm", "leave_out": []}
#: And those of 0.6, whose networks all saw these.
_BEFORE |= {"maps": ["Chimap", "R2starmap", "T1w"]}

#: What every version recorded of a network and its input; a record without it records nothing.
_ALWAYS = ("region", "num_slices", "spatial_size", "stretch_percentiles")


def trained_with(
    weights: str | os.PathLike, weights_record: str = "beside", path: str | os.PathLike | None = None
) -> dict[str, Any]:
    """The settings in the training record beside weights; none where the config says that it tells them itself, or
    where there are no weights yet.

    Inference, and every client of its config, so gives a network the input that it knows, without further keys.

    Args:
        weights: the weights file.
        weights_record: `beside` it; or `config`: there is none, and the keys of the config are as in training.
        path: of the record (`write_record`); None: the weights' name with `.json`.

    Raises:
        InputError: no record lies there, or one does that lacks what every version recorded, or one does and `config`
            was said, or see `record_beside`.
    """
    found = record_beside(weights, "training record", path)
    path = Path(weights).with_suffix(".json") if path is None else Path(path)
    if not found and weights_record == "beside" and Path(weights).is_file():
        raise InputError(
            f"{weights}: {path.name}, its training record, is not beside it, so nothing tells the maps, sizes and"
            " windows that it was trained with; put the two together, or say with --weights_record config that the"
            " config's own keys (maps, intensity, spatial_size, ...) are as in training"
        )
    if found and weights_record == "config":
        raise InputError(
            f"--weights_record config: {path} lies beside the weights and tells what they were trained with; leave the"
            " key out, or set that file aside"
        )
    lacking = [key for key in _ALWAYS if found and key not in found["settings"]]
    if lacking:
        raise InputError(
            f"{path}: its settings lack {', '.join(lacking)}, which every training records, so nothing tells what the"
            " weights were trained with; restore the file, or set it aside and give --weights_record config"
        )
    for key in ("stretch_percentiles", "chimap_window", "r2starmap_window", "t1map_window"):
        ends = found.get("settings", {}).get(key, [0, 1])
        if ends[0] >= ends[1]:
            raise InputError(f"{path}: settings.{key} is {ends}, which does not rise; restore the file")
    if not found:
        return {}
    return {**_BEFORE, **found["settings"]}


def check_trained_with(
    weights: str | os.PathLike, weights_record: str = "beside", path: str | os.PathLike | None = None, **wanted: Any
) -> None:
    """Refuse to feed a network other input than it was trained on.

    Args:
        weights, weights_record, path: see `trained_with`.
        wanted: settings of the input, by their config keys.

    Raises:
        InputError: see `trained_with`, or a setting differs from it; or the weights want maps that are 0 throughout
            (`leave_out` of version 0.6), which only inference can give them.
    """
    trained = trained_with(weights, weights_record, path)
    path = Path(weights).with_suffix(".json") if path is None else path
    if trained.get("leave_out") and "leave_out" not in wanted:
        raise InputError(
            f"{weights}: was trained with leave_out {trained['leave_out']} of version 0.6, which inference alone can"
            " still give it; train again, with --maps naming what the network shall see"
        )
    asked = {key: list(given) if isinstance(given, tuple) else given for key, given in wanted.items()}
    others = [key for key, value in asked.items() if key in trained and trained[key] != value]
    if others:
        known = ", ".join(f"{key} {trained[key]!r}" for key in others)
        keys = " and ".join("--cropped_size or --full_size" if key == "spatial_size" else f"--{key}" for key in others)
        wrong = ", ".join(repr(asked[key]) for key in others)
        raise InputError(
            f"{weights}: was trained with {known}, not {wrong}; set {keys} as in"
            f" {path}, or give the overlay that training was given, such as configs/small.yaml"
        )


def check_stage_1(embedding_weights: str | os.PathLike, weights_record: str, **wanted: Any) -> None:
    """`check_trained_with` of what stage 1 left, whose files share the record `resnet.json`."""
    check_trained_with(embedding_weights, weights_record, stage_1_record(embedding_weights), **wanted)


def stage_1_record(embedding_weights: str | os.PathLike) -> Path:
    """The record of what stage 1 left, with and without averaging."""
    return Path(embedding_weights).with_name("resnet.json")


def start_record(imagenet_weights: str) -> Path | None:
    """The record beside the weights that stage 1 begins with (`configs/pretrain.yaml` leaves one); None without.

    Args:
        imagenet_weights: as of `scripts.model.networks.image_level_model`.
    """
    path, start = Path(imagenet_weights).with_suffix(".json"), Path(imagenet_weights)
    try:
        named = read_record(path).get("weights", {}) if start.is_file() else {}
    except InputError:  # of another program
        return None
    return path if start.name in named else None


def write_record(
    path: str | os.PathLike,
    weights: list[str],
    dataset_dir: str | os.PathLike,
    resolved: Mapping[str, Any],
    trained_by: Sequence[str],
) -> None:
    """Write the `record` of a training as JSON, with the scans that it was trained on
    (`scripts.evaluation.unseen.trained_by`); only the first process of a distributed run does."""
    if idist.get_rank() == 0:
        write_json(path, {**record(weights, dataset_dir, resolved), "trained_by": [*trained_by]})
