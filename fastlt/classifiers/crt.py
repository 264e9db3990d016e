"""crt: classifier re-training (paper section 4). A new linear classifier, class-balanced, on frozen features."""

from functools import partial

from fastlt.classifiers.base import Classifier, Fitted, Task
from fastlt.classifiers.heads import Linear
from fastlt.classifiers.trained import Setup, fit_trained

USES = ("crt", "seeds", "drawing", "stepped", "keep", "views")


def fit(task: Task, loss: str = "cross_entropy") -> Fitted:
    """Scores W' x + b' with W', b' learned from a random start."""
    setup = Setup(task.stage2.crt, task.views, loss=loss)
    dim, device = task.weight.shape[1], task.weight.device
    return fit_trained(task, setup, lambda seeds, settings: Linear(dim, task.classes, seeds, settings, device))


CRT = Classifier(fit, uses=USES)
# MiSLAS (Zhong et al. 2021): the head's labels are smoothed more than the tail's, and it gets less sure of itself.
CRT_LAS = Classifier(partial(fit, loss="label_aware_smoothing"), uses=USES)
