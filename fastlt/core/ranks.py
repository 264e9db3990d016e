"""The processes of one training, as torchrun starts them: who am I, and what do all of them know together."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from fastlt.core.log import silence

PATIENCE = timedelta(minutes=30)  # the others wait so long while the first rank writes or evaluates


@dataclass(frozen=True)
class Ranks:
    """rank of world processes; local: its number on this node, which has `neighbours` of them. One process without
    torchrun is rank 0 of 1."""

    rank: int = 0
    world: int = 1
    local: int = 0
    neighbours: int = 1

    @property
    def main(self) -> bool:
        """Whether this one writes and speaks for all."""
        return self.rank == 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over the ranks, in place."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def any(self, value: bool, device: torch.device) -> bool:
        """Whether any rank says so."""
        return value if self.world == 1 else bool(self.sum(torch.tensor(int(value), device=device)))

    @contextlib.contextmanager
    def one_after_another(self) -> Iterator[None]:
        """The first rank goes ahead, the others follow: what it downloads is there for them."""
        if self.world > 1 and not self.main:
            dist.barrier()
        yield
        if self.world > 1 and self.main:
            dist.barrier()


ALONE = Ranks()


def ranks_here() -> Ranks:
    """What torchrun's environment says."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return ALONE
    return Ranks(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")))


def join(ranks: Ranks, device: torch.device) -> None:
    """Meets the other ranks; all but the first fall silent."""
    if ranks.world == 1:
        return
    gpu = device.type == "cuda"
    dist.init_process_group("nccl" if gpu else "gloo", timeout=PATIENCE, device_id=device if gpu else None)
    if not ranks.main:
        silence()


def leave(ranks: Ranks) -> None:
    """The end of what the ranks do together."""
    if ranks.world > 1:
        dist.destroy_process_group()
