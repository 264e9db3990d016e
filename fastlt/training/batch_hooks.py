"""Batch hooks: what is done to a whole batch on the device, between the loader and the model."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastlt.core.errors import UserError
from fastlt.registry import call_part, check_options, find_part

Labels = Tensor | list[tuple[float, Tensor]]
Hook = Callable[[Tensor, Tensor, tuple[int, ...]], tuple[Tensor, Labels]]


def none(images: Tensor, labels: Tensor, key: tuple[int, ...]) -> tuple[Tensor, Labels]:
    """The batch as it is."""
    return images, labels


def mixup(images: Tensor, labels: Tensor, key: tuple[int, ...], alpha: float = 0.2) -> tuple[Tensor, Labels]:
    """mixup (Zhang et al. 2018): lambda x_i + (1 - lambda) x_j with both labels, one lambda from Beta(alpha, alpha) for
    the batch. alpha: greater than 0."""
    rng = np.random.default_rng(key)
    share = float(rng.beta(alpha, alpha))
    other = torch.from_numpy(rng.permutation(len(labels))).to(labels.device, non_blocking=True)
    return share * images + (1 - share) * images[other], [(share, labels), (1 - share, labels[other])]


BATCH_HOOKS: dict[str, Hook] = {"none": none, "mixup": mixup}


def make_batch_hook(name: str, options: Mapping[str, Any]) -> Hook:
    """The function (images, labels, key) -> images, labels that `name` stands for, with these options.

    name: a key of BATCH_HOOKS, or `package.module:NAME` of the user's own: a function, or a class that is made with the
    options and then called. images: float32, or half precision under autocast, [N, 3, H, W]; labels: int64 [N], both on
    the device. key: integers that no other batch of the training has: numpy.random.default_rng(key) makes the hook a
    pure function of them, so that a training that was cut off goes on to the same bits. The labels given back are
    int64 [N], or several with their shares of the loss, [(share, labels), ...], or float [N, C], the share of each
    class, which cross_entropy and losses of one's own may take.

    Raises UserError where there is no such hook or it does not take the options.
    """
    hook = find_part("protocol.batch_hook", name, BATCH_HOOKS)
    if inspect.isclass(hook):
        return call_part("protocol.batch_hook", name, hook, options)
    check_options("protocol.batch_hook", name, hook, options, 3)
    if hook is mixup and options.get("alpha", 1) <= 0:
        raise UserError(f"protocol.batch_hook_options.alpha={options['alpha']}: it must be greater than 0")
    return partial(hook, **options)
