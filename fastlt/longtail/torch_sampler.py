"""The class-aware samplers as a torch.utils.data.Sampler, for users who keep their own DataLoader."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.utils.data

from fastlt.core.errors import UserError
from fastlt.core.resumable import Resumable, whole_number
from fastlt.longtail.sampler import SamplerConfig, make_sampler

MAX_CLASSES = 2**20


class TorchSampler(Resumable, torch.utils.data.Sampler[int]):
    """A torch.utils.data.Sampler that yields the indices of an epoch's samples in the order of a `fastlt.Sampler`.

    ```python
    sampler = TorchSampler(labels, "class", seed=0)
    batches = DataLoader(images, batch_size=128, sampler=sampler, num_workers=8, drop_last=True)
    for epoch in range(90):
        sampler.set_epoch(epoch)
        for x, y in batches:
            ...
    ```

    Every loop over the sampler is one epoch: the one that `set_epoch` named, or else the one after the last loop's. An
    epoch has as many positions as there are samples, whatever the law. Rank r of W takes the positions r, r + W, ...,
    and all ranks take the same number of positions.

    labels: class index of every sample, [N], whole numbers from 0 on.
    law: instance, class, sqrt, root_N, progressive, or `package.module:NAME` of your own; see `class_probabilities`.
    epochs: of the training, for the law `progressive`.
    drawing: quota, iid, dataloader or reference; see `fastlt.Sampler`.
    rank, world: of this process; None takes those of torch.distributed if it is initialized, else one process.
    options: keyword arguments for an own law.

    Raises UserError for labels that are not whole numbers, or another value that is not allowed.
    """

    def __init__(
        self,
        labels: Sequence[int] | np.ndarray | torch.Tensor,
        law: str = "instance",
        *,
        seed: int = 0,
        epochs: int = 1,
        drawing: str = "quota",
        rank: int | None = None,
        world: int | None = None,
        options: Mapping[str, Any] | None = None,
    ):
        array = _classes(labels)
        together = dist.is_available() and dist.is_initialized()
        world = whole_number("world", (dist.get_world_size() if together else 1) if world is None else world, 1)
        rank = (dist.get_rank() if together else 0) if rank is None else rank
        self.rank = whole_number("rank", rank, 0, world - 1)
        seed, epochs = whole_number("seed", seed, 0, 2**63 - 1), whole_number("epochs", epochs, 1)
        members = np.argsort(array, kind="stable")
        class_start = np.concatenate([[0], np.cumsum(np.bincount(array))])
        self.order = make_sampler(members, class_start, SamplerConfig(law, drawing, dict(options or {})), seed, epochs)
        super().__init__(self.order.described(), len(self.order), world)
        self._begun: int | None = None  # the epoch of the loop that has begun

    def __len__(self) -> int:
        """Returns the number of samples of an epoch on this rank."""
        return len(self.order) // self.world

    def __iter__(self) -> Iterator[int]:
        """Yields the sample indices of the next epoch; after `load_state_dict`, those left of that state's epoch."""
        epoch, position = self._next
        self._begin(epoch, position)
        self._begun = epoch
        end = len(self) * self.world
        for number in self.order.order(epoch)[position + self.rank : end : self.world].tolist():
            position += self.world
            self._at = epoch, position
            yield number
        self._at = self._next

    def state_dict(self, used: int | None = None) -> dict[str, Any]:
        """Returns the position of the sampler, as plain values for `load_state_dict`.

        used: number of samples of this epoch that this rank has trained on, counted from the beginning of the epoch. A
            DataLoader with worker processes takes indices ahead of its batches, so `used` is needed there: the number
            of batches of this epoch times the batch size. None counts all indices that were taken.
        """
        if used is None:
            return super().state_dict()
        position = whole_number("used", used, 0, len(self)) * self.world
        return {**self._about, "epoch": self._next[0] if self._begun is None else self._begun, "position": position}

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the next loop, as Resumable.set_epoch does."""
        super().set_epoch(epoch)
        self._begun = None

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a state, as Resumable.load_state_dict does."""
        super().load_state_dict(state)
        self._begun = None

    def __repr__(self) -> str:
        about = ", ".join(f"{name}={value}" for name, value in self._about.items() if name != "crc32")
        (epoch, position), ranks = self._at, f"rank={self.rank} of {self.world}, " if self.world > 1 else ""
        return f"TorchSampler({about}, {ranks}epoch={epoch}, position={position} of {len(self.order)})"


def _classes(labels: Any) -> np.ndarray:
    """Returns labels as an int64 array [N]. Raises UserError if they are not class indices."""
    try:
        array = np.asarray(labels.cpu() if isinstance(labels, torch.Tensor) else labels)
    except ValueError:  # a ragged nested list
        array = np.empty((0, 0))
    if array.ndim != 1 or not len(array) or array.dtype.kind not in "iu":
        raise UserError(
            f"labels are {array.dtype} {list(array.shape)}: they must be the classes of all samples, whole numbers [N]"
        )
    if array.min() < 0 or array.max() >= MAX_CLASSES:
        raise UserError(f"labels are from {array.min()} to {array.max()}: allowed is from 0 to {MAX_CLASSES - 1}")
    return array.astype(np.int64)
