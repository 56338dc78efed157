"""The configs' comments, read back: what each key is for, in the words that stand beside it in its YAML file."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

_SECTION = re.compile(r"-{3} (.+?) -{3,}")
_RULE = re.compile(r"={3,}")


@dataclass(frozen=True)
class Key:
    """One key of a config.

    Attributes:
        name: with the keys that it is in, as MONAI writes it: `mask#extraction#tissue`.
        default: the value as the file writes it, on one line; empty where further keys or a list stand below it.
        words: what its own comment says: beside it, going on below where lines begin in the same column, or above it.
        note: what the comment above its block of keys says.
        section: the heading (`# --- heading ---`) that it stands under.
        for_users: it stands above the line (`# ===`) below which the keys are put together.
        steps: it is a list of what is done, so its name is one to run.
    """

    name: str
    default: str
    words: str
    note: str
    section: str
    for_users: bool
    steps: bool


@dataclass(frozen=True)
class Config:
    """A config's comments.

    Attributes:
        head: the comment at the top, its lines as they are.
        keys: in the file's order; a key comes before those in it. `imports` is left out.
    """

    head: str
    keys: tuple[Key, ...]


@dataclass(frozen=True)
class _Comment:
    column: int
    text: str
    alone: bool  # nothing else is on its line


def read_comments(path: Path) -> Config:
    """Keys and comments of a config.

    Raises:
        yaml.YAMLError: the file is no YAML.
    """
    text = path.read_text(encoding="utf-8")
    comments = _comments(text)
    head: list[str] = []
    while (line := comments.get(len(head))) and line.alone:
        head.append(line.text)
    reader = _Reader(text, comments, len(head))
    return Config("\n".join(head), tuple(reader.keys(yaml.compose(text), "")))


def explanations(*paths: Path) -> dict[str, str]:
    """Key -> what its comment says, of several configs: the first that explains a key counts. A key without a comment
    of its own has that of its block."""
    found: dict[str, str] = {}
    for path in paths:
        for key in read_comments(path).keys:
            if words := key.words or key.note:
                found.setdefault(key.name, words)
    return found


def _comments(text: str) -> dict[int, _Comment]:
    """Line number from 0 -> the comment on that line. A `#` inside a value is none."""
    inside = [
        (token.start_mark.index, token.end_mark.index)
        for token in yaml.scan(text)
        if isinstance(token, yaml.ScalarToken)
    ]
    found: dict[int, _Comment] = {}
    start = 0
    for number, line in enumerate(text.splitlines(keepends=True)):
        for match in re.finditer(r"(?:^|(?<=\s))#", line):
            at = start + match.start()
            if not any(first <= at < last for first, last in inside):
                words = line[match.end() :].rstrip()
                found[number] = _Comment(match.start(), words.removeprefix(" "), not line[: match.start()].strip())
                break
        start += len(line)
    return found


class _Reader:
    """Reads keys with their comments, top to bottom."""

    def __init__(self, text: str, comments: dict[int, _Comment], first: int) -> None:
        self.lines, self.comments, self.first = text.splitlines(), comments, first
        self.text = text
        headings = {n: c.text for n, c in comments.items() if c.alone and c.column == 0 and n >= first}
        self.sections = {n: match[1] for n, words in headings.items() if (match := _SECTION.match(words))}
        rules = [n for n, words in headings.items() if _RULE.match(words)]
        self.rule = min(rules, default=len(self.lines))

    def keys(self, node: yaml.MappingNode, above: str) -> Iterator[Key]:
        """The keys of a mapping and those in them."""
        note, last = "", -1
        for name, value in node.value:
            line = name.start_mark.line
            if name.value.lstrip("+") == "imports" or name.value == "<<":
                continue
            before, starts_block = self._above(line, name.start_mark.column)
            if starts_block or self._empty_between(last, line):
                note = ""
            last = line
            block = isinstance(value, yaml.CollectionNode) and not value.flow_style and bool(value.value)
            words = self._beside(line, line if block else value.end_mark.line)
            if before and words:
                note = before
            key = Key(
                name=above + name.value,
                default="" if block else " ".join(self.text[value.start_mark.index : value.end_mark.index].split()),
                words=words or before,
                note=note,
                section=self.sections.get(max((n for n in self.sections if n < line), default=-1), ""),
                for_users=line < self.rule,
                steps=not above and isinstance(value, yaml.SequenceNode) and _are_steps(value),
            )
            yield key
            if block and isinstance(value, yaml.MappingNode):
                for inner in self.keys(value, f"{key.name}#"):
                    yield replace(inner, note=inner.note or key.note)

    def _beside(self, first: int, last: int) -> str:
        """The comment on the lines of a value, and those that go on below it in the same column."""
        at = next((n for n in range(first, last + 1) if n in self.comments and not self.comments[n].alone), None)
        if at is None:
            return ""
        words = [self.comments[at].text]
        column = self.comments[at].column
        while (below := self.comments.get(at + len(words))) and below.alone and below.column == column:
            words.append(below.text)
        return _joined(words)

    def _above(self, line: int, column: int) -> tuple[str, bool]:
        """The comment right above a key, where it begins in the key's column; and whether a heading or an empty line
        comes before it."""
        words: list[str] = []
        at = line - 1
        while at >= self.first and (comment := self.comments.get(at)) and comment.alone and comment.column == column:
            if at in self.sections or _RULE.match(comment.text):
                return _joined(words[::-1]), True
            words.append(comment.text)
            at -= 1
        return _joined(words[::-1]), at < self.first or not self.lines[at].strip()

    def _empty_between(self, first: int, last: int) -> bool:
        return first >= 0 and any(not line.strip() for line in self.lines[first:last])


def _joined(lines: list[str]) -> str:
    return " ".join(" ".join(lines).split())


def _are_steps(node: yaml.SequenceNode) -> bool:
    """Expressions and runs of other steps, with components among them; handlers alone are none."""
    plain = [isinstance(step, yaml.ScalarNode) and step.value[:1] in ("$", "%") for step in node.value]
    called = [isinstance(s, yaml.MappingNode) and s.value[0][0].value == "_target_" for s in node.value]
    return any(plain) and all(a or b for a, b in zip(plain, called, strict=True))
