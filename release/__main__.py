"""Build a release of the bundle, from a clean checkout's root:

    python -m release [--output_dir dist] [--base_url URL] [--bundle_dir bundle]

The folder gets
    qnet_hemochromatosis_vX.Y.Z.zip, .zip.sha256   the bundle with models/model.ts, as the model zoo
                                                   keeps it
    qnet_hemochromatosis_vX.Y.Z.onnx               the network for ONNX runtimes
    model_info.json                                the entry of this version for the model zoo's list
    huggingface/                                   the bundle with a model card, ready for `hf upload`
    release.json                                   commit, versions, SHA-256 of every file, differences of the exports
"""

import sys
from pathlib import Path

import fire

from release import BUNDLE, NAME
from release.archive import copy_files, tracked_files, write_checksum, write_zip, zoo_entry
from release.exports import differences, export_onnx, export_torchscript
from release.model_card import model_card
from release.source import clean_commit, released_version
from scripts.errors import InputError, report_in_one_line
from scripts.files.parts import part_folder
from scripts.files.writing import check_output_dir, sha256, write_json
from scripts.provenance import software
from scripts.runs.outputs import check_apart

#: What the model zoo's own releases start with; `--base_url` says otherwise.
ZOO_STORAGE = "https://github.com/Project-MONAI/model-zoo/releases/download/hosting_storage_v1"


def build(output_dir: str = "dist", base_url: str = ZOO_STORAGE, bundle_dir: str = str(BUNDLE)) -> None:
    """Build the release of the checked-out version.

    Args:
        output_dir: where it goes; a folder that holds something already is refused.
        base_url: where the zip will be downloaded from, for its entry in model_info.json.
        bundle_dir: the bundle's folder in a git checkout.

    Raises:
        InputError: uncommitted changes in the bundle, a version that is not in the changelog, a full folder, or an
            export that does not give the network's numbers.
    """
    bundle = Path(bundle_dir)
    commit, version = clean_commit(bundle), released_version(bundle)
    check_apart({"output_dir": output_dir}, {"bundle_dir": bundle})
    output = check_output_dir(output_dir, 500e6).resolve()
    if any(output.iterdir()):
        raise InputError(f"{output}: is not empty; delete it or choose another --output_dir")
    with part_folder(output.parent) as part:  # half a release must not be taken for one
        publish(bundle, part, commit, version, base_url)
        part.rename(output)
    print(f"{output}: {NAME} {version} is ready")


def publish(bundle: Path, output: Path, commit: str, version: str, base_url: str) -> None:
    """Write the release of one commit into an empty folder."""
    stem = f"{NAME}_v{version}"
    staged, archive, onnx = output / "huggingface", output / f"{stem}.zip", output / f"{stem}.onnx"
    print("copying the bundle")
    copy_files(bundle, tracked_files(bundle), staged)
    print("exporting to TorchScript and ONNX, and comparing both with the network")
    torchscript = staged / "models" / "model.ts"
    export_torchscript(staged, torchscript)
    export_onnx(staged, onnx)
    found = differences(staged, torchscript, onnx)
    print(f"packing {archive.name}")
    write_zip(staged, NAME, archive)
    write_checksum(archive)
    write_json(output / "model_info.json", zoo_entry(archive, base_url))
    (staged / "README.md").write_text(model_card(staged))
    write_json(
        output / "release.json",
        {
            "name": NAME,
            "version": version,
            "commit": commit,
            "software": software(),
            "largest_difference_from_the_network": found,
            "sha256": {
                str(path.relative_to(output)): sha256(path) for path in sorted(output.rglob("*")) if path.is_file()
            },
        },
    )


if __name__ == "__main__":
    report_in_one_line()
    sys.argv[0] = "release"
    fire.Fire(build)
