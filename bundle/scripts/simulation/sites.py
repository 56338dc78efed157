"""Sites of a simulated cohort: who was scanned where, and how scanners differ.

R2* grows about in proportion to the field where iron makes it (Yao et al., NeuroImage 2009, 44:1259: 1.5, 3, 4.7 and
7 T); susceptibility does not. That, noise, voxels and echo times are what differs; anatomy and disease do not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from scripts.errors import InputError
from scripts.simulation.acquisition import ECHO_TIME_S
from scripts.simulation.subject import Participant, Protocol

#: The field whose constants `acquisition` holds, T.
REFERENCE_T = 3.0


@dataclass(frozen=True)
class Site:
    """How a site differs from `configs/simulate.yaml`.

    Attributes:
        share: of the subjects, relative to the other sites'.
        hh_share: of the subjects with HH, relative to the other sites'; None: as `share`. A site with more than its
            share teaches a network to tell sites apart instead of groups.
        field_strength_t: T; scales R2*, and divides the noise (signal grows with the field).
        spacing_mm: size of the voxels; None: as everywhere. The extent of the scan stays.
        echo_time_s: of the T1-weighted image, s.
        noise: multiplies the noise of all maps.
        qsm_gain: multiplies QSM, as another inversion with another regularisation would.
        scanner: keys of `scanner` of simulate.yaml.
        raw: keys of `raw` of simulate.yaml, where `from_raw` is true: another scanner or reconstruction.
    """

    share: float = 1.0
    hh_share: float | None = None
    field_strength_t: float = REFERENCE_T
    spacing_mm: Sequence[float] | None = None
    echo_time_s: float = ECHO_TIME_S
    noise: float = 1.0
    qsm_gain: float = 1.0
    scanner: Mapping[str, Any] = field(default_factory=dict)
    raw: Mapping[str, Any] = field(default_factory=dict)


def read_sites(sites: Mapping[str, Mapping[str, Any]]) -> dict[str, Site]:
    """The sites of a config, checked.

    Raises:
        InputError: a name that is none, a key that no site has, or a number out of range.
    """
    found = {}
    for name, keys in sites.items():
        if not name or any(letter in name for letter in "\t\n/"):
            raise InputError(f"sites: {name!r} is no name of a site; use letters and digits")
        unknown = sorted(set(keys or {}) - set(Site.__dataclass_fields__))
        if unknown:
            raise InputError(f"sites#{name}: has no {unknown[0]}; use {', '.join(Site.__dataclass_fields__)}")
        site = Site(**(keys or {}))
        for key in ("share", "field_strength_t", "echo_time_s", "noise", "qsm_gain"):
            if not getattr(site, key) > 0:
                raise InputError(f"sites#{name}#{key}: is {getattr(site, key)}; give a number above 0")
        if site.hh_share is not None and site.hh_share < 0:
            raise InputError(f"sites#{name}#hh_share: is {site.hh_share}; give a number from 0")
        if site.spacing_mm is not None and (len(site.spacing_mm) != 3 or min(site.spacing_mm) <= 0):
            raise InputError(f"sites#{name}#spacing_mm: is {site.spacing_mm}; give three numbers above 0")
        found[name] = site
    return found


def assign(participants: Sequence[Participant], sites: Mapping[str, Site], seed: int) -> list[Participant]:
    """Send each participant to a site, as the shares say, group by group; heads and ages stay as they were drawn."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 2**31]))
    where: dict[str, str] = {}
    for group in ("HH", "HC"):
        own = [p.participant_id for p in participants if p.group == group]
        shares = np.array(
            [site.hh_share if group == "HH" and site.hh_share is not None else site.share for site in sites.values()]
        )
        if not shares.sum():
            raise InputError("sites: hh_share is 0 at every site; give one of them a share")
        ends = np.round(np.cumsum(shares / shares.sum()) * len(own)).astype(int)
        order = list(rng.permutation(own))
        for name, start, end in zip(sites, [0, *ends[:-1]], ends, strict=True):
            where |= dict.fromkeys(order[start:end], name)
    return [replace(p, site=where[p.participant_id]) for p in participants]


def protocol_of(site: Site, protocol: Protocol) -> Protocol:
    """How a site scans: the cohort's protocol with what is the site's own."""
    scanner = {**protocol.scanner, **site.scanner}
    factor = site.noise * REFERENCE_T / site.field_strength_t
    for key in ("qsm_noise", "r2star_noise", "t1w_noise"):
        scanner[key] = [float(end) * factor for end in scanner[key]]
    further = dict(protocol.further)
    for key in ("t1_noise", "pd_noise"):
        if key in further:
            further[key] = [float(end) * factor for end in further[key]]
    matrix, spacing = protocol.matrix, protocol.spacing_mm
    if site.spacing_mm is not None:
        spacing = tuple(float(d) for d in site.spacing_mm)  # type: ignore[assignment]  # three
        matrix = tuple(  # type: ignore[assignment]  # three
            max(1, round(n * old / new)) for n, old, new in zip(matrix, protocol.spacing_mm, spacing, strict=True)
        )
    return replace(
        protocol,
        matrix=matrix,
        spacing_mm=spacing,
        scanner=scanner,
        field_strength_t=float(site.field_strength_t),
        echo_time_s=float(site.echo_time_s),
        qsm_gain=float(site.qsm_gain),
        further=further,
    )
