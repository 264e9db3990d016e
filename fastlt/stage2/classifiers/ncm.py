"""ncm: nearest class mean (paper section 4). Nothing is trained; the tail's means are as good as its images allow."""

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from fastlt.kernels.class_mean import class_mean
from fastlt.stage2.classifiers.base import Classifier, Fitted, Task, Tensors

NEVER = -1e30  # score of a class without training images: it has no mean, and is never predicted


def fit(task: Task, kind: str, distance: str) -> Fitted:
    """Means mu_c of the training features of kind `un` (x), `l2n` (x / ||x||) or `cl2n` ((x - m) / ||x - m||, m the
    global mean: the authors' default). They are not normalized again."""
    means = class_mean(task.train.x, task.train.labels, task.classes)
    tensors = {"mean": getattr(means, kind), "none": torch.where(means.counts > 0, 0.0, NEVER)}
    if kind == "cl2n":
        tensors["centre"] = means.global_mean
    return Fitted(tensors, {"features": kind, "distance": distance})


def scores(tensors: Tensors, x: Tensor, kind: str, distance: str) -> Tensor:
    """The negative squared L2 distance, or the cosine, of z to each class mean; z of the same kind as the means.

    `authors_cos`: what the authors' code has as `cos`, z mu_c / D with means as long as they are, so that classes whose
    features agree have an advantage. It is not the cosine of the paper's text.
    """
    mean = tensors["mean"]
    z = x - tensors["centre"] if kind == "cl2n" else x
    z = functional.normalize(z, dim=1) if kind != "un" or distance == "cosine" else z
    if distance == "cosine":
        return z @ functional.normalize(mean, dim=1).T + tensors["none"]
    if distance == "authors_cos":
        return z @ mean.T / z.shape[1] + tensors["none"]
    return 2 * z @ mean.T - mean.square().sum(1) - z.square().sum(1, keepdim=True) + tensors["none"]


def classifier(kind: str, distance: str) -> Classifier:
    """The classifier of a kind of features and a distance."""
    chosen = {"kind": kind, "distance": distance}
    return Classifier(partial(fit, **chosen), partial(scores, **chosen))
