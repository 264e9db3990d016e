"""Parses the shares by which a source without splits is divided: split=0.7,0.1,0.2 or val=0.1 test=0.2."""

from dataclasses import dataclass
from pathlib import Path

from fastlt.core.errors import UserError
from fastlt.data.convert.config import ConvertConfig

_FORM = "allowed are three numbers from 0 to 1 whose sum is 1, the shares of train, val and test, such as 0.7,0.1,0.2"


@dataclass(frozen=True)
class Shares:
    """The shares of the training images for val and test, and whether the user asked for no test split (test=0)."""

    val: float = 0.0
    test: float = 0.0
    without_test: bool = False

    @classmethod
    def of(cls, config: ConvertConfig) -> "Shares":
        """Returns the shares that a ConvertConfig asks for. Raises UserError for values that are no shares."""
        given = {split: found for split in ("val", "test") if (found := share(config, split)) is not None}
        if config.split is None:
            return cls(given.get("val", 0.0), given.get("test", 0.0), given.get("test") == 0)
        if also := [key for key in ("val", "test") if getattr(config, key) is not None]:
            raise UserError(f"split={config.split} and {also[0]}={getattr(config, also[0])}: give one of the two")
        try:
            train, val, test = map(float, config.split.strip(" []()").split(","))
        except ValueError:
            raise UserError(f"split={config.split}: {_FORM}") from None
        if not (train > 0 <= min(val, test) and abs(train + val + test - 1) < 1e-6):
            raise UserError(f"split={config.split}: {_FORM}, with something to train on")
        return cls(val, test, test == 0)


def share(config: ConvertConfig, split: str) -> float | None:
    """Returns the value of the key `val` or `test` if it is a share; None if it is a file or not given."""
    try:
        value = float(getattr(config, split))
    except (TypeError, ValueError):
        return None
    if value >= 1 and Path(getattr(config, split)).exists():
        return None
    if not 0 <= value < 1:
        raise UserError(f"{split}={getattr(config, split)}: a share of the training images is at least 0 and below 1")
    return value
