"""crt: classifier re-training (paper section 4). A new linear classifier, class-balanced, on frozen features."""

from dataclasses import asdict

import torch
from torch import nn

from fastlt.classifiers.base import Fitted, Task
from fastlt.classifiers.sgd import train_balanced


def fit(task: Task) -> Fitted:
    """Scores W' x + b' with W', b' learned from a random start."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(task.seed)
        linear = nn.Linear(task.weight.shape[1], task.classes)
    linear = linear.to(task.weight.device)
    training = task.training["crt"]
    train_balanced(linear, list(linear.parameters()), task.train, task.classes, training, task.seed)
    weight, bias = linear.weight.detach(), linear.bias.detach()
    return Fitted(lambda x: x @ weight.T + bias, asdict(training), weight)
