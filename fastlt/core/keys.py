"""The keys of a configuration with their types, defaults and meanings, read from its dataclasses and their source.

A field is explained where it is declared: by a comment after it, by comments above it, or in the docstring of its
class, as `name: meaning.` or `name, other_name: meaning.`
"""

import ast
import inspect
import re
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from typing import Any, get_type_hints


@dataclass(frozen=True)
class Key:
    """A key of a configuration.

    path: the key as on the command line, such as "protocol.lr". kind: its type, as text. default: its default, or None
    if it has none. meaning: one or more sentences, "" if its declaration explains nothing.
    """

    path: str
    kind: str
    default: Any
    meaning: str


def described(schema: type, parent: str = "") -> list[Key]:
    """Returns every key that a dataclass and its nested dataclasses declare, in the order of their declaration.

    schema: the dataclass, such as TrainConfig. parent: prefix of the keys, such as "protocol.".

    >>> from fastlt.core.schedule import RateConfig
    >>> print(described(RateConfig)[0])
    Key(path='warmup_epochs', kind='int', default=0, meaning='number W of epochs of a warm-up; 0 is none.')
    """
    found = []
    kinds = get_type_hints(schema)
    for field in fields(schema):
        kind, path = kinds[field.name], parent + field.name
        if is_dataclass(kind):
            assert isinstance(kind, type)
            found += described(kind, f"{path}.")
            continue
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        shown = kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)
        plain = shown.replace("typing.", "")
        found.append(Key(path, plain, None if default is MISSING else default, meaning(schema, field.name)))
    return found


def meaning(schema: type, name: str) -> str:
    """Returns what the declaration of a field says of it, or "" if it says nothing.

    Of several classes that declare or explain the field, the most derived one counts.
    """
    for kind in schema.__mro__:
        if is_dataclass(kind) and (text := _comments(kind).get(name) or _entries(kind).get(name)):
            return text
    return ""


@cache
def _comments(kind: type) -> dict[str, str]:
    """Returns the comments of the fields that a class itself declares, by field."""
    lines = inspect.getsourcelines(kind)[0]
    (tree,) = ast.parse("".join(lines)).body  # a class at the top level of its module: nothing is indented
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.end_lineno:
            behind = lines[node.end_lineno - 1][node.end_col_offset or 0 :].strip()
            above = []
            for line in reversed(lines[: node.lineno - 1]):
                if not line.strip().startswith("#"):
                    break
                above.insert(0, line.strip())
            found[node.target.id] = " ".join(one.lstrip("# ") for one in [*above, behind] if one.startswith("#"))
    return found


@cache
def _entries(kind: type) -> dict[str, str]:
    """Returns the entries `name, other_name: meaning` of a class's docstring, by field."""
    text = inspect.getdoc(kind) or ""
    names = {field.name for field in fields(kind)}
    found: dict[str, str] = {}
    starts = [
        match
        for match in re.finditer(r"(?:^|(?<=[.;] ))(\w+(?:, \w+)*): ", text, re.MULTILINE)
        if set(match[1].split(", ")) <= names
    ]
    ends = [*(match.start() for match in starts), len(text)][1:]
    for match, end in zip(starts, ends, strict=bool(starts)):
        entry = re.split(r"\n\s*\n|\bThe rest\b", text[match.end() : end])[0]
        for name in match[1].split(", "):
            found[name] = " ".join(entry.split())
    return found
