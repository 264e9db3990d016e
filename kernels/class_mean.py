"""Class means of features for the nearest-class-mean classifier (Kang et al. 2020, section 4).

Means of three kinds of features: as they are (`un`), L2-normalised (`l2n`), and centred by the mean of all rows, then
L2-normalised (`cl2n`). The means themselves are not normalised again. `class_mean` takes all rows at once,
`ClassMeanStream` batch by batch; class_mean_cpu.py and class_mean_cuda.py hold the loops.
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
    """counts int64 [C]; un, l2n, cl2n float32 [C, D]; global_mean float32 [D]. An empty class has zero rows.

    cl2n is None where a stream was not given its rows a second time.
    """

    counts: Array
    un: Array
    l2n: Array
    cl2n: Array
    global_mean: Array


def reference(features: NDArray[Any], labels: NDArray[np.int64], num_classes: int) -> ClassMeans:
    """The definition in NumPy and float64."""
    raw = features.astype(np.float64)
    mean = raw.mean(axis=0)
    kinds = [raw, _normalised(raw), _normalised(raw - mean)]
    means = np.zeros((3, num_classes, raw.shape[1]))
    for label in np.unique(labels):
        for kind, rows in enumerate(kinds):
            means[kind, label] = rows[labels == label].mean(axis=0)
    un, l2n, cl2n = means.astype(np.float32)
    return ClassMeans(np.bincount(labels, minlength=num_classes), un, l2n, cl2n, mean.astype(np.float32))


def _normalised(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norm, out=np.zeros_like(rows), where=norm > 0)


def cpu(features: Array, labels: Array, num_classes: int) -> ClassMeans:
    """Two reads of the features: front to back for the mean of all rows, then in the order of the classes."""
    rows = host_bits(features)
    mean = class_mean_cpu.mean_of_rows(rows)
    if not np.isfinite(mean).all():
        raise _not_finite("features", class_mean_cpu.first_not_finite(rows))
    counts, un, l2n, cl2n = class_mean_cpu.class_means(rows, host(labels, np.int64), num_classes, mean)
    return ClassMeans(*(like(result, features) for result in (counts, un, l2n, cl2n, mean.astype(np.float32))))


def cuda(features: torch.Tensor, labels: torch.Tensor, num_classes: int) -> ClassMeans:
    """Three reads of the features on their device: mean of all rows, norms, sums in the order of the classes."""
    counts, un, l2n, cl2n, mean = class_mean_cuda.class_means(features.contiguous(), labels, num_classes)
    if not mean.isfinite().all():  # last, for it waits for the device
        raise _not_finite("features", class_mean_cuda.first_not_finite(features))
    return ClassMeans(counts, un, l2n, cl2n, mean.float())


def class_mean(features: Any, labels: Any, num_classes: int) -> ClassMeans:
    """Means per class of raw, L2-normalised, and centred then L2-normalised features.

    For class c with rows x_i, i in I_c, and m the mean of all rows:
    un_c = mean x_i, l2n_c = mean x_i / ||x_i||, cl2n_c = mean (x_i - m) / ||x_i - m||. A row of norm zero counts as
    the zero vector; a class without rows has count 0 and means of zero.

    features: float32, float16 or bfloat16 [N, D], finite; fastest C-contiguous and sorted by class. labels: integers
    [N] in 0..num_classes-1. NumPy or torch, on the CPU or a GPU; the result comes in the kind of features and on their
    device, labels may be of the other kind or elsewhere. Returns `ClassMeans`: float32 means from float64 sums, the
    same bits for any number of threads.
    Raises ValueError for wrong shapes or dtypes, labels out of range, NaN or infinite features.
    """
    features, labels = take(features), take(labels)
    check_rows(features, "features", "[N, D]")
    check_labels(labels, len(features), num_classes)
    if on_gpu(features):
        return cuda(features, tensor(labels, features.device, torch.int64), num_classes)
    return cpu(features, labels, num_classes)


def _not_finite(what: str, row: int) -> ValueError:
    return ValueError(f"{what} row {row} has a NaN or infinite value; only finite values have a mean")


class ClassMeanStream:
    """Class means of features that come batch by batch, as while they are extracted, and need not fit in memory.

        stream = ClassMeanStream(classes, dim)
        for features, labels in batches: stream.add(features, labels)
        stream.centre()  # only for cl2n, which needs the mean of all rows: the same batches come a second time
        for features, labels in batches: stream.add(features, labels)
        means = stream.means()

    num_classes: C. dim: D. device: where the float64 sums [C, D] lie, two of them in the first pass and a third in the
    second; batches may lie elsewhere. The same batches give the same bits for any number of threads.
    Raises ValueError for num_classes or dim below 1.
    """

    def __init__(self, num_classes: int, dim: int, device: torch.device | str = "cpu"):
        if num_classes < 1 or dim < 1:
            raise ValueError(f"num_classes is {num_classes} and dim {dim}; both must be at least 1")
        self._on_gpu = torch.device(device).type == "cuda"
        self._device = torch.device("cpu" if class_mean_cuda.SIMULATED else device)
        self._kind: type | None = None
        self._mean: torch.Tensor | None = None
        self._sums = torch.zeros((2, num_classes, dim), dtype=torch.float64, device=self._device)
        self._counts = torch.zeros(num_classes, dtype=torch.int64)  # of the present pass
        self._first_sums, self._first_counts = self._sums, self._counts

    def add(self, features: Any, labels: Any) -> None:
        """Takes the next batch of the pass.

        features: float32, float16 or bfloat16 [n, D], finite. labels: integers [n] in 0..C-1. n may be 0.
        Raises ValueError for what `class_mean` refuses and for another D; NaN and infinite rows are named by their
        position in the pass. A batch that is refused leaves the stream as it was.
        """
        features, labels = take(features), take(labels)
        classes, dim = self._sums.shape[1:]
        if features.ndim and not len(features):
            return
        check_rows(features, "features", f"[n, {dim}]")
        if features.shape[1] != dim:
            raise ValueError(f"features have {features.shape[1]} columns; this stream takes {dim}, as at its creation")
        known = labels.cpu() if on_gpu(labels) else labels  # checked and counted here, so copied once
        check_labels(known, len(features), classes)
        counts = self._counts + torch.from_numpy(np.bincount(host(known, np.int64), minlength=classes))
        if self._mean is not None and bool((counts > self._first_counts).any()):
            label = int((counts > self._first_counts).nonzero()[0])
            raise ValueError(
                f"the second pass has {counts[label]} rows of class {label} or more, the first had "
                f"{self._first_counts[label]}; give both passes the same batches"
            )
        if self._on_gpu:
            here = tensor(features, self._device), tensor(labels, self._device, torch.int64)
            bad = class_mean_cuda.add(*here, self._sums, self._mean)
        else:
            rows = host_bits(features)
            bad = class_mean_cpu.first_not_finite(rows)
            if bad < 0:
                class_mean_cpu.add(rows, host(known, np.int64), self._sums.numpy(), _numpy(self._mean))
        if bad >= 0:
            raise _not_finite("stream", int(self._counts.sum()) + bad)
        self._kind = self._kind or type(features)
        self._counts = counts

    def centre(self) -> None:
        """Ends the first pass: the mean of all rows is known, and the same rows are expected again.

        Raises ValueError if there were no rows, or if the first pass has ended already.
        """
        if self._mean is not None:
            raise ValueError("centre() was called before; a stream has two passes, start another one")
        self._mean = self._global_mean()
        self._sums = torch.zeros_like(self._first_sums[:1])
        self._first_counts, self._counts = self._counts, torch.zeros_like(self._counts)

    def means(self) -> ClassMeans:
        """What was added so far, in the kind of the first batch, on the device of the stream.

        Before centre(), cl2n is None. Raises ValueError if there were no rows, or fewer in the second pass than in the
        first.
        """
        counts = self._counts if self._mean is None else self._first_counts
        mean = self._global_mean() if self._mean is None else self._mean
        if self._mean is not None and bool((self._counts != counts).any()):
            raise ValueError(
                f"the second pass has {self._counts.sum()} rows, the first had {counts.sum()}; give both passes the "
                "same batches, or leave out centre() where cl2n is not needed"
            )
        divisor = counts.clamp(min=1)[:, None].to(self._device)
        un, l2n = ((sums / divisor).float() for sums in self._first_sums)
        cl2n = None if self._mean is None else (self._sums[0] / divisor).float()
        kind = _numpy if self._kind is np.ndarray else lambda values: values
        return ClassMeans(kind(counts.to(self._device)), kind(un), kind(l2n), kind(cl2n), kind(mean.float()))

    def _global_mean(self) -> torch.Tensor:
        rows = int(self._counts.sum())
        if not rows:
            raise ValueError("no rows were added; class means need at least one")
        return self._first_sums[0].sum(dim=0) / rows


def _numpy(values: torch.Tensor | None) -> Any:
    return None if values is None else values.numpy(force=True)
