"""Shows the last run in a file of rows as a table and a picture: python -m fastlt.bench.plot ROWS [PICTURE]."""

import argparse
from pathlib import Path

from fastlt.bench.peers import LOADERS
from fastlt.bench.rows import RATIO, Row, last_run, markdown
from fastlt.core.cli import guard
from fastlt.core.errors import UserError
from fastlt.core.own_backend import own_backend

with own_backend():
    from matplotlib.figure import Figure

    from fastlt.core.palette import WIDTH, styled

OURS, OTHERS, CEILING = "#004488", "#9a9a9a", "#c28a00"


def plot(rows: list[Row], path: Path) -> None:
    """Draws rows into an image file: a bar for each median, a line from the 20th to the 80th percentile.

    There is a panel for each unit. Ratios are left out. Raises UserError for an unknown image format.
    """
    figure = _draw([row for row in rows if row.unit != RATIO])
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        figure.savefig(path, dpi=150)
    except ValueError as error:
        raise UserError(f"plot={path}: {error}") from None


@styled
def _draw(rows: list[Row]) -> Figure:
    units = list(dict.fromkeys(row.unit for row in rows))
    panels = [[row for row in rows if row.unit == unit] for unit in units]
    heights = [0.3 * len(panel) + 0.4 for panel in panels]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.4), layout="constrained")
    grid = figure.subplots(len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for axes, panel, unit in zip(grid, panels, units, strict=True):
        names, values = [row.case for row in panel], [row.median for row in panel]
        axes.barh(names, values, color=[_colour(name) for name in names], height=0.76)
        for place, row in enumerate(panel):
            axes.plot([row.p20, row.p80], [place, place], color="#000000", linewidth=1.2)
            end = max(row.p80, row.median)
            axes.annotate(f"{row.median:,.4g}", (end, place), (4, 0), textcoords="offset points", va="center")
        axes.set_title(unit, fontweight="bold")
        axes.set_xlim(0, 1.2 * max(max(row.p80, row.median) for row in panel))
        axes.set_xticks([])
        axes.tick_params(length=0)
        axes.spines["bottom"].set_visible(False)
        axes.set_ylim(len(panel) - 0.5, -0.5)
    return figure


def _colour(case: str) -> str:
    if case == "decode_ceiling":
        return CEILING
    return OTHERS if case in LOADERS else OURS


def _command() -> None:
    parser = argparse.ArgumentParser(prog="python -m fastlt.bench.plot", description=__doc__)
    parser.add_argument("rows", type=Path)
    parser.add_argument("picture", type=Path, nargs="?")
    arguments = parser.parse_args()
    rows = last_run(arguments.rows)
    print(markdown(rows))  # noqa: T201 - a table is what the command is for
    if arguments.picture:
        plot(rows, arguments.picture)


if __name__ == "__main__":
    guard(_command)
