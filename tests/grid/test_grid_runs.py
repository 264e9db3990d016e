"""Grids that are computed: once, whatever happens, and with the results of single runs."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import run, train
from pictures import Pictures, conversion

from fastlt.core.errors import UserError
from fastlt.core.lock import is_locked
from fastlt.data.convert import convert
from fastlt.grid.job import run_cell

# Of four cells the two with an absurd learning rate fail.
GRID = (
    "data=data", "grid=cifar100_lt", "protocol.batch=16", "sampler=instance,class", "protocol.lr=0.1,1e30", "seed=0",
    "epochs=2", "threads=1", "classifiers=[joint,ncm_l2]",
)  # fmt: skip
LONG = (
    "data=data", "grid=samplers", "protocol=cifar_lt_200", "protocol.batch=8", "sampler=instance", "epochs=8", "seed=0",
    "threads=1", "classifiers=[joint,ncm_l2]",
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a converted dataset `data` in it."""
    folder = tmp_path_factory.mktemp("grid")
    convert(Pictures(counts=(120, 60, 25, 8), pixels=True), conversion(), folder / "data", workers=1)
    return folder


def begin(place: Path, name: str, *arguments: str) -> subprocess.Popen[bytes]:
    """`python -m fastlt.grid out=NAME ARGUMENTS` in a process group of its own, as a terminal starts it."""
    with (place / f"{name}.out").open("w") as out, (place / f"{name}.err").open("w") as err:
        command = [sys.executable, "-m", "fastlt.grid", f"out={name.partition('-')[0]}", *arguments]
        return subprocess.Popen(command, cwd=place, stdout=out, stderr=err, start_new_session=True)


def logs(out: Path) -> str:
    return "".join(path.read_text() for path in sorted((out / "jobs").glob("*_log.out")))


def untimed(run: Path) -> dict[str, Any]:
    """results.json of a run without times, the digest over them and the cell it was of."""
    results = json.loads((run / "results.json").read_text())
    for name in ("seconds", "images_per_second", "cell", "digest"):
        results.pop(name, None)
    return results | {"classifiers": {name: {**row, "seconds": 0} for name, row in results["classifiers"].items()}}


@pytest.fixture(scope="module")
def twice(place: Path) -> list[tuple[int, str, str]]:
    """Two commands on one folder at once: exit code, stdout and stderr of each."""
    commands = {name: begin(place, name, *GRID) for name in ("twice", "twice-again")}
    codes = {name: command.wait() for name, command in commands.items()}
    return [(code, (place / f"{n}.out").read_text(), (place / f"{n}.err").read_text()) for n, code in codes.items()]


def test_two_commands_compute_every_cell_once(place: Path, twice: list[tuple[int, str, str]]) -> None:
    cells = [entry["name"] for entry in json.loads((place / "twice" / "grid.json").read_text())["cells"]]
    assert len(cells) == 4
    finished = {path.parent.name for path in (place / "twice").glob("*/results.json")}
    told = logs(place / "twice")
    for name in cells:
        # A run ends by telling where its report is, a failure by telling its traceback.
        assert told.count(f"twice/{name}/report.md") == (name in finished)
    assert len(finished) == 2
    assert told.count("UserError: the loss is") == 2


def test_a_failed_cell_stops_no_other_and_is_told(place: Path, twice: list[tuple[int, str, str]]) -> None:
    finished = {path.parent.name for path in (place / "twice").glob("*/results.json")}
    failed = {path.parent.name for path in (place / "twice").glob("*/failed.json")}
    assert len(finished) == len(failed) == 2
    assert not finished & failed
    for code, stdout, stderr in twice:
        assert code == 1, stderr
        assert stdout.splitlines()[-1] == "twice/index.html"
        last = stderr.splitlines()[-2:]
        assert {re.sub(r"failed: (\S+): the loss is .*", r"\1", line) for line in last} == failed
    page = (place / "twice" / "index.html").read_text()
    report = (place / "twice" / "report.md").read_text()
    for name in failed:
        assert name in page
        assert name in report
    assert "the loss is" in page
    assert not list((place / "twice").glob("*/*.lock"))


