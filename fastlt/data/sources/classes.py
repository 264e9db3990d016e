"""Class names: their order, files that determine it, and labels that are numbers."""

import itertools
import json
import re
import unicodedata
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path

import numpy as np

from fastlt.core.errors import UserError
from fastlt.core.log import say
from fastlt.core.text import is_one_line
from fastlt.core.words import agree, counted, first_of
from fastlt.data.sources.base import Derived, Listing, Source
from fastlt.data.sources.listed import shown

_NUMBER = re.compile(r"-?\d+(\.\d*([eE][+-]?\d+)?)?", re.ASCII)
# How programs write a missing value, or one that is no class.
_MISSING = {"nan", "-nan", "na", "n/a", "<na>", "nat", "null", "none", "inf", "-inf", "?", "-"}
_MAPPED = (  # lines of a class map
    re.compile(r"(?P<name>.+?)[\s,;]\s*(?P<number>\d+)", re.ASCII),
    re.compile(r"(?P<number>\d+)\s*[\s,;:]\s*(?P<name>.+)", re.ASCII),
)


def spelled(labels: Collection[str]) -> dict[str, str]:
    """Returns {label: class name}. If all labels are numbers, `1.0` and `1` are the same class, `1`.

    Raises UserError for a missing value, such as `nan`, among numbers.

    Example:

        >>> spelled(["1.0", "2"])
        {'1.0': '1', '2': '2'}
    """
    strange = [label for label in labels if not _NUMBER.fullmatch(label)]
    if strange and len(strange) < len(labels) and all(label.lower() in _MISSING for label in strange):
        raise UserError(
            f"the label {strange[0]!r} stands among numbers: rows without a class cannot be used; give them one, or "
            "take them out"
        )
    return {label: label if strange else _whole(label) for label in labels}


def _whole(number: str) -> str:
    """Returns a whole number that is written with a decimal point without it; any other number unchanged."""
    value = Decimal(number)
    return f"{value:.0f}" if "." in number and value == value.to_integral_value() and abs(value) < 2**63 else number


def sorted_names(names: Iterable[str]) -> list[str]:
    """Sorts class names, by value if all are numbers, else as text. Repeated names are returned once.

    Example:

        >>> sorted_names(["10", "2"]), sorted_names(["cat", "10", "2"])
        (['2', '10'], ['10', '2', 'cat'])
    """
    found = set(names)
    if all(map(_NUMBER.fullmatch, found)):
        return sorted(found, key=lambda name: (Decimal(name), name))
    return sorted(found)


def say_text_order(class_names: list[str]) -> None:
    """Prints a note if class names that are numbers are not in the order of their values, such as `10` before `2`."""
    numbers = [name for name in class_names if _NUMBER.fullmatch(name)]
    for first, second in itertools.pairwise(numbers):
        if Decimal(first) > Decimal(second):
            say(
                f"note: class {class_names.index(first)} is {first!r} and class {class_names.index(second)} is "
                f"{second!r}: the order of their text; class_names=FILE sets another one"
            )
            return


