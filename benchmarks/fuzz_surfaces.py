"""Where strangers' files and words come in: a good input, ways to damage it, and what the product reads of it.

A new surface is one more `Surface` in SURFACES.
"""

import gzip
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from fuzz_damage import ANY, JSON, NIFTI, SAME, TEXT, Generator, any_of, hidden_files, one_of, renamed, table

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"
sys.path.insert(0, str(BUNDLE))

from scripts.anatomy.atlas import NUCLEI, SIDES  # noqa: E402
from scripts.anatomy.template import load_template  # noqa: E402
from scripts.evaluation.predictions import PREDICTION_COLUMNS, read_predictions  # noqa: E402
from scripts.files.writing import sha256, write_json, write_table  # noqa: E402
from scripts.inference.batch import LOG_COLUMNS, RunFolder  # noqa: E402
from scripts.inference.inputs import find_input  # noqa: E402
from scripts.inference.results import model_info  # noqa: E402
from scripts.maps.bids import known_ages, labelled_scans  # noqa: E402
from scripts.maps.transforms import reading  # noqa: E402
from scripts.model.networks import load_weights, write_tensors  # noqa: E402
from scripts.nuclei.curves import read_reference_curves  # noqa: E402
from scripts.nuclei.table import MEASURED, read_tsv, rows_of  # noqa: E402
from scripts.provenance import check_trained_with, declared_name  # noqa: E402
from scripts.reconstruction.raw import load_echoes  # noqa: E402
from scripts.reconstruction.run import find_scans as find_raw_scans  # noqa: E402
from scripts.reporting.analysis import recorded_as_simulated  # noqa: E402
from scripts.reporting.figures import read_curve  # noqa: E402
from scripts.runs.failures import Refused  # noqa: E402
from scripts.settings.check import Known  # noqa: E402
from scripts.training.fine_tuning import read_label  # noqa: E402
from scripts.training.handlers import Resume  # noqa: E402

RULES = BUNDLE / "configs" / "dicom_series.yaml"
SHAPE, BOX = (20, 22, 10), [[3, 17], [4, 18], [1, 9]]
AFFINE = np.array([[3.0, 0, 0, -30], [0, 3, 0, -33], [0, 0, 4, -20], [0, 0, 0, 1]])


@dataclass(frozen=True)
class Surface:
    """Where input comes in.

    Attributes:
        make: writes a good input into a folder, which it makes.
        damage: changes one thing in such a folder by chance and says what; begins with SAME where the meaning stays.
        observe: what the product reads of a folder.
    """

    make: Callable[[Path], None]
    damage: Callable[[Path, Generator], str]
    observe: Callable[[Path], Any]


def pick(folder: Path, rng: Generator, pattern: str) -> Path:
    """One of the files of a pattern, links and hidden files apart."""
    return one_of(rng, *sorted(p for p in folder.rglob(pattern) if p.is_file() and not p.name.startswith(".")))


def by_format(path: Path, rng: Generator, columns: Mapping[str, bool] | None = None) -> str:
    """A change of a file that fits its format."""
    name = path.name
    if name.endswith(".json"):
        return any_of(path, rng, ANY, TEXT, JSON, JSON)
    if name.endswith((".tsv", ".csv")):
        changes = table(columns or {})
        return any_of(path, rng, ANY, TEXT, changes, changes)
    if name.endswith(".nii.gz"):
        return any_of(path, rng, ANY, NIFTI, NIFTI, NIFTI)
    return any_of(path, rng, ANY)


# --- cohort: a BIDS folder of maps, boxes and participants ------------------------------------------------------------


def blobs(seed: int) -> dict[str, np.ndarray]:
    """Three maps of two nuclei, float32: QSM (ppm), R2* (1/s), T1-weighted."""
    rng = np.random.default_rng(seed)
    x, y, z = np.indices(SHAPE)
    iron = sum(np.exp(-(((x - c) / 3) ** 2 + ((y - 11) / 4) ** 2 + ((z - 5) / 3) ** 2)) for c in (7, 13))
    maps = {"Chimap": 0.1 * iron, "R2starmap": 20 + 15 * iron, "T1w": 400 - 80 * iron}
    noise = {"Chimap": 0.01, "R2starmap": 1.0, "T1w": 8.0}
    return {name: (v + rng.normal(0, noise[name], SHAPE)).astype(np.float32) for name, v in maps.items()}


