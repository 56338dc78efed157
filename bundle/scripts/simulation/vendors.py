"""How three vendors name and store the maps: descriptions, image types, numbers and file names of `dicom.py`.

The habits are those seen in exports: Siemens with slope and intercept, GE with whole numbers and no slope (QSM in
ppb, R2* in 1/s), Philips with 12 bits, a slope for display, and the true scaling in private tags.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Habit:
    """One map in one vendor's study. Value in the file = value in our unit (ppm, 1/s) * `per_unit`, in steps."""

    description: str
    protocol: str
    image_type: tuple[str, ...]
    per_unit: float
    step: float


@dataclass(frozen=True)
class Style:
    """One vendor's study. `scaling` says where the step is written: `rescale`, `none` or `philips`."""

    manufacturer: str
    model: str
    scaling: str
    signed: bool
    bits: int
    file_name: str
    habits: dict[str, Habit]


@dataclass(frozen=True)
class Stored:
    """One map as its series stores it.

    `values` `[columns, rows, slices]` are whole numbers; value in the file's unit = number * `slope` + `intercept`,
    wherever the vendor writes these two. `maps_unit` is the same in ppm, 1/s, s or the map's own unit, float32.
    """

    values: np.ndarray
    slope: float
    intercept: float
    maps_unit: np.ndarray


STYLES = {
    "siemens": Style(
        "Siemens Healthineers",
        "MAGNETOM Vida",
        "rescale",
        True,
        16,
        "{series:02d}/{image:04d}.IMA",
        {
            "Chimap": Habit("STAGE_tra_QSM", "STAGE_tra", ("DERIVED", "PRIMARY", "QSM", "ND"), 1000.0, 0.1),
            "R2starmap": Habit("STAGE_tra_R2Star", "STAGE_tra", ("DERIVED", "PRIMARY", "R2_STAR MAP", "ND"), 1.0, 0.01),
            "T1w": Habit("STAGE_tra_T1W_FA24", "STAGE_tra", ("ORIGINAL", "PRIMARY", "M", "ND", "NORM"), 1.0, 0.125),
            "T1map": Habit("STAGE_tra_T1map", "STAGE_tra", ("DERIVED", "PRIMARY", "T1 MAP", "ND"), 1000.0, 1.0),
            "PDmap": Habit("STAGE_tra_PDmap", "STAGE_tra", ("DERIVED", "PRIMARY", "PD MAP", "ND"), 1.0, 0.01),
        },
    ),
    "ge": Style(
        "GE MEDICAL SYSTEMS",
        "SIGNA Premier",
        "none",
        True,
        16,
        "e1/s{series}/i{image}.MRDC.1",
        {
            "Chimap": Habit("QSM: Ax SWAN STAGE", "QNET STAGE", ("DERIVED", "SECONDARY", "QSM"), 1000.0, 1.0),
            "R2starmap": Habit("R2*: Ax SWAN STAGE", "QNET STAGE", ("DERIVED", "SECONDARY", "R2_STAR"), 1.0, 1.0),
            "T1w": Habit("Ax T1W SPGR", "QNET STAGE", ("ORIGINAL", "PRIMARY", "OTHER"), 1.0, 1.0),
            "T1map": Habit("T1 map: Ax SWAN STAGE", "QNET STAGE", ("DERIVED", "SECONDARY", "T1"), 1000.0, 1.0),
            "PDmap": Habit("PD map: Ax SWAN STAGE", "QNET STAGE", ("DERIVED", "SECONDARY", "PD"), 1.0, 1.0),
        },
    ),
    "philips": Style(
        "Philips Medical Systems",
        "Ingenia Elition X",
        "philips",
        False,
        12,
        "DICOM/IM_{series:02d}{image:04d}",
        {
            "Chimap": Habit("sQSM 3D STAGE", "3D STAGE", ("DERIVED", "PRIMARY", "QSM", "QSM"), 1.0, 0.0005),
            "R2starmap": Habit("sR2star 3D STAGE", "3D STAGE", ("DERIVED", "PRIMARY", "R2_STAR", "R2_STAR"), 1.0, 0.05),
            "T1w": Habit("3D T1W_FFE STAGE", "3D STAGE", ("ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE"), 1.0, 1.0),
            "T1map": Habit("sT1map 3D STAGE", "3D STAGE", ("DERIVED", "PRIMARY", "T1", "T1"), 1000.0, 2.0),
            "PDmap": Habit("sPDmap 3D STAGE", "3D STAGE", ("DERIVED", "PRIMARY", "PD", "PD"), 1.0, 0.05),
        },
    ),
}


def store(values: np.ndarray, habit: Habit, style: Style) -> Stored:
    """Round a map to the whole numbers that a vendor stores; its step is doubled until the range fits the bits."""
    limits = np.iinfo(np.int16) if style.signed else None
    low, high = (limits.min, limits.max) if limits else (0, 2**style.bits - 1)
    scaled = values.astype(np.float64) * habit.per_unit
    step = habit.step
    while True:
        offset = 0 if style.signed else min(0, int(np.floor(scaled.min() / step)))
        numbers = np.rint(scaled / step).astype(np.int64) - offset
        if numbers.min() >= low and numbers.max() <= high:
            break
        step *= 2
    numbers = numbers.astype(np.int16 if style.signed else np.uint16)
    intercept = offset * step
    stored = (numbers.astype(np.float64) * step + intercept) / habit.per_unit
    return Stored(numbers, step, intercept, stored.astype(np.float32))
