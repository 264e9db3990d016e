"""A conversion survives whatever ends it: killed at any moment, out of space, started twice."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pictures import Pictures, conversion, files

from fastlt.core.errors import UserError
from fastlt.core.log import silence
from fastlt.data.convert import convert
from fastlt.data.shards.reader import Dataset

pytestmark = pytest.mark.usefixtures("small_shards")

KILLS = int(os.environ.get("FASTLT_KILLS", "40"))
SOURCE = Pictures(counts=(60, 30))
OPTIONS = conversion("png", shard_mb=20)  # kilobytes: the unit is made small below


def begin(out: Path, workers: int) -> int:
    """A conversion in a child process; its number."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        silence()  # a lock of the terminal that is shared with this process must not be held by a killed one
        convert(SOURCE, OPTIONS, out, workers=workers)
        code = 0
    finally:
        os._exit(code)


def ended(child: int) -> int | None:
    """Exit status of the child, None while it runs."""
    done, status = os.waitpid(child, os.WNOHANG)
    return status if done else None


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_random_moments_it_ends_with_the_same_bytes(workers: int, tmp_path: Path) -> None:
    start = time.monotonic()
    whole = files(convert(SOURCE, OPTIONS, tmp_path / "whole", workers=workers))
    length = time.monotonic() - start
    chance = random.Random(workers)
    kills, rounds = 0, 0
    while kills < KILLS // 2 or rounds < 2:
        rounds += 1
        out = tmp_path / f"cut{rounds}"
        while not out.exists():
            child = begin(out, workers)
            # Anywhere in a conversion, and more often shortly after a start, where resuming is under way.
            time.sleep(chance.random() ** 2 * length)
            status = ended(child)
            if status is None:
                os.kill(child, signal.SIGKILL)  # its workers end by themselves
                os.waitpid(child, 0)
                kills += 1
            else:
                assert status == 0
        if (partial := tmp_path / f"cut{rounds}.partial").exists():  # killed while it cleaned up
            cleaned = [path.name for path in partial.iterdir()] in ([], ["lock"])
            with pytest.raises(UserError, match="finished dataset") if cleaned else contextlib.nullcontext():
                convert(SOURCE, OPTIONS, out, workers=1)
        assert files(out) == whole
        assert not partial.exists()


def test_two_conversions_to_one_place_do_not_mix(tmp_path: Path) -> None:
    out = tmp_path / "data"
    child = begin(out, 1)
    try:
        while not (tmp_path / "data.partial" / "dataset").exists():
            assert ended(child) is None
            time.sleep(0.001)
        os.kill(child, signal.SIGSTOP)
        with pytest.raises(UserError, match="another process is converting"):
            convert(SOURCE, OPTIONS, out, workers=1)
    finally:
        os.kill(child, signal.SIGCONT)
        _, status = os.waitpid(child, 0)
    assert status == 0
    assert len(Dataset(out).split("train")) == 90


def test_a_mended_image_is_taken_up(tmp_path: Path) -> None:
    out = tmp_path / "data"
    broken = Pictures(counts=(60, 30), broken=(("train", 40),))
    with pytest.raises(UserError, match="does not decode"):
        convert(broken, OPTIONS, out, workers=1)
    assert (tmp_path / "data.partial").exists()  # more than one shard: what is done is kept
    assert files(convert(SOURCE, OPTIONS, out, workers=1)) == files(
        convert(SOURCE, OPTIONS, tmp_path / "whole", workers=1)
    )


def test_a_larger_budget_goes_on_where_the_smaller_one_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "data"
    broken = Pictures(counts=(60, 30), broken=(("train", 40), ("train", 80)))
    with pytest.raises(UserError, match=r"allow more with max_bad=2"):
        convert(broken, OPTIONS, out, workers=1)
    loads: list[int] = []
    load = Pictures.load
    # Near duplicates are looked at in the end, whatever was converted before.
    monkeypatch.setattr("fastlt.data.convert.engine.near_duplicates", lambda *_: {})
    monkeypatch.setattr(Pictures, "load", lambda self, split, i: (loads.append(i), load(self, split, i))[1])
    capsys.readouterr()
    convert(broken, conversion("png", shard_mb=20, max_bad=0.1), out, workers=1)
    said = [line for line in capsys.readouterr().err.splitlines() if line.endswith("(found in an earlier try)")]
    assert [line.split(": ")[1] for line in said] == [f"train train/größe {at}.jpg" for at in (40, 80)]
    assert len(loads) < 30
    assert [row["key"] for row in Dataset(out).about["quarantined"]["train"]] == [
        "train/größe 40.jpg",
        "train/größe 80.jpg",
    ]


def test_a_full_disk_is_told_and_resumed(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no right to mount a small file system")
    try:
        filler = disk / "filler"
        filler.write_bytes(bytes(500_000))
        with pytest.raises(UserError, match=r"no space left .* give the same command again"):
            convert(SOURCE, OPTIONS, disk / "data", workers=1)
        assert not (disk / "data").exists()
        filler.unlink()
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        out = convert(SOURCE, OPTIONS, disk / "data", workers=1)
        assert files(out) == files(convert(SOURCE, OPTIONS, tmp_path / "whole", workers=1))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


SLOW = """
import os, signal, time
from dataclasses import dataclass
from pathlib import Path
from fastlt.core.cli import guard
from fastlt.data.convert import convert
from pictures import Pictures, conversion

@dataclass(frozen=True)
class Slow(Pictures):
    def load(self, split, index):
        if index == 5:
            {at_five}
        return super().load(split, index)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a test in the background inherits that it is ignored
guard(lambda: convert(Slow(counts=(60, 30)), conversion("png"), Path("out"), workers=2))
"""


def converting(tmp_path: Path, at_five: str) -> subprocess.Popen:
    """A conversion in a process group of its own, as a shell makes one."""
    path = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])])
    return subprocess.Popen(
        [sys.executable, "-c", SLOW.format(at_five=at_five)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def last_words(process: subprocess.Popen) -> str:
    """What a process writes to stderr until it ends; one that does not end is killed with its workers."""
    try:
        return process.communicate(timeout=100)[1]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("pause", [0.0, 0.02, 0.2])
def test_an_interrupted_conversion_waits_for_no_worker(pause: float, tmp_path: Path) -> None:
    with converting(tmp_path, "open('begun', 'w').close(); time.sleep(1000)") as process:
        while not (tmp_path / "begun").exists() and process.poll() is None:
            time.sleep(0.05)
        for _ in range(3):  # impatient users press more than once
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            time.sleep(pause)
        told = last_words(process)  # the worker would sleep on
    assert process.returncode == 130 and told.splitlines()[-1] == "interrupted" and "Traceback" not in told


def test_a_worker_that_is_killed_is_one_line(tmp_path: Path) -> None:
    with converting(tmp_path, "os.kill(os.getpid(), 9)") as process:
        told = last_words(process)
    assert process.returncode == 2 and told.splitlines()[-1].startswith(
        "error: a worker process was ended from outside"
    )
    assert "fewer than workers=2" in told and "Traceback" not in told
