"""cosine: a new classifier of cosines, class-balanced: every class's weights are of one length by construction."""

from torch import Tensor
from torch.nn import functional

from fastlt.stage2.classifiers.base import Classifier, Fitted, Task, Tensors
from fastlt.stage2.classifiers.crt import USES
from fastlt.stage2.classifiers.heads import Cosine
from fastlt.stage2.classifiers.trained import Setup, fit_trained


def fit(task: Task) -> Fitted:
    """Scores s cos(w_c, x), W and the scale s learned, W from a random start."""
    dim, device = task.weight.shape[1], task.weight.device
    setup = Setup(task.stage2.crt, task.views, scores=scores)
    return fit_trained(task, setup, lambda seeds, settings: Cosine(dim, task.classes, seeds, settings, device))


def scores(tensors: Tensors, x: Tensor) -> Tensor:
    """tensors: weight [C, D], every row s long."""
    return functional.linear(functional.normalize(x, dim=1), tensors["weight"])


COSINE = Classifier(fit, scores, USES)
