"""Are strange scans flagged, and are good ones left alone? Scans that set no limit, as they are and made strange.

    cd bundle
    python -m monai.bundle run --config_file configs/simulate.yaml --output_dir COHORT --size paper --seed 31
    python ../benchmarks/strange.py COHORT [COHORT ...] --weights models/model.pt [--other "name=FOLDER" ...]

The weights need a calibration beside them (configs/calibrate.yaml); COHORT is of the same simulated site and was not
trained on. Each scan is read as inference reads it: what refuses or flags it (the checks of maps, their flags, how
familiar the scan is) is counted by kind. A further cohort, such as one simulated at another field strength or with
other echo times, counts as a kind of its own; where it has both groups, its AUC is given beside the share that is
flagged. `--levels` moves noise and R2* step by step, to see whether the flag rises before accuracy falls. Writes
`results/strange.json`, `results/strange.md` and, of the levels, the picture.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import ndimage
from sklearn.metrics import roc_auc_score

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "bundle")]

from tqdm import tqdm  # noqa: E402

from scripts.errors import input_error_in  # noqa: E402
from scripts.files.writing import sha256, write_json, write_text  # noqa: E402
from scripts.localisation.localiser import Localiser  # noqa: E402
from scripts.maps.bids import find_scans, read_participants  # noqa: E402
from scripts.maps.scan import MAPS, Scan, recorded_maps  # noqa: E402
from scripts.model.ensemble import as_trained  # noqa: E402
from scripts.model.networks import load_weights  # noqa: E402
from scripts.model.outputs import embedding_of_scan  # noqa: E402
from scripts.model.trust import Trust, calibration_sha256, read_calibration  # noqa: E402
from scripts.provenance import read_record, simulated, software  # noqa: E402
from scripts.reporting.style import save_figure, titled  # noqa: E402
from scripts.training.preprocessing import preprocessing  # noqa: E402

RESULTS = HERE / "results"
#: Goals: share of the strange scans that are flagged or refused, and of the good ones that are.
GOAL_STRANGE, GOAL_GOOD = 0.95, 0.05


class Volume(NamedTuple):
    """Maps `[3, I, J, K]` in their units, voxel to world (mm), and the basal ganglia's box along the array's axes."""

    maps: np.ndarray
    affine: np.ndarray
    box: list[list[int]]


Kind = Callable[[Volume, np.random.Generator], Volume]


def channels(qsm: float = 1.0, r2star: float = 1.0, t1w: float = 1.0) -> Kind:
    """Maps times a factor each."""
    factors = np.array([qsm, r2star, t1w])[:, None, None, None]
    return lambda volume, rng: volume._replace(maps=volume.maps * factors)


def inside(volume: Volume) -> np.ndarray:
    """Where the maps were measured, `[I, J, K]`."""
    return volume.maps[0] != 0


def noisy(share: float, qsm_ppm: float, r2star: float) -> Kind:
    """White noise: of T1W a share of its spread, of QSM and R2* in their units."""

    def make(volume: Volume, rng: np.random.Generator) -> Volume:
        spread = [qsm_ppm, r2star, share * float(volume.maps[2].std())]
        noise = rng.normal(size=volume.maps.shape) * np.array(spread)[:, None, None, None]
        return volume._replace(maps=volume.maps + noise * inside(volume))

    return make


def field(ratio: float) -> Kind:
    """Another field strength: R2* goes with it, noise against it, and T1W loses or gains contrast."""

    def make(volume: Volume, rng: np.random.Generator) -> Volume:
        maps = volume.maps.copy()
        maps[1] *= ratio
        bright = float(np.percentile(maps[2], 99))
        maps[2] = bright * np.clip(maps[2] / bright, 0, None) ** (1 / ratio**0.5)
        return noisy(0.05 / ratio, 0.008 / ratio, 2.0)(volume._replace(maps=maps), rng)

    return make


def late_echoes(volume: Volume, rng: np.random.Generator) -> Volume:
    """Echo times that are too long: fast decay is not seen any more, and where it is fast, all is noise."""
    maps = volume.maps.copy()
    fast = np.clip(maps[1], 0, None)
    maps[1] = fast / (1 + fast / 40)
    wild = rng.normal(size=fast.shape) * np.exp(np.clip(fast / 40, 0, 3))
    maps[0] += 0.01 * wild * inside(volume)
    maps[1] += 1.5 * wild * inside(volume)
    return volume._replace(maps=maps)


def ghosts(volume: Volume, rng: np.random.Generator) -> Volume:
    """Motion: shifted copies of the image along one direction."""
    axis, maps = int(rng.integers(2)), volume.maps.copy()
    size = maps.shape[1 + axis]
    for shift in (size // 2, size // 5, -size // 5):
        maps += 0.22 * np.roll(volume.maps, shift, 1 + axis)
    return volume._replace(maps=maps)


def coarse(factor: float) -> Kind:
    """Voxels of another size, and all that they average."""

    def make(volume: Volume, rng: np.random.Generator) -> Volume:
        maps = np.stack(
            [ndimage.zoom(channel, 1 / factor, order=1, grid_mode=True, mode="nearest") for channel in volume.maps]
        )
        affine = volume.affine.copy()
        affine[:3, :3] *= factor
        limits = maps.shape[1:]
        box = [
            [max(0, int(low / factor)), min(size, int(np.ceil(high / factor)))]
            for (low, high), size in zip(volume.box, limits, strict=True)
        ]
        return Volume(maps, affine, box)

    return make


def tumour(volume: Volume, rng: np.random.Generator) -> Volume:
    """A mass beside the middle of the box: dark on T1W, no iron, a rim of it."""
    spacing = np.linalg.norm(volume.affine[:3, :3], axis=0)
    low, high = np.array(volume.box).T
    centre = low + (high - low) * np.array([0.72, 0.55, 0.5])
    grid = np.indices(volume.maps.shape[1:]).astype(float)
    away = np.sqrt((((grid - centre[:, None, None, None]) * spacing[:, None, None, None]) ** 2).sum(0))
    mass, rim = np.clip((13 - away) / 2, 0, 1), np.exp(-(((away - 13) / 1.5) ** 2))
    maps = volume.maps.copy()
    maps[0] = maps[0] * (1 - mass) + 0.12 * rim
    maps[1] = maps[1] * (1 - mass) + 8 * mass + 35 * rim
    maps[2] = maps[2] * (1 - 0.5 * mass)
    return volume._replace(maps=maps)


def child(volume: Volume, rng: np.random.Generator) -> Volume:
    """A head of 0.72 the length, with hardly any iron."""
    affine = volume.affine.copy()
    affine[:3, :3] *= 0.72
    maps = volume.maps.copy()
    maps[0] *= 0.35
    maps[1] = np.median(maps[1]) + 0.4 * (maps[1] - np.median(maps[1])) * inside(volume)
    return Volume(maps, affine, volume.box)


def order(*numbers: int) -> Kind:
    """Maps in each other's place."""
    return lambda volume, rng: volume._replace(maps=volume.maps[list(numbers)])


