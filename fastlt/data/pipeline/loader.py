"""The loader: executes the plan of an epoch and yields its batches."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, NoReturn

import numpy as np
import torch

from fastlt.core.batches import Batch
from fastlt.core.errors import UserError
from fastlt.core.resumable import Resumable, whole_number
from fastlt.data.pipeline.columns import columns, stored_as
from fastlt.data.pipeline.damage import Damage
from fastlt.data.pipeline.guard import Guard, GuardedBatches
from fastlt.data.plan import Augment, Plan, draw_plan
from fastlt.data.shards.reader import Dataset, SplitIndex
from fastlt.longtail.sampler import Order

DTYPES = {torch.float32: "float32", torch.float16: "float16", torch.uint8: "uint8"}
SMALL = 2**14  # bytes of a raw image that is copied sooner than it is handed on by itself
MAX_BATCH, MAX_THREADS, MAX_PREFETCH = 2**16, 1024, 64
PLAN_AHEAD = 4096  # positions planned at once: large enough that the call costs nothing, small enough to stay in cache


class Loader(Resumable):
    """Batches of one split, in the order of a sampler, as a pure function of (seed, epoch, position).

    ```python
    with Loader(dataset, "train", order, Augment(224, "resized", flip=True), batch=256) as loader:
        for epoch in range(90):
            loader.set_epoch(epoch)
            for images, labels, ids in loader:
                ...
    ```

    Every `for` loop over a loader is one epoch: the one that `set_epoch` named, or else the one after the last that was
    begun, so that the images are drawn anew each time. A loop may be left at any time. `state_dict` and
    `load_state_dict` have the names and the meaning of torchdata's StatefulDataLoader: after `load_state_dict` the next
    loop gives the batches behind the last one that the first loader gave.

    The same images come out for any number of threads, any batch size and from any starting point. Of an epoch's N
    positions rank r of W takes r, r + W, ...; every rank gets the same number. drop_last leaves out a last batch that
    is not full. A batch's tensors are its own: they may be kept.

    dataset, split: what to read. order: a Sampler or InOrder. augment: crops and colours. batch: images of a batch on
    this rank. device: cpu, or a CUDA device for the GPU graph. threads: of DALI. prefetch: batches worked on ahead.
    dtype: of images: float32 and float16 are normalized, uint8 are pixels; default float32, on a GPU float16.
    channels_last: their memory format; default on a GPU. max_damaged: how many samples may turn out to be
    damaged; other images of their class stand in for them (damage.py), and `damaged` says where they lie. mean, std: of
    RGB in 0..1, that images are normalized by; default: the dataset's.
    Raises UserError if a number is out of its bounds, and if a full batch is asked for and the split is smaller; when
    batches are taken, if the loader is closed, another thread takes one at that time, or the process was forked.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        order: Order,
        augment: Augment,
        batch: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
        threads: int = 2,
        prefetch: int = 2,
        drop_last: bool = False,
        rank: int = 0,
        world: int = 1,
        dtype: torch.dtype | None = None,
        channels_last: bool | None = None,
        max_damaged: int = 10,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ):
        self._pipeline: Any = None  # the first attribute: its threads end before what they read is freed
        batch, threads = whole_number("batch", batch, 1, MAX_BATCH), whole_number("threads", threads, 1, MAX_THREADS)
        prefetch, world = whole_number("prefetch", prefetch, 1, MAX_PREFETCH), whole_number("world", world, 1)
        rank, seed = whole_number("rank", rank, 0, world - 1), whole_number("seed", seed, 0, 2**63 - 1)
        max_damaged = whole_number("max_damaged", max_damaged, 0)
        self.device = torch.device(device)
        gpu = self.device.type != "cpu"
        self.dtype = dtype or (torch.float16 if gpu else torch.float32)
        self.channels_last = gpu if channels_last is None else channels_last
        if self.dtype not in DTYPES:
            raise UserError(f"dtype={self.dtype}: allowed are {', '.join(str(known) for known in DTYPES)}")
        super().__init__(_described(dataset, split, order, seed, augment), len(order), world)
        self.batch, self.drop_last, self.rank = batch, drop_last, rank
        self._dataset, self._split, self._index = dataset, split, dataset.split(split)
        self._order, self._augment, self._seed = order, augment, seed
        if drop_last and self.positions < batch:
            share = "" if world == 1 else f" on each of {world} ranks"
            raise UserError(
                f"batch={batch} is larger than the {split} split ({self.positions} images{share}): choose a smaller one"
            )
        self._stored = stored_as(self._index.encoding)
        self._together = self._stored == "raw" and _small_and_alike(self._index)
        pixels = self.dtype == torch.uint8
        told = [dataset.about["mean"] if mean is None else mean, dataset.about["std"] if std is None else std]
        by = (0, 1) if pixels else (np.array(value, np.float32) * 255 for value in told)
        self._normalize = np.empty(6, np.float32)
        self._normalize[:3], inverted = by
        self._normalize[3:] = 1 / inverted
        self._damage = Damage(dataset, split, order.others, max_damaged, threads)
        self._hook = augment.hook()
        self._guard = Guard()
        self._columns: Iterator[tuple] = iter(())
        self._ids: deque[np.ndarray] = deque()
        # DALI reads the columns of scheduled batches in place, so as many are kept as can be under way.
        self._alive: deque[tuple] = deque(maxlen=prefetch + 2)
        self._epochs = 0  # that were begun
        self._pipeline = self._build(threads, prefetch)

    def _build(self, threads: int, prefetch: int) -> Any:
        output = self._augment.size, DTYPES[self.dtype], self.channels_last
        common = self._next_columns, self._stored, *output, self.batch, threads, prefetch
        if self.device.type == "cpu":
            from fastlt.data.pipeline import graph_cpu

            return graph_cpu.build(*common)
        from fastlt.data.pipeline import graph_gpu

        return graph_gpu.build(*common, self.device.index or 0, self._augment.jitter > 0)

    @property
    def damaged(self) -> list[str]:
        """Where the damaged samples lie that were met so far: shard, offset, key."""
        return list(self._damage.found.values())

    @property
    def positions(self) -> int:
        """Positions of an epoch on this rank."""
        return len(self._order) // self.world if self.world > 1 else len(self._order)

    def __len__(self) -> int:
        """Batches of an epoch on this rank."""
        return -(-self.images // self.batch)

    @property
    def images(self) -> int:
        """Images of an epoch on this rank."""
        return self._images_from(0)

    def _images_from(self, done: int) -> int:
        """Images that are left of an epoch on this rank behind the first `done`."""
        left = self.positions - done
        return left // self.batch * self.batch if self.drop_last else left

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the next epoch; behind `load_state_dict` what is left of that one."""
        return GuardedBatches(self._guard, self._go_on())

    def _go_on(self) -> Iterator[Batch]:
        yield from self._batches(*self._next)

    def _left(self, position: int) -> int:
        return self._images_from(position // self.world)

    def epoch(self, epoch: int = 0, position: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from a position on.

        position: how many positions of the epoch are done, by all ranks together. A loader gives one epoch at a time:
        the next one ends it. Raises UserError if the position is no multiple of the number of ranks, if the loader is
        closed, and if an epoch that was ended is asked for more.
        """
        return GuardedBatches(self._guard, self._batches(*self._place(epoch, position)))

    def _batches(self, epoch: int, position: int) -> Iterator[Batch]:
        if self._pipeline is None:
            raise UserError("this loader is closed: make another one")
        self._abandon()
        self._epochs += 1
        number = self._epochs
        self._begin(epoch, position)
        done = position // self.world
        end = done + self._images_from(done)
        self._columns = self._plan(epoch, done)
        self._pipeline.schedule_run()
        while done < end:
            images = torch.from_dlpack(self._pipeline.outputs()[0].as_tensor())
            images = images.permute(0, 3, 1, 2) if self.channels_last else images
            self._pipeline.schedule_run()
            ids = self._ids.popleft()
            images = images if self._hook is None else self._hooked(images, epoch, done)
            labels = torch.from_numpy(self._index.label[ids].astype(np.int64))
            done += len(ids)
            self._at = epoch, done * self.world
            yield Batch(images, labels.to(self.device, non_blocking=True), ids)
            if self._epochs != number:
                raise UserError(
                    f"epoch {epoch} is over, as this loader began another one or was closed: make a second loader for "
                    "two epochs at once"
                )
        self._at = self._next
        self._damage.report()

    def _hooked(self, images: torch.Tensor, epoch: int, done: int) -> torch.Tensor:
        """The images behind the user's own augmentation. done: positions of this rank before them."""
        assert self._hook is not None
        places = (done + np.arange(len(images))) * self.world + self.rank
        keys = [(self._seed, epoch, place) for place in places.tolist()]
        changed = torch.stack([self._hook(image, key) for image, key in zip(images, keys, strict=True)])
        if changed.shape != images.shape or changed.dtype != images.dtype:
            raise UserError(
                f"protocol.image_hook={self._augment.image_hook} gives {str(changed.dtype).removeprefix('torch.')} "
                f"{list(changed.shape[1:])} for {str(images.dtype).removeprefix('torch.')} {list(images.shape[1:])}: "
                "it must give an image of the same kind and size"
            )
        return changed.to(memory_format=torch.channels_last) if self.channels_last else changed

    def __repr__(self) -> str:
        epoch, position = self._at
        order = ", ".join(
            name[6:] + f"={value}"
            for name, value in self._about.items()
            if name[:6] == "order." and name[6:] != "crc32"
        )
        ranks = f"rank={self.rank} of {self.world}, " if self.world > 1 else ""
        closed = ", closed" if self._pipeline is None else ""
        return (
            f"Loader({self._dataset.root}, {self._split}, {order}, batch={self.batch}, device={self.device}, {ranks}"
            f"epoch={epoch}, position={position} of {len(self._order)}{closed})"
        )

    def __reduce_ex__(self, _: object) -> NoReturn:
        """copy, deepcopy and pickle come here."""
        raise UserError(
            "a loader has threads of its own and cannot be copied or pickled: make another one of the same arguments, "
            "and give its load_state_dict what state_dict() of this one returns"
        )

    def _abandon(self) -> None:
        """Ends an epoch that was broken off, and makes the pipeline ready for the next."""
        self._columns = iter(())
        while not self._pipeline.empty():
            self._pipeline.outputs()
            self._pipeline.schedule_run()
        self._ids.clear()
        self._pipeline.reset()

    def _next_columns(self) -> tuple:
        columns = next(self._columns)
        self._alive.append(columns)
        return columns

    def _plan(self, epoch: int, done: int) -> Iterator[tuple]:
        order = self._order.order(epoch)
        ahead = max(1, PLAN_AHEAD // self.batch) * self.batch
        end = done + self._images_from(done)
        for first in range(done, end, ahead):
            places = np.arange(first, min(first + ahead, end), dtype=np.int64) * self.world + self.rank
            plan = self._draw(order[places], places, epoch)
            for begin in range(0, len(places), self.batch):
                part = slice(begin, begin + self.batch)
                batch = plan[part]
                ids = self._damage.replaced(batch.ids)
                if ids is not batch.ids:
                    batch = self._draw(ids, places[part], epoch)
                self._ids.append(ids)
                images = self._stored_images(ids)
                height, width = self._index.height[ids], self._index.width[ids]
                yield columns(batch, images, height, width, self._stored, self._normalize)

    def _draw(self, ids: np.ndarray, places: np.ndarray, epoch: int) -> Plan:
        height, width = self._index.height[ids], self._index.width[ids]
        return draw_plan(ids, places, height, width, self._augment, self._seed, epoch)

    def _stored_images(self, ids: np.ndarray) -> list[np.ndarray] | np.ndarray:
        if self._together:
            return self._dataset.pixels_together(self._split, ids)
        return self._dataset.stored(self._split, ids)

    def close(self) -> None:
        """Frees the pipeline's threads and memory; the loader cannot be used after it."""
        if self._pipeline is None or self._guard.forked:  # the parent's threads are not ours to end
            return
        with self._guard:
            self._epochs += 1
            self._abandon()
            self._pipeline = None  # first its threads end, then what they read goes
            self._alive.clear()
            self._damage.close()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _described(dataset: Dataset, split: str, order: Order, seed: int, augment: Augment) -> dict[str, Any]:
    """What determines the images of every position, as plain values by name."""
    named = {"order": order.described(), "augment": asdict(augment)}
    parts = {f"{part}.{name}": value for part, values in named.items() for name, value in values.items()}
    return {"dataset": dataset.about["digest"], "split": split, "seed": seed, **parts}


def _small_and_alike(index: SplitIndex) -> bool:
    """Whether all images have one size, of a few pixels."""
    height, width = index.height, index.width
    return len(index) > 0 and bool(
        (height == height[0]).all() and (width == width[0]).all() and 3 * int(height[0]) * int(width[0]) <= SMALL
    )
