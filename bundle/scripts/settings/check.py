"""Every run id begins here: whatever the user set is read as what its key wants, or refused, before work starts.

A value may come from the command line, an args file, an overlay of the user's or a call from Python; the keys of all
configs are treated alike. `configs/allowed.yaml` says what a key may be beyond the type of its default.
"""

import ast
import difflib
import inspect
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from pydoc import ErrorDuringImport, locate
from typing import Any, TypeGuard

import yaml
from monai.bundle import ConfigParser
from monai.bundle.config_item import ComponentLocator, ConfigComponent
from monai.bundle.reference_resolver import ReferenceResolver

from scripts.errors import InputError, input_error_in, reason, report_in_one_line
from scripts.files.text import read_text
from scripts.settings.config_file import Written, as_written, without_words
from scripts.settings.typed import Call, Given, current_call
from scripts.settings.values import Expression, Wrong, expected, is_expression, literal, parsed, read

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
_REFERENCE = re.compile(r"@\w+(?:(?:#|::)\w+)*")
_VARIABLE = re.compile(r"\$\{?[A-Z_][A-Z0-9_]*\}?(/|$)")
_COMPUTED = object()  # a default that stands in no config as it is: an expression without a rule


def begin() -> None:
    """First step of every run id: errors end in one line, and the settings of the call are checked and put right.

    Raises:
        InputError: a key that does not exist, or a value that its key cannot have.
    """
    report_in_one_line()
    call = current_call()
    if call is None or not call.config_files:
        return
    try:
        if Path(sys.argv[0]).parts[-3:] == ("monai", "bundle", "__main__.py"):
            check_given_once(sys.argv[1:])
            check_no_separator(sys.argv[1:])
            if (run_id := call.arguments.get("run_id")) in PARTS:
                raise InputError(f"run {run_id}: is part of every run, and does nothing alone; give another id")
        check_order({path: as_written(path) for path in call.config_files})
        check(call)
    except InputError:
        if int(os.environ.get("RANK", 0)) > 0:
            raise SystemExit(1) from None  # the first process says it
        raise


def end() -> None:
    """First step of `finalize`: refuse a run whose list of steps a file replaced by nothing, which MONAI passes over.

    Raises:
        InputError: that.
    """
    if (call := current_call()) is None:
        return
    run_id = str(call.arguments.get("run_id") or "run")
    content = call.workflow.parser.get()
    if not _does_something(content.get(run_id)):
        report_in_one_line()
        raise InputError(
            f"run {run_id}: has no steps left, so nothing was done; give the whole list, or leave the key out"
        )


def _does_something(steps: Any) -> bool:
    """Whether a step, or any of a list of steps and of lists that took the place of `%KEY`, can be run."""
    if isinstance(steps, list):
        return any(_does_something(step) for step in steps)
    return isinstance(steps, Mapping) and "_target_" in steps or str(steps)[:1] in ("$", "%")


#: Lists of a config that MONAI runs beside or within every run id, and that do nothing of use alone.
PARTS = ("imports", "initialize", "prepare", "finalize")


def is_run_id(name: str, content: Mapping[str, Any], ours: bool) -> bool:
    """Whether a key can be run: a list of steps, and of our configs one that begins with `begin`.

    Args:
        name: the key.
        content: of the configs, laid over each other.
        ours: whether the key stands in a config of ours as it is.
    """
    steps = content.get(name)
    if name in PARTS or not isinstance(steps, list) or not steps:
        return False
    if not ours:
        return any(isinstance(step, Mapping) or str(step)[:1] in ("$", "%") for step in steps)
    for _ in content:  # one list may begin with another
        if isinstance(steps, list) and steps:
            steps = steps[0]
        elif isinstance(steps, str) and steps.startswith("%"):
            steps = content.get(steps[1:])
    return isinstance(steps, str) and steps.endswith("check.begin()")


def meant_by(word: str) -> str:
    """What a word behind the run id that belongs to no key was meant for."""
    key = word.strip("-\u2010\u2011\u2012\u2013\u2014\u2015").partition("=")[0]
    return f"did you mean --{key}?" if key != word else "a list or path with spaces needs quotes"


