"""The loader, which draws and executes the plan of an epoch and yields batches of images, labels and sample ids."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, NoReturn

import numpy as np
import torch

from fastlt.core.batches import Batch
from fastlt.core.checks import wrong_channels
from fastlt.core.device import pick_device
from fastlt.core.errors import UserError
from fastlt.core.resumable import Resumable, whole_number
from fastlt.core.words import counted
from fastlt.data.pipeline.columns import columns, stored_as
from fastlt.data.pipeline.damage import Damage
from fastlt.data.pipeline.guard import Guard, GuardedBatches
from fastlt.data.plan import Augment, Plan, draw_plan
from fastlt.data.shards.index import SplitIndex
from fastlt.data.shards.reader import Dataset
from fastlt.kernels.crop_resize import INTERPOLATIONS
from fastlt.longtail.sampler import Order, check_order, ids_of_epoch

DTYPES = {torch.float32: "float32", torch.float16: "float16", torch.uint8: "uint8"}
SMALL = 2**14  # bytes; copying smaller raw images into one array is faster than passing them to DALI one by one
MAX_BATCH, MAX_THREADS, MAX_PREFETCH = 2**16, 1024, 64
PLAN_AHEAD = 4096  # positions planned at once: enough to make the call's overhead negligible, few enough for the cache


class Loader(Resumable):
    """Yields batches of a split in the order of a sampler. It is iterable, resumable, and a context manager.

    ```python
    train = dataset.split("train")
    order = fastlt.Sampler(train.class_members, train.class_start, "class", epochs=90)
    augment = fastlt.Augment(224, "resized", flip=True)
    with fastlt.Loader(dataset, "train", order, augment, batch=256) as loader:
        for epoch in range(90):
            loader.set_epoch(epoch)
            for images, labels, ids in loader:
                ...
    ```

    A batch is (images, labels, ids): images [n, 3, size, size] and labels int64 [n] are tensors on `device`; ids int64
    [n] is a NumPy array of sample ids. Batches may be kept, as their tensors are not reused. With V views of each image
    (`augment.views_per_image`), n is V times the number of images: `images.unflatten(0, (V, -1))[v, i]` is view v of
    image i. All else counts images, not views.

    Every `for` loop over a loader is one epoch: the epoch given to `set_epoch`, or else the one after the last that was
    begun, so that each loop draws new crops. A loop may be left at any time. `state_dict` and `load_state_dict` have
    the same meaning as in torchdata's StatefulDataLoader: after `load_state_dict` the next loop continues after the
    last batch that the saved loader had yielded.

    Every image is a pure function of (seed, epoch, position), so it does not depend on the batch size, the number of
    threads, or where an epoch was resumed. Of the N positions of an epoch, rank r of W takes r, r + W, ...; all ranks
    get equally many.

    dataset, split: the images to read.
    order: a Sampler, or InOrder for evaluation.
    augment: crops and colours.
    batch: the number of images per batch on this rank.
    seed: of augmentation.
    device: `cpu`, a CUDA device, which decodes and augments, or `auto`: a GPU if there is one.
    threads: the number of DALI's threads. prefetch: how many batches are prepared ahead.
    drop_last: whether a last, smaller batch is left out.
    rank, world: of distributed training.
    dtype: float32 and float16 images are normalized, uint8 images are pixels; by default float32, on a GPU float16.
    channels_last: the memory format of images; by default on a GPU only.
    max_damaged: how many damaged samples are tolerated. They are replaced by other images of their class (damage.py),
    and `damaged` lists them.
    mean, std: of the RGB channels in 0..1, by which images are normalized; by default those of the dataset.

    Raises UserError for arguments out of range, or if drop_last is set and the split is smaller than a batch. Taking a
    batch raises UserError if the loader is closed, if another thread uses it, if the process was forked, or if the
    order gives ids of images that the split does not have.
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
        self._pipeline: Any = None  # the first attribute, so that its threads end before the memory they read is freed
        batch, threads = whole_number("batch", batch, 1, MAX_BATCH), whole_number("threads", threads, 1, MAX_THREADS)
        prefetch, world = whole_number("prefetch", prefetch, 1, MAX_PREFETCH), whole_number("world", world, 1)
        rank, seed = whole_number("rank", rank, 0, world - 1), whole_number("seed", seed, 0, 2**63 - 1)
        max_damaged = whole_number("max_damaged", max_damaged, 0)
        self.device = pick_device(str(device), torch.cuda.current_device() if torch.cuda.is_available() else 0)
        gpu = self.device.type != "cpu"
        self.dtype = dtype or (torch.float16 if gpu else torch.float32)
        self.channels_last = gpu if channels_last is None else channels_last
        if self.dtype not in DTYPES:
            raise UserError(f"dtype={self.dtype}: allowed are {', '.join(str(known) for known in DTYPES)}")
        check_order(order, f"order={type(order).__name__}")
        super().__init__(_described(dataset, split, order, seed, augment), len(order), world)
        self.batch, self.drop_last, self.rank, self.views = batch, drop_last, rank, augment.views_per_image
        self._dataset, self._split, self._index = dataset, split, dataset.split(split)
        self._order, self._augment, self._seed = order, augment, seed
        if drop_last and self.positions < batch:
            share = "" if world == 1 else f" on each of {world} ranks"
            raise UserError(
                f"batch={batch} is larger than the {split} split ({counted(self.positions, 'image')}{share}): choose "
                "a smaller one"
            )
        if augment.crop == "pad":
            _check_padded(dataset, split, augment)
        self._stored = stored_as(self._index.encoding)
        self._together = self._stored == "raw" and _small_and_alike(self._index)
        told = [dataset.about["mean"] if mean is None else mean, dataset.about["std"] if std is None else std]
        if problem := wrong_channels(*told):
            raise UserError(f"{problem}: they are of pixel values divided by 255")
        means, stds = (np.array(value, np.float32) * 255 for value in told)
        kind = np.array([INTERPOLATIONS.index(augment.interpolation)], np.float32)
        self._normalize = np.concatenate([means, 1 / stds, kind])
        self._damage = Damage(dataset, split, order.others, max_damaged, threads)
        self._hook = augment.hook()
        self._guard = Guard()
        self._columns: Iterator[tuple] = iter(())
        self._ids: deque[np.ndarray] = deque()
        self._behind = gpu and bool(augment.augment)  # whether augmentations follow after the graph instead of in it
        self._slots: deque[np.ndarray] = deque()
        # DALI reads the columns of scheduled batches in place, so those of all batches in flight are kept alive.
        self._alive: deque[tuple] = deque(maxlen=prefetch + 2)
        self._epochs = 0  # number of epochs that were begun
        self._pipeline = self._build(threads, prefetch)

    def _build(self, threads: int, prefetch: int) -> Any:
        kind, last = ("uint8", True) if self._behind else (DTYPES[self.dtype], self.channels_last)
        output = self._augment.image_size, kind, last
        common = self._next_columns, self._stored, *output, self.batch, threads, prefetch
        if self.device.type == "cpu":
            from fastlt.data.pipeline import graph_cpu

            seekable = bool(self._dataset.about["options"].get("seek_table"))
            return graph_cpu.build(*common, bool(self._augment.augment), seekable, self.views)
        from fastlt.data.pipeline import graph_gpu

        gpu = self.device.index, self._augment.jitter > 0, self._augment.interpolation
        return graph_gpu.build(*common, *gpu, self.views)

    @property
    def damaged(self) -> list[str]:
        """The damaged samples found so far, each as text with shard, offset and key."""
        return list(self._damage.found.values())

    @property
    def positions(self) -> int:
        """The number of positions of an epoch on this rank."""
        return len(self._order) // self.world if self.world > 1 else len(self._order)

    def __len__(self) -> int:
        """The number of batches of an epoch on this rank."""
        return -(-self.images // self.batch)

    @property
    def images(self) -> int:
        """The number of images of an epoch on this rank, without those that drop_last leaves out."""
        return self._images_from(0)

    def _images_from(self, done: int) -> int:
        """Returns the number of images of an epoch on this rank that are left after the first `done` positions."""
        left = self.positions - done
        return left // self.batch * self.batch if self.drop_last else left

    def __iter__(self) -> Iterator[Batch]:
        """Iterates over the batches of the next epoch; after `load_state_dict`, over the rest of the saved epoch."""
        return GuardedBatches(self._guard, self._go_on())

    def _go_on(self) -> Iterator[Batch]:
        yield from self._batches(*self._next)

    def _left(self, position: int) -> int:
        return self._images_from(position // self.world)

    def epoch(self, epoch: int = 0, position: int = 0) -> Iterator[Batch]:
        """Iterates over the batches of a given epoch, beginning at a position.

        position: how many positions of the epoch are already done, by all ranks together.

        A loader yields one epoch at a time: beginning another one ends it. Raises UserError if the position is no
        multiple of the number of ranks, if the loader is closed, and when a batch is taken from an epoch that has ended
        in this way.
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
            seen = [torch.from_dlpack(view.as_tensor()) for view in self._pipeline.outputs()]
            images = seen[0] if self.views == 1 else torch.cat(seen)
            if self._behind:
                images = self._augmented(images)
            elif self.channels_last:
                images = images.permute(0, 3, 1, 2)
            self._pipeline.schedule_run()
            ids = self._ids.popleft()
            images = images if self._hook is None else self._hooked(images, epoch, done)
            labels = torch.from_numpy(np.tile(self._index.label[ids].astype(np.int64), self.views))
            done += len(ids)
            self._at = epoch, done * self.world
            yield Batch(images, labels.to(self.device, non_blocking=True), np.tile(ids, self.views))
            if self._epochs != number:
                raise UserError(
                    f"epoch {epoch} is over, as this loader began another one or was closed: make a second loader for "
                    "two epochs at once"
                )
        self._at = self._next
        self._damage.report()

    def _augmented(self, images: torch.Tensor) -> torch.Tensor:
        """Applies the plan's augmentations to a batch on a GPU, uint8 [n, T, T, 3], and normalizes it."""
        from fastlt.kernels.augment import augment

        return augment(images, self._slots.popleft(), self._normalize[:6], self.dtype, self.channels_last)

    def _hooked(self, images: torch.Tensor, epoch: int, done: int) -> torch.Tensor:
        """Applies the image hook to a batch. done: the number of positions of this rank before the batch."""
        assert self._hook is not None
        places = (done + np.arange(len(images) // self.views)) * self.world + self.rank
        keys = [
            (self._seed, epoch, place) for view in range(self.views) for place in self._drawn_at(places, view).tolist()
        ]
        given = [self._hook(image, key) for image, key in zip(images, keys, strict=True)]
        for one in given:
            if _form(one) != (wanted := _form(images[0])):
                raise UserError(
                    f"protocol.image_hook={self._augment.image_hook} gives {_form(one)} for {wanted}: "
                    "it must give an image of the same kind and size"
                )
        changed = torch.stack(given)
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
        """Refuses copy, deepcopy and pickle, which all call this method."""
        raise UserError(
            "a loader has threads of its own and cannot be copied or pickled: make another one of the same arguments, "
            "and give its load_state_dict what state_dict() of this one returns"
        )

    def _abandon(self) -> None:
        """Ends an unfinished epoch and resets the pipeline for the next one."""
        self._columns = iter(())
        while not self._pipeline.empty():
            self._pipeline.outputs()
            self._pipeline.schedule_run()
        self._ids.clear()
        self._slots.clear()
        self._pipeline.reset()

    def _next_columns(self) -> tuple:
        columns = next(self._columns)
        self._alive.append(columns)
        return columns

    def _plan(self, epoch: int, done: int) -> Iterator[tuple]:
        order = ids_of_epoch(self._order, epoch, f"order={type(self._order).__name__}")
        for extreme in (int(order.min()), int(order.max())) if len(order) else ():
            if not 0 <= extreme < len(self._index):
                images = counted(len(self._index), "image")
                raise UserError(f"order gives the sample id {extreme}, but the {self._split} split has {images}")
        ahead = max(1, PLAN_AHEAD // self.batch) * self.batch
        end = done + self._images_from(done)
        for first in range(done, end, ahead):
            places = np.arange(first, min(first + ahead, end), dtype=np.int64) * self.world + self.rank
            plans = self._draw(order[places], places, epoch)
            for begin in range(0, len(places), self.batch):
                part = slice(begin, begin + self.batch)
                batch = [plan[part] for plan in plans]
                ids = self._damage.replaced(batch[0].ids)
                if ids is not batch[0].ids:
                    batch = self._draw(ids, places[part], epoch)
                self._ids.append(ids)
                if self._behind:
                    self._slots.append(np.concatenate([view.slots for view in batch]))
                images = self._stored_images(ids)
                height, width = self._index.height[ids], self._index.width[ids]
                inside = not self._behind
                yield columns(batch, images, height, width, self._stored, self._normalize, inside)

    def _draw(self, ids: np.ndarray, places: np.ndarray, epoch: int) -> list[Plan]:
        """Returns the plan of each view of the images at some positions of the epoch."""
        height, width = self._index.height[ids], self._index.width[ids]
        given = height, width, self._augment, self._seed, epoch
        return [draw_plan(ids, self._drawn_at(places, view), *given) for view in range(self.views)]

    def _drawn_at(self, places: np.ndarray, view: int) -> np.ndarray:
        """Returns the positions by which a view of the images is drawn, each of which is taken once in an epoch."""
        return places * self.views + view

    def _stored_images(self, ids: np.ndarray) -> list[np.ndarray] | np.ndarray:
        if self._together:
            return self._dataset.pixels_together(self._split, ids)
        return self._dataset.stored(self._split, ids)

    def close(self) -> None:
        """Frees the threads and memory of the pipeline. The loader cannot be used afterwards."""
        if self._pipeline is None or self._guard.forked:  # a forked child must not end the parent's threads
            return
        with self._guard:
            self._epochs += 1
            self._abandon()
            self._pipeline = None  # its threads must end before the memory they read is freed
            self._alive.clear()
            self._damage.close()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _described(dataset: Dataset, split: str, order: Order, seed: int, augment: Augment) -> dict[str, Any]:
    """Returns everything that determines the image at each position, as {name: plain value}."""
    named = {"order": order.described(), "augment": asdict(augment)}
    for name in ("augment", "augment_options"):  # left out if empty, because states of former versions do not have them
        if not named["augment"][name]:
            del named["augment"][name]
    parts = {f"{part}.{name}": value for part, values in named.items() for name, value in values.items()}
    return {"dataset": dataset.about["digest"], "split": split, "seed": seed, **parts}


def _form(image: Any) -> str:
    """Returns what an image hook takes or gives, such as `float32 [3, 224, 224]`, for comparisons and messages."""
    if not isinstance(image, torch.Tensor):
        return f"a {type(image).__name__}"
    return f"{str(image.dtype).removeprefix('torch.')} {list(image.shape)}"


def _check_padded(dataset: Dataset, split: str, augment: Augment) -> None:
    """Raises UserError if an image of the split is too small for crops of the padded image."""
    index = dataset.split(split)
    sides = np.minimum(index.height, index.width)
    smallest = int(sides.argmin())
    if (most := int(sides[smallest]) + 2 * augment.pad) < augment.image_size:
        raise UserError(
            f"image_size={augment.image_size}: image {dataset.key(split, smallest)} of the {split} split has "
            f"{index.height[smallest]} x {index.width[smallest]} pixels; with pad={augment.pad} on every side, crops "
            f"of up to {most} pixels fit it: choose a smaller image_size, or crop=resized"
        )


def _small_and_alike(index: SplitIndex) -> bool:
    """Returns whether all images have the same size and at most SMALL bytes."""
    height, width = index.height, index.width
    return len(index) > 0 and bool(
        (height == height[0]).all() and (width == width[0]).all() and 3 * int(height[0]) * int(width[0]) <= SMALL
    )
