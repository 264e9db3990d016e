"""logit_adjust_mult: multiplicative logit adjustment after training (Hasegawa and Sato 2024), w_c x / p_c^tau."""

import numpy as np
import torch

from fastlt.kernels.winning_interval import winning_interval
from fastlt.stage2.classifiers.base import Classifier, Features, Fitted, Task
from fastlt.stage2.classifiers.logit_adjust import log_prior_of
from fastlt.stage2.classifiers.tau_curve import choose_tau, curve_over_tau


def fit(task: Task) -> Fitted:
    """Chooses tau of the scores w_c x / p_c^tau without bias, where p_c is the share of class c in training.

    It is tau-normalization with the prior in the place of the weights' norms, so one matrix product tells for which tau
    each sample is classified right. Without a split to choose on, tau is cross-validated or 1, as for logit_adjust.
    """
    log_prior = log_prior_of(task.counts)

    def intervals(features: Features, weight: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return winning_interval(features.x, weight, features.labels, log_prior)

    choices = choose_tau(task, intervals)
    # A factor that all classes share changes no prediction. With this one the most frequent class keeps its scores.
    factor = np.exp(-choices["tau"] * (log_prior - log_prior.max()))
    weight = task.weight * task.weight.new_tensor(factor)[:, None]
    return Fitted({"weight": weight}, choices, curve_over_tau(task, intervals))


LOGIT_ADJUST_MULT = Classifier(fit, uses=("crt", "lr", "weight_decay", "stepped"))
