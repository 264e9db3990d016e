"""tau_learned: tau-normalization with tau learned by SGD on class-balanced training images (paper, appendix B.5)."""

from dataclasses import replace

import torch

from fastlt.stage2.classifiers.base import Classifier, Fitted, Task, Tensors
from fastlt.stage2.classifiers.fixed_scores import fixed_scores
from fastlt.stage2.classifiers.heads import Power
from fastlt.stage2.classifiers.trained import FitConfig, fit_trained

SLOWER = 0.1  # factor on the learning rate of lws, because tau changes the scales of all classes at once


def fit(task: Task) -> Fitted:
    """Learns tau of the scores w_j x / ||w_j||^tau by cross-entropy, starting from 0; it is the only parameter."""
    weight = task.weight
    norm = weight.norm(dim=1)
    log_norm = torch.where(norm > 0, norm, 1.0).log()  # a class with zero weights scores 0 for any tau

    def fold(tensors: Tensors) -> Tensors:
        return {"weight": weight * torch.exp(-tensors["tau"] * log_norm)[:, None], "tau": tensors["tau"]}

    rows, scores = fixed_scores(task.augmented, weight, None)
    # No weight decay: it would pull tau to 0, the joint classifier.
    config = FitConfig(task.stage2.lws, rows, fold=fold, slower=SLOWER, decays=(0.0,))
    fitted = fit_trained(task, config, lambda seeds, settings: Power(scores, log_norm, seeds, settings))
    learned = {"chosen_on": "train", "criterion": "class-balanced cross-entropy"}
    return replace(fitted, choices={**learned, **fitted.choices, "tau": float(fitted.tensors["tau"])})


TAU_LEARNED = Classifier(
    fit, uses=("lws", "lr", "weight_decay", "seeds", "drawing", "stepped", "keep", "augmented_passes")
)
