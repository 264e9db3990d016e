"""Where a grid stands, live on a terminal and as plain lines in a log."""

import json
import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any, TextIO

from fastlt.core.log import duration
from fastlt.grid.cells import Cell
from fastlt.grid.job import PROGRESS
from fastlt.grid.local import Progress
from fastlt.report.names import label, paper_first, percent

LINE_EVERY = 30.0  # seconds between two lines in a log
TRAINING = "stage 1"  # what stage 1 calls itself
SHOWN = 5  # classifiers whose accuracy is told when a cell is finished
UP, CLEAR = "\033[F", "\033[J"


class View:
    """Shows a grid of so many `slots`. Call it with the progress as often as you like."""

    def __init__(self, slots: int, stream: TextIO | None = None):
        self.slots, self.stream = slots, stream or sys.stderr
        self.begin = time.monotonic()
        self._line = -LINE_EVERY
        self._height = 0
        self._told: set[str] = set()
        self._ready: set[str] | None = None  # finished before this command
        self._seen: dict[str, float] = {}  # when a cell was first seen running
        self._took: dict[str, float] = {}  # seconds of the cells that finished under this view

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if self._ready is None:
            self._ready = {cell.name for cell in progress.done}
        for name in progress.running | progress.elsewhere:
            self._seen.setdefault(name, now)
        news = self._news(progress, now)
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
        """A line for every cell that ended since the last call."""
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
            f"{len(progress.done)} cells done{ready}, {len(cells)} running, {waiting} waiting{failed}",
            *([] if left is None else [f"{duration(left)} left"]),
            f"{rate:.0f} images/s",
            f"{duration(time.monotonic() - self.begin)} so far",
        ]
        return "; ".join(parts)

    def _left(self, progress: Progress) -> float | None:
        """Seconds, from what the cells under way and the finished ones tell; None while nothing is known."""
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
    """A line for every cell that is being computed."""
    rows = []
    for cells, where in ((progress.running, ""), (progress.elsewhere, " (another process)")):
        for name, cell in cells.items():
            state = state_of(cell)
            text = "starting"
            if state:
                text = f"{state['label']} {100 * state['done'] / max(state['total'], 1):.0f} %"
                text += f", {state['rate']:.0f} {state['unit']}/s" + (f", {state['note']}" if state["note"] else "")
            rows.append(f"{name.rpartition('_')[0] or name}{where}: {text}")  # on a terminal there is no room for keys
    return rows


def state_of(cell: Cell) -> dict[str, Any] | None:
    """What the process that computes a cell last told of itself."""
    try:
        return json.loads((cell.run / PROGRESS).read_text())
    except (OSError, ValueError):
        return None


def _accuracies(cell: Cell) -> str:
    """What came out of a cell, in a few words."""
    rows = json.loads((cell.run / "results.json").read_text())["classifiers"]
    told = [f"{label(name)} {percent(rows[name].get('all'))}" for name in paper_first(list(rows), SHOWN)]
    return f": {', '.join(told)} % of all"


def _cut(row: str) -> str:
    """A row that does not wrap."""
    return row[: shutil.get_terminal_size().columns - 1]
