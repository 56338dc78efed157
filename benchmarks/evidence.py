"""Evidence maps against what the network does and against the simulation's truth, method by method.

    cd bundle
    python -m monai.bundle run --config_file configs/simulate.yaml --output_dir COHORT --seed 11 --size paper \
        --sizes#paper#hh 12 --sizes#paper#hc 12 --sizes#paper#men 16
    python ../benchmarks/evidence.py COHORT --work FOLDER

Writes `results/evidence.json` and `results/evidence.md`, and the table into `bundle/docs/evidence.md`. FOLDER keeps
what was measured of each scan, so a run that was stopped goes on. Take a cohort that the weights were not trained on.
All is measured on `--slices` slices of each scan, evenly spaced: covering every 8 x 8 patch of all 16 would take eight
times as long.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import captum
import nibabel as nib
import numpy as np
import torch
from captum.attr import IntegratedGradients, LayerGradientXActivation, NoiseTunnel, Saliency
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "bundle")]

from tqdm import tqdm  # noqa: E402

from scripts.files.writing import sha256, write_aside, write_json  # noqa: E402
from scripts.maps.bids import find_scans  # noqa: E402
from scripts.maps.scan import Scan  # noqa: E402
from scripts.model.evidence import Evidence, margin, slice_means, smoothed  # noqa: E402
from scripts.model.image_level import slices_of  # noqa: E402
from scripts.model.networks import QNet, load_weights  # noqa: E402
from scripts.provenance import read_record, software  # noqa: E402
from scripts.training.preprocessing import preprocessing  # noqa: E402

RESULTS, WEIGHTS = HERE / "results", HERE.parent / "bundle" / "models" / "model.pt"
DOCUMENTATION = HERE.parent / "bundle" / "docs" / "evidence.md"
#: What frames the table there.
BEGIN, END = "<!-- measured: benchmarks/evidence.py writes what follows -->", "<!-- end -->"
PATCH = 8
#: Shares of the patches that are covered, strongest first, for the deletion curve.
DELETED = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
Maker = Callable[[QNet, Tensor], Tensor]


def ours(method: str, steps: int = 12) -> Maker:
    """A method of the bundle, without smoothing."""
    return Evidence(method, steps, PATCH, 1)


def layer(number: int) -> Maker:
    """Gradient times activation of a stage of the ResNet, as Captum has it, brought to the size of the slice."""

    def make(network: QNet, image: Tensor) -> Tensor:
        method = LayerGradientXActivation(margin(network), getattr(network.embedding, f"layer{number}"))
        coarse = method.attribute(image).sum(1, keepdim=True).detach()
        fine = functional.interpolate(coarse, image.shape[2:4], mode="bilinear")
        return fine.unflatten(0, (1, image.shape[4])).permute(0, 2, 3, 4, 1)

    return make


def smoothgrad(network: QNet, image: Tensor) -> Tensor:
    """SmoothGrad (Smilkov et al. 2017): input x gradient, mean over 4 images with noise of 0.1."""
    torch.manual_seed(0)
    method = NoiseTunnel(Saliency(margin(network)))
    slope = method.attribute(image, nt_samples=4, nt_samples_batch_size=1, stdevs=0.1, abs=False)
    return ((image - slice_means(image)) * slope).sum(1, keepdim=True).detach()


def from_blurred(network: QNet, image: Tensor) -> Tensor:
    """Integrated gradients in 6 steps, from means over 33 pixels squared instead of over the whole slice."""
    blurred = torch.cat([smoothed(image[:, c : c + 1], 33) for c in range(image.shape[1])], 1)
    method = IntegratedGradients(margin(network))
    parts = method.attribute(image, blurred, n_steps=6, internal_batch_size=1)
    return parts.sum(1, keepdim=True).detach()


def susceptibility(network: QNet, image: Tensor) -> Tensor:
    """QSM itself against its slice's mean: a map for which no network is asked."""
    return (image - slice_means(image))[:, :1]


GRADIENT, PATH = ours("input_x_gradient"), ours("integrated_gradients")
#: Name in the table -> what makes the map, and over how many pixels squared it is then averaged.
METHODS: dict[str, tuple[Maker, int]] = {
    "class activation, layer 4 (paper)": (ours("class_activation"), 1),
    "gradient x activation, layer 3": (layer(3), 1),
    "gradient x activation, layer 1": (layer(1), 1),
    "input x gradient": (GRADIENT, 1),
    "input x gradient, smoothed": (GRADIENT, 9),
    "SmoothGrad, 4 samples, smoothed": (smoothgrad, 9),
    "integrated gradients, 4 steps, smoothed": (ours("integrated_gradients", 4), 9),
    "integrated gradients, 12 steps": (PATH, 1),
    "integrated gradients, 12 steps, smoothed": (PATH, 9),
    "integrated gradients from a blurred image, 6 steps, smoothed": (from_blurred, 9),
    "QSM, no network asked": (susceptibility, 1),
}


