"""ncm: nearest class mean (paper section 4). Nothing is trained; the tail's means are as good as its images allow."""

from functools import partial

import torch
from torch.nn import functional

from fastlt.classifiers.base import Fitted, Task
from fastlt.kernels.class_mean import class_mean

# The authors' default features: centred by the global mean, then L2-normalized. Means are not normalized again.
KIND = "cl2n"


def fit(task: Task, distance: str) -> Fitted:
    """Scores are the negative squared L2 distance, or the cosine, to each class mean of training features."""
    means = class_mean(task.train.x, task.train.labels, task.classes)
    center, mean = means.global_mean, means.cl2n
    unit = functional.normalize(mean, dim=1)

    def l2(x: torch.Tensor) -> torch.Tensor:
        z = functional.normalize(x - center, dim=1)
        return 2 * z @ mean.T - mean.square().sum(1) - z.square().sum(1, keepdim=True)

    def cosine(x: torch.Tensor) -> torch.Tensor:
        return functional.normalize(x - center, dim=1) @ unit.T

    return Fitted({"l2": l2, "cosine": cosine}[distance], {"features": KIND, "distance": distance})


fit_l2 = partial(fit, distance="l2")
fit_cosine = partial(fit, distance="cosine")
