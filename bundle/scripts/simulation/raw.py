"""Raw data on disk: a BIDS folder with magnitude and phase of every echo, and the truth in derivatives/groundtruth."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from scripts.anatomy.atlas import LABELS, NUCLEI
from scripts.files.nifti import SIMULATED
from scripts.simulation.gre import GAMMA_MHZ_PER_T, RawScan, Sequence
from scripts.simulation.head import DigitalHead, Grid
from scripts.simulation.subject import write_json

# Largest magnitude as stored.
MAGNITUDE_LEVELS = 32767
# Phase as Siemens scanners export it through dcm2niix: even integers, pi is 4096.
SCANNER_PI = 4096
PHASE_SCALES = ("rad", "scanner")


def stored_phase(phase: torch.Tensor, scale: str) -> tuple[np.ndarray, float | None]:
    """Phase as integers, and the value of one step.

    Args:
        phase: wrapped, rad.
        scale: ``rad`` (file values are in rad) or ``scanner`` (file values are -4096..4094 in steps of 2).
    """
    if scale == "rad":
        return np.round(phase.numpy() * (32767 / np.pi)).astype(np.int16), np.pi / 32767
    levels = np.round(phase.numpy() * (SCANNER_PI / 2 / np.pi))
    # +pi and -pi are the same; the scanner has no level for +pi.
    levels[levels >= SCANNER_PI / 2] -= SCANNER_PI
    return (2 * levels).astype(np.int16), None


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray, step: float | None = None) -> None:
    """Write gzipped NIfTI without a time stamp. ``step`` is the value of one integer step; None for none."""
    image = nib.Nifti1Image(array, affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = SIMULATED
    image.header.set_slope_inter(step, 0 if step else None)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))


def echo_name(name: str, flip_deg: float, echo: int, part: str) -> str:
    """BIDS file name, without ending, of one image; ``echo`` counts from 1, ``part`` is ``mag`` or ``phase``."""
    return f"{name}_acq-fa{flip_deg:02.0f}_echo-{echo}_part-{part}_MEGRE"


def write_raw(root: Path, name: str, scan: RawScan, sequence: Sequence, grid: Grid, phase_scale: str) -> None:
    """Write magnitude and phase of every echo and flip angle to ``root/name/anat``.

    Args:
        root: BIDS folder.
        name: ``sub-XX``.
        scan: from ``gre.scan``.
        sequence: how it was taken.
        grid: the scan's.
        phase_scale: one of ``PHASE_SCALES``.
    """
    folder = root / name / "anat"
    # One scale for all images: flip angles and echoes can be compared.
    step = float(scan.signal.abs().max()) / MAGNITUDE_LEVELS
    for flip, images in zip(sequence.flip_angles_deg, scan.signal, strict=True):
        for echo, (time, image) in enumerate(zip(sequence.echo_times_s, images, strict=True), 1):
            common = {
                "Manufacturer": "Simulated",
                "Simulated": True,
                "MagneticFieldStrength": sequence.field_strength_t,
                "ImagingFrequency": sequence.field_strength_t * GAMMA_MHZ_PER_T,
                "EchoTime": time,
                "EchoNumber": echo,
                "FlipAngle": flip,
                "RepetitionTimeExcitation": sequence.repetition_time_s,
                "RepetitionTime": sequence.repetition_time_s,
                "MRAcquisitionType": "3D" if grid.slice_share >= 1.0 else "2D",
                "SliceThickness": round(grid.slice_thickness_mm, 6),
                "SpacingBetweenSlices": round(float(np.linalg.norm(grid.affine[:3, 2])), 6),
                "ScanningSequence": "GR",
                "SequenceVariant": "SP",
            }
            path = folder / echo_name(name, flip, echo, "mag")
            magnitude = np.round(image.abs().numpy() / step).astype(np.int16)
            write_nifti(path.with_name(path.name + ".nii.gz"), magnitude, grid.affine, step)
            write_json(
                path.with_name(path.name + ".json"),
                common | {"Units": "arbitrary", "ImageType": ["ORIGINAL", "PRIMARY", "M"]},
            )

            path = folder / echo_name(name, flip, echo, "phase")
            phase, phase_step = stored_phase(image.angle(), phase_scale)
            write_nifti(path.with_name(path.name + ".nii.gz"), phase, grid.affine, phase_step)
            sign = "grows" if sequence.phase_sign > 0 else "falls"
            words = f"Wrapped phase; it {sign} with echo time where the field is higher: 2 pi x field (Hz) x EchoTime"
            extra = {
                "Units": "rad" if phase_scale == "rad" else "arbitrary",
                "Description": words,
                "ImageType": ["ORIGINAL", "PRIMARY", "P"],
            }
            write_json(path.with_name(path.name + ".json"), common | extra)


def true_labels(head: DigitalHead) -> np.ndarray:
    """True nuclei on the scan's grid, uint8 ``[H, W, S]`` with the values of ``atlas.LABELS``."""
    membership = head.grid.voxel_mean(head.nuclei).numpy()
    labels = (membership.argmax(0) + 1).astype(np.uint8)
    labels += (head.grid.voxel_mean(head.left.float()).numpy() <= 0.5).astype(np.uint8) * len(NUCLEI)
    labels[membership.max(0) <= 0.5] = 0
    return labels


