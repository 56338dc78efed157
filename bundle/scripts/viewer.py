"""A viewer for volumes inside a page: NiiVue, whose script nilearn ships, and the volumes of some subjects as text."""

import base64
import gzip
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from scripts.errors import InputError
from scripts.files import nifti
from scripts.page import text
from scripts.pictures import DISPLAY, shown_volume
from scripts.provenance import BUNDLE_ROOT
from scripts.transforms import oriented

LICENCE = BUNDLE_ROOT / "docs" / "niivue_license.txt"
#: Slices kept below and above the basal ganglia.
MARGIN = 2
#: Steps that the range of grey values is stored in; finer ones would store noise.
STEPS = 1000
#: Coarsest in-plane reduction that is still worth looking at.
COARSEST = 4
#: What the reader can choose.
CONTROLS = """
<p class="screen controls"><label>subject <select id="viewer-subject"></select></label>
<label>map <select id="viewer-map"></select></label>
<label>evidence <select id="viewer-evidence"></select></label>
<label>opacity <input id="viewer-opacity" type="range" min="0" max="1" step="0.05" value="0.6"></label>
<label>view <select id="viewer-view"><option value="0">axial</option>
<option value="3">three planes</option><option value="1">coronal</option><option value="2">sagittal</option>
</select></label></p>
<p id="viewer-about" class="screen"></p><div class="screen stage"><canvas id="viewer-canvas"></canvas></div>
<style>.controls{display:flex;flex-wrap:wrap;gap:.5em 1.4em}.stage{height:560px;background:#000;border-radius:4px}
.stage canvas{outline:none}</style>
"""
SCRIPT = """
(async () => {
  const $ = name => document.getElementById('viewer-' + name);
  const subjects = JSON.parse($('volumes').textContent), about = $('about');
  const options = (select, pairs) => select.replaceChildren(...pairs.map(([value, label]) => new Option(label, value)));
  if (!$('canvas').getContext('webgl2')) {
    about.textContent = 'This browser offers no WebGL2, which the viewer needs; see the pictures of each subject.';
    return;
  }
  const nv = new niivue.Niivue({backColor: [0, 0, 0, 1], dragAndDropEnabled: false, isColorbar: true,
    isRadiologicalConvention: true, multiplanarShowRender: niivue.SHOW_RENDER.NEVER, loadingText: 'loading'});
  await nv.attachToCanvas($('canvas'));
  const ramp = {A: [0, 150, 220], I: [0, 40, 255]};  // alpha 0 at the low end: weaker evidence is not drawn
  nv.addColormap('speaksForHH', {R: [253, 178, 103], G: [160, 24, 0], B: [130, 43, 31], ...ramp});
  nv.addColormap('speaksForHC', {R: [146, 33, 5], G: [190, 102, 48], B: [240, 172, 97], ...ramp});
  nv.setCrosshairWidth(0.6);
  nv.onLocationChange = where => { about.dataset.where = where.string; };
  const load = (volume, look) =>
    niivue.NVImage.loadFromBase64({base64: volume.data, name: volume.name + '.nii.gz', ...look});
  async function show() {
    const subject = subjects[$('subject').value];
    about.textContent = subject.about;
    for (const volume of [...nv.volumes]) nv.removeVolume(volume);
    const map = subject.maps[$('map').value];
    nv.addVolume(await load(map, {colormap: 'gray', cal_min: map.low, cal_max: map.high}));
    const evidence = subject.evidence[$('evidence').value];
    if (evidence) {
      nv.addVolume(await load(evidence, {colormap: 'speaksForHH', colormapNegative: 'speaksForHC', cal_min: 0.15,
        cal_max: 1, cal_minNeg: -0.15, cal_maxNeg: -1, opacity: Number($('opacity').value)}));
    }
    nv.setSliceType(Number($('view').value));
    document.body.dataset.viewer = 'ready';
  }
  function choices() {
    const subject = subjects[$('subject').value], kept = $('evidence').value;
    options($('evidence'), [...Object.keys(subject.evidence).map(region => [region, region + ' input']), ['', 'none']]);
    if (kept in subject.evidence) $('evidence').value = kept;
    return show();
  }
  options($('subject'), subjects.map((subject, index) => [index, subject.title]));
  options($('map'), subjects[0].maps.map((map, index) => [index, map.name]));
  $('subject').onchange = choices;
  for (const name of ['map', 'evidence', 'view']) $(name).onchange = show;
  $('opacity').oninput = () => nv.volumes.length > 1 && nv.setOpacity(1, Number($('opacity').value));
  for (const link of document.querySelectorAll('[data-viewer]')) {
    link.addEventListener('click', () => { $('subject').value = link.dataset.viewer; choices(); });
  }
  await choices();
})();
"""


