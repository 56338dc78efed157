"""What a config's comments say of its keys, read back from the file."""

import pytest
from blobs import BUNDLE

from scripts.settings.comments import explanations, read_comments

CONFIG = """\
# First line.
#   a command
imports:
- $import os                # not a key

# --- where ---------------------------------
folder: a#b                 # one line
wide: "x # y"               # begins here,
                            # goes on here
                            # and ends here
# Above its key,
# on two lines.
above: 1

# About the two below.
first: [1,
  2]                        # beside the last line
second: 3

step:                       # a step
  _target_: scripts.some.Step
  # inside, above
  inner: {a: 1}
  bare: true

# =====================
made: '@step'
run:                        # what it does
- $print('# no comment')
"""


@pytest.fixture
def keys(tmp_path):
    path = tmp_path / "some.yaml"
    path.write_text(CONFIG)
    return {key.name: key for key in read_comments(path).keys}


def test_an_explanation_on_several_lines_is_whole(keys):
    assert keys["wide"].words == "begins here, goes on here and ends here"
    assert keys["above"].words == "Above its key, on two lines."
    assert keys["first"].words == "beside the last line"


def test_a_hash_in_a_value_is_no_comment(keys):
    assert (keys["folder"].default, keys["folder"].words) == ("a#b", "one line")
    assert keys["wide"].default == '"x # y"'
    assert keys["run"].words == "what it does"


def test_keys_know_where_they_stand(keys):
    assert list(keys) == [
        *("folder", "wide", "above", "first", "second"),
        *("step", "step#_target_", "step#inner", "step#bare", "made", "run"),
    ]
    assert {key.section for name, key in keys.items() if name in ("folder", "second")} == {"where"}
    assert keys["first"].note == keys["second"].note == "About the two below."
    assert keys["step#inner"].words == "inside, above"
    assert [name for name, key in keys.items() if not key.for_users] == ["made", "run"]
    assert [name for name, key in keys.items() if key.steps] == ["run"]


def test_every_line_about_a_key_of_training_reaches_the_reader():
    found = explanations(BUNDLE / "configs" / "train.yaml")
    assert "found where there is none;" in found["localise"] and found["localise"].endswith("scans are cut already")


def test_a_key_without_comment_has_that_of_its_block_or_of_the_next_config(tmp_path):
    path, other = tmp_path / "some.yaml", tmp_path / "other.yaml"
    path.write_text(CONFIG)
    other.write_text("second: 4\nstep:\n  bare: false  # from elsewhere\n")
    found = explanations(path, other)
    assert found["second"] == "About the two below."
    assert found["step#bare"] == "from elsewhere"
    assert "made" not in found
