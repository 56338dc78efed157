"""Settings as users type them: read as what each key wants, or refused in one line before any work starts."""

import contextlib
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import monai.bundle
import pytest
import torch
import yaml
from blobs import BUNDLE, REPOSITORY
from refusal import refused
from typed import typed

from scripts.settings.check import Known, check_given_once, check_order, rules
from scripts.settings.command import check_command, main, with_list
from scripts.settings.config_file import as_written, read_config
from scripts.settings.typed import flags
from scripts.settings.values import Expression, literal

CONFIGS = sorted(
    path.stem for path in (BUNDLE / "configs").glob("*.yaml") if path.stem not in ("allowed", "dicom_series")
)
OVERLAYS = {
    "calibrate": "train",
    "evaluate": "train",
    "fine_tuning": "train",
    "fl_image_level": "train",
    "fl_scan_level": "train",
    "pretrain": "train",
    "simulate_second": "simulate",
    "simulate_sites": "simulate",
    "report": "train",
    "multi_gpu_train": "train",
    "cross_validation_fold": "train",
    "contributions": "train",
    "quantities": "train",
    "reduced": "train",
    "small": "train",
    "cross_validation_small": "cross_validation",
    "reconstruct_paper": "reconstruct",
}


@pytest.mark.parametrize(
    ("config", "words", "key", "value"),
    [
        ("train", ["--swa", "false"], "swa", False),
        ("train", ["--swa=No"], "swa", False),
        ("train", ["--noswa"], "swa", False),
        ("inference", ["--include_identifiers", "false"], "include_identifiers", False),
        ("inference", ["--include_identifiers"], "include_identifiers", True),
        ("inference", ["--threshold", "0.3"], "threshold", 0.3),
        ("inference", ["--num_slices", "16.0"], "num_slices", 16),
        ("inference", ["--cropped_size", "64,64"], "spatial_size", [64, 64]),
        ("inference", ["--outputs", "json"], "outputs", ["json"]),
        ("inference", ["--leave_out", "[]"], "leave_out", []),
        ("inference", ["--maps", "r2starmap"], "maps", ["R2starmap"]),
        ("inference", ["--region", "Full"], "region", "full"),
        ("inference", ["--input", "2024"], "input", "2024"),
        ("inference", ["--input", "1_000"], "input", "1_000"),
        ("inference", ["--input", "qsm,r2s,t1"], "input", "qsm,r2s,t1"),
        ("inference", ["--output_dir", "run#1"], "run_folder#path", "run#1"),
        ("inference", ["--output-dir", "run"], "output_dir", "run"),
        ("inference", ["--dataset_dir", "in#2"], "input", "in#2"),
        ("inference", ["--input", "@home/scans"], "input", "@home/scans"),
        ("inference", ["--input", "a.nii,~root/b.nii,~/c.nii"], "input",
         f"a.nii,{os.path.expanduser('~root')}/b.nii,{Path.home()}/c.nii"),
        ("inference", ["--output_dir", "~"], "output_dir", str(Path.home())),
        ("inference", ["--participants", "~"], "participants", str(Path.home())),
        ("reconstruct", ["--magnitude", "['~/a.nii','a~/b.nii']"], "magnitude", [f"{Path.home()}/a.nii", "a~/b.nii"]),
        ("reconstruct", ["--magnitude", "[/x/a.nii.gz,b c.nii]"], "magnitude", ["/x/a.nii.gz", "b c.nii"]),
        ("reconstruct", ["--magnitude", "[[a.nii,b-2.nii],[c.nii]]"], "magnitude", [["a.nii", "b-2.nii"], ["c.nii"]]),
        ("inference", ["--input", "(/x/a.nii,b.nii,c.nii)"], "input", ["/x/a.nii", "b.nii", "c.nii"]),
        ("ensemble", ["--members", "[/x/a.pt,/y/b.pt]"], "members", ["/x/a.pt", "/y/b.pt"]),
        ("compare", ["--models", "[Q-Net,ResNet]"], "models", ["Q-Net", "ResNet"]),
        ("compare", ["--runs", "{ours: /x/y-z}"], "runs", {"ours": "/x/y-z"}),
        ("cross_validation", ["--regions", "[cropped]"], "regions", ["cropped"]),
        ("train", ["--maps", "[Chimap]"], "maps", ["Chimap"]),
        ("train", ["--chimap_window", "-0.1,0.3"], "chimap_window", [-0.1, 0.3]),
        ("inference", ["--cropped_size", "'[64,32]'"], "spatial_size", [64, 32]),
        ("inference", ["--threshold", "\u201c0.3\u201d"], "threshold", 0.3),
        ("inference", ["--threshold", "\u00a00.3 "], "threshold", 0.3),
        ("inference", ["--output_dir", " 'my results' "], "output_dir", "my results"),
        ("inference", ["--input=-scans"], "input", "-scans"),
        ("inference", ["--device", "CPU"], "device", torch.device("cpu")),
        ("inference", ["--box", "[[1,2],[3,4],[5,6]]"], "box", [[1, 2], [3, 4], [5, 6]]),
        ("inference", ["--threshold", "$1/4"], "threshold", 0.25),
        ("inference", ["--device", "cpu"], "device", torch.device("cpu")),
        ("train", ["--imagenet_weights", "None"], "imagenet_weights", "none"),
        ("train", ["--image_learning_rate", "3e-5"], "image_learning_rate", 3e-5),
        ("train", ["--augment#rotate_limit", "22.5"], "augment#rotate_limit", 22.5),
        ("train", ["--val_datalist", "$[5]"], "val_datalist", [5]),
        ("cross_validation", ["--training#swa", "no", "--training#image_epochs", "5.0"], "training",
         {"augment": {}, "swa": False, "image_epochs": 5}),
        ("cross_validation", ["--training#augment#rotate_limit", "9"], "training", {"augment": {"rotate_limit": 9}}),
        ("cross_validation", ["--training", "{'augment': {'rotate_limit': '9'}}"], "training",
         {"augment#rotate_limit": 9}),
        ("cross_validation", ["--training", "{'template': '/a#b'}"], "training", {"template": "/a#b"}),
        ("cross_validation", ["--regions", "cropped"], "regions", ["cropped"]),
        ("analyse", ["--simulated", "false"], "simulated", False),
        ("analyse", ["--simulated", "null"], "simulated", None),
        ("reconstruct", ["--mask#phase_quality", "None"], "mask#phase_quality", None),
        ("reconstruct", ["--inversion#radii_mm", "[8,4,2]"], "inversion#radii_mm", [8, 4, 2]),
        ("reconstruct", ["--participant_id", "007"], "participant_id", "007"),
        ("simulate", ["--sizes#small#hh", "3.0"], "sizes#small#hh", 3),
        ("simulate", ["--size", "mine", "--sizes", "{'mine': {'hh': 3, 'hc': 3, 'men': 2, 'matrix': [9,9,9],"
                      " 'spacing_mm': [1,1,1]}}"], "size", "mine"),
        ("simulate_raw", ["--sequence#dephasing", "off"], "sequence#dephasing", False),
        ("nuclei", ["--pictures", "FALSE"], "pictures", False),
    ],
)  # fmt: skip
def test_words_are_read_as_their_key_wants(config, words, key, value, tmp_path):
    found = typed(tmp_path, config, *words, key=key)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("config", "words", "said"),
    [
        ("inference", ["--threshold", "0,5"], ["--threshold 0,5", "decimal point"]),
        ("inference", ["--threshold", "half"], ["--threshold half", "0 to 1"]),
        ("inference", ["--threshold", "nan"], ["nan"]),
        ("inference", ["--threshold", "1.5"], ["0 to 1"]),
        ("inference", ["--threshold", "[0.5]"], ["--threshold [0.5]"]),
        ("inference", ["--threshold"], ["has no value"]),
        ("inference", ["--threshold", "$2"], ["--threshold $2", "gives 2"]),
        ("inference", ["--treshold", "0.9"], ["--treshold", "did you mean --threshold?"]),
        ("inference", ["--THRESHOLD", "0.9"], ["--THRESHOLD", "did you mean --threshold?"]),
        ("train", ["--no-swa"], ["--no-swa", "did you mean --noswa?"]),
        ("train", ["--epochs", "5"], ["did you mean --scan_epochs or --image_epochs?"]),
        ("inference", ["--output", "x"], ["did you mean --output_dir or --outputs?"]),
        ("inference", ["\u2014threshold", "0.7"], ["did you mean --threshold?"]),
        ("localise", ["--output_dir", "~no_such_user/x"], ["--output_dir ~no_such_user/x", "'no_such_user'"]),
        ("inference", ["--localise", "false"], ["--localise false", "auto, annotated, whole or full"]),
        ("inference", ["--localise", "7"], ["--localise 7", "auto, annotated, whole or full"]),
        ("simulate_dicom", ["--slab", "7"], ["--slab 7", "whole or basalganglia"]),
        ("inference", ["--num_slices", "16.5"], ["--num_slices 16.5", "whole number"]),
        ("inference", ["--num_slices", "true"], ["--num_slices true"]),
        ("inference", ["--include_identifiers", "maybe"], ["true or false"]),
        ("inference", ["--cropped_size", "64"], ["list of 2"]),
        ("inference", ["--outputs", "[json,pdf]"], ["pdf", "parametric_map"]),
        ("inference", ["--box", "[[5,2],[3,4],[5,6]]"], ["--box", "rising"]),
        ("inference", ["--thre\u0455hold", "0.3"], ["'\\u0455'", "did you mean --threshold?"]),
        ("inference", ["--input", "-scans"], ["--input: has no value", "--input=-scans"]),
        ("inference", ["--device", "Cuda:9"], ["--device Cuda:9", "cpu or a GPU"]),
        ("inference", ["--threshold", "50%"], ["--threshold 50%", "number alone"]),
        ("train", ["--image_epochs", "1'000"], ["--image_epochs 1'000", "number alone"]),
        ("inference", ["--cropped_size", "64x64"], ["--cropped_size 64x64", "commas between"]),
        ("reconstruct", ["--inversion#radii_mm", "8 4"], ["--inversion#radii_mm 8 4", "commas between"]),
        ("reconstruct", ["--magnitude", "[a.nii,b.nii"], ["--magnitude [a.nii,b.nii", "do not close"]),
        ("inference", ["--leave_out", "[T1w,Chimap,R2starmap]"], ["--leave_out [T1w,Chimap,R2starmap]", "at most 2"]),
        ("inference", ["--input", "file:///data/x"], ["--input file:///data/x", "address"]),
        ("inference", ["--output_dir", "s3://bucket/x"], ["--output_dir s3://bucket/x", "address"]),
        ("inference", ["--output_dir", "C:\\out"], ["--output_dir C:\\out", "Windows"]),
        ("inference", ["--input", "..\\scans"], ["--input ..\\scans", "Windows"]),
        ("inference", ["--input", "$HOME/scans"], ["--input $HOME/scans", "variables of the shell"]),
        ("inference", ["--output_dir", "/data/$HOME/x"], ["--output_dir /data/$HOME/x", "variables of the shell"]),
        ("inference", ["--handlers", "[]"], ["--handlers []", "nothing to do"]),
        ("inference", ["--output_dir", "@output_dir"], ["--output_dir: stands for itself"]),
        ("train", ["--+augment", "{'rotate_limit': 3}"], ["--+augment", "--augment#KEY VALUE"]),
        ("train", ["--augment#gamma_limit", "[1.2,0.8]"], ["--augment#gamma_limit [1.2,0.8]", "rising"]),
        ("train", ["--chimap_window", "[0.3,-0.1]"], ["--chimap_window [0.3,-0.1]", "rising"]),
        ("inference", ["--box", "[1,2]"], ["[[i0,i1],[j0,j1],[k0,k1]]"]),
        ("inference", ["--weights", "None"], ["--weights"]),
        ("inference", ["--input", "$data/x"], ["--input $data/x", "./$"]),
        ("inference", ["--input", "@nobody"], ["nobody"]),
        ("inference", ["--input", "$'a#b'"], ["#"]),
        ("inference", ["--device", "cuda:9"], ["cuda:9"]),
        ("inference", ["--network_def#hiden_size", "9"], ["--network_def#hidden_size?"]),
        ("inference", ["--writer#run", "x"], ["--writer#run x"]),
        ("inference", ["--scans", "5"], ["--scans 5", "computed"]),
        ("inference", ["--bundle_root", "models"], ["--bundle_root", "configs"]),
        ("train", ["--image_epochs", "ten"], ["--image_epochs ten"]),
        ("train", ["--image_epochs", "0"], ["--image_epochs 0", "1 to 100000"]),
        ("train", ["--scan_epochs", "0"], ["--scan_epochs 0", "1 to 100000"]),
        ("inference", ["--evidence_steps", "1000000000"], ["--evidence_steps 1000000000", "1 to 1000"]),
        ("analyse", ["--bootstrap_samples", "1e9"], ["--bootstrap_samples 1e9", "100 to 1000000"]),
        ("train", ["--train#trainer#max_epochs", "ten"], ["--train#trainer#max_epochs ten"]),
        ("inference", ["--postprocessing#transforms#0#threshold", "0.3"], ["0#threshold", "give threshold"]),
        ("cross_validation", ["--training", "{network_input: {region: full}}"], ["network_input is computed"]),
        ("train", ["--train#trainer#max_epcohs", "3"], ["--train#trainer#max_epochs?"]),
        ("train", ["--rotate_limit", "9"], ["--augment#rotate_limit"]),
        ("cross_validation", ["--training#rotate_limit", "9"], ["--training#augment#rotate_limit"]),
        ("cross_validation", ["--training#augment#rotate_limit", "181"], ["rotate_limit 181", "180"]),
        ("train", ["--augment#horizontal_flip_prob", "2"], ["--augment#horizontal_flip_prob 2", "0 to 1"]),
        ("train,evaluate", ["--repeat", "-1"], ["--repeat -1"]),
        ("train,report", ["--exampels", "2"], ["--examples?"]),
        ("cross_validation", ["--training#image_epochs", "ten"], ["--training#image_epochs ten"]),
        ("cross_validation", ["--training#image_epoch", "5"], ["--training#image_epochs?"]),
        ("cross_validation", ["--image_epochs", "5"], ["--training#image_epochs"]),
        ("cross_validation", ["--training", "{image_epochs: ten}"], ["--training#image_epochs ten"]),
        ("cross_validation", ["--training#val_datalist", "$@cohort"], ["--training#val_datalist", "overlay"]),
        ("cross_validation", ["--analysis#bootstrap_samples", "5"], ["--analysis#bootstrap_samples 5", "100"]),
        ("cross_validation", ["--engine", "slurm"], ["local or ray"]),
        ("analyse", ["--bootstrap_sample", "500"], ["--bootstrap_samples?"]),
        ("reconstruct", ["--inversion#itertions", "3"], ["--inversion#iterations?"]),
        ("reconstruct", ["--inversion#iterations", "3.5"], ["--inversion#iterations 3.5"]),
        ("reconstruct", ["--inversion#_target_", "scripts.reconstruction.inversion.TKD"], ["takes no radii_mm"]),
        ("reconstruct", ["--background", "SHARP"], ["--background SHARP", "_target_"]),
        ("reconstruct", ["--background", "{_target_: scripts.reconstruction.background.SHARP}"], ["needs radius_mm"]),
        ("reconstruct", ["--background", "{_target_: scripts.reconstruction.background.Pdf}"], ["background.PDF?"]),
        ("reconstruct", ["--background", "{_target_: nothing.here}"], ["nothing is called nothing.here"]),
        ("reconstruct", ["--background", "{_target_: json}"], ["no class or function is json"]),
        ("reconstruct", ["--background", "{_target_: }"], ["nothing is called ''"]),
        ("reconstruct", ["--background", "{_target_: 5}"], ["nothing is called 5"]),
        ("reconstruct", ["--background", "{_target_: scripts.reconstruction.background.VSHARP, radii_mm: [a],"
         " threshold: 0.05, harmonic_degree: 0, pad_mm: 8}"], ["--background", "cannot be made", "'a'"]),
        ("reconstruct", ["--echo_times_s", "[0.004,ms]"], ["--echo_times_s"]),
        ("simulate", ["--size", "big"], ["small or paper"]),
        ("simulate", ["--latents#head", "{'mean': 0}"], ["lacks sd"]),
        ("simulate", ["--texture#lenght_mm", "1"], ["--texture#length_mm?"]),
        ("simulate_raw", ["--sequence#flip_angles_deg", "[6,24.5]"], ["whole number"]),
        ("simulate_dicom", ["--style", "toshiba"], ["philips"]),
        ("localise", ["--annotated_too", "perhaps"], ["true or false"]),
        ("nuclei", ["--core", "1"], ["below 1"]),
        ("train", ["--stretch_percentiles", "[99,1]"], ["--stretch_percentiles [99,1]", "rising"]),
        ("cross_validation", ["--training#stretch_percentiles", "5,5"], ["5,5", "rising"]),
        ("cross_validation", ["--training#largest_file", "0 GB"], ["--training#largest_file 0 GB", "MB"]),
        ("inference", ["--evidence_smoothing", "8"], ["--evidence_smoothing 8", "odd"]),
        ("inference", ["--settings#threshold", "0.3"], ["--settings#threshold", "computed", "give threshold"]),
        ("inference", ["--num_threads", "1000000"], ["--num_threads 1000000", "1024"]),
        ("inference", ["--box", "[[-5,2],[3,4],[5,6]]"], ["--box"]),
        ("inference", ["--output_dir", "x" * 300], ["--output_dir", "255 bytes"]),
        ("inference", ["--input", "a," + "\u00fc" * 130], ["--input", "255 bytes"]),
        ("template", ["--spacing_mm", "2mm"], ["--spacing_mm 2mm"]),
    ],
)  # fmt: skip
def test_what_a_key_cannot_be_is_refused_in_one_line(config, words, said, tmp_path):
    with refused(*said):
        typed(tmp_path, config, *words)


