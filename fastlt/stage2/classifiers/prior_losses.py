"""balanced_softmax and logit_adjusted_loss: a new linear classifier whose loss accounts for the prior of the classes.

It is trained on instance-balanced batches (Ren et al. 2020, Menon et al. 2021). The first is the second with tau = 1.
"""

from fastlt.stage2.classifiers.base import Classifier, Fitted, Task
from fastlt.stage2.classifiers.crt import USES
from fastlt.stage2.classifiers.heads import Linear
from fastlt.stage2.classifiers.selection import TAU
from fastlt.stage2.classifiers.trained import FitConfig, fit_trained

TAUS = (0.5, 1.0, 1.5, 2.0)  # values of tau to choose from, which are trained side by side


def balanced_softmax(task: Task) -> Fitted:
    """Learns scores W x + b by the cross-entropy of W x + b + log n_c under instance-balanced sampling."""
    return fit_trained(task, FitConfig(task.stage2.crt, task.augmented, "instance", "balanced_softmax"), _linear(task))


def logit_adjusted(task: Task) -> Fitted:
    """Learns scores W x + b by the cross-entropy of W x + b + tau log p_c under instance-balanced sampling.

    tau is chosen from TAUS, or 1 with choose_on=none.
    """
    config = FitConfig(
        task.stage2.crt,
        task.augmented,
        law="instance",
        loss="logit_adjusted",
        extra={"tau": (TAU,) if task.choose_on == "none" else TAUS},
        loss_options=("tau",),
    )
    return fit_trained(task, config, _linear(task))


def _linear(task: Task):
    dim, device = task.weight.shape[1], task.weight.device
    return lambda seeds, settings: Linear(dim, task.classes, seeds, settings, device)


BALANCED_SOFTMAX = Classifier(balanced_softmax, uses=USES)
LOGIT_ADJUSTED_LOSS = Classifier(logit_adjusted, uses=USES)
