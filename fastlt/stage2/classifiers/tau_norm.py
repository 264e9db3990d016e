"""tau_norm: tau-normalized classifier (paper section 4). w_j / ||w_j||^tau, no bias, tau chosen exactly."""

from functools import partial

import torch

from fastlt.core.errors import UserError
from fastlt.kernels.tau_normalize import tau_normalize
from fastlt.kernels.winning_interval import winning_interval_linear
from fastlt.stage2.classifiers.base import Classifier, Features, Fitted, Task
from fastlt.stage2.classifiers.choice import CRITERION, TAU
from fastlt.stage2.classifiers.tau_curve import chosen_tau, drawn_curve


def fit(task: Task, on_train: bool = False) -> Fitted:
    """Scores w_j x / ||w_j||^tau, tau the middle of the widest range that is best on `task.choose`, or on train.

    Every tau is considered: one matrix product tells for each sample in which interval of tau its own class wins. Where
    `stage2.tau` is given that is taken, and where there is nothing to choose on 1.
    """
    features, name = (task.train, "train") if on_train else (task.choose, task.choose_on)
    if features is None or (task.stage2.tau is not None and not on_train):
        return _fixed(task, TAU if task.stage2.tau is None else task.stage2.tau)
    choices = chosen_tau(*_intervals(task, features), features.labels, task.groups, CRITERION, task.seed)
    return Fitted(
        {"weight": _normalized(task, choices["tau"], f"the best tau on {name}")},
        {**choices, "chosen_on": name},
        partial(_curve, task),
    )


def _intervals(task: Task, features: Features) -> tuple[torch.Tensor, torch.Tensor]:
    return winning_interval_linear(features.x, task.weight, features.labels)


def _curve(task: Task, features: Features) -> dict[str, list[float | None]]:
    return drawn_curve(*_intervals(task, features), features.labels, task.groups)


def _fixed(task: Task, tau: float) -> Fitted:
    """Scores w_j x / ||w_j||^tau, or with stage2.tau_bias w_j x / ||w_j||^tau + b_j, as BagofTricks-LT has it."""
    weight = _normalized(task, tau, "stage2.tau")
    if task.stage2.tau_bias:
        return Fitted({"weight": weight, "bias": task.bias.clone()}, {"tau": tau, "bias": "kept"})
    return Fitted({"weight": weight}, {"tau": tau}, partial(_curve, task))


def _normalized(task: Task, tau: float, name: str) -> torch.Tensor:
    # A class that was never learned has a zero weight vector: it stays zero, at any tau.
    try:
        return tau_normalize(task.weight, tau)[0]
    except ValueError:
        raise UserError(
            f"{name} is {tau:g}, and weights divided by that power of their length leave float32: train a joint "
            "classifier whose weights differ more in length"
        ) from None


TAU_NORM = Classifier(fit, uses=("tau", "tau_bias"))
TAU_TRAIN = Classifier(lambda task: fit(task, on_train=True))
