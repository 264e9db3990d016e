"""Compiled kernels find a place where neither the installation nor the home can be written."""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
USE = "import numpy as np; from fastlt.kernels.draw_plan import cpu_flip; print(len(cpu_flip(np.arange(3), 0, 0)))"


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy that cannot be written, as one of another user."""
    place = tmp_path_factory.mktemp("installation")
    shutil.copytree(ROOT / "fastlt", place / "fastlt", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in [place, *place.rglob("*")]:
        if folder.is_dir():
            folder.chmod(0o555)
    yield place
    for folder in [place, *place.rglob("*")]:
        if folder.is_dir():
            folder.chmod(0o755)


def run(installation: Path, temporary: Path | str, **more: str) -> subprocess.CompletedProcess:
    # Root writes where permissions forbid it, unless it gives that right up.
    command = ["setpriv", "--bounding-set=-dac_override", sys.executable] if os.getuid() == 0 else [sys.executable]
    kept = {name: value for name, value in os.environ.items() if name not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")}
    place = {"PYTHONPATH": str(installation), "HOME": "/proc/nowhere", "TMPDIR": str(temporary)}
    code = [*command, "-P", "-W", "error", "-c", USE]
    return subprocess.run(code, env=kept | place | more, cwd="/", capture_output=True, text=True, check=False)


@pytest.mark.skipif(os.getuid() == 0 and not shutil.which("setpriv"), reason="root, and no setpriv")
def test_an_installation_and_a_home_that_cannot_be_written(installation: Path, tmp_path: Path) -> None:
    done = run(installation, tmp_path)
    folder = tmp_path / f"fastlt-kernels-{os.getuid()}"
    assert (done.returncode, done.stdout) == (0, "3\n")
    assert done.stderr == f"compiled kernels are kept in {folder}; NUMBA_CACHE_DIR=FOLDER keeps them elsewhere\n"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700 and list(folder.rglob("*.nbi"))

    own = run(installation, tmp_path, NUMBA_CACHE_DIR=str(tmp_path / "own"))
    assert (own.returncode, own.stderr) == (0, "") and list((tmp_path / "own").rglob("*.nbi"))

    folder.chmod(0o777)  # anybody may have put code there: it is not run
    others = run(installation, tmp_path)
    assert others.returncode == 0 and others.stderr.startswith("compiled kernels cannot be kept: each process takes")


@pytest.mark.skipif(os.getuid() == 0 and not shutil.which("setpriv"), reason="root, and no setpriv")
def test_no_place_at_all(installation: Path) -> None:
    done = run(installation, "/proc/nowhere")
    # Python then takes other temporary places: the folder it found, or none.
    assert (done.returncode, done.stdout) == (0, "3\n") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(("kind", "size"), [("nbi", 0), ("nbi", 100), ("nbc", 0), ("nbc", 100)])
def test_damaged_files_are_compiled_anew(kind: str, size: int, tmp_path: Path) -> None:
    def use() -> tuple[str, str]:
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", USE], env=environment, capture_output=True, text=True, check=False)
        return done.stdout, done.stderr

    assert use() == ("3\n", "")
    (file,) = tmp_path.rglob(f"*.{kind}")
    whole = file.read_bytes()
    os.truncate(file, size)  # as a power cut leaves files that were not flushed to the disk
    assert use() == ("3\n", "")
    assert len(file.read_bytes()) == len(whole)


def test_a_full_disk_costs_the_cache_alone(tmp_path: Path) -> None:
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); {USE}"
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", limit], env=environment, capture_output=True, text=True, check=False)
    told = "compiled kernels cannot be kept (File too large): each process takes a minute to compile them"
    assert (done.returncode, done.stdout) == (0, "3\n")
    assert done.stderr == f"{told}; NUMBA_CACHE_DIR=FOLDER helps\n"
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_kernels_are_compiled_whatever_the_environment_says(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": str(ROOT)}
    code = [sys.executable, "-c", f"{USE}; from numba import config; print(config.DISABLE_JIT)"]
    done = subprocess.run(code, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stderr == "NUMBA_DISABLE_JIT is ignored: fastlt's kernels only work compiled\n"
    assert (done.returncode, done.stdout) == (0, "3\n0\n")