def make_cohort(root: Path) -> None:
    rows = []
    for number in (1, 2, 3):
        name = f"sub-{number:02d}"
        anat, boxes = root / name / "anat", root / "derivatives" / "basalganglia" / name / "anat"
        anat.mkdir(parents=True)
        boxes.mkdir(parents=True)
        for suffix, voxels in blobs(number).items():
            nib.save(nib.Nifti1Image(voxels, AFFINE), anat / f"{name}_{suffix}.nii.gz")
        (boxes / f"{name}_desc-basalganglia_box.json").write_text(json.dumps({"Box": BOX}))
        rows.append({"participant_id": name, "age": 40 + number, "sex": "F", "group": ("HH", "HC")[number % 2]})
    write_table(root / "participants.tsv", list(rows[0]), rows)
    content = {"Name": "Simulierte Köpfe (simulated)", "BIDSVersion": "1.10.0"}
    (root / "dataset_description.json").write_text(json.dumps(content, ensure_ascii=False))


#: Ways in which one subject's map comes under another's name as other bytes.
AGAIN = ("another's, packed again", "another's, saved again")


def damage_cohort(root: Path, rng: Generator) -> str:
    anat, other = root / "sub-02/anat", root / "sub-01/anat"
    kind = int(rng.integers(14))
    if kind < 4:
        return by_format(pick(root, rng, "*.nii.gz"), rng)
    if kind < 6:
        return by_format(pick(root, rng, "*_box.json"), rng)
    if kind < 7:
        return by_format(root / "dataset_description.json", rng)
    if kind < 10:
        return by_format(root / "participants.tsv", rng, {"participant_id": False, "group": False, "age": True})
    if kind == 10:
        return hidden_files(root, rng)
    if kind == 11:
        table_file = root / "participants.tsv"
        table_file.write_text(table_file.read_text().replace("sub-0", "0"))
        return f"{SAME}participants without sub-"
    path = pick(anat, rng, "*.nii.gz")
    suffix = path.name.split("_")[-1]
    if kind == 12:
        new = one_of(rng, f"sub-01_{suffix}", f"sub-02_ses-2_{suffix}", f"sub-02_run-2_{suffix}", f"sub-2_{suffix}")
        if "run" in new:
            first = next(p for p in sorted(anat.glob("*.nii.gz")) if p != path)
            renamed(first, "sub-02_", "sub-02_run-1_")
        return renamed(path, path.name, new)
    how = one_of(rng, "second", "gone", "other ending", "not packed", "of another", "of another", *AGAIN)
    if how == "second":
        shutil.copy(path, path.with_name(f"sub-02_acq-2_{suffix}"))
    elif how == "gone":
        path.unlink()
    elif how == "other ending":
        renamed(path, ".nii.gz", ".mgz")
    elif how == "not packed":
        renamed(path, ".nii.gz", ".nii")
    elif how in AGAIN:  # the other's voxels under this name
        source = nib.load(other / f"sub-01_{suffix}")
        content = gzip.compress(gzip.decompress((other / f"sub-01_{suffix}").read_bytes()), 1)
        path.write_bytes(content)
        if how == "another's, saved again":
            nib.save(nib.Nifti1Image(source.get_fdata(), source.affine), path)
    else:
        path.unlink()
        shutil.copy(other / f"sub-01_{suffix}", anat / f"sub-01_{suffix}")
    return f"{path.name} {how}"


def read_scans(source: Any) -> list[dict[str, Any]]:
    """Maps, place and box of every scan that inference finds."""
    found = []
    for scan in find_input(source, dicom_rules=RULES):
        image = reading()(scan.item())["image"]
        about = {"affine": np.asarray(image.affine, float), "box": scan.box}
        found.append({"participant": scan.participant_id, "maps": np.asarray(image), **about})
    return found