def copied(noise: float) -> Kind:
    """R2* made of T1W, with a little noise of its own."""

    def make(volume: Volume, rng: np.random.Generator) -> Volume:
        maps = volume.maps.copy()
        maps[1] = maps[2] * float(np.median(maps[1][inside(volume)]) / np.median(maps[2][inside(volume)]))
        maps[1] += noise * rng.normal(size=maps[1].shape) * inside(volume)
        return volume._replace(maps=maps)

    return make


#: Kind -> what is done to a scan; the first is good.
KINDS: dict[str, Kind] = {
    "as it is": lambda volume, rng: volume,
    "half the field strength": field(0.5),
    "twice the field strength": field(2.3),
    "echo times too long": late_echoes,
    "QSM in ppb": channels(qsm=1000),
    "QSM negated": channels(qsm=-1),
    "R2* and T1W swapped": order(0, 2, 1),
    "QSM and R2* swapped": order(1, 0, 2),
    "motion ghosts": ghosts,
    "voxels twice as large": coarse(2.0),
    "voxels 1.4 times as large": coarse(1.4),
    "a mass like a tumour": tumour,
    "R2* a copy of T1W": copied(0.0),
    "R2* a copy of T1W with noise": copied(1.0),
    "a child's head": child,
    "four times the noise": noisy(0.2, 0.03, 6.0),
}


