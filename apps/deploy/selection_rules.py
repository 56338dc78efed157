"""The bundle's rules for DICOM series, in the form of the SDK's series selector."""

import json
from pathlib import Path

from scripts.dicom_rules import read_rules


def selection_rules(path: Path) -> str:
    """Turn `configs/dicom_series.yaml` into the selector's JSON: a selection a rule, named after its map.

    The selector knows one pattern a header; a pattern that must not be found becomes a negative lookahead in front of
    the one that must. It looks at no header that a series lacks, so headers that are only excluded are left to the
    bundle's own reader, which applies the same rules again.
    """
    selections = []
    for suffix, rules in read_rules(path).series.items():
        for rule in rules:
            conditions = {}
            for header, pattern in rule.where.items():
                unless = rule.unless.get(header)
                lookahead = f"(?!.*(?:{unless.pattern}))" if unless else ""
                conditions[header] = f"^{lookahead}.*(?:{pattern.pattern})"
            selections.append({"name": suffix, "conditions": conditions})
    return json.dumps({"selections": selections})
