"""What the repository promises about itself: versions, licence, comments, documents, metadata, and no stray files."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from blobs import BUNDLE, REPOSITORY
from jsonschema import Draft202012Validator

from scripts.settings.comments import read_comments

METADATA = json.loads((BUNDLE / "configs" / "metadata.json").read_text())
SCHEMA = json.loads((REPOSITORY / "tests" / "data" / "metadata_schema.json").read_text())
LARGEST_FILE = 25_000_000
#: A path that exists on somebody's machine only. Not part of a URL or of a relative path.
MACHINE_PATH = re.compile(
    r"(?<![\w.:/~$)}-])(?:/(?:home|Users|root|work|tmp|mnt|media|scratch|data)|[A-Z]:\\\w+)[/\\]\w"
)


def repository_files() -> list[Path]:
    """Files that are tracked, or would be with the next `git add`."""
    if not (REPOSITORY / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return [path for name in listed.split("\0") if name and (path := REPOSITORY / name).is_file()]


def test_links_of_pages_lead_to_what_is_in_the_repository():
    lost = []
    for page in (path for path in repository_files() if path.suffix == ".md"):
        text = re.sub(r"^( *)```.*?^\1```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\((?!\w+:|#|/)([^)#\s]+)(?:#[^)\s]*)?\)", text):
            if not (page.parent / target).exists():
                lost.append(f"{page.relative_to(REPOSITORY)}: {target}")
    assert lost == []


def text_of(path: Path) -> str | None:
    """A text file's content; None for a binary file."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


def test_rooms_import_only_from_rooms_below_them():
    checked = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--config", REPOSITORY / "pyproject.toml"],
        cwd=BUNDLE, env={"PYTHONPATH": "."}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout


def test_versions_agree_everywhere():
    released = re.findall(r"^## (\d+\.\d+\.\d+)", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert released[0] == METADATA["version"] == project["version"]
    assert released == list(METADATA["changelog"])


def test_the_demo_names_its_steps():
    """Each before its command, and so many as it says."""
    lines = (REPOSITORY / "Makefile").read_text().splitlines()
    before = [lines[place - 1] for place, line in enumerate(lines) if "$(RUN)" in line and line.startswith("\t")]
    named = [re.match(r'\t@echo "step (\d) of (\d): \w', line) for line in before]
    assert [one and one.groups() for one in named] == [(str(n), str(len(before))) for n in range(1, len(before) + 1)]


def test_licence_is_apache_2_in_the_repository_and_in_the_bundle():
    text = (REPOSITORY / "LICENSE").read_text()
    assert re.search(r"Apache License\s+Version 2\.0, January 2004", text)
    assert "9. Accepting Warranty or Additional Liability" in text
    assert (BUNDLE / "LICENSE").read_text() == text
    assert tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["license"] == "Apache-2.0"


@pytest.mark.parametrize("name", ["train.yaml", "reconstruct.yaml", "inference.yaml"])
def test_every_key_for_users_is_commented(name):
    keys = [key for key in read_comments(BUNDLE / "configs" / name).keys if "#" not in key.name]
    for_users = [key for key in keys if key.for_users]
    assert 5 < len(for_users) < len(keys)  # a line of # ===== stands below those for users
    assert [key.name for key in for_users if not key.words and not key.note] == []


DOCUMENTS = [
    REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "apps/deploy/README.md", "apps/bids_app/README.md")
]
DOCUMENTS += [*(BUNDLE / "docs").rglob("*.md"), *(REPOSITORY / "docs").rglob("*.md")]


def test_the_readme_is_one_screen_and_its_links_lead_somewhere():
    text = (REPOSITORY / "README.md").read_text()
    assert len(text.encode()) <= 6000
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert len(links) > 10
    assert [link for link in links if not (REPOSITORY / link).is_file()] == []


def test_documents_name_configs_that_exist():
    named = {
        name for page in DOCUMENTS for name in re.findall(r"(?<!reference/)configs/([\w-]+\.\w+)", page.read_text())
    }
    assert len(named) > 10
    assert sorted(name for name in named if not (BUNDLE / "configs" / name).is_file()) == []


def test_documents_name_code_that_exists():
    paths = {path for page in DOCUMENTS for path in re.findall(r"\bscripts((?:[./][a-z_]\w*)+)", page.read_text())}
    assert len(paths) > 10
    for path in paths:
        first, *rest = re.split(r"[./]", path.strip("./").removesuffix(".py"))
        place = BUNDLE / "scripts" / first
        while rest and place.is_dir():
            place /= rest.pop(0)
        assert place.is_dir() or place.with_suffix(".py").is_file(), f"scripts{path}"


def test_the_model_card_names_keys_that_exist():
    """The first column of a table headed `Key` holds keys of the configs that users start."""
    known = set()
    for name in ("train", "inference", "simulate", "multi_gpu_train", "evaluate", "cross_validation"):
        known |= yaml.safe_load((BUNDLE / "configs" / f"{name}.yaml").read_text()).keys()
    tables = re.findall(
        r"^\| Key \|.*\n\|[ :|-]+\n((?:\|.*\n)+)", (BUNDLE / "docs" / "README.md").read_text(), re.MULTILINE
    )
    assert tables
    cells = [row.split("|")[1] for table in tables for row in table.splitlines()]
    assert sorted(key for cell in cells for key in re.findall(r"`(\w+)`", cell) if key not in known) == []