def read(scan: Scan) -> Volume:
    """A scan's maps as they are stored."""
    images = [nib.load(path) for path in scan.maps]
    assert scan.box is not None, f"{scan.scan_id} has no annotated box"
    maps = np.stack([image.get_fdata(dtype=np.float32) for image in images])
    return Volume(maps, images[0].affine, [list(map(int, pair)) for pair in scan.box])


def written(volume: Volume, folder: Path) -> Scan:
    """The volume as files, which is how a stranger hands it over."""
    paths = [folder / f"sub-01_{suffix}.nii" for suffix in MAPS]
    for path, channel in zip(paths, volume.maps, strict=True):
        nib.save(nib.Nifti1Image(channel.astype(np.float32), volume.affine), path)
    return Scan(participant_id="sub-01", scan_id="sub-01", maps=tuple(map(str, paths)), box=volume.box)


class Reader:
    """Reads scans as inference does.

    Args:
        weights: with a record and a calibration beside them.
        localise: `annotated`, or `auto` to find the box (slower; the flags of the localisation count too then).
        template: of `auto`.
    """

    def __init__(self, weights: Path, localise: str, template: Path) -> None:
        settings = read_record(weights.with_suffix(".json")).get("settings", {})
        region = settings.get("region", "cropped")
        size = settings.get("spatial_size", settings.get(f"{region}_size", [128, 128]))
        network = {key: settings[key] for key in ("num_slices", "hidden_size", "scan_model") if key in settings}
        self.network = as_trained(weights, **network, num_maps=len(recorded_maps(settings)))
        load_weights(self.network, weights)
        seen = ("intensity", "chimap_window", "r2starmap_window", "t1map_window", "maps")
        localiser = Localiser(template=str(template), margin_mm=5.0, least_confidence=0.5, cache_dir=None)
        self.steps = preprocessing(
            region, size, settings.get("num_slices", 16), settings.get("stretch_percentiles", [0.5, 99.5]), localise,
            localiser, **{key: settings[key] for key in seen if key in settings},
        )  # fmt: skip
        self.trust = Trust(weights, refuse_beyond=None)
        self.localise = localise
        self.of = [sha256(weights), calibration_sha256(weights), localise, software()]

    def __call__(self, scan: Scan) -> dict[str, Any]:
        """What is said of a scan: `refused` by the checks, `flags` of the maps, `times` the limit, `probability`."""
        if self.localise == "auto":
            scan = Scan(participant_id=scan.participant_id, scan_id=scan.scan_id, maps=scan.maps)
        try:
            item = self.steps(scan.item())
        except Exception as error:
            if (why := input_error_in(error)) is None:
                raise
            return {"refused": str(why).split(": ", 1)[-1][:120]}
        with torch.inference_mode():
            embeddings = self.network.embed(item["image"].as_tensor()[None])
            probability = float(self.network.sequence(embeddings)[0].softmax(-1)[0, 1])
        embedding = embedding_of_scan(embeddings)[0].numpy()
        found = self.trust(probability, embedding, json.loads(item["appearance"]))["familiarity"]
        return {
            "flags": json.loads(item["notes"]).get("flags", []),
            "times": found["strangeness"],
            "by": found["by"],
            "most": found["most"],
            "probability": probability,
        }


def share(rows: Sequence[dict[str, Any]], told: Callable[[dict[str, Any]], bool]) -> float:
    return float(np.mean([told(row) for row in rows]))


