"""Classifiers in training, many at once: S seeds, which see batches of their own, times K settings, which share them.

Every parameter is [S, K, ...]; logits are [S, K, B, C] of rows [S, B, D]. For a linear classifier the K settings of a
seed are one matrix product with K C columns, but for large ones on a CPU.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fastlt.stage2.classifiers.base import Tensors


class Head(Protocol):
    """S x K classifiers in training."""

    parameters: list[Tensor]

    def logits(self, x: Tensor) -> Tensor:
        """Float32 [S, B, D] -> [S, K, B, C], differentiable in the parameters."""
        ...

    def tensors(self, seed: int, setting: int) -> Tensors:
        """One of them, as its `scores` takes it."""
        ...


def spread(start: Callable[[], Tensor], seeds: list[int], settings: int, device: torch.device) -> Tensor:
    """A parameter [S, K, ...]: for every seed what `start` draws with it, the same for all its settings."""
    drawn = []
    with torch.random.fork_rng(devices=[]):
        for seed in seeds:
            torch.manual_seed(seed)
            drawn.append(start())
    each = torch.stack(drawn).to(device)
    return each[:, None].repeat(1, settings, *[1] * (each.ndim - 1)).requires_grad_()


LARGE = 1 << 18  # weights of a classifier from which on a CPU gains nothing by products of several at once


class _Products(torch.autograd.Function):
    """x [S, B, D], weight [S, K, C, D], bias [S, K, C] -> [S, K, B, C]. back: memory for the gradient of the weight, as
    so much of it, asked for anew at every step, would come in pages that the system clears first."""

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
        # Transposed like this the result lies in memory as weights do; autograd's own lies across, and updates crawl.
        if not _apart(weight):
            torch.bmm(gradient.transpose(2, 3).flatten(1, 2), x, out=back.flatten(1, 2))
        else:
            for s, k in np.ndindex(*weight.shape[:2]):
                torch.mm(gradient[s, k].T, x[s], out=back[s, k])
        return ahead, back, gradient.sum(2), None


def _apart(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.shape[2] * weight.shape[3] >= LARGE


def _products(x: Tensor, weight: Tensor, bias: Tensor, back: Tensor) -> Tensor:
    """As _Products."""
    return _Products.apply(x, weight, bias, back)  # type: ignore[return-value]


class Linear:
    """W x + b from PyTorch's random start."""

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


class Scale:
    """f_c z_c + offset_c, one learned f_c per class, from 1. scores: rows -> fixed scores z [S, B, C]."""

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
    """z_c / ||w_c||^tau, tau learned, from 0. scores: rows -> fixed scores z [S, B, C]."""

    def __init__(self, scores: Callable[[Tensor], Tensor], log_norm: Tensor, seeds: list[int], settings: int):
        self.tau = spread(lambda: torch.zeros(1), seeds, settings, log_norm.device)
        # Its gradient is as large as the scores: unbounded, a first step leads to where the loss is no number.
        self.tau.register_hook(lambda gradient: gradient.clamp(-1, 1))
        self.scores, self.log_norm = scores, log_norm
        self.parameters = [self.tau]

    def logits(self, x: Tensor) -> Tensor:
        return self.scores(x)[:, None] * torch.exp(-self.tau * self.log_norm)[:, :, None]

    def tensors(self, seed: int, setting: int) -> Tensors:
        return {"tau": self.tau[seed, setting].detach()}


class Cosine:
    """s cos(w_c, x) with a learned scale s."""

    START = 16.0  # of the scale: cosines in -1..1 alone cannot make a confident softmax

    def __init__(self, dim: int, classes: int, seeds: list[int], settings: int, device: torch.device):
        self.weight = spread(lambda: nn.Linear(dim, classes).weight.detach(), seeds, settings, device)
        self.log_scale = spread(lambda: torch.full((1,), math.log(self.START)), seeds, settings, device)
        self.parameters = [self.weight, self.log_scale]
        self.back = torch.empty_like(self.weight, requires_grad=False)

    def logits(self, x: Tensor) -> Tensor:
        unit = functional.normalize(self.weight, dim=3)
        none = unit.new_zeros(unit.shape[:3])
        return _products(functional.normalize(x, dim=2), unit, none, self.back) * self.log_scale.exp()[:, :, None]

    def tensors(self, seed: int, setting: int) -> Tensors:
        unit = functional.normalize(self.weight[seed, setting].detach(), dim=1)
        return {"weight": unit * self.log_scale[seed, setting].detach().exp()}


class Mlp:
    """Layers of `hidden` ReLU units, then W h + b."""

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
        h = first.logits(x)  # one product for all settings, as they share x
        for layer in others:
            # From here on each setting has rows of its own: S K stacks of one classifier each.
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
