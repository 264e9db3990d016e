"""The class with the nearest mean (Kang et al. 2020, section 4), by L2 distance or cosine.

||z - mu_c||^2 is smallest where z.mu_c - ||mu_c||^2 / 2 is largest, and the cosine where z.mu_c / ||mu_c|| is: one
matrix product, a scale and an offset per class. It goes in tiles, so the N x C scores never lie in memory.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch

from fastlt.kernels import best_class
from fastlt.kernels.arrays import Array, check_rows, dtype_name, host, on_gpu, take, tensor

Distance = Literal["l2", "cosine"]

_HUGE = 1e38  # a norm above is infinite in float32 or nearly so, and would make a zero of its row
_HUGE_MEAN = 1e19  # its square is nearly infinite in float32


def reference(
    features: np.ndarray,
    means: np.ndarray,
    distance: Distance,
    centre: np.ndarray | None = None,
    normalize: bool = False,
    counts: np.ndarray | None = None,
) -> np.ndarray:
    """The definition in NumPy and float64."""
    z, means = features.astype(np.float64), means.astype(np.float64)
    if centre is not None:
        z = z - centre
    if normalize:
        z = z / _nonzero(np.linalg.norm(z, axis=1, keepdims=True))
    if distance == "l2":
        far = np.stack([((z - mean) ** 2).sum(axis=1) for mean in means], axis=1)
    else:
        far = -z @ (means / _nonzero(np.linalg.norm(means, axis=1, keepdims=True))).T
    if counts is not None:
        far[:, np.asarray(counts) == 0] = np.inf
    return np.where(np.isfinite(far.min(axis=1)), far.argmin(axis=1), -1)


def _nonzero(norm: np.ndarray) -> np.ndarray:
    return np.where(norm == 0, 1, norm)


def cpu(*arguments: Any) -> torch.Tensor:
    """PyTorch's matrix product, then the highest score of each row by Numba. Arguments of `nearest_mean`, checked."""
    return _predict(best_class.cpu, *arguments)


def cuda(*arguments: Any) -> torch.Tensor:
    """The same on a GPU."""
    return _predict(best_class.cuda, *arguments)


def nearest_mean(
    features: Any,
    means: Any,
    distance: Distance,
    centre: Any = None,
    normalize: bool = False,
    counts: Any = None,
) -> Array:
    """Label of the class whose mean mu_c is nearest to each z: int64 [N], the lowest of several equally near.

    z is x (kind `un`), x / ||x|| (`l2n`: normalize=True), or (x - m) / ||x - m|| (`cl2n`: centre=m, normalize=True); a
    row of norm zero stays zero. distance: `l2` for argmin ||z - mu_c||, `cosine` for argmax z.mu_c / ||mu_c||, where a
    mean of norm zero has the cosine 0. So `ClassMeans` of `class_mean` are used as
    nearest_mean(x, means.cl2n, "l2", means.global_mean, normalize=True, counts=means.counts).

    features: float32, float16 or bfloat16 [N, D]. means: float32 [C, D]. centre: floats [D]. counts: integers or bool
    [C], the training images of each class; one without any has no mean, whatever its row says, and is never predicted.
    Without counts every class takes part. NumPy or torch, on the CPU or a GPU; the labels come in the kind of features
    and on their device, all else may lie elsewhere. Products in float32: two classes may change places if their
    z.mu_c - ||mu_c||^2 / 2 differ by less than 1e-5 (||z|| + ||mu_c||) ||mu_c||, or their cosines by less than 1e-5.
    Raises ValueError for wrong shapes or dtypes, no class with training images, and for NaN or infinite values, naming
    the first row of features, or the class, that has them; norms from 1e38, of means from 1e19, count as infinite.
    """
    features, means = take(features), take(means)
    check_rows(features, "features", "[N, D]")
    check_rows(means, "means", "[C, D]", ("float32",))
    classes, dim = means.shape
    if features.shape[1] != dim:
        raise ValueError(f"features have {features.shape[1]} columns and means {dim}; the two must be equal")
    if distance not in ("l2", "cosine"):
        raise ValueError(f"distance is {distance!r}; allowed are 'l2' and 'cosine'")
    device = features.device if isinstance(features, torch.Tensor) else torch.device("cpu")
    means = tensor(means, device)
    if centre is not None:
        centre = _checked_centre(take(centre), dim, device)
    if counts is not None:
        counts = _checked_counts(take(counts), classes, device)
    labels = (cuda if on_gpu(features) else cpu)(features, means, distance, centre, normalize, counts)
    wrong = (labels < 0).nonzero()
    if len(wrong):
        raise best_class.no_best_class(int(wrong[0]))
    return labels if isinstance(features, torch.Tensor) else labels.numpy()


