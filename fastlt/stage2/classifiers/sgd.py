"""SGD on stored features for many classifiers at once, which all trained classifiers of stage 2 use."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastlt.core.log import Progress
from fastlt.longtail.losses.base import Loss
from fastlt.longtail.sampler import Sampler
from fastlt.stage2.classifiers.base import MOMENTUM, Features, Training
from fastlt.stage2.classifiers.heads import Head

WARM_UP = 3  # steps before a CUDA graph is captured, so that one-time initializations are not part of the graph


@dataclass(frozen=True)
class Draws:
    """The order in which the trainings of S seeds go through the rows.

    law, drawing: as in Sampler. seeds: one for each training. length: rows of an epoch.
    """

    law: str
    drawing: str
    seeds: list[int]
    length: int

    def epochs(self, labels: Tensor, classes: int, epochs: int) -> Callable[[int], Tensor]:
        """Returns a function from the epoch to row numbers, int64 [S, length] on the CPU.

        labels: int64 [N]. N is a multiple of `length`, because the rows of augmented passes follow those of the images:
            an epoch of `length` rows is then a part of a pass through all N rows.
        classes: C. epochs: of the training.
        """
        labels = labels.cpu()
        counts = torch.bincount(labels, minlength=classes)
        start = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]).numpy()
        members = torch.argsort(labels, stable=True).numpy()
        parts = len(labels) // self.length
        samplers = [Sampler(members, start, self.law, seed, epochs, self.drawing) for seed in self.seeds]

        def rows(epoch: int) -> Tensor:
            whole, part = divmod(epoch, parts)
            here = slice(part * self.length, (part + 1) * self.length)
            return torch.from_numpy(np.stack([sampler.order(whole)[here] for sampler in samplers]))

        return rows


def train(
    head: Head,
    rows: Features,
    classes: int,
    draws: Draws,
    training: Training,
    settings: list[dict[str, float]],
    loss: Loss,
    stepped: str = "batch",
    after_epoch: Callable[[int], None] | None = None,
) -> None:
    """Trains the S x K classifiers of a head in place, each on the batches of its seed.

    head: the classifiers. rows: features and labels on the head's device.
    classes: C. draws: the order of the rows for the S seeds.
    training: epochs, batch size and learning rate schedule.
    settings: `lr` and `weight_decay` of each of the K settings.
    loss: as `make_loss` returns it, called with logits [S, K, B, C].
    stepped: `batch` or `epoch`, as in Schedule.
    after_epoch: is called with the number of complete epochs.

    The classifiers are independent of each other: each one ends as it would if trained alone, except for the order of
    floating-point sums.
    """
    batch = min(training.batch, draws.length)
    step = Step(head, rows, len(draws.seeds), batch, settings, loss, training.nesterov)
    schedule = training.schedule(stepped, lr=1.0)
    steps = draws.length // step.ids.shape[1]
    epoch_rows = draws.epochs(rows.labels, classes, training.epochs)
    with Progress("training on features", training.epochs * steps, "batches") as progress:
        for epoch in range(training.epochs):
            ids = epoch_rows(epoch).to(rows.x.device)
            for number in range(steps):
                rate = schedule.rate(epoch * steps + number, steps)
                step(ids[:, number * step.ids.shape[1] : (number + 1) * step.ids.shape[1]], rate)
                progress.advance()
            if after_epoch is not None:
                after_epoch(epoch + 1)


class Step:
    """One step of SGD for all classifiers of a head; on a GPU it is captured once and replayed as a CUDA graph.

    seeds: S. batch: rows of a step, B. The rest as in `train`. It is called with row numbers int64 [S, B] and a factor
    on the learning rates of the settings.
    """

    def __init__(
        self,
        head: Head,
        rows: Features,
        seeds: int,
        batch: int,
        settings: list[dict[str, float]],
        loss: Loss,
        nesterov: bool = False,
    ):
        device = rows.x.device
        self.head, self.rows, self.loss, self.nesterov = head, rows, loss, nesterov
        self.ids = torch.zeros(seeds, batch, dtype=torch.int64, device=device)
        self.rate = torch.zeros((), device=device)
        self.lr = torch.tensor([setting["lr"] for setting in settings], device=device)
        self.decay = torch.tensor([setting["weight_decay"] for setting in settings], device=device)
        self.buffers = [torch.zeros_like(parameter) for parameter in head.parameters]
        self.graph = None
        if device.type == "cuda":
            with torch.cuda.device(device):
                self.graph = self._capture()

    def __call__(self, ids: Tensor, rate: float) -> None:
        self.ids.copy_(ids)
        self.rate.fill_(rate)
        if self.graph is None:
            self._run()
        else:
            self.graph.replay()

    def _run(self) -> None:
        flat = self.ids.flatten()
        x = self.rows.x.index_select(0, flat).float().unflatten(0, self.ids.shape)
        logits = self.head.logits(x)
        labels = self.rows.labels.index_select(0, flat).view_as(self.ids)[:, None].expand(logits.shape[:3])
        total = self.loss(logits, labels).sum() / self.ids.shape[1]
        gradients = torch.autograd.grad(total, self.head.parameters)
        with torch.no_grad():
            for parameter, buffer, gradient in zip(self.head.parameters, self.buffers, gradients, strict=True):
                each = (1, -1) + (1,) * (parameter.ndim - 2)  # shape of one value for each of the K settings
                gradient.addcmul_(parameter, self.decay.view(each))
                torch.add(gradient, buffer, alpha=MOMENTUM, out=buffer)
                moved = gradient.add_(buffer, alpha=MOMENTUM) if self.nesterov else buffer
                parameter.addcmul_(moved, (self.lr * self.rate).view(each), value=-1)
            if hasattr(self.head, "after_step"):
                self.head.after_step()  # type: ignore[attr-defined]

    def _capture(self) -> "torch.cuda.CUDAGraph":
        # The rate is 0 here, but a head may change its parameters after a step: what they were is put back below, and
        # the momentum cleared.
        before = [parameter.detach().clone() for parameter in self.head.parameters]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self._run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may use CUDA meanwhile
            self._run()
        for parameter, buffer, value in zip(self.head.parameters, self.buffers, before, strict=True):
            parameter.detach().copy_(value)
            buffer.zero_()
        return graph
