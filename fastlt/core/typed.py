"""Converts JSON to dataclasses and back, and reads and writes JSON files with a digest that detects damage.

Every value is checked against the type of its field; an error names the field.
"""

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np

from fastlt.core.errors import UserError
from fastlt.core.files import write_file

_WORDS = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


DIGEST = "digest"  # key of the digest, the last one of what `signed` returns


def signed(value: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the mapping with a SHA-256 of its contents, by which damage to a file is detected when it is read."""
    return {**value, DIGEST: _digest(value)}


def unsigned(value: Any) -> Any:
    """Returns a value of `signed` without its digest, or a value that has no digest unchanged.

    Raises UserError if the contents do not match the digest.

    >>> unsigned(signed({"seed": 1}))
    {'seed': 1}
    """
    if not isinstance(value, dict) or DIGEST not in value:
        return value
    plain = {key: one for key, one in value.items() if key != DIGEST}
    if _digest(plain) != value[DIGEST]:
        raise UserError("is damaged or was edited: it does not match its digest")
    return plain


def json_line(value: Any) -> str:
    r"""Returns a value as a line of JSON, with a line break at its end.

    Letters stay as they are. Only if a text has bytes of a file name that is not UTF-8, which no JSON file may hold,
    the line is written in ASCII with escapes.

    >>> print(json_line({"name": "größe"}), end="")
    {"name": "größe"}
    >>> print(json_line({"name": "\udcff ö"}), end="")
    {"name": "\udcff \u00f6"}
    """
    line = json.dumps(value, ensure_ascii=False)
    try:
        line.encode()
    except UnicodeEncodeError:
        line = json.dumps(value)
    return line + "\n"


def write_json(path: Path, value: Mapping[str, Any], shared: bool = False) -> None:
    """Writes a mapping with its digest as a JSON file, for `read_json`.

    shared, and the errors raised: as in `fastlt.core.files.write_file`.
    """
    write_file(path, json.dumps(signed(value), indent=1, allow_nan=False) + "\n", shared=shared)


def read_json(path: Path) -> Any:
    """Returns the contents of a JSON file without its digest.

    Raises UserError, in one line, if the file does not exist, is damaged, or does not match its digest.
    """
    if not path.is_file():  # reading from a named pipe would block
        raise UserError(f"{path}: {'is no file' if path.exists() else 'does not exist'}")
    try:
        return unsigned(json.loads(path.read_bytes(), parse_constant=_refuse))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except RecursionError:
        raise UserError(f"{path}: is not valid JSON (nested too deeply)") from None
    except ValueError as error:
        raise UserError(f"{path}: is not valid JSON ({error})") from None


def typed(kind: Any, value: Any, where: str = "", otherwise: str = "") -> Any:
    """Returns a JSON value as an instance of `kind`.

    kind: str, int, float, bool, Any, a dataclass, or list[...], dict[str, ...] and `... | None` of these.
    value: what json.loads returned. Keys that a dataclass lacks are ignored, fields with a default may be missing, and
        numbers must be finite.
    where: the path of the value within its file, for error messages.
    otherwise: further allowed values, in words, for error messages.

    Raises UserError, such as `classifiers.crt.few is 'x'; allowed is a number or null`.

    >>> typed(dict[str, list[int]], {"train": [5, 3]})
    {'train': [5, 3]}
    """
    if is_dataclass(kind):
        return _record(kind, value, where)
    origin, inside = get_origin(kind), get_args(kind)
    if origin is list and isinstance(value, list):
        return [typed(inside[0], one, f"{where}[{place}]") for place, one in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {key: typed(inside[1], one, _path(where, key)) for key, one in value.items()}
    if origin is UnionType:
        return None if value is None else typed(inside[0], value, where, " or null")
    if kind is float:  # an int is allowed as well, and stays an int
        fits = type(value) in (int, float) and abs(value) <= sys.float_info.max
    else:
        fits = kind is Any or type(value) is kind
    if fits:
        return value
    raise wrong(where, value, _WORDS[origin or kind] + otherwise)


def plain(value: Any) -> Any:
    """Returns a value as dicts and lists for json.dumps, as the inverse of `typed`, without fields at their default.

    Numbers of NumPy become those of Python.
    """
    if is_dataclass(value):
        named = {field: getattr(value, field.name) for field in fields(value)}
        return {field.name: plain(one) for field, one in named.items() if one != _default(field)}
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value.item() if isinstance(value, np.generic) else value


def wrong(where: str, value: Any, allowed: str) -> UserError:
    """Returns a UserError for a value that is not allowed.

    where: the path of the value, as in `typed`. allowed: what is allowed, in words.
    """
    text = repr(value) if value is not None else "missing" if where else "null"
    return UserError(f"{where or 'the file'} is {text if len(text) <= 60 else f'{text[:57]}...'}; allowed is {allowed}")


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _default(field: Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _record(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise wrong(where, value, "an object")
    given = {}
    for field in fields(kind):
        if field.name in value or _default(field) is MISSING:
            given[field.name] = typed(_hints(kind)[field.name], value.get(field.name), _path(where, field.name))
    try:
        return kind(**given)
    except UserError as error:  # raised in __post_init__, which does not know the path of its object in the file
        raise UserError(_path(where, str(error))) from None


def _path(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no number")
