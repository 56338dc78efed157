"""One page a scan to look at: every intermediate on three planes, its histogram, warnings, and what was done."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scripts.provenance import RESEARCH_ONLY
from scripts.reconstruction.planes import Picture
from scripts.reporting import page
from scripts.reporting.style import OUTLINE_COLOUR


def draw(picture: Picture) -> bytes:
    """PNG of the three planes and the histogram of one intermediate."""
    figure = Figure(figsize=(10, 2.6), layout="constrained")
    axes = figure.subplots(1, 4, width_ratios=[1, 1, 1, 0.9])
    for n, (ax, plane, aspect) in enumerate(zip(axes, picture.planes, picture.aspects, strict=False)):
        ax.imshow(plane, cmap="gray", vmin=picture.limits[0], vmax=picture.limits[1], aspect=aspect)
        if picture.outlines is not None and picture.outlines[n].any() and not picture.outlines[n].all():
            ax.contour(picture.outlines[n], [0.5], colors=OUTLINE_COLOUR, linewidths=0.8)
        ax.set(xticks=[], yticks=[])
    low, high = np.percentile(picture.values, (0.5, 99.5)) if len(picture.values) else (0, 1)
    axes[3].hist(
        picture.values, bins=80, range=(float(low), float(high) if high > low else float(low) + 1), color="0.4"
    )
    axes[3].axvspan(*picture.limits, color=OUTLINE_COLOUR, alpha=0.12)
    axes[3].set_xlim(low, high if high > low else low + 1)
    axes[3].set(yticks=[], xlabel=picture.unit)
    axes[3].xaxis.set_major_locator(MaxNLocator(4))
    axes[3].set_title("voxels in the mask", fontsize=8)
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90, metadata={"Software": None})
    return buffer.getvalue()


def write_page(path: Path, scan_id: str, simulated: bool, pictures: list[Picture], facts: Mapping[str, Any]) -> None:
    """Write the page, pictures inside, so that it can be moved and mailed.

    Args:
        path: of the HTML file.
        scan_id: title.
        simulated: whether the page must say so.
        pictures: from `Planes`.
        facts: `warnings` (lines), `findings` and `steps`, as in `reconstruct.Maps`, and `software`.
    """
    words = RESEARCH_ONLY
    if simulated:
        words += " Simulated data: every picture and number on this page comes from a digital head, not from a patient."
    titles = [picture.name + (f" ({picture.unit})" if picture.unit else "") for picture in pictures]
    sources = [page.embedded(draw(picture), ".png") for picture in pictures]
    page.write_page(
        path,
        "reconstruction.html",
        title=f"{scan_id}: from echoes to maps",
        note=words,
        pictures=list(zip(titles, sources, strict=True)),
        facts=facts,
    )
