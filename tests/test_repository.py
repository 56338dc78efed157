"""What the repository promises about itself: versions, licence, comments, documents, metadata, and no stray files."""

import copy
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from blobs import BUNDLE, REPOSITORY
from jsonschema import Draft202012Validator

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


def text_of(path: Path) -> str | None:
    """A text file's content; None for a binary file."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


def keys_without_comment(lines: list[str]) -> list[str]:
    """Top-level keys with no comment on their line and none above them in their block (lines between empty lines)."""
    bare, explained = [], False
    for line in lines:
        if not line.strip():
            explained = False
        elif line.startswith("#"):
            explained = True
        elif (key := re.match(r"\+?([\w#]+):", line)) and not explained and " # " not in line:
            bare.append(key[1])
    return bare


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


def test_licence_is_apache_2_in_the_repository_and_in_the_bundle():
    text = (REPOSITORY / "LICENSE").read_text()
    assert re.search(r"Apache License\s+Version 2\.0, January 2004", text)
    assert "9. Accepting Warranty or Additional Liability" in text
    assert (BUNDLE / "LICENSE").read_text() == text
    assert tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["license"] == "Apache-2.0"


@pytest.mark.parametrize("name", ["train.yaml", "reconstruct.yaml", "inference.yaml"])
def test_every_key_for_users_is_commented(name):
    text = (BUNDLE / "configs" / name).read_text()
    above, rule, _ = text.partition("\n# =====")
    assert rule, f"{name} has no line of # ===== below the keys for users"
    assert len(yaml.safe_load(above)) > 5
    assert keys_without_comment(above.splitlines()) == []


def test_a_key_without_a_comment_is_noticed():
    assert keys_without_comment(["# block", "one: 1", "", "two: 2", "three: 3  # note"]) == ["two"]


DOCUMENTS = [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "apps/deploy/README.md")]
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


def is_numbers(value: object) -> bool:
    values = value if isinstance(value, list) else [value]
    return all(isinstance(v, (int, float)) for v in values)


def test_a_key_of_several_configs_has_one_default():
    """Configs that clients read on their own must repeat some keys of train.yaml; they say the same."""
    configs = {
        name: yaml.safe_load((BUNDLE / "configs" / f"{name}.yaml").read_text())
        for name in ("train", "inference", "localise", "nuclei")
    }
    numbers = {
        name: {key: value for key, value in config.items() if is_numbers(value)} for name, config in configs.items()
    }
    differing = [
        (name, key)
        for name, config in numbers.items()
        for key in config.keys() & numbers["train"].keys()
        if config[key] != numbers["train"][key]
    ]
    assert {"localise_margin_mm", "num_slices", "cropped_size"} <= numbers["train"].keys()
    assert differing == []


def test_metadata_follows_the_bundle_specification():
    Draft202012Validator.check_schema(SCHEMA)
    assert [error.message for error in Draft202012Validator(SCHEMA).iter_errors(METADATA)] == []


@pytest.mark.parametrize("field", [*SCHEMA["required"], "required_packages_version"])
def test_metadata_without_a_mandatory_field_is_refused(field):
    damaged = {key: value for key, value in METADATA.items() if key != field}
    assert not Draft202012Validator(SCHEMA).is_valid(damaged)


@pytest.mark.parametrize("field", SCHEMA["$defs"]["tensor"]["required"])
def test_a_tensor_without_a_mandatory_field_is_refused(field):
    damaged = copy.deepcopy(METADATA)
    del damaged["network_data_format"]["inputs"]["image"][field]
    assert not Draft202012Validator(SCHEMA).is_valid(damaged)


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


@pytest.mark.parametrize("folders", [("home", "me"), ("work", "main"), ("Users", "me"), ("tmp", "run")])
def test_a_path_of_somebodys_machine_is_noticed(folders):
    path = "/" + "/".join(folders)
    assert MACHINE_PATH.search(f"--dataset_dir {path}/cohort")
    assert MACHINE_PATH.search(f'"{path}"')
    assert not MACHINE_PATH.search(f"https://example.org{path}")
    assert not MACHINE_PATH.search(f"$(CURDIR){path}")


def test_readme_and_model_card_say_what_the_committed_results_say():
    done = subprocess.run(
        [sys.executable, REPOSITORY / "benchmarks" / "in_text.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
