"""python -m fastlt.bench kernels [size=standard] [device=cpu]: seconds of every kernel, its rivals and its limits."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numba import njit, prange

from fastlt.bench import kernel_rivals as rivals
from fastlt.bench.index import peak_memory
from fastlt.bench.kernel_data import SIZES, KernelData
from fastlt.bench.rows import Row, measure_series, ratio, row
from fastlt.core import device as machine
from fastlt.core.errors import UserError
from fastlt.kernels.accuracy_curve import AccuracyCurve, accuracy_curve
from fastlt.kernels.class_mean import ClassMeanStream, class_mean
from fastlt.kernels.group_count import group_count
from fastlt.kernels.nearest_mean import nearest_mean
from fastlt.kernels.tau_normalize import tau_normalize
from fastlt.kernels.winning_interval import winning_interval, winning_interval_linear

AUTHORS_TAUS = np.linspace(0, 2, 21)
CHECKED_TAUS = np.linspace(-1, 3, 101)
CLASSIFIERS = 4  # of group_count: as many as there are samplers
BATCH = 512  # rows of the streaming form

RATIOS = [
    ("class_mean_all", "memory_read"),
    ("class_mean_all", "class_mean_limit"),
    ("class_mean_shuffled", "memory_read"),
    ("class_mean_float16", "memory_read"),
    ("class_mean_stream", "memory_read"),
    ("class_mean_torch", "class_mean_all"),
    ("class_mean_authors", "class_mean_all"),
    ("tau_all", "matmul"),
    ("tau_loop_21", "tau_all"),
    ("winning_interval", "matmul"),
    ("winning_interval", "winning_interval_limit"),
    ("nearest_mean", "matmul_nearest"),
    ("nearest_mean_torch", "nearest_mean"),
    ("group_count", "matmul_group"),
    ("group_count_torch", "group_count"),
    ("tau_normalize", "tau_normalize_limit"),
    ("tau_normalize_torch", "tau_normalize"),
]


def bench_kernels(cfg: Any) -> list[Row]:
    """Seconds of a call, in turn, on drawn features of one of the sizes in kernel_data.SIZES.

    memory_read: one read of the training features (on a GPU: a copy of half of them), bandwidth (GB/s) its speed.
        *_limit: the time that the bytes an op must read and write take at that speed.
    class_mean_all: all three kinds, float32, rows in class order; _shuffled: in random order; _float16; _stream: two
        passes in batches of 512 rows in random order; _authors: NumPy mean per class; _torch: index_add_.
    matmul: scores of the test features. tau_all: winning_interval_linear, accuracy_curve and the best tau;
        tau_loop_21: the authors' grid. winning_interval: alone, on scores in memory.
    nearest_mean, group_count (4 classifiers): beside torch with whole score matrices, and their matrix products alone.
    tau_normalize: weights for 21 taus, beside torch's broadcasting.

    peak_memory (GB) of one process that draws test features and takes class means, nearest means and every tau.
    curve_difference (percentage points): largest difference of accuracies at 101 taus from those of classifying anew
    in float64 with the same scores.
    """
    if cfg.size not in SIZES:
        raise UserError(f"size={cfg.size} is unknown: allowed are {', '.join(SIZES)}")
    if cfg.rounds < 1:
        raise UserError(f"rounds={cfg.rounds}: it must be at least 1")
    device = machine.pick_device(cfg.device)
    every = Cases(KernelData(SIZES[cfg.size], device)).all()
    for name in cfg.cases:
        if name not in every:
            raise UserError(f"cases: {name} is unknown, allowed are {', '.join(every)}")
    names = list(cfg.cases) or list(every)
    series = measure_series({name: _timed(every[name], device) for name in names}, cfg.rounds, "s")
    series |= _limits(series, SIZES[cfg.size])
    rows = [row(name, values, "s") for name, values in series.items()]
    if "memory_read" in series:
        read = 4e-9 * SIZES[cfg.size].train * SIZES[cfg.size].dim
        rows.append(row("bandwidth", [read / seconds for seconds in series["memory_read"]], "GB/s"))
    rows += [ratio(over, under, series) for over, under in RATIOS if over in series and under in series]
    if not cfg.cases:
        rows.append(row("curve_difference", [_curve_difference(KernelData(SIZES[cfg.size], device))], "points"))
        if device.type == "cpu":
            rows.append(row("peak_memory", [_peak_memory(cfg.size)], "GB"))
    return rows


def _timed(case: Callable[[], Any], device: torch.device) -> Callable[[], float]:
    def timed() -> float:
        _wait(device)
        start = time.perf_counter()
        kept = case()
        _wait(device)
        seconds = time.perf_counter() - start
        del kept  # giving the memory back is not what is measured
        return seconds

    return timed


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class Cases:
    """Every case by its name, a function of nothing."""

    data: KernelData

    def all(self) -> dict[str, Callable[[], Any]]:
        """Those of class means, then those of classifiers."""
        return {**self._means(), **self._classifiers()}

    def _means(self) -> dict[str, Callable[[], Any]]:
        data, classes = self.data, self.data.size.classes
        x, labels = data.train, data.train_labels
        mixed, mixed_labels = data.shuffled()
        half = x.half()
        rows, their_labels = data.on_host()

        def stream() -> Any:
            total = ClassMeanStream(classes, data.size.dim, device=x.device)
            for first in (True, False):
                for batch, batch_labels in zip(mixed.split(BATCH), mixed_labels.split(BATCH), strict=True):
                    total.add(batch, batch_labels)
                if first:
                    total.centre()
            return total.means()

        return {
            "memory_read": lambda: _read(x),
            "class_mean_all": lambda: class_mean(x, labels, classes),
            "class_mean_shuffled": lambda: class_mean(mixed, mixed_labels, classes),
            "class_mean_float16": lambda: class_mean(half, labels, classes),
            "class_mean_stream": stream,
            "class_mean_torch": lambda: rivals.torch_class_means(x, labels, classes),
            "class_mean_authors": lambda: rivals.authors_class_means(rows, their_labels),
        }

    def _classifiers(self) -> dict[str, Callable[[], Any]]:
        data = self.data
        x, labels, weight, groups = data.test, data.test_labels, data.weight, data.groups
        means = class_mean(data.train, data.train_labels, data.size.classes)
        scores = torch.mm(x, weight.T)
        log_norm = weight.double().norm(dim=1).log()
        weights = torch.stack([weight * (1 + 0.01 * k) for k in range(CLASSIFIERS)])
        taus = torch.linspace(0, 2, 21, device=x.device)
        return {
            "matmul": lambda: torch.mm(x, weight.T),
            "tau_all": lambda: every_tau(data).best("all"),
            "tau_loop_21": lambda: rivals.authors_tau_loop(x, weight, labels, AUTHORS_TAUS),
            "winning_interval": lambda: winning_interval(scores, log_norm, labels),
            "matmul_nearest": lambda: torch.mm(x, means.cl2n.T),
            "nearest_mean": lambda: nearest_mean(x, means.cl2n, "l2", centre=means.global_mean, normalize=True),
            "nearest_mean_torch": lambda: rivals.torch_nearest_mean(x, means.cl2n, means.global_mean),
            "matmul_group": lambda: [torch.mm(x, one.T) for one in weights],
            "group_count": lambda: group_count(x, weights, labels, groups),
            "group_count_torch": lambda: rivals.torch_group_count(x, weights, labels, groups),
            "tau_normalize": lambda: tau_normalize(weight, taus),
            "tau_normalize_torch": lambda: rivals.torch_tau_normalize(weight, taus),
        }


def every_tau(data: KernelData) -> AccuracyCurve:
    """The exact curve of a size's test features."""
    ends = winning_interval_linear(data.test, data.weight, data.test_labels)
    return accuracy_curve(*ends, data.test_labels, data.groups)


