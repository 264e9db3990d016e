"""Quotes command line arguments for Hydra's grammar, so that users can type any string without quoting it."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hydra.errors import HydraException

from fastlt.core.errors import UserError


def quoted(text: str) -> str:
    """Returns `text` as a quoted string of Hydra's grammar, in which backslashes before a quote are doubled.

    >>> quoted("photos (2024)")
    "'photos (2024)'"
    """
    return "'" + re.sub(r"(\\*)('|$)", lambda end: end[1] * 2 + end[2].replace("'", "\\'"), text) + "'"


def quoted_strings(arguments: Sequence[str], schema: type, sweeps: bool = False) -> list[str]:
    """Returns key=value arguments with the values of string keys quoted.

    Spaces, brackets, commas, `=` and letters of any script are then read literally, and `out=2024_01_15` is a string
    and not a number. Values that are quoted already, `null` and interpolations (`${...}`) are left alone.

    schema: the dataclass that declares the keys; a key is a string key if its type is str or str | None.
    sweeps: whether `key=A,B` asks for the two values A and B, as with --multirun and in a grid. It is then left alone.

    Raises UserError for an argument that is not key=value.
    """
    strings = {path for path, kind in declared(schema) if kind in (str, str | None)}
    return [_quoted_string(argument, strings, sweeps) for argument in arguments]


def _quoted_string(argument: str, strings: set[str], sweeps: bool) -> str:
    key, equals, value = argument.partition("=")
    if not equals or argument.startswith("-"):
        return argument  # a flag, the value of a flag, or an error that Hydra will report
    plain = key.lstrip("+") in strings and value not in ("", "null") and "${" not in value
    try:
        read = OverridesParser.create().parse_override(argument)
    except HydraException:
        if plain:
            return f"{key}={quoted(value)}"
        if re.match(r"[+~]*[\w./@]+$", key) is None:
            raise UserError(f"{argument}: arguments are key=value, and {key!r} is no key") from None
        told = f"text stands in quotes (\"{key}={quoted(value)}\"), lists and mappings are as in '[a,b]' and '{{a: 1}}'"
        raise UserError(f"{argument} cannot be read: {told}") from None
    if not plain or isinstance(read._value, QuotedString):
        return argument
    if read.is_sweep_override():
        return argument if sweeps else f"{key}={quoted(value)}"
    return argument if read.value() == value else f"{key}={quoted(value)}"


def declared(schema: Any, parent: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (key, type) of every field of a dataclass and of its nested dataclasses, such as ("protocol.lr", float).

    parent: prefix of the keys.
    """
    kinds = get_type_hints(schema)
    for field in fields(schema):
        path, kind = parent + field.name, kinds[field.name]
        yield path, kind
        if is_dataclass(kind):
            yield from declared(kind, f"{path}.")
