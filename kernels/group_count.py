"""How many samples each of K linear classifiers gets right, per class and per group, counted behind an argmax.

The features are read once for all classifiers, tile by tile, and neither scores nor predictions are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numba import njit

from fastlt.kernels import best_class, gpu
from fastlt.kernels.arrays import Array, check_labels, check_rows, dtype_name, host, on_gpu, take, tensor
from fastlt.kernels.gpu import THREADS, cu

_GROUPS = 3  # many, medium, few


@dataclass(frozen=True, eq=False)
class GroupCounts:
    """Counts of K classifiers on one split; accuracies in percent, float64 [K], NaN where there is no sample.

    correct: int64 [K, C]. total: int64 [C], samples of each class. groups: int8 [C], 0 many, 1 medium, 2 few.
    """

    correct: np.ndarray
    total: np.ndarray
    groups: np.ndarray

    @property
    def group_correct(self) -> np.ndarray:
        """Correct samples of each group, int64 [K, 3]."""
        return self.correct @ self._members()

    @property
    def group_total(self) -> np.ndarray:
        """Samples of each group, int64 [3]."""
        return self.total @ self._members()

    @property
    def all(self) -> np.ndarray:
        """Accuracy over the samples."""
        return 100.0 * self.correct.sum(axis=1) / self.total.sum()

    @property
    def mean_class(self) -> np.ndarray:
        """Mean of the accuracies of the classes that have samples."""
        return self._mean_of(self.total > 0)

    @property
    def many(self) -> np.ndarray:
        """The same over the classes of a group."""
        return self._mean_of((self.total > 0) & (self.groups == 0))

    @property
    def medium(self) -> np.ndarray:
        """As `many`."""
        return self._mean_of((self.total > 0) & (self.groups == 1))

    @property
    def few(self) -> np.ndarray:
        """As `many`."""
        return self._mean_of((self.total > 0) & (self.groups == 2))

    def _members(self) -> np.ndarray:
        return (self.groups[:, None] == np.arange(_GROUPS)).astype(np.int64)

    def _mean_of(self, classes: np.ndarray) -> np.ndarray:
        if not classes.any():
            return np.full(len(self.correct), np.nan)
        return (100.0 * self.correct[:, classes] / self.total[classes]).mean(axis=1)


def reference(
    features: np.ndarray,
    weights: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    biases: np.ndarray | None = None,
    scales: np.ndarray | None = None,
) -> GroupCounts:
    """The definition in NumPy and float64."""
    scores = np.einsum("nd,kcd->nkc", features.astype(np.float64), weights)
    total = np.bincount(labels, minlength=weights.shape[1])
    best = best_class.reference(scores, 1 if scales is None else scales, 0 if biases is None else biases)
    correct = np.stack([np.bincount(labels[one == labels], minlength=len(total)) for one in best.T])
    return GroupCounts(correct, total, groups)


def cpu(*arguments: Any) -> GroupCounts:
    """PyTorch's matrix product, then argmax and counts by Numba. Arguments of `group_count`, checked."""
    return _count(best_class.cpu, _add_on_cpu, *arguments)


def cuda(*arguments: Any) -> GroupCounts:
    """The same on a GPU. Counts are added by atomic operations on integers, whose order is of no consequence."""
    return _count(best_class.cuda, _add_on_gpu, *arguments)


def group_count(
    features: Any, weights: Any, labels: Any, groups: Any, biases: Any = None, scales: Any = None
) -> GroupCounts:
    """Samples that each of K linear classifiers gets right, per class and per group of classes.

    Classifier k predicts argmax_c scales[k, c] (weights[k, c] . x) + biases[k, c], the lowest class of equal ones. With
    one matrix of weights and many scales, such as ||w_c||^-tau for K values of tau (Kang et al. 2020, section 4), the
    matrix product is done once for all.

    features: float32, float16 or bfloat16 [N, D]. weights: float32 [K, C, D], or [1, C, D] for K scales or biases.
    labels: integers [N] in 0..C-1. groups: integers [C], 0 many, 1 medium, 2 few. biases, scales: float32 [K, C], 0 and
    1 by default; a bias of -inf takes a class out. NumPy or torch, on the CPU or a GPU: the work is done where features
    lie, and `GroupCounts` are NumPy arrays. Products in float32: scores closer than their rounding may change places.
    Raises ValueError for wrong shapes or dtypes, labels or groups out of range, and, naming the first row and
    classifier, for a highest score that is NaN or infinite.
    """
    features, weights = take(features), take(weights)
    check_rows(features, "features", "[N, D]")
    dim = features.shape[1]
    if dtype_name(weights) != "float32" or weights.ndim != 3 or 0 in weights.shape or weights.shape[2] != dim:
        found = f"{dtype_name(weights)} {tuple(weights.shape)}"
        raise ValueError(f"weights are {found}; allowed is float32 [K, C, {dim}], K and C at least 1")
    classes = weights.shape[1]
    labels, groups = take(labels), take(groups)
    check_labels(labels, len(features), classes)
    _check_groups(groups, classes)
    sizes = {"weights": len(weights)}
    per_class = {"biases": biases, "scales": scales}
    for name, given in per_class.items():
        if given is not None:
            per_class[name] = given = take(given)
            if dtype_name(given) != "float32" or given.ndim != 2 or given.shape[1] != classes or not len(given):
                found = f"{dtype_name(given)} {tuple(given.shape)}"
                raise ValueError(f"{name} are {found}; allowed is float32 [K, {classes}], K at least 1")
            sizes[name] = len(given)
    if not set(sizes.values()) <= {1, max(sizes.values())}:
        raise ValueError(f"classifiers in each are {sizes}; allowed is the same number, or 1")
    device = features.device if isinstance(features, torch.Tensor) else torch.device("cpu")
    for name, given in per_class.items():
        per_class[name] = None if given is None else tensor(given, device)
    weights, labels = tensor(weights, device), tensor(labels, device, torch.int64)
    return (cuda if on_gpu(features) else cpu)(features, weights, labels, groups, *per_class.values())


