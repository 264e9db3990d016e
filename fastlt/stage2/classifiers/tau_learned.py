"""tau_learned: tau-normalization, tau learned by gradient on class-balanced training images (paper, appendix B.5)."""

from dataclasses import replace

import torch

from fastlt.stage2.classifiers.base import Classifier, Fitted, Task, Tensors
from fastlt.stage2.classifiers.fixed_scores import fixed_scores
from fastlt.stage2.classifiers.heads import Power
from fastlt.stage2.classifiers.trained import Setup, fit_trained

SLOWER = 0.1  # of the learning rate for scales: tau moves all of them at once


def fit(task: Task) -> Fitted:
    """Scores w_j x / ||w_j||^tau, tau the one parameter that cross-entropy is minimized over, from 0."""
    weight = task.weight
    norm = weight.norm(dim=1)
    log_norm = torch.where(norm > 0, norm, 1.0).log()  # a class that was never learned scores 0 at any tau

    def fold(tensors: Tensors) -> Tensors:
        return {"weight": weight * torch.exp(-tensors["tau"] * log_norm)[:, None], "tau": tensors["tau"]}

    rates = tuple(SLOWER * lr for lr in task.stage2.lws.lr)
    training = replace(task.stage2.lws, lr=rates, weight_decay=(0.0,))  # decay would pull tau to the joint classifier
    rows, scores = fixed_scores(task.views, weight, None)
    setup = Setup(training, rows, fold=fold)
    fitted = fit_trained(task, setup, lambda seeds, settings: Power(scores, log_norm, seeds, settings))
    learned = {"chosen_on": "train", "criterion": "class-balanced cross-entropy"}
    return replace(fitted, choices={**learned, **fitted.choices, "tau": float(fitted.tensors["tau"])})


TAU_LEARNED = Classifier(fit, uses=("lws", "seeds", "drawing", "stepped", "keep", "views"))
