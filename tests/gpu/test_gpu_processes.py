"""Several processes: two trainings on one GPU at once, and ranks under torchrun."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import ROOT
from run_inside import SMALL, losses, results

pytestmark = pytest.mark.gpu

TRAIN = ("-m", "fastlt.train", *SMALL, "epochs=2", "classifiers=[joint,crt]")


def start(place: Path, *command: str) -> subprocess.Popen[str]:
    arguments = [argument for argument in command if argument != "epochs=3"]  # of SMALL
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=place,
        env={**os.environ, "HYDRA_FULL_ERROR": "", "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ranks(place: Path, device: torch.device, number: int, run: str) -> None:
    """A training under torchrun that must end well."""
    torchrun = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={number}")
    process = start(place, *torchrun, *TRAIN, f"device={device.type}", f"run={run}")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert out.count("report.md") == 1  # one of them speaks


def test_two_trainings_at_once(device: torch.device, place: Path) -> None:
    both = [start(place, *TRAIN, f"device={device}", f"run=at_once{seed}", f"seed={seed}") for seed in (0, 1)]
    for seed, process in enumerate(both):
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        assert results(place / f"at_once{seed}")["classifiers"]["joint"]["all"] > 60
    assert losses(place / "at_once0") != losses(place / "at_once1")


def test_one_rank_under_torchrun(first: Path, device: torch.device, place: Path) -> None:
    ranks(place, device, 1, "one_rank")
    assert losses(place / "one_rank")[0] == pytest.approx(losses(first)[0], rel=0.1)


def test_two_ranks_under_torchrun(first: Path, device: torch.device, place: Path) -> None:
    """Over NCCL, a GPU each."""
    if device.type == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip("NCCL wants a GPU for every rank, there is one only")
    ranks(place, device, 2, "two_ranks")
    assert losses(place / "two_ranks")[0] == pytest.approx(losses(first)[0], rel=0.3)  # BatchNorm sees half a batch
    assert results(place / "two_ranks")["classifiers"]["crt"]["all"] > 60