def summary(rows: Sequence[dict[str, Any]], labels: Sequence[int | None]) -> dict[str, Any]:
    """Shares of a kind's scans, and the AUC where both groups were read."""
    made: dict[str, Any] = {
        "scans": len(rows),
        "refused_by_checks": share(rows, lambda row: "refused" in row),
        "flagged_by_checks": share(rows, lambda row: bool(row.get("flags"))),
        "unfamiliar": share(rows, lambda row: row.get("times", 0) > 1),
        "beyond_twice_the_limit": share(rows, lambda row: row.get("times", 0) > 2),
        "told": share(rows, lambda row: "refused" in row or bool(row.get("flags")) or row["times"] > 1),
    }
    read_ones = [(row["probability"], label) for row, label in zip(rows, labels, strict=True) if "probability" in row]
    if len({label for _, label in read_ones}) == 2 and None not in {label for _, label in read_ones}:
        labelled, probabilities = (np.array([pair[place] for pair in read_ones]) for place in (1, 0))
        made["auc"] = float(roc_auc_score(labelled, probabilities))
        made["accuracy"] = float(((probabilities > 0.5) == labelled).mean())
    return made


def levels(steps: int) -> dict[str, Kind]:
    """Another site, step by step: R2* up to 1.6 times, and noise that grows."""
    made: dict[str, Kind] = {}
    for step in range(steps + 1):
        part = step / steps

        def kind(volume: Volume, rng: np.random.Generator, part: float = part) -> Volume:
            return noisy(0.2 * part, 0.03 * part, 6 * part)(channels(r2star=1 + 0.6 * part)(volume, rng), rng)

        made[f"R2* x {1 + 0.6 * part:.2f}, noise {part:.2f}"] = kind
    return made


def measure(
    reader: Reader,
    scans: Sequence[Scan],
    kinds: dict[str, Kind],
    labels: Sequence[int | None],
    seed: int,
    keep: Path | None = None,
) -> dict:
    """`summary` of every kind; scans that `keep` has are not read again, and others are put there."""
    known = read_record(keep) if keep else {}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in kinds}
    with tempfile.TemporaryDirectory() as folder:
        for number, scan in enumerate(tqdm(scans, desc="strange scans", unit="scan")):
            key = json.dumps([reader.of, [sha256(path) for path in scan.maps], scan.box, list(kinds), seed, number])
            if key not in known:
                volume, rows = read(scan), {}
                for place, (name, kind) in enumerate(kinds.items()):
                    rng = np.random.default_rng([seed, number, place])
                    rows[name] = reader(written(kind(volume, rng), Path(folder)))
                known[key] = rows
                if keep:
                    write_json(keep, known)
            for name, row in known[key].items():
                found[name].append(row)
    return {name: summary(rows, labels) for name, rows in found.items()}


def scans_of(cohort: Path, most: int | None) -> tuple[list[Scan], list[int | None]]:
    """The first scans of a cohort, and their groups, where participants.tsv says them."""
    table, scans = cohort / "participants.tsv", find_scans(cohort)[:most]
    people = read_participants(table, ["participant_id", "group"]) if table.is_file() else {}
    groups = {"HC": 0, "HH": 1}
    return scans, [groups.get(people.get(scan.participant_id, {}).get("group", "")) for scan in scans]


