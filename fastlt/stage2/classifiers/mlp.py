"""mlp: a new classifier with hidden layers, on class-balanced batches, to test whether a linear one is enough."""

from functools import partial

from torch import Tensor
from torch.nn import functional

from fastlt.stage2.classifiers.base import Classifier, Fitted, Task, Tensors
from fastlt.stage2.classifiers.crt import USES
from fastlt.stage2.classifiers.heads import Mlp
from fastlt.stage2.classifiers.trained import FitConfig, fit_trained

SLOWER = 0.1  # factor on the learning rate of linear classifiers, at which three hidden layers would diverge


def fit(task: Task, layers: int) -> Fitted:
    """Learns scores W h + b after `layers` hidden layers h = ReLU(V x + a) of `stage2.hidden` units each."""
    dim, device, hidden = task.weight.shape[1], task.weight.device, task.stage2.hidden
    config = FitConfig(task.stage2.crt, task.augmented, slower=SLOWER, scores=scores)
    fitted = fit_trained(
        task, config, lambda seeds, settings: Mlp(dim, hidden, layers, task.classes, seeds, settings, device)
    )
    fitted.choices.update(hidden=hidden, layers=layers)
    return fitted


def scores(tensors: Tensors, x: Tensor) -> Tensor:
    """Returns scores [n, C] of features [n, D]. tensors: `0.weight`, `0.bias`, `1.weight`, ... of the layers."""
    last = len(tensors) // 2 - 1
    for layer in range(last):
        x = functional.relu(functional.linear(x, tensors[f"{layer}.weight"], tensors[f"{layer}.bias"]))
    return functional.linear(x, tensors[f"{last}.weight"], tensors[f"{last}.bias"])


MLP_1, MLP_2, MLP_3 = (Classifier(partial(fit, layers=layers), scores, (*USES, "hidden")) for layers in (1, 2, 3))
