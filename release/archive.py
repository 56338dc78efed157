"""The bundle as one zip with the same bytes for the same files, its checksum, and its entry in the zoo's list."""

import hashlib
import shutil
import zipfile
from pathlib import Path

from release.source import git
from scripts.files.writing import sha256, write_aside
from scripts.runs.bars import Bar

#: Every member's time: the earliest that a zip can hold.
TIMESTAMP = (1980, 1, 1, 0, 0, 0)


def tracked_files(bundle: Path) -> list[str]:
    """The bundle's files that are under version control, relative to it, in order of their names."""
    return sorted(name for name in git(bundle, "ls-files", "-z").split("\0") if name)


def copy_files(source: Path, names: list[str], target: Path) -> None:
    """Copy files, with their folders, into a folder."""
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)


def write_zip(folder: Path, top: str, path: Path) -> None:
    """Pack a folder under one top folder: members by name, one time and one mode for all, so the bytes repeat."""
    members = sorted(member for member in folder.rglob("*") if member.is_file())

    def write(part: str) -> None:
        with zipfile.ZipFile(part, "w") as archive:
            for member in Bar(members, desc=path.name, unit="file"):
                info = zipfile.ZipInfo(f"{top}/{member.relative_to(folder).as_posix()}", TIMESTAMP)
                info.create_system, info.external_attr = 3, 0o100644 << 16  # as written on Unix, on any system
                archive.writestr(info, member.read_bytes(), zipfile.ZIP_DEFLATED, compresslevel=6)

    write_aside(path, write)


def write_checksum(archive: Path) -> None:
    """Write the SHA-256 beside the archive, for `sha256sum --check`."""
    archive.with_name(f"{archive.name}.sha256").write_text(f"{sha256(archive)}  {archive.name}\n")


def zoo_entry(archive: Path, base_url: str) -> dict[str, dict[str, str]]:
    """The archive's entry in the model zoo's model_info.json, whose checksum is a SHA-1."""
    with archive.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha1").hexdigest()
    return {archive.stem: {"checksum": checksum, "source": f"{base_url.rstrip('/')}/{archive.name}"}}