def table(made: dict[str, dict[str, Any]]) -> str:
    """The kinds as Markdown."""
    lines = [
        "| kind | scans | refused by checks | flagged by checks | unlike the training scans | twice the limit | told |"
        " AUC | accuracy |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    keys = ("refused_by_checks", "flagged_by_checks", "unfamiliar", "beyond_twice_the_limit", "told")
    for name, row in made.items():
        shares = " | ".join(f"{100 * row[key]:.0f} %" for key in keys)
        right = f"{row['auc']:.3f} | {row['accuracy']:.3f}" if "auc" in row else " | "
        lines.append(f"| {name} | {row['scans']} | {shares} | {right} |")
    return "\n".join(lines)


def draw(steps: dict[str, dict[str, Any]], path: Path, is_simulated: bool) -> None:
    """Accuracy, AUC and share of scans that are told or refused by step, in one picture."""
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes, places, rows = figure.subplots(), np.arange(len(steps)), list(steps.values())
    for key, style, colour, label in (
        ("told", "o-", "#b2182b", "told: unlike the training scans, flagged or refused"),
        ("beyond_twice_the_limit", "o:", "#ef8a62", "beyond twice the limit"),
        ("auc", "s--", "#2166ac", "AUC"),
        ("accuracy", "^--", "#67a9cf", "accuracy"),
    ):
        axes.plot(places, [row.get(key, np.nan) for row in rows], style, color=colour, label=label)
    axes.set(ylim=(-0.02, 1.02), ylabel="share of scans, AUC, accuracy")
    axes.set_title(titled(f"Towards another site, {rows[0]['scans']} scans", is_simulated, figure), fontsize=11)
    axes.set_xticks(places, [name.replace(", ", "\n") for name in steps], fontsize=8)
    axes.legend(frameon=False, loc="center right", fontsize=8)
    axes.grid(color="0.93")
    save_figure(figure, path, (".png",))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohorts", type=Path, nargs="+", help="held-out, of the training's site, with annotated boxes")
    parser.add_argument("--weights", type=Path, default=HERE.parent / "bundle" / "models" / "model.pt")
    parser.add_argument("--other", dest="others", action="append", default=[], help="name=FOLDER, a kind of its own")
    parser.add_argument("--scans", type=int, help="the first so many of a cohort; default all")
    parser.add_argument("--kinds", help="names with commas between, or none; default all")
    parser.add_argument("--levels", type=int, default=6, help="steps towards another site; 0: none")
    parser.add_argument("--localise", choices=("annotated", "auto"), default="annotated")
    parser.add_argument("--template", type=Path, default=HERE.parent / "bundle" / "models" / "template.nii.gz")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="file for what was read of each scan; the same goes on with it")
    parser.add_argument("--output", type=Path, default=RESULTS / "strange", help="path without ending")
    parser.add_argument("--picture", type=Path, help="of the levels, path without ending; default beside the output")
    given = parser.parse_args()
    known, why = read_calibration(given.weights)
    if known is None or not known.get("familiarity"):
        sys.exit(f"error: {given.weights}: {why or 'its calibration does not say what training scans are like'}")
    reader = Reader(given.weights, given.localise, given.template)
    found = [scans_of(cohort, given.scans) for cohort in given.cohorts]
    scans, labels = [scan for part, _ in found for scan in part], [label for _, part in found for label in part]
    names = KINDS if given.kinds is None else [] if given.kinds == "none" else given.kinds.split(",")
    kinds = {name: KINDS[name] for name in names}
    made = measure(reader, scans, kinds, labels, given.seed, given.keep) if kinds else {}
    for other in given.others:
        name, folder = other.split("=", 1)
        theirs, groups = scans_of(Path(folder), given.scans)
        made[name] = summary([reader(scan) for scan in tqdm(theirs, desc=name, unit="scan")], groups)
    steps = measure(reader, scans, levels(given.levels), labels, given.seed, given.keep) if given.levels else {}
    strange = {name: row["told"] for name, row in made.items() if name != "as it is"}
    goals = {
        "strange_told": float(np.mean(list(strange.values()))) if strange else None,
        "goal_strange": GOAL_STRANGE,
        "good_told": made.get("as it is", {}).get("told"),
        "goal_good": GOAL_GOOD,
    }
    content = {
        "software": software(),
        "simulated": all(simulated(cohort) for cohort in given.cohorts),
        "weights_sha256": sha256(given.weights),
        "calibration_sha256": calibration_sha256(given.weights),
        "localise": given.localise,
        "goals": goals,
        "kinds": made,
        "levels": steps,
    }
    write_json(given.output.with_suffix(".json"), content)
    words = "Simulated cohort. " if content["simulated"] else ""
    about = f"{words}{len(scans)} scans that set no limit, as they are and made strange."
    text = f"# Strange scans\n\n{about}\n"
    if made:
        text += f"\n{table(made)}\n"
    if steps:
        text += f"\n## Towards another site, step by step\n\n{table(steps)}\n"
        draw(steps, given.picture or given.output, content["simulated"])
    write_text(given.output.with_suffix(".md"), text)
    print(text)


if __name__ == "__main__":
    main()
