"""What localisation found, to be looked at: box and nuclei on three planes of T1W and QSM, with the confidence."""

from __future__ import annotations

from collections.abc import Mapping

import nibabel as nib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from scripts.localisation.locate import Found
from scripts.provenance import RESEARCH_USE
from scripts.reporting.style import ON_BLACK

#: Drawn as radiologists look: axes to the patient's left, back, head.
PLANES = (("axial", 2, (0, 1)), ("coronal", 1, (0, 2)), ("sagittal", 0, (1, 2)))


def draw(
    path: str,
    maps: np.ndarray,
    affine: np.ndarray,
    found: Found,
    title: str,
    outlines: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write the picture of one scan.

    Args:
        path: PNG to write.
        maps: `[3, I, J, K]`, axes as stored.
        affine: `[4, 4]`, voxel to world.
        found: from `localise.locate`.
        title: stands above.
        outlines: masks `[I, J, K]` (bool) by name, drawn as contours; without them the hull's corners are dots.
    """
    orientation = nib.io_orientation(affine)
    volumes = [nib.orientations.apply_orientation(channel, orientation) for channel in (maps[2], maps[0])]
    shape = volumes[0].shape
    inverse = nib.orientations.inv_ornt_aff(orientation, maps.shape[1:])
    turned = affine @ inverse
    spacing = np.linalg.norm(turned[:3, :3], axis=0)
    corners = np.array([[low - 0.5 for low, _ in found.box] + [1], [high - 0.5 for _, high in found.box] + [1]]).T
    edges = np.sort(np.linalg.solve(inverse, corners)[:3], axis=1)
    dots = np.linalg.solve(turned, np.column_stack([found.outline_mm, np.ones(len(found.outline_mm))]).T)[:3].T
    middle = np.clip(np.rint(edges.mean(1)).astype(int), 0, np.array(shape) - 1)
    # The coronal plane through the middle of the box shows all nuclei; the sagittal one lies in one putamen.
    middle[0] = int(np.clip(edges[0, 0] + 0.25 * np.ptp(edges[0]), 0, shape[0] - 1))
    figure = Figure(figsize=(10.5, 7.2), facecolor="black")
    FigureCanvasAgg(figure)
    limits = [tuple(np.percentile(volumes[0], [1, 99.5])), (-0.1, 0.2)]
    for row, (volume, (low, high)) in enumerate(zip(volumes, limits, strict=True)):
        for column, (name, axis, (a, b)) in enumerate(PLANES):
            axes = figure.add_subplot(2, 3, 3 * row + column + 1)
            plane = np.take(volume, middle[axis], axis).T
            axes.imshow(
                plane, cmap="gray", vmin=low, vmax=high, origin="lower", aspect=spacing[b] / spacing[a],
                interpolation="nearest",
            )  # fmt: skip
            axes.add_patch(
                Rectangle(
                    (edges[a, 0], edges[b, 0]), np.ptp(edges[a]), np.ptp(edges[b]), fill=False, edgecolor=ON_BLACK[0]
                )
            )
            if outlines is None:
                axes.plot(dots[:, a], dots[:, b], ".", color=ON_BLACK[1], markersize=1.5)
            for mask, colour in zip((outlines or {}).values(), ON_BLACK[1:], strict=False):
                shown = np.take(nib.orientations.apply_orientation(mask, orientation), middle[axis], axis).T
                if shown.any():
                    axes.contour(shown.astype(float), [0.5], colors=colour, linewidths=0.8)
            # Radiologists see the patient's right on the left; arrays here run to the right.
            if a == 0:
                axes.invert_xaxis()
                axes.text(0.02, 0.5, "R", color="white", transform=axes.transAxes, fontsize=9)
            axes.set_title(f"{('T1W', 'QSM')[row]}, {name}", color="white", fontsize=9)
            axes.axis("off")
    measures = ", ".join(f"{key} {value:.2f}" for key, value in found.measures.items())
    key = (
        "yellow: box; blue: corners of the nuclei's hull" if outlines is None else f"yellow: box; {', '.join(outlines)}"
    )
    figure.text(
        0.5,
        0.01,
        f"{key}. R: the patient's right. {RESEARCH_USE.capitalize()}.",
        color="white",
        fontsize=9,
        ha="center",
    )
    words = f"{title}: confidence {found.confidence:.2f} ({measures})"
    figure.suptitle(words, color="white", fontsize=11, parse_math=False)  # a name may hold dollar signs
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    figure.savefig(path, dpi=90, facecolor="black")
