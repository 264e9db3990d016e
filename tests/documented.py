"""The commands and the Python code that the README and the pages of docs/ show."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]
# docs/results is written by a command, and its tests know its content.
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "results" / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if path.parent != ROOT / "docs" / "results"
}
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`(python (?:-m fastlt\.(?:convert|train|grid|bench)|tools/convert\.py) [^`]+)`")


def python_blocks(page: str) -> list[str]:
    """The Python code of a page, in order."""
    return [code for kind, code in _BLOCK.findall(PAGES[page]) if kind == "python"]


def commands(page: str) -> list[list[str]]:
    """The command lines of a page as words, in order: of its blocks, and those with keys in running text and tables."""
    lines = []
    for kind, block in _BLOCK.findall(PAGES[page]):
        if not kind:
            lines += block.replace("\\\n", " ").splitlines()
    lines += _SPAN.findall(_BLOCK.sub("", PAGES[page]))
    split = [shlex.split(part, comments=True) for line in lines for part in line.split(" | ")]
    return [words for words in split if words]


def links(page: str) -> list[str]:
    """Targets of the links and pictures of a page that lie in the repository, without their anchors."""
    text = _BLOCK.sub("", PAGES[page])
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    return [target.partition("#")[0] for target in targets if "://" not in target and not target.startswith("#")]


def paths(page: str) -> list[str]:
    """Paths of the repository's own files that a page names in `code`."""
    spans = re.findall(r"`((?:fastlt|tests|tools|examples|docs|conf|kernels)/[\w./-]+)`", _BLOCK.sub("", PAGES[page]))
    return [span for span in spans if "NAME" not in span]
