"""What a result says of its own worth: by the calibration beside the weights, and honestly where there is none."""

import copy
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from recorded import RECORDED
from refusal import refused

from scripts.errors import InputError
from scripts.files.json_file import read_json, validator
from scripts.files.schemas import SCHEMAS
from scripts.files.writing import sha256
from scripts.inference.results import model_info
from scripts.maps.appearance import appearance
from scripts.maps.identity import known_as
from scripts.model.familiarity import fit, groups_of, strangeness
from scripts.model.trust import (
    CALIBRATED,
    SEEN,
    Trust,
    calibration_path,
    flag_of,
    read_calibration,
    set_aside_former,
    write_calibration,
)
from scripts.provenance import check_stage_1, check_trained_with, record_beside, trained_with
from scripts.settings.check import CONFIGS, Known

CONTENT = {
    "scores_from": "the held-out fold",
    "calibration": {"method": "platt", "slope": 0.5, "intercept": -0.2, "prevalence": 0.5},
    "scores": {"HC": list(np.linspace(-4, 1, 29)), "HH": list(np.linspace(-1, 4, 29))},
    "familiarity": None,
}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    path.write_bytes(b"weights")
    return path


def test_weights_without_calibration_say_so_and_give_no_answer(weights):
    trust = Trust(weights)
    trust.check()
    said = trust(0.95)
    assert set(said) == {"calibration_missing"} and "no calibration" in said["calibration_missing"]


def test_a_calibration_of_other_weights_is_refused_and_set_aside_by_whatever_replaces_weights(weights, capsys):
    path = write_calibration(weights, CONTENT)
    assert "answer" in Trust(weights)(0.95)
    set_aside_former(weights)
    assert path.exists()
    content = path.read_text()
    weights.write_bytes(b"trained on")
    with refused(path, "other weights than model.pt", "delete it"):
        Trust(weights).check()
    set_aside_former(weights)
    assert not path.exists()
    assert path.with_name("model_calibration_of_former_weights.json").read_text() == content
    assert "model_calibration_of_former_weights.json" in capsys.readouterr().out
    assert "calibration_missing" in Trust(weights)(0.95)


def test_weights_without_their_record_are_refused_unless_the_config_is_said_to_describe_them(weights):
    said = ("model.pt", "model.json, its training record, is not beside it", "--weights_record config")
    with refused(*said):
        trained_with(weights)
    with refused(*said):
        check_trained_with(weights, region="cropped")
    assert trained_with(weights, "config") == {}
    check_trained_with(weights, "config", region="cropped")
    assert trained_with(weights.with_name("absent.pt")) == {}  # whose absence others tell
    weights.with_suffix(".json").write_text(json.dumps({"settings": {}, "weights": {"model.pt": sha256(weights)}}))
    with refused("--weights_record config", "model.json lies beside"):
        trained_with(weights, "config")


@pytest.mark.parametrize("key", [None, *(name for name in RECORDED if name != "hidden_size")])  # stage 1 has none
def test_a_record_that_lacks_what_every_training_records_is_as_good_as_none(weights, key):
    left = {} if key is None else {name: value for name, value in RECORDED.items() if name != key}
    weights.with_suffix(".json").write_text(json.dumps({"settings": left, "weights": {"model.pt": sha256(weights)}}))
    for read in (trained_with, lambda path: check_trained_with(path, region="cropped")):
        with refused("model.json", f"settings lack {key or 'region'}", "--weights_record config"):
            read(weights)


def test_stage_2_is_not_trained_on_an_embedding_that_saw_other_input(weights):
    record = weights.with_name("resnet.json")
    check_stage_1(weights, "config", intensity="window")
    with refused("resnet.json", "not beside it"):
        check_stage_1(weights, "beside", intensity="window")
    record.write_text(json.dumps({"settings": RECORDED, "weights": {"resnet.pt": sha256(weights)}}))
    check_stage_1(weights, "beside", intensity="stretch")
    with refused("intensity 'stretch', not 'window'", "resnet.json"):
        check_stage_1(weights, "beside", intensity="window")


def test_a_record_of_other_weights_is_refused_by_all_who_read_it_and_one_without_a_hash_is_spoken_of(weights, caplog):
    path = weights.with_suffix(".json")
    record = {"settings": RECORDED | {"region": "full"}, "weights": {"any name.pt": sha256(weights)}}
    path.write_text(json.dumps(record))
    assert trained_with(weights)["region"] == "full"
    path.write_text(json.dumps({**record, "weights": {"model.pt": 64 * "0"}}))
    for read in (trained_with, model_info, lambda w: check_trained_with(w, region="full"), record_beside):
        with refused(path, "of other weights than model.pt beside it", "--weights_record config"):
            read(weights)
    assert not caplog.text
    path.write_text(json.dumps({**record, "weights": {}, "input": {"name": "a cohort", "simulated": True}}))
    assert trained_with(weights)["region"] == "full"
    assert model_info(weights)["trained_on"] is None
    assert "holds no sha256" in caplog.text


