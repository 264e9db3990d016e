"""joint: stage 1's own classifier, trained together with the backbone."""

from torch import Tensor
from torch.nn import functional

from fastlt.stage2.classifiers.base import Classifier, Fitted, Task, Tensors, linear_scores


def fit(task: Task) -> Fitted:
    """Scores W x + b, or the cosines of a representation that was trained with them."""
    if task.joint.bias is None:
        return Fitted({"cosine": task.weight})
    return Fitted({"weight": task.weight, "bias": task.bias})


def scores(tensors: Tensors, x: Tensor) -> Tensor:
    if "cosine" in tensors:
        return functional.linear(functional.normalize(x, dim=1), functional.normalize(tensors["cosine"], dim=1))
    return linear_scores(tensors, x)


JOINT = Classifier(fit, scores)
