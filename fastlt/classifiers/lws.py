"""lws: learnable weight scaling (paper section 4). Directions stay the joint classifier's, lengths are learned."""

from dataclasses import asdict

import torch

from fastlt.classifiers.base import Fitted, Task
from fastlt.classifiers.sgd import train_balanced


def fit(task: Task) -> Fitted:
    """Scores f_i (w_i x + b_i), one learned scale f_i per class, from 1; as the authors' code, for b_i too."""
    scale = torch.ones(task.classes, device=task.weight.device, requires_grad=True)

    def logits(x: torch.Tensor) -> torch.Tensor:
        return (x @ task.weight.T + task.bias) * scale

    training = task.training["lws"]
    train_balanced(logits, [scale], task.train, task.classes, training, task.seed)
    fixed = scale.detach()
    weight, bias = task.weight * fixed[:, None], task.bias * fixed
    return Fitted(lambda x: x @ weight.T + bias, asdict(training), weight)