def test_a_scan_that_the_weights_know_is_told_by_the_lists_of_any_version_and_no_scan_where_there_is_none(weights):
    path = weights.with_name("map.nii.gz")
    nib.save(nib.Nifti1Image(np.arange(24, dtype=np.float32).reshape(2, 3, 4), np.eye(4)), path)
    lists = {name: [of] for name, of in zip(("map", "file"), known_as(path), strict=True)}
    assert Trust(weights).known_scan(str(path)) == []  # no calibration: nobody knows
    for told, flags in (
        ({}, []),
        ({"seen": ["0" * 64]}, []),
        ({"seen": lists["file"]}, [SEEN]),
        ({"seen": lists["map"], "calibrated_by": []}, [SEEN]),
        ({"seen": lists["file"], "calibrated_by": lists["file"]}, [CALIBRATED]),
    ):
        write_calibration(weights, {**CONTENT, **told})
        assert Trust(weights).known_scan(str(path)) == flags
    assert Trust(weights).known_scan("study-1") == []  # a DICOM study


@pytest.mark.parametrize(("probability", "answer"), [(0.99, "HH"), (0.5, "cannot say"), (0.01, "HC")])
def test_a_calibrated_scan_gets_a_probability_and_an_answer(weights, probability, answer):
    write_calibration(weights, CONTENT)
    said = Trust(weights, conformal_error=0.1)(probability)
    score = np.log(probability / (1 - probability))
    assert said["calibrated_probability_HH"] == pytest.approx(1 / (1 + np.exp(0.2 - 0.5 * score)), rel=1e-4)
    assert said["answer"] == answer
    assert said["trust"]["calibrated_on"] == {"HC": 29, "HH": 29}
    json.dumps(said, allow_nan=False)


@pytest.mark.parametrize(("probability", "known", "p"), [(1.0, 16.1181, (1 / 30, 1)), (0.0, -16.1181, (1, 1 / 30))])
def test_a_certain_probability_is_as_usual_as_the_certain_ones_that_calibrated(weights, probability, known, p):
    ends = {"HC": [min(known, 0.0)] * 29, "HH": [max(known, 0.0)] * 29}  # as stored: to six digits, further out
    write_calibration(weights, {**CONTENT, "scores": ends})
    said = Trust(weights)(probability)
    assert (said["trust"]["p_HC"], said["trust"]["p_HH"]) == pytest.approx(p)


def test_the_clinics_share_of_hh_changes_the_probability_and_not_the_answer(weights):
    write_calibration(weights, CONTENT)
    usual, rare = Trust(weights)(0.9), Trust(weights, prevalence=0.01)(0.9)
    odds = [one["calibrated_probability_HH"] / (1 - one["calibrated_probability_HH"]) for one in (usual, rare)]
    assert odds[0] / odds[1] == pytest.approx(99)
    assert usual["answer"] == rare["answer"]


def test_a_calibration_by_temperature_claims_no_share_of_hh_and_takes_none(weights):
    fitted = {**CONTENT["calibration"], "method": "temperature", "intercept": 0, "prevalence": 0.1}
    write_calibration(weights, {**CONTENT, "calibration": fitted})
    said = Trust(weights)(0.9)["trust"]
    assert said["prevalence"] is None and "unknown" in said["prevalence_from"]
    for ask in (Trust.check, lambda trust: trust(0.9)):
        with refused("prevalence is 0.005", "temperature", "--calibration_method platt"):
            ask(Trust(weights, prevalence=0.005))


@pytest.mark.parametrize("key", ["prevalence", "conformal_error"])
@pytest.mark.parametrize("value", [0, 1, -0.1, 1.5, float("nan")])
def test_shares_that_cannot_be_are_refused_by_their_key(weights, key, value):
    with refused(key):
        Trust(weights, **{key: value})


