"""los: label over-smoothing (Sun et al. 2025): the joint classifier trained further with labels that are nearly even.

Such labels bring the logits of all classes to one size.
"""

from dataclasses import replace

from fastlt.stage2.classifiers.base import Classifier, Fitted, Task
from fastlt.stage2.classifiers.crt import USES
from fastlt.stage2.classifiers.heads import Started
from fastlt.stage2.classifiers.trained import FitConfig, fit_trained

SMOOTHINGS = (0.9, 0.95, 0.98, 0.99)  # values to choose from, which are trained side by side
SMOOTHING = 0.98  # where there is nothing to choose on
LONGER = 2  # factor on the epochs of crt: the authors train 20 where these are usually 10
SLOWER = 0.005  # factor on the learning rate of crt: the authors' 5e-4 where that is 0.1


def fit(task: Task) -> Fitted:
    """Learns scores W x + b, starting at the joint classifier, by cross-entropy with label smoothing.

    A share `smoothing` of each label is spread evenly over all classes. Batches are instance-balanced and weights do
    not decay.
    """
    config = FitConfig(
        replace(task.stage2.crt, epochs=LONGER * task.stage2.crt.epochs),
        task.augmented,
        law="instance",
        extra={"smoothing": (SMOOTHING,) if task.choose_on == "none" else SMOOTHINGS},
        loss_options=("smoothing",),
        slower=SLOWER,
        decays=(0.0,),
    )
    return fit_trained(task, config, lambda seeds, settings: Started(task.weight, task.bias, seeds, settings))


LOS = Classifier(fit, uses=USES)