def observe_cohort(root: Path) -> Any:
    scans = [(scan.scan_id, scan.label) for scan in labelled_scans(root)]
    return read_scans(root), scans, known_ages(root / "participants.tsv"), declared_name(root)


# --- three files, and one of 4D ---------------------------------------------------------------------------------------


def make_nifti(root: Path) -> None:
    root.mkdir(parents=True)
    maps = blobs(5)
    for suffix, voxels in maps.items():
        nib.save(nib.Nifti1Image(voxels, AFFINE), root / f"sub-05_{suffix}.nii.gz")
    nib.save(nib.Nifti1Image(np.stack([*maps.values()], -1), AFFINE), root / "sub-05.nii.gz")


def damage_nifti(root: Path, rng: Generator) -> str:
    if rng.random() < 0.9:
        return by_format(pick(root, rng, "*.nii.gz"), rng)
    names = [root / f"sub-05_{suffix}.nii.gz" for suffix in ("Chimap", "R2starmap", "T1w")]
    path, other = rng.permutation(3)[:2]
    names[path].unlink()
    names[path].symlink_to(names[other])
    return f"{names[path].name} is {names[other].name}"


def observe_nifti(root: Path) -> Any:
    three = ",".join(str(root / f"sub-05_{suffix}.nii.gz") for suffix in ("Chimap", "R2starmap", "T1w"))
    return read_scans(three), read_scans(str(root / "sub-05.nii.gz"))


# --- raw echoes -------------------------------------------------------------------------------------------------------

TIMES = (0.006, 0.012, 0.018, 0.024)


def make_raw(root: Path) -> None:
    anat = root / "sub-01" / "anat"
    anat.mkdir(parents=True)
    x, y, z = (np.indices((16, 18, 12)) - np.array([7.5, 8.5, 5.5])[:, None, None, None]) / 8
    head = np.exp(-2 * (x**2 + y**2 + z**2) ** 2)
    field_hz = 30 * x + 12 * y * z - 15 * z + 8
    rng = np.random.default_rng(0)
    for number, time in enumerate(TIMES, 1):
        signal = 800 * head * np.exp(-time * 25) * np.exp(2j * np.pi * field_hz * time + 0.3j)
        signal = signal + rng.normal(0, 2, head.shape) + 1j * rng.normal(0, 2, head.shape)
        for part, voxels in (("mag", np.abs(signal)), ("phase", np.angle(signal))):
            stem = anat / f"sub-01_echo-{number}_part-{part}_MEGRE"
            nib.save(nib.Nifti1Image(voxels.astype(np.float32), AFFINE), f"{stem}.nii.gz")
            about = {"EchoTime": time, "MagneticFieldStrength": 3.0, "FlipAngle": 20.0}
            about |= {"RepetitionTimeExcitation": 0.04} | ({"Units": "rad"} if part == "phase" else {})
            Path(f"{stem}.json").write_text(json.dumps(about))


def damage_raw(root: Path, rng: Generator) -> str:
    anat, kind = root / "sub-01/anat", int(rng.integers(10))
    if kind < 4:
        return by_format(pick(root, rng, "*.nii.gz"), rng)
    if kind < 7:
        return by_format(pick(root, rng, "*.json"), rng)
    if kind == 7:
        return hidden_files(root, rng)
    path = pick(anat, rng, "*.nii.gz")
    if kind == 8:
        part = "mag" if "part-mag" in path.name else "phase"
        new = one_of(rng, "sub-02_", "sub-01_run-2_", "sub-01_ses-2_")
        old, new = one_of(rng, ("sub-01_", new), (f"part-{part}", "part-mxg"), ("echo-", "echo-x"), ("echo-", "echo-9"))
        return renamed(path, old, new)
    how = one_of(rng, "gone", "no sidecar", "ms", "swapped", "other echo", "both the same")
    side = path.with_name(path.name.replace(".nii.gz", ".json"))
    content = json.loads(side.read_text())
    if how == "gone":
        path.unlink()
    elif how == "no sidecar":
        side.unlink()
    elif how in ("ms", "other echo"):
        factor = 1000 if how == "ms" else 1.21
        side.write_text(json.dumps({**content, "EchoTime": content["EchoTime"] * factor}))
    else:
        part = ("mag", "phase") if "part-mag" in path.name else ("phase", "mag")
        other = path.with_name(path.name.replace(f"part-{part[0]}", f"part-{part[1]}"))
        kept = other.read_bytes()
        other.write_bytes(path.read_bytes())
        if how == "swapped":
            path.write_bytes(kept)
    return f"{path.name}: {how}"


