"""Publishing a dataset, killed before each of its system calls: the old one or the new one is whole at every moment."""

import contextlib
import io
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fault_points import ended_before
from pictures import Pictures, conversion, files

from fastlt.core.errors import UserError
from fastlt.data.convert import convert, publish
from fastlt.data.shards.verify import verify

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

OLD, NEW = Pictures(counts=(2,)), Pictures(counts=(3,))
OPTIONS = conversion(shard_mb=10)  # kilobytes: the unit is made small below
TWICE = int(os.environ.get("FASTLT_KILLS", "4"))  # times that the second command is killed, too


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several shards of few images. A kill does not need the disk's own time; that fsync is called is tested below."""
    monkeypatch.setattr("fastlt.data.convert.engine.SHARD_UNIT", 1000)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(params=["fresh", "exchange", "two renames"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """Makes a folder in which a conversion has all its shards, and `out` is free, or a dataset that it replaces."""
    template = tmp_path / "template"
    template.mkdir()
    if request.param == "two renames":
        monkeypatch.setattr(publish, "exchange", lambda one, other: False)
    if request.param != "fresh":
        quiet(OLD, template / "out", False)
    assert not killed(template / "out", 1, "write_dataset")

    def copy() -> Path:
        copy.number += 1  # type: ignore[attr-defined]
        return Path(shutil.copytree(template, tmp_path / str(copy.number))) / "out"  # type: ignore[attr-defined]

    copy.number = 0  # type: ignore[attr-defined]
    return copy


def quiet(source: Pictures, out: Path, overwrite: bool) -> None:
    with contextlib.redirect_stderr(io.StringIO()):
        convert(source, OPTIONS, out, workers=1, overwrite=overwrite)


def killed(out: Path, number: int, start: str = "recover") -> bool:
    """A conversion in a child process, killed at a fault point; whether it ended before it came there."""
    return ended_before(lambda: quiet(NEW, out, overwrite=True), number, start)


def moments(place: Callable[[], Path]) -> Iterator[Path]:
    """A folder in which a conversion was killed, for every fault point that leaves another state."""
    number, seen = 1, set()
    while not killed(out := place(), number):
        paths = [path for path in sorted(out.parent.rglob("*")) if path.name != "lock"]  # which names the process
        if not (
            out.parent / "out.partial" / "finished.json"
        ).exists():  # how far the index is written does not matter yet
            paths = [path for path in paths if path.name != "index.h5" or path.parent == out]
        state = tuple((str(path.relative_to(out.parent)), path.is_file() and path.read_bytes()) for path in paths)
        if state not in seen:
            seen.add(state)
            yield out
        shutil.rmtree(out.parent)
        number += 1
    assert number > 40 and len(seen) > 10
    print(f"{number - 1} fault points, {len(seen)} states")  # noqa: T201 (pytest -s shows it)


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, bytes]:
    quiet(NEW, tmp_path / "whole", False)
    return files(tmp_path / "whole")


@pytest.fixture
def old(tmp_path: Path) -> dict[str, bytes]:
    quiet(OLD, tmp_path / "old", False)
    return files(tmp_path / "old")


def complete(out: Path, old: dict[str, bytes], whole: dict[str, bytes]) -> bool:
    """Whether a dataset is in `out`; fails if it is neither the old nor the new one."""
    if not out.exists():
        return False
    assert files(out) in (old, whole)
    assert verify(out).findings == 0
    return True


def test_killed_at_every_moment_of_publishing(
    place: Callable[[], Path], old: dict[str, bytes], whole: dict[str, bytes], request: pytest.FixtureRequest
) -> None:
    free, gaps = not place().exists(), 0
    for out in moments(place):
        there = complete(out, old, whole)
        if not there and not free:  # the moment between two renames
            gaps += 1
            assert files(out.parent / "out.partial" / "old") == old
            assert files(out.parent / "out.partial" / "dataset") == whole
        decided = (out.parent / "out.partial" / "finished.json").exists()
        other = Path(shutil.copytree(out.parent, f"{out.parent} without")) / "out"
        if decided or not there:
            quiet(NEW, other, overwrite=False)
            assert files(other) == whole
            assert not (other.parent / "out.partial").exists()
        else:
            before = files(other)
            with pytest.raises(UserError, match="is a finished dataset"):
                quiet(NEW, other, overwrite=False)
            assert files(other) == before
        quiet(NEW, out, overwrite=True)
        assert files(out) == whole
        assert not (out.parent / "out.partial").exists()
        shutil.rmtree(other.parent)
    assert gaps == ("two renames" in request.node.name)


def test_killed_again_while_the_next_command_ends_it(
    place: Callable[[], Path], old: dict[str, bytes], whole: dict[str, bytes]
) -> None:
    chance = random.Random(0)
    free = not place().exists()
    ended = kills = 0
    while ended < TWICE:
        out = place()
        while not killed(out, chance.randrange(1, 60)):  # a few more than there are, or hardly one comes to the end
            kills += 1
            assert complete(out, old, whole) or free or (out.parent / "out.partial" / "old").exists()
        assert files(out) == whole
        ended += 1
        shutil.rmtree(out.parent)
    assert kills > TWICE


def test_what_is_published_is_on_the_disk_first(
    old: dict[str, bytes], whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a power cut: files, their folder and the note before the exchange; the exchange before any removal."""
    events: list[str] = []
    swap, unlink = publish.exchange, Path.unlink

    def synced(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        events.append(str(path.relative_to(tmp_path)))

    def exchanged(one: Path, other: Path) -> bool:
        events.append("EXCHANGE")
        return swap(one, other)

    def unlinked(path: Path, missing_ok: bool = False) -> None:
        events.append("UNLINK")
        unlink(path, missing_ok)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(publish, "exchange", exchanged)
    monkeypatch.setattr(Path, "unlink", unlinked)
    quiet(NEW, tmp_path / "old", overwrite=True)
    at = events.index("EXCHANGE")
    before, after = events[:at], events[at + 1 :]
    for name in whole:
        assert f"old.partial/dataset/{name}" in before
    assert before[-3:] == ["old.partial/dataset", "old.partial/finished.json.tmp", "old.partial"]
    assert set(after[: after.index("UNLINK")]) == {".", "old.partial"}
