"""What checking files costs: python tools/checks_cost.py [--pairs 7] [--samples 10000000].

Prints the table of docs/robustness.md: seconds of CPU time with the checks and without them, medians of pairs that are
measured one after the other in one run. Without them means that the function which compares checksums does nothing.
"""

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import torch

from fastlt.bench.index import simulate
from fastlt.core import torch_file
from fastlt.data.convert import Conversion, convert
from fastlt.data.pipeline.damage import Damage
from fastlt.data.pipeline.loader import Loader
from fastlt.data.plan import Augment
from fastlt.data.shards import reader
from fastlt.data.shards.encode import Encoding
from fastlt.data.shards.reader import Dataset
from fastlt.data.sources.shapes import Shapes
from fastlt.longtail.sampler import InOrder
from fastlt.models.backbones import build_model
from fastlt.stage2.features import store as store_module
from fastlt.stage2.features.layout import Stored, create, note_complete
from fastlt.stage2.features.store import FeatureStore

Off = contextlib.AbstractContextManager[object]


def opening(folder: Path, samples: int) -> tuple[str, Callable[[], object], Callable[[], Off]]:
    """Opening a dataset."""
    simulate(folder, samples)
    unchecked = partial(reader.read_index, check=False)
    return (
        f"opening a dataset of {samples:,} samples",
        lambda: Dataset(folder),
        lambda: mock.patch.object(reader, "read_index", unchecked),
    )


def epoch(folder: Path, encode: str, trained: bool) -> tuple[str, Callable[[], object], Callable[[], Off]]:
    """The first epoch of a loader, with or without training a ResNet-32 on its batches."""
    source = Shapes(imbalance=1, max_per_class=60, val_per_class=1, test_per_class=1)
    options = Conversion("shapes", (0.5,) * 3, (0.2,) * 3, "demo", Encoding(encode))
    dataset = Dataset(convert(source, options, folder / "data", workers=1))
    index, model = dataset.split("train"), build_model("resnet32", dataset.classes, 0)
    step = torch.optim.SGD(model.parameters(), 0.01)

    def run() -> None:
        with Loader(dataset, "train", InOrder(index.class_members), Augment(32, "pad"), 128, threads=1) as loader:
            for batch in loader.epoch():
                if trained:
                    step.zero_grad()
                    torch.nn.functional.cross_entropy(model(batch.images), batch.labels).backward()
                    step.step()

    what = "training a ResNet-32" if trained else "nothing trained"
    kind = {"raw": "raw images", "jpeg": "JPEGs"}[encode]
    name = f"first epoch, {len(index):,} {kind} of 32 px, {what}"
    return name, run, lambda: mock.patch.object(Damage, "_damaged", lambda *_: [])


def checkpoint(folder: Path) -> tuple[str, Callable[[], object], Callable[[], Off]]:
    """Reading a checkpoint."""
    path = folder / "checkpoint.pt"
    torch_file.write_torch_file({"model": build_model("resnet50", 1000, 0).state_dict()}, path)
    name = f"reading a checkpoint of a ResNet-50, {path.stat().st_size / 1e6:.0f} MB"
    off = partial(mock.patch.object, torch_file, "_check_archive", lambda _: None)
    return name, lambda: torch_file.read_torch_file(path), off


def features(folder: Path) -> tuple[str, Callable[[], object], Callable[[], Off]]:
    """Opening stored features."""
    path, rows = folder / "features.h5", 28_000
    create(path, "key", "float32", {"train": Stored((rows, 2048), 0)}, path, {})
    note_complete(path)
    name = f"opening the features of {rows:,} images, 2048 each, {path.stat().st_size / 1e6:.0f} MB"
    off = partial(mock.patch.object, store_module, "damage", lambda *_: "")
    return name, lambda: FeatureStore(path, "key").read("train"), off


def seconds(work: Callable[[], object]) -> float:
    """CPU time of this process and all its threads."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--samples", type=int, default=10_000_000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    cases = (
        partial(opening, samples=given.samples),
        *(partial(epoch, encode=encode, trained=trained) for trained in (False, True) for encode in ("raw", "jpeg")),
        checkpoint,
        features,
    )
    sys.stdout.write("| | with checks | without | more |\n|---|---:|---:|---:|\n")
    for case in cases:
        with tempfile.TemporaryDirectory() as folder:
            name, work, off = case(Path(folder))
            work()  # compiles and fills the page cache
            pairs = []
            for _ in range(given.pairs):
                checked = seconds(work)
                with off():
                    pairs.append((checked, seconds(work)))
            with_checks, without = (statistics.median(series) for series in zip(*pairs, strict=True))
            more = statistics.median(one / other - 1 for one, other in pairs)
            sys.stdout.write(f"| {name} | {with_checks:.3f} | {without:.3f} | {100 * more:.1f} % |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