def read_class_names(path: Path) -> list[str]:
    """Reads class names from a file and returns them in the order of their class indices.

    The file has one of these forms:
        a name per line;
        a class map: lines of `name number` or `number name`, separated by a space, comma, semicolon or tab;
        JSON: ["name", ...], {"name": number, ...} or {"number": "name", ...}.

    Raises UserError for any other file, for a name that occurs twice, and for numbers that are not 0 to C - 1.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise UserError(f"class_names={path}: cannot read ({reason}); expected a class name a line") from None
    names = _from_json(path, text) if path.suffix.lower() == ".json" else _from_lines(text)
    if not names:
        raise UserError(f"class_names={path}: there is no name in it; expected a class name a line")
    check_names(names, f"class_names={path}")
    return names


def check_names(names: list[str], place: str) -> None:
    """Raises UserError for a name that occurs twice or has control characters. place: where the names come from."""
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        first = names.index(twice)
        raise UserError(
            f"{place}: {twice!r} is the name of class {first} and of class {names.index(twice, first + 1)}; every "
            "class needs a name of its own"
        )
    for name in names:
        if not is_one_line(name):
            raise UserError(f"{place}: the name {name!r} holds a line break or another control character")


def check_alike(class_names: list[str]) -> None:
    """Raises UserError for two names with the same letters in another encoding; prints names that differ in case only.

    An accent may be a character of its own, as in file names of macOS, and the two names then look the same everywhere.
    """
    for same in (lambda name: unicodedata.normalize("NFC", name), str.casefold):
        found: dict[str, str] = {}
        pairs = [(first, name) for name in class_names if (first := found.setdefault(same(name), name)) != name]
        if not pairs:
            continue
        first, second = pairs[0]
        if same is not str.casefold:
            raise UserError(
                f"the classes {first!r} and {second!r} look the same but are spelled {first!a} and "
                f"{second!a}: rename one of them, so that they are one class"
            )
        more = f", as do {counted(len(pairs) - 1, 'more pair')}" if len(pairs) > 1 else ""
        say(f"note: the classes {first!r} and {second!r} differ only in upper and lower case{more}: are they one?")


def _from_lines(text: str) -> list[str]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for form in _MAPPED:
        found = [form.fullmatch(line) for line in lines]
        numbered = {int(one["number"]): one["name"].strip() for one in found if one}
        # Lines are a class map only if the numbers are exactly 0 to C - 1 and the remaining names differ: otherwise
        # `class 0` and `class 1` are names.
        if sorted(numbered) == list(range(len(lines))) and len(set(numbered.values())) == len(lines):
            return [numbered[number] for number in range(len(lines))]
    return lines


def _from_json(path: Path, text: str) -> list[str]:
    form = 'expected ["name", ...], {"name": number, ...} or {"number": "name", ...}'
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"class_names={path}: not JSON ({error}); {form}") from None
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        return [name.strip() for name in content]
    if not isinstance(content, dict):
        raise UserError(f"class_names={path}: {form}")
    if all(isinstance(name, str) and number.isdecimal() for number, name in content.items()):
        numbered = {int(number): name.strip() for number, name in content.items()}
    elif all(type(number) is int for number in content.values()) and len(set(content.values())) == len(content):
        numbered = {number: name.strip() for name, number in content.items()}
    else:
        raise UserError(f"class_names={path}: {form}, every class with a number of its own")
    if sorted(numbered) != list(range(len(content))):
        raise UserError(f"class_names={path}: the numbers must be 0 to {len(content) - 1}, each once")
    return [numbered[number] for number in range(len(content))]


@dataclass(frozen=True)
class Renumbered(Derived):
    """A source with its classes in another order, or with names for classes that only had numbers.

    class_names: the names of all classes of the source in the wanted order; or, if the source's classes are named `0`
    to `C-1`, new names for them.

    Raises UserError if these are not the source's classes.
    """

    source: Source
    class_names: list[str]
    splits: dict[str, Listing] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        old, new = self.source.class_names, self.class_names
        if set(new) == set(old):
            places = {name: place for place, name in enumerate(new)}
            number = np.array([places[name] for name in old], np.int64)
        elif len(new) == len(old) and old == [str(place) for place in range(len(old))]:
            number = np.arange(len(old))
        else:
            unknown, missing = (
                [name for name in one if name not in other] for one, other in ((new, set(old)), (old, set(new)))
            )
            which = f"lacks {some(missing)}" if missing else f"has {some(unknown)}, of which there is no training image"
            raise UserError(
                f"class_names {which}: it must name each of the {counted(len(old), 'class')} once, {some(old)}; "
                f"it has {counted(len(new), 'name')}"
            )
        splits = {name: replace(one, labels=number[one.labels]) for name, one in self.source.splits.items()}
        object.__setattr__(self, "splits", splits)


def some(names: list[str], most: int = 3) -> str:
    """Returns the first `most` names for a message, quoted, and how many more there are.

    >>> some(["cat", "dog", "elk"], most=2)
    "'cat', 'dog' and 1 more"
    """
    return first_of([shown(name) for name in names], most)


def without_training(names: list[str]) -> str:
    """Returns, for a message, that no image of train is of these classes.

    >>> without_training(["cat"]), without_training(["cat", "dog", "elk"])
    ("class 'cat' has no training image", "classes 'cat', 'dog', 'elk' have no training image")
    """
    return f"class{'es' * (len(names) > 1)} {some(names, 20)} {agree(len(names), 'has', 'have')} no training image"
