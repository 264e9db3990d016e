"""Runs the project's commands as a user does: in a process of their own."""

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

ROOT = Path(__file__).parents[1]


def run(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python ARGUMENTS` in `cwd`."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "HYDRA_FULL_ERROR": "", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def train(*overrides: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m fastlt.train OVERRIDES`."""
    return run("-m", "fastlt.train", *overrides, cwd=cwd, **environment)


def convert(*overrides: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python tools/convert.py OVERRIDES`."""
    return run(str(ROOT / "tools" / "convert.py"), *overrides, cwd=cwd, **environment)


def refusal(command: Callable[[], None], *overrides: str, cwd: Path) -> str:
    """The one line with which a command refused wrong input; fails if it did anything else.

    In this process, which spares the seconds a new one takes to import torch; `refused` is the same from outside.
    """
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(cwd),
        mock.patch.object(sys, "argv", ["command", *overrides]),
        mock.patch.dict(os.environ, {"HYDRA_FULL_ERROR": ""}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as stop,
    ):
        command()
    return _line(stop.value.code, out.getvalue(), err.getvalue())


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The same for a process that has ended."""
    return _line(done.returncode, done.stdout, done.stderr)


def _line(code: object, stdout: str, stderr: str) -> str:
    assert code == 2, stderr
    assert stdout == ""
    # Bad images have a line each before the refusal.
    lines = [line for line in stderr.splitlines() if not line.startswith("bad image: ")]
    assert len(lines) == 1, stderr
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")
