"""How close the reconstruction comes to the truth of the digital head, and how long each step takes.

    python benchmarks/reconstruction.py RAW [--rows local recommended paper echoes] [--output FILE.json]

RAW is a folder of `configs/simulate_raw.yaml` (e.g. --size icbm or paper067). Simulated data only. Rows that were
measured before stay in FILE.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

from map_quality import nucleus_means, susceptibility_measures  # noqa: E402
from monai.bundle import ConfigParser  # noqa: E402
from skimage.restoration import unwrap_phase  # noqa: E402

from scripts.anatomy.atlas import LABELS  # noqa: E402
from scripts.files.writing import write_json  # noqa: E402
from scripts.provenance import BUNDLE_ROOT, software  # noqa: E402
from scripts.reconstruction.combine import GAMMA_MHZ_PER_T  # noqa: E402
from scripts.reconstruction.fourier import PaddedFourier, b0_direction  # noqa: E402
from scripts.reconstruction.inversion import TKD  # noqa: E402
from scripts.reconstruction.mask import bounding_box  # noqa: E402
from scripts.reconstruction.r2star import ARLO, WeightedFit, noise_level  # noqa: E402
from scripts.reconstruction.raw import RawScan, load_echoes  # noqa: E402
from scripts.reconstruction.reconstruct import Reconstruction  # noqa: E402
from scripts.reconstruction.run import find_scans  # noqa: E402
from scripts.reconstruction.variation import TV  # noqa: E402

RULES = str(BUNDLE_ROOT / "configs" / "dicom_series.yaml")
#: Zeros around the field for TKD, mm.
_TKD_PAD_MM = 60.0
#: Turns across a voxel from which its signal may have gone through zero.
LARGEST_CHANGE = 0.8
OVERLAYS = {"recommended": [], "paper": ["reconstruct_paper.yaml"]}


def recipe(name: str) -> Reconstruction:
    """The steps as the configs have them."""
    files = ["reconstruct.yaml", *OVERLAYS[name]]
    parser = ConfigParser(ConfigParser.load_config_files([str(BUNDLE_ROOT / "configs" / f) for f in files]))
    parser["device"] = "cpu"
    return parser.get_parsed_content("reconstruction")


class Truth:
    """What the digital scanner knows of one scan."""

    def __init__(self, raw: Path, name: str) -> None:
        self.folder, self.name = raw / "derivatives" / "groundtruth" / name / "anat", name
        self.labels = self.volume("desc-nuclei_dseg").astype(int)
        self.brain = self.volume("desc-brain_mask") > 0.5
        self.chi = self.volume("Chimap")

    def volume(self, ending: str) -> np.ndarray:
        """One true volume, float32."""
        return nib.load(self.folder / f"{self.name}_{ending}.nii.gz").get_fdata(dtype=np.float32)

    def measures(self, chi: np.ndarray, mask: np.ndarray) -> dict:
        """See `susceptibility_measures`."""
        return susceptibility_measures(chi, self.chi, mask & self.brain, self.brain, self.labels, LABELS)


@contextmanager
def counted_ffts():
    """Counts and times real FFTs of volumes while the block runs; `seconds` in CPU seconds."""
    counts = {"calls": 0, "seconds": 0.0}
    names = ("forward", "inverse", "inverse_padded")
    originals = {name: getattr(PaddedFourier, name) for name in names}

    def timed(function):
        def call(*args, **kwargs):
            start = time.process_time()
            result = function(*args, **kwargs)
            counts["calls"] += 1
            counts["seconds"] += time.process_time() - start
            return result

        return call

    for name, function in originals.items():
        setattr(PaddedFourier, name, timed(function))
    try:
        yield counts
    finally:
        for name, function in originals.items():
            setattr(PaddedFourier, name, function)


def reset_peak_memory() -> None:
    """Forget the process' peak of memory (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_memory_gb() -> float:
    """Most memory that the process held since then, all of torch included."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return round(int(line.split()[1]) / 1e6, 2)


def from_true_field(scan: RawScan, truth: Truth) -> dict:
    """Inversion alone: the true local field without noise, in the whole scan or cut to the brain, and with noise.

    The noise (0.6 ppb) is of the size that the field from all echoes has in white matter.
    """
    field = truth.volume("desc-local_fieldmap") / (GAMMA_MHZ_PER_T * scan.acquisitions[0].field_strength_t)
    noise = np.random.default_rng(0).normal(0, 0.0006, field.shape).astype(np.float32)
    brain = torch.from_numpy(truth.brain)
    box = bounding_box(brain, 2)
    everywhere = torch.ones_like(brain)
    settings = recipe("recommended").inversion
    tkd = TKD(0.1, False, _TKD_PAD_MM)
    tv = TV(settings.strength, settings.iterations, settings.tolerance, settings.pad_mm)
    whole_scan = tuple(slice(None) for _ in range(3))
    trials = {
        "TKD": (tkd, field, everywhere, whole_scan),
        "TKD, field cut to the brain": (tkd, field, brain, box),
        "TKD, field cut to the brain, noise": (tkd, field + noise, brain, box),
        "TV": (tv, field, brain, box),
        "TV, noise": (tv, field + noise, brain, box),
    }
    rows = {}
    for name, (method, given, mask, where) in trials.items():
        part, known = torch.from_numpy(given[where]), mask[where]
        chi = method(part, known, known.float(), scan.spacing_mm, b0_direction(scan.affine))
        whole = np.zeros(truth.chi.shape, np.float32)
        whole[where] = chi.numpy()
        rows[name] = truth.measures(whole, truth.brain)
    return rows


def with_recipe(scan: RawScan, truth: Truth, steps: Reconstruction) -> dict:
    """The whole way from wrapped phase: measures of the map, seconds of each step, and its FFTs."""
    reset_peak_memory()
    with counted_ffts() as ffts:
        maps = steps(scan)
    peak = peak_memory_gb()
    measured = truth.measures(maps.volumes["Chimap"], maps.volumes["Chimap"] != 0)
    measured["seconds"] = maps.seconds
    measured["seconds_total"] = round(sum(maps.seconds.values()), 1)
    measured["processor_seconds"] = maps.processor_seconds
    measured["processor_seconds_total"] = round(sum(maps.processor_seconds.values()), 1)
    measured["real_ffts"] = ffts["calls"]
    measured["processor_seconds_in_ffts"] = round(ffts["seconds"], 1)
    measured["qsm_over_its_ffts"] = round(maps.processor_seconds["QSM"] / ffts["seconds"], 2)
    measured["peak_memory_gb"] = peak
    return measured


def unwrapping_and_r2star(scan: RawScan, truth: Truth, steps: Reconstruction) -> dict:
    """Voxels with a wrong number of turns, and bias of R2* in each nucleus.

    A field that changes by a whole turn across a voxel extinguishes its signal; when it comes back its phase has
    jumped, so that its turns can no longer be those of the mean field. Such voxels are counted apart.
    """
    chosen = scan.acquisitions[0 if steps.field_from == "low" else -1]
    read = load_echoes(chosen, 1)
    magnitude, phase = torch.from_numpy(read.magnitude), torch.from_numpy(read.phase)
    brain = torch.from_numpy(truth.brain)
    _, good, _ = steps.mask(magnitude, phase, chosen.echo_times_s, scan.spacing_mm, truth.brain)
    box = bounding_box(brain, 2)
    magnitude_in, phase_in, good = magnitude[(slice(None), *box)], phase[(slice(None), *box)], good[box]
    unwrapped, _ = steps.unwrapping(phase_in, magnitude_in, good, chosen.echo_times_s, scan.spacing_mm)
    field = torch.from_numpy(truth.volume("desc-total_fieldmap"))[box]
    # Stored wrapped, but smooth and free of noise.
    offset = torch.from_numpy(unwrap_phase(truth.volume("desc-receive_phase")[box], rng=0))
    slope = torch.stack(torch.gradient(field)).abs().amax(0)
    wrong: dict[str, list[float]] = {"all": [], "undecided": [], "decided": []}
    for echo, seconds in zip(unwrapped, chosen.echo_times_s, strict=True):
        turns = torch.round((echo - offset - 2 * np.pi * field * seconds)[good] / (2 * np.pi))
        off = turns != turns.mode().values
        decided = (slope * seconds)[good] < LARGEST_CHANGE
        for name, chosen_voxels in (("all", off), ("undecided", ~decided), ("decided", off & decided)):
            wrong[name].append(round(float(100 * chosen_voxels.float().mean()), 4))
    noise = noise_level(magnitude[-1], brain)
    true = truth.volume("R2starmap")
    inside = brain.numpy()
    expected = nucleus_means(true, truth.labels, LABELS, inside)
    bias = {}
    for method in (ARLO(3.0, 500.0), WeightedFit(3.0, 500.0)):
        found = nucleus_means(method(magnitude, chosen.echo_times_s, noise).numpy(), truth.labels, LABELS, inside)
        bias[type(method).__name__] = {n: round(found[n] - expected[n], 2) for n in expected}
    return {
        "wrong_voxels_percent_by_echo": wrong["decided"],
        "wrong_voxels_percent_by_echo_all": wrong["all"],
        "voxels_percent_whose_signal_went_through_zero": wrong["undecided"],
        "r2star_bias_per_s": bias,
    }


def how_made(raw: Path) -> dict:
    """What the folder says of its simulated heads: the keys of `configs/simulate_raw.yaml` that make them differ."""
    settings = json.loads((raw / "dataset_description.json").read_text())["GeneratedBy"][0]["Settings"]
    keys = ("size", "seed", "ages", "tilt_deg", "slice_gap_mm", "head")
    return {key: settings[key] for key in keys if key in settings} | {"snr": settings["sequence"]["snr"]}


def main() -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("raw", type=Path)
    rows = ["local", *OVERLAYS, "echoes"]
    parser.add_argument("--rows", nargs="+", default=rows, choices=rows)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    scan = find_scans(str(given.raw), None, None, None, None, None, None, None, RULES)[0]
    truth = Truth(given.raw, scan.participant_id)
    result = {
        "input": "simulated raw data of a digital head",
        "head": how_made(given.raw),
        "grid": {"shape": list(scan.shape), "spacing_mm": [round(float(d), 3) for d in scan.spacing_mm]},
        "software": software(),
    }
    if given.output and given.output.exists():
        result = json.loads(given.output.read_text()) | result
    if "local" in given.rows:
        result["true local field"] = from_true_field(scan, truth)
    for name in (name for name in OVERLAYS if name in given.rows):
        result[name] = with_recipe(scan, truth, recipe(name)) | {"threads": given.threads}
    if "echoes" in given.rows:
        result |= unwrapping_and_r2star(scan, truth, recipe("recommended"))
    print(json.dumps(result, indent=1))
    if given.output:
        write_json(given.output, result)


if __name__ == "__main__":
    main()
