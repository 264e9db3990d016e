"""lws: learnable weight scaling (paper section 4): the joint classifier with one learned scale per class."""

from fastlt.stage2.classifiers.base import Classifier, Fitted, Task, Tensors
from fastlt.stage2.classifiers.fixed_scores import fixed_scores
from fastlt.stage2.classifiers.heads import Scale
from fastlt.stage2.classifiers.trained import FitConfig, fit_trained


def fit(task: Task) -> Fitted:
    """Learns the scales f_c of the scores f_c (w_c x + b_c) or, with scale_bias=false, f_c w_c x + b_c, starting at 1.

    They are trained on class-balanced batches; w_c and b_c are those of the joint classifier and stay fixed.
    """
    weight, bias, both = task.weight, task.bias, task.stage2.scale_bias
    offset = bias.new_zeros(()) if both else bias

    def fold(tensors: Tensors) -> Tensors:
        scale = tensors["scale"]
        return {"weight": weight * scale[:, None], "bias": bias * scale if both else bias}

    rows, scores = fixed_scores(task.augmented, weight, bias if both else None)
    config = FitConfig(task.stage2.lws, rows, fold=fold)
    return fit_trained(task, config, lambda seeds, settings: Scale(scores, task.classes, offset, seeds, settings))


LWS = Classifier(
    fit, uses=("lws", "lr", "weight_decay", "seeds", "drawing", "stepped", "keep", "scale_bias", "augmented_passes")
)
