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

    Raises UserError if there is no such optimizer, if it does not take the options, or if its steps need a closure.
    """
    made = find_part("protocol.optimizer", name, OPTIMIZERS)
    numbers = {key: getattr(schedule, key) for key in ("lr", "weight_decay", "momentum", "nesterov")}
    numbers |= {"fused": on_gpu} if name in OPTIMIZERS else {}
    taken = inspect.signature(made).parameters if callable(made) else {}
    given = {key: value for key, value in numbers.items() if key in taken and key not in options}
    optimizer = call_part("protocol.optimizer", name, partial(made, **given) if given else made, options, groups)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise UserError(
            f"protocol.optimizer={name} gives a {type(optimizer).__name__}: it must give a torch.optim.Optimizer"
        )
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise UserError(f"protocol.optimizer={name} needs a closure for its steps, which a training does not give it")
    return optimizer


def factors_of(optimizer: torch.optim.Optimizer, groups: Mapping[float, list[torch.nn.Parameter]]) -> list[float]:
    """Returns the factor on the learning rate of each parameter group of an optimizer.

    groups: the parameters by their factor. One's own optimizer may divide them further, for another weight decay.

    Raises UserError if a group of the optimizer has parameters of several factors.
    """
    known = {id(one): factor for factor, members in groups.items() for one in members}
    found = [{known.get(id(one), 1.0) for one in group["params"]} or {1.0} for group in optimizer.param_groups]
    if any(len(several) > 1 for several in found):
        raise UserError(
            "protocol.optimizer puts parameters of several learning rates into one group: keep the groups apart that "
            "it is given"
        )
    return [factor for (factor,) in found]
