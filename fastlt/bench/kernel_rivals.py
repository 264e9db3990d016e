"""What the kernels are measured against: the authors' way, and plain PyTorch."""

import numpy as np
import torch
from torch.nn import functional


def authors_class_means(features: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    """Means of all three kinds: copies of the features normalized, then a NumPy mean over the rows of each class."""
    plain, centred = torch.tensor(features), torch.tensor(features) - torch.tensor(features.mean(axis=0))
    kinds = [features, *((rows / rows.norm(dim=1, keepdim=True)).numpy() for rows in (plain, centred))]
    return [np.stack([rows[labels == label].mean(axis=0) for label in np.unique(labels)]) for rows in kinds]


def torch_class_means(features: torch.Tensor, labels: torch.Tensor, classes: int) -> list[torch.Tensor]:
    """Means of all three kinds with index_add_."""
    counts = torch.bincount(labels, minlength=classes).clamp_min(1)[:, None]
    means = []
    for rows in (features, functional.normalize(features), functional.normalize(features - features.mean(dim=0))):
        sums = torch.zeros((classes, rows.shape[1]), device=rows.device)
        means.append(sums.index_add_(0, labels, rows) / counts)
    return means


def authors_tau_loop(features: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, taus: np.ndarray) -> float:
    """The best accuracy over a grid of taus, a matrix product for each."""
    norm = weight.norm(dim=1)
    best = 0.0
    for tau in taus.tolist():
        scores = features @ (weight / norm.pow(tau)[:, None]).T
        best = max(best, float((scores.argmax(dim=1) == labels).float().mean()))
    return best


def torch_nearest_mean(features: torch.Tensor, means: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
    """Nearest mean (L2) of centred, normalized features with the whole matrix of scores."""
    z = functional.normalize(features - centre)
    return (2 * z @ means.T - means.square().sum(dim=1)).argmax(dim=1)


def torch_group_count(
    features: torch.Tensor, weights: torch.Tensor, labels: torch.Tensor, groups: torch.Tensor
) -> torch.Tensor:
    """Right samples of every classifier and group, one classifier after the other."""
    counts = []
    for weight in weights:
        right = (features @ weight.T).argmax(dim=1) == labels
        per_class = torch.bincount(labels[right], minlength=len(groups))
        counts.append(torch.stack([per_class[groups == group].sum() for group in range(3)]))
    return torch.stack(counts)


def torch_tau_normalize(weight: torch.Tensor, taus: torch.Tensor) -> torch.Tensor:
    """Weights for every tau by broadcasting."""
    return weight / weight.norm(dim=1).pow(taus[:, None])[:, :, None]
