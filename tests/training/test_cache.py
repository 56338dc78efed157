"""The cache of preprocessed scans: the same tensors, and never a stale one."""

import json
import time
from pathlib import Path

import nibabel as nib
import pytest
import torch

from scripts.maps.bids import labelled_scans
from scripts.maps.scan import items
from scripts.training.cache import CachedScans, ScansInMemory, fill, scan_key, settings_of
from scripts.training.preprocessing import preprocessing


def transform(**changed):
    return preprocessing(
        **{
            "region": "cropped",
            "spatial_size": [16, 16],
            "num_slices": 4,
            "stretch_percentiles": [0.5, 99.5],
            "localise": "annotated",
        }
        | changed
    )


def entries(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.pt")}


def test_a_cached_scan_is_what_preprocessing_gives(shared_cohort, tmp_path):
    scans = labelled_scans(shared_cohort)[:2]
    fresh = [transform()(scan.item())["image"].as_tensor() for scan in scans]
    for _ in range(2):  # the first pass computes, the second reads
        cached = CachedScans(items(scans), transform(), tmp_path)
        for index, image in enumerate(fresh):
            torch.testing.assert_close(cached[index]["image"].as_tensor(), image, rtol=0, atol=0)
            assert cached[index]["label"] == scans[index].label
    assert len(entries(tmp_path)) == 2


@pytest.mark.parametrize(
    ("localise", "said"), [("auto", "reading scans, finding the basal ganglia of 1:"), ("annotated", "reading scans:")]
)
def test_the_bar_of_scans_kept_in_memory_says_what_takes_the_time(capsys, localise, said):
    data = [{"image": "a", "box": [[0, 1]] * 3}, {"image": "b"}]
    assert [item["image"] for item in ScansInMemory(data, localise, transform=[], num_workers=1)] == ["a", "b"]
    assert said in capsys.readouterr().err


def test_a_scan_is_read_and_not_computed_again(shared_cohort, tmp_path):
    scans = labelled_scans(shared_cohort)[:1]
    CachedScans(items(scans), transform(), tmp_path)[0]
    (entry,) = tmp_path.glob("*.pt")
    torch.save({"image": torch.full((3, 16, 16, 4), 0.5)}, entry)
    assert float(CachedScans(items(scans), transform(), tmp_path)[0]["image"].mean()) == 0.5


@pytest.mark.parametrize(
    ("key", "value"),
    [("region", "full"), ("spatial_size", [16, 18]), ("num_slices", 5), ("stretch_percentiles", [1, 99])],
)
def test_another_setting_of_the_preprocessing_is_another_entry(key, value, shared_cohort, tmp_path):
    scans = labelled_scans(shared_cohort)[:1]
    CachedScans(items(scans), transform(), tmp_path)[0]
    CachedScans(items(scans), transform(**{key: value}), tmp_path)[0]
    assert len(entries(tmp_path)) == 2


def test_a_changed_file_is_another_entry(cohort, tmp_path):
    scans = labelled_scans(cohort)[:1]
    first = CachedScans(items(scans), transform(), tmp_path)[0]["image"]
    path = Path(scans[0].maps[0])
    image = nib.load(path)
    time.sleep(0.01)
    nib.save(nib.Nifti1Image(image.get_fdata()[::-1], image.affine), path)
    second = CachedScans(items(scans), transform(), tmp_path)[0]["image"]
    assert not torch.equal(first.as_tensor(), second.as_tensor())


def test_a_changed_box_is_another_entry(cohort, tmp_path):
    scan = labelled_scans(cohort)[0].item()
    other = scan | {"box": [[9, 32], *scan["box"][1:]]}
    assert scan_key({}, scan) != scan_key({}, other)


def test_the_same_settings_have_the_same_description(shared_cohort):
    assert json.dumps(settings_of(transform())) == json.dumps(settings_of(transform()))


def test_threads_may_fill_one_cache(shared_cohort, tmp_path):
    scans = labelled_scans(shared_cohort)
    fill(CachedScans(items(scans), transform(), tmp_path), "test", 4)
    assert len(entries(tmp_path)) == len(scans)