@pytest.mark.parametrize("ask", [Trust.check, lambda trust: trust(0.5)], ids=["before work", "by a server"])
def test_an_error_below_which_no_group_is_ever_ruled_out_is_refused_and_the_one_to_raise_it_to_is_not(weights, ask):
    write_calibration(weights, CONTENT)
    with refused("conformal_error", "29 HC", "0.034"):
        ask(Trust(weights, conformal_error=0.01))
    ask(Trust(weights, conformal_error=0.034))


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("{", ("not JSON",)),
        ({"calibration": {**CONTENT["calibration"], "prevalence": 1}}, ("prevalence", "below 1")),
        ({"calibration": {**CONTENT["calibration"], "method": "isotonic"}}, ("platt",)),
        ({"calibration": {**CONTENT["calibration"], "slope": -0.5}}, ("slope",)),
        ({"calibration": {**CONTENT["calibration"], "slope": 0.6}}, ("changed since it was written",)),
        ({"content_sha256": None}, ("changed since it was written",)),
        ({"weights": {}}, ("weights names nothing",)),
        ({"nucleus_evidence": {"caudate": {"low": 2, "high": 1}}}, ("caudate", "upside down")),
        ({"seen": ["A" * 64]}, ("seen[0]",)),
        ({"scores": {"HC": [], "HH": [1.0]}}, ("lacks a group",)),
        ({"familiarity": {"limit": 0, "references": {}, "places": []}}, ("familiarity.limit",)),
        ({"familiarity": {"limit": 2, "references": {}, "places": []}}, ("do not fit together",)),
    ],
)
def test_a_damaged_calibration_is_one_line_before_work(weights, broken, words):
    path = write_calibration(weights, CONTENT)
    path.write_text(broken if isinstance(broken, str) else json.dumps({**json.loads(path.read_text()), **broken}))
    with refused(path.name, "configs/calibrate.yaml", *words):
        Trust(weights).check()


def test_a_calibration_without_a_seal_is_refused(weights):
    path = write_calibration(weights, CONTENT)
    content = json.loads(path.read_text())
    del content["content_sha256"]
    path.write_text(json.dumps(content))
    with refused(path.name, "no content_sha256", "configs/calibrate.yaml"):
        Trust(weights).check()


def test_the_shipped_calibration_is_of_the_shipped_weights_and_as_it_was_written():
    shipped = CONFIGS.parent / "models" / "model.pt"
    assert read_calibration(shipped)[0] is not None
    noted = json.loads(shipped.with_suffix(".json").read_text())["weights"]
    assert noted == {path.name: sha256(path) for path in (shipped, calibration_path(shipped))}


def test_a_calibration_that_is_a_link_to_nowhere_is_not_taken_for_none(weights):
    calibration_path(weights).symlink_to("nowhere.json")
    with refused(calibration_path(weights).name):
        Trust(weights).check()


# --- strange scans --------------------------------------------------------------------------------


def made_scan(rng: np.random.Generator, label: int, size: int = 24, spacing: float = 2.0, noise: float = 0.1):
    """A scan `[3, H, W, S]` of smooth blobs, its embedding `[40]` and its appearance."""
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, size)] * 2, np.linspace(-1, 1, 8), indexing="ij"))
    maps = []
    for level, (brightness, middle) in enumerate(((0.1, 0.0), (40.0, 20.0), (300.0, 400.0))):
        centre, width = rng.normal(0, 0.05, 3), 0.4 + rng.normal(0, 0.02)
        blob = np.exp(-((grid - centre[:, None, None, None]) ** 2).sum(0) / width)
        strength = brightness * (1 + (0.2 * label if level < 2 else 0) + rng.normal(0, 0.05))
        maps.append(middle + strength * (blob + noise * rng.normal(size=blob.shape)))
    embedding = np.concatenate([[3.0 * label], rng.normal(0, 0.2, 3), np.zeros(36)]) + rng.normal(0, 0.05, 40)
    image = np.stack(maps)
    return image, embedding, appearance(image, np.full(3, spacing))


@pytest.fixture(scope="module")
def known() -> dict:
    rng = np.random.default_rng(0)
    scans = [made_scan(rng, number % 2) for number in range(80)]
    return json.loads(json.dumps(fit(
        np.stack([one for _, one, _ in scans]), [one for *_, one in scans], np.arange(80) % 2, 0.05, 2.0
    )))  # fmt: skip


def test_a_damaged_part_of_what_is_known_is_found_before_the_first_scan(known, weights):
    for part, key in (("embedding", "along"), ("appearance", "names")):
        lacking = {name: value for name, value in known["references"][part].items() if name != key}
        write_calibration(weights, {**CONTENT, "familiarity": {**known, "references": {part: lacking}}})
        with refused("do not fit together"):
            Trust(weights).check()


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("embedding", lambda one: one["along"].update(rest=[0.0, 0.0]), "along.rest"),
        ("appearance", lambda one: one["spread"].__setitem__(0, 1e-320), "spread[0]"),
        ("appearance", lambda one: one["usual"].update(largest=[0.0, -1.0]), "usual.largest"),
        ("appearance", lambda one: one.update(names=one["names"][:1] * len(one["names"])), "do not fit together"),
        ("embedding", lambda one: one.update(precision=(-np.array(one["precision"])).tolist()), "do not fit together"),
    ],
)
def test_numbers_by_which_no_scan_would_be_strange_are_refused(known, weights, part, change, said):
    changed = copy.deepcopy(known)
    change(changed["references"][part])
    write_calibration(weights, {**CONTENT, "familiarity": changed})
    with refused(calibration_path(weights).name, said):
        Trust(weights).check()


