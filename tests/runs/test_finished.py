"""What is finished is told by content; one scan's failure is its row, without names."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from scripts.errors import InputError
from scripts.maps.scan import LabelledScan, of_scans
from scripts.runs import finished
from scripts.runs.failures import called, log_of, why
from scripts.runs.finished import Origin, code_of, contents, imported_by, not_as_written, settings_of


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "map.nii.gz"
    path.write_bytes(b"one")
    return path


def origin(path: Path, **facts) -> Origin:
    return Origin({"maps": [path]}, {"echo_times_s": [0.004, 0.008], **facts}, ["scripts.parts_of_nothing"])


def test_a_touched_or_copied_file_is_the_same(source: Path) -> None:
    kept = origin(source).basis()
    os.utime(source, (1, 1))
    assert origin(source).made(kept)
    copy = source.with_name("copy.nii.gz")
    copy.write_bytes(source.read_bytes())
    assert origin(copy).made(kept)


def test_a_result_that_is_not_as_it_was_written_is_told_by_its_name(source: Path) -> None:
    kept = contents(source.parent, [source.name])
    assert not_as_written(source.parent, kept) is None
    source.write_bytes(b"two")
    assert not_as_written(source.parent, kept) == source.name
    source.unlink()
    assert not_as_written(source.parent, kept) == source.name
    assert not_as_written(source.parent, [source.name]) == "its record"  # of an older version


def test_a_changed_file_is_another_even_with_its_old_size_and_time(source: Path) -> None:
    kept, before = origin(source).basis(), source.stat()
    source.write_bytes(b"two")
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not origin(source).made(kept)


def test_a_changed_fact_or_a_missing_file_is_another(source: Path) -> None:
    kept = origin(source).basis()
    assert not origin(source, flip_angle=6).made(kept)
    source.unlink()
    assert not origin(source).made(kept)
    assert not origin(source).made(None) and not origin(source).made({"code": "damaged"})


def test_changed_code_is_another_however_deep_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scripts").mkdir()
    for name, text in (
        ("top", "from scripts import middle"),
        ("middle", "def f():\n    import scripts.deep"),
        ("deep", ""),
    ):
        (tmp_path / "scripts" / f"{name}.py").write_text(text)
    monkeypatch.setattr(finished, "ROOT", tmp_path)
    code_of.cache_clear()
    before = code_of("scripts.top")
    (tmp_path / "scripts" / "deep.py").write_text("x = 1")
    code_of.cache_clear()
    assert imported_by(["scripts.top"]) == {"scripts.top", "scripts.middle", "scripts.deep"}
    assert code_of("scripts.top") != before
    code_of.cache_clear()


def test_words_of_a_page_decide_no_training_but_what_inference_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    from scripts.crossvalidation.run import CODE as FOLDS
    from scripts.inference.batch import CODE as RESULTS
    from scripts.nuclei.cohort import CODE as NUCLEI
    from scripts.training.data import CODE as TRAINING

    every = (FOLDS, NUCLEI, TRAINING, RESULTS)
    before = [code_of(*modules) for modules in every]
    code_of.cache_clear()
    whole = finished.source_of
    monkeypatch.setattr(
        finished, "source_of", lambda name: b"x = 1" if name == "scripts.reporting.page" else whole(name)
    )
    assert [code_of(*modules) == was for modules, was in zip(every, before, strict=True)] == [True, True, True, False]
    code_of.cache_clear()


def test_nuclei_depend_on_how_they_are_found() -> None:
    from scripts.nuclei.cohort import CODE

    assert {"scripts.nuclei.reader", "scripts.registration.search", "scripts.anatomy.template"} <= imported_by(CODE)


def test_settings_name_content_and_not_places(source: Path) -> None:
    class Step:
        def __init__(self, template: Path) -> None:
            self.template, self.sizes, self._cache = template, np.arange(3), object()

    here, there = settings_of(Step(source)), settings_of(Step(Path("/nowhere/else.nii")))
    assert here == ["Step", {"sizes": [0, 1, 2], "template": finished.content_of_file(source)}]
    assert there[1]["template"] is None
    assert settings_of(torch.zeros(10, 10)) != settings_of(torch.ones(10, 10))


def test_labels_and_boxes_are_part_of_a_cohort(source: Path) -> None:
    scan = LabelledScan(participant_id="sub-01", scan_id="sub-01", maps=(str(source),), label=0, box=[[0, 1]] * 3)
    (first,) = of_scans([scan]).values()
    for change in ({"label": 1}, {"box": [[0, 2]] * 3}):
        assert list(of_scans([replace(scan, **change)]).values()) != [first]


def fail(error: Exception, log: Path, files: dict | None = None) -> str:
    try:
        raise error
    except Exception as raised:
        return why(raised, log, called(files or {}))


def test_a_reason_names_no_person_and_no_path(tmp_path: Path) -> None:
    log, path = log_of(tmp_path, "sub-01"), "/scans/Smith John/QSM of Smith.nii.gz"
    assert fail(InputError(f"{path}: holds NaN"), log, {"Chimap": [path]}) == "Chimap (*.nii.gz): holds NaN"
    named = "/scans/Smith/pre_Chimap.nii"
    assert fail(InputError(f"{named}: bad"), log, {"Chimap": [named]}) == "Chimap (*_Chimap.nii): bad"
    assert called({"Chimap": [named]}, "pre") == {named: "pre_Chimap.nii"}
    assert fail(InputError("/scans/Smith/x.nii: bad; R2* is in 1/s"), log) == "...: bad; R2* is in 1/s"
    bids = "/scans/Smith/sub-01/anat/sub-01_T1w.nii.gz"
    assert fail(InputError(f"{bids}: bad"), log, {"T1w": [bids]}) == "sub-01_T1w.nii.gz: bad"
    assert not log.exists()


def test_what_nobody_expected_leaves_its_traceback_in_a_file(tmp_path: Path) -> None:
    log = log_of(tmp_path, "../sub-01$x")
    assert log.parent == tmp_path
    said = fail(ValueError("Smith"), log)
    assert "Smith" not in said and log.name in said
    assert "ValueError: Smith" in log.read_text() and "Traceback" in log.read_text()


def test_a_full_disk_says_so_even_where_no_log_can_be_written(tmp_path: Path) -> None:
    wrapped = RuntimeError("cannot write /scans/Smith")
    wrapped.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert "disk is full" in fail(wrapped, tmp_path / "x.log")
    (tmp_path / "file").touch()
    assert "could not be written" in fail(KeyError("Smith"), tmp_path / "file" / "x.log")


def test_threads_that_ask_for_the_code_at_the_same_time_all_get_it():
    alone = code_of("scripts.model.outputs", "scripts.localisation.localiser")
    code_of.cache_clear()
    with ThreadPoolExecutor(8) as pool:  # parsing in two threads at a time can end in a SystemError
        asked = [pool.submit(code_of, "scripts.model.outputs", "scripts.localisation.localiser") for _ in range(8)]
    assert {future.result() for future in asked} == {alone}
