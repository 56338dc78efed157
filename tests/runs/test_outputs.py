"""Where results may not go."""

import pytest
from blobs import BUNDLE
from refusal import refused

from scripts.runs.outputs import check_not_the_bundle


@pytest.mark.parametrize("place", [".", "configs", "scripts/model/new", "docs", "models"])
def test_results_do_not_go_among_the_files_of_the_bundle(place, tmp_path):
    with refused("output_dir", "files of the bundle itself"):
        check_not_the_bundle({"output_dir": BUNDLE / place})
    (tmp_path / "link").symlink_to(BUNDLE)
    with refused("output_dir"):
        check_not_the_bundle({"output_dir": tmp_path / "link" / place})


def test_weights_go_to_models_and_results_below_output(tmp_path):
    check_not_the_bundle({"ckpt_dir": BUNDLE / "models" / "mine", "output_dir": BUNDLE / "output", "cache_dir": None})
    check_not_the_bundle({"output_dir": tmp_path / "configs"})
    with refused("ckpt_dir"):
        check_not_the_bundle({"ckpt_dir": BUNDLE / "configs"})
