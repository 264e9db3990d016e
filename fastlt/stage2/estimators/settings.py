"""Makes the settings of stage 2 from the parameters of an estimator."""

from collections.abc import Mapping
from typing import Any

from fastlt.stage2.classifiers.base import Stage2, Training

DECAY = 5e-4  # weight decay of the paper


def settings_of(
    epochs: Mapping[str, int], batch: int, lr: tuple[float, ...], decay: tuple[float, ...] | None, **further: Any
) -> Stage2:
    """Returns settings of stage 2.

    epochs: of the trainings `crt` and `lws`, by name. batch: batch size.
    lr, decay: learning rates and weight decays to choose from; with None, what a classifier chooses from by itself.
    further: other fields of Stage2.
    """
    first = DECAY if decay is None else decay[0]
    crt, lws = (Training(epochs=epochs[kind], batch=batch, lr=lr[0], weight_decay=first) for kind in ("crt", "lws"))
    return Stage2(crt=crt, lws=lws, lr=lr, weight_decay=decay, **further)
