"""joint: the classifier that was trained together with the backbone in stage 1, or one trained on given features."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastlt.longtail.losses import make_loss
from fastlt.stage2.classifiers.base import Classifier, Features, Fitted, Stage2, Task, Tensors, linear_scores
from fastlt.stage2.classifiers.heads import Linear
from fastlt.stage2.classifiers.sgd import Draws, train


def fit(task: Task) -> Fitted:
    """Returns the classifier of stage 1, with scores W x + b, or s cos(w_c, x) if it was trained to compare by cosine.

    s is the scale of the cosines in the loss of stage 1, so that the softmax of the scores is what was trained.
    """
    if task.joint.bias is None:
        return Fitted({"cosine": task.head_scale * functional.normalize(task.weight, dim=1)})
    return Fitted({"weight": task.weight, "bias": task.bias})


def scores(tensors: Tensors, x: Tensor) -> Tensor:
    """Returns scores [n, C] of features [n, D]. tensors: `weight` and `bias`, or `cosine` [C, D], s w_c / ||w_c||."""
    if "cosine" in tensors:
        return functional.linear(functional.normalize(x, dim=1), tensors["cosine"])
    return linear_scores(tensors, x)


def train_joint(rows: Features, classes: int, stage2: Stage2, seed: int, law: str = "instance") -> nn.Linear:
    """Trains a joint classifier W x + b for features that came without one, and returns it on their device.

    rows: the training features. classes: C. law: of the sampler, instance-balanced by default.
    stage2: the training is that of its `crt`, with the first learning rate and weight decay if there are several.

    The loss is cross-entropy.
    """
    crt, device = stage2.crt, rows.x.device
    head = Linear(rows.x.shape[1], classes, [seed], 1, device)
    loss = make_loss("cross_entropy", torch.bincount(rows.labels, minlength=classes))
    settings = [{"lr": stage2.rates(crt)[0], "weight_decay": stage2.decays(crt)[0]}]
    train(head, rows, classes, Draws(law, "quota", [seed], len(rows)), crt, settings, loss, stage2.stepped)
    return linear_layer(**head.tensors(0, 0))


def linear_layer(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Returns an nn.Linear with copies of this weight [C, D] and bias [C]."""
    layer: Any = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], bias is not None, device=weight.device)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return layer


JOINT = Classifier(fit, scores)
