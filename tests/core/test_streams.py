"""Standard streams that are closed, full or not read to their end: one line or none, and never a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.errors import HydraException

from fastlt.core.cli import guard

COMMAND = r"""
import os, sys
from fastlt.core.cli import guard
def command():
    with open("work", "wb", buffering=0) as file:
        file.write(b"work")
        os.write(2, b"a word\n")  # as libraries in C do
        print("a result")
    sys.exit(0)
guard(command)
"""
FULL = "error: stdout: No space left on device: make room and give the same command again"


@pytest.mark.parametrize(
    ("streams", "code", "told"),
    [
        ("> /dev/full", 2, ["a word", FULL]),
        (">&-", 0, ["a word"]),
        ("2>&-", 0, []),
        ("<&- >&- 2>&-", 0, []),
        ("| true", 141, ["a word"]),
    ],
)
def test_streams_that_are_none(streams: str, code: int, told: list[str], tmp_path: Path) -> None:
    wait = "sleep 1; " if "|" in streams else ""  # until nobody reads any more
    line = f"set -o pipefail; ({wait}exec '{sys.executable}' -c \"$COMMAND\") {streams}"
    done = subprocess.run(
        ["bash", "-c", line],
        env={**os.environ, "COMMAND": COMMAND},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.splitlines()) == (code, told)
    assert (tmp_path / "work").read_text() == "work"  # and nothing that was printed


WORDS = r"""
import time
from pathlib import Path
from fastlt.core.cli import guard
from fastlt.core.log import Progress, say
def command():
    time.sleep(1)  # until nobody reads stderr any more
    say("a message")
    with Progress("work", 1) as progress:
        progress.advance()
    Path("work").write_text("work")
guard(command)
"""


@pytest.mark.parametrize("stderr", ["/dev/full", ">(true)"])
def test_messages_that_cannot_be_written_end_no_work(stderr: str, tmp_path: Path) -> None:
    line = f"exec '{sys.executable}' -c \"$COMMAND\" 2> {stderr}"
    done = subprocess.run(["bash", "-c", line], env={**os.environ, "COMMAND": WORDS}, cwd=tmp_path, check=False)
    assert done.returncode == 0
    assert (tmp_path / "work").read_text() == "work"


def test_ctrl_c_is_told_whatever_hydra_makes_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise HydraException("cannot access local variable 'f'") from error

    with pytest.raises(SystemExit) as stop:
        guard(command)
    assert (stop.value.code, capsys.readouterr().err) == (130, "interrupted\n")


def test_letters_that_stdout_lacks_are_escaped() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from fastlt.core.cli import guard; guard(lambda: print('tau \u2020'))"],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"tau \\u2020\n")
