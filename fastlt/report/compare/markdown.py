"""Writes report.md of a report across runs."""

from __future__ import annotations

from fastlt.report.compare.model import Across, Cell, Drawing, Row, Table
from fastlt.report.names import escaped

MARK = "<!-- python -m fastlt.report RUNS --out DIR -->"  # the first line of every report of this kind


def markdown(across: Across) -> str:
    """Returns the text of report.md, with links to tables/ and figures/ in the same folder."""
    parts = [f"# {escaped(across.title)}", *_warned(across.warnings), *map(escaped, across.summary)]
    if across.gaps:
        rows = [(gap.name, gap.reason) for gap in across.gaps]
        parts += ["## Cells without results", _grid(("cell", "reason"), rows)]
    if across.tables:
        parts += ["## Tables", *map(_table, across.tables)]
    if across.drawings:
        parts += ["## Figures", *map(_figure, across.drawings)]
    if across.runs:
        parts += ["## Runs", _grid(across.run_heads, across.runs)]
        parts += ["[results.csv](results.csv) holds every number of every run."]
    return "\n\n".join([MARK, *parts]) + "\n"


def _table(table: Table) -> str:
    notes = list(dict.fromkeys(row.note for row in table.rows if row.note))
    known = any(cell.published for row in table.rows for cell in row.cells)
    heads = [*table.heads, *table.columns, *(["published by"] if known else []), *(["note"] if notes else [])]
    lines = ["| " + " | ".join(map(escaped, heads)) + " |"]
    lines += ["|" + "---|" * len(table.heads) + "---:|" * len(table.columns) + "---|" * (known + bool(notes))]
    for row in table.rows:
        texts = [*map(escaped, row.labels), *map(_cell, row.cells)]
        texts += [escaped(_sources(row))] if known else []
        texts += [f"({notes.index(row.note) + 1})" if row.note else ""] if notes else []
        lines.append("| " + " | ".join(texts) + " |")
    below = [f"({place}) {escaped(note)}" for place, note in enumerate(notes, 1)]
    if known:
        both = any(cell.difference is not None for row in table.rows for cell in row.cells)
        below.insert(0, "In brackets: the published number" + (", and ours minus it." if both else "."))
    files = f"[CSV](tables/{table.slug}.csv), [LaTeX](tables/{table.slug}.tex)"
    parts = [f"### {escaped(table.title)}", *_warned(table.warnings), escaped(table.about), "\n".join(lines)]
    return "\n\n".join(part for part in [*parts, "  \n".join(below), files] if part)


def _cell(cell: Cell) -> str:
    """Returns `49.1 ± 0.2 (49.6, -0.5)`: our number, and in brackets the published number and the difference."""
    texts = []
    if cell.ours:
        texts.append(f"{cell.ours.mean:.1f}" + ("" if cell.ours.sd is None else f" ± {cell.ours.sd:.1f}"))
    if cell.published:
        change = "" if cell.difference is None else f", {cell.difference:+.1f}".replace("-0.0", "+0.0")
        texts.append(f"({cell.published.value:.1f}{change})")
    return " ".join(texts)


def _sources(row: Row) -> str:
    return "; ".join(dict.fromkeys(cell.published.source for cell in row.cells if cell.published))


def _figure(drawing: Drawing) -> str:
    alt = escaped(drawing.alt).replace("]", "\\]")
    link = f"[![{alt}](figures/{drawing.slug}.png)](figures/{drawing.slug}.svg)"
    return f"### {escaped(drawing.title)}\n\n{link}\n\n*{escaped(drawing.caption)}*"


def _warned(warnings: tuple[str, ...]) -> list[str]:
    return ["\n>\n".join(f"> **Warning: {escaped(warning)}**" for warning in warnings)] if warnings else []


def _grid(heads: tuple[str, ...], rows: list[tuple[str, ...]] | tuple[tuple[str, ...], ...]) -> str:
    lines = ["| " + " | ".join(map(escaped, heads)) + " |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *("| " + " | ".join(map(escaped, row)) + " |" for row in rows)])
