"""crt: classifier re-training (paper section 4): a new linear classifier on fixed features, class-balanced batches."""

from fastlt.stage2.classifiers.base import Classifier, Fitted, Task
from fastlt.stage2.classifiers.heads import Linear
from fastlt.stage2.classifiers.trained import FitConfig, fit_trained

USES = ("crt", "lr", "weight_decay", "seeds", "drawing", "stepped", "keep", "augmented_passes")
SMOOTHING = ("smoothing_head", "smoothing_tail")


def fit(task: Task, loss: str = "cross_entropy", **options: float) -> Fitted:
    """Learns scores W' x + b', with W' and b' from a random start.

    loss: a name of `fastlt.longtail.losses`. options: of the loss.
    """
    fixed = {name: (value,) for name, value in options.items()}
    config = FitConfig(task.stage2.crt, task.augmented, loss=loss, extra=fixed, loss_options=tuple(options))
    dim, device = task.weight.shape[1], task.weight.device
    return fit_trained(task, config, lambda seeds, settings: Linear(dim, task.classes, seeds, settings, device))


def fit_smoothed(task: Task) -> Fitted:
    """Learns scores W' x + b' with label-aware smoothing (MiSLAS, Zhong et al. 2021).

    Labels of head classes are smoothed more than labels of tail classes, which makes the classifier less overconfident
    on the head. MiSLAS itself also trains scales, as LWS does, and at other learning rates.
    """
    return fit(task, "label_aware_smoothing", **{name: getattr(task.stage2, name) for name in SMOOTHING})


CRT = Classifier(fit, uses=USES)
CRT_LAS = Classifier(fit_smoothed, uses=(*USES, *SMOOTHING))
