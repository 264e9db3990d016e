"""Fixtures that several tests use: datasets made once, one thread."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import cores  # noqa: F401 (first: it has an effect on what is imported after it)
import pytest
import torch
from pictures import Pictures, conversion

from fastlt.core.log import regrets
from fastlt.data.convert import convert
from fastlt.data.shards.reader import Dataset
from fastlt.experiment.precision import VARIABLE

# Files that take a minute or more: the first to be begun, so that no process of tests ends long after the others.
LONG = (
    "grid/test_grid_runs.py",
    "experiment/test_train.py",
    "training/test_training_kills.py",
    "training/test_ranks.py",
    "data/test_conversion_kills.py",
    "bench/test_bench_loader.py",
    "test_wheel.py",
    "test_examples.py",
)

os.environ[VARIABLE] = "fp32"  # what a training computes must not depend on the machine; inherited by commands


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts long files first; all others stay in their order."""
    place = {str(Path(__file__).parent / name): number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(str(item.path), len(LONG)))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real data beside the checkout, or FASTLT_SHARED; the test is skipped where there is none."""
    path = Path(os.environ.get("FASTLT_SHARED", Path(__file__).parents[2] / "shared"))
    if not (path / "data").is_dir():
        pytest.skip(f"no real data in {path} (FASTLT_SHARED names another folder)")
    return path


@pytest.fixture(scope="session")
def jpeg_dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Pictures as JPEG."""
    return Dataset(convert(Pictures(), conversion(), tmp_path_factory.mktemp("jpeg") / "data", workers=1))


@pytest.fixture(scope="session")
def raw_dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Pictures of 32 x 32 pixels, stored raw."""
    return Dataset(convert(Pictures(pixels=True), conversion(), tmp_path_factory.mktemp("raw") / "data", workers=1))


@pytest.fixture(scope="session")
def mixed_dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Pictures as JPEG, but a third of the training images, those of the rarest classes, raw."""
    options = conversion(raw_fraction=0.33)
    return Dataset(convert(Pictures(), options, tmp_path_factory.mktemp("mixed") / "data", workers=1))


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """shard_mb= of a conversion counts kilobytes, so that a few pictures fill several shards."""
    monkeypatch.setattr("fastlt.data.convert.engine.SHARD_UNIT", 1000)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """A file system of so many bytes; asked again, the same one with more or fewer, or one that is read only."""
    place, mount = tmp_path / "disk", ("mount", "-t", "tmpfs", "-o")
    place.mkdir()
    mounted = subprocess.run([*mount, "size=4k", "tmpfs", str(place)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"this user may not mount a tmpfs: {mounted.stderr.decode().strip()}")

    def resized(size: int, read_only: bool = False) -> Path:
        options = f"remount,size={size},{'ro' if read_only else 'rw'}"
        subprocess.run([*mount, options, "tmpfs", str(place)], check=True)
        return place

    yield resized
    subprocess.run(["umount", str(place)], check=True)


@pytest.fixture(autouse=True)
def no_failures_of_earlier_tests() -> None:
    """Forgets failures that were noted but that no command reported; the next command in this process would."""
    regrets()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tensors as small as those of tests lose by a second thread, and much where other work runs beside."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
