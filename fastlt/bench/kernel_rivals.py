"""The computations that the kernels are compared with: those of the paper's authors, and plain PyTorch."""

import numpy as np
import torch
from torch.nn import functional


def authors_class_means(features: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    """Computes the class means of all three kinds of features as the authors do: NumPy means over normalized copies."""
    plain, centred = torch.tensor(features), torch.tensor(features) - torch.tensor(features.mean(axis=0))
    kinds = [features, *((rows / rows.norm(dim=1, keepdim=True)).numpy() for rows in (plain, centred))]
    return [np.stack([rows[labels == label].mean(axis=0) for label in np.unique(labels)]) for rows in kinds]


def torch_class_means(features: torch.Tensor, labels: torch.Tensor, classes: int) -> list[torch.Tensor]:
    """Computes the class means of all three kinds of features with index_add_."""
    counts = torch.bincount(labels, minlength=classes).clamp_min(1)[:, None]
    means = []
    for rows in (features, functional.normalize(features), functional.normalize(features - features.mean(dim=0))):
        sums = torch.zeros((classes, rows.shape[1]), device=rows.device)
        means.append(sums.index_add_(0, labels, rows) / counts)
    return means


def authors_tau_loop(features: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, taus: np.ndarray) -> float:
    """Returns the best accuracy over a grid of taus, with a matrix product for each tau, as the authors do."""
    norm = weight.norm(dim=1)
    best = 0.0
    for tau in taus.tolist():
        scores = features @ (weight / norm.pow(tau)[:, None]).T
        best = max(best, float((scores.argmax(dim=1) == labels).float().mean()))
    return best
