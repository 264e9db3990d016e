"""Benchmark of the stage-2 kernels: python -m fastlt.bench kernels [size=standard] [device=cpu]."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import njit, prange

from fastlt.bench import kernel_rivals as rivals
from fastlt.bench.config import BenchConfig
from fastlt.bench.index import peak_memory
from fastlt.bench.kernel_data import SIZES, KernelData, Size
from fastlt.bench.rows import Row, measure_series, ratio, row
from fastlt.core import device as machine
from fastlt.core.errors import UserError
from fastlt.kernels.accuracy_curve import AccuracyCurve, accuracy_curve
from fastlt.kernels.class_mean import class_mean
from fastlt.kernels.winning_interval import winning_interval

AUTHORS_TAUS = np.linspace(0, 2, 21)
CHECKED_TAUS = np.linspace(-1, 3, 101)
ROWS = 512  # rows that are classified at once to check the curve

RATIOS = [
    ("class_mean_all", "memory_read"),
    ("class_mean_all", "class_mean_limit"),
    ("class_mean_shuffled", "memory_read"),
    ("class_mean_float16", "memory_read"),
    ("class_mean_torch", "class_mean_all"),
    ("class_mean_authors", "class_mean_all"),
    ("tau_all", "matmul"),
    ("tau_loop_21", "tau_all"),
]


def bench_kernels(config: BenchConfig) -> list[Row]:
    """Measures seconds per call on random features of one of the sizes in kernel_data.SIZES.

    The cases are:

    memory_read: one read of the training features (on a GPU, a copy of half of them). bandwidth: its speed in GB/s.
    class_mean_all: class means of all three kinds of float32 features in class order; class_mean_shuffled: in random
        order; class_mean_float16: of float16 features; class_mean_authors: a NumPy mean per class; class_mean_torch:
        index_add_.
    class_mean_limit: the time for the bytes that class_mean_all must read and write, at the speed of memory_read.
    matmul: the scores of the test features.
    tau_all: winning_interval, accuracy_curve and the best tau. tau_loop_21: the authors' grid of 21 taus.
    peak_memory (GB): of a process that draws test features and computes class means and the best tau.
    curve_difference (percentage points): the largest difference between the curve at 101 taus and the accuracies of
        classifying with the same scores in float64.
    """
    if config.size not in SIZES:
        raise UserError(f"size={config.size} is unknown: allowed are {', '.join(SIZES)}")
    device = machine.pick_device(config.device)
    every = cases(KernelData(SIZES[config.size], device))
    for name in config.cases:
        if name not in every:
            raise UserError(f"cases: {name} is unknown, allowed are {', '.join(every)}")
    names = list(config.cases) or list(every)
    series = measure_series({name: _timed(every[name], device) for name in names}, config.rounds, "s")
    if "memory_read" in series:
        series["class_mean_limit"] = _limit(series["memory_read"], SIZES[config.size])
    rows = [row(name, values, "s") for name, values in series.items()]
    if "memory_read" in series:
        read = 4e-9 * SIZES[config.size].train * SIZES[config.size].dim
        rows.append(row("bandwidth", [read / seconds for seconds in series["memory_read"]], "GB/s"))
    rows += [ratio(over, under, series) for over, under in RATIOS if over in series and under in series]
    if not config.cases:
        rows.append(row("curve_difference", [_curve_difference(KernelData(SIZES[config.size], device))], "points"))
        if device.type == "cpu":
            rows.append(row("peak_memory", [_peak_memory(config.size)], "GB"))
    return rows


def _timed(case: Callable[[], Any], device: torch.device) -> Callable[[], float]:
    def timed() -> float:
        _wait(device)
        start = time.perf_counter()
        kept = case()
        _wait(device)
        seconds = time.perf_counter() - start
        del kept  # freeing the memory is not part of the measurement
        return seconds

    return timed


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def cases(data: KernelData) -> dict[str, Callable[[], Any]]:
    """Returns {name of a case: function without arguments}."""
    x, labels, classes = data.train, data.train_labels, data.size.classes
    mixed, mixed_labels = data.shuffled()
    half = x.half()
    rows, their_labels = data.on_host()
    test, weight = data.test, data.weight
    return {
        "memory_read": lambda: _read(x),
        "class_mean_all": lambda: class_mean(x, labels, classes),
        "class_mean_shuffled": lambda: class_mean(mixed, mixed_labels, classes),
        "class_mean_float16": lambda: class_mean(half, labels, classes),
        "class_mean_torch": lambda: rivals.torch_class_means(x, labels, classes),
        "class_mean_authors": lambda: rivals.authors_class_means(rows, their_labels),
        "matmul": lambda: torch.mm(test, weight.T),
        "tau_all": lambda: every_tau(data).best("all"),
        "tau_loop_21": lambda: rivals.authors_tau_loop(test, weight, data.test_labels, AUTHORS_TAUS),
    }


def every_tau(data: KernelData) -> AccuracyCurve:
    """Returns the accuracy curve of the test features."""
    ends = winning_interval(data.test, data.weight, data.test_labels)
    return accuracy_curve(*ends, data.test_labels, data.groups)


def _read(x: torch.Tensor) -> Any:
    if x.is_cuda:
        return x[: len(x) // 2].clone()  # reads and writes together as many bytes as x has
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


def _limit(reads: list[float], size: Size) -> list[float]:
    """Returns the seconds that reading features and writing class means takes at the speed of each of the `reads`."""
    return [seconds * (1 + 3 * size.classes / size.train) for seconds in reads]


def _curve_difference(data: KernelData) -> float:
    curve = every_tau(data).at(CHECKED_TAUS)
    log_norm = data.weight.double().norm(dim=1).log()
    right = torch.zeros((len(CHECKED_TAUS), len(data.test)), dtype=torch.bool)
    for begin in range(0, len(data.test), ROWS):
        rows = slice(begin, begin + ROWS)
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
    """Returns the peak memory in GB of computing class means and the best tau on the test features."""
    data = KernelData(SIZES[size], torch.device("cpu"))
    class_mean(data.test, data.test_labels, data.size.classes)
    every_tau(data).best("all")
    return peak_memory()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_run_once(sys.argv[1])))
