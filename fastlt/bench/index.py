"""python -m fastlt.bench index [samples=10000000]: what a very large dataset costs before its first image is read."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from fastlt.bench.rows import Row, row
from fastlt.core.errors import UserError
from fastlt.data.plan import Augment, draw_plan
from fastlt.data.shards import format as layout
from fastlt.data.shards.reader import Dataset
from fastlt.data.shards.writer import write_description
from fastlt.longtail.sampler import LAWS, Sampler

CLASSES = 9000
LEAST = 10 * CLASSES
AHEAD = 4096  # positions planned at once, as the loader does


def bench_index(cfg: Any) -> list[Row]:
    """Seconds to open an index of `samples` simulated samples in 9000 Zipf classes, to order an epoch by each law, and
    to plan one (crops, flips, colours); and the peak memory of all that. Every round is a process of its own."""
    if cfg.samples < LEAST:
        raise UserError(f"samples={cfg.samples}: at least {LEAST}, for {CLASSES} classes")
    values: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir=cfg.scratch) as scratch:
        _simulate(Path(scratch), cfg.samples)
        for number in range(cfg.rounds + 1):  # the first one compiles and fills the page cache
            command = [sys.executable, "-m", "fastlt.bench.index", scratch]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            if number:
                for name, value in json.loads(done.stdout).items():
                    values.setdefault(name, []).append(value)
    return [row(name, series, "GB" if name == "peak_memory" else "s") for name, series in values.items()]


def _simulate(root: Path, samples: int) -> None:
    rng = np.random.default_rng(0)
    weight = 1 / np.arange(1, CLASSES + 1)
    counts = np.maximum(1, (weight / weight.sum() * samples)).astype(np.int64)
    counts[0] += samples - counts.sum()
    columns = {
        "shard": np.zeros(samples),
        "offset": np.arange(samples) * 1000,
        "length": np.full(samples, 900),
        "label": np.repeat(np.arange(CLASSES), counts),
        "height": rng.integers(200, 500, samples),
        "width": rng.integers(200, 500, samples),
        "encoding": np.zeros(samples),
        "crc32": np.zeros(samples),
    }
    typed = {name: values.astype(layout.COLUMNS[name]) for name, values in columns.items()}
    typed["key"] = np.char.mod("%09d", np.arange(samples)).astype("S9")
    about = {
        "schema": layout.SCHEMA,
        "name": "simulated",
        "class_names": [str(j) for j in range(CLASSES)],
        "mean": [0.5] * 3,
        "std": [0.2] * 3,
        "protocol": "imagenet_lt_90",
        "splits": {"train": {"samples": samples, "counts": counts.tolist(), "encodings": {"jpg": samples}}},
        "shards": [{"name": "train-000000.tar", "size": 0, "sha256": ""}],
        "quarantined": {},
    }
    (root / "train-000000.tar").touch()
    write_description(root, about, {"train": typed})


def _round(root: Path) -> dict[str, float]:
    result = {}
    start = time.monotonic()
    index = Dataset(root).split("train")
    result["open"] = time.monotonic() - start
    order = index.class_members
    for law in LAWS:
        sampler = Sampler(index.class_members, index.class_start, law, seed=0, epochs=90)
        start = time.monotonic()
        order = sampler.order(1)
        result[f"order_{law}"] = time.monotonic() - start
    augment = Augment(224, "resized", flip=True, jitter=0.4)
    start = time.monotonic()
    for first in range(0, len(order), AHEAD):
        ids = order[first : first + AHEAD]
        positions = np.arange(first, first + len(ids))
        draw_plan(ids, positions, index.height[ids], index.width[ids], augment, seed=0, epoch=1)
    result["plan"] = time.monotonic() - start
    result["peak_memory"] = peak_memory()
    return result


def peak_memory() -> float:
    """GB that this process held at most. Not from getrusage: what that says begins with the parent's peak."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1e6


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_round(Path(sys.argv[1]))))
