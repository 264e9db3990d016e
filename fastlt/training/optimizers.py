"""Optimizers of a training: PyTorch's, by name, or the user's own."""

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from fastlt.core.errors import UserError
from fastlt.core.schedule import Schedule
from fastlt.registry import call_part, find_part

OPTIMIZERS = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}


def make_optimizer(
    name: str, groups: list[dict[str, Any]], schedule: Schedule, options: Mapping[str, Any], on_gpu: bool
) -> torch.optim.Optimizer:
    """An optimizer of these parameter groups.

    name: a key of OPTIMIZERS, or `package.module:NAME`: a class or function that takes parameter groups and keywords
    and gives a torch.optim.Optimizer, such as torch.optim:RMSprop. lr, weight_decay, momentum and nesterov of the
    schedule are given to it as far as it takes them; `options` come in addition, or in their place.

    Raises UserError if there is no such optimizer or it does not take the options.
    """
    made = find_part("protocol.optimizer", name, OPTIMIZERS)
    numbers = {key: getattr(schedule, key) for key in ("lr", "weight_decay", "momentum", "nesterov")}
    numbers |= {"fused": on_gpu} if name in OPTIMIZERS else {}
    taken = inspect.signature(made).parameters
    given = {key: value for key, value in numbers.items() if key in taken and key not in options}
    optimizer = call_part("protocol.optimizer", name, partial(made, **given), options, groups)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise UserError(
            f"protocol.optimizer={name} gives a {type(optimizer).__name__}: it must give a torch.optim.Optimizer"
        )
    return optimizer
