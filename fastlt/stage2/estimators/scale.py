"""The number that features are divided by, so that the same learning rates and weight decays suit all features."""

import torch
from torch import Tensor

from fastlt.core.errors import UserError
from fastlt.stage2.estimators.checks import ROWS


def scale_of(asked: str | float, rows: Tensor) -> float:
    """Returns the number that features are divided by.

    asked: `rms` for the root mean square of the features (1 if all are 0), `none` for 1, or a number greater than 0.
    rows: the features [N, D].

    Raises UserError for a value that is not allowed, and for features that float32 does not tell from 0.

    >>> import torch
    >>> scale_of("rms", torch.full((2, 3), 4.0))
    4.0
    """
    fixed = fixed_scale(asked)
    if fixed is not None:
        return fixed
    total = sum(float(part.double().square().sum()) for part in rows.split(ROWS))
    rms = (total / rows.numel()) ** 0.5 or 1.0
    if rms < torch.finfo(torch.float32).tiny:
        raise UserError(
            f"X has a root mean square of {rms:.3g}, too small for float32: multiply it, such as by {1 / rms:.0e}"
        )
    return rms


def fixed_scale(asked: str | float) -> float | None:
    """Returns the number of `scale_of` if it does not depend on the features, else (for `rms`) None.

    Raises UserError for a value that is not allowed.
    """
    if asked in ("rms", "none"):
        return {"rms": None, "none": 1.0}[asked]
    try:
        number = float(asked)
    except (TypeError, ValueError):
        number = 0.0
    if not 0 < number < float("inf"):
        raise UserError(f"scale={asked} is unknown: allowed are rms, none, or a number greater than 0")
    return number
