"""Writes and reads the metrics of a training, as JSON lines."""

import json
import zlib
from pathlib import Path
from typing import Any

from fastlt.core.files import write_file, writing
from fastlt.core.log import say
from fastlt.core.words import counted

METRICS_FILE = "metrics.jsonl"  # in the run folder
_SUM = "crc32"  # key under which a line stores its checksum
_AGAIN = "give the same command again: it goes on from the last checkpoint"


class MetricsFile:
    """A file of JSON lines, one for each epoch, flushed after every line. Use it as a context manager."""

    def __init__(self, path: Path, keep_epochs: int | None = None):
        """Opens the file for writing.

        keep_epochs: when a training is resumed after this epoch, keep the lines up to it. Lines of later epochs are
            dropped, as these epochs are trained again, and so are damaged lines, with a message. None starts anew.

        Raises NotWritten if the file cannot be written.
        """
        self._path = path
        write_file(path, "".join(f"{line}\n" for line in _lines_until(path, keep_epochs)))
        with writing(path, again=_AGAIN):
            self._file = path.open("a", encoding="utf-8")

    def write(self, **values: Any) -> None:
        """Writes one line, with a CRC-32 of its values.

        values: numbers by name, among them `epoch`. Raises NotWritten if the line cannot be written.
        """
        with writing(self._path, again=_AGAIN):
            self._file.write(_line(values) + "\n")
            self._file.flush()

    def __enter__(self) -> "MetricsFile":
        return self

    def __exit__(self, *_: object) -> None:
        with writing(self._path, again=_AGAIN):
            self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Returns the undamaged lines of a metrics file, by epoch; none if there is no file."""
    rows = [row for row in _rows(path) if row is not None]
    return sorted(rows, key=lambda row: row["epoch"])


def _rows(path: Path) -> list[dict[str, Any] | None]:
    """Returns the values of every line of a metrics file, None for damaged ones; no lines if there is no file."""
    text = path.read_bytes().decode("utf-8", "replace") if path.is_file() else ""
    return [_row(line) for line in text.splitlines()]


def _lines_until(path: Path, epoch: int | None) -> list[str]:
    """Returns the undamaged lines of a metrics file up to an epoch, and logs which are damaged or missing.

    Returns no lines for None.
    """
    if epoch is None:
        return []
    rows = _rows(path)
    if damaged := rows.count(None):
        say(f"{path}: {counted(damaged, 'damaged line')} of {len(rows)} dropped")
    kept = [row for row in rows if row is not None and row["epoch"] <= epoch]
    if lost := sorted({*range(1, epoch + 1)} - {row["epoch"] for row in kept}):
        many = counted(len(lost), "epoch") if len(lost) > 1 else f"epoch {lost[0]}"
        say(f"{path}: what was measured in {many} before is lost; the training goes on all the same")
    return [_line(row) for row in kept]


def _line(values: dict[str, Any]) -> str:
    return json.dumps({**values, _SUM: zlib.crc32(json.dumps(values).encode())})


def _row(line: str) -> dict[str, Any] | None:
    """Returns the values of a line without its checksum, or None if it is damaged."""
    try:
        values = {name: value for name, value in json.loads(line).items() if name != _SUM}
        whole = type(values["epoch"]) is int and line == _line(values)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return values if whole else None