#: Keys that several configs have, each with its own meaning or place.
OWN = {"output_dir", "cache_dir", "input", "series", "nuclei_table", "weights", "reference_curves"}
OWN |= {"device", "seed", "num_workers", "size", "sizes", "ages", "ckpt_dir", "calibrate_on"}
#: As in the paper in training, as in the weights' record in inference.
OWN |= {"intensity", "chimap_window", "r2starmap_window", "t1map_window", "maps"}
OWN |= {"image_model", "scan_model"}
#: Decided in training, taken over in inference.
OWN |= {"refuse_beyond", "localise_margin_mm"}
#: What each makes of its keys; tests/maps/test_transforms.py compares the preprocessing of training and inference.
OWN |= {
    "imports",
    "network_def",
    "preprocessing",
    "postprocessing",
    "evidence",
    "scans",
    "training",
    "prepare",
    "run",
    "finalize",
}


def test_a_key_of_several_configs_has_one_default():
    """Clients read inference.yaml alone, and commands one file each, so some keys stand in several."""
    found: dict[str, dict[str, object]] = {}
    for path in (BUNDLE / "configs").glob("*.yaml"):
        changes_others = "# Overlay on" in path.read_text().partition("\n")[0] and path.stem != "cross_validation_fold"
        if not changes_others and path.stem not in ("allowed", "dicom_series", "track_mlflow", "track_tensorboard"):
            for key, value in yaml.safe_load(path.read_text()).items():
                found.setdefault(key, {})[path.stem] = value
    found["localiser"]["localise"] |= {"cache_dir": "@localise_dir"}  # its folder is where boxes are kept
    shared = {key: values for key, values in found.items() if len(values) > 1 and key not in OWN}
    assert {
        "localiser",
        "localise",
        "template",
        "evidence_method",
        "stretch_percentiles",
    } <= shared.keys()
    differing = {key: values for key, values in shared.items() if len({json.dumps(v) for v in values.values()}) > 1}
    assert differing == {}


def test_metadata_follows_the_bundle_specification():
    assert [error.message for error in Draft202012Validator(SCHEMA).iter_errors(METADATA)] == []


@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_every_channel_has_a_name(side):
    for tensor in METADATA["network_data_format"][side].values():
        assert list(tensor["channel_def"]) == [str(channel) for channel in range(tensor["num_channels"])]


def test_no_file_is_large():
    assert [
        str(path.relative_to(REPOSITORY)) for path in repository_files() if path.stat().st_size > LARGEST_FILE
    ] == []


def test_no_text_file_holds_a_path_of_somebodys_machine():
    found = []
    for path in repository_files():
        for number, line in enumerate((text_of(path) or "").splitlines(), 1):
            if MACHINE_PATH.search(line):
                found.append(f"{path.relative_to(REPOSITORY)}:{number}: {line.strip()[:120]}")
    assert found == []


def test_readme_and_model_card_say_what_the_committed_results_say():
    done = subprocess.run(
        [sys.executable, REPOSITORY / "benchmarks" / "in_text.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


#: What stands for Python in a demo: notes which step runs, fails at the one in `stop`, and writes as that would.
_STEP = """#!/bin/sh
case "$*" in
  *simulate.yaml*) step=simulate; folders=cohort ;;
  *" training "*) step=training; folders="models training" ;;
  *evaluate.yaml*) step=evaluate; folders=training ;;
  *report.yaml*) step=report; folders=report ;;
  *inference.yaml*) step=inference; folders=inference ;;
esac
test "$step" != "$(cat ../stop 2>/dev/null)" || exit 1
echo "$step" >> ../steps
for folder in $folders; do mkdir -p ../demo/$folder; touch ../demo/$folder/participants.tsv; done
"""


def test_the_demo_goes_on_where_it_was_stopped_and_other_code_begins_anew(tmp_path):
    steps = ["simulate", "training", "evaluate", "inference", "report"]
    shutil.copy(REPOSITORY / "Makefile", tmp_path)
    for name in ("pyproject.toml", "constraints.txt", "bundle/scripts/a.py", "bundle/configs/a.yaml",
                 "bundle/models/template.json", ".venv/bin/python", ".venv/installed-simulate"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(_STEP if name.endswith("python") else "")
    (tmp_path / ".venv/bin/python").chmod(0o755)

    def demo(target: str = "demo") -> tuple[int, list[str]]:
        (tmp_path / "steps").write_text("")
        done = subprocess.run(["make", target], cwd=tmp_path, capture_output=True, text=True, check=False)
        return done.returncode, (tmp_path / "steps").read_text().split()

    (tmp_path / "demo").mkdir()
    mine = tmp_path / "demo" / "mine.txt"
    mine.write_text("mine")
    assert demo() == (2, [])  # nothing says that the folder is the demo's
    assert demo("demo-anew") == (0, steps) and mine.exists()
    assert demo() == (0, [])
    shutil.rmtree(tmp_path / "demo" / "inference")
    (tmp_path / "stop").write_text("inference")
    assert demo() == (2, [])
    (tmp_path / "stop").unlink()
    assert demo() == (0, ["inference", "report"])
    (tmp_path / "bundle/scripts/a.py").write_text("changed")
    assert demo() == (0, steps)
    assert mine.exists()