def maps(network: QNet, image: Tensor) -> Iterator[tuple[str, Tensor, float]]:
    """Name, map `[1, 1, H, W, S]` and CPU seconds of each method."""
    made: dict[Maker, tuple[Tensor, float]] = {}
    for name, (make, size) in METHODS.items():
        if make not in made:
            start = time.process_time()
            made[make] = make(network, image), time.process_time() - start
        volume, seconds = made[make]
        yield name, smoothed(volume, size), seconds


def harmonic_weights(size: int) -> Tensor:
    """`[size^2, (size + 2)^2]`: the pixels of a patch from those around it, as a membrane would span them."""
    wide = size + 2
    inner = [(i, j) for i in range(1, size + 1) for j in range(1, size + 1)]
    place = {pixel: k for k, pixel in enumerate(inner)}
    own, around = 4 * np.eye(size**2), np.zeros((size**2, wide**2))
    for (i, j), k in place.items():
        for pixel in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
            if pixel in place:
                own[k, place[pixel]] -= 1
            else:
                around[k, pixel[0] * wide + pixel[1]] = 1
    return torch.from_numpy(np.linalg.solve(own, around)).float()


def from_surroundings(planes: Tensor) -> Tensor:
    """`[N, C, H, W]` with each patch spanned from the pixels around it: what is inside is gone, without an edge."""
    around = functional.pad(planes, (1, 1, 1, 1), mode="replicate").flatten(0, 1)[:, None]
    columns = functional.unfold(around, PATCH + 2, stride=PATCH)
    spanned = harmonic_weights(PATCH) @ columns
    return functional.fold(spanned, planes.shape[2:], PATCH, stride=PATCH).view_as(planes)


FILLS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda planes: planes.mean((2, 3), keepdim=True).expand_as(planes),
    "surroundings": from_surroundings,
}


class Covering:
    """A scan of which patches of some slices are covered, and the margin that is left.

    Args:
        network: Q-Net.
        image: `[1, 3, H, W, S]`.
        slices: those whose patches may be covered.
    """

    def __init__(self, network: QNet, image: Tensor, slices: list[int]) -> None:
        self.network = network
        self.planes = slices_of(image)[slices]
        self.slices = slices
        self.embed = torch.jit.freeze(torch.jit.script(network.embedding.eval()))
        self.embeddings = self.embed(slices_of(image))
        self.whole = float(self.margin(self.embeddings[None]))
        self.grid = (image.shape[2] // PATCH, image.shape[3] // PATCH)

    def margin(self, embeddings: Tensor) -> Tensor:
        logits = self.network.sequence(embeddings)[0]
        return logits[:, 1] - logits[:, 0]

    def one_by_one(self, fill: Tensor) -> Tensor:
        """By how much the margin falls when a patch is covered with `fill`, `[slices, rows, columns]`."""
        found = []
        for number, index in enumerate(self.slices):
            covered = self.planes[number].repeat(self.grid[0] * self.grid[1], 1, 1, 1)
            for k, plane in enumerate(covered):
                rows, columns = (slice(n * PATCH, (n + 1) * PATCH) for n in divmod(k, self.grid[1]))
                plane[:, rows, columns] = fill[number, :, rows, columns]
            embeddings = self.embeddings.repeat(len(covered), 1, 1)
            embeddings[:, index] = torch.cat([self.embed(part) for part in covered.split(64)])
            found.append((self.whole - self.margin(embeddings)).view(self.grid))
        return torch.stack(found)

    def together(self, fill: Tensor, patches: Tensor) -> float:
        """The margin when all patches that are True in `[slices, rows, columns]` are covered."""
        mask = patches.repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2)[:, None]
        embeddings = self.embeddings.clone()
        embeddings[self.slices] = self.embed(torch.where(mask, fill, self.planes))
        return float(self.margin(embeddings[None]))

    def deletion(self, fill: Tensor, values: Tensor) -> float:
        """Mean over DELETED of the margin with the strongest for HC covered minus that with the strongest for HH.

        0 by chance; the more, the better the order that `values` gives to the patches. Logits.
        """
        order, count = values.flatten().argsort(), values.numel()
        found = []
        for share in DELETED:
            ends = []
            for chosen in (order[: round(share * count)], order[-round(share * count) :]):
                patches = torch.zeros(count, dtype=torch.bool)
                patches[chosen] = True
                ends.append(self.together(fill, patches.view(values.shape)))
            found.append(ends[0] - ends[1])
        return float(np.mean(found))


