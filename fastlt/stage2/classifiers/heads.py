"""Heads: S x K classifiers that are trained at once, for S seeds and K settings such as learning rates.

Each seed has its own batches, which all its settings share. Every parameter has the shape [S, K, ...]; rows [S, B, D]
give logits [S, K, B, C]. For a linear classifier, the K settings of a seed are one matrix product with K C columns,
except for large classifiers on a CPU.
"""

import math
import threading
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fastlt.stage2.classifiers.base import Tensors


class Head(Protocol):
    """The interface of S x K classifiers in training. parameters: tensors [S, K, ...] that are trained."""

    parameters: list[Tensor]

    # A head may have `after_step()`, which is called without gradients after every step of SGD.

    def logits(self, x: Tensor) -> Tensor:
        """Returns logits [S, K, B, C] of float32 rows [S, B, D], differentiable in the parameters."""
        ...

    def tensors(self, seed: int, setting: int) -> Tensors:
        """Returns the tensors of one classifier, as the `scores` of its Classifier takes them."""
        ...


_DRAWING = threading.Lock()  # torch's random generator is one for all threads, which may each fit a classifier


def spread(start: Callable[[], Tensor], seeds: list[int], settings: int, device: torch.device) -> Tensor:
    """Returns a parameter [S, K, ...] with initial values that differ by seed and are the same for all settings.

    start: draws the initial values [...] of one classifier from torch's random generator. settings: K.
    """
    drawn = []
    with _DRAWING, torch.random.fork_rng(devices=[]):
        for seed in seeds:
            torch.manual_seed(seed)
            drawn.append(start())
    each = torch.stack(drawn).to(device)
    return each[:, None].repeat(1, settings, *[1] * (each.ndim - 1)).requires_grad_()


LARGE = 1 << 18  # with so many weights or more, a CPU computes the products of several classifiers one by one


