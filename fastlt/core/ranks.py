"""The processes (ranks) of a distributed training that torchrun starts, and how they exchange values."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from fastlt.core.errors import UserError
from fastlt.core.log import silence

PATIENCE = timedelta(minutes=30)  # how long the other ranks wait while rank 0 writes or evaluates
# How long they wait for each other in stage 2, where one may fit a classifier for hours. If a rank ends, torchrun ends
# the others, however long they would wait.
STAGE_2_PATIENCE = timedelta(days=30)
_patient: Any = None  # the group of all ranks for `tell`, `gather` and `wait`, which exchanges values of the CPU


@dataclass(frozen=True)
class Ranks:
    """This process among the processes of a training. Without torchrun it is rank 0 of 1.

    rank, world: index of this process, and number of processes. local, neighbours: the same on this machine.
    """

    rank: int = 0
    world: int = 1
    local: int = 0
    neighbours: int = 1

    @property
    def main(self) -> bool:
        """Returns whether this is rank 0, the one that writes files and messages."""
        return self.rank == 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Returns the sum of a tensor over all ranks, which replaces `values` (all-reduce)."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def any(self, value: bool, device: torch.device) -> bool:
        """Returns, on all ranks, whether `value` is true on any of them. device: where the values are exchanged."""
        return value if self.world == 1 else bool(self.sum(torch.tensor(int(value), device=device)))

    def tell(self, value: Any) -> Any:
        """Returns rank 0's value on all ranks. value: anything that can be pickled; on other ranks it is ignored."""
        if self.world == 1:
            return value
        told = [value]
        dist.broadcast_object_list(told, src=0, group=_patient)
        return told[0]

    def gather(self, values: np.ndarray) -> list[np.ndarray]:
        """Returns the arrays of all ranks on rank 0, in their order, and [] on the others.

        values: of the same shape and dtype on all ranks.
        """
        if self.world == 1:
            return [values]
        own = torch.from_numpy(np.ascontiguousarray(values))
        parts = [torch.empty_like(own) for _ in range(self.world)] if self.main else None
        dist.gather(own, parts, dst=0, group=_patient)
        return [part.numpy() for part in parts or []]

    def wait(self) -> None:
        """Returns when all ranks have called this."""
        if self.world > 1:
            dist.barrier(group=_patient)

    @contextlib.contextmanager
    def one_after_another(self) -> Iterator[None]:
        """Context manager that rank 0 enters first and the others after it, so that only rank 0 downloads a file."""
        if self.world > 1 and not self.main:
            dist.barrier()
        yield
        if self.world > 1 and self.main:
            dist.barrier()


ALONE = Ranks()


def ranks_here() -> Ranks:
    """Returns the Ranks that torchrun's environment variables describe, or ALONE without them.

    Raises UserError if some of them are missing or no whole numbers.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return ALONE
    numbers = []
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        text = os.environ.get(name)
        if text is None or not text.isdecimal():
            found = "is not set" if text is None else f"is {text!r}, no whole number"
            raise UserError(
                f"the environment variable {name} {found}, though RANK and WORLD_SIZE are set: start with torchrun, or "
                "unset these"
            )
        numbers.append(int(text))
    return Ranks(*numbers)


def join(ranks: Ranks, device: torch.device) -> None:
    """Connects to the other ranks, with NCCL on GPUs and Gloo on CPUs, and silences all ranks but 0."""
    if ranks.world == 1:
        return
    gpu = device.type == "cuda"
    global _patient
    dist.init_process_group("nccl" if gpu else "gloo", timeout=PATIENCE, device_id=device if gpu else None)
    _patient = dist.new_group(backend="gloo", timeout=STAGE_2_PATIENCE)
    if not ranks.main:
        silence()


def leave(ranks: Ranks) -> None:
    """Disconnects from the other ranks."""
    if ranks.world > 1:
        dist.destroy_process_group()