def by_patch(volume: Tensor, slices: list[int]) -> Tensor:
    """`[1, 1, H, W, S]` -> sums over the patches of some slices, `[slices, rows, columns]`."""
    return functional.avg_pool2d(volume[0, 0].permute(2, 0, 1)[slices][:, None], PATCH)[:, 0] * PATCH**2


def correlation(a: Tensor, b: Tensor) -> float:
    return float(np.corrcoef(a.flatten(), b.flatten())[0, 1])


def load(cohort: Path, scan: Scan, steps: Callable) -> tuple[Tensor, Tensor]:
    """The network's input `[1, 3, H, W, S]`, and where its true nuclei are, `[1, 1, H, W, S]` bool."""
    image = steps(scan.item())["image"]
    name = f"{scan.participant_id}/anat/{scan.scan_id}_desc-nuclei_dseg.nii.gz"
    labels = nib.load(cohort / "derivatives" / "groundtruth" / name)
    size = image.shape[1:]
    centres = np.concatenate([np.indices(size).reshape(3, -1), np.ones((1, int(np.prod(size))))])
    voxels = np.rint(np.linalg.solve(labels.affine, image.affine.numpy() @ centres)[:3]).astype(int)
    voxels = np.clip(voxels, 0, np.array(labels.shape)[:, None] - 1)
    nuclei = np.asarray(labels.dataobj)[tuple(voxels)].reshape(size) > 0
    return image.as_tensor()[None], torch.from_numpy(nuclei)[None, None]


def against_nuclei(volume: Tensor, nuclei: Tensor) -> dict[str, float]:
    """Share of the map in the true nuclei, whether its strongest pixel lies there, and what chance would give."""
    strength = volume.abs()
    return {
        "share": float(strength[nuclei].sum() / strength.sum()),
        "points": float(nuclei.flatten()[strength.argmax()]),
        "chance": float(nuclei.float().mean()),
    }


def measure(network: QNet, image: Tensor, nuclei: Tensor, slices: list[int]) -> dict:
    """All methods on one scan: tensors of patch sums and coverings, and numbers."""
    with torch.no_grad():
        covering = Covering(network, image, slices)
        fills = {name: fill(covering.planes) for name, fill in FILLS.items()}
        covered = {name: covering.one_by_one(fill) for name, fill in fills.items()}
        found: dict = {"covered": covered, "patches": {}, "numbers": {}}
        orders = {f"covering by {name}": values for name, values in covered.items()}
        orders["chance"] = torch.rand(covered["mean"].shape, generator=torch.Generator().manual_seed(0))
        for name, volume, seconds in maps(network, image):
            found["patches"][name] = orders[name] = by_patch(volume, slices)
            found["numbers"][name] = {"seconds": seconds, **against_nuclei(volume, nuclei)}
        for name, values in orders.items():
            numbers = found["numbers"].setdefault(name, {})
            numbers |= {f"deletion_{key}": covering.deletion(fill, values) for key, fill in fills.items()}
        start = time.process_time()
        network(image)
        found["forward_seconds"] = time.process_time() - start
    return found


def randomised(network: QNet, seed: int) -> dict[str, QNet]:
    """Networks whose weights are partly or all random (Adebayo et al., NeurIPS 2018), from the output on."""
    torch.manual_seed(seed)
    fresh, half = QNet().eval(), QNet().eval()
    half.load_state_dict(network.state_dict())
    half.sequence.load_state_dict(fresh.sequence.state_dict())
    half.embedding.layer4.load_state_dict(fresh.embedding.layer4.state_dict())
    return {"LSTM, heads and layer 4": half, "all": fresh}


def measure_random(network: QNet, image: Tensor, slices: list[int], patches: Mapping[str, Tensor], seed: int) -> dict:
    """How much each method's map changes when weights are random; and whether it then follows the random network."""
    found: dict = {name: {} for name in METHODS}
    with torch.no_grad():
        for weights, other in randomised(network, seed).items():
            covering = Covering(other, image, slices)
            covered = covering.one_by_one(FILLS["mean"](covering.planes)) if weights == "all" else None
            for name, volume, _ in maps(other, image):
                values = by_patch(volume, slices)
                found[name][weights] = abs(float(spearmanr(values.flatten(), patches[name].flatten())[0]))
                if covered is not None:
                    found[name]["own covering"] = correlation(values, covered)
    return found


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of a mean, by 2000 bootstrap samples of scans."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (2000, len(values)))].mean(1)
    return tuple(float(v) for v in np.percentile(means, (2.5, 97.5)))


