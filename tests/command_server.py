"""Runs commands in forks of a process that has imported what they need, which spares each the seconds that takes.

A line of stdin is a request, as JSON: the command's arguments as for `python`, its folder, its environment, and files
for its stdout and stderr. Two lines of stdout answer it: the number of the process, and at its end its exit code.

The commands draw their figures and write them as empty files: to render them takes as long as a small training. The
tests of the report and of the benchmarks render them.
"""

import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

# What the commands import, but none of the modules that are commands themselves, as these run anew in each fork.
import fastlt.data.pipeline.graph_cpu
import fastlt.experiment.run
import fastlt.grid.local
import fastlt.predict.predictor
import fastlt.report.compare  # noqa: F401


def serve() -> list[str]:
    """Answers requests; in a fork it returns the arguments of the command."""
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            os.chdir(request["cwd"])
            os.environ.clear()
            os.environ.update(request["environment"])
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for number, name in ((1, "stdout"), (2, "stderr")):
                os.dup2(os.open(request[name], os.O_WRONLY | os.O_APPEND), number)
            return request["arguments"]
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
        sys.stdout.flush()
    sys.exit()


def _touch(_figure: Figure, path: Any, **_options: Any) -> None:
    Path(path).touch()


def run(arguments: list[str]) -> None:
    """Does what `python ARGUMENTS` does: -m MODULE ... or SCRIPT ..."""
    if arguments[:2] != ["-m", "fastlt.bench"]:
        Figure.savefig = _touch  # pyright: ignore[reportAttributeAccessIssue]
    if arguments[0] == "-m":
        sys.path[0] = str(Path.cwd())
        sys.argv = arguments[1:]
        sys.modules.pop(sys.argv[0], None)  # grids import fastlt.train; here it is __main__, as in a process of its own
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(arguments[0]).parent)
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    run(serve())