def observe_raw(root: Path) -> Any:
    found = []
    for scan in find_raw_scans(str(root), None, None, None, None, None, None, None, str(RULES)):
        if isinstance(scan, Refused):  # that scan's row says why
            raise scan.error
        for acquisition in scan.acquisitions:
            echoes = load_echoes(acquisition, 1)
            magnitude, phase = echoes.magnitude, echoes.phase
            numbers = (acquisition.field_strength_t, acquisition.flip_angle_deg, acquisition.repetition_time_s)
            turned = np.exp(1j * phase)
            about = [scan.scan_id, acquisition.echo_times_s, numbers, scan.affine]
            found.append([*about, magnitude, turned.real * magnitude, turned.imag * magnitude])
    return found


# --- tables and records -----------------------------------------------------------------------------------------------

NUCLEI_COLUMNS = [
    *(f"{suffix}_{side}_{name}_mean" for suffix in MEASURED for side in SIDES for name in NUCLEI),
    *(f"{side}_{name}_volume" for side in SIDES for name in NUCLEI),
]


def make_tables(root: Path) -> None:
    root.mkdir(parents=True)
    rng = np.random.default_rng(1)
    cells = [{name: float(rng.uniform(0.05, 0.2)) for name in NUCLEI_COLUMNS} for _ in range(3)]
    names = [{"participant_id": f"sub-0{n}", "scan_id": f"sub-0{n}"} for n in (1, 2, 3)]
    rows = [{**who, **values} for who, values in zip(names, cells, strict=True)]
    write_table(root / "nuclei.tsv", list(rows[0]), rows)
    predictions = [
        {"repeat": 0, "fold": n % 2, "region": "cropped", "model": "Q-Net", "participant_id": f"sub-0{n}",
         "slice": place, "label": n % 2, "probability_HH": round(float(rng.uniform()), 5)}
        for n in (1, 2, 3, 4) for place in ("", 0, 1)
    ]  # fmt: skip
    write_table(root / "predictions.csv", PREDICTION_COLUMNS, predictions)
    write_json(root / "predictions.json", {"input": {"name": "blobs", "simulated": True}})
    curve = {"epoch": 1, "learning_rate": "0.001", "train_loss": "0.5", "train_auc": "0.7", "val_auc": ""}
    write_table(root / "scan_level.csv", list(curve), [curve, {**curve, "epoch": 2, "val_auc": "0.6"}])
    log = {"participant_id": "sub-01", "scan_id": "sub-01", "status": "failed", "message": "a file, cut off; copy it"}
    write_table(root / "progress-0.csv", LOG_COLUMNS, [log, {**log, "scan_id": "sub-02"}])
    write_json(root / "run.json", {"run": {"threshold": 0.5}, "provenance": {}})
    write_json(root / "label.json", {"group": "HH", "box": BOX})
    curves = {"rise": 0.1, "rate": 0.03, "start": 0.02, "sd": 0.01, "controls": 30}
    of_maps = {name: {n: {**curves, "unit": unit} for n in NUCLEI} for name, (_, unit) in MEASURED.items()}
    write_json(
        root / "reference_curves.json", {"AgeRange": [20.0, 80.0], "Curves": of_maps, "Input": {"simulated": True}}
    )
    for name in ("template.nii.gz", "template.json"):
        if (BUNDLE / "models" / name).exists():
            shutil.copy(BUNDLE / "models" / name, root / name)