def _check_groups(groups: Array, classes: int) -> None:
    if tuple(groups.shape) != (classes,) or not dtype_name(groups).startswith(("int", "uint")):
        found = f"{dtype_name(groups)} {tuple(groups.shape)}"
        raise ValueError(f"groups are {found}; allowed are integers of shape ({classes},)")
    wrong = groups[(groups < 0) | (groups >= _GROUPS)]
    if len(wrong):
        raise ValueError(f"group {int(wrong[0])} is unknown; allowed are 0 (many), 1 (medium) and 2 (few)")


def _count(
    epilogue: best_class.Epilogue,
    add: Callable[..., None],
    features: Array,
    weights: torch.Tensor,
    labels: torch.Tensor,
    groups: Array,
    biases: torch.Tensor | None = None,
    scales: torch.Tensor | None = None,
) -> GroupCounts:
    classes, device = weights.shape[1], weights.device
    scales = torch.ones((1, classes), device=device) if scales is None else scales
    biases = torch.zeros((1, classes), device=device) if biases is None else biases
    many = max(len(weights), len(scales), len(biases))
    scales, biases = scales.expand(many, classes).contiguous(), biases.expand(many, classes).contiguous()
    correct = torch.zeros((many, classes), dtype=torch.int64, device=device)
    none = len(features) * many
    first_wrong = torch.full((1,), none, device=device)  # row * K + classifier
    for rows, best in best_class.best_class_tiles(epilogue, features, weights, scales, biases):
        add(best, labels[rows], rows.start, correct, first_wrong)
    wrong = int(first_wrong)
    if wrong < none:
        raise best_class.no_best_class(wrong // many, wrong % many)
    total = np.bincount(host(labels, np.int64), minlength=classes)
    return GroupCounts(correct.numpy(force=True), total, host(groups, np.int8))


def _add_on_cpu(
    best: torch.Tensor, labels: torch.Tensor, begin: int, correct: torch.Tensor, first_wrong: torch.Tensor
) -> None:
    _add(best.numpy(), labels.numpy(), begin, correct.numpy(), first_wrong.numpy())


@njit(cache=True)
def _add(best, labels, begin, correct, first_wrong):
    """Adds a tile that begins at this row; one thread, for the argmax before it costs a hundred times as much."""
    for i in range(best.shape[0]):
        for k in range(best.shape[1]):
            if best[i, k] == labels[i]:
                correct[k, labels[i]] += 1
            elif best[i, k] < 0:
                first_wrong[0] = min(first_wrong[0], (begin + i) * best.shape[1] + k)


def _add_on_gpu(
    best: torch.Tensor, labels: torch.Tensor, begin: int, correct: torch.Tensor, first_wrong: torch.Tensor
) -> None:
    blocks = gpu.blocks_for((best.numel() + THREADS - 1) // THREADS, best.device)
    _add_kernel.launch(blocks, best, labels, begin, correct, first_wrong)


@gpu.kernel("int64[:, ::1], int64[::1], int64, int64[:, ::1], int64[::1]")
def _add_kernel(best, labels, begin, correct, first_wrong):
    for work in range(cu.blockIdx.x * THREADS + cu.threadIdx.x, best.size, cu.gridDim.x * THREADS):
        i, k = work // best.shape[1], work % best.shape[1]
        if best[i, k] == labels[i]:
            cu.atomic.add(correct, (k, labels[i]), 1)
        elif best[i, k] < 0:
            cu.atomic.min(first_wrong, 0, begin * best.shape[1] + work)
