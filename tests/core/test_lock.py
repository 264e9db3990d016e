"""Locks hold between processes and end with them."""

import subprocess
import sys
from pathlib import Path

import pytest

from fastlt.core.lock import Busy, is_locked, locked

HOLD = """
import sys, time
from pathlib import Path
from fastlt.core.lock import locked
with locked(Path(sys.argv[1]), "it"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path):
    """A process that holds tmp_path/folder/a.lock until it is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "folder" / "a.lock")], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_held_lock_is_refused_and_named(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    lock = tmp_path / "folder" / "a.lock"
    assert is_locked(lock)
    with pytest.raises(Busy, match=f"run=x is in use by process {holder.pid} on "), locked(lock, "run=x", 0.1):
        pass
    assert is_locked(lock)


def test_a_killed_process_holds_nothing(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    lock = tmp_path / "folder" / "a.lock"
    holder.kill()
    holder.wait()
    assert lock.exists()
    assert not is_locked(lock)
    with locked(lock, "it", 0):
        pass


def test_nothing_stays_of_a_lock(tmp_path: Path) -> None:
    with locked(tmp_path / "empty" / "a.lock", "it"):
        assert (tmp_path / "empty" / "a.lock").exists()
    assert not (tmp_path / "empty").exists()
    with locked(tmp_path / "full" / "a.lock", "it"):
        (tmp_path / "full" / "kept").touch()
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["kept"]
    assert not is_locked(tmp_path / "full" / "a.lock")


def test_it_is_given_back_when_the_work_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), locked(tmp_path / "folder" / "a.lock", "it"):
        raise RuntimeError
    with locked(tmp_path / "folder" / "a.lock", "it", 0):
        pass