def damage_tables(root: Path, rng: Generator) -> str:
    columns = {
        "nuclei.tsv": dict.fromkeys(NUCLEI_COLUMNS[:4], True),
        "predictions.csv": {name: name not in ("region", "model", "participant_id") for name in PREDICTION_COLUMNS[:6]}
        | {"label": True, "probability_HH": True},
        "scan_level.csv": dict.fromkeys(("epoch", "train_loss", "train_auc"), True),
        "progress-0.csv": {},
    }
    columns["predictions.csv"].pop("participant_id")  # another name is another participant
    if rng.random() < 0.1:
        path, keys = root / "reference_curves.json", list(NUCLEI)
        content = json.loads(path.read_text())
        name, value = one_of(
            rng, ("AgeRange", [80, 20]), ("AgeRange", [50, 50]), ("sd", 0), ("sd", -0.1), ("unit", "ppb"), ("rate", 0)
        )
        if name == "AgeRange":
            content[name] = value
        else:
            content["Curves"]["Chimap"][one_of(rng, *keys)][name] = value
        path.write_text(json.dumps(content))
        return f"{path.name}: {name} is {value}"
    path = pick(root, rng, "*")
    if path.name == "progress-0.csv":
        return any_of(path, rng, ANY[2:], TEXT)  # cut or empty: a log that is being written
    if path.name == "template.nii.gz":
        return any_of(path, rng, ANY, NIFTI[:1])
    return by_format(path, rng, columns.get(path.name))


def observe_tables(root: Path) -> Any:
    run = RunFolder(root, {"threshold": 0.5}, {}, ["json"])
    run.open()
    template = load_template(root / "template.nii.gz")
    rows = read_tsv(root / "nuclei.tsv")
    measured = [{**row, "nuclei": rows_of(row, root / "nuclei.tsv")} for row in rows]
    curve = read_curve(root / "scan_level.csv")
    curves = read_reference_curves(root / "reference_curves.json")
    return [
        [[row["participant_id"], row["scan_id"]] for row in measured],
        [[list(nucleus.values()) for nucleus in row["nuclei"]] for row in measured],
        read_predictions(root / "predictions.csv").to_csv(),
        recorded_as_simulated(root / "predictions.json"),
        {name: curve[name].to_numpy(float) for name in ("epoch", "train_loss", "train_auc", "val_auc")},
        run.failures(),
        read_label(root / "label.json"),
        None if curves is None else [curves["AgeRange"], curves["Curves"], curves["Input"]],
        [template.t1, template.outline_mm],
    ]


# --- weights, their record, checkpoints -------------------------------------------------------------------------------


#: What a record beside weights must say at least, as `configs/train.yaml` has it.
_RECORDED = {
    "region": "cropped", "num_slices": 16, "spatial_size": [128, 128], "stretch_percentiles": [0.5, 99.5],
    "hidden_size": 128,
}  # fmt: skip


def make_weights(root: Path) -> None:
    root.mkdir(parents=True)
    torch.manual_seed(0)
    network = torch.nn.Linear(30, 20)
    write_tensors(root / "model.pt", network.state_dict())
    write_tensors(root / "checkpoint.pt", {"n": network.state_dict(), "epoch": 3, "settings": {"seed": 1}})
    record = {
        "software": {}, "settings": dict(_RECORDED), "weights": {"model.pt": sha256(root / "model.pt")},
        "input": {"name": "blobs", "simulated": True}, "performance": {"auc": 0.8},
    }  # fmt: skip
    write_json(root / "model.json", record)


