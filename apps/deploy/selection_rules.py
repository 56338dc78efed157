"""The bundle's rules for DICOM series, in the form of the SDK's series selector."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from scripts.dicom.rules import read_rules
from scripts.dicom.series import MAP_CLASSES
from scripts.maps.scan import MAPS, scan_maps

#: Headers that the selector compares in other ways than by searching a pattern: left to the bundle's reader.
NOT_SEARCHED = ("ImageType", "SeriesNumber")


def selection_rules(path: str | Path, maps: Sequence[str] = MAPS) -> str:
    """Turn `configs/dicom_series.yaml` into the selector's JSON: a selection a rule, named after its map.

    The selector knows one pattern a header; a pattern that must not be found becomes a negative lookahead in front of
    the one that must. It passes over series that lack a header, so headers that are only excluded are left out. The
    selector thus takes every series that may be meant, and the bundle's reader, with the whole rules, the one that is.
    `maps`: what the network sees; rules of further maps are passed over.
    """
    selections = []
    for suffix, rules in read_rules(path).series.items():
        if suffix not in scan_maps(maps):
            continue
        for rule in rules:
            conditions = {"SOPClassUID": f"^(?:{'|'.join(map(re.escape, MAP_CLASSES))})$"}
            for header, pattern in rule.where.items():
                if header in NOT_SEARCHED:
                    continue
                unless = rule.unless.get(header)
                lookahead = f"(?!.*(?:{unless.pattern}))" if unless else ""
                conditions[header] = f"^{lookahead}.*(?:{pattern.pattern})"
            selections.append({"name": suffix, "conditions": conditions})
    return json.dumps({"selections": selections})
