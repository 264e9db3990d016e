"""The device these tests are about, and runs on it that several of them look at.

FASTLT_GPU_TESTS_ON=cpu runs all that makes sense there on a CPU, so that the tests themselves are tested.
"""

import os
from pathlib import Path

import pytest
import torch
from colours import Colours
from commands import train
from pictures import conversion
from run_inside import SMALL

from fastlt.data.convert import convert


@pytest.fixture(scope="session")
def device() -> torch.device:
    """A GPU, or what FASTLT_GPU_TESTS_ON names; the test is skipped where there is neither."""
    name = os.environ.get("FASTLT_GPU_TESTS_ON", "cuda:0")
    if name != "cpu" and not torch.cuda.is_available():
        pytest.skip("no CUDA device (FASTLT_GPU_TESTS_ON=cpu runs on the CPU what makes sense there)")
    return torch.device(name)


@pytest.fixture
def gpu(device: torch.device) -> torch.device:
    """A GPU and nothing else."""
    if device.type == "cpu":
        pytest.skip("about streams or memory of a GPU")
    return device


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a converted dataset `data` in it."""
    folder = tmp_path_factory.mktemp("gpu")
    convert(Colours(), conversion(), folder / "data", workers=1)
    return folder


@pytest.fixture(scope="session")
def first(place: Path, device: torch.device) -> Path:
    """A run on the device with every classifier, by a process of its own."""
    done = train(*SMALL, "run=first", f"device={device}", "classifiers=[all]", "stage2.hidden=16", cwd=place)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "first/report.md"
    return place / "first"


@pytest.fixture(scope="session")
def first_cpu(place: Path) -> Path:
    """The same on the CPU."""
    done = train(*SMALL, "run=first_cpu", "device=cpu", "classifiers=[all]", "stage2.hidden=16", cwd=place)
    assert done.returncode == 0, done.stderr
    return place / "first_cpu"
