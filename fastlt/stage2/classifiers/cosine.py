"""cosine: a new cosine classifier, trained on class-balanced batches. All class weights have the same norm."""

from torch import Tensor
from torch.nn import functional

from fastlt.stage2.classifiers.base import Classifier, Fitted, Task, Tensors
from fastlt.stage2.classifiers.crt import USES
from fastlt.stage2.classifiers.heads import Cosine
from fastlt.stage2.classifiers.trained import FitConfig, fit_trained


def fit(task: Task) -> Fitted:
    """Learns scores s cos(w_c, x): the weights w_c from a random start, and the scale s."""
    dim, device = task.weight.shape[1], task.weight.device
    config = FitConfig(task.stage2.crt, task.augmented, scores=scores)
    return fit_trained(task, config, lambda seeds, settings: Cosine(dim, task.classes, seeds, settings, device))


def scores(tensors: Tensors, x: Tensor) -> Tensor:
    """Returns scores [n, C] of features [n, D]. tensors: `weight` [C, D], whose rows all have the norm s."""
    return functional.linear(functional.normalize(x, dim=1), tensors["weight"])


COSINE = Classifier(fit, scores, USES)