def damage_weights(root: Path, rng: Generator) -> str:
    path = pick(root, rng, "*")
    if path.suffix == ".json":
        return by_format(path, rng)
    kind = int(rng.integers(8))
    if kind < 3:
        return any_of(path, rng, ANY)
    if kind < 5:
        return any_of(path, rng, NIFTI[:1])  # one bit
    content = torch.load(path, weights_only=True)
    if path.name == "checkpoint.pt":
        return any_of(path, rng, ANY, NIFTI[:1])
    name = one_of(rng, *content)
    how = one_of(rng, "gone", "shape", "NaN", "huge", "text", "object", "list", "complex", "sparse")
    if how == "gone":
        del content[name]
    elif how == "object":
        content[name] = Path("x")
    elif how == "list":
        content = list(content.values())
    else:
        shape = content[name].shape
        content[name] = {
            "shape": torch.zeros(7, 5), "NaN": torch.full(shape, torch.nan), "huge": torch.zeros(1).expand(1 << 42),
            "text": "weights", "complex": torch.zeros(shape, dtype=torch.complex64),
            "sparse": torch.eye(20).to_sparse(),
        }[how]  # fmt: skip
    torch.save(content, path)
    return f"{path.name}: {name} {how}"


def observe_weights(root: Path) -> Any:
    network = load_weights(torch.nn.Linear(30, 20), root / "model.pt")
    check_trained_with(root / "model.pt", num_slices=16)
    again = torch.nn.Linear(30, 20)
    engine = type("Engine", (), {"state": type("State", (), {"epoch_length": 1, "epoch": 0})()})()
    Resume(root / "checkpoint.pt", {"n": again}, {"seed": 1}).load(engine)
    values = [p.detach().numpy() for net in (network, again) for p in net.parameters()]
    info = model_info(root / "model.pt")
    return [*values, engine.state.epoch, info["simulated"], info["performance"]]


# --- settings, as typed -----------------------------------------------------------------------------------------------

#: Config, key, and words with what they mean; None: must be refused.
WORDS: dict[tuple[str, str], dict[Any, Any]] = {
    ("inference", "include_identifiers"): {
        "false": False, "No": False, "TRUE": True, "on": True, "maybe": None, "2": None, "": None, "nan": None,
    },
    ("train", "swa"): {"false": False, "yes": True, "0": False, "tru": None, "[]": None, "0.5": None},
    ("inference", "threshold"): {
        "0.3": 0.3, "1e-1": 0.1, "nan": None, "inf": None, "half": None, "1.5": None, "-1": None, "0,5": None,
        "[0.5]": None,
    },
    ("train", "num_folds"): {
        "5": 5, "5.0": 5, "five": None, "1": None, "2.5": None, "-3": None, "1e400": None, "nan": None,
    },
    ("inference", "num_slices"): {
        "16": 16, "16.0": 16, "0": None, "": None, "16 slices": None, "true": None, "9" * 30: None,
    },
    ("inference", "region"): {"full": "full", "Cropped": "cropped", "half": None, "3": None, "null": None},
    ("inference", "input"): {"2024": "2024", "scans#1": "scans#1", "a b": "a b", "007": "007", "1_000": "1_000"},
    ("train", "stretch_percentiles"): {
        "[1, 99]": [1, 99], "1,99": [1, 99], "1": None, "[1]": None, "a,b": None, "[1,2,3]": None,
    },
    ("train", "image_learning_rate"): {
        "0.01": 0.01, "1e-3": 1e-3, "-0.1": None, "fast": None, "nan": None, "null": None,
    },
    ("inference", "largest_file"): {"2 GB": "2 GB", "500 MB": "500 MB"},
    ("inference", "treshold"): {"0.9": None},
    ("train", "image_epoch"): {"5": None},
    ("reconstruct", "phase_sign"): {"-1": -1, "1": 1, "2": None, "minus": None, "0": None},
    ("reconstruct", "inversion#gamma"): {"x": None},
    ("localise", "annotated_too"): {"False": False, "off": False, "sometimes": None},
}  # fmt: skip


def make_settings(root: Path) -> None:
    root.mkdir(parents=True)
    (root / "typed.json").write_text(json.dumps(["inference", "threshold", "0.5", 0.5]))


def damage_settings(root: Path, rng: Generator) -> str:
    config, key = one_of(rng, *WORDS)
    word = one_of(rng, *WORDS[config, key])
    means = WORDS[config, key][word]
    (root / "typed.json").write_text(json.dumps([config, key, word, means]))
    return f"{SAME if means is not None else ''}{config}: --{key} {word[:20]!r}"


