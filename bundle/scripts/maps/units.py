"""In which unit a map or a phase came: its sidecar says it, or its values can be of one unit alone."""

import os
from collections.abc import Mapping

import numpy as np

from scripts.errors import InputError
from scripts.files.json_file import read_json
from scripts.maps.plausibility import limit, sampled
from scripts.maps.scan import KNOWN_MAPS, MAPS
from scripts.maps.sidecars import sidecars_of

#: What `Units` is where it says nothing.
_SAYS_NOTHING = ("", "arbitrary", "a.u.", "au", "n/a", "unknown", "1")


def named_factor(said: str, units: Mapping[str, float], path: str | os.PathLike, what: str) -> float | None:
    """What values are multiplied with by the unit that a sidecar names; None where it says nothing.

    Args:
        said: `Units` of the sidecar.
        units: every unit that is known, in small letters -> factor.
        path: of the image, for the message.
        what: it is, in words.

    Raises:
        InputError: it names another unit.
    """
    said = said.strip().casefold()
    if said in _SAYS_NOTHING:
        return None
    if said not in units:
        raise InputError(
            f"{path}: its sidecar says Units {said!r}, but {what} is in {' or '.join(_names(units).values())}; convert"
            " or correct it"
        )
    return units[said]


def _names(units: Mapping[str, float]) -> dict[float, str]:
    """Factor -> the first of its names."""
    names: dict[float, str] = {}
    for name, factor in units.items():
        names.setdefault(factor, name)
    return names


def factor_to_unit(suffix: str, values: np.ndarray, path: str, with_sidecar: bool = True) -> tuple[float, list[str]]:
    """What a map's values must be multiplied with to be in the unit that the bundle has it in.

    Args:
        suffix: of the map, a key of `KNOWN_MAPS`; one that has no `units` passes as it is.
        values: any shape; 0 is what was not measured. Of a map in MAPS they alone change nothing: `plausibility` says
            of which unit they seem to be.
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
    if not kind.units or not some.size:
        return 1.0, []
    median = float(np.median(np.abs(some)))
    fitting = {factor for factor in kind.units.values() if _fits(suffix, some, factor)}
    names = _names(kind.units)
    said = said_unit(path) if with_sidecar else ""
    named = named_factor(said, kind.units, path, f"a {suffix}")
    if named is not None and named not in fitting and (fitting or suffix not in MAPS):
        raise InputError(
            f"{path}: its sidecar says Units {said!r}, but no head has a median {kind.name} of {median:.3g} {said};"
            " correct Units, or give the map"
        )
    if named is not None:
        return named, []
    if suffix in MAPS:
        return 1.0, []
    if len(fitting) != 1:
        raise InputError(
            f"{path}: nothing says the unit of the {suffix}, and its median of {median:.3g} fits none"
            f" ({' or '.join(names.values())}); write Units into the sidecar beside it, or give the map"
        )
    (factor,) = fitting
    found = f"{kind.name}: nothing says its unit; by its median of {median:.3g} it was taken for {names[factor]}"
    return factor, [found] if factor != 1 else []


def _fits(suffix: str, some: np.ndarray, factor: float) -> bool:
    """Whether a head can have such values, times a factor, in the map's unit."""
    size = np.abs(some) * factor
    median = float(np.median(size))
    if suffix == "Chimap":  # around 0: half of a head lies within a little of it, and some lies beyond
        return float(np.percentile(size, 99)) >= limit("qsm_least_spread") and median <= limit("qsm_largest_median")
    ends = KNOWN_MAPS[suffix].medians or (limit("r2star_least_median"), limit("r2star_largest_median"))
    return ends[0] <= median <= ends[1]


def said_unit(path: str | os.PathLike) -> str:
    """`Units` of the sidecar of a NIfTI file, in small letters; empty where it says nothing. As BIDS has it, one of the
    same map in a folder above, up to the one that holds the subjects, counts where no nearer one says it.

    Raises:
        InputError: the sidecar is no JSON.
    """
    for sidecar in sidecars_of(path):
        content = read_json(sidecar, "sidecar of a map", "correct it as BIDS has it")
        said = str(content.get("Units", "")).strip().casefold()
        if "Units" in content:
            return "" if said in _SAYS_NOTHING else said
    return ""
