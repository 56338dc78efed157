"""What every kind of JSON file holds, as JSON Schema (2020-12). Only what the bundle reads is demanded."""

from typing import Any

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_NUMBER: Schema = {"type": "number"}
_BOOLEAN: Schema = {"type": "boolean"}
_OBJECT: Schema = {"type": "object"}


def _object(required: list[str] | None = None, /, **properties: Schema) -> Schema:
    """An object with these properties; others are free."""
    return {"type": "object", "properties": properties, "required": required or []}


def _list(of: Schema, length: int | None = None) -> Schema:
    """A list of one kind of thing."""
    return {"type": "array", "items": of} | ({} if length is None else {"minItems": length, "maxItems": length})


def _between(least: float, most: float, kind: str = "number") -> Schema:
    """A number from `least` to `most`."""
    return {"type": kind, "minimum": least, "maximum": most}


#: Standard deviations of what scans were like are 1e-9 at least as they are fitted; a smaller one divides to infinity.
_SPREAD = _between(1e-12, 1e12)
#: Mean and standard deviation of logarithms, the latter 0.05 at least as they are fitted.
_USUAL: Schema = {"type": "array", "items": [_NUMBER, _between(1e-3, 1e3)], "minItems": 2, "maxItems": 2}
#: SHA-256 of scans, as the bundle writes it: another spelling would never be found again.
_HASHES = _list({"type": "string", "pattern": "^[0-9a-f]{64}$"})


def _maybe(schema: Schema) -> Schema:
    """The same, or null."""
    return {**schema, "type": [schema["type"], "null"]}


#: Half-open voxel ranges along the axes of an array; none is longer than NIfTI's whole numbers of 16 bits.
_BOX = _list(_list(_between(0, 32767, "integer"), 2), 3)
#: What a result was made of: `scripts.provenance.record`.
_MADE_OF = {
    "software": _OBJECT,
    "settings": _OBJECT,
    "weights": {"type": "object", "additionalProperties": _TEXT},
    "input": _object(name=_maybe(_TEXT), simulated=_BOOLEAN, sha256=_TEXT),
    "rows": _between(1, 1e12, "integer"),
    "trained_by": _HASHES,  # scans by their content; unknown before 0.11.0
}


def _curve(unit: str, least_sd: float, most: float) -> Schema:
    """A curve of a nucleus against age (`scripts.nuclei.curves`): iron does not fall with age, people differ, and three
    numbers are fitted to more people than that. `most`: beyond what any tissue has, in its unit."""
    return _object(
        ["rise", "rate", "start", "sd", "unit"],
        rise=_between(0, most),
        rate=_between(1e-4, 10),
        start=_between(-most, most),
        sd=_between(least_sd, most),
        unit={"enum": [unit]},
        controls=_between(4, 1e6, "integer"),
    )


#: Settings of a network's input and of the network, as `configs/allowed.yaml` has them.
_TRAINED_WITH = _object(
    [],
    region={"enum": ["full", "cropped"]},
    full_size=_list(_between(8, 2048, "integer"), 2),
    cropped_size=_list(_between(8, 2048, "integer"), 2),
    spatial_size=_list(_between(8, 2048, "integer"), 2),
    num_slices=_between(1, 1024, "integer"),
    intensity={"enum": ["stretch", "window"]},
    stretch_percentiles=_list(_between(0, 100), 2),
    chimap_window=_list(_between(-10, 10), 2),
    r2starmap_window=_list(_between(0, 10000), 2),
    t1map_window=_list(_between(0, 100), 2),
    maps={
        **_list({"enum": ["Chimap", "R2starmap", "T1w", "T1map", "PDmap", "MTsat"]}),
        **{"minItems": 1, "uniqueItems": True},
    },
    leave_out={**_list({"enum": ["Chimap", "R2starmap", "T1w"]}), "maxItems": 2},
    image_model={"enum": ["resnet18", "vit", "resnet18_3d", "densenet_3d"]},
    scan_model={"enum": ["bilstm", "attention", "mean"]},
    hidden_size=_between(1, 8192, "integer"),
    localise_margin_mm=_between(0, 40),
    annotated_margin_mm=_maybe(_between(0, 40)),
)

_ELLIPSOID = _object(
    ["CentreMM", "CovarianceMM2"], CentreMM=_list(_NUMBER, 3), CovarianceMM2=_list(_list(_NUMBER, 3), 3)
)

#: What training scans were like in one respect (`scripts.model.familiarity.reference_of`).
_REFERENCE = _object(
    ["centre", "spread", "means", "precision", "usual"],
    centre=_list(_NUMBER),
    spread=_list(_SPREAD),
    means=_list(_list(_NUMBER)),
    precision=_list(_list(_NUMBER)),
    usual=_object(["distance", "largest"], distance=_USUAL, largest=_USUAL),
    along=_object(
        ["centre", "axes", "spread", "rest"],
        centre=_list(_NUMBER),
        axes=_list(_list(_NUMBER)),
        spread=_list(_SPREAD),
        rest=_USUAL,
    ),
    names=_list(_TEXT),
)
_FAMILIARITY = _maybe(
    _object(
        ["limit", "references", "places"],
        limit=_between(1, 1e6),  # standard deviations; 1 is the least that is fitted
        references={"type": "object", "additionalProperties": _REFERENCE},
        places=_list(_list(_NUMBER, 3)),
        refuse_beyond=_maybe({**_NUMBER, "minimum": 1}),
    )
)