class _Products(torch.autograd.Function):
    """Linear layers: x [S, B, D], weight [S, K, C, D] and bias [S, K, C] give [S, K, B, C].

    back: memory of the shape of `weight`, which the backward pass writes the gradient into. Memory allocated anew at
    every step would be slow, because the operating system clears its pages first.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.back = back
        if not _apart(weight):
            wide = torch.baddbmm(bias.flatten(1)[:, None], x, weight.flatten(1, 2).mT)
            return wide.unflatten(2, weight.shape[1:3]).transpose(1, 2)
        out = x.new_empty(*weight.shape[:2], x.shape[1], weight.shape[2])
        for s, k in np.ndindex(*weight.shape[:2]):
            torch.addmm(bias[s, k], x[s], weight[s, k].T, out=out[s, k])
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        (gradient,), (x, weight), back = gradients, ctx.saved_tensors, ctx.back
        ahead = (gradient @ weight).sum(1) if ctx.needs_input_grad[0] else None
        # Computed in this order, the gradient has the memory layout of the weight. Autograd's own result would be
        # transposed, which makes the update of the weight slow.
        if not _apart(weight):
            torch.bmm(gradient.transpose(2, 3).flatten(1, 2), x, out=back.flatten(1, 2))
        else:
            for s, k in np.ndindex(*weight.shape[:2]):
                torch.mm(gradient[s, k].T, x[s], out=back[s, k])
        return ahead, back, gradient.sum(2), None


def _apart(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.shape[2] * weight.shape[3] >= LARGE


def _products(x: Tensor, weight: Tensor, bias: Tensor, back: Tensor) -> Tensor:
    """Applies _Products."""
    return _Products.apply(x, weight, bias, back)  # type: ignore[return-value]


class Linear:
    """Linear classifiers W x + b with the initial weights of torch.nn.Linear(dim, classes)."""

    def __init__(self, dim: int, classes: int, seeds: list[int], settings: int, device: torch.device):
        def start() -> Tensor:
            linear = nn.Linear(dim, classes)
            return torch.cat([linear.weight.detach(), linear.bias.detach()[:, None]], dim=1)

        both = spread(start, seeds, settings, device).detach()
        self.weight = both[..., :-1].contiguous().requires_grad_()
        self.bias = both[..., -1].contiguous().requires_grad_()
        self.parameters = [self.weight, self.bias]
        self.back = torch.empty_like(self.weight, requires_grad=False)

    def logits(self, x: Tensor) -> Tensor:
        return _products(x, self.weight, self.bias, self.back)

    def tensors(self, seed: int, setting: int) -> Tensors:
        return {"weight": self.weight[seed, setting].detach(), "bias": self.bias[seed, setting].detach()}


class Started(Linear):
    """W x + b from a given classifier on. weight: [C, D]; bias: [C]."""

    def __init__(self, weight: Tensor, bias: Tensor, seeds: list[int], settings: int):
        self.weight = spread(lambda: weight, seeds, settings, weight.device)
        self.bias = spread(lambda: bias, seeds, settings, bias.device)
        self.parameters = [self.weight, self.bias]
        self.back = torch.empty_like(self.weight, requires_grad=False)


class Capped(Started):
    """The same; after every step weights that are longer than `cap` are cut back to it."""

    def cap(self, lengths: list[float]) -> None:
        """lengths: of each of the settings."""
        self.longest = self.weight.new_tensor(lengths)[:, None, None]

    def after_step(self) -> None:
        length = self.weight.norm(dim=3, keepdim=True)
        self.weight.mul_(torch.clamp_max(self.longest / length.clamp_min(1e-12), 1.0))


class Scale:
    """Classifiers f_c z_c + offset_c with one learned scale f_c per class, which starts from 1.

    scores: a function from rows to the fixed scores z [S, B, C], as `fixed_scores` returns it.
    """

    def __init__(
        self, scores: Callable[[Tensor], Tensor], classes: int, offset: Tensor, seeds: list[int], settings: int
    ):
        self.scale = spread(lambda: torch.ones(classes), seeds, settings, offset.device)
        self.scores, self.offset = scores, offset
        self.parameters = [self.scale]

    def logits(self, x: Tensor) -> Tensor:
        return self.scores(x)[:, None] * self.scale[:, :, None] + self.offset

    def tensors(self, seed: int, setting: int) -> Tensors:
        return {"scale": self.scale[seed, setting].detach()}


class Power:
    """Classifiers z_c / ||w_c||^tau with a learned tau, which starts from 0.

    scores: a function from rows to the fixed scores z [S, B, C], as `fixed_scores` returns it. log_norm: log ||w_c||.
    """

    def __init__(self, scores: Callable[[Tensor], Tensor], log_norm: Tensor, seeds: list[int], settings: int):
        self.tau = spread(lambda: torch.zeros(1), seeds, settings, log_norm.device)
        # The gradient of tau is as large as the scores. Unclamped, the first step may lead to a loss of NaN.
        self.tau.register_hook(lambda gradient: gradient.clamp(-1, 1))
        self.scores, self.log_norm = scores, log_norm
        self.parameters = [self.tau]

    def logits(self, x: Tensor) -> Tensor:
        return self.scores(x)[:, None] * torch.exp(-self.tau * self.log_norm)[:, :, None]

    def tensors(self, seed: int, setting: int) -> Tensors:
        return {"tau": self.tau[seed, setting].detach()}


class Cosine:
    """Cosine classifiers s cos(w_c, x) with a learned scale s."""

    START = 16.0  # initial scale; a softmax of cosines in -1..1 without a scale cannot be confident
    LEAST = 1.0  # smallest scale; the gradients of all parameters are proportional to it, so 0 would be an end of them

    def __init__(
        self,
        dim: int,
        classes: int,
        seeds: list[int],
        settings: int,
        device: torch.device,
        means: Tensor | None = None,
        scale: float = START,
    ):
        """means: [C, D] that W begins with, scaled to the lengths of PyTorch's start, which it has by default; a class
        whose mean is 0 has that start, too. scale: that s begins with."""

        def start() -> Tensor:
            drawn = nn.Linear(dim, classes).weight.detach()
            if means is None:
                return drawn
            there = functional.normalize(means.cpu(), dim=1) * drawn.norm(dim=1, keepdim=True)
            return torch.where((there != 0).any(1, keepdim=True), there, drawn)

        self.weight = spread(start, seeds, settings, device)
        self.log_scale = spread(lambda: torch.full((1,), math.log(scale)), seeds, settings, device)
        self.parameters = [self.weight, self.log_scale]
        self.back = torch.empty_like(self.weight, requires_grad=False)

    def logits(self, x: Tensor) -> Tensor:
        unit = functional.normalize(self.weight, dim=3)
        none = unit.new_zeros(unit.shape[:3])
        return _products(functional.normalize(x, dim=2), unit, none, self.back) * self.log_scale.exp()[:, :, None]

    def after_step(self) -> None:
        self.log_scale.clamp_(min=math.log(self.LEAST))

    def tensors(self, seed: int, setting: int) -> Tensors:
        unit = functional.normalize(self.weight[seed, setting].detach(), dim=1)
        return {"weight": unit * self.log_scale[seed, setting].detach().exp()}


class Mlp:
    """Multi-layer perceptrons: `layers` hidden layers of `hidden` ReLU units, then a linear classifier W h + b."""

    def __init__(
        self, dim: int, hidden: int, layers: int, classes: int, seeds: list[int], settings: int, device: torch.device
    ):
        sizes = [dim, *[hidden] * layers, classes]
        self.layers = [
            Linear(before, behind, [seed * len(sizes) + place for seed in seeds], settings, device)
            for place, (before, behind) in enumerate(pairwise(sizes))
        ]
        self.parameters = [parameter for layer in self.layers for parameter in layer.parameters]

    def logits(self, x: Tensor) -> Tensor:
        first, *others = self.layers
        h = first.logits(x)  # one product for all settings of a seed, which share the rows x
        for layer in others:
            # From here on each setting has its own rows h, so the products are those of S K separate classifiers.
            parts = layer.weight, layer.bias, layer.back
            stacks = (part.flatten(0, 1)[:, None] for part in parts)
            h = _products(functional.relu(h).flatten(0, 1), *stacks)[:, 0].unflatten(0, layer.weight.shape[:2])
        return h

    def tensors(self, seed: int, setting: int) -> Tensors:
        named = {}
        for place, layer in enumerate(self.layers):
            for name, value in layer.tensors(seed, setting).items():
                named[f"{place}.{name}"] = value
        return named
