"""The JSON files that say something of an image, wherever BIDS lets them lie."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path


def sidecars_of(path: str | os.PathLike) -> list[Path]:
    """The sidecars of an image, the nearest first: as BIDS has it, also those of the same kind of image in a folder
    above, up to the one that holds the subjects."""
    path = Path(path)
    *entities, suffix = path.name.removesuffix(".gz").removesuffix(".nii").split("_")
    folders = [path.parent, *path.parent.parents]
    subject = next((place for place, folder in enumerate(folders) if folder.name.startswith("sub-")), -1)
    found = []
    for folder in folders[: subject + 2]:
        names = {other: other.stem.split("_") for other in folder.glob(f"*{suffix}.json")}
        fit = [other for other, parts in names.items() if parts[-1] == suffix and {*parts[:-1]} <= {*entities}]
        found += sorted(fit, key=lambda other: (-len(names[other]), other.name))
    return found


def with_sidecars(files: Mapping[str, Sequence[str | os.PathLike]]) -> dict[str, list[str | os.PathLike]]:
    """Files by name, each NIfTI followed by its sidecars: all that decides what is read of it."""
    return {
        name: [
            file
            for path in paths
            for file in (path, *(sidecars_of(path) if os.fspath(path).endswith((".nii", ".nii.gz")) else ()))
        ]
        for name, paths in files.items()
    }
