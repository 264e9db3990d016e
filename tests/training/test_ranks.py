"""Several processes under torchrun train on the samples that one would, to the same weights."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import ROOT, train
from pictures import Pictures, conversion

from fastlt.core import interrupts
from fastlt.core.errors import UserError
from fastlt.core.interrupts import Interrupts, Stopped
from fastlt.core.ranks import ranks_here
from fastlt.data.convert import convert
from fastlt.stage2.features import FeatureStore

# Without BatchNorm, whose statistics are those of a rank's share: so the gradients are the same but for rounding.
BACKBONE = """
from torch import nn

def build():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.GroupNorm(4, 16),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )
"""
# A classifier that cannot be fitted.
UNLUCKY = """
def mine(task):
    raise ValueError("no luck")
"""
OPTIONS = (
    "data=data", "protocol=cifar_lt_200", "protocol.batch=16", "backbone.name=tiny:build", "epochs=2", "threads=1",
    "classifiers=[joint]", "device=cpu", "protocol.sam.rho=0.05", "protocol.swa.after=0.5",
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    convert(Pictures(counts=(120, 60, 25, 8), pixels=True), conversion(), folder / "data", workers=1)
    (folder / "tiny.py").write_text(BACKBONE)
    done = train(*OPTIONS, "run=alone", cwd=folder, PYTHONPATH=path(folder))
    assert done.returncode == 0, done.stderr
    return folder


def path(place: Path) -> str:
    return os.pathsep.join([str(place), str(ROOT), os.environ.get("PYTHONPATH", "")])


def torchrun(place: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.Popen(
        [*command, "-m", "fastlt.train", *OPTIONS, *options],
        cwd=place,
        env={**os.environ, "PYTHONPATH": path(place), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoint.pt", weights_only=True)["model"]


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_two_ranks_train_as_one_process_does(place: Path) -> None:
    process = torchrun(place, "run=two")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert out.count("report.md") == 1  # one of them speaks
    np.testing.assert_allclose(losses(place / "two"), losses(place / "alone"), rtol=1e-5)
    alone = weights(place / "alone")
    for name, value in weights(place / "two").items():
        torch.testing.assert_close(value, alone[name], rtol=1e-3, atol=1e-5)
    results = [json.loads((place / run / "results.json").read_text()) for run in ("two", "alone")]
    assert results[0]["key"] == results[1]["key"]
    assert results[0]["classifiers"]["joint"]["all"] == pytest.approx(results[1]["classifiers"]["joint"]["all"], abs=9)


@pytest.mark.parametrize("name", ["given", "frozen"])
def test_two_ranks_extract_and_fit_what_one_process_does(name: str, place: Path) -> None:
    """213 training images are no multiple of two, and a pass of augmented ones follows."""
    frozen = "epochs=0", "protocol=frozen", "protocol.sam.rho=0", "protocol.swa.after=1"
    stage_1 = {"given": ("representation=alone/checkpoint.pt",), "frozen": frozen}[name]
    options = (*stage_1, "augmented_passes=1", "classifiers=[joint,ncm_l2,crt,tau_norm,nowhere:mine]", "image_size=32")
    (place / "nowhere.py").write_text(UNLUCKY)
    alone = train(*OPTIONS, *options, f"run={name}_1", cwd=place, PYTHONPATH=path(place))
    process = torchrun(place, *options, f"run={name}_2")
    _, err = process.communicate(timeout=300)
    assert alone.returncode == 1 and "no luck" in alone.stderr, alone.stderr
    assert process.returncode == 1 and err.count("no luck") == 1, err
    one, two = (json.loads((place / f"{name}_{ranks}" / "results.json").read_text()) for ranks in (1, 2))
    assert one["key"] == two["key"]
    key = one.get("features_key") or one["key"]
    stores = [FeatureStore(place / f"{name}_{ranks}" / "features.h5", key, passes=1) for ranks in (1, 2)]
    for split, count in (("train", 2 * 213), ("val", 12), ("test", 12)):
        (x, labels), (theirs, others) = (store.read(split, augmented=split == "train") for store in stores)
        assert len(x) == count
        np.testing.assert_array_equal(labels, others)
        np.testing.assert_allclose(x, theirs, rtol=1e-4, atol=1e-5)
    rows, others = one["classifiers"], two["classifiers"]
    assert list(rows) == list(others) == ["joint", "ncm_l2", "crt", "tau_norm", "nowhere:mine"]
    assert rows.pop("nowhere:mine") == others["nowhere:mine"]
    for classifier, row in rows.items():
        assert row["all"] == pytest.approx(others[classifier]["all"], abs=9), classifier


@pytest.mark.parametrize(("local", "told"), [(None, "is not set"), ("x", "is 'x', no whole number")])
def test_ranks_that_are_described_in_part_are_refused(
    local: str | None, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local is not None:
        monkeypatch.setenv("LOCAL_RANK", local)
    with pytest.raises(UserError, match=rf"LOCAL_RANK {told}"):
        ranks_here()


def test_a_signal_that_comes_twice_to_a_rank_is_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    got = []
    monkeypatch.setattr(interrupts, "REPEATED", 30.0)
    before = signal.signal(signal.SIGTERM, lambda number, frame: got.append(number))
    try:
        with pytest.raises(Stopped), Interrupts() as asked:
            for _ in range(3):
                signal.raise_signal(signal.SIGTERM)
            assert asked.signal == signal.SIGTERM and not got
            monkeypatch.setattr(interrupts, "REPEATED", 0.0)  # as if time had passed
            signal.raise_signal(signal.SIGTERM)
            assert got == [signal.SIGTERM]
            asked.check("saved")
    finally:
        signal.signal(signal.SIGTERM, before)


def test_under_nohup_a_closed_terminal_stops_nothing() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts() as asked:
            signal.raise_signal(signal.SIGHUP)
        assert asked.signal is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_interrupts_do_nothing_outside_the_main_thread() -> None:
    done = []

    def work() -> None:
        with Interrupts() as asked:
            done.append(asked.signal)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [None]


def test_a_batch_that_cannot_be_shared_out_is_refused(place: Path) -> None:
    process = torchrun(place, "run=uneven", "protocol.batch=15")
    _, err = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "error: protocol.batch=15 cannot be shared out to 2 ranks in 1 parts: choose a multiple of 2" in err


def test_a_rank_that_dies_ends_the_job_and_a_restart_goes_on(place: Path) -> None:
    process = torchrun(place, "run=dies", "epochs=40", "save_minutes=0.001")
    checkpoint = place / "dies" / "checkpoint.pt"
    until = time.monotonic() + 200
    while not checkpoint.exists():
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    os.kill(worker(process.pid, rank=1), signal.SIGKILL)
    _, err = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "rank      : 1" in err and "SIGKILL" in err
    again = torchrun(place, "run=dies", "epochs=40", "save_minutes=0.001")
    _, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    assert "resuming dies/checkpoint.pt after" in err
    assert len(losses(place / "dies")) == 40


def worker(parent: int, rank: int) -> int:
    """Process number of a rank that torchrun started."""
    for status in Path("/proc").glob("[0-9]*/status"):
        if f"\nPPid:\t{parent}\n" in status.read_text():
            environment = (status.parent / "environ").read_bytes().split(b"\0")
            if f"RANK={rank}".encode() in environment:
                return int(status.parent.name)
    raise AssertionError("no such rank")
