"""The content of a report across runs as dataclasses, from which Markdown, CSV, LaTeX and HTML are written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Measured:
    """A measured accuracy in percent: mean and sample standard deviation over runs that differ only in their seed."""

    mean: float
    sd: float | None  # None for a single run
    runs: int


@dataclass(frozen=True)
class Published:
    """A published accuracy in percent, with its source."""

    value: float
    source: str  # who prints it


@dataclass(frozen=True)
class Cell:
    """A cell with our accuracy and the published one; either or both may be missing.

    comparable: whether both come from the same protocol; if not, Table.warnings say what differs.
    """

    ours: Measured | None = None
    published: Published | None = None
    comparable: bool = True

    @property
    def difference(self) -> float | None:
        """Ours minus published, in percentage points; None if one is missing or they must not be compared."""
        return self.ours.mean - self.published.value if self.ours and self.published and self.comparable else None


@dataclass(frozen=True)
class Row:
    """A row of a table.

    labels: one for each of Table.heads. cells: one for each of Table.columns.
    note: something the reader must know, such as a choice made on test; "" for nothing.
    """

    labels: tuple[str, ...]
    cells: tuple[Cell, ...]
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table.

    slug: its file name without the extension. title: its title.
    heads: the headings of the label columns. columns: the headings of the accuracies, such as many, medium, few, all.
    about: sentences below the title. warnings: why our numbers must not be compared with the published ones, such as
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
    """A figure in figures/`slug`.svg and .png."""

    slug: str
    title: str
    caption: str
    alt: str  # alternative text: what the figure shows, for readers who cannot see it


@dataclass(frozen=True)
class Gap:
    """A planned cell of a grid without results: its name, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True)
class Across:
    """A complete report. warnings: those that concern all of it. runs: a row for each run, with headings run_heads."""

    title: str
    summary: tuple[str, ...]
    warnings: tuple[str, ...]
    gaps: tuple[Gap, ...]
    tables: tuple[Table, ...]
    drawings: tuple[Drawing, ...]
    run_heads: tuple[str, ...]
    runs: tuple[tuple[str, ...], ...]
    figures: Path  # the folder of the figures
