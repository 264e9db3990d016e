"""What a report across runs is made of, as plain values: every writer (Markdown, CSV, LaTeX, HTML) shows the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Measured:
    """An accuracy of ours in percent: mean and sample standard deviation over runs that differ in their seed only."""

    mean: float
    sd: float | None  # None for a single run
    runs: int


@dataclass(frozen=True)
class Published:
    """An accuracy that a public source prints, in percent."""

    value: float
    source: str  # who prints it


@dataclass(frozen=True)
class Cell:
    """Ours beside the published one; either may be missing, and an empty cell stays empty.

    comparable: whether both come from the same protocol; Table.warnings say what differs.
    """

    ours: Measured | None = None
    published: Published | None = None
    comparable: bool = True

    @property
    def difference(self) -> float | None:
        """Ours minus published, in points; None where one is missing or the two cannot be compared."""
        return self.ours.mean - self.published.value if self.ours and self.published and self.comparable else None


@dataclass(frozen=True)
class Row:
    """labels: what the row is of, one for each of Table.heads. cells: one for each of Table.columns.

    note: what a reader must know of this row, such as a choice made on test; empty for nothing.
    """

    labels: tuple[str, ...]
    cells: tuple[Cell, ...]
    note: str = ""


@dataclass(frozen=True)
class Table:
    """slug: its file name. heads: of the label columns; columns: of the accuracies (many, medium, few, all).

    about: sentences under the title. warnings: what keeps ours from being compared with the published, such as a
    shortened training.
    """

    slug: str
    title: str
    heads: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    about: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Drawing:
    """A figure that lies in figures/`slug`.svg and .png."""

    slug: str
    title: str
    caption: str
    alt: str  # what it shows, in words, for those who do not see it


@dataclass(frozen=True)
class Gap:
    """A planned cell of a grid that has no results: its name, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Across:
    """A whole report. warnings: of all of it. runs: a row for each run, under run_heads."""

    title: str
    summary: tuple[str, ...]
    warnings: tuple[str, ...]
    gaps: tuple[Gap, ...]
    tables: tuple[Table, ...]
    drawings: tuple[Drawing, ...]
    run_heads: tuple[str, ...]
    runs: tuple[tuple[str, ...], ...]
    figures: Path  # folder of the drawings
