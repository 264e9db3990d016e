"""logit_adjust: logit adjustment after training (Menon et al. 2021): scores z_c - tau log p_c, tau chosen exactly."""

import numpy as np
import torch

from fastlt.kernels.winning_interval import winning_interval_additive
from fastlt.stage2.classifiers.base import Classifier, Features, Fitted, Task
from fastlt.stage2.classifiers.tau_curve import choose_tau, curve_over_tau


def log_prior_of(counts: np.ndarray) -> np.ndarray:
    """Returns log p_c, float64 [C]: p_c is the share of class c in training, where an empty class counts as one image.

    counts: training images of each class, [C].
    """
    return np.log(np.maximum(counts, 1) / counts.sum())


def fit(task: Task) -> Fitted:
    """Chooses tau of the scores w_c x + b_c - tau log p_c, where p_c is the share of class c in training.

    As for tau_norm, one matrix product tells for which tau each sample is classified right, so every tau is considered.
    Without a split to choose on, tau is cross-validated (choose_on=folds) or 1 (choose_on=none): scores that fit the
    prior of the training images then fit a uniform prior.
    """
    log_prior = log_prior_of(task.counts)

    def intervals(features: Features, weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return winning_interval_additive(features.x, weight, bias, log_prior, features.labels)

    choices = choose_tau(task, intervals)
    bias = task.bias - task.bias.new_tensor(choices["tau"] * log_prior)
    return Fitted({"weight": task.weight, "bias": bias}, choices, curve_over_tau(task, intervals))


LOGIT_ADJUST = Classifier(fit, uses=("crt", "lr", "weight_decay", "stepped"))