def summarise(scans: list[dict], randoms: list[dict]) -> list[dict]:
    """A row a method: means over scans, intervals, and chance."""
    rows = []
    for name in METHODS:
        numbers = [scan["numbers"][name] for scan in scans]
        row: dict = {"method": name}
        for fill in FILLS:
            table = np.array(
                [[correlation(other["patches"][name], scan["covered"][fill]) for other in scans] for scan in scans]
            )
            own = table.diagonal()
            row[f"correlation_{fill}"] = float(own.mean())
            row[f"correlation_{fill}_interval"] = interval(own)
            row[f"correlation_{fill}_chance"] = float(table[~np.eye(len(scans), dtype=bool)].mean())
            deleted = np.array([n[f"deletion_{fill}"] for n in numbers])
            row[f"deletion_{fill}"], row[f"deletion_{fill}_interval"] = float(deleted.mean()), interval(deleted)
        row["share"] = float(np.mean([n["share"] / n["chance"] for n in numbers]))
        row["points"] = int(sum(n["points"] for n in numbers))
        row["points_chance"] = float(np.mean([n["chance"] for n in numbers]))
        row["seconds"] = float(np.median([n["seconds"] for n in numbers]))
        for key in randoms[0][name] if randoms else ():
            row[f"random_{key}"] = float(np.mean([r[name][key] for r in randoms]))
        rows.append(row)
    for name in ("chance", *(f"covering by {fill}" for fill in FILLS)):
        deleted = {f: float(np.mean([s["numbers"][name][f"deletion_{f}"] for s in scans])) for f in FILLS}
        rows.append({"method": name, **{f"deletion_{f}": value for f, value in deleted.items()}})
    return rows


