"""A scan is known again however its maps were saved, and by the lists of older calibrations."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from scripts.files.writing import sha256
from scripts.maps.identity import known_as, met_before


@pytest.fixture
def image() -> nib.Nifti1Image:
    return nib.Nifti1Image(np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32), np.eye(4))


def saved(image: nib.Nifti1Image, path: Path) -> Path:
    nib.save(image, path)
    return path


def test_a_map_is_known_however_it_was_compressed_and_what_lies_beside_it_in_the_file(image, tmp_path):
    path = saved(image, tmp_path / "a.nii")
    others = [tmp_path / f"level{level}.nii.gz" for level in (1, 9)]
    for level, other in zip((1, 9), others, strict=True):
        other.write_bytes(gzip.compress(path.read_bytes(), level))
    voxels = image.get_fdata(dtype=np.float32)
    others.append(saved(nib.Nifti1Image(np.stack([voxels, -voxels], -1), image.affine), tmp_path / "study.nii.gz"))
    others.append(saved(nib.Nifti1Image(voxels, np.diag([2, 2, 2, 1])), tmp_path / "header.nii.gz"))
    turned = nib.as_closest_canonical(image).slicer[::-1]  # the same image, stored from the other side
    others.append(saved(nib.Nifti1Image(turned.get_fdata(dtype=np.float32), turned.affine), tmp_path / "turned.nii"))
    names = [known_as(other) for other in (path, *others)]
    assert {of_map for of_map, _ in names} == {names[0][0]}
    assert [of_file for _, of_file in names] == [sha256(other) for other in (path, *others)]


def test_another_map_is_not_known(image, tmp_path):
    voxels = image.get_fdata(dtype=np.float32).copy()
    voxels[4, 5, 6] += 1e-6
    others = (voxels, image.get_fdata(dtype=np.float32).reshape(6, 5, 7, order="F"))
    paths = [saved(nib.Nifti1Image(other, np.eye(4)), tmp_path / f"{n}.nii") for n, other in enumerate(others)]
    first = known_as(saved(image, tmp_path / "a.nii"))
    assert all({*known_as(path)}.isdisjoint(first) for path in paths)


def test_who_may_have_trained_is_not_said_to_have_calibrated_alone():
    names = ("map", "file")
    assert met_before(names, [], []) is None
    assert met_before(names, ["map"], []) == met_before(names, ["file"], []) == "seen"
    assert met_before(names, ["map", "file"], ["map", "file"]) == "calibrated"
    assert met_before(names, ["file"], ["file"]) == "calibrated"
    assert met_before(names, ["map", "file"], ["map"]) == "seen"
