"""logit_adjust: logit adjustment after training (Menon et al. 2021). z_c - tau log p_c, tau chosen exactly."""

from typing import Any

import numpy as np
import torch

from fastlt.kernels.winning_interval import winning_interval_linear_additive
from fastlt.stage2.classifiers.base import Classifier, Features, Fitted, Task
from fastlt.stage2.classifiers.choice import CRITERION, TAU
from fastlt.stage2.classifiers.tau_curve import chosen_tau, drawn_curve


def fit(task: Task) -> Fitted:
    """Scores w_c x + b_c - tau log p_c, p_c the share of class c in training; a class without images counts as one.

    As for tau_norm, one matrix product tells at which tau each sample is classified right. Where there is nothing to
    choose on tau is 1, with which softmax scores that fit the training prior fit a uniform one.
    """
    log_prior = np.log(np.maximum(task.counts, 1) / task.counts.sum())

    def intervals(features: Features) -> tuple[torch.Tensor, torch.Tensor]:
        return winning_interval_linear_additive(features.x, task.weight, task.bias, log_prior, features.labels)

    choices: dict[str, Any] = {"tau": TAU}
    if task.choose is not None:
        choices = chosen_tau(*intervals(task.choose), task.choose.labels, task.groups, CRITERION, task.seed)
        choices["chosen_on"] = task.choose_on
    bias = task.bias - task.bias.new_tensor(choices["tau"] * log_prior)
    return Fitted(
        {"weight": task.weight, "bias": bias},
        choices,
        lambda features: drawn_curve(*intervals(features), features.labels, task.groups),
    )


LOGIT_ADJUST = Classifier(fit)
