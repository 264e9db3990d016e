"""max_norm: the classifier of weight balancing (Alshammari et al. 2022): class-balanced loss, weight decay, max-norm.

After every step, weight vectors that are longer than a limit are scaled down to it.
"""

from fastlt.stage2.classifiers.base import Classifier, Fitted, Task
from fastlt.stage2.classifiers.crt import USES
from fastlt.stage2.classifiers.heads import Capped, Head
from fastlt.stage2.classifiers.trained import FitConfig, fit_trained

LENGTHS = (0.5, 1.0, 2.0)  # limits to choose from, relative to the mean norm of the joint classifier's weights
DECAYS = (5e-4, 5e-3, 5e-2)
LENGTH = 1.0  # where there is nothing to choose on


def fit(task: Task) -> Fitted:
    """Learns scores W x + b, starting at the joint classifier, by the class-balanced loss (beta 0.9999).

    Batches are instance-balanced. The limit of the norms and the weight decay are chosen together, among LENGTHS and
    DECAYS; `stage2.weight_decay` takes the place of DECAYS.
    """
    none = task.choose_on == "none"
    mean = float(task.weight.norm(dim=1).mean())

    def cap(head: Head, settings: list[dict[str, float]]) -> None:
        assert isinstance(head, Capped)
        head.cap([setting["max_norm"] * mean for setting in settings])

    config = FitConfig(
        task.stage2.crt,
        task.augmented,
        "instance",
        "class_balanced",
        {"max_norm": (LENGTH,) if none else LENGTHS},
        decays=task.stage2.weight_decay or (DECAYS[1:2] if none else DECAYS),
        prepare=cap,
    )
    return fit_trained(task, config, lambda seeds, settings: Capped(task.weight, task.bias, seeds, settings))


MAX_NORM = Classifier(fit, uses=USES)
