"""Makes the optimizer of a training: one of PyTorch's by name, or the user's own."""

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
    """Returns an optimizer for parameter groups.

    name: a key of OPTIMIZERS, or `package.module:NAME` such as torch.optim:RMSprop: a class or function that takes
        parameter groups and keyword arguments and returns a torch.optim.Optimizer.
    groups: dicts with "params", as torch.optim takes them.
    schedule: its lr, weight_decay, momentum and nesterov are passed on if the optimizer has such a parameter.
    options: further keyword arguments, which take precedence over those of the schedule.
    on_gpu: use the fused implementation of a built-in optimizer.

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
