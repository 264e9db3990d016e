"""Class means of features for the nearest-class-mean classifier (Kang et al. 2020, section 4).

The means are computed for three kinds of features: unchanged (`un`), L2-normalized (`l2n`), and centred by the mean of
all rows, then L2-normalized (`cl2n`). The means themselves are not normalized. The compiled loops are in
class_mean_cpu.py and class_mean_cuda.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastlt.kernels import class_mean_cpu, class_mean_cuda
from fastlt.kernels.arrays import Array, check_labels, check_rows, host, host_bits, like, on_gpu, take, tensor


@dataclass(frozen=True, eq=False)
class ClassMeans:
    """The result of `class_mean`.

    counts: int64 [C], the number of rows of each class.
    un, l2n, cl2n: float32 [C, D], the means of the three kinds of features; zeros for a class without rows.
    global_mean: float32 [D], the mean of all rows.
    """

    counts: Array
    un: Array
    l2n: Array
    cl2n: Array
    global_mean: Array


def reference(features: NDArray[Any], labels: NDArray[np.int64], num_classes: int) -> ClassMeans:
    """The definition of `class_mean` in NumPy and float64."""
    raw = features.astype(np.float64)
    mean = raw.mean(axis=0)
    kinds = [raw, _normalized(raw), _normalized(raw - mean)]
    means = np.zeros((3, num_classes, raw.shape[1]))
    for label in np.unique(labels):
        for kind, rows in enumerate(kinds):
            means[kind, label] = rows[labels == label].mean(axis=0)
    un, l2n, cl2n = means.astype(np.float32)
    return ClassMeans(np.bincount(labels, minlength=num_classes), un, l2n, cl2n, mean.astype(np.float32))


def _normalized(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norm, out=np.zeros_like(rows), where=norm > 0)


def cpu(features: Array, labels: Array, num_classes: int) -> ClassMeans:
    """Reads the features twice: front to back for the mean of all rows, then in class order for the class means."""
    rows = host_bits(features)
    mean = class_mean_cpu.mean_of_rows(rows)
    if not np.isfinite(mean).all():
        raise _not_finite(class_mean_cpu.first_not_finite(rows))
    counts, un, l2n, cl2n = class_mean_cpu.class_means(rows, host(labels, np.int64), num_classes, mean)
    return ClassMeans(*(like(result, features) for result in (counts, un, l2n, cl2n, mean.astype(np.float32))))


def cuda(features: torch.Tensor, labels: torch.Tensor, num_classes: int) -> ClassMeans:
    """Reads the features three times on their device: for the mean of all rows, for norms, and for class sums."""
    counts, un, l2n, cl2n, mean = class_mean_cuda.class_means(features.contiguous(), labels, num_classes)
    if not mean.isfinite().all():  # checked last, because this makes the host wait for the device
        raise _not_finite(class_mean_cuda.first_not_finite(features))
    return ClassMeans(counts, un, l2n, cl2n, mean.float())


def class_mean(features: Any, labels: Any, num_classes: int) -> ClassMeans:
    """Computes the class means of raw, of L2-normalized, and of centred, then L2-normalized features.

    For class c with rows x_i, i in I_c, and m the mean of all rows:

        un_c   = mean of x_i
        l2n_c  = mean of x_i / ||x_i||
        cl2n_c = mean of (x_i - m) / ||x_i - m||

    A row of norm zero counts as the zero vector. A class without rows has count 0 and means of zero.

    features: float32, float16 or bfloat16 [N, D], finite, NumPy or torch, on the CPU or a GPU. It is fastest if they
    are C-contiguous and sorted by class.
    labels: integers [N] in 0..num_classes-1, NumPy or torch, on any device.

    Returns `ClassMeans` in the type and on the device of `features`. Means are float32 from float64 sums, and their
    bits do not depend on the number of threads.

    Raises ValueError for wrong shapes or dtypes, labels out of range, NaN or infinite features.
    """
    features, labels = take(features), take(labels)
    check_rows(features, "features", "[N, D]")
    check_labels(labels, len(features), num_classes)
    if on_gpu(features):
        return cuda(features, tensor(labels, features.device, torch.int64), num_classes)
    return cpu(features, labels, num_classes)


def _not_finite(row: int) -> ValueError:
    return ValueError(f"features row {row} has a NaN or infinite value; only finite values have a mean")