def truth_maps(head: DigitalHead, scan: RawScan) -> dict[str, tuple[np.ndarray, dict[str, Any]]]:
    """What only a simulation knows, on the scan's grid: name without subject -> array and sidecar."""
    inside = tuple(slice(a, b) for a, b in head.grid.target)

    def mean(fine: torch.Tensor) -> np.ndarray:
        return head.grid.voxel_mean(fine).numpy()

    brain = mean(head.brain.float()) > 0.5
    labels = true_labels(head)
    field = "Hz, positive where the main field is strengthened; voxel mean"
    return {
        "Chimap": (mean(head.chi[inside]), {"Units": "ppm", "Description": "Relative to water; air is 9.4"}),
        "R2starmap": (mean(head.r2star), {"Units": "1/s", "Description": "Without dephasing in the background field"}),
        "T1map": (mean(head.t1), {"Units": "s"}),
        "PDmap": (mean(head.pd), {"Units": "arbitrary", "Description": "Proton density, water is 1"}),
        "TB1map": (scan.b1.numpy(), {"Units": "arbitrary", "Description": "Actual over nominal flip angle"}),
        "desc-wm_probseg": (mean(head.wm), {"Description": "White matter fraction"}),
        "desc-brain_mask": (brain.astype(np.uint8), {"Description": "Brain and the fluid between its gyri"}),
        "desc-nuclei_dseg": (labels, {"Description": "True nuclei", "Labels": {str(v): k for k, v in LABELS.items()}}),
        "desc-total_fieldmap": (
            scan.total_hz.numpy(),
            {"Units": "Hz", "Description": f"Field of everything under the shim: {field}"},
        ),
        "desc-local_fieldmap": (
            scan.local_hz.numpy(),
            {"Units": "Hz", "Description": f"Field of the sources inside the brain mask, relative to water: {field}"},
        ),
        "desc-receive_phase": (scan.receive.angle().numpy(), {"Units": "rad", "Description": "Of the receive array"}),
    }  # fmt: skip


def write_truth(root: Path, name: str, head: DigitalHead, scan: RawScan) -> None:
    """Write :func:`truth_maps` to ``root/derivatives/groundtruth/name/anat``."""
    folder = root / "derivatives" / "groundtruth" / name / "anat"
    for suffix, (array, sidecar) in truth_maps(head, scan).items():
        write_nifti(folder / f"{name}_{suffix}.nii.gz", array, head.grid.affine)
        write_json(folder / f"{name}_{suffix}.json", sidecar | {"Simulated": True})
