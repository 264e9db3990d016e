"""balanced_softmax and logit_adjusted_loss: a new linear classifier on the images as they come, whose loss knows the
prior (Ren et al. 2020, Menon et al. 2021). The first is the second at tau = 1."""

import torch

from fastlt.longtail.losses import make_loss
from fastlt.longtail.losses.base import Loss
from fastlt.stage2.classifiers.base import Classifier, Fitted, Task
from fastlt.stage2.classifiers.choice import TAU
from fastlt.stage2.classifiers.crt import USES
from fastlt.stage2.classifiers.heads import Linear
from fastlt.stage2.classifiers.trained import Setup, fit_trained

TAUS = (0.5, 1.0, 1.5, 2.0)  # trained side by side; the best on the split for choices is kept


def balanced_softmax(task: Task) -> Fitted:
    """Scores W x + b, learned with cross-entropy of W x + b + log n_c under instance-balanced sampling."""
    return fit_trained(task, Setup(task.stage2.crt, task.views, "instance", "balanced_softmax"), _linear(task))


def logit_adjusted(task: Task) -> Fitted:
    """Scores W x + b, learned with cross-entropy of W x + b + tau log p_c, tau chosen from TAUS, or 1 where there is
    nothing to choose on."""
    counts = task.train.labels.new_tensor(task.counts)

    def loss(settings: list[dict[str, float]]) -> Loss:
        each = [make_loss("logit_adjusted", counts, options={"tau": setting["tau"]}) for setting in settings]

        def total(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            parts = zip(each, logits.unbind(1), labels.unbind(1), strict=True)
            return torch.stack([one(z, y) for one, z, y in parts], dim=1)

        return total

    setup = Setup(task.stage2.crt, task.views, "instance", loss, {"tau": (TAU,) if task.choose is None else TAUS})
    return fit_trained(task, setup, _linear(task))


def _linear(task: Task):
    dim, device = task.weight.shape[1], task.weight.device
    return lambda seeds, settings: Linear(dim, task.classes, seeds, settings, device)


BALANCED_SOFTMAX = Classifier(balanced_softmax, uses=USES)
LOGIT_ADJUSTED_LOSS = Classifier(logit_adjusted, uses=USES)
