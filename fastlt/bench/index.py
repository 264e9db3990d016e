"""Benchmark of very large datasets, up to reading the first image: python -m fastlt.bench index [samples=10000000]."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from fastlt.bench.config import BenchConfig
from fastlt.bench.rows import Row, row
from fastlt.core.errors import UserError
from fastlt.data.plan import Augment, draw_plan
from fastlt.data.shards import format as layout
from fastlt.data.shards.content import write_description
from fastlt.data.shards.reader import Dataset
from fastlt.longtail.sampler import LAWS, Sampler

CLASSES = 9000
LEAST = 10 * CLASSES
AHEAD = 4096  # positions that are planned at once, as in the loader


def bench_index(config: BenchConfig) -> list[Row]:
    """Measures a simulated index with `samples` samples in 9000 classes whose sizes follow Zipf's law.

    The cases are, in seconds: open (opening the dataset), order_LAW (the order of an epoch by each sampler) and plan
    (crops, flips and colours of an epoch); and peak_memory (GB) of the process. Each round runs in a new process.
    """
    if config.samples < LEAST:
        raise UserError(f"samples={config.samples}: at least {LEAST}, for {CLASSES} classes")
    values: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir=config.scratch) as scratch:
        simulate(Path(scratch), config.samples)
        for number in range(config.rounds + 1):  # the first round compiles and fills the page cache, and is not counted
            command = [sys.executable, "-m", "fastlt.bench.index", scratch]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            if number:
                for name, value in json.loads(done.stdout).items():
                    values.setdefault(name, []).append(value)
    return [row(name, series, "GB" if name == "peak_memory" else "s") for name, series in values.items()]


def simulate(root: Path, samples: int) -> None:
    """Writes a dataset of `samples` samples in 9000 classes into a folder; its shard is a sparse file."""
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
        "shards": [{"name": "train-000000.tar", "size": 1000 * samples, "sha256": ""}],
        "options": {},
        "source": {},
        "quarantined": {},
    }
    with (root / "train-000000.tar").open("wb") as shard:
        shard.truncate(1000 * samples)  # a sparse file, which is never written to or read
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
    """Returns the peak memory of this process in GB. getrusage is not used: it starts with the peak of the parent."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1e6


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_round(Path(sys.argv[1]))))
