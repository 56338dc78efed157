"""In which unit a map came: its sidecar says it, or its values can be of one unit alone."""

import os
from pathlib import Path

import numpy as np

from scripts.errors import InputError
from scripts.files.json_file import read_json
from scripts.maps.plausibility import sampled
from scripts.maps.scan import KNOWN_MAPS

#: What `Units` is where it says nothing.
_SAYS_NOTHING = ("", "arbitrary", "a.u.", "au", "n/a", "unknown", "1")


def factor_to_unit(suffix: str, values: np.ndarray, path: str, with_sidecar: bool = True) -> tuple[float, list[str]]:
    """What a map's values must be multiplied with to be in the unit that the bundle has it in.

    Args:
        suffix: of the map, a key of `KNOWN_MAPS`; one that has no `units` passes as it is.
        values: any shape; 0 is what was not measured.
        path: of its file, or of the 4D file that holds it.
        with_sidecar: whether the sidecar beside the file is of this map.

    Returns:
        the factor, and a line if nothing but the values said that it is not 1.

    Raises:
        InputError: the sidecar names another unit, one in which no head has such values, or nothing says the unit.
    """
    kind = KNOWN_MAPS[suffix]
    some = sampled(values)
    some = some[np.isfinite(some)]
    if kind.medians is None or not kind.units or not some.size:
        return 1.0, []
    median, (low, high) = float(np.median(some)), kind.medians
    fitting = {factor for factor in kind.units.values() if low <= median * factor <= high}
    names: dict[float, str] = {}
    for name, factor in kind.units.items():
        names.setdefault(factor, name)
    choice = " or ".join(names.values())
    said = said_unit(path) if with_sidecar else ""
    if said and said not in kind.units:
        raise InputError(
            f"{path}: its sidecar says Units {said!r}, but a {suffix} is in {choice}; convert or correct it"
        )
    if said and kind.units[said] not in fitting:
        raise InputError(
            f"{path}: its sidecar says Units {said!r}, but no head has a median {kind.name} of {median:.3g} {said};"
            " correct Units, or give the map"
        )
    if said:
        return kind.units[said], []
    if len(fitting) != 1:
        raise InputError(
            f"{path}: nothing says the unit of the {suffix}, and its median of {median:.3g} fits none ({choice}); write"
            " Units into the sidecar beside it, or give the map"
        )
    (factor,) = fitting
    found = f"{kind.name}: nothing says its unit; by its median of {median:.3g} it was taken for {names[factor]}"
    return factor, [found] if factor != 1 else []


def said_unit(path: str | os.PathLike) -> str:
    """`Units` of the sidecar beside a NIfTI file, in small letters; empty where it says nothing.

    Raises:
        InputError: the sidecar is no JSON.
    """
    path = Path(path)
    sidecar = path.with_name(path.name.removesuffix(".gz").removesuffix(".nii") + ".json")
    if not os.path.lexists(sidecar):
        return ""
    said = str(read_json(sidecar, "sidecar of a map", "correct it as BIDS has it").get("Units", "")).strip().casefold()
    return "" if said in _SAYS_NOTHING else said
