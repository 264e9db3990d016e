"""Writes a table as LaTeX, to be used with \\input in a document that loads the packages booktabs and textcomp."""

from __future__ import annotations

import re

from fastlt.core.log import printed
from fastlt.report.compare.model import Cell, Row, Table

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "†": r"$\dagger$", "±": r"$\pm$", "×": r"$\times$",
}  # fmt: skip


def latex(table: Table) -> str:
    """Returns a tabular with our numbers and, in brackets, the published ones.

    Warnings are comments at its beginning; they also appear below the rows, with notes and sources.
    """
    width = len(table.heads) + len(table.columns)
    notes = list(dict.fromkeys(row.note for row in table.rows if row.note))
    sources = list(dict.fromkeys(c.published.source for row in table.rows for c in row.cells if c.published))
    below = [*table.warnings, *(f"({place}) {note}" for place, note in enumerate(notes, 1))]
    below += [f"In brackets: published numbers ({'; '.join(sources)})."] if sources else []
    lines = [f"% {_comment(table.title)}", *(f"% WARNING: {_comment(warning)}" for warning in table.warnings)]
    lines += ["% needs \\usepackage{booktabs}"]
    lines += [f"\\begin{{tabular}}{{{'l' * len(table.heads)}{'r' * len(table.columns)}}}", r"\toprule"]
    lines += [_line([*map(_escaped, table.heads), *map(_escaped, table.columns)]), r"\midrule"]
    lines += [_row(row, notes) for row in table.rows]
    lines += [r"\bottomrule"]
    lines += [rf"\multicolumn{{{width}}}{{p{{0.9\linewidth}}}}{{\footnotesize {_escaped(text)}}} \\" for text in below]
    return "\n".join([*lines, r"\end{tabular}"]) + "\n"


def _row(row: Row, notes: list[str]) -> str:
    labels = [_escaped(text) for text in row.labels]
    if row.note:
        labels[-1] += rf" \textsuperscript{{({notes.index(row.note) + 1})}}"
    return _line([*labels, *map(_cell, row.cells)])


def _cell(cell: Cell) -> str:
    texts = []
    if cell.ours:
        texts.append(f"{cell.ours.mean:.1f}" + ("" if cell.ours.sd is None else rf" $\pm$ {cell.ours.sd:.1f}"))
    if cell.published:
        texts.append(f"({cell.published.value:.1f})")
    return " ".join(texts)


def _line(texts: list[str]) -> str:
    return " & ".join(texts) + r" \\"


def _escaped(text: str) -> str:
    plain = re.sub(r"[\\{}$&#%_^~<>|†±×]", lambda found: _SPECIAL[found[0]], _comment(text))
    return (
        f"{{}}{plain}" if plain.startswith(("[", "*")) else plain
    )  # LaTeX would take [ or * at the start of a line as an argument of the \\ before it


def _comment(text: str) -> str:
    return printed(" ".join(text.split()))
