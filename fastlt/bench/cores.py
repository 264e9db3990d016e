"""How many CPU cores a case of a benchmark keeps busy."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PARENT, _FIRST_TIME, _LAST_TIME = 1, 11, 15  # fields of /proc/PID/stat, counted from the one after the name


def counting_cores(case: Callable[[], float], used: list[float]) -> Callable[[], float]:
    """Returns a case that does the same, and appends to `used` how many cores were busy with it.

    Counted is the CPU time of this process and of all it has started, so of the workers of other libraries too.
    """

    def counted() -> float:
        start, before = time.monotonic(), cpu_seconds(os.getpid())
        value = case()
        used.append((cpu_seconds(os.getpid()) - before) / (time.monotonic() - start))
        return value

    return counted


def cpu_seconds(process: int) -> float:
    """Returns the CPU time in seconds of a process and its descendants, those that have ended included."""
    times, children = {}, {}
    for number, fields in _processes():
        times[number] = sum(map(int, fields[_FIRST_TIME:_LAST_TIME]))
        children.setdefault(int(fields[_PARENT]), []).append(number)
    family, total = [process], 0
    while family:
        one = family.pop()
        total += times.get(one, 0)
        family += children.get(one, [])
    return total / _TICKS


def _processes() -> Iterator[tuple[int, list[str]]]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                stat = (folder / "stat").read_text()
            except OSError:  # it has ended
                continue
            yield int(folder.name), stat.rpartition(")")[2].split()
