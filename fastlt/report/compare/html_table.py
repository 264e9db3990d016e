"""Computes how a table is shown on the HTML page. The template page.html makes the table from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fastlt.report.compare.model import Cell, Row, Table

LONGEST = 22  # letters of a label in one line; longer labels wrap


@dataclass(frozen=True)
class Look:
    """How a table is shown.

    parts: the sub-columns of each column: `ours`, and `published` and `diff.` if it has any.
    spread: whether any number has a ±.
    runs: the different numbers of runs behind the numbers. If there are several, the table has a column for them.
    notes, sources: {text: the mark that refers to it}.
    labels: (CSS class, width in letters) of each label column.
    begins: for each row, whether a block of rows with the same first label begins there.
    """

    parts: list[tuple[str, ...]]
    spread: bool
    runs: list[int]
    notes: dict[str, str]
    sources: dict[str, str]
    labels: list[tuple[str, int]]
    begins: list[bool]

    @property
    def caption(self) -> str:
        """A sentence on what the numbers are."""
        text = "Accuracy on test in %"
        if len(self.runs) == 1:
            text += f", mean ± standard deviation over {self.runs[0]} runs" if self.spread else ", one run each"
        elif self.spread:
            text += ", mean ± standard deviation over runs"
        return text + ("; diff.: ours minus published, in points." if any("diff." in p for p in self.parts) else ".")


def look(table: Table) -> Look:
    """Returns how a table is shown."""
    cells = [cell for row in table.rows for cell in row.cells]
    sources = _numbered(cell.published.source for cell in cells if cell.published)
    count = len(table.heads)
    firsts = [row.labels[0] for row in table.rows]
    changes = [one != above for one, above in zip(firsts[1:], firsts, strict=False)]
    return Look(
        parts=[_parts([row.cells[place] for row in table.rows]) for place in range(len(table.columns))],
        spread=any(cell.ours and cell.ours.sd is not None for cell in cells),
        runs=sorted({cell.ours.runs for cell in cells if cell.ours}),
        notes={note: _letter(place) for note, place in _numbered(row.note for row in table.rows if row.note).items()},
        sources={source: f"[{place}]" if len(sources) > 1 else "" for source, place in sources.items()},
        # The last two label columns stay visible when the table scrolls; a phone has no room for more.
        labels=[
            (("before", "stays0", "stays1")[max(place - max(count - 2, 0), -1) + 1], _width(table, place))
            for place in range(count)
        ],
        begins=[False, *(change and not all(changes) for change in changes)],
    )


def runs_of(row: Row) -> str:
    """Returns the number of runs behind the numbers of a row, such as `3` or `2–3`; "" if there are none."""
    counts = sorted({cell.ours.runs for cell in row.cells if cell.ours})
    return "–".join(map(str, dict.fromkeys((counts[0], counts[-1])))) if counts else ""


def signed(change: float) -> str:
    """Formats a difference with its sign; 0.0 has none."""
    text = f"{change:+.1f}"
    return "0.0" if text[1:] == "0.0" else text.replace("-", "−")


def _parts(cells: list[Cell]) -> tuple[str, ...]:
    published = any(cell.published for cell in cells)
    difference = any(cell.difference is not None for cell in cells)
    return ("ours", *(["published"] if published else []), *(["diff."] if difference else []))


def _numbered(texts: Iterable[str]) -> dict[str, int]:
    return {text: place for place, text in enumerate(dict.fromkeys(texts), 1)}


def _letter(place: int) -> str:
    """Returns the letter for the n-th note: a, b, ..., z, aa, bb, ..."""
    turn, letter = divmod(place - 1, 26)
    return chr(ord("a") + letter) * (turn + 1)


def _width(table: Table, place: int) -> int:
    """Returns the width of a label column in letters: that of its longest label with the note's mark, up to LONGEST."""
    texts = [row.labels[place] + ("  " if row.note else "") for row in table.rows]
    return min(max(map(len, [f"{table.heads[place]}   ", *texts])), LONGEST)
