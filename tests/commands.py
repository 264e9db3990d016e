"""Runs the project's commands as a user does: in a process of their own."""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import pytest

ROOT = Path(__file__).parents[1]
AT_IMPORT = ("PYTHON", "PATH", "NUMBA", "CUDA", "OMP", "MKL", "MPL", "LD_", "HOME", "XDG", "TORCH")


def run(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python ARGUMENTS` in `cwd`: a module, a script, or what -c is given."""
    if not environment and arguments[0] != "-c" and (server := Server.at_hand()) is not None:
        return server.run(arguments, cwd)
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=_environment(environment),
        capture_output=True,
        text=True,
        check=False,
    )


class Server:
    """Runs commands as forks of one process that has imported what they need (command_server.py)."""

    _one: "Server | None" = None

    def __init__(self) -> None:
        self.begun_with = _imported_with()
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "command_server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @classmethod
    def at_hand(cls) -> "Server | None":
        """The one of this process; None where a variable has changed that is read at the import of libraries."""
        if cls._one is None:
            cls._one = Server()
        return cls._one if cls._one.begun_with == _imported_with() else None

    def start(self, arguments: Sequence[str], cwd: Path, stdout: str = os.devnull, stderr: str = os.devnull) -> int:
        """Starts a command; its process number. stdout, stderr: files that are written to at their end."""
        request = {"arguments": arguments, "cwd": str(cwd), "environment": _environment({})}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({**request, "stdout": stdout, "stderr": stderr}) + "\n")
        self.process.stdin.flush()
        return self._number()

    def wait(self) -> int:
        """Waits for the command's end; its exit code, negative for the signal that ended it."""
        return self._number()

    def run(self, arguments: Sequence[str], cwd: Path) -> subprocess.CompletedProcess[str]:
        with tempfile.NamedTemporaryFile("r") as out, tempfile.NamedTemporaryFile("r") as err:
            self.start(arguments, cwd, out.name, err.name)
            code = self.wait()
            return subprocess.CompletedProcess(arguments, code, out.read(), err.read())

    def close(self) -> None:
        """Ends the process; nothing may run in it any more."""
        self.process.communicate()

    def _number(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())


def _environment(more: dict[str, str]) -> dict[str, str]:
    return {**os.environ, "HYDRA_FULL_ERROR": "", **more}


def _imported_with() -> dict[str, str]:
    """The variables that are read when libraries are imported."""
    return {name: value for name, value in os.environ.items() if name.startswith(AT_IMPORT)}


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
    # Bad images have a line each before the refusal, and what is left out has one.
    lines = [line for line in stderr.splitlines() if not line.startswith(("bad image: ", "note: "))]
    assert len(lines) == 1, stderr
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")