def bomb(form: str) -> bytes:
    """A short YAML text whose aliases stand for nine times as much on each line, ten lines long."""
    lines = ["a0: &a0 {seed: 3}"] + [f"a{n}: &a{n} {form.format(', '.join([f'*a{n - 1}'] * 9))}" for n in range(1, 10)]
    return "\n".join(lines).encode()


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (["--trian#seed", "1"], KeyError),
        (["--input", "%nobody"], KeyError),
        (["--preprocessing#transforms#99#keys", "x"], IndexError),
        (["--threshold#x", "3"], ValueError),
        (["--imports", "os"], NameError),
    ],
)
def test_what_monai_refuses_before_the_bundle_is_asked_is_what_the_docs_say(words, kind, tmp_path):
    pages = (REPOSITORY / "docs" / "how_to" / "settings.md").read_text()
    with pytest.raises((kind, RuntimeError)) as caught:
        typed(tmp_path, "inference", *words)
    error = caught.value if isinstance(caught.value, kind) else caught.value.__cause__
    shape = re.sub(r"'(?!scripts)(query key: )?\w+'", lambda found: f"'{found[1] or ''}X'", str(error))
    assert f"`{kind.__name__}: {shape}`" in pages


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--maps#5", "T1map"], ["--maps#5", "numbered 0 to 2", "--maps"]),
        (["--validate#handlers#99#x", "3"], ["--validate#handlers#99#x", "none, for it is empty"]),
        (["--train#handlers#2#x#y", "3"], ["--train#handlers#2#x#y", "no key x"]),
        (["--seed#x", "3"], ["seed holds one value"]),
        (["--trian#seed", "1"], ["no key trian", "train?"]),
        (["--dataset_dir", "%nobody"], ["--dataset_dir %nobody"]),
        (["--imports", "os"], ["--imports"]),
        (["--seed#0", "3"], ["seed holds one value"]),
        (["run:trainin"], ["run trainin", "training?"]),
        (["run:seed"], ["run seed", "no steps to run alone"]),
        (["run:imports"], ["run imports", "no steps to run alone"]),
        (["run:prepare"], ["run prepare", "no steps to run alone"]),
        (["run:finalize"], ["run finalize", "no steps to run alone"]),
        (["run:stage_1"], ["run stage_1", "no steps to run alone"]),
        (["training"], ["'training' stands behind run training", "quotes"]),
        (["\u2013seed", "3"], ["'\u2013seed' stands behind", "--seed?"]),
        (["--tracking", "wandb"], ["--tracking wandb", "mlflow", "track_tensorboard.yaml"]),
        (["--tracking", "no.yaml"], ["--tracking no.yaml", "nor a file"]),
        (["--tracking", "configs/small.yaml"], ["--tracking configs/small.yaml", "handlers_id"]),
        (["--logging_file", "no.conf"], ["--logging_file no.conf", "no such file"]),
        (["--logging_file", "configs/small.yaml"], ["--logging_file configs/small.yaml", "logging"]),
        (["--meta_file", "configs/small.yaml"], ["--meta_file", "small.yaml", "no metadata of a bundle"]),
        (["--meta_file", "models/model.pt"], ["models/model.pt", "a config's name ends in"]),
        (["--meta_file", "no.json"], ["--meta_file no.json", "no such file"]),
        (["--workflow_type", "banana"], ["--workflow_type banana", "training"]),
        (["file:absent.yaml"], ["absent.yaml: no such file"]),
        (["file:a.yaml", "augment:\n\tseed: 3\n"], ["a.yaml: line 2: a tab"]),
        (["file:a.json", '{"seed": 3,}'], ["a.json: line 1"]),
        (["file:a.yaml", ""], ["a.yaml: is empty"]),
        (["file:a.yaml", "- seed: 3\n"], ["a.yaml: is no mapping"]),
        (["file:a.yaml", "'': 4\n"], ["a.yaml", "key without a name"]),
        (["file:a.yaml", "3: 4\n"], ["a.yaml: key 3 is no text"]),
        (["file:a.yaml", "+seed: {a: 1}\n"], ["laid over each other"]),
        (["file:a.yaml", "nobody#x: 1\n"], ["laid over each other", "nobody", "before it"]),
        (
            ["alone:configs/quantities.yaml"],
            ["quantities.yaml: is laid over train.yaml or inference.yaml"],
        ),
        (["file:a.yaml", "imports: [$import os]\n"], ["a.yaml: imports", "+imports"]),
        (["file:a.yaml", "seed: '%nope'\n"], ["a.yaml: seed %nope: no key nope"]),
        (["file:a.yaml", "augment#padding_mode: '%nope.yaml::x'\n"], ["nope.yaml: no such file"]),
        (["file:a.yaml", "seed: '%configs/small.yaml::x'\n"], ["a.yaml: seed", "no key x in configs/small.yaml"]),
        (["--seed", "%configs/small.yaml::x"], ["--seed %configs/small.yaml::x: no key x in configs/small.yaml"]),
        (["file:a.yaml", "training: []\n"], ["run training", "no steps"]),
        (["file:a.yaml", "training: hello\n"], ["run training", "no steps"]),
        (["--seed", "1", "--", "--fold", "2"], ["-- stands alone"]),
        (["--seed", "1", "-", "--fold", "2"], ["- stands alone"]),
    ],
)
def test_what_monai_would_refuse_with_a_traceback_is_told_in_one_line_by_our_command(words, said, tmp_path):
    files, run_id, more = ["configs/train.yaml"], "training", list(words)
    if words[0].startswith("file:"):
        files, more = [*files, str(tmp_path / words[0][5:])], []
        if len(words) > 1:
            Path(files[1]).write_text(words[1])
    if words[0].startswith("alone:"):
        files, more = [words[0][6:]], []
    if words[0].startswith("run:"):
        run_id, more = words[0][4:], []
    with contextlib.chdir(BUNDLE), refused(*said):
        check_command(["run", run_id, "--config_file", str(files), *more])


