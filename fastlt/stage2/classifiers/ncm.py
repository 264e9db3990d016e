"""ncm: nearest class mean (paper section 4): the mean feature of each class is computed, and nothing is trained."""

from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional

from fastlt.kernels.class_mean import ClassMeans, class_mean
from fastlt.stage2.classifiers.base import Classifier, Features, Fitted, Task, Tensors

NEVER = -1e30  # score of a class without training images, which has no mean and must never be predicted
_means: WeakKeyDictionary[Features, ClassMeans] = WeakKeyDictionary()  # class means, shared by all NCM classifiers


def fit(task: Task, kind: str, distance: str) -> Fitted:
    """Computes the mean mu_c of the training features z of each class.

    kind: `un` (z = x), `l2n` (z = x / ||x||) or `cl2n` (z = (x - m) / ||x - m|| with the mean m of all training
        features, the default of the paper's code). The means are not normalized again.
    distance: as in `scores`.
    """
    means = _means.get(task.train)
    if means is None or len(means.counts) != task.classes:
        means = _means[task.train] = class_mean(task.train.x, task.train.labels, task.classes)
    tensors = {"mean": getattr(means, kind), "none": torch.where(means.counts > 0, 0.0, NEVER)}
    if kind == "cl2n":
        tensors["centre"] = means.global_mean
    return Fitted(tensors, {"features": kind, "distance": distance})


def scores(tensors: Tensors, x: Tensor, kind: str, distance: str) -> Tensor:
    """Returns scores [n, C] of features [n, D], by the distance of z to each class mean.

    kind: of the features z, as in `fit`.
    distance: `l2` scores by the negative squared L2 distance, `cosine` by the cosine. `authors_cos` is what the paper's
        code calls `cos`: z mu_c / D with means that are not normalized, so that classes whose features agree have an
        advantage. It is not the cosine of the paper's text.

    Distances are those of z and mu_c less the middle of all means: what they have in common can be so much larger than
    what they differ in that float32 would lose the difference.
    """
    mean = tensors["mean"]
    z = x - tensors["centre"] if kind == "cl2n" else x
    z = functional.normalize(z, dim=1) if kind != "un" or distance == "cosine" else z
    if distance == "cosine":
        return z @ functional.normalize(mean, dim=1).T + tensors["none"]
    if distance == "authors_cos":
        return z @ mean.T / z.shape[1] + tensors["none"]
    middle = middle_of(mean, tensors["none"])
    z, mean = z - middle, mean - middle
    return 2 * z @ mean.T - mean.square().sum(1) - z.square().sum(1, keepdim=True) + tensors["none"]


def middle_of(mean: Tensor, none: Tensor) -> Tensor:
    """Returns the mean [D] of the class means [C, D], without those of classes that have none. Both as in `scores`."""
    there = (none == 0).to(mean.dtype)
    return there @ mean / there.sum()


def classifier(kind: str, distance: str) -> Classifier:
    """Returns the NCM classifier for a kind of features and a distance, as in `fit` and `scores`."""
    chosen = {"kind": kind, "distance": distance}
    return Classifier(partial(fit, **chosen), partial(scores, **chosen))