@pytest.mark.parametrize("limit", [1e-6, 1e9])
def test_a_limit_that_no_training_sets_is_refused(known, weights, limit):
    write_calibration(weights, {**CONTENT, "familiarity": {**known, "limit": limit}})
    with refused(calibration_path(weights).name, "familiarity.limit"):
        Trust(weights).check()


def test_names_of_what_maps_look_like_that_changed_places_are_refused(known, weights):
    path = write_calibration(weights, {**CONTENT, "familiarity": known})
    content = json.loads(path.read_text())
    content["familiarity"]["references"]["appearance"]["names"].reverse()
    path.write_text(json.dumps(content))
    with refused(path.name, "changed since it was written"):
        Trust(weights).check()


def test_what_is_known_of_another_network_or_makes_no_number_refuses_the_scan(known, weights):
    write_calibration(weights, {**CONTENT, "familiarity": known})
    with refused(calibration_path(weights).name, "40 features, not of 39"):
        Trust(weights)(0.5, np.zeros(39))
    with refused(calibration_path(weights).name, "make none of this scan"):
        Trust(weights)(0.5, np.full(40, np.nan))


def test_a_limit_is_never_about_nothing():
    rng = np.random.default_rng(0)
    assert fit(rng.normal(size=(40, 4)), [{}] * 40, np.arange(40) % 2, 0.95, 2.0)["limit"] >= 1


def test_sessions_of_a_person_are_judged_together_and_one_person_with_many_is_no_group():
    people = np.arange(66) // 3
    labels = (people % 2).astype(int)
    parts = groups_of(labels, people)
    assert all(len(np.unique(parts[people == person])) == 1 for person in range(22)) and len(np.unique(parts)) == 10
    np.testing.assert_array_equal(parts, groups_of(labels, [f"sub-{22 - person}" for person in people]))
    rng = np.random.default_rng(0)
    known = fit(rng.normal(size=(66, 4)), [{}] * 66, (people == 3).astype(int), 0.05, 2.0, people)
    assert len(known["references"]["embedding"]["means"]) == 1


def ratio(known: dict, embedding: np.ndarray, look: dict) -> float:
    return strangeness(known, embedding, look)["strangeness"]


def test_scans_like_those_of_the_training_are_seldom_flagged(known):
    rng = np.random.default_rng(1)
    ratios = np.array([ratio(known, *made_scan(rng, number % 2)[1:]) for number in range(100)])
    assert (ratios > 1).mean() <= 0.08


@pytest.mark.parametrize(
    "kind", ["another embedding", "swapped", "scaled", "negated", "noisy", "finer", "mirrored spot"]
)
def test_strange_scans_are_flagged(known, kind):
    rng = np.random.default_rng(2)
    beyond = []
    for number in range(10):
        image, embedding, look = made_scan(rng, number % 2, noise=0.3 if kind == "noisy" else 0.1)
        if kind == "another embedding":
            embedding = embedding + np.r_[np.zeros(20), np.full(20, 1.0)]
        else:
            if kind == "swapped":
                image = image[[0, 2, 1]]
            elif kind == "scaled":
                image = image * np.array([1000.0, 1, 1])[:, None, None, None]
            elif kind == "negated":
                image = image * np.array([-1.0, 1, 1])[:, None, None, None]
            elif kind == "mirrored spot":
                image[:, 4:9, 2:7, 2:6] += 2 * image.std((1, 2, 3))[:, None, None, None]
            look = appearance(image, np.full(3, 1.0 if kind == "finer" else 2.0))
        beyond.append(ratio(known, embedding, look) > 1)
    assert np.mean(beyond) >= 0.9


