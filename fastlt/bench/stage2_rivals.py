"""Training of crt and lws in plain PyTorch: its modules, optimizer and DataLoader, one classifier at a time."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import BatchSampler, DataLoader, TensorDataset, WeightedRandomSampler

from fastlt.stage2.classifiers.base import Task

MOMENTUM, DECAY, LR = 0.9, 5e-4, 0.2


class TorchLoop:
    """Training steps on class-balanced batches of a task's features. The features are on the task's device."""

    def __init__(self, task: Task, batch: int):
        share = 1 / np.maximum(task.counts, 1)[task.train.labels.cpu().numpy()]
        rows = TensorDataset(task.train.x, task.train.labels)
        drawn = WeightedRandomSampler(share.tolist(), len(rows))
        # The DataLoader indexes tensors by whole batches, which is faster than its default of one row at a time.
        self.loader = DataLoader(rows, sampler=BatchSampler(drawn, batch, drop_last=True), batch_size=None)
        self.batches = self._forever()
        classes, dim = task.weight.shape
        self.linear = nn.Linear(dim, classes).to(task.weight.device)
        self.scale = torch.ones(classes, device=task.weight.device, requires_grad=True)
        self.weight, self.bias = task.weight, task.bias
        self.crt = torch.optim.SGD(self.linear.parameters(), LR, MOMENTUM, weight_decay=DECAY)
        self.lws = torch.optim.SGD([self.scale], LR, MOMENTUM, weight_decay=DECAY)

    def _forever(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from self.loader

    def crt_step(self) -> None:
        """Runs a training step of crt, which trains a new linear classifier."""
        x, labels = next(self.batches)
        self.crt.zero_grad()
        functional.cross_entropy(self.linear(x), labels).backward()
        self.crt.step()

    def lws_step(self) -> None:
        """Runs a training step of lws, which trains a scale for every class of the joint classifier."""
        x, labels = next(self.batches)
        self.lws.zero_grad()
        functional.cross_entropy(functional.linear(x, self.weight, self.bias) * self.scale, labels).backward()
        self.lws.step()
