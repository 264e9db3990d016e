"""SGD on cached features with class-balanced batches, shared by the trained classifiers of stage 2."""

from collections.abc import Callable

import torch
from torch.nn import functional

from fastlt.classifiers.base import Features, Training
from fastlt.representation.schedule import cosine
from fastlt.sampler import Sampler

MOMENTUM = 0.9


def train_balanced(
    logits: Callable[[torch.Tensor], torch.Tensor],
    parameters: list[torch.Tensor],
    train: Features,
    classes: int,
    training: Training,
    seed: int,
) -> None:
    """Minimizes cross-entropy over class-balanced batches of features; changes `parameters` in place.

    logits: features [n, D] -> [n, C], differentiable in `parameters`. An epoch has as many draws as there are features.
    """
    labels = train.labels.cpu()
    counts = torch.bincount(labels, minlength=classes)
    start = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]).numpy()
    sampler = Sampler(torch.argsort(labels, stable=True).numpy(), start, "class", seed, training.epochs)
    batch = min(training.batch, len(train))
    steps = len(train) // batch
    optimizer = torch.optim.SGD(parameters, training.lr, MOMENTUM, weight_decay=training.weight_decay)
    for epoch in range(training.epochs):
        order = torch.from_numpy(sampler.order(epoch)).to(train.x.device)
        for step in range(steps):
            ids = order[step * batch : (step + 1) * batch]
            rate = cosine(training.lr, epoch * steps + step, training.epochs * steps)
            optimizer.param_groups[0]["lr"] = rate
            loss = functional.cross_entropy(logits(train.x[ids]), train.labels[ids])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
