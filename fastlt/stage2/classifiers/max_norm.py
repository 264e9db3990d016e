"""max_norm: the classifier of weight balancing (Alshammari et al. 2022): class-balanced loss, weight decay, max-norm.

After every step, weight vectors that are longer than a limit are scaled down to it.
"""

from fastlt.stage2.classifiers.base import Classifier, Fitted, Task
from fastlt.stage2.classifiers.crt import USES
from fastlt.stage2.classifiers.heads import Capped, Head
from fastlt.stage2.classifiers.trained import FitConfig, fit_trained

# Limits to choose from: 0 is the smallest norm of the joint classifier's weights, 1 the largest; the authors have 0.1.
LIMITS = (0.1, 0.5, 1.0)
DECAYS = (5e-4, 5e-3, 5e-2)  # to choose from, beside that of crt
LIMIT = 0.1  # where there is nothing to choose on


def fit(task: Task) -> Fitted:
    """Learns scores W x + b, starting at the joint classifier, by the class-balanced loss (beta 0.9999).

    Batches are instance-balanced. The limit of the norms is min + m (max - min) of the norms of the joint classifier's
    weights. m and the weight decay are chosen together, among LIMITS, and DECAYS and that of `crt`;
    `stage2.weight_decay` takes the place of the latter. The authors' code has the class-balanced loss in a form of its
    own, the binary cross-entropy of the softmax.
    """
    none, crt = task.choose_on == "none", task.stage2.crt
    decays = (crt.weight_decay,) if none else tuple(sorted({*DECAYS, crt.weight_decay}))
    norms = task.weight.norm(dim=1)
    least, most = float(norms.min()), float(norms.max())

    def cap(head: Head, settings: list[dict[str, float]]) -> None:
        assert isinstance(head, Capped)
        head.cap([least + setting["max_norm"] * (most - least) for setting in settings])

    config = FitConfig(
        crt,
        task.augmented,
        "instance",
        "class_balanced",
        {"max_norm": (LIMIT,) if none else LIMITS},
        decays=task.stage2.weight_decay or decays,
        prepare=cap,
    )
    return fit_trained(task, config, lambda seeds, settings: Capped(task.weight, task.bias, seeds, settings))


MAX_NORM = Classifier(fit, uses=USES)
