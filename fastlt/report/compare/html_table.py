"""A table of the HTML page: ours, the published number and the difference side by side, their sources below."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

from fastlt.report.compare.model import Cell, Row, Table

LONGEST = 22  # letters of a label in one line; longer ones wrap


def table_html(table: Table, heading: str) -> str:
    """The table in a box that scrolls by itself; below it the notes of its rows and the sources of its published cells.

    A column has a column of published numbers and one of differences only where it has any; there is a column of runs
    only where rows have different ones. heading: id of the title.
    """
    cells = [cell for row in table.rows for cell in row.cells]
    look = _Look(
        parts=[_parts([row.cells[place] for row in table.rows]) for place in range(len(table.columns))],
        spread=any(cell.ours and cell.ours.sd is not None for cell in cells),
        runs=sorted({cell.ours.runs for cell in cells if cell.ours}),
        notes=_numbered(row.note for row in table.rows if row.note),
        sources=_numbered(cell.published.source for cell in cells if cell.published),
    )
    count = len(table.heads)
    widths = "".join(f"--{_label(place, count)}:{_width(table, place)};" for place in range(count))
    body = "\n".join(_row(row, look, begins) for row, begins in zip(table.rows, _begins(table), strict=True))
    return (
        f'<div class="scroll" role="region" aria-labelledby="{escape(heading)}" tabindex="0">\n'
        f'<table style="{widths}">\n<caption><span>{_caption(look)}</span></caption>\n'
        f"<thead>\n{_head(table, look)}\n</thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>\n{_below(look)}"
    )


@dataclass(frozen=True)
class _Look:
    """What the cells of a table have in common. parts: of each column. spread: whether any number has a ±.

    runs: how many there are of a number. notes, sources: with the places that they are marked with, from 1.
    """

    parts: list[tuple[str, ...]]
    spread: bool
    runs: list[int]
    notes: dict[str, int]
    sources: dict[str, int]


def _caption(look: _Look) -> str:
    text = "Accuracy on test in %"
    if len(look.runs) == 1:
        text += f", mean ± standard deviation over {look.runs[0]} runs" if look.spread else ", one run each"
    elif look.spread:
        text += ", mean ± standard deviation over runs"
    return text + ("; diff.: ours minus published, in points." if any("diff." in part for part in look.parts) else ".")


def _parts(cells: list[Cell]) -> tuple[str, ...]:
    """What a column is divided into: ours, and where there are any the published numbers and the differences."""
    published = any(cell.published for cell in cells)
    difference = any(cell.difference is not None for cell in cells)
    return ("ours", *(["published"] if published else []), *(["diff."] if difference else []))


def _head(table: Table, look: _Look) -> str:
    """One row of heads, or two where a column has more than ours."""
    deep = ' rowspan="2"' if any(len(part) > 1 for part in look.parts) else ""
    first = [
        sortable(place, head, "ascending", f'class="label {_label(place, len(table.heads))}"{deep}')
        for place, head in enumerate(table.heads)
    ]
    second: list[str] = []
    place = len(first)
    for column, part in zip(table.columns, look.parts, strict=True):
        if len(part) == 1:
            first.append(sortable(place, column, "descending", f'class="number ours"{deep}'))
        else:
            first.append(f'<th scope="colgroup" colspan="{len(part)}" class="ours">{escape(column)}</th>')
            second += [
                sortable(place + at, name, "descending", f'class="number {name}"') for at, name in enumerate(part)
            ]
        place += len(part)
    if len(look.runs) > 1:
        first.append(sortable(place, "runs", "descending", f'class="number runs"{deep}'))
    return "\n".join(f"<tr>{''.join(row)}</tr>" for row in (first, second) if row)


def sortable(place: int, name: str, order: str, attributes: str = "") -> str:
    """The head of the column with cells at `place` in their rows; order: of the first click (ascending, ...)."""
    about = " ".join(part for part in (attributes, f'data-column="{place}" data-sort="{order}"') if part)
    return f'<th scope="col" {about}><span>{escape(name)}</span></th>'


def _label(place: int, count: int) -> str:
    """The class of a label column: the last two stay in sight when the table scrolls, a phone has room for no more."""
    return ("before", "stays0", "stays1")[max(place - max(count - 2, 0), -1) + 1]


def _begins(table: Table) -> list[bool]:
    """For every row whether a block of rows with one first label begins there; nowhere if all blocks are of one row."""
    firsts = [row.labels[0] for row in table.rows]
    changes = [one != above for one, above in zip(firsts[1:], firsts, strict=False)]
    return [False, *changes] if not all(changes) else [False] * len(firsts)


def _row(row: Row, look: _Look, begins: bool) -> str:
    mark = f" <sup>{_letter(look.notes[row.note])}</sup>" if row.note else ""
    labels = [escape(label) for label in row.labels]
    labels[-1] += mark
    cells = [
        f'<th scope="row" class="label {_label(place, len(labels))}"><span>{label}</span></th>'
        for place, label in enumerate(labels)
    ]
    for cell, part in zip(row.cells, look.parts, strict=True):
        cells += [_number(*_part(cell, name, look)) for name in part]
    if len(look.runs) > 1:
        cells.append(_runs(row))
    start = '<tr class="next">' if begins else "<tr>"
    return f"{start}{''.join(cells)}</tr>"


def _runs(row: Row) -> str:
    counts = sorted({cell.ours.runs for cell in row.cells if cell.ours})
    if not counts:
        return _number(None, "", "runs")
    return _number(counts[0], "–".join(map(str, dict.fromkeys((counts[0], counts[-1])))), "runs")


def _part(cell: Cell, name: str, look: _Look) -> tuple[float | None, str, str]:
    """Value, HTML and class of one number of a cell."""
    ours, published, change = cell.ours, cell.published, cell.difference
    if name == "ours" and ours:
        # Every row keeps the place of its ±, so that the numbers of a column stand below one another.
        sd = f' <span class="sd">{"" if ours.sd is None else f"± {ours.sd:.1f}"}</span>' if look.spread else ""
        return ours.mean, f"{ours.mean:.1f}{sd}", name
    if name == "published" and published:
        mark = f" <sup>[{look.sources[published.source]}]</sup>" if len(look.sources) > 1 else ""
        return published.value, f"{published.value:.1f}{mark}", name
    if name == "diff." and change is not None:
        text = _signed(change)
        return change, text, "" if text == "0.0" else "plus" if change > 0 else "minus"
    return None, "", name


def _number(value: float | None, html: str, kind: str) -> str:
    """A cell with the value that the script sorts by; one without stays empty and comes last."""
    return f'<td class="number {kind}"' + ("></td>" if value is None else f' data-value="{value:.6g}">{html}</td>')


def _below(look: _Look) -> str:
    lines = [f"<li><sup>{_letter(place)}</sup> {escape(note)}</li>" for note, place in look.notes.items()]
    many = len(look.sources) > 1
    lines += [
        f"<li>{f'[{place}]' if many else 'Published:'} {escape(name)}</li>" for name, place in look.sources.items()
    ]
    return f'<ul class="notes" aria-label="Notes and sources">\n{"".join(lines)}\n</ul>' if lines else ""


def _numbered(texts: Iterable[str]) -> dict[str, int]:
    return {text: place for place, text in enumerate(dict.fromkeys(texts), 1)}


def _letter(place: int) -> str:
    """a, b, ..., z, aa, bb, ..."""
    turn, letter = divmod(place - 1, 26)
    return chr(ord("a") + letter) * (turn + 1)


def _width(table: Table, place: int) -> int:
    """Letters of a label column: as many as its longest label, the note's letter included, but not too many."""
    texts = [row.labels[place] + ("  " if row.note else "") for row in table.rows]
    return min(max(map(len, [f"{table.heads[place]}   ", *texts])), LONGEST)


def _signed(change: float) -> str:
    text = f"{change:+.1f}"
    return "0.0" if text[1:] == "0.0" else text.replace("-", "−")
