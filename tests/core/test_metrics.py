"""metrics.jsonl survives kills and damage."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fastlt.core.files import NotWritten
from fastlt.core.metrics import MetricsFile


def epochs(path: Path) -> list[int]:
    return [json.loads(line)["epoch"] for line in path.read_text().splitlines()]


def test_later_and_damaged_lines_are_dropped_on_resuming(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsFile(path) as file:
        for epoch in (1, 2, 3):
            file.write(epoch=epoch, loss=0.25)
    first, second, third = path.read_bytes().splitlines()
    damaged = [
        b'{"epoch": 2, "lo',
        b"\xff\x00",
        b"[" * 100_000,
        b"[]",
        b'{"loss": 1}',
        b'{"epoch": "2"}',
        b'{"epoch": 2}',
    ]
    damaged.append(second.replace(b"0.25", b"0.75"))
    path.write_bytes(b"\n".join([first, *damaged, second, third]) + b"\n")
    with MetricsFile(path, keep_epochs=2) as file:
        file.write(epoch=3, loss=0.5)
    assert epochs(path) == [1, 2, 3]
    assert capsys.readouterr().err == f"{path}: 8 damaged lines of 11 dropped\n"


def test_a_new_training_begins_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.jsonl"
    for _ in range(2):
        with MetricsFile(path) as file:
            file.write(epoch=1)
    assert epochs(path) == [1]


def test_a_disk_that_takes_no_line_is_told(disk: Callable[..., Path]) -> None:
    path = disk(1 << 16) / "metrics.jsonl"
    with pytest.raises(NotWritten, match="the same command again: it goes on from the last"), MetricsFile(path) as file:
        for epoch in range(10_000):
            file.write(epoch=epoch, loss=0.125)
    disk(1 << 17)
    with MetricsFile(path, keep_epochs=100) as file:
        file.write(epoch=101)
    assert epochs(path) == [*range(102)]
