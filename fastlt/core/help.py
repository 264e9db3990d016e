"""The text that --help prints for a command that is configured by key=value arguments."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from fastlt.core.keys import Key, described

WIDTH, KEYS = 110, 34  # columns of the text, and of the longest key that has its meaning on the same line


@dataclass(frozen=True)
class Help:
    """What --help says of a command beside its keys.

    usage: the command line. about: a paragraph. examples: command lines. groups: the folders of conf/ with the named
    values of keys, such as `protocol`. values: further named values, {key: names}.
    """

    usage: str
    about: str
    examples: Sequence[str]
    groups: Sequence[str] = ()
    values: Mapping[str, Iterable[str]] = field(default_factory=dict)

    def text(self, schema: type) -> str:
        """Returns the whole text. schema: the dataclass that declares the command's keys."""
        lines = [f"usage: {self.usage}", "", *textwrap.wrap(self.about, WIDTH), "", "examples:"]
        lines += [f"  {example}" for example in self.examples]
        named = {**{group: _files(group) for group in self.groups}, **self.values}
        if named:
            lines += ["", "named values:", *(line for key, names in named.items() for line in _names(key, names))]
        lines += ["", "keys, with defaults in brackets:", *(line for key in described(schema) for line in _key(key))]
        return "\n".join([*lines, "", "--debug shows the traceback of an error; --cfg=job prints all values.", ""])


def _files(group: str) -> list[str]:
    names = sorted(path.name.removesuffix(".yaml") for path in files("fastlt.conf").joinpath(group).iterdir())
    return [name for name in names if name != "auto" and not name.startswith("__")]


def _names(key: str, names: Iterable[str]) -> list[str]:
    shown = f"{key}=" + ", ".join(names)
    return textwrap.wrap(shown, WIDTH, initial_indent="  ", subsequent_indent=" " * 6)


def _key(key: Key) -> Iterator[str]:
    meaning = key.meaning + ("" if _plain(key.default) is None else f" [{_plain(key.default)}]")
    lines = textwrap.wrap(meaning, WIDTH - KEYS) or [""]
    head = f"  {key.path}"
    if len(head) >= KEYS:
        yield head
        head = ""
    for line in lines:
        yield f"{head:{KEYS}}{line}".rstrip()
        head = ""


def _plain(value: Any) -> str | None:
    """Returns a default as it is written on the command line; None if there is none, or it is that of another key."""
    if value is None or isinstance(value, dict) or (isinstance(value, str) and (not value or "${" in value)):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(str(_plain(one)) for one in value)}]" if value else None
    return str(value)
