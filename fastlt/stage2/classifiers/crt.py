"""crt: classifier re-training (paper section 4). A new linear classifier, class-balanced, on frozen features."""

from collections.abc import Callable
from dataclasses import replace

from fastlt.longtail.losses import make_loss
from fastlt.longtail.losses.base import Loss
from fastlt.stage2.classifiers.base import Classifier, Fitted, Task
from fastlt.stage2.classifiers.heads import Linear
from fastlt.stage2.classifiers.trained import Setup, fit_trained

USES = ("crt", "seeds", "drawing", "stepped", "keep", "views")
SMOOTHING = ("smoothing_head", "smoothing_tail")


def fit(task: Task, loss: str | Callable[[list[dict[str, float]]], Loss] = "cross_entropy") -> Fitted:
    """Scores W' x + b' with W', b' learned from a random start."""
    setup = Setup(task.stage2.crt, task.views, loss=loss)
    dim, device = task.weight.shape[1], task.weight.device
    return fit_trained(task, setup, lambda seeds, settings: Linear(dim, task.classes, seeds, settings, device))


def fit_smoothed(task: Task) -> Fitted:
    """The same with label-aware smoothing (MiSLAS, Zhong et al. 2021): the head's labels are smoothed more than the
    tail's, and it gets less sure of itself. Theirs trains scales as of LWS beside W', at other rates."""
    smoothing = {name: getattr(task.stage2, name) for name in SMOOTHING}
    loss = make_loss("label_aware_smoothing", task.train.labels.new_tensor(task.counts), options=smoothing)
    fitted = fit(task, lambda settings: loss)
    return replace(fitted, choices={**fitted.choices, **smoothing})


CRT = Classifier(fit, uses=USES)
CRT_LAS = Classifier(fit_smoothed, uses=(*USES, *SMOOTHING))
