"""Fills in generated tables while mkdocs builds the site: configuration keys and the named configurations in conf/.

A line `<!-- keys: MODULE:DATACLASS -->` of a page becomes a table of every key of that dataclass, and a line
`<!-- names: GROUP -->` a table of the files in conf/GROUP with the comment at their top.
"""

import re
import sys
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the modules of this checkout, not of an installed fastlt

from fastlt.core.keys import Key, described  # noqa: E402


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replaces the markers of a page by their tables; mkdocs calls it for every page."""
    markdown = re.sub(r"^<!-- keys: (\S+):(\S+) -->$", lambda found: keys(found[1], found[2]), markdown, flags=re.M)
    return re.sub(r"^<!-- names: (\S+) -->$", lambda found: names(found[1]), markdown, flags=re.M)


def keys(module: str, name: str) -> str:
    """Returns Markdown tables of the keys of a dataclass, one for each of its sections, such as `protocol.`"""
    sections: dict[str, list[Key]] = {"": []}
    for key in described(getattr(import_module(module), name)):
        sections.setdefault(key.path.rpartition(".")[0], []).append(key)
    text = []
    for section, rows in sections.items():
        title = [f"**Keys of `{section}.`**", ""] if section else []
        text += [*title, "| key | type | default | meaning |", "|---|---|---|---|", *map(_row, rows), ""]
    return "\n".join(text)


def names(group: str) -> str:
    """Returns a Markdown table of the configurations of conf/GROUP, with the comment at the top of each file."""
    rows = [
        f"| `{path.stem}` | {_comment(path)} |"
        for path in sorted((ROOT / "conf" / group).glob("*.yaml"))
        if path.stem != "auto"
    ]
    return "\n".join(["| name | what it is |", "|---|---|", *rows])


def _comment(path: Path) -> str:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("# @package")]
    comment = [line.lstrip("# ") for line in takewhile(lambda line: line.startswith("#"), lines)]
    return _cell(" ".join(f"`{line}`" if line.startswith("python ") else line for line in comment))


def _row(key: Key) -> str:
    default = "" if key.default is None else f"`{_plain(key.default)}`"
    return f"| `{key.path}` | {_cell(f'`{_kind(key.kind)}`')} | {default} | {_cell(key.meaning)} |"


def _kind(kind: str) -> str:
    kind = re.sub(r"tuple\[(\w+), [^]]*\]", r"list of \1", kind)
    return kind.replace("dict[str, Any]", "mapping").replace("tuple[list[str], ...]", "list of lists of str")


def _plain(value: Any) -> str:
    """Returns a default as it is written on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{','.join(f'{one:.4g}' if isinstance(one, float) else str(one) for one in value)}]"
    return '""' if value == "" else str(value)


def _cell(text: str) -> str:
    """Returns text for a cell of a table, in which nothing outside of `code` is taken for a link or for HTML."""
    parts = text.replace("|", "\\|").split("`")
    return "`".join(part if place % 2 else re.sub(r"([\[<*])", r"\\\1", part) for place, part in enumerate(parts))