def observe_settings(root: Path) -> Any:
    config, key, word, means = json.loads((root / "typed.json").read_text())
    value = Known([str(BUNDLE / "configs" / f"{config}.yaml")]).checked(key.split("#"), word, f"--{key}")
    return means is not None and value == means and isinstance(value, bool) == isinstance(means, bool)


# --- DICOM ------------------------------------------------------------------------------------------------------------


def make_dicom(root: Path) -> None:
    from scripts.simulation.dicom import write_study

    with_files = root.with_name(f"{root.name}-maps")
    make_cohort(with_files)
    paths = [with_files / "sub-01" / "anat" / f"sub-01_{suffix}.nii.gz" for suffix in ("Chimap", "R2starmap", "T1w")]
    write_study(root, paths, "sub-01", box=BOX, extras=False)
    shutil.rmtree(with_files)


_TAGS = {
    "PatientName": ["Doe Jane", "\u5c71\u7530", "=A=B", "", "x" * 300],
    "PatientSex": ["MALE", "", "?"],
    "PatientBirthDate": ["1960", "19601399", "01.02.1960"],
    "PatientAge": ["45", "old", "-03Y"],
    "StudyDate": ["2026-01-01", "", "99999999"],
    "SpecificCharacterSet": ["ISO 2022 IR 87", "ISO 2022 IR 149", "UTF-8", "nonsense", ""],
    "ImagePositionPatient": [None, [0, 0, 0], ["nan", 0, 0], [1e9, 0, 0]],
    "ImageOrientationPatient": [None, [1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0]],
    "PixelSpacing": [None, [0, 0], [-1, 1], [1e9, 1e9]],
    "Rows": [None, 0, 60000],
    "BitsStored": [32, 0],
    "PixelRepresentation": [7],
    "SamplesPerPixel": [3],
    "RescaleSlope": [0, "1e400", None],
    "Modality": ["CT", ""],
    "PixelData": [None, b"", b"abc"],
    "SOPInstanceUID": [None, "1.2.x"],
    "SeriesInstanceUID": [None, ""],
    "NumberOfFrames": [5, 0],
}


def damage_dicom(root: Path, rng: Generator) -> str:
    import pydicom

    path = pick(root, rng, "*")
    kind = int(rng.integers(10))
    if kind == 0:
        return hidden_files(root, rng)
    if kind == 1:
        return any_of(path, rng, ANY)
    if kind == 2:
        path.unlink()
        return f"{path.name} gone"
    if kind == 3:
        shutil.copy(path, path.with_name(f"copy-{path.name}"))
        return "a file twice"
    tag = one_of(rng, *_TAGS)
    value = one_of(rng, *_TAGS[tag])
    everywhere = rng.random() < 0.5
    for file in sorted(p for p in root.rglob("*") if p.is_file()) if everywhere else [path]:
        with pydicom.config.disable_value_validation():
            image = pydicom.dcmread(file)
            if value is None:
                if tag in image:
                    del image[tag]
            elif tag == "RescaleSlope" and tag not in image:
                continue
            else:
                setattr(image, tag, value)
            image.save_as(file)
    return f"{tag} is {value!r:.20}, {'all files' if everywhere else path.name}"


def observe_dicom(root: Path) -> Any:
    found = []
    for scan in read_scans(str(root)):
        found.append({"maps": scan["maps"], "affine": scan["affine"]})
    return found


SURFACES = {
    "cohort": Surface(make_cohort, damage_cohort, observe_cohort),
    "nifti": Surface(make_nifti, damage_nifti, observe_nifti),
    "raw": Surface(make_raw, damage_raw, observe_raw),
    "tables": Surface(make_tables, damage_tables, observe_tables),
    "weights": Surface(make_weights, damage_weights, observe_weights),
    "settings": Surface(make_settings, damage_settings, observe_settings),
    "dicom": Surface(make_dicom, damage_dicom, observe_dicom),
}