def test_a_flag_says_by_what_and_a_scan_beyond_the_second_limit_is_refused(known, weights):
    write_calibration(weights, {**CONTENT, "familiarity": known})
    scans = [made_scan(np.random.default_rng(seed), 0) for seed in range(5)]
    image, embedding, look = min(scans, key=lambda scan: ratio(known, *scan[1:]))
    said = Trust(weights)(0.5, embedding, look)
    assert not said["familiarity"]["flagged"] and flag_of(said["familiarity"]) == []
    scaled = appearance(image * np.array([1000.0, 1, 1])[:, None, None, None], np.full(3, 2.0))
    flagged = Trust(weights, refuse_beyond=None)(0.5, embedding, scaled)["familiarity"]
    assert flagged["strangeness"] == pytest.approx(flagged["distance"] / flagged["limit"])
    (line,) = flag_of(flagged)
    assert f"{flagged['strangeness']:.1f} times the limit" in line
    assert "unlike the training scans" in line and "span of QSM" in line and ";" not in line
    with refused("unlike the training scans", "span of QSM", "refuse_beyond"):
        Trust(weights)(0.5, embedding, scaled)
    write_calibration(weights, {**CONTENT, "familiarity": {**known, "refuse_beyond": None}})
    assert Trust(weights)(0.5, embedding, scaled)["familiarity"]["flagged"]
    with refused("unlike the training scans"):
        Trust(weights, refuse_beyond=2.0)(0.5, embedding, scaled)


def test_a_result_whose_strangeness_is_no_ratio_to_the_limit_is_refused(tmp_path):
    path, run = tmp_path / "prediction.json", {"settings_sha256": "", "basis": {}, "files": {}}
    path.write_text(json.dumps({"run": run, "familiarity": {"strangeness": 3.2, "limit": 2.0, "flagged": True}}))
    with refused("familiarity has no 'distance'; run inference.yaml again"):  # as before 0.11.0
        read_json(path, "prediction", "run inference.yaml again")


def test_the_calibration_lies_beside_its_weights():
    assert calibration_path("a/model.pt") == Path("a/model_calibration.json")


def test_a_prevalence_without_a_calibration_is_refused_and_not_passed_over(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"weights")
    with refused("prevalence is 0.01", "calibrate.yaml"):
        Trust(tmp_path / "model.pt", prevalence=0.01).check()
    Trust(tmp_path / "model.pt").check()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_slices": -3}, "settings.num_slices is -3"),
        ({"num_slices": "16"}, "settings.num_slices is text"),
        ({"region": "foo"}, "settings.region"),
        ({"spatial_size": [128]}, "settings.spatial_size has 1 entries"),
        ({"leave_out": ["Chimap", "T1w", "R2starmap"]}, "settings.leave_out has 3 entries"),
        ({"image_model": None}, "settings.image_model"),
        ({"stretch_percentiles": [99.5, 0.5]}, "settings.stretch_percentiles is [99.5, 0.5], which does not rise"),
        ({"t1map_window": [2.5, 0.3]}, "settings.t1map_window is [2.5, 0.3], which does not rise"),
        ({"t1map_window": [1.0, 1.0]}, "settings.t1map_window is [1.0, 1.0], which does not rise"),
    ],
)
def test_a_record_with_settings_that_cannot_be_is_named(weights, settings, said):
    path = weights.with_suffix(".json")
    path.write_text(json.dumps({"settings": RECORDED | settings, "weights": {"model.pt": sha256(weights)}}))
    with refused(path, said):
        trained_with(weights)


def test_records_allow_what_the_keys_of_the_configs_allow():
    training, inference = (Known([str(CONFIGS / f"{name}.yaml")]) for name in ("train", "inference"))
    tried = [
        -3,
        0,
        1,
        7,
        8,
        16,
        1024,
        1025,
        2048,
        2049,
        8192,
        8193,
        16.5,
        True,
        *"ab",
        [],
        [1, 2],
        [8, 2048],
        [-10, 10],
    ]
    tried += [[0, 10000], [0, 100], [7, 8], [0, 10001], [1, 2, 3], ["T1w"], ["T1w", "Chimap"], ["x"], None]
    tried += [
        *[
            "full",
            "cropped",
            "stretch",
            "window",
            "resnet18",
            "vit",
            "resnet18_3d",
            "densenet_3d",
            "bilstm",
            "attention",
            "mean",
        ]
    ]
    for key in SCHEMAS["training record"]["properties"]["settings"]["properties"].keys() - {"annotated_margin_mm"}:
        known = inference if key == "leave_out" else training  # and annotated_margin_mm is measured, never typed
        for value in tried:
            wanted = not isinstance(value, list) or value == sorted(value)  # a schema cannot say: rising
            in_record = validator("training record").is_valid({"settings": {key: value}})
            try:
                known.checked([key], value, key)
            except InputError:
                assert not (in_record and wanted), (key, value)
            else:
                assert in_record or isinstance(value, (bool, str, float)), (key, value)  # words of a command line