def niivue_script() -> str:
    """NiiVue's script as nilearn ships it.

    Raises:
        InputError: nilearn is not installed, or a version without it.
    """
    try:
        import nilearn

        return (Path(nilearn.__file__).parent / "_assets" / "js" / "niivue.umd.js").read_text(encoding="utf-8")
    except (ImportError, OSError) as error:
        raise InputError(
            "the viewer takes NiiVue's script from nilearn 0.13 or newer, which is not installed;"
            " install it, or set --viewer_subjects 0"
        ) from error


def packed(scan: Mapping[str, Any], evidence: Mapping[str, str | os.PathLike], factor: int) -> dict[str, Any]:
    """A scan's maps and evidence around the basal ganglia, small enough to travel in a page.

    Args:
        scan: item of `scripts.cohort.find_scans`.
        evidence: region -> NIfTI on the scan's grid.
        factor: voxels along each in-plane axis that become one.

    Returns:
        `maps`, a list of `name`, `data` (NIfTI, gzip, base64), `low` and `high` (grey range in the map's unit); and
        `evidence`, region -> `name` and `data` (-1..1, share of the strongest).
    """
    box = scan.get("box")
    maps = []
    for path, (name, limits) in zip(scan["image"], DISPLAY, strict=True):
        volume, affine = slab(path, box, factor, scan["image"][0])
        low, high = limits or np.percentile(volume, (2, 99.7))
        maps.append({"name": name, "data": encoded(volume, affine, (high - low) / STEPS), "low": low, "high": high})
    heats = {}
    for region, path in evidence.items():
        volume, affine = slab(path, box, factor)
        share = volume / (float(np.abs(volume).max()) or 1.0)
        heats[region] = {"name": f"evidence, {region}", "data": encoded(share, affine, 1 / STEPS)}
    return {"maps": maps, "evidence": heats}


def slab(
    path: str | os.PathLike,
    box: Sequence[Sequence[int]] | None,
    factor: int,
    like: str | os.PathLike | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The slices of the basal ganglia and MARGIN more, in-plane means of `factor` voxels, and their affine."""
    volume, (_, _, slices) = shown_volume(path, box, like)
    first, last = max(slices[0] - MARGIN, 0), min(slices[1] + MARGIN, volume.shape[2])
    height, width = (size // factor for size in volume.shape[:2])
    part = volume[: height * factor, : width * factor, first:last]
    part = part.reshape(height, factor, width, factor, -1).mean((1, 3))
    centre = (factor - 1) / 2
    moved = np.diag([factor, factor, 1.0, 1.0])
    moved[:3, 3] = centre, centre, first
    return part, oriented(nifti.read_header(like or path)).affine @ moved


def encoded(volume: np.ndarray, affine: np.ndarray, slope: float) -> str:
    """A volume as a NIfTI of 16-bit numbers with a slope, gzip, base64."""
    image = nib.Nifti1Image(np.rint(np.clip(volume / slope, -32000, 32000)).astype(np.int16), affine)
    image.header.set_slope_inter(slope, 0)
    return base64.b64encode(gzip.compress(image.to_bytes(), mtime=0)).decode()


def viewer(subjects: Sequence[Mapping[str, Any]], script: str, budget: int) -> tuple[str, str]:
    """The viewer's part of a page and the scripts for the page's end.

    Args:
        subjects: each with `title`, `about` (a line of text), `scan` and `evidence` (see `packed`).
        script: from `niivue_script`.
        budget: bytes that script and volumes may take together; in-plane resolution is lowered until they fit.

    Raises:
        InputError: they do not fit.
    """
    for factor in range(1, COARSEST + 1):
        packs = [
            {"title": s["title"], "about": s["about"]} | packed(s["scan"], s["evidence"], factor) for s in subjects
        ]
        volumes = json.dumps(packs).replace("</", "<\\/")
        if len(script) + len(volumes) <= budget:
            break
    else:
        raise InputError(
            f"the volumes of {len(subjects)} subjects take {len(volumes) / 1e6:.0f} MB, too much for the page;"
            " lower --viewer_subjects or raise --page_limit_mb"
        )
    reduced = f" In-plane resolution is reduced {factor} times." if factor > 1 else ""
    words = (
        "Scroll to move through slices, drag with the right button to change the grey range. Red speaks for HH, blue"
        " for HC; evidence below 15 % of the scan's strongest is not drawn. It shows what the"
        " network used, not where a disease is. Only the slices around the basal ganglia are in this page."
        f"{reduced}"
    )
    body = f'<p class="caption">{words}</p>{CONTROLS}<details><summary>NiiVue, the viewer: licence</summary>'
    body += f"<pre>{text(LICENCE.read_text())}</pre></details>"
    safe = script.replace("</script", "<\\/script")
    scripts = (
        f'<script type="application/json" id="viewer-volumes">{volumes}</script>'
        f"<script>{safe}</script><script>{SCRIPT}</script>"
    )
    return body, scripts
