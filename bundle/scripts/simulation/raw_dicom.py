"""Raw echoes as the DICOM study that a scanner would have sent: classic single-frame MR images, one file a slice.

Two vendors' ways: ``siemens`` sends a magnitude and a phase series for each flip angle (ImageType M and P; phase as
integers 0..4095 with slope 2 and intercept -4096, so that pi is 4096), ``ge`` one series for each flip angle with
real and imaginary images (whole numbers without a slope, told apart by private tag 0043,102F).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from pydicom.dataset import Dataset

from scripts.simulation import dicom_headers as headers
from scripts.simulation.dicom import save, uid
from scripts.simulation.gre import GAMMA_MHZ_PER_T, Sequence
from scripts.simulation.raw import SCANNER_PI, stored_phase
from scripts.simulation.vendors import STYLES, Stored

# GE's code of an image's kind in 0043,102F.
_GE_KINDS = {"real": 2, "imag": 3}
_IMAGE_TYPES = {
    "mag": ("ORIGINAL", "PRIMARY", "M", "ND"),
    "phase": ("ORIGINAL", "PRIMARY", "P", "ND"),
    "real": ("ORIGINAL", "PRIMARY", "OTHER"),
    "imag": ("ORIGINAL", "PRIMARY", "OTHER"),
}
# Largest value that GE's integers take here.
_GE_LEVELS = 16000
_SIEMENS_LEVELS = 4095


def stored_parts(image: torch.Tensor, vendor: str, largest: float) -> dict[str, Stored]:
    """One complex image ``[H, W, S]`` as the vendor's integers, by part.

    Args:
        image: complex64.
        vendor: one of ``VENDORS``.
        largest: largest magnitude of all echoes and flip angles, so that all share one scale.
    """
    if vendor == "ge":
        step = largest / _GE_LEVELS
        parts = {"real": image.real.numpy(), "imag": image.imag.numpy()}
        whole = {name: np.round(values / step).astype(np.int16) for name, values in parts.items()}
        return {name: Stored(v, 1.0, 0.0, v.astype(np.float32)) for name, v in whole.items()}
    step = largest / _SIEMENS_LEVELS
    magnitude = np.round(image.abs().numpy() / step).astype(np.int16)
    phase = (stored_phase(image.angle(), "scanner")[0].astype(np.int32) + SCANNER_PI) // 2
    return {
        "mag": Stored(magnitude, 1.0, 0.0, magnitude.astype(np.float32)),
        "phase": Stored(phase.astype(np.int16), 2.0, -float(SCANNER_PI), (2.0 * phase - SCANNER_PI).astype(np.float32)),
    }


def write_raw_study(
    folder: Path,
    name: str,
    signal: torch.Tensor,
    sequence: Sequence,
    affine: np.ndarray,
    vendor: str,
    seed: int,
    slice_share: float = 1.0,
) -> None:
    """Write all echoes of a scan as one DICOM study.

    Args:
        folder: the study's folder.
        name: ``sub-XX``; patient name and id follow from it.
        signal: complex64 ``[flip angles, echoes, H, W, S]``.
        sequence: how it was taken.
        affine: voxel to scanner (RAS+, mm).
        vendor: one of ``VENDORS``.
        seed: another seed gives other UIDs.
        slice_share: thickness of a slice over the distance between slices.
    """
    style = STYLES[vendor]
    study = headers.Study(partial(uid, seed, name, "raw"), name, style)
    # DICOM's columns run to the left, rows to the back, slices to the head.
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt("LPS"))
    turned = affine @ nib.orientations.inv_ornt_aff(turn, signal.shape[2:])
    largest = float(signal.abs().max())
    number = 2
    for flip, echoes in zip(sequence.flip_angles_deg, signal, strict=True):
        series: dict[str, headers.Series] = {}
        for part in ("mag", "phase") if vendor == "siemens" else ("complex",):
            number += 1
            kind = _IMAGE_TYPES["real" if part == "complex" else part]
            words = f"STAGE_FA{flip:g}_{part}"
            series[part] = headers.Series(study, number, words, "STAGE_tra", kind, turned)
        counts = dict.fromkeys(series, 0)
        for echo, image in enumerate(echoes, 1):
            for part, stored in stored_parts(image, vendor, largest).items():
                key = part if part in series else "complex"
                values = np.ascontiguousarray(nib.orientations.apply_orientation(stored.values, turn))
                volume = Stored(values, stored.slope, stored.intercept, stored.maps_unit)
                for file in _images(series[key], volume, part, flip, echo, sequence):
                    file.SliceThickness = headers.decimal(float(file.SpacingBetweenSlices) * slice_share)
                    counts[key] += 1
                    file.InstanceNumber = counts[key]
                    path = folder / style.file_name.format(series=series[key].number, image=counts[key])
                    save(file, path, "explicit")


def _images(
    series: headers.Series, stored: Stored, part: str, flip: float, echo: int, sequence: Sequence
) -> Iterator[Dataset]:
    """The slices of one part of one echo."""
    for file in headers.classic(series, stored):
        file.SOPInstanceUID = series.study.uid("image", series.number, part, echo, file.InstanceNumber)
        file.ImageType = list(_IMAGE_TYPES[part])
        file.EchoTime = headers.decimal(1000.0 * sequence.echo_times_s[echo - 1])
        file.EchoNumbers = echo
        file.EchoTrainLength = len(sequence.echo_times_s)
        file.RepetitionTime = headers.decimal(1000.0 * sequence.repetition_time_s)
        file.FlipAngle = headers.decimal(flip)
        file.MagneticFieldStrength = headers.decimal(sequence.field_strength_t)
        file.ImagingFrequency = headers.decimal(GAMMA_MHZ_PER_T * sequence.field_strength_t)
        if part in _GE_KINDS:
            file.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(0x2F, "SS", _GE_KINDS[part])
        yield file
