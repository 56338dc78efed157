"""YAML as strangers write it, read within bounds: an alias (`*name`) can make a short text stand for endless values."""

from collections.abc import Sequence
from typing import Any

import yaml

from scripts.errors import reason

#: More values than this, those of aliases counted wherever they stand, are no file of settings or rules.
MOST_VALUES = 100_000


class _Bounded(yaml.SafeLoader):
    """Stops at a text of too many values."""

    values = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.values += 1
        if self.values > MOST_VALUES:
            raise _too_many(None)
        return super().compose_node(parent, index)


def read_yaml(text: str, loader: type[yaml.BaseLoader | yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """What a YAML text holds.

    Raises:
        yaml.YAMLError: see `check_yaml`, or a tag that the loader does not know.
    """
    check_yaml(text)
    return yaml.load(text, loader)


def check_yaml(text: str) -> None:
    """Refuse a text before any value is made of it.

    Raises:
        yaml.YAMLError: no YAML, a list or mapping as a key, more than `MOST_VALUES`, an alias within its own anchor, or
            levels too deep to be read.
    """
    loader = _Bounded(text)
    try:
        node = loader.get_single_node()
        if node is not None:
            _count(node, frozenset(), {})
    except RecursionError as error:
        raise yaml.YAMLError("is nested too deeply to be read (write fewer levels)") from error
    finally:
        loader.dispose()


def _count(node: yaml.Node, above: frozenset[int], known: dict[int, int]) -> int:
    """How many values a node stands for; each is looked into once, however often aliases name it."""
    if id(node) in above:
        raise yaml.MarkedYAMLError(
            problem="an alias (*name) stands within its own anchor (&name) (write out what is meant)",
            problem_mark=node.start_mark,
        )
    if id(node) not in known:
        parts: Sequence[yaml.Node] = node.value if isinstance(node, yaml.SequenceNode) else []
        if isinstance(node, yaml.MappingNode):
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise yaml.MarkedYAMLError(
                        problem="a list or mapping stands where a key must be", problem_mark=key.start_mark
                    )
            parts = [value for _, value in node.value]
        known[id(node)] = 1 + sum(_count(part, above | {id(node)}, known) for part in parts)
        if known[id(node)] > MOST_VALUES:
            raise _too_many(node.start_mark)
    return known[id(node)]


def _too_many(mark: yaml.Mark | None) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(
        problem=f"stands for more than {MOST_VALUES} values, more than settings have", problem_mark=mark
    )


def fault_in(error: yaml.YAMLError) -> str:
    """Line and fault of what was refused, in one line."""
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    return f"{f'line {mark.line + 1}: ' if mark else ''}{problem or reason(error)}"