def check_given_once(words: Iterable[str]) -> None:
    """Refuse a command line that gives a key twice: fire would take the last without a word.

    Raises:
        InputError: names the key.
    """
    seen = set()
    for word in words:
        key = word.partition("=")[0]
        if key.startswith("--") and key in seen:
            raise InputError(f"{key} is there twice, and only one can count; take one away")
        seen.add(key)


def check_no_separator(words: Iterable[str]) -> None:
    """Refuse `--` or `-` alone: fire takes what is behind it for its own or for another command, so that a key there
    would count for nothing.

    Raises:
        InputError: that.
    """
    if alone := {"--", "-"} & {*words}:
        raise InputError(
            f"{min(alone)} stands alone, and what is behind it would be passed over; take it away, or write --KEY VALUE"
        )


def check_order(contents: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse config files in which a whole config, which names its `imports`, stands behind another: its keys would
    replace those of the files before it without a word. And an overlay of ours on a config that is not what it is laid
    over, where its keys would have no effect. A copy of a config that the user made may stand for any.

    Args:
        contents: config file -> its keys, in the order of the files.

    Raises:
        InputError: names the file.
    """
    first, *others = contents
    for path in others:
        if "imports" not in contents[path]:
            continue
        if is_ours(path):
            raise InputError(
                f"--config_file: {path} is a whole config and would undo {first}, which stands before it; name it"
                " first, and what is laid over it behind it"
            )
        raise InputError(f"{path}: imports replaces the modules that the config needs; write +imports to add some")
    before: list[str] = []
    for path in contents:
        bases = bases_of(path)
        named = {Path(other).name for other in before}
        if bases and named.isdisjoint(bases) and all(is_ours(other) for other in before):
            raise InputError(
                f"{path}: is laid over {' or '.join(bases)}, which no config before it is; give"
                f" \"['configs/{bases[0]}','{path}']\""
            )
        before.append(path)


def bases_of(path: str) -> list[str]:
    """The configs that one of ours is laid over, any of them, by its first line; empty where it stands alone or is not
    ours."""
    if not is_ours(path):
        return []
    first = read_text(path).partition("\n")[0]
    return re.findall(r"\w+\.yaml", first) if first.startswith("# Overlay on ") else []


def tracking() -> dict[str, Any]:
    """MONAI's arguments for experiment tracking (`--tracking mlflow`), to hand on to the workflows of folds."""
    call = current_call()
    if call is None or not call.tracking_settings():
        return {}
    parser = call.workflow.parser
    names = [key for key in ("experiment_name", "tracking_uri") if key in parser]
    return {"tracking": call.arguments["tracking"], **{key: parser.get_parsed_content(key) for key in names}}


def check(call: Call) -> None:
    """Check what a call of MONAI sets, and put the values as they are meant into its config.

    Raises:
        InputError: see `begin`.
    """
    parser = call.workflow.parser
    own = [path for path in call.config_files if is_ours(path)]
    # a first config from elsewhere is what it says it is
    known = Known(own if call.config_files and is_ours(call.config_files[0]) else [call.config_files[0], *own])
    for name in ("init_id", "final_id"):
        if name in call.arguments and call.arguments[name] not in parser:
            word = str(call.arguments[name])
            raise InputError(f"{name} is {word!r}, which no config has; {meant_by(word)}")
    check_metadata(call.arguments.get("meta_file"), parser.get("_meta_"))
    changed: dict[str, Any] = {}
    for path in call.config_files:
        if path not in known.files:
            ids = {"initialize", "run", "finalize", *map(call.arguments.get, ("run_id", "init_id", "final_id"))}
            changed |= overlay_values(path, known, parser, ids)
        elif not is_ours(path):  # a copy of a config of ours, whose defaults are the user's
            for key, value in as_written(path).items():
                if isinstance(value, Written) and known.rule(_split(key)) is not None:
                    changed[key] = known.checked(_split(key), value, f"{Path(path).name}: {key}")
    known.extra = set(call.tracking_settings())
    for handler, package in {"MLFlowHandler": "mlflow", "TensorBoardStatsHandler": "tensorboard"}.items():
        if handler in str(call.tracking_settings()) and find_spec(package) is None:
            raise InputError(f"--tracking {call.arguments['tracking']}: needs {package}; pip install {package}")
    known.live = parser.get()
    for key, given in call.given.items():
        if key.startswith("+"):
            raise InputError(
                f"{given.label}: only a file can add to a key; give {given.label.replace('+', '')}#KEY VALUE"
            )
        changed[key] = _checked(key, given, known, parser)
        _check_circle(given.label, key, parser)
    changed |= _bundle_root(call, changed)
    for key, value in changed.items():
        parser[key] = literal(value)
    for key, given in call.given.items():
        if "_target_" in _parent(key, parser):
            _check_component(f"{given.label} {_shown(given.value)}", _parent(key, parser))
    for key in changed:
        given_at = call.given.get(key)
        _check_complete(given_at.label if given_at else key, parser[key])
    if changed:
        parser.parse(reset=True)
        for key, given in call.given.items():
            _check_result(key, given, known, parser)


def check_metadata(files: Any, content: Any) -> None:
    """Refuse metadata that is none of a bundle's.

    Args:
        files: what `--meta_file` named; None: nothing was named.
        content: what they hold together.

    Raises:
        InputError: no such file, or one of another kind.
    """
    if files is None:
        return
    for file in [files] if isinstance(files, str) else files:
        if not Path(file).is_file():
            raise InputError(f"--meta_file {file}: no such file; give configs/metadata.json, or leave it out")
    lacking = [key for key in ("version", "monai_version") if not isinstance(content, Mapping) or key not in content]
    if lacking:
        raise InputError(
            f"--meta_file {files}: has no {lacking[0]}, so it is no metadata of a bundle; give configs/metadata.json,"
            " or leave it out"
        )


def _parent(key: str, parser: ConfigParser) -> Mapping[str, Any]:
    """The component that a key belongs to, or nothing."""
    parent = parser.get("#".join(_split(key)[:-1])) if len(_split(key)) > 1 else None
    return parent if isinstance(parent, Mapping) else {}


def _check_component(label: str, component: Mapping[str, Any]) -> None:
    """Refuse a component that is given what it does not take.

    Raises:
        InputError: that, or nothing is called like its `_target_`.
    """
    names = _parameters(component["_target_"], label)
    unknown = [key for key in component if key not in names and key not in ConfigComponent.non_arg_keys]
    if unknown and "**" not in names:
        near = nearest(unknown[0], names)
        advice = did_you_mean(near) if near else "give the whole step, or leave that out"
        raise InputError(f"{label}: {component['_target_']} takes no {unknown[0]}; {advice}")


def _check_complete(label: str, value: Any) -> None:
    """Refuse components in a value that lack an argument without a default.

    Raises:
        InputError: that; it names what lacks.
    """
    if isinstance(value, Mapping) and "_target_" in value and value.get("_mode_", "default") == "default":
        lacking = [name for name in _needed(value["_target_"]) if name not in value]
        if lacking and not value.get("_disabled_"):
            raise InputError(
                f"{label}: {value['_target_']} needs {', '.join(lacking)}; give it all, as {{_target_:"
                f" {value['_target_']}, {lacking[0]}: ...}}"
            )
    if isinstance(value, (Mapping, list)):
        for item in value.values() if isinstance(value, Mapping) else value:
            _check_complete(label, item)


def _check_components(label: str, value: Any) -> None:
    """`_check_component` of all that are in a value."""
    if isinstance(value, Mapping) and isinstance(value.get("_target_"), str):
        _check_component(label, value)
    if isinstance(value, (Mapping, list)):
        for item in value.values() if isinstance(value, Mapping) else value:
            _check_components(label, item)


def nearest(name: str, names: Iterable[str], most: int = 3) -> list[str]:
    """Names like one that does not exist, whatever the case of their letters, at most so many, likest first.

    Those that hold it as whole words come before those that are spelled like it: `epochs` is more like `image_epochs`
    and `scan_epochs` than like `epoch`. Empty where none is like it.
    """
    folded, word = {other.casefold(): other for other in names}, name.casefold()
    likeness = {other: difflib.SequenceMatcher(None, other, word).ratio() for other in folded}
    holding = [other for other in folded if set(word.split("_")) <= set(other.split("_"))]
    spelled = difflib.get_close_matches(word, folded, most)
    # what is spelled much less like it than the best was not meant
    spelled = [other for other in spelled if other not in holding and likeness[other] > likeness[spelled[0]] - 0.05]
    return [folded[other] for other in [*sorted(holding, key=lambda other: -likeness[other]), *spelled][:most]]


def did_you_mean(near: Sequence[str], before: str = "") -> str:
    """The names of `nearest` as a question, each behind `before`."""
    *first, last = (f"{before}{name}" for name in near)
    return f"did you mean {' or '.join([', '.join(first), last] if first else [last])}?"


def is_ours(path: str) -> bool:
    """Whether a config file is one of the bundle's own."""
    return Path(path).resolve().parent == CONFIGS


def _bundle_root(call: Call, changed: Mapping[str, Any]) -> dict[str, str]:
    """Where the bundle is, if nobody said so and this is not its folder.

    Raises:
        InputError: somebody said so, and it is not there.
    """
    given = call.given.get("bundle_root")
    if given is not None and not is_expression(given.value):
        folder = Path(changed["bundle_root"])
        if not (folder / "configs").is_dir() or not (folder / "scripts").is_dir():
            raise InputError(f"{given.label} {folder}: holds no configs and scripts; give the bundle's folder")
    elif call.workflow.parser.get("bundle_root") == "." and not (Path("configs").is_dir() and Path("scripts").is_dir()):
        return {"bundle_root": os.path.relpath(ROOT)}
    return {}


def overlay_values(path: str, known: "Known", parser: ConfigParser, ids: Iterable[Any] = ()) -> dict[str, Any]:
    """Values of a config file of the user's, as they are meant.

    Args:
        path: of the file.
        known: what it is laid over.
        parser: what came of both: a new key is taken where another value uses it.
        ids: new keys that are taken because they are run.

    Raises:
        InputError: a key that nothing uses or that stands for itself, or a value that its key cannot have.
    """
    content = as_written(path)
    used = {reference[1:].replace("::", "#").split("#")[0] for reference in _REFERENCE.findall(str(parser.get()))}
    used |= {*ids, *re.findall(r"%(\w+)", str(content))}
    values = {}
    for key, value in content.items():
        name, label = key.removeprefix("+"), f"{Path(path).name}: {key}"
        given = {name: (label, value)}
        if key != name and isinstance(value, Mapping):  # what is added to a mapping
            given = {f"{name}#{part}": (f"{label}#{part}", item) for part, item in value.items()}
        elif key != name and name in parser:  # what is added to a list
            given = {name: (label, parser[name])}
        for part, (called, item) in given.items():
            if _split(part)[0] in known.base or _split(part)[0] not in used:
                known.check_settable(_split(part), called)
                meant, plain = known.checked(_split(part), item, called), without_words(item)
                if literal(meant) != plain or type(meant) is not type(plain):
                    values[part] = meant
            for text in _texts(item):
                if text.startswith("$") or is_expression(text):
                    _check_expression(called, text, parser)
            _check_circle(called, part, parser)
    return values


def _texts(value: Any) -> Iterator[str]:
    """All texts in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (Mapping, list)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(item)


def _check_circle(label: str, key: str, parser: ConfigParser) -> None:
    """Refuse a key whose value leads back to it.

    Raises:
        InputError: that; it names the way.
    """
    seen = set()

    def follow(at: str, way: list[str]) -> None:
        for text in _texts(parser[at]) if at in parser else ():
            for reference in _REFERENCE.findall(text) if text.startswith(("$", "@")) else ():
                name = "#".join(_split(reference[1:]))
                if any(step == name or step.startswith(f"{name}#") for step in way):
                    raise InputError(f"{label}: stands for itself ({' -> '.join([*way, name])}); give it a value")
                if name not in seen:
                    seen.add(name)
                    follow(name, [*way, name])

    follow("#".join(_split(key)), ["#".join(_split(key))])


def _checked(key: str, given: Given, known: "Known", parser: ConfigParser) -> Any:
    parts = _split(key)
    value = given.value
    default, rule = known.find(parts, given.label)
    known.check_settable(parts, given.label)
    if given.bare and not isinstance(default, bool) and "true/false" not in str(rule):
        dash = given.next if given.next[:1] == "-" != given.next[1:2] else ""
        meant = f", or {given.label}={dash} if {dash} is its value" if dash else ""
        raise InputError(f"{given.label}: has no value; give {known.due(rule, default)}{meant}")
    if is_expression(value):
        top = known.rule(parts[:1])
        if len(parts) > 1 and isinstance(top, str) and top.startswith("keys of "):
            raise InputError(f"{given.label} {value}: no expression can be given here; put it into an overlay")
        _check_expression(given.label, value, parser)
        return Expression(value)
    if isinstance(value, str) and value.startswith("%"):  # MONAI has put the other key's content in its place
        value = parser[key]
    return known.checked(parts, value, given.label)


def _check_expression(label: str, value: str, parser: ConfigParser) -> None:
    """Refuse an expression that Python cannot read, or that names a key which does not exist."""
    for reference in _REFERENCE.findall(value):
        if reference[1:] not in parser:
            near = nearest(reference[1:].split("#")[0], parser.get())
            raise InputError(
                f"{label} {value}: no key {reference[1:]}; "
                + (did_you_mean(near, "@") if near else "@ stands for another key of the config")
            )
    if not value.startswith("$") or re.match(r"\$\s*(import|from)\s", value):
        return
    if _VARIABLE.match(value):
        raise InputError(
            f"{label} {value}: variables of the shell are not known here; write what it stands for (in double quotes"
            " the shell does)"
        )
    hint = "a value that begins with $ is run as Python code (a path of that name: ./$...)"
    try:
        tree = ast.parse(_REFERENCE.sub("reference", value[1:]).strip(), mode="eval")
    except (SyntaxError, ValueError) as error:
        raise InputError(f"{label} {value}: {reason(error)}; {hint}") from error
    if any(isinstance(n, ast.Constant) and isinstance(n.value, str) and "#" in n.value for n in ast.walk(tree)):
        raise InputError(f"{label} {value}: MONAI would rewrite the #; write \\x23 for it in an expression")


def _made(label: str, key: str, parser: ConfigParser) -> None:
    """Make a step whose arguments have no rules.

    Raises:
        InputError: it cannot be made of them.
    """
    try:
        parser.get_parsed_content(key)
    except Exception as error:
        cause = error.__cause__ or error
        raise input_error_in(error) or InputError(
            f"{label}: cannot be made ({reason(cause)}); correct what it is given"
        ) from error


def _check_result(key: str, given: Given, known: "Known", parser: ConfigParser) -> None:
    """Refuse an expression on the command line whose result its key cannot have, and a step that cannot be made."""
    default, rule = known.find(_split(key), given.label)
    if rule == "step | null":
        _made(f"{given.label} {_shown(given.value)}", key, parser)
    if not is_expression(given.value):
        return
    if default is _COMPUTED or isinstance(default, Mapping) or rule == "device" or _is_code(default):
        return
    try:
        value = parser.get_parsed_content(key)
    except Exception as error:
        bad_input = input_error_in(error)
        if bad_input is not None:
            raise bad_input from error
        cause = error.__cause__ or error
        raise InputError(
            f"{given.label} {given.value}: fails as Python code ({reason(cause)}); correct it, or write ./$... for a"
            " path that begins with $"
        ) from error
    try:
        read(value, rule, default)
    except Wrong as error:
        raise InputError(f"{given.label} {given.value}: gives {value!r:.60}; {error} is due") from error


class Known:
    """The keys that some configs have, with their defaults and rules.

    Args:
        files: configs of the bundle, or one that stands in for them; later ones change earlier ones.
    """

    def __init__(self, files: Iterable[str]) -> None:
        self.files = list(files)
        self.base: dict[str, Any] = ConfigParser.load_config_files(self.files)
        self.sections = [Path(path).stem for path in reversed(self.files)] + ["everywhere"]
        if not all(is_ours(path) for path in self.files):  # a copy goes by the rules of what it is most like
            shared = {name: len(table.keys() & self.base.keys()) for name, table in rules().items()}
            self.sections.insert(-1, max(shared.keys() - {"everywhere"}, key=lambda name: (shared[name], name)))
        self.live: Mapping[str, Any] = self.base  # with what the user sets
        self.extra: set[str] = set()  # keys that MONAI adds

    def rule(self, parts: list[str]) -> Any:
        """The rule of a key in allowed.yaml, or None."""
        for section in self.sections:
            for pattern, rule in rules().get(section, {}).items():
                names = pattern.split("#")
                if len(names) == len(parts) and all(n in ("*", p) for n, p in zip(names, parts, strict=True)):
                    return rule
        return None

    def find(self, parts: list[str], label: str) -> tuple[Any, Any]:
        """Default and rule of a key.

        Raises:
            InputError: there is no such key; it names the nearest.
        """
        node: Any = self.base
        for depth, part in enumerate(parts):
            rule = self.rule(parts[:depth]) if depth else None
            if isinstance(rule, str) and rule.startswith("keys of "):
                return Known.of(rule).find(parts[depth:], label)
            if isinstance(node, list) and part.isdigit() and int(part) < len(node):
                node = node[int(part)]
            elif isinstance(node, Mapping) and part in node:
                node = node[part]
            elif isinstance(node, Mapping) and {part, "**"} & _parameters(node.get("_target_")).keys():
                node = _parameters(node["_target_"]).get(part)
            elif isinstance(node, Mapping) and "_target_" in node and part in ConfigComponent.non_arg_keys:
                node = False if part == "_disabled_" else None
            elif rule == "names" and isinstance(node, Mapping) and node:
                node = next(iter(node.values()))
            elif depth == 0 and part in self.extra:
                node = None
            else:
                self.refuse(parts, depth, node, label)
        return self._resolved(node, self.rule(parts))

    def check_settable(self, parts: list[str], label: str) -> None:
        """Refuse a key of a block that only gathers other keys, or the block, and an argument of a
        component that `settings` tells: the record would tell what was not used.

        Raises:
            InputError: names the key that can be set.
        """
        node: Any = self.base
        settings = self.base.get("settings")  # of inference: what every result tells
        recorded = {v for v in settings.values() if isinstance(v, str)} if _is_computed(settings) else set()
        for depth, part in enumerate(parts, 1):
            rule = self.rule(parts[: depth - 1])
            if isinstance(rule, str) and rule.startswith("keys of "):
                return Known.of(rule).check_settable(parts[depth - 1 :], label)
            if isinstance(node, list):
                node = node[int(part)] if part.isdecimal() and int(part) < len(node) else None
            else:
                node = node.get(part) if isinstance(node, Mapping) else None
            if depth > 1 and isinstance(node, str) and node in recorded and parts[0] != "settings":
                raise InputError(
                    f"{label}: is what {node[1:]} says, and results tell that one; give {node[1:]} instead"
                )
            if _is_computed(node):
                own = node.get(parts[depth]) if len(parts) > depth else None
                cure = f"give {own[1:]} instead" if isinstance(own, str) and own[:1] == "@" else "leave it out"
                block = "#".join(parts[:depth])
                raise InputError(f"{label}: {block} is computed from other keys, and tells what they are; {cure}")

    def _resolved(self, node: Any, rule: Any) -> tuple[Any, Any]:
        if rule is None and isinstance(node, str) and re.fullmatch(r"@\w+((#|::)\w+)*", node):
            return self.find(_split(node[1:]), node)
        if isinstance(rule, str) and rule.startswith("key of "):
            rule = " | ".join(self.live[rule.removeprefix("key of ")])
        if is_expression(node) and rule is None:
            return _COMPUTED, None
        return (None if is_expression(node) else node), rule

    def refuse(self, parts: list[str], depth: int, node: Any, label: str) -> None:
        """Raise an InputError for a key that does not exist."""
        names = list(node) if isinstance(node, Mapping) else []
        if isinstance(node, Mapping) and "_target_" in node:
            names += list(_parameters(node["_target_"]))
        before = "".join(f"{part}#" for part in parts[:depth])
        shown, given = label.replace("::", "#"), "#".join(parts)
        start = shown[: -len(given)] if shown.replace("-", "_").endswith(given.replace("-", "_")) else shown
        for key in (key for key in self.base if depth == 0):
            rule = self.rule([key])
            if isinstance(rule, str) and rule.startswith("keys of ") and parts[0] in Known.of(rule).base:
                raise InputError(f"{label}: a key of {key}; write {start}{key}#{'#'.join(parts)}")
            step = self.base[key]
            if isinstance(step, Mapping) and "_target_" in step and self.rule([key, parts[0]]) is not None:
                raise InputError(f"{label}: a key of {key}; write {start}{key}#{parts[0]}")
        near = nearest(parts[depth], [str(n) for n in names if not str(n).startswith("_")])
        where = parts[depth - 1] if depth else Path(self.files[0]).name
        advice = did_you_mean(near, f"{start}{before}") if near else f"its keys stand in {Path(self.files[0]).name}"
        odd = next((sign for sign in parts[depth] if not sign.isascii()), None)
        why = f", for {odd!a} is in it" if odd else ""
        raise InputError(f"{label}: no such key in {where}{why}; {advice}")

    def due(self, rule: Any, default: Any) -> str:
        """What a key may be, in words."""
        if isinstance(default, Mapping) or _is_code(default) or default is _COMPUTED:
            return "a $ expression, or set it in an overlay"
        return expected(rule, default)

    def checked(self, parts: list[str], value: Any, label: str) -> Any:
        """A key's value as it is meant.

        Args:
            parts: names on the way to the key.
            value: text as typed, or what a file or a caller holds.
            label: what the user calls it.

        Raises:
            InputError: no such key, or it cannot have that value.
        """
        default, rule = self.find(parts, label)
        if is_expression(value) and not (rule and isinstance(value, Expression)):
            return Expression(value)
        if isinstance(rule, str) and rule.startswith("keys of "):
            return self._mapping(value, label, Known.of(rule))
        if isinstance(default, Mapping) or rule == "step | null":
            return self._component(parts, value, label, default, rule)
        if default is _COMPUTED or _is_code(default):
            if isinstance(value, str) and _is_code(default):
                value = parsed(value)
            if value == [] and _is_code(default) and parts != ["finalize"]:
                raise InputError(f"{label} []: leaves nothing to do; give the whole list, or leave the key out")
            _check_components(label, value)
            plain = isinstance(value, (str, int, float)) if default is _COMPUTED else not isinstance(value, list)
            if plain:
                raise InputError(f"{label} {_shown(value)}: is computed; only a $ expression can stand for it")
            return _with_expressions(value)
        if default is None and rule is None:
            return _with_expressions(value)
        try:
            return without_words(read(value, rule, default))
        except Wrong as error:
            due, *hints = error.args
            said = "".join(f": {hint}" for hint in hints)
            raise InputError(f"{label} {_shown(value)}{said}; give {due}") from error

    def _mapping(self, value: Any, label: str, other: "Known") -> dict[str, Any]:
        value = parsed(value) if isinstance(value, str) else value
        if not isinstance(value, Mapping):
            raise InputError(f"{label} {_shown(value)}; give a mapping, such as {label}#KEY VALUE")
        value = other.single(value)
        for key in value:
            other.check_settable(_split(key), f"{label}#{key}")
        values = {key: other.checked(_split(key), item, f"{label}#{key}") for key, item in value.items()}
        for key, item in values.items():
            if isinstance(item, Expression) and is_expression(value[key]):
                raise InputError(f"{label}#{key} {value[key]}: no expression can be given here; put it into an overlay")
        return values

    def _component(self, parts: list[str], value: Any, label: str, default: Any, rule: Any) -> Any:
        """A mapping of keys: a step with `_target_`, or plain."""
        text = value
        value = parsed(value) if isinstance(value, str) else value
        if rule == "step | null" and (value is None or str(text).casefold() in ("null", "none", "~")):
            return None
        if not isinstance(value, Mapping):
            due = expected(rule, default) if rule and rule != "names" else "a mapping of keys"
            raise InputError(f"{label} {_shown(text)}; give {due}, or single keys: {label}#KEY VALUE")
        if "_target_" in value:
            _check_component(label, value)
            return _with_expressions(value)
        if isinstance(default, Mapping) and "_target_" in default:
            raise InputError(
                f"{label} {_shown(text)}: names no _target_; add it, or give single keys: {label}#KEY VALUE"
            )
        if rule != "names" and isinstance(default, Mapping):
            lacking = [key for key in default if key not in value]
            if lacking:
                raise InputError(f"{label} {_shown(text)}: lacks {lacking[0]}; add it, or give {label}#KEY VALUE")
        return {key: self.checked([*parts, *_split(str(key))], item, f"{label}#{key}") for key, item in value.items()}

    def single(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Keys of these configs in which those of a component stand on their own: `{"a": {"b": 1}}` -> `{"a#b": 1}`."""
        found: dict[str, Any] = {}
        for key, value in values.items():
            component = self.base.get(key)
            parts = isinstance(component, Mapping) and "_target_" in component and isinstance(value, Mapping)
            found |= {f"{key}#{k}": v for k, v in value.items()} if parts and "_target_" not in value else {key: value}
        return found

    @staticmethod
    def of(rule: str) -> "Known":
        """The keys that a `keys of` rule names."""
        return _known(rule.removeprefix("keys of "))


@cache
def _known(names: str) -> Known:
    return Known([str(CONFIGS / name.strip()) for name in names.split(",")])


@cache
def rules() -> Mapping[str, Mapping[str, Any]]:
    """configs/allowed.yaml: config -> key -> rule."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load((CONFIGS / "allowed.yaml").read_text(), loader)


_NO_DEFAULT = "$"  # reads as an expression, of whose value nothing is known
_STARS = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@cache
def _locator() -> ComponentLocator:
    return ComponentLocator()


@cache
def _parameters(target: Any, label: str = "") -> Mapping[str, Any]:
    """Names and defaults of a component's arguments, `**` where it takes any; _NO_DEFAULT where there is none.

    Raises:
        InputError: no class or function is called so, and a label was given to say where that stands.
    """
    if target is None:
        return {}
    if is_expression(target):
        return {"**": _NO_DEFAULT}
    found = _located(target) if isinstance(target, str) else None
    if not callable(found):
        if label:
            what = "nothing is called" if found is None else "no class or function is"
            room, _, last = str(target).rpartition(".")
            near = nearest(last, [name for name in dir(_located(room)) if name[0] != "_"]) if room else None
            advice = did_you_mean(near, f"{room}.") if near else "correct _target_"
            raise InputError(f"{label}: {what} {target if str(target).strip() else repr(target)}; {advice}")
        return {"**": _NO_DEFAULT}
    names: dict[str, Any] = {}
    classes = inspect.getmro(found)[:-1] if inspect.isclass(found) else ()
    for source in [c.__init__ for c in classes] or [found]:  # type: ignore[misc]  # mypy takes the classes for instances
        try:
            parameters = list(inspect.signature(source).parameters.values())
        except ValueError:  # some of Python's own do not say what they take
            return {"**": _NO_DEFAULT}
        own = {p.name: _NO_DEFAULT if p.default is p.empty else p.default for p in parameters if p.kind not in _STARS}
        names = own | names
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return {key: value for key, value in names.items() if key != "self"}
    return names | {"**": _NO_DEFAULT}


@cache
def _needed(target: Any) -> list[str]:
    """Arguments without a default of what a `_target_` names; none where that is not known."""
    try:
        parameters = inspect.signature(_located(target)).parameters.values() if isinstance(target, str) else ()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.default is p.empty and p.kind not in _STARS]


def _located(target: str) -> Any:
    """What is called so in MONAI or by its whole path; None where nothing is, or its module cannot be imported."""
    name = _locator().get_component_module_name(target)
    path = f"{name[0] if isinstance(name, list) else name}.{target}" if name else target
    try:
        return locate(path) if path.strip(" .") else None
    except ErrorDuringImport:
        return None


def _with_expressions(value: Any) -> Any:
    """The same, in which what MONAI shall evaluate is marked as such."""
    value = without_words(value)
    if isinstance(value, Mapping):
        return {key: _with_expressions(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_expressions(item) for item in value]
    return Expression(value) if is_expression(value) or (isinstance(value, str) and value.startswith("%")) else value


def _is_code(default: Any) -> bool:
    """Whether a default is a list of steps, handlers or other components."""
    return isinstance(default, list) and any(
        isinstance(item, Mapping) or (isinstance(item, str) and item.startswith(("$", "@", "%"))) for item in default
    )


def _is_computed(default: Any) -> TypeGuard[Mapping[str, Any]]:
    """Whether a default is a block that only gathers other keys, as for a record: no component, and nothing to set."""
    return (
        isinstance(default, Mapping)
        and bool(default)
        and "_target_" not in default
        and all(is_expression(item) or _is_computed(item) for item in default.values())
    )


def _split(key: str) -> list[str]:
    return ReferenceResolver.split_id(key)


def _shown(value: Any) -> str:
    text = str(value)
    return repr(text) if not text.strip() or "\n" in text else f"{text:.80}"
