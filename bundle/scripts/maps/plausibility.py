"""What QSM, R2* and T1W of a head cannot be, and what they hardly are, each with its physical reason.

What cannot be is refused before any work (`check_grid_size`, `check_maps`). What is only unlikely is told as a flag,
one line of text, in results, tables and pages (`region_flags`, `nuclei_flags`). Training, inference, localisation and
nuclei all read their maps through these checks. All limits stand in LIMITS.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.stats import spearmanr

from scripts.errors import InputError
from scripts.maps.scan import KNOWN_MAPS, MAPS, Map

#: From this correlation on the iron of a scan says where the nuclei are; below it T1W alone does.
LEAST_IRON = 0.35

#: name -> limit, and why. QSM in ppm, R2* in 1/s. "Region" is the basal ganglia's box.
LIMITS: dict[str, tuple[float, str]] = {
    # refused
    "smallest_voxel_mm": (0.1, "no scanner images a living head finer"),
    "largest_voxel_mm": (20.0, "the basal ganglia are 4 cm high: a slice more and they are not seen"),
    "smallest_extent_mm": (15.0, "in-plane; the basal ganglia of one side alone are longer"),
    "largest_extent_mm": (1000.0, "no head coil is longer"),
    "smallest_box_mm": (10.0, "in-plane; caudate and putamen of one side alone are wider"),
    "outlier_ratio": (1000.0, "no tissue is so many times brighter than all but a thousandth of the others"),
    "qsm_largest_median": (1.0, "tissue lies within 0.3 ppm of water; above, the unit is ppb, Hz or rad"),
    "qsm_least_spread": (0.003, "gray and white matter alone differ by 0.03 ppm; below, the unit is not ppm"),
    "r2star_least_median": (1.0, "tissue loses its signal in less than a second; below, the unit is 1/ms, or T2* in s"),
    "r2star_largest_median": (500.0, "signal that is gone in 2 ms is not imaged; above, this is another image"),
    "stretched_ratio": (5.0, "the same, of a map of so few values as a mask: they were rounded for its sake"),
    "least_values": (16.0, "different values in a map; a mask or a label image has fewer, noise alone makes more"),
    "same_image": (0.9999, "two contrasts of one head differ in noise at least"),
    "further_least_spread": (
        0.02,
        "1st to 99th percentile over the median; brain has 70 to 85 % water, fluid all",
    ),
    "further_negative_share": (0.1, "T1 and water are never negative; noise makes few values so"),
    "t1w_against": (
        0.3,
        "rank correlation of the wrong sign in the brain: T1 darkens, myelin brightens, a T1W",
    ),
    "brain_r2star_least": (3.0, "median of a whole brain; only fluid keeps its signal for so long"),
    # flagged
    "brain_r2star_factor": (
        1.8,
        "a whole brain's median over or below what its field gives (`BRAIN_R2STAR`); squared signal doubles it",
    ),
    "unmeasured_share": (0.1, "of the region, with one value around it; tissue varies from voxel to voxel"),
    "unmeasured_share_whole": (0.4, "the same of a whole image, where brain masks of the maps differ"),
    "region_qsm_shift": (0.1, "referenced to cerebrospinal fluid or the brain, the region's median is within 0.05 ppm"),
    "region_qsm_least_spread": (0.05, "5th to 95th percentile; veins, fibres and nuclei of a young adult span 0.1 ppm"),
    "region_qsm_largest_spread": (0.8, "5th to 95th percentile; nuclei rich in iron reach 0.4 ppm"),
    "region_r2star_least": (8.0, "median; at 1.5 T white matter has 14 1/s"),
    "region_r2star_largest": (50.0, "median; at 7 T white matter has 35 1/s"),
    "region_agreement": (0.0, "correlation of QSM and R2*; iron raises both"),
    "region_t1w_against": (0.1, "t1w_against, but around the basal ganglia, where noise and iron blur it"),
    "brain_least_size": (0.78, "of the template's length; it was averaged to a size that most brains do not reach"),
    "brain_largest_size": (1.15, "of the template's length"),
    "nuclei_sd": (4.0, "standard deviations below the lowest mean of healthy people"),
    "nuclei_factor": (2.5, "times the highest mean of healthy people: above what iron overload was seen to do"),
}
#: T -> R2* (1/s), mean of white and grey matter (Peters et al., Magn Reson Imaging 2007).
BRAIN_R2STAR = {1.5: 13.5, 3.0: 17.0, 7.0: 33.7}
#: Voxels that percentiles and correlations are taken of, at most: every so many-th of a larger map.
SAMPLE = 200_000
_RANKED = 50_000  # voxels that a rank correlation is taken of, at most about


def limit(name: str) -> float:
    """The value of a limit."""
    return LIMITS[name][0]


def check_grid_size(shape: Sequence[int], affine: np.ndarray, name: str) -> None:
    """Refuse voxels and images that no head was ever scanned with.

    Args:
        shape: voxels along the stored axes.
        affine: `[4, 4]` voxel to world, mm.
        name: the file, for the message.

    Raises:
        InputError: voxels or extent beyond LIMITS.
    """
    spacing = np.linalg.norm(np.asarray(affine, float)[:3, :3], axis=0)
    words = " x ".join(f"{v:.3g}" for v in spacing)
    if spacing.min() < limit("smallest_voxel_mm") or spacing.max() > limit("largest_voxel_mm"):
        raise InputError(f"{name}: voxels of {words} mm are no head scan's; correct the voxel size or its unit (mm)")
    extent = spacing * shape
    if extent.max() > limit("largest_extent_mm"):
        raise InputError(f"{name}: covers {extent.max():.0f} mm with voxels of {words} mm; correct the voxel size")
    if sorted(extent)[1] < limit("smallest_extent_mm"):  # in-plane; a slab may be thin
        covered = " x ".join(f"{v:.3g}" for v in extent)
        raise InputError(
            f"{name}: covers {covered} mm with voxels of {words} mm, less than the basal ganglia; correct the voxel"
            " size or its unit (mm)"
        )


def check_box_size(ranges: Sequence[Sequence[int]], affine: np.ndarray, name: str) -> None:
    """Refuse a box in which the basal ganglia have no room.

    Args:
        ranges: half-open voxel ranges along H, W and S of an oriented scan.
        affine: its affine, mm.
        name: the scan, for the message.

    Raises:
        InputError: in-plane smaller than in LIMITS.
    """
    spacing = np.linalg.norm(np.asarray(affine, float)[:3, :3], axis=0)
    height, width = ((high - low) * mm for (low, high), mm in zip(ranges[:2], spacing[:2], strict=True))
    if min(height, width) < limit("smallest_box_mm"):
        raise InputError(
            f"{name}: the basal ganglia box is {width:.3g} x {height:.3g} mm, and they are larger than"
            f" {limit('smallest_box_mm'):g} mm; correct the box"
        )


def sampled(channel: np.ndarray) -> np.ndarray:
    """Values of a map that are not exactly 0 (masked out), at most about SAMPLE of them."""
    flat = channel.ravel()
    flat = flat[:: max(1, flat.size // SAMPLE)]
    return flat[flat != 0]


def check_maps(maps: np.ndarray, names: Sequence[str], suffixes: Sequence[str] = MAPS) -> None:
    """Refuse maps that cannot be what they are given for. They must be finite and not constant.

    Args:
        maps: `[C, I, J, K]`: QSM, R2*, T1W, and further maps in their units.
        names: of their files, for the message.
        suffixes: of the maps, in BIDS.

    Raises:
        InputError: see LIMITS; QSM without a negative value; the same image twice.
    """
    (qsm, r2star, t1w, *_), (qsm_name, r2star_name, t1w_name, *_) = maps, names
    values = [sampled(channel) for channel in maps]
    for suffix, channel, some, name in zip(suffixes, maps, values, names, strict=True):
        most, usual = float(np.abs(channel).max()), float(np.percentile(np.abs(some), 99.9)) if some.size else 0.0
        if usual > 0 and most > limit("outlier_ratio") * usual:
            raise InputError(
                f"{name}: the {suffix} reaches {most:.3g}, but nearly all of it is below {usual:.3g}; remove the"
                " outlying voxels, or export it again"
            )
        if some.size > SAMPLE // 100 and (different := len(np.unique(some))) < limit("least_values"):
            if most > limit("stretched_ratio") * usual:
                raise InputError(
                    f"{name}: the {suffix} has {different} different values, since voxels of up to {most:.3g} took the"
                    f" range that it was stored with, and nearly all of it is below {usual:.3g}; remove the outlying"
                    " voxels and export it again, as floating point"
                )
            raise InputError(
                f"{name}: the {suffix} has {different} different values, as a mask or a label image has, or a map that"
                " was rounded where it was stored; give the map, as floating point"
            )
    if values[0].size:
        median, spread = float(np.median(np.abs(values[0]))), float(np.percentile(np.abs(values[0]), 99))
        if qsm.min() >= 0:
            raise InputError(
                f"{qsm_name}: the Chimap has no negative value, which QSM of every brain has; it was clipped or"
                " shifted, or signed data was declared unsigned, or it is another map; export it again"
            )
        if median > limit("qsm_largest_median"):
            raise InputError(
                f"{qsm_name}: the Chimap seems to be in ppb (half of it is beyond {median:.3g}); divide it by 1000 to"
                " have ppm"
            )
        if spread < limit("qsm_least_spread"):
            raise InputError(
                f"{qsm_name}: the Chimap lies within {spread:.2g} ppm, less than any brain's; its unit is not ppm, so"
                " convert it"
            )
    if r2star.max() <= 0:
        raise InputError(f"{r2star_name}: the R2starmap has no positive value; R2* is in 1/s")
    if t1w.max() <= 0:
        raise InputError(f"{t1w_name}: the T1w has no positive value, so it is no MR image; export it again")
    median = float(np.median(values[1])) if values[1].size else limit("r2star_least_median")
    if median < limit("r2star_least_median"):
        raise InputError(
            f"{r2star_name}: the R2starmap seems to be in 1/ms, or T2* in s (median {median:.2g}); give R2* in 1/s"
        )
    if median > limit("r2star_largest_median"):
        raise InputError(
            f"{r2star_name}: a median of {median:.0f} 1/s is no brain's R2*; it may be the T1w or another image, so"
            " give R2* in 1/s"
        )
    for suffix, channel, some, name in list(zip(suffixes, maps, values, names, strict=True))[len(MAPS) :]:
        _check_further(KNOWN_MAPS[suffix], channel, some, name)
    check_different(maps, names, suffixes)
    for suffix, channel, name in list(zip(suffixes, maps, names, strict=True))[len(MAPS) :]:
        against = against_t1w(KNOWN_MAPS[suffix], channel, maps)
        if against > limit("t1w_against"):
            raise InputError(f"{name}: {_said_against(KNOWN_MAPS[suffix], against)}; give the map that its name says")


def _check_further(kind: Map, channel: np.ndarray, some: np.ndarray, name: str) -> None:
    """Refuse a further map that has no positive value, hardly any contrast, or values that no head has."""
    if channel.max() <= 0:
        raise InputError(f"{name}: the {kind.suffix} has no positive value; export it again")
    if some.size and kind.never_negative and (share := float((some < 0).mean())) > limit("further_negative_share"):
        raise InputError(
            f"{name}: {100 * share:.0f} % of the {kind.suffix} is negative, which {kind.name} cannot be; give the map"
        )
    if some.size:
        low, middle, high = np.percentile(some, (1, 50, 99))
        if high - low < limit("further_least_spread") * abs(middle):
            raise InputError(
                f"{name}: nearly all of the {kind.suffix} is {middle:.3g}, though tissues and fluid differ in"
                f" {kind.name}; give the map, not a mask or a constant"
            )
    if kind.medians is None or not some.size:
        return
    median, (low, high) = float(np.median(some)), kind.medians
    if not low <= median <= high:
        raise InputError(
            f"{name}: a median {kind.name} of {median:.3g} {kind.unit} is no head's ({low:g} to {high:g}); give the map"
            f" in {kind.unit}"
        )


def against_t1w(kind: Map, channel: np.ndarray, maps: np.ndarray) -> float:
    """How far a further map goes against the T1-weighted image, where QSM says that there is brain: their rank
    correlation, -1 to 1, above 0 where its sign is wrong; 0 where too little was measured, or it has none.

    Args:
        kind: of the map.
        channel: `[I, J, K]`, its values.
        maps: `[C, I, J, K]`: QSM, R2*, T1W, ...
    """
    t1w = maps[2]
    where = (maps[0] != 0) & (channel != 0) & (t1w != 0)
    step = max(1, int(where.sum()) // _RANKED)
    x, y = channel[where][::step], t1w[where][::step]
    if not kind.with_t1w or len(x) < 100 or min(np.ptp(x), np.ptp(y)) == 0:
        return 0.0
    return -kind.with_t1w * float(spearmanr(x, y).statistic)


def _said_against(kind: Map, against: float) -> str:
    """That it does, and what it may be instead."""
    falls, instead = {-1: ("rises", "R1 (1/s) instead of T1"), 1: ("falls", "T1, or an inverted map")}[kind.with_t1w]
    due = "bright where T1 is short" if kind.with_t1w < 0 else "bright where myelin saturates most"
    return (
        f"the {kind.suffix} {falls} with the brightness of the T1w (rank correlation {-kind.with_t1w * against:+.2f}),"
        f" which is {due}: {instead}, or a T1w that is none"
    )


def check_different(maps: np.ndarray, names: Sequence[str], suffixes: Sequence[str] = MAPS) -> None:
    """Refuse two maps that are one image, whatever its scale."""
    step = max(1, maps[0].size // SAMPLE)
    flat = [channel.ravel()[::step].astype(np.float64) for channel in maps]
    for (a, first), (b, second) in itertools.combinations(zip(flat, suffixes, strict=True), 2):
        where = (a != 0) & (b != 0)
        x, y = a[where], b[where]
        if len(x) < 2 or min(x.std(), y.std()) == 0:
            continue
        if abs(np.corrcoef(x, y)[0, 1]) > limit("same_image"):
            raise InputError(f"{names[0]}: its {first} and {second} are the same image; export both again")


def brain_r2star_flags(rates: np.ndarray, field_strength_t: float, name: str) -> list[str]:
    """What is unlikely about the R2* that was just fitted in a whole brain.

    Args:
        rates: `[N]`, 1/s, of the brain's voxels.
        field_strength_t: T.
        name: of the magnitudes, for the message.

    Returns:
        At most one line.

    Raises:
        InputError: the signal decays so slowly as none in a brain does.
    """
    median = float(np.median(rates))
    cure = "export all echoes with one scale, not each image with its own"
    if median < limit("brain_r2star_least"):
        raise InputError(
            f"{name}: the signal hardly decays from echo to echo (median R2* {median:.2g} 1/s, a brain has"
            f" {BRAIN_R2STAR[1.5]:.0f} or more): each echo was scaled on its own, or echo times are wrong; {cure}"
        )
    usual = float(np.interp(field_strength_t, list(BRAIN_R2STAR), list(BRAIN_R2STAR.values())))
    least, most = usual / limit("brain_r2star_factor"), usual * limit("brain_r2star_factor")
    if least <= median <= most:
        return []
    why = f"echoes scaled each on its own ({cure}), or wrong" if median < least else "squared magnitudes, or wrong"
    return [
        f"R2*: median {median:.3g} 1/s in the brain, usual at {field_strength_t:g} T is {least:.2g} to {most:.2g}:"
        f" {why} echo times?"
    ]


def region_flags(maps: np.ndarray, box: Sequence[Sequence[int]] | None, suffixes: Sequence[str] = MAPS) -> list[str]:
    """What is unlikely about the maps in the basal ganglia's region.

    Args:
        maps: `[C, I, J, K]`: QSM (ppm), R2* (1/s), T1W, and further maps in their units.
        box: half-open voxel ranges; None takes all.
        suffixes: of the maps, in BIDS.

    Returns:
        One line a finding, without semicolons; none for the maps of most people.
    """
    part = maps if box is None else maps[(slice(None), *(slice(max(low, 0), high) for low, high in box))]
    where = (part[0] != 0) & (part[1] != 0)
    if where.sum() < 100:
        return ["QSM and R2*: hardly anything was measured in the basal ganglia's box"]
    kinds = [KNOWN_MAPS[suffix] for suffix in suffixes]
    flags = missing_flags(part, box is None, [kind.name for kind in kinds])
    qsm, r2star = (channel[where].astype(np.float64) for channel in part[:2])
    low, middle, high = np.percentile(qsm, (5, 50, 95))
    if abs(middle) > limit("region_qsm_shift"):
        flags.append(
            f"QSM: median {middle:+.2f} ppm around the basal ganglia, usual is within"
            f" {limit('region_qsm_shift'):g}: shifted, or of another reference?"
        )
    least, most = limit("region_qsm_least_spread"), limit("region_qsm_largest_spread")
    if not least <= high - low <= most:
        flags.append(
            f"QSM: spans {high - low:.2g} ppm around the basal ganglia, usual is {least:g} to {most:g}:"
            f" {'scaled, or hardly any iron' if high - low < least else 'scaled, or not in ppm'}?"
        )
    median, least, most = float(np.median(r2star)), limit("region_r2star_least"), limit("region_r2star_largest")
    if not least <= median <= most:
        flags.append(
            f"R2*: median {median:.3g} 1/s around the basal ganglia, usual is {least:g} to {most:g}:"
            " not in 1/s, or T2*, or another image?"
        )
    if min(qsm.std(), r2star.std()) > 0:
        agreement = float(np.corrcoef(np.clip(qsm, low, high), np.clip(r2star, *np.percentile(r2star, (5, 95))))[0, 1])
        if agreement < limit("region_agreement"):
            flags.append(
                f"QSM and R2*: one falls where the other rises (correlation {agreement:.2f}), though iron raises both:"
                " sign of QSM, T2* for R2*, or maps of different scans?"
            )
    for kind, values in zip(kinds[len(MAPS) :], part[len(MAPS) :], strict=True):
        if (against := against_t1w(kind, values, part)) > limit("region_t1w_against"):
            flags.append(f"{kind.name}: around the basal ganglia, {_said_against(kind, against)}?")
        if kind.region_medians is None or not values[where].any():
            continue
        median, (least, most) = float(np.median(values[where])), kind.region_medians
        if not least <= median <= most:
            flags.append(
                f"{kind.name}: median {median:.3g} {kind.unit} around the basal ganglia, usual is {least:g} to"
                f" {most:g}: of another unit, or another image?"
            )
    return flags


def missing_flags(part: np.ndarray, whole: bool, names: Sequence[str]) -> list[str]:
    """What was not measured: slices, along any axis, of one value or the same as another, and places of one value.

    Args:
        part: `[C, I, J, K]`: QSM, R2*, T1W and further maps of the basal ganglia's region.
        whole: the region is all of the image: what lies outside of the brain is empty, and so may its ends be.
        names: of the maps.

    Returns:
        At most one line a map and kind.
    """
    place = "the image" if whole else "the basal ganglia's box"
    size = [min(3, n) for n in part.shape[1:]]
    flat = np.stack([ndimage.maximum_filter(v, size) == ndimage.minimum_filter(v, size) for v in part])
    # of a whole image only what some map knows counts
    inside = ~flat[:2].all(0) if whole else np.ones(part.shape[1:], bool)
    most = limit("unmeasured_share_whole" if whole else "unmeasured_share")
    flags = []
    for name, values, still in zip(names, part, flat, strict=True):
        empty = {axis: _empty_slices(values, axis, whole) for axis in range(3)}
        axis = max(empty, key=lambda a: len(empty[a]) / values.shape[a])
        if found := empty[axis]:
            number, count = len(found), values.shape[axis]
            example = np.take(values, found[0], axis).flat[0]
            flags.append(
                f"{name}: {number} of {count} slices of {place} along axis {'ijk'[axis]} hold one value throughout"
                f" ({example:.3g}): not measured, masked out, or lost?"
            )
        elif inside.any() and (share := float(still[inside].mean())) > most:
            flags.append(f"{name}: {100 * share:.0f} % of {place} have one value: not measured, masked out, or lost?")
        same = {axis: _repeated_slices(values, axis) for axis in range(3)}
        axis = max(same, key=lambda a: same[a] / values.shape[a])
        if same[axis]:
            flags.append(
                f"{name}: {same[axis]} of {values.shape[axis]} slices of {place} along axis {'ijk'[axis]} are the same"
                " as another one: repeated, or resampled from thicker slices?"
            )
    return flags


def _empty_slices(values: np.ndarray, axis: int, whole: bool) -> list[int]:
    """Slices of one value; of a whole image only those that lie between others."""
    across = tuple(a for a in range(3) if a != axis)
    still = values.max(across) == values.min(across)
    if whole:
        known = np.flatnonzero(~still)
        still[: known[0] if len(known) else None] = False
        still[known[-1] + 1 if len(known) else 0 :] = False
    return [int(n) for n in np.flatnonzero(still)]


def _repeated_slices(values: np.ndarray, axis: int) -> int:
    """How many slices, of more than one value, are the same as one before them."""
    slices = [np.ascontiguousarray(one) for one in np.moveaxis(values, axis, 0)]
    seen = [one.tobytes() for one in slices if one.max() > one.min()]
    return len(seen) - len(set(seen))


def nuclei_flags(nuclei: Sequence[Mapping[str, Any]] | None, curves: Mapping[str, Any] | None) -> list[str]:
    """What is unlikely about nuclei, against the whole range of healthy people's reference curves.

    Args:
        nuclei: rows of `scripts.nuclei.table.rows_of`.
        curves: from `scripts.nuclei.curves.read_reference_curves`.

    Returns:
        One line for each map and nucleus beyond the range that iron can explain at any age.
    """
    if not nuclei or curves is None:
        return []
    flags = []
    youngest, oldest = curves["AgeRange"]
    ages = np.linspace(youngest, oldest, 20)
    for suffix, name in (("Chimap", "QSM"), ("R2starmap", "R2*")):
        for nucleus, curve in curves["Curves"][suffix].items():
            values = [row[suffix] for row in nuclei if row["nucleus"] == nucleus and suffix in row]
            if not values:
                continue
            means = curve["rise"] * (1 - np.exp(-curve["rate"] * ages)) + curve["start"]
            low = float(means.min()) - limit("nuclei_sd") * curve["sd"]
            high = limit("nuclei_factor") * float(means.max()) + limit("nuclei_sd") * curve["sd"]
            value = float(np.mean(values))
            if not low <= value <= high:
                flags.append(
                    f"{name}: {value:.3g} {curve['unit']} in the {nucleus}, expected {low:.2g} to {high:.2g} at any"
                    " age: check unit and map"
                )
    return flags


def found_flags(measures: Mapping[str, float], least_iron: float) -> list[str]:
    """What is unlikely about a brain in which the basal ganglia were found.

    Args:
        measures: `iron` (likeness of the iron-rich nuclei and the template) and `size` (length of the brain in the
            template's) of `localise.Found.measures`; what is missing says nothing.
        least_iron: from which on iron says where the nuclei are.
    """
    flags = []
    if (iron := measures.get("iron", least_iron)) < least_iron:
        flags.append(
            f"QSM and R2*: the iron-rich nuclei do not stand out (likeness {iron:.2f}), they were found by T1W alone,"
            " as in young people, or the maps are wrong"
        )
    least, most = limit("brain_least_size"), limit("brain_largest_size")
    if not least <= (size := measures.get("size", 1.0)) <= most:
        whose = "a child's" if size < least else "unusually large"
        flags.append(
            f"size: the brain is {size:.2f} times the template's length, adults' are {least:g} to {most:g}: {whose}, or"
            " the voxel size is wrong"
        )
    return flags
