"""The report as ONE HTML file: style, script and figures are inside, nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
from html import escape
from importlib import resources
from pathlib import Path

from fastlt.report.compare.html_table import sortable, table_html
from fastlt.report.compare.model import Across, Drawing, Gap, Table

# The page can ask nothing of the network, whatever a name in it may hold.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def write_page(across: Across, path: Path) -> None:
    """Write the report to `path`; the figures are read from `across.figures`/SLUG.svg.

    The same report gives the same bytes. Every text of `across` is taken as plain text.

    Raises:
        OSError: a figure cannot be read, or `path` cannot be written.
    """
    path.write_text(_page(across), encoding="utf-8", newline="\n")


def _page(across: Across) -> str:
    title = escape(across.title)
    main = [_gaps(across.gaps), _tables(across.tables), _figures(across), _runs(across)]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{_own('page.css')}</style>\n<script>\n{_own('page.js')}</script>\n</head>\n"
        f"<body>\n<header>\n<h1>{title}</h1>\n{_paragraphs(across.summary, 'lead')}"
        f"{_warnings('Read this first', across.warnings, 2)}\n</header>\n{_contents(across)}\n<main>\n"
        + "\n".join(part for part in main if part)
        + "\n</main>\n<footer><p>Written by <code>python -m fastlt.report</code> from results.json.</p></footer>\n"
        "</body>\n</html>\n"
    )


def _own(name: str) -> str:
    return (resources.files("fastlt.report.compare") / name).read_text(encoding="utf-8")


def _contents(across: Across) -> str:
    """Links to all parts, closed on a narrow screen."""
    lines = ['<li><a href="#gaps">Cells without results</a></li>'] if across.gaps else []
    for name, parts in (("Tables", across.tables), ("Figures", across.drawings)):
        if parts:
            links = "".join(f'<li><a href="#{_anchor(part)}">{escape(part.title)}</a></li>' for part in parts)
            lines.append(f'<li><a href="#{name.lower()}">{name}</a>\n<ul>{links}</ul></li>')
    if across.runs:
        lines.append('<li><a href="#runs">Runs</a></li>')
    links = "\n".join(lines)
    return (
        f'<nav aria-label="Contents">\n<details>\n<summary>Contents</summary>\n<ul>\n{links}\n</ul>\n</details>\n</nav>'
    )


def _anchor(part: Table | Drawing) -> str:
    return escape(f"{'table' if isinstance(part, Table) else 'figure'}-{part.slug}")


def _warnings(title: str, warnings: tuple[str, ...], level: int) -> str:
    if not warnings:
        return ""
    lines = "".join(f"<li>{escape(warning)}</li>" for warning in warnings)
    return f'<section class="warning" role="note">\n<h{level}>{title}</h{level}>\n<ul>{lines}</ul>\n</section>'


def _gaps(gaps: tuple[Gap, ...]) -> str:
    if not gaps:
        return ""
    rows = tuple((gap.name, gap.reason) for gap in gaps)
    return (
        '<section id="gaps">\n<h2 id="gaps-title">Cells without results</h2>\n'
        f"<p>{len(gaps)} of the planned cells {'has' if len(gaps) == 1 else 'have'} no results: the tables lack "
        f"{'it' if len(gaps) == 1 else 'them'}.</p>\n"
        f"{_text_table(('cell', 'reason'), rows, 'gaps-title', 'Planned cells of the grid')}\n</section>"
    )


def _tables(tables: tuple[Table, ...]) -> str:
    if not tables:
        return ""
    parts = [
        f'<section id="{_anchor(table)}">\n<h3 id="{_anchor(table)}-title">{escape(table.title)}</h3>\n'
        f"{_warnings('Before you compare', table.warnings, 4)}\n{_paragraphs((table.about,))}"
        f"{table_html(table, f'{_anchor(table)}-title')}\n</section>"
        for table in tables
    ]
    return "\n".join(['<section id="tables">\n<h2>Tables</h2>', *parts, "</section>"])


def _figures(across: Across) -> str:
    if not across.drawings:
        return ""
    parts = [
        f'<section id="{_anchor(drawing)}">\n<h3>{escape(drawing.title)}</h3>\n<figure>\n'
        f'<img src="data:image/svg+xml;base64,{_encoded(across.figures / f"{drawing.slug}.svg")}" '
        f'alt="{escape(drawing.alt)}">\n<figcaption>{escape(drawing.caption)}</figcaption>\n</figure>\n</section>'
        for drawing in across.drawings
    ]
    return "\n".join(['<section id="figures">\n<h2>Figures</h2>\n<div class="figures">', *parts, "</div>\n</section>"])


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode("ascii")


def _runs(across: Across) -> str:
    if not across.runs:
        return ""
    table = _text_table(across.run_heads, across.runs, "runs-title", "A row for each run")
    return f'<section id="runs">\n<h2 id="runs-title">Runs</h2>\n{table}\n</section>'


def _text_table(heads: tuple[str, ...], rows: tuple[tuple[str, ...], ...], heading: str, about: str) -> str:
    """A table of texts, the first of a row its head."""
    head = "".join(sortable(place, name, "ascending") for place, name in enumerate(heads))
    body = "\n".join(
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(text)}</td>" for text in row[1:])}</tr>'
        for row in rows
    )
    return (
        f'<div class="scroll" role="region" aria-labelledby="{heading}" tabindex="0">\n<table class="texts">\n'
        f"<caption><span>{about}.</span></caption>\n"
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>"
    )


def _paragraphs(texts: tuple[str, ...], kind: str = "") -> str:
    found = f' class="{kind}"' if kind else ""
    return "".join(f"<p{found}>{escape(text)}</p>\n" for text in texts if text)
