"""tau_norm: tau-normalization (paper section 4): weights w_j / ||w_j||^tau without bias, tau chosen exactly."""

from typing import Any

import torch

from fastlt.core.errors import UserError
from fastlt.kernels.winning_interval import winning_interval
from fastlt.stage2.classifiers.base import Classifier, Features, Fitted, Task
from fastlt.stage2.classifiers.tau_curve import choose_tau, choose_tau_on, curve_over_tau


def fit(task: Task, on_train: bool = False) -> Fitted:
    """Chooses tau of the scores w_j x / ||w_j||^tau: the middle of the widest interval with the best accuracy.

    on_train: choose on the training features instead of `task.choose`, and whatever `stage2.tau` is.

    Every tau is considered: one matrix product tells for each sample in which interval of tau its class has the largest
    score. If `stage2.tau` is given, it is taken; with `stage2.tau_bias` the bias is kept, as BagofTricks-LT does.
    Without features to choose on, tau is cross-validated with choose_on=folds, and 1 with choose_on=none.
    """
    curve = curve_over_tau(task, _intervals)
    if on_train:
        choices = choose_tau_on(task, _intervals, task.train, "train")
    elif task.stage2.tau is None:
        choices = choose_tau(task, _intervals)
    else:
        choices = {"tau": task.stage2.tau}
        if task.stage2.tau_bias:
            weight = _normalized(task, choices)
            return Fitted({"weight": weight, "bias": task.bias.clone()}, {**choices, "bias": "kept"})
    return Fitted({"weight": _normalized(task, choices)}, choices, curve)


def _intervals(features: Features, weight: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return winning_interval(features.x, weight, features.labels)


def normalized(weight: torch.Tensor, tau: float) -> torch.Tensor:
    """Returns w_c / ||w_c||^tau, float32 [C, D]; norms and powers are computed in float64.

    weight: w, [C, D]. A zero weight vector, of a class that was never learned, stays zero for any tau.
    """
    norm = torch.linalg.vector_norm(weight, dim=1, keepdim=True, dtype=torch.float64)
    return (weight * norm.where(norm > 0, 1).pow(-tau)).float()


def _normalized(task: Task, choices: dict[str, Any]) -> torch.Tensor:
    tau = choices["tau"]
    weight = normalized(task.weight, tau)
    # Weights that underflow to 0 must be an error as well as those that overflow: neither shows in the scores.
    vanished = (weight == 0).all(1) & (task.weight != 0).any(1)
    if not weight.isfinite().all() or vanished.any():
        name = f"the best tau on {choices['chosen_on']}" if "chosen_on" in choices else "tau"
        raise UserError(
            f"{name} is {tau:g}, and weights divided by that power of their length leave float32: train a joint "
            "classifier whose weights differ more in length"
        )
    return weight


TAU_NORM = Classifier(fit, uses=("tau", "tau_bias", "crt", "lr", "weight_decay", "stepped"))
TAU_TRAIN = Classifier(lambda task: fit(task, on_train=True))
