"""Turns an out-of-memory error into a message that names the keys by which memory can be saved."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from fastlt.core.errors import UserError

P = ParamSpec("P")
R = TypeVar("R")
# Parts of the messages of PyTorch and DALI when memory of the GPU or of the machine runs out.
_SIGNS = ("out of memory", "not enough memory", "can't allocate memory", "bad_alloc", "memoryallocation")


def memory_told(work: Callable[P, R]) -> Callable[P, R]:
    """Decorator that turns an out-of-memory error of a function into a UserError.

    The first argument of the function must be a TrainConfig, whose batch and image size the message gives.
    """

    @functools.wraps(work)
    def told(*args: P.args, **keys: P.kwargs) -> R:
        try:
            return work(*args, **keys)
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and not any(sign in str(error).lower() for sign in _SIGNS):
                raise
            config: Any = args[0]
            lines = str(error).strip().splitlines()
            reason = f" ({lines[0][:200]})" if lines else ""
            raise UserError(
                f"out of memory{reason}: accumulate=N works a batch through in N parts; or take fewer images with "
                f"protocol.batch= (now {config.protocol.batch}), or smaller ones with image_size= (now "
                f"{config.image_size}); the same command goes on from what was saved"
            ) from error

    return told