@pytest.mark.usefixtures("one_thread")
def test_a_cell_that_failed_since_a_command_began_is_not_tried_again_by_it(
    place: Path, twice: list[tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two commands may start the same cell: the second one's process gets its lock when the first one's has failed."""
    told, *_ = sorted((place / "twice").glob("*/failed.json"))
    before = json.loads(told.read_text())
    frozen = place / "twice" / "cells" / f"{told.parent.name}.yaml"
    monkeypatch.chdir(place)
    for earlier in (None, "of an earlier try"):
        assert run_cell(frozen, 1, forgiven=earlier) == "failed"
    assert json.loads(told.read_text()) == before
    for again in ({"forgiven": before["id"]}, {}):
        with pytest.raises(UserError, match="the loss is"):
            run_cell(frozen, 1, **again)
        assert json.loads(told.read_text())["id"] != before["id"]


def test_a_cell_is_what_a_single_run_is(place: Path, twice: list[tuple[int, str, str]]) -> None:
    (results,) = (path for path in (place / "twice").glob("*/results.json") if "_class_" in str(path))
    kept = [argument for argument in GRID if not argument.startswith(("grid=", "sampler=", "protocol.lr="))]
    done = train("run=single", "protocol=cifar_lt_200", "sampler=class", "protocol.lr=0.1", *kept, cwd=place)
    assert done.returncode == 0, done.stderr
    cell, single = untimed(results.parent), untimed(place / "single")
    assert cell == single


def test_what_is_finished_is_not_computed_again(place: Path, twice: list[tuple[int, str, str]]) -> None:
    before = {path: path.read_bytes() for path in (place / "twice").glob("*/results.json")}
    jobs = len(list((place / "twice" / "jobs").iterdir()))
    done = run("-m", "fastlt.grid", "out=twice", *GRID, "protocol.lr=0.1", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "2 cells in twice, 2 of them finished" in done.stderr
    assert done.stdout.splitlines()[-1] == "twice/index.html"
    assert {path: path.read_bytes() for path in before} == before
    assert len(list((place / "twice" / "jobs").iterdir())) == jobs


def wait_for(happened: Callable[[], Any]) -> Any:
    """What `happened` gives once it is true."""
    end = time.monotonic() + 120
    while not (found := happened()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
    return found


def under_way(place: Path, name: str) -> tuple[subprocess.Popen[bytes], Path]:
    """A command whose only cell is trained for an epoch and not to its end, and that cell's folder."""
    command = begin(place, name, *LONG)

    def cell() -> Path | None:
        found = list((place / name).glob("*/checkpoint.pt"))
        return found[0].parent if found else None

    run = wait_for(cell)
    assert not (run / "results.json").exists()
    return command, run


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_grid_that_was_cut_off_goes_on(place: Path, how: signal.Signals) -> None:
    out = f"cut_{how.name}"
    command, cell = under_way(place, out)
    os.killpg(command.pid, how)  # Ctrl-C reaches all processes of a terminal, and so does the end of a machine
    assert command.wait() == {signal.SIGINT: 130, signal.SIGKILL: -9}[how], (place / f"{out}.err").read_text()
    wait_for(lambda: not is_locked(cell / "run.lock"))
    assert not (cell / "results.json").exists()
    assert not (cell / "failed.json").exists()
    done = run("-m", "fastlt.grid", f"out={out}", *LONG, cwd=place)
    assert done.returncode == 0, done.stderr
    assert "resuming" in logs(place / out)
    if not (place / "straight").exists():
        single = [argument for argument in LONG if argument != "grid=samplers"]
        assert train("run=straight", *single, cwd=place).returncode == 0
    assert untimed(cell) == untimed(place / "straight")


def test_a_killed_command_leaves_its_cells_at_work(place: Path) -> None:
    first, cell = under_way(place, "orphan")
    first.kill()
    first.wait()
    assert is_locked(cell / "run.lock")
    second = run("-m", "fastlt.grid", "out=orphan", *LONG, cwd=place)
    assert second.returncode == 0, second.stderr
    assert (cell / "results.json").exists()
    assert len(list((place / "orphan" / "jobs").glob("*_log.out"))) == 1
    assert "resuming" not in logs(place / "orphan")


def test_a_killed_cell_is_a_failure(place: Path) -> None:
    command, cell = under_way(place, "killed")
    found = re.match(r"process (\d+) on", (cell / "run.lock").read_text())
    assert found
    os.kill(int(found[1]), signal.SIGKILL)
    assert command.wait() == 1
    assert f"failed: {cell.name}: its process was killed" in (place / "killed.err").read_text()
    assert Path(place / json.loads((cell / "failed.json").read_text())["log"]).exists()