SCHEMAS: dict[str, Schema] = {
    # dataset_description.json of a BIDS folder
    "description": _object(Name=_TEXT),
    # *_desc-basalganglia_box.json, drawn by hand
    "box": _object(["Box"], Box=_BOX),
    # the same, found by registration and kept
    "found box": _object(
        ["Box", "Confidence", "Measures", "OutlineMM"],
        Box=_BOX,
        Confidence={"type": "number", "minimum": 0, "maximum": 1},
        Measures={"type": "object", "additionalProperties": _NUMBER},
        OutlineMM=_list(_list(_NUMBER, 3)),
    ),
    # template.json beside the template
    "template": _object(
        ["Sha256", "OutlineMM", "Ellipsoids"],
        Sha256=_TEXT,
        OutlineMM=_list(_list(_NUMBER, 3)),
        Ellipsoids={"type": "object", "additionalProperties": _ELLIPSOID},
    ),
    # sidecar of a raw echo
    "sidecar": _object(
        EchoTime=_NUMBER,
        FlipAngle=_NUMBER,
        RepetitionTime=_NUMBER,
        RepetitionTimeExcitation=_NUMBER,
        MagneticFieldStrength=_NUMBER,
        Units=_TEXT,
    ),
    # sidecar of a map that may come in several units
    "sidecar of a map": _object(Units=_TEXT),
    # sidecar of a reconstructed map
    "map sidecar": _object(["Steps"], Steps=_OBJECT),
    # model.json beside weights, evaluation.json, predictions.json
    "record": _object(
        performance={"type": "object", "additionalProperties": _between(0, 1)}, performance_of=_TEXT, **_MADE_OF
    ),
    "training record": _object(["settings"], **{**_MADE_OF, "settings": _TRAINED_WITH}),
    "evaluation": _object(["settings", "software", "input", "weights"], **_MADE_OF),
    "predictions record": _object(["input"], **{**_MADE_OF, "input": _object(["simulated"], simulated=_BOOLEAN)}),
    # run.json of an output folder, *_prediction.json of a scan
    "run": _object(["run"], run=_OBJECT),
    "prediction": _object(
        ["run"],
        run=_object(["settings_sha256", "basis", "files"], files={"type": ["object", "array"]}),
        evidence=_object(["method", "name", "says"], method=_TEXT, name=_TEXT, says=_TEXT),
        box=_object(source=_TEXT, voxels=_BOX),
        # before 0.11.0 strangeness was what distance is now, and there was no distance
        familiarity=_object(["strangeness", "distance", "flagged"], strangeness=_NUMBER, distance=_NUMBER),
    ),
    # cross_validation.json
    "cross-validation": _object(
        ["version", "code", "input", "training"], version=_TEXT, code=_TEXT, input=_OBJECT, training=_OBJECT
    ),
    # reference_curves.json
    "reference curves": _object(
        ["AgeRange", "Curves"],
        AgeRange=_list(_between(0, 120), 2),
        Curves=_object(
            Chimap={"type": "object", "additionalProperties": _curve("ppm", 1e-4, 10)},
            R2starmap={"type": "object", "additionalProperties": _curve("1/s", 1e-2, 1e4)},
        ),
        Input=_object(simulated=_maybe(_BOOLEAN)),
    ),
    # model_calibration.json beside weights
    "calibration": _object(
        ["weights", "calibration", "scores", "scores_from"],
        weights={"type": "object", "additionalProperties": _TEXT, "minProperties": 1},
        scores_from=_TEXT,
        calibration=_object(
            ["method", "slope", "intercept", "prevalence"],
            method=_TEXT,
            slope={"type": "number", "exclusiveMinimum": 0, "maximum": 1e3},  # below 0 it would turn the model round
            intercept=_between(-1e3, 1e3),
            prevalence={"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        ),
        scores=_object(["HC", "HH"], HC=_list(_between(-1e3, 1e3)), HH=_list(_between(-1e3, 1e3))),
        familiarity=_FAMILIARITY,
        seen=_HASHES,  # of scans that trained or calibrated: `scripts.maps.identity.known_as`
        calibrated_by=_HASHES,  # those of them that did not train the weights; unknown before 0.11.0
        nucleus_evidence=_maybe(
            {"type": "object", "additionalProperties": _object(["low", "high"], low=_NUMBER, high=_NUMBER)}
        ),
    ),
    # familiarity.json of a fold
    "familiarity": _object(["familiarity"], familiarity=_FAMILIARITY, seen=_HASHES),
    # *_desc-nuclei_stats.json
    "nuclei of a scan": _object(["Nuclei"], Nuclei={"type": "object", "additionalProperties": _maybe(_NUMBER)}),
    # difficulty.json of a simulated cohort
    "difficulty": _object(["auc"], auc=_object(["oracle_cohort"], oracle_cohort=_NUMBER)),
    # label of a study in MONAI Label
    "label": _object(["group"], group={"enum": ["HC", "HH"]}, box=_BOX),
    # configs/metadata.json
    "metadata": _object(["version", "eval_metrics"], version=_TEXT, eval_metrics=_OBJECT),
}