def _read(x: torch.Tensor) -> Any:
    if x.is_cuda:
        return x[: len(x) // 2].clone()  # reads and writes as many bytes as all of x has
    parts = np.zeros(64, np.uint64)
    _read_all(x.numpy().reshape(-1).view(np.uint64), parts)
    return parts


@njit(parallel=True, cache=True)
def _read_all(words, parts):
    for part in prange(parts.size):
        begin, end = words.size * part // parts.size, words.size * (part + 1) // parts.size
        mixed = np.uint64(0)
        for word in words[begin:end]:
            mixed ^= word
        parts[part] = mixed
    return parts


def _limits(series: dict[str, list[float]], size: Any) -> dict[str, list[float]]:
    """Seconds that the bytes of some ops take at the speed of each round's memory_read."""
    train, weight = 4 * size.train * size.dim, 4 * size.classes * size.dim
    needed = {
        "class_mean_limit": train + 3 * weight,
        "winning_interval_limit": 4 * size.test * size.classes + 16 * size.test,
        "tau_normalize_limit": (1 + len(AUTHORS_TAUS)) * weight,
    }
    reads = series.get("memory_read", [])
    return {name: [seconds * count / train for seconds in reads] for name, count in needed.items()} if reads else {}


def _curve_difference(data: KernelData) -> float:
    curve = every_tau(data).at(CHECKED_TAUS)
    log_norm = data.weight.double().norm(dim=1).log()
    right = torch.zeros((len(CHECKED_TAUS), len(data.test)), dtype=torch.bool)
    for begin in range(0, len(data.test), BATCH):
        rows = slice(begin, begin + BATCH)
        scores = (data.test[rows] @ data.weight.T).double()
        for number, tau in enumerate(CHECKED_TAUS.tolist()):
            best = (scores * torch.exp(-tau * log_norm)).argmax(dim=1)
            right[number, rows] = (best == data.test_labels[rows]).cpu()
    labels = data.test_labels.cpu()
    sizes = torch.bincount(labels, minlength=data.size.classes)
    per_class = torch.stack([torch.bincount(labels[one], minlength=len(sizes)) for one in right]) / sizes.double()
    anew = {"all": right.double().mean(dim=1), "mean_class": per_class[:, sizes > 0].mean(dim=1)}
    return max(float(np.abs(curve[name] - 100 * anew[name].numpy()).max()) for name in anew)


def _peak_memory(size: str) -> float:
    command = [sys.executable, "-m", "fastlt.bench.kernels", size]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _run_once(size: str) -> float:
    """Peak memory in GB after what a user would do with features of this size."""
    data = KernelData(SIZES[size], torch.device("cpu"))
    means = class_mean(data.test, data.test_labels, data.size.classes)
    nearest_mean(data.test, means.cl2n, "l2", centre=means.global_mean, normalize=True)
    every_tau(data).best("all")
    return peak_memory()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_run_once(sys.argv[1])))
