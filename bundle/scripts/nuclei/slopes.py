"""How QSM and R2* change within a nucleus: the slopes of a plane through its voxels.

What iron does in hereditary hemochromatosis is said to have a pattern, not only a level (paper, Discussion): these
numbers hold the simplest of patterns, so that a network can be measured against them.
"""

from collections.abc import Mapping

import numpy as np

from scripts.anatomy.atlas import LABELS
from scripts.nuclei.table import AXES, MEASURED

#: A plane is fitted to at least so many voxels.
LEAST_VOXELS = 12


def slopes(maps: np.ndarray, core: np.ndarray, places: np.ndarray) -> dict[str, float]:
    """`{suffix}_{side}_{nucleus}_{axis}`: change of a map over one standard deviation of the nucleus' extent.

    The three slopes are fitted together by least squares, so that a nucleus that lies oblique does not mix them.

    Args:
        maps: `[3, I, J, K]` (QSM ppm, R2* 1/s, T1W).
        core: `[I, J, K]`, values of LABELS.
        places: `[3, I, J, K]`, where each voxel lies in the template, LPS mm.

    Returns:
        in the map's unit; NaN for a nucleus of few voxels or that is flat along an axis.
    """
    row: dict[str, float] = {}
    for name, value in LABELS.items():
        inside = core == value
        towards = directions(places[:, inside])
        for suffix, (channel, _) in MEASURED.items():
            found = plane(maps[channel][inside], towards)
            row |= {f"{suffix}_{name}_{axis}": found[axis] for axis in AXES}
    return row


def directions(places: np.ndarray) -> Mapping[str, np.ndarray]:
    """Template places `[3, N]` (LPS mm) as distances from the midline, to the back and to the top: `[N]` each."""
    return dict(zip(AXES, (np.abs(places[0]), places[1], places[2]), strict=True))


def plane(values: np.ndarray, towards: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Slopes of the plane that fits values `[N]` best, per standard deviation of each axis."""
    unknown = dict.fromkeys(towards, float("nan"))
    if len(values) < LEAST_VOXELS:
        return unknown
    extents = {axis: float(along.std()) for axis, along in towards.items()}
    if min(extents.values()) < 0.1:
        return unknown
    columns = [(along - along.mean()) / extents[axis] for axis, along in towards.items()]
    fitted = np.linalg.lstsq(np.stack([*columns, np.ones(len(values))], 1), values.astype(float), rcond=None)[0]
    return {axis: float(slope) for axis, slope in zip(towards, fitted, strict=False)}
