"""Makes lists of the parameters in docstrings, for the API pages of the site.

fastlt's docstrings explain parameters in lines such as `counts: training images of each class, [C].` Markdown would
join such lines to one paragraph; here each becomes an item of a list.
"""

import re
from typing import Any

# pyright: reportMissingImports=false
# (griffe comes with the extra `docs`.)
import griffe

_ENTRY = re.compile(r"^(\w+(?:, \w+)*): ")


class Entries(griffe.Extension):
    """Rewrites the docstrings of functions and classes before they are rendered."""

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        """Rewrites the docstring of a function; griffe calls it for each."""
        self._rewrite(func, {parameter.name for parameter in func.parameters})

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """Rewrites the docstring of a class; griffe calls it for each."""
        own = {name for name, member in cls.members.items() if member.is_attribute}
        inside = cls.members.get("__init__")
        self._rewrite(cls, own | {one.name for one in getattr(inside, "parameters", ())})

    def _rewrite(self, item: griffe.Object, names: set[str]) -> None:
        if item.docstring:
            item.docstring.value = listed(item.docstring.value, names)


def listed(text: str, names: set[str]) -> str:
    """Returns a docstring in which each line `name: meaning` is an item of a list, with the lines that continue it.

    names: the parameters or fields that may be explained; other lines with a colon stay as they are.
    """
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        found = _ENTRY.match(line)
        if found and set(found[1].split(", ")) <= names:
            lines += [*([] if inside else [""]), f"- **{found[1]}**: {line[found.end() :]}"]
            inside = True
        else:
            inside = inside and line.startswith(" ")
            lines.append(line)
    return "\n".join(lines)
