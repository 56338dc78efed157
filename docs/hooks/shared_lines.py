"""For the API reference: arguments that share a line of a docstring (`first, second: ...`) become one entry each."""

import re

import griffe

_SHARED = re.compile(r"^ {4}(\w+(?:,\s+\w+)+):((?: .*)?(?:\n {5,}\S.*)*)", re.MULTILINE)
_SECTION = re.compile(r"^(?:Args|Attributes):\n(?:(?: .*)?\n?)+", re.MULTILINE)


class SharedLines(griffe.Extension):
    """Splits shared lines before the docstring is compared with the signature."""

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        """Rewrite the docstring of a module, class or function."""
        if obj.docstring:
            obj.docstring.value = _SECTION.sub(lambda part: _SHARED.sub(_each, part[0]), obj.docstring.value)


def _each(match: re.Match) -> str:
    return "\n".join(f"    {name}:{match[2]}" for name in re.split(r",\s+", match[1]))