@pytest.mark.parametrize(
    ("base", "overlay", "right"),
    [
        ("inference", "pretrain", "train"),
        ("simulate", "pretrain", "train"),
        ("reconstruct", "quantities", "train"),
        ("inference", "reconstruct_paper", "reconstruct"),
        ("cross_validation", "small", "train"),
        ("train", "simulate_sites", "simulate"),
    ],
)
def test_an_overlay_of_ours_over_another_config_is_told_which_one_it_is_laid_over(base, overlay, right, tmp_path):
    said = f"configs/{overlay}.yaml: is laid over {right}.yaml", f"['configs/{right}.yaml','"
    with contextlib.chdir(BUNDLE), refused(*said):
        check_command(["run", "--config_file", f"['configs/{base}.yaml','configs/{overlay}.yaml']"])
    if overlay != "pretrain":  # whose keys go into parts of train.yaml, so that MONAI asks nobody
        with refused(f"{overlay}.yaml: is laid over {right}.yaml"):
            typed(tmp_path, f"{base},{overlay}")


def test_an_overlay_may_stand_on_a_config_of_the_users(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text((BUNDLE / "configs" / "train.yaml").read_text())
    check_order({str(mine): as_written(mine), "quantities.yaml": as_written(BUNDLE / "configs" / "quantities.yaml")})


def test_steps_that_a_file_took_away_are_named_by_our_command(tmp_path):
    mine = write(tmp_path / "mine.yaml", "run: []\n")
    with contextlib.chdir(BUNDLE), refused("run run: has no steps left", "mine.yaml"):
        check_command(["run", "--config_file", f"['configs/inference.yaml','{mine}']", "--input", "x"])


@pytest.mark.parametrize(
    ("base", "overlay"),
    [("train", "quantities"), ("inference", "small"), ("reconstruct", "reconstruct_paper")],
)
def test_a_config_behind_what_is_laid_over_it_is_refused(base, overlay, tmp_path):
    with refused(f"{base}.yaml is a whole config", f"{overlay}.yaml", "name it first"):
        typed(tmp_path, f"{overlay},{base}")
    mine = write(tmp_path / "mine.yaml", "seed: 3\n")
    with contextlib.chdir(BUNDLE), refused(f"configs/{base}.yaml is a whole config", mine):
        check_command(["run", "--config_file", f"['{mine}','configs/{base}.yaml']"])


def test_what_is_right_goes_on_to_monai_as_it_was_typed(tmp_path, monkeypatch):
    overlay = write(tmp_path / "mine.yaml", "image_epochs: ten\n")  # which MONAI takes, and the bundle refuses
    words = ["run", "training", "--config_file", f"['configs/train.yaml','{overlay}']", "--swa", "no"]
    monkeypatch.setattr(sys, "argv", ["command", *words])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.chdir(BUNDLE)
    with refused("mine.yaml: image_epochs ten"):
        main()
    check_command(["run", "fine_tune", "--config_file", "configs/train.yaml", "--train#dataset#data", "x"])
    check_command(["download", "--name", "x"])
    check_command(["run", "--help"])
    monkeypatch.setattr(sys, "argv", ["command", "run", "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0


@pytest.mark.parametrize(
    "typed",
    ["A,B", "[A,B]", "['A','B']", "['A', 'B']", '("A", "B")', "[A, B]"],
)
def test_config_files_are_a_list_however_they_are_typed(typed):
    one, two = "configs/train.yaml", "configs/small.yaml"
    word = typed.replace("A", one).replace("B", two)
    wanted = ["run", "training", "--config_file", f"['{one}', '{two}']", "--seed", "1"]
    with contextlib.chdir(BUNDLE):
        check_command([*wanted[:3], word, *wanted[4:]])
    assert with_list([*wanted[:3], word, *wanted[4:]]) == wanted
    assert with_list(["run", f"--config_file={word}"]) == ["run", f"--config_file={wanted[3]}"]
    single = ["run", "--config_file", one, "--maps", "[a,b]"]
    assert with_list(single) == single


@pytest.mark.parametrize(
    ("content", "kind", "said"),
    [
        ("# nothing\n", AttributeError, "'NoneType' object has no attribute 'items'"),
        ("output_dir: é\n", UnicodeDecodeError, "'utf-8' codec can't decode byte "),
        ("augment:\n\tseed: 3\n", yaml.YAMLError, "found character '\\t' that cannot start any token"),
        ("+augment: 3\n", ValueError, "config must be dict or list for key "),
    ],
)
def test_what_monai_says_of_a_file_is_what_the_docs_say(content, kind, said, tmp_path):
    (tmp_path / "mine.yaml").write_bytes(content.encode("latin-1"))
    with pytest.raises(kind) as caught:
        typed(tmp_path, f"train,{tmp_path / 'mine.yaml'}")
    assert said in str(caught.value)
    assert said in (REPOSITORY / "docs" / "how_to" / "settings.md").read_text()


def test_an_overlay_is_read_like_the_command_line(tmp_path):
    overlay = write(
        tmp_path / "mine.yaml", "image_learning_rate: 3e-4\noutput_dir: /a/run#1\nhelper: 3\nfold: '@helper'\n"
    )
    assert typed(tmp_path, f"train,{overlay}", key="image_learning_rate") == 3e-4
    assert typed(tmp_path, f"train,{overlay}", key="output_dir") == "/a/run#1"
    assert typed(tmp_path, f"train,{overlay}", key="fold") == 3


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("output_dir: 2024-05-01", "output_dir", "2024-05-01"),
        ("output_dir: 2024-05-01 12:30:00", "output_dir", "2024-05-01 12:30:00"),
        ("output_dir: off", "output_dir", "off"),
        ("output_dir: 1.50", "output_dir", "1.50"),
        ("output_dir: 007", "output_dir", "007"),
        ("swa: off", "swa", False),
        ("image_epochs: 017", "image_epochs", 17),
        ("image_learning_rate: 1e-3", "image_learning_rate", 1e-3),
        ("augment#gamma_limit: [0.5, 02.0]", "augment#gamma_limit", [0.5, 2]),
    ],
)
def test_what_yaml_takes_for_something_else_is_read_as_it_is_written(text, key, value, tmp_path):
    overlay = write(tmp_path / "mine.yaml", text + "\n")
    assert typed(tmp_path, f"train,{overlay}", key=key) == value
    arguments = write(tmp_path / "args.yaml", "output_dir: 2024-05-01\n")
    assert typed(tmp_path, "train", "--args_file", str(arguments), key="output_dir") == "2024-05-01"


def test_code_in_an_overlay_stays_code(tmp_path):
    step = {"_target_": "DataLoader", "dataset": "$[@bundle_root]", "num_workers": 0}
    overlay = write(
        tmp_path / "mine.json",
        json.dumps({"dataloader": step, "threshold": "1e-1", "run": ["$@network_def#num_slices"]}),
    )
    assert typed(tmp_path, f"inference,{overlay}", key="dataloader").dataset == ["."]
    overlay.write_text(json.dumps({"prepare": ["%checks"], "checks": ["$7"], "num_folds": "3"}))
    assert typed(tmp_path, f"train,{overlay}", key="prepare") == [[7]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image_epoch: 3\n", "image_epoch: no such key in train.yaml; did you mean mine.yaml: image_epochs?"),
        ("image_epochs: ten\n", "image_epochs ten; give a whole number 1 to 100000"),
        ("image#trainer:\n  _target_: Nothing\n", "image#trainer"),
        ("+augment: {rotate_limt: 10}\n", "+augment#rotate_limt: no such key in augment; did you mean"),
        ("+augment: {rotate_limit: 1000}\n", "+augment#rotate_limit 1000; give a number 0 to 180"),
        ("+augmnt: {rotate_limit: 10}\n", "did you mean mine.yaml: +augment?"),
        ("+cropped_size: [3]\n", "+cropped_size [128, 128, 3]; give a list of 2"),
        ("+train#handlers: [{_target_: CheckpointSaver, savedir: x}]\n", "did you mean save_dir?"),
        ("train#handlers: []\n", "train#handlers []: leaves nothing to do"),
        ("a: '@a'\nfold: '@a'\n", "a: stands for itself (a -> a)"),
        ("output_dir: $@ckpt_dir + '/x'\nckpt_dir: '@output_dir'\n", "(output_dir -> ckpt_dir -> output_dir)"),
        ("output_dir: '@nobody'\n", "output_dir @nobody: no key nobody"),
        ("output_dir: $1 +\n", "output_dir $1 +: invalid syntax"),
        ("fold: 1\nseed: 3\nfold: 2\n", "fold is there twice"),
        ("image_epochs: 12:30:00\n", "image_epochs 12:30:00: write the number alone"),
        ("image_epochs: 0x10\n", "image_epochs 0x10: write the number alone"),
        ("image_epochs: yes\n", "image_epochs yes; give a whole number"),
        ("swa: 2024-05-01\n", "swa 2024-05-01; give true or false"),
        ("localise: off\n", "localise off; give auto"),
        ("output_dir: $HOME/x\n", "variables of the shell"),
        (
            "train#keys#scan_epochs: 3\n",
            "train#keys is computed from other keys, and tells what they are; give scan_ep",
        ),
        ("network_input: {region: full}\n", "network_input is computed"),
        ("+resume_keys: {seed: 3}\n", "resume_keys is computed from other keys, and tells what they are; give seed"),
    ],
)
def test_a_fault_in_an_overlay_names_file_and_key(text, said, tmp_path):
    overlay = write(tmp_path / "mine.yaml", text)
    with refused("mine.yaml: ", said):
        typed(tmp_path, f"train,{overlay}")