def _checked_centre(centre: Array, dim: int, device: torch.device) -> torch.Tensor:
    if tuple(centre.shape) != (dim,) or not dtype_name(centre).startswith(("float", "bfloat")):
        raise ValueError(f"centre is {dtype_name(centre)} {tuple(centre.shape)}; allowed are floats of shape ({dim},)")
    result = tensor(centre, device, torch.float32)
    if not bool(result.isfinite().all()):
        raise ValueError("centre has a NaN or infinite value; only finite values are allowed")
    return result


def _checked_counts(counts: Array, classes: int, device: torch.device) -> torch.Tensor:
    if tuple(counts.shape) != (classes,) or not dtype_name(counts).startswith(("int", "uint", "bool")):
        raise ValueError(
            f"counts are {dtype_name(counts)} {tuple(counts.shape)}; allowed are integers or bool of shape ({classes},)"
        )
    counts = host(counts, np.int64)
    if counts.min() < 0:
        raise ValueError(f"count {counts.min()} of class {counts.argmin()} is negative; allowed are 0 and above")
    if not counts.any():
        raise ValueError("counts are all 0; at least one class must have training images")
    return tensor(counts, device)


def _predict(
    epilogue: best_class.Epilogue,
    features: Array,
    means: torch.Tensor,
    distance: Distance,
    centre: torch.Tensor | None = None,
    normalize: bool = False,
    counts: torch.Tensor | None = None,
) -> torch.Tensor:
    def prepare(rows: torch.Tensor) -> torch.Tensor:
        z = rows if centre is None else rows - centre
        if not normalize:
            return z
        norm = _norms(z)[:, None]
        return z / norm.where(norm > 0, 1).where(norm < _HUGE, torch.nan).float()

    norm = torch.linalg.vector_norm(means, dim=1, dtype=torch.float64)
    wrong = (~(norm < _HUGE_MEAN)).nonzero()
    if len(wrong):
        label = int(wrong[0])
        raise ValueError(f"mean of class {label} has norm {norm[label]:g}; allowed are norms below {_HUGE_MEAN:g}")
    scales, offsets = torch.ones_like(norm), torch.zeros_like(norm)
    if distance == "l2":
        offsets = -norm.square() / 2
    else:
        scales = 1 / norm.where(norm > 0, 1)
    if counts is not None:
        offsets = offsets.where(counts > 0, -torch.inf)
    labels = torch.empty(len(features), dtype=torch.int64, device=means.device)
    per_class = (scales.float()[None], offsets.float()[None])
    for rows, best in best_class.best_class_tiles(epilogue, features, means[None], *per_class, prepare):
        labels[rows] = best[:, 0]
    return labels


def _norms(rows: torch.Tensor) -> torch.Tensor:
    """Norms [n] as float64; on a CPU from float32 squares where these neither vanish nor overflow: much faster."""
    if rows.is_cuda:  # must not wait in every tile to learn which rows are odd
        return torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    norm = torch.linalg.vector_norm(rows, dim=1).double()
    odd = (~((norm > 1e-15) & (norm < 1e18))).nonzero()[:, 0]
    norm[odd] = torch.linalg.vector_norm(rows[odd], dim=1, dtype=torch.float64)
    return norm
