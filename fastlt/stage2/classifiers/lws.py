"""lws: learnable weight scaling (paper section 4). Directions stay the joint classifier's, lengths are learned."""

from fastlt.stage2.classifiers.base import Classifier, Fitted, Task, Tensors
from fastlt.stage2.classifiers.fixed_scores import fixed_scores
from fastlt.stage2.classifiers.heads import Scale
from fastlt.stage2.classifiers.trained import Setup, fit_trained


def fit(task: Task) -> Fitted:
    """Scores f_c (w_c x + b_c), one learned scale f_c per class, from 1; with scale_bias=false f_c w_c x + b_c."""
    weight, bias, both = task.weight, task.bias, task.stage2.scale_bias
    offset = bias.new_zeros(()) if both else bias

    def fold(tensors: Tensors) -> Tensors:
        scale = tensors["scale"]
        return {"weight": weight * scale[:, None], "bias": bias * scale if both else bias}

    rows, scores = fixed_scores(task.views, weight, bias if both else None)
    setup = Setup(task.stage2.lws, rows, fold=fold)
    return fit_trained(task, setup, lambda seeds, settings: Scale(scores, task.classes, offset, seeds, settings))


LWS = Classifier(fit, uses=("lws", "seeds", "drawing", "stepped", "keep", "scale_bias", "views"))
