"""How MONAI was called: which config files and which keys, as the user typed them.

MONAI hands nobody what it was given, and fire has turned the words into Python values by then (`1_000` and `007` lose
their form, `run#1` its end, `None` is dropped). So the call is read from the frames below the config's expression.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import monai.bundle
from monai.bundle import ConfigWorkflow
from monai.bundle.scripts import update_kwargs
from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS

from scripts.settings.config_file import as_written

#: What `python -m monai.bundle run` takes itself.
MONAI_ARGUMENTS = frozenset(
    name
    for function in (monai.bundle.run, monai.bundle.create_workflow, monai.bundle.run_workflow, ConfigWorkflow.__init__)
    for name, parameter in inspect.signature(function).parameters.items()
    if parameter.kind is not parameter.VAR_KEYWORD and name != "self"
)


@dataclass(frozen=True)
class Given:
    """A value for a key, and how the user would recognise it: `--swa`, or `args.yaml: swa`."""

    label: str
    value: Any
    #: A flag without a value.
    bare: bool = False
    #: Of such a flag, the word behind it, where that begins with a dash and so is another flag.
    next: str = ""


@dataclass
class Call:
    """One `monai.bundle.run`.

    Attributes:
        workflow: it is running.
        config_files: in their order.
        given: key -> value, of the command line, the args file or the keyword arguments.
        arguments: MONAI's own.
    """

    workflow: ConfigWorkflow
    config_files: list[str]
    given: dict[str, Given]
    arguments: dict[str, Any] = field(default_factory=dict)

    def tracking_settings(self) -> dict[str, Any]:
        """What MONAI's experiment tracking adds to the config, by key."""
        tracking = self.arguments.get("tracking")
        if tracking is None:
            return {}
        known: Mapping[str, Any] = DEFAULT_EXP_MGMT_SETTINGS
        settings = known.get(tracking) if isinstance(tracking, str) else tracking
        if settings is None:
            settings = self.workflow.parser.load_config_files(tracking)
        return settings["configs"]


def current_call() -> Call | None:
    """The call of `monai.bundle.run` or `run_workflow` that evaluates this expression; None outside of one."""
    workflow, frame = None, inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if workflow is None and isinstance(owner, ConfigWorkflow):
            workflow = owner
        if workflow is not None and frame.f_globals.get("__name__") == "monai.bundle.scripts":
            # a workflow within another's run, as for the tables of a cross-validation, was not called by the user
            values = dict(frame.f_locals)
            if frame.f_code is monai.bundle.run.__code__:
                return _call(workflow, values, "override", frame) if values["workflow"] is workflow else None
            if frame.f_code is monai.bundle.run_workflow.__code__:
                return _call(workflow, values, "kwargs", frame) if values["workflow_"] is workflow else None
        frame = frame.f_back
    return None


def _call(workflow: ConfigWorkflow, values: dict[str, Any], rest: str, frame: FrameType) -> Call:
    keywords = values.pop(rest)
    named = {name: values[name] for name in values.keys() & MONAI_ARGUMENTS}
    args_file = named.pop("args_file", None)
    of_file = update_kwargs(args_file) if args_file is not None else {}
    merged = update_kwargs(dict(of_file), **named, **keywords)
    where = args_file if isinstance(args_file, str) else "args_file"
    of_file = as_written(args_file) if isinstance(args_file, str) else of_file
    given = {key: Given(f"{Path(where).name}: {key}", value) for key, value in of_file.items()}
    typed = _typed(frame)
    given |= typed if typed is not None else {key: Given(f"--{key}", value) for key, value in keywords.items()}
    files = merged.get("config_file") or []
    if isinstance(files, str):
        files = [files] if Path(files).is_file() or "," not in files else files.split(",")
    return Call(
        workflow,
        [str(path) for path in files],
        {key: value for key, value in given.items() if key not in MONAI_ARGUMENTS},
        {key: value for key, value in merged.items() if key in MONAI_ARGUMENTS},
    )


def _typed(frame: FrameType | None) -> dict[str, Given] | None:
    """The keys of the command line with their words; None where no command line made the call."""
    while frame is not None:
        if frame.f_globals.get("__name__") == "fire.core" and frame.f_code.co_name == "Fire":
            return flags(list(frame.f_locals["args"])[1:])
        frame = frame.f_back
    return None


def flags(words: list[str]) -> dict[str, Given]:
    """Flags and their words, as fire finds them: `--key word`, `--key=word`, `--key` (true), `--nokey` (false)."""
    return flags_and_loose(words)[0]


def flags_and_loose(words: list[str]) -> tuple[dict[str, Given], list[str]]:
    """See `flags`; and the words that are of no flag."""
    found: dict[str, Given] = {}
    loose: list[str] = []
    position = 0
    while position < len(words):
        word, position = words[position], position + 1
        if not _is_flag(word):
            loose.append(word)
            continue
        key, equals, value = word.lstrip("-").partition("=")
        label, key = "--" + key, key.replace("-", "_")
        if equals:
            found[key] = Given(label, value)
        elif position < len(words) and not _is_flag(words[position]):
            found[key] = Given(label, words[position])
            position += 1
        elif key.startswith("no") and key not in MONAI_ARGUMENTS:
            found[key[2:]] = Given(label, False, bare=True)
        else:
            found[key] = Given(label, True, bare=True, next=words[position] if position < len(words) else "")
    return found, loose


def _is_flag(word: str) -> bool:
    return word.startswith("--") or (len(word) > 1 and word[0] == "-" and word[1].isascii() and word[1].isalpha())