def markdown(rows: list[dict], content: Mapping) -> str:
    """The table, and how to read it."""
    seen, count = content["covering"], len(content["scans"])
    lines = [
        f"# Evidence maps, {count} simulated scans",
        "",
        f"Weights with SHA-256 {content['weights'][:8]}... on scans of a simulated cohort that they were not trained"
        f" on (seed {content['seed']}, size"
        f" {content['size']}); {content['slices']} of 16 slices of each scan; with random"
        f" weights: {content['random_scans']}. Intervals are over scans, so with few scans"
        " they are rough. Made by `benchmarks/evidence.py`.",
        "",
        "| method | correlation with covering: slice's mean (95 %; other scan's map) | surroundings (95 %; other scan's"
        " map) | deletion: mean (95 %), logits | surroundings | share in nuclei, x chance | strongest in a nucleus |"
        " CPU s a scan |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        if "share" not in row:
            lines.append(
                f"| {row['method']} | | | {row['deletion_mean']:.3f} | {row['deletion_surroundings']:.3f} | | | |"
            )
            continue
        cells = [row["method"]]
        for fill in FILLS:
            low, high = row[f"correlation_{fill}_interval"]
            chance = row[f"correlation_{fill}_chance"]
            cells.append(f"{row[f'correlation_{fill}']:.2f} ({low:.2f} to {high:.2f}; {chance:.2f})")
        for fill in FILLS:
            low, high = row[f"deletion_{fill}_interval"]
            cells.append(f"{row[f'deletion_{fill}']:.3f} ({low:.3f} to {high:.3f})")
        cells += [
            f"{row['share']:.2f}",
            f"{row['points']} of {count} (chance {row['points_chance'] * count:.1f})",
            f"{row['seconds']:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if "random_all" in rows[0]:
        lines += [
            "",
            "Random weights (Adebayo et al. 2018): |Spearman correlation| of a map with that of the trained network,"
            " low where the map depends on what was learned; and, with all weights random, correlation with covering"
            " under that random network, high where the map follows any network.",
            "",
            "| method | LSTM, heads and layer 4 random | all random | follows the random network |",
            "| --- | --- | --- | --- |",
        ]
        for row in rows:
            if "random_all" in row:
                values = (row[f"random_{key}"] for key in ("LSTM, heads and layer 4", "all", "own covering"))
                lines.append(f"| {row['method']} | {' | '.join(f'{value:.2f}' for value in values)} |")
    lines += [
        "",
        f"- **Covering**: each 8 x 8 patch of a slice, in all three maps, is replaced by the slice's mean, or spanned"
        f" from the pixels around it; by how much HH minus HC then falls is compared with the map's sum over the patch."
        f" The two coverings agree with each other by {seen['agreement']:.2f}: the mean takes away how bright a patch"
        " is and adds an edge, the surroundings take away only the detail inside. A map cannot follow both closely.",
        "- **Other scan's map**: the same with the map of another scan: what a map owes to the anatomy that all share.",
        f"- **Deletion**: patches are covered together, strongest for HC first and strongest for HH first"
        f" ({', '.join(f'{100 * share:g} %' for share in DELETED)} of them); mean difference of HH minus HC. 0 by"
        " chance. The last rows order the patches by what covering each alone does.",
        "- **Nuclei**: the true caudate, putamen, pallidum and thalamus. They are bright, so a map that multiplies by"
        " the image peaks there with any network: this says little by itself.",
        f"- **CPU s**: one thread, on a machine that others used; a bare forward pass took"
        f" {content['forward_seconds']:.2f} s.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohort", type=Path, help="simulated cohort that the weights were not trained on")
    parser.add_argument("--work", type=Path, required=True, help="keeps what was measured of each scan")
    parser.add_argument("--scans", type=int, default=24, help="how many scans")
    parser.add_argument("--random_scans", type=int, default=3, help="of them also with random weights")
    parser.add_argument("--slices", type=int, default=2, help="slices of each scan whose patches are covered")
    parser.add_argument("--measured", action="store_true", help="the table of what FOLDER holds; measure nothing more")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    network = load_weights(QNet(), WEIGHTS)
    trained = read_record(WEIGHTS.with_suffix(".json"))["settings"]
    steps = preprocessing(
        trained["region"], trained["spatial_size"], trained["num_slices"], trained["stretch_percentiles"], "annotated"
    )
    step = trained["num_slices"] // arguments.slices
    slices = list(range(step // 2, trained["num_slices"], step))
    arguments.work.mkdir(parents=True, exist_ok=True)
    scans, randoms, chosen = [], [], find_scans(arguments.cohort)[: arguments.scans]
    if arguments.measured:
        chosen = [scan for scan in chosen if (arguments.work / f"{scan.scan_id}_trained.pt").exists()]
    for number, scan in enumerate(tqdm(chosen, desc="evidence", unit="scan")):
        image, nuclei = load(arguments.cohort, scan, steps)
        for kind, wanted in (("trained", True), ("random", number < arguments.random_scans)):
            path = arguments.work / f"{scan.scan_id}_{kind}.pt"
            wanted = wanted and not (arguments.measured and not path.exists())
            if wanted and not path.exists():
                if kind == "trained":
                    made = measure(network, image, nuclei, slices)
                else:
                    made = measure_random(network, image, slices, scans[-1]["patches"], number)
                write_aside(path, lambda part, made=made: torch.save(made, part))
            if wanted:
                (scans if kind == "trained" else randoms).append(torch.load(path, weights_only=True))
    rows = summarise(scans, randoms)
    settings = json.loads((arguments.cohort / "dataset_description.json").read_text())["GeneratedBy"][0]["Settings"]
    agreement = [correlation(scan["covered"]["mean"], scan["covered"]["surroundings"]) for scan in scans]
    content = {
        "simulated": True,
        "size": settings["size"],
        "seed": settings["seed"],
        "weights": sha256(WEIGHTS),
        "software": {**software(), "captum": captum.__version__},
        "slices": len(slices),
        "random_scans": len(randoms),
        "forward_seconds": float(np.median([scan["forward_seconds"] for scan in scans])),
        "covering": {"patch": PATCH, "agreement": float(np.mean(agreement))},
        "rows": rows,
        "scans": [
            {"scan_id": scan.scan_id, "numbers": found["numbers"]} for scan, found in zip(chosen, scans, strict=True)
        ],
    }
    write_json(RESULTS / "evidence.json", content)
    text = markdown(rows, content)
    write_aside(RESULTS / "evidence.md", lambda part: Path(part).write_text(text))
    page = DOCUMENTATION.read_text()
    before, rest = page.split(BEGIN)
    measured = text.split("\n", 2)[2]  # without its title
    page = f"{before}{BEGIN}\n{measured}{END}{rest.split(END)[1]}"
    write_aside(DOCUMENTATION, lambda part: Path(part).write_text(page))
    print(text)


if __name__ == "__main__":
    main()
