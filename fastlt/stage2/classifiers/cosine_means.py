"""cosine_means: a cosine classifier that starts at the class means and is trained with the logit-adjusted loss.

This is the classifier of LIFT (Shi et al. 2024).
"""

from fastlt.kernels.class_mean import class_mean
from fastlt.stage2.classifiers.base import Classifier, Fitted, Task
from fastlt.stage2.classifiers.cosine import scores
from fastlt.stage2.classifiers.crt import USES
from fastlt.stage2.classifiers.heads import Cosine
from fastlt.stage2.classifiers.trained import FitConfig, fit_trained

SCALE = 25.0  # of the cosines at the start


def fit(task: Task) -> Fitted:
    """Learns scores s cos(w_c, x) by the cross-entropy of the scores + log p_c under instance-balanced sampling.

    The weights w_c start at the mean of x / ||x|| of each class, and s starts at SCALE.
    """
    means = class_mean(task.train.x, task.train.labels, task.classes).l2n
    config = FitConfig(task.stage2.crt, task.augmented, "instance", "logit_adjusted", scores=scores)
    dim, device = task.weight.shape[1], task.weight.device

    def make(seeds: list[int], settings: int) -> Cosine:
        return Cosine(dim, task.classes, seeds, settings, device, means, SCALE)

    return fit_trained(task, config, make)


COSINE_MEANS = Classifier(fit, scores, USES)