def test_what_an_overlay_adds_to_a_key_is_read_as_that_key_wants(tmp_path):
    overlay = write(tmp_path / "mine.yaml", "+augment: {rotate_limit: '10'}\n+maps: [t1map]\n")
    assert typed(tmp_path, f"train,{overlay}", key="augment#rotate_limit") == 10
    assert typed(tmp_path, f"train,{overlay}", key="maps")[-1] == "T1map"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.yaml", b"seed: 3\naugment:\n\trotate_limit: 4\n", "line 3: a tab; indent with spaces"),
        ("a.yaml", b"# nothing yet\n", "is empty"),
        ("a.yaml", b"- seed: 3\n", "no mapping"),
        ("a.yaml", b"seed\n", "no mapping"),
        ("a.yaml", b"3: seed\n", "key 3 is no text"),
        ("a.yaml", "seed: 3\n".encode("utf-16"), "save the file as UTF-8"),
        ("a.yaml", "seed: 3\noutput_dir: Müller\n".encode("latin-1"), "line 2 is not text in UTF-8"),
        ("a.yaml", b"seed: 3\noutput_dir: @ckpt_dir\n", "line 2: found character '@' that cannot start any token"),
        ("a.yaml", b"seed: 3\n  fold: 1\n", "line 2: mapping values are not allowed here"),
        ("a.yaml", b"seed: 3\nfold: \x07\n", "line 2: the character #x0007"),
        ("a.yaml", b"seed: 3\n---\nfold: 1\n", "line 2: "),
        ("a.json", b'{"seed": 3,\n}', "line "),
        ("a.json", b'{"seed": 3, "seed": 4}', "seed is there twice"),
        ("a.txt", b"seed: 3\n", ".yaml"),
        ("a.yaml", None, "no such file"),
        ("a", None, "ends in .yaml"),
        ("a.yaml", b"seed: &s [*s]\n", "within its own anchor"),
        ("a.yaml", b"? [a]\n: 3\n", "line 1: a list or mapping stands where a key must be"),
        ("a.yaml", bomb("[{}]"), "more than 100000 values"),
        ("a.yaml", bomb("{{<<: [{}]}}"), "more than 100000 values"),
        ("a.yaml", b"seed: " + b"[" * 3000 + b"]" * 3000, "nested too deeply"),
        ("a.json", b'{"seed": ' + b"[" * 700 + b"]" * 700 + b"}", "nested too deeply"),
    ],
)
def test_a_file_that_is_no_config_is_refused_with_its_line(name, content, said, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with refused(tmp_path / name, said):
        read_config(tmp_path / name)


def test_a_copy_of_a_config_goes_by_the_same_rules(tmp_path):
    shutil.copy(BUNDLE / "configs" / "inference.yaml", tmp_path / "our_site.yaml")
    with refused("--threshold 7", "0 to 1"):
        typed(tmp_path, str(tmp_path / "our_site.yaml"), "--threshold", "7")
    text = (tmp_path / "our_site.yaml").read_text().replace("weights: $@", "weights: 2024-05-01 # ")
    copy = write(tmp_path / "our_site.yaml", text)
    assert typed(tmp_path, str(copy), key="weights") == "2024-05-01"


def test_an_args_file_is_read_like_the_command_line(tmp_path):
    arguments = write(tmp_path / "args.json", json.dumps({"swa": "false", "output_dir": "/a/run#1", "fold": "two"}))
    assert typed(tmp_path, "train", "--args_file", str(arguments), "--fold", "2", key="output_dir") == "/a/run#1"
    with refused("args.json: fold two"):
        typed(tmp_path, "train", "--args_file", str(arguments))


def test_a_path_that_counts_from_another_folder_is_told_with_the_whole_one(tmp_path, monkeypatch):
    (tmp_path / "before" / "cohort").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("OLDPWD", str(tmp_path / "before"))
    said = [tmp_path / "here", tmp_path / "before" / "cohort"]
    for words in (["--dataset_dir", "cohort"], ["--participants", "cohort"]):
        with refused(words[0], *said):
            typed(tmp_path, "inference", *words, here=tmp_path / "here")
    with refused("--input cohort,b,c", *said):
        typed(tmp_path, "inference", "--input", "cohort,b,c", here=tmp_path / "here")
    with refused("--members", *said):
        typed(tmp_path, "ensemble", "--members", "[a.pt,cohort]", here=tmp_path / "here")
    overlay = write(tmp_path / "mine.yaml", "weights: bundle/LICENSE\n")  # from the repository's root
    with refused("mine.yaml: weights bundle/LICENSE", BUNDLE / "LICENSE"):
        typed(tmp_path, f"inference,{overlay}", here=tmp_path / "here")
    # an output is made where the path says
    assert typed(tmp_path, "inference", "--output_dir", "cohort", here=tmp_path / "here", key="output_dir") == "cohort"


@pytest.mark.parametrize("steps", ["[]", "hello", "{a: 1}"])
def test_a_run_without_steps_does_not_pass_for_one_that_was_done(steps, tmp_path, monkeypatch):
    overlay = write(tmp_path / "mine.yaml", f"run: {steps}\n")
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.chdir(BUNDLE)
    with refused("run run", "nothing was done"):
        monai.bundle.run(config_file=["configs/compare.yaml", str(overlay)], logging_file=False)


def test_steps_that_are_lists_of_other_keys_count(tmp_path, monkeypatch, capsys):
    overlay = write(tmp_path / "mine.yaml", "training: ['%tell']\n")
    monkeypatch.chdir(BUNDLE)
    monai.bundle.run("training", config_file=["configs/train.yaml", str(overlay)], logging_file=False)
    assert "trained; the weights" in capsys.readouterr().out


def test_a_call_from_python_is_read_too(monkeypatch):
    monkeypatch.chdir(BUNDLE)
    with refused("--image_epochs ten"):
        monai.bundle.run("prepare", config_file="configs/train.yaml", logging_file=False, image_epochs="ten")


def test_the_bundle_is_found_from_anywhere(tmp_path):
    weights = typed(tmp_path, "inference", key="weights", here=tmp_path)
    assert (tmp_path / weights).samefile(BUNDLE / "models" / "model.pt")


def test_a_word_too_many_is_not_passed_over(tmp_path):
    with refused("init_id", "64]"):
        typed(tmp_path, "inference", "64]")


def test_flags_are_found_as_fire_finds_them():
    found = flags(["training", "--a", "1", "--b=x=y", "--c", "--nod", "-e", "-5", "--f-g", "h"])
    assert {key: given.value for key, given in found.items()} == {
        "a": "1", "b": "x=y", "c": True, "d": False, "e": "-5", "f_g": "h",
    }  # fmt: skip
    assert found["f_g"].label == "--f-g"


@pytest.mark.parametrize("text", ["a#b", "$a", "@a", "%a", "it's #1 @home", 'a"#\\'])
def test_a_text_comes_through_monai_as_it_stands(text):
    parser = monai.bundle.ConfigParser({"top": literal(text), "in": {"list": literal([text, 1])}})
    assert parser.get_parsed_content("top") == text
    assert parser.get_parsed_content("in") == {"list": [text, 1]}


# --- the table of rules ------------------------------------------------------------------------------------------


def files(config: str) -> list[str]:
    names = [OVERLAYS[config], config] if config in OVERLAYS else [config]
    return [str(BUNDLE / "configs" / f"{name}.yaml") for name in names]


def leaves(node: Any, parts: tuple[str, ...] = ()) -> Iterator[tuple[list[str], Any]]:
    if isinstance(node, Mapping) and "_target_" not in node:
        for key, value in node.items():
            yield from leaves(value, (*parts, *str(key).replace("::", "#").split("#")))
    else:
        yield list(parts), node


@pytest.mark.parametrize("config", CONFIGS)
def test_every_default_is_what_its_own_rule_allows(config):
    known = Known(files(config))
    for parts, default in leaves(known.base):
        found = known.checked(parts, default, "#".join(parts))
        assert found == default or isinstance(found, Expression)


@pytest.mark.parametrize("config", CONFIGS)
def test_every_key_that_may_be_empty_has_a_rule(config):
    known = Known(files(config))
    assert [key for key, value in known.base.items() if value is None and known.rule([key]) is None] == []


def test_every_rule_belongs_to_a_key():
    everything = {config: Known(files(config)) for config in CONFIGS}
    tracking = {"experiment_name", "run_name", "tracking_uri"}
    for section, table in rules().items():
        configs = list(everything.values()) if section == "everywhere" else [everything[section]]
        for key in table:
            first = key.split("#")[0]
            assert first in tracking or any(first in known.base for known in configs), f"{section}: {key}"


def test_whole_numbers_end_where_the_libraries_do():
    known = Known(files("train"))
    torch.Generator().manual_seed(known.checked(["seed"], "4294967295", "seed"))
    for value in ("4294967296", "1e400", math.inf, 10**30):
        with refused("seed"):
            known.checked(["seed"], value, "seed")


def test_of_many_processes_the_first_alone_says_it(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit, match="1"):
        typed(tmp_path, "inference", "--threshold", "0,5")


def test_rules_are_no_config_of_the_bundle():
    assert yaml.safe_load((BUNDLE / "configs" / "allowed.yaml").read_text()).keys() <= {"everywhere", *CONFIGS}


def test_a_key_that_is_given_twice_is_refused():
    check_given_once(["run", "--input", "a", "--input#b=1"])
    with refused("--threshold", "twice"):
        check_given_once(["run", "--threshold", "0.3", "--threshold=0.7"])


@pytest.mark.parametrize(
    ("config", "key"),
    [("inference", "reference_curves"), ("cross_validation", "nuclei_table"), ("train,contributions", "nuclei_dir")],
)
def test_what_may_be_missing_must_be_there_where_it_is_given(config, key, tmp_path):
    typed(tmp_path, config)
    with refused(f"--{key}", "no such file or folder"):
        typed(tmp_path, config, f"--{key}", str(tmp_path / "nothing"))
    (tmp_path / "there").mkdir()
    typed(tmp_path, config, f"--{key}", str(tmp_path / "there"))


def test_a_path_up_from_a_folder_that_is_not_there_is_refused(tmp_path):
    with refused("--output_dir", f"goes up from {tmp_path}/absent"):
        typed(tmp_path, "inference", "--output_dir", f"{tmp_path}/absent/../out")
    typed(tmp_path, "inference", "--output_dir", f"{tmp_path}/../{tmp_path.name}/out")
    typed(tmp_path, "inference", "--output_dir", "../../out")
