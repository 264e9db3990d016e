"""mlp: a new classifier with hidden layers, class-balanced (the paper asks whether a linear one is enough)."""

from dataclasses import replace
from functools import partial

from torch import Tensor
from torch.nn import functional

from fastlt.stage2.classifiers.base import Classifier, Fitted, Task, Tensors
from fastlt.stage2.classifiers.crt import USES
from fastlt.stage2.classifiers.heads import Mlp
from fastlt.stage2.classifiers.trained import Setup, fit_trained

SLOWER = 0.1  # of the linear classifier's learning rate, at which three hidden layers diverge


def fit(task: Task, layers: int) -> Fitted:
    """Scores W h + b behind `layers` hidden layers h = ReLU(V x + a) of `hidden` units each."""
    dim, device, hidden = task.weight.shape[1], task.weight.device, task.stage2.hidden
    training = replace(task.stage2.crt, lr=tuple(SLOWER * lr for lr in task.stage2.crt.lr))
    setup = Setup(training, task.views, scores=scores)
    fitted = fit_trained(
        task, setup, lambda seeds, settings: Mlp(dim, hidden, layers, task.classes, seeds, settings, device)
    )
    fitted.choices.update(hidden=hidden, layers=layers)
    return fitted


def scores(tensors: Tensors, x: Tensor) -> Tensor:
    """tensors: 0.weight, 0.bias, 1.weight, ... of the layers in turn."""
    last = len(tensors) // 2 - 1
    for layer in range(last):
        x = functional.relu(functional.linear(x, tensors[f"{layer}.weight"], tensors[f"{layer}.bias"]))
    return functional.linear(x, tensors[f"{last}.weight"], tensors[f"{last}.bias"])


MLP_1, MLP_2, MLP_3 = (Classifier(partial(fit, layers=layers), scores, (*USES, "hidden")) for layers in (1, 2, 3))
