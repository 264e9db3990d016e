"""Shows the progress of a grid, live on a terminal or as plain lines in a log."""

import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any, TextIO

from fastlt.core.errors import UserError
from fastlt.core.log import duration, printed, speed
from fastlt.core.typed import read_json, typed
from fastlt.core.words import counted
from fastlt.grid.cells import Cell
from fastlt.grid.job import PROGRESS
from fastlt.grid.local import Progress
from fastlt.report.names import label, paper_first, percent

LINE_EVERY = 30.0  # seconds between two lines in a log
TRAINING = "stage 1"  # the label of stage 1 in progress.json
SHOWN = 5  # classifiers whose accuracy is printed when a cell is finished
UP, CLEAR = "\033[F", "\033[J"


class View:
    """Shows the progress of a grid. Call it with the current progress, as often as you like.

    slots: how many cells run at the same time. stream: where to write; stderr by default.
    """

    def __init__(self, slots: int, stream: TextIO | None = None):
        self.slots, self.stream = slots, stream or sys.stderr
        self.begin = time.monotonic()
        self._line = -LINE_EVERY
        self._height = 0
        self._told: set[str] = set()
        self._ready: set[str] | None = None  # cells that were finished before this command
        self._seen: dict[str, float] = {}  # when each cell was first seen running
        self._took: dict[str, float] = {}  # seconds that cells took which finished during this command

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if self._ready is None:
            self._ready = {cell.name for cell in progress.done}
        for name in progress.running | progress.elsewhere:
            self._seen.setdefault(name, now)
        news = [printed(line) for line in self._news(progress, now)]
        if self.stream.isatty():
            self._redraw(news, progress)
        else:
            for line in news:
                self.stream.write(f"{line}\n")
            if now - self._line >= LINE_EVERY:
                self._line = now
                rows = [self._headline(progress), *(f"  {row}" for row in running_rows(progress))]
                self.stream.write("\n".join(rows) + "\n")
            self.stream.flush()

    def _news(self, progress: Progress, now: float) -> list[str]:
        """Returns a line for every cell that ended since the last call."""
        lines = []
        for cell in progress.done:
            if cell.name not in self._told:
                self._told.add(cell.name)
                if cell.name in self._seen:
                    self._took[cell.name] = now - self._seen[cell.name]
                    lines.append(f"finished {cell.name} after {duration(self._took[cell.name])}{_accuracies(cell)}")
        for name, reason in progress.failed.items():
            if name not in self._told:
                self._told.add(name)
                lines.append(f"FAILED {name}: {reason}")
        return lines

    def _headline(self, progress: Progress) -> str:
        cells = (*progress.running.values(), *progress.elsewhere.values())
        rate = sum(state["rate"] for cell in cells if (state := state_of(cell)) and state["unit"] == "images")
        waiting = len(progress.waiting) - len(progress.elsewhere)
        ready = f" ({len(self._ready)} before)" if self._ready else ""
        failed = f", {len(progress.failed)} failed" if progress.failed else ""
        left = self._left(progress)
        parts = [
            f"{counted(len(progress.done), 'cell')} done{ready}, {len(cells)} running, {waiting} waiting{failed}",
            *([f"{duration(left)} left"] if left else []),
            *([speed(rate, "images")] if rate else []),
            f"{duration(time.monotonic() - self.begin)} so far",
        ]
        return "; ".join(parts)

    def _left(self, progress: Progress) -> float | None:
        """Estimates the remaining seconds from running and finished cells; None as long as there are no data."""
        under_way = {**progress.running, **progress.elsewhere}
        whole, left = list(self._took.values()), []
        for cell in under_way.values():
            state = state_of(cell)
            if state and state["label"] == TRAINING and state["rate"]:
                whole.append(state["total"] / state["rate"])
                left.append((state["total"] - state["done"]) / state["rate"])
        if not whole:
            return None
        waiting = sum(whole) / len(whole) * (len(progress.waiting) - len(progress.elsewhere))
        return max([(waiting + sum(left)) / max(self.slots, len(under_way)), *left])

    def _redraw(self, news: Sequence[str], progress: Progress) -> None:
        rows = [self._headline(progress), *(f"  {row}" for row in running_rows(progress))]
        above = "".join(f"{line}\n" for line in news)
        self.stream.write(UP * self._height + CLEAR + above + "".join(f"{_cut(row)}\n" for row in rows))
        self.stream.flush()
        self._height = len(rows)


def running_rows(progress: Progress) -> list[str]:
    """Returns a line for every cell that is being computed."""
    rows = []
    for cells, where in ((progress.running, ""), (progress.elsewhere, " (another process)")):
        for name, cell in cells.items():
            state = state_of(cell)
            text = "starting"
            if state:
                text = f"{state['label']} {100 * state['done'] / max(state['total'], 1):.0f} %"
                text += f", {speed(state['rate'], state['unit'])}" + (f", {state['note']}" if state["note"] else "")
            # The name goes without its key, to save room.
            rows.append(printed(f"{name.rpartition('_')[0] or name}{where}: {text}"))
    return rows


def state_of(cell: Cell) -> dict[str, Any] | None:
    """Returns the last progress that the process of a cell has written; None if there is none."""
    try:
        told = typed(dict[str, Any], read_json(cell.run / PROGRESS))
        kinds = {"label": str, "unit": str, "note": str, "rate": float, "done": int, "total": int}
        return {name: typed(kind, told.get(name), name) for name, kind in kinds.items()}
    except UserError:
        return None


def _accuracies(cell: Cell) -> str:
    """Returns the most important accuracies of a finished cell in a few words."""
    try:
        rows = typed(dict[str, dict[str, Any]], read_json(cell.run / "results.json")["classifiers"])
        told = [f"{label(name)} {percent(rows[name].get('all'))}" for name in paper_first(list(rows), SHOWN)]
    except (UserError, KeyError, TypeError):
        return ", but its results.json is damaged since"
    return f": {', '.join(told)} % of all"


def _cut(row: str) -> str:
    """Cuts a row to the width of the terminal, so that it does not wrap."""
    return row[: shutil.get_terminal_size().columns - 1]
