"""The training loop: steps, evaluation after each epoch, and the state from which any step can be resumed."""

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from fastlt.core.batches import Batch, Batches
from fastlt.core.errors import UserError
from fastlt.core.groups import GROUPS
from fastlt.core.log import Progress
from fastlt.core.ranks import ALONE, Ranks
from fastlt.core.schedule import Schedule
from fastlt.core.words import counted
from fastlt.models.backbones import Model, layer_depths
from fastlt.training.averages import make_average, renew_statistics
from fastlt.training.compute import PRECISIONS, ComputeConfig
from fastlt.training.optimizers import factors_of, make_optimizer
from fastlt.training.recipe import Recipe

READ_EVERY = 20  # steps between two reads of the loss; a read synchronizes with the device and with the other ranks


@dataclass(frozen=True)
class Stage:
    """What differs between stage 1, whose values are the defaults, and trainings of stage 2 on images.

    name: shown in the progress line.
    lr_key, batch_key: the keys by which the user sets learning rate and batch size, for error messages.
    rates: factors on the learning rate by the name of a child module of the model, such as {"backbone": 0.1}; a child
        that is not named has factor 1.
    weights: returns the state dict that is kept of a finished model.
    chosen_on: the name of the split on which the best epoch is chosen, if there is one.
    """

    name: str = "stage 1"
    lr_key: str = "protocol.lr"
    rates: Mapping[str, float] = field(default_factory=dict)
    weights: Callable[[Model], dict[str, Any]] = Model.state_dict
    chosen_on: str = "val"
    batch_key: str = "protocol.batch"


STAGE_1 = Stage()
FP32 = ComputeConfig()


class Trainer:
    """Trains a model, one epoch at a time.

    model: lies on the device of the loaders. Parameters with requires_grad=False are not changed.
    train: this rank's share of full batches. val: this rank's share of the validation images, or None.
    seed: of batch hooks and of random layers such as dropout.
    stage: what differs from stage 1, if anything.
    class_counts: training images of each class, int64 [C]; only plain cross_entropy, without DRW and ReMix, needs none.
    class_groups: groups of the classes, int8 [C], 0 many, 1 medium, 2 few; with them, val accuracy is logged by group.

    `epoch` counts the complete epochs; `step`, and `position` in images of all ranks, count within the next one.

    Raises UserError if an epoch has too few batches to accumulate, for an optimizer that cannot be made, and without
    class counts that are needed.
    """

    def __init__(
        self,
        model: Model,
        schedule: Schedule,
        recipe: Recipe,
        train: Batches,
        val: Batches | None,
        seed: int = 0,
        compute: ComputeConfig = FP32,
        ranks: Ranks = ALONE,
        stage: Stage = STAGE_1,
        class_counts: np.ndarray | None = None,
        class_groups: np.ndarray | None = None,
    ):
        self.model, self.schedule, self.recipe, self.train, self.val = model, schedule, recipe, train, val
        assert compute.precision in PRECISIONS, "auto is settled before"
        self.seed, self.bf16, self.ranks, self.stage = seed, compute.precision == "bf16", ranks, stage
        self.compute, self.class_groups = compute, class_groups
        plain = recipe.loss == "cross_entropy" and recipe.drw.weights == "none"
        if class_counts is None and not (plain and recipe.batch_hook_options.get("remix_kappa") is None):
            raise UserError(
                "class_counts=None: losses other than cross_entropy, protocol.drw and ReMix need the number of "
                "training images of each class"
            )
        self.counts = torch.as_tensor(() if class_counts is None else class_counts, device=train.device)
        self.steps = len(train) // compute.accumulate
        if not self.steps:
            raise UserError(
                f"accumulate={compute.accumulate}: an epoch has only {counted(len(train), 'batch')} to accumulate"
            )
        self.batch = train.images // len(train) * compute.accumulate * ranks.world  # images of a step
        groups: dict[float, list[torch.nn.Parameter]] = {}
        depths = layer_depths(model.backbone) if recipe.layer_decay < 1 else {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                part, _, inner = name.partition(".")
                depth = depths[inner] if part == "backbone" and depths else 0
                factor = stage.rates.get(part, 1.0) * recipe.layer_decay**depth
                groups.setdefault(factor, []).append(parameter)
        self.optimizer = make_optimizer(
            recipe.optimizer,
            [{"params": parameters} for parameters in groups.values()],
            schedule,
            recipe.optimizer_options,
            train.device.type == "cuda",
        )
        self.factors = factors_of(self.optimizer, groups)
        self.average = make_average(model, recipe.ema, recipe.swa)
        self.hook = recipe.batch_function(self.counts)
        self.replica = self._replica()
        self.epoch = self.step = self.position = 0
        self.best, self.kept = -1.0, {}
        self.accuracy: float | None = None  # on val, after the last epoch that this process has finished
        self.losses = torch.zeros((), device=train.device)
        # Images of this epoch that were classified correctly in training.
        self.right = torch.zeros((), dtype=torch.float64, device=train.device)

    def _replica(self) -> torch.nn.Module:
        """Returns the model as a step calls it: within DistributedDataParallel for several ranks, and compiled."""
        replica: torch.nn.Module = self.model
        self.parallel: DistributedDataParallel | None = None
        if self.ranks.world > 1:
            ids = [self.train.device.index] if self.train.device.type == "cuda" else None
            replica = self.parallel = DistributedDataParallel(replica, device_ids=ids, gradient_as_bucket_view=True)
        if self.compute.compile != "off":
            replica = torch.compile(replica, mode=self.compute.compile)  # type: ignore[assignment]
        return replica

    @property
    def images(self) -> int:
        """Returns the number of images that all ranks together have trained on."""
        return self.batch * self.steps * self.epoch + self.position

    def finish_epoch(self, progress: Progress, between: Callable[[bool], None]) -> dict[str, Any]:
        """Trains the rest of an epoch, evaluates the model on val, and returns the metrics of the epoch.

        progress: is advanced by the images of each step.
        between: called after every step but the last, with one argument: whether the ranks have just synchronized,
            which all of them do at the same steps.

        Raises UserError if the loss is not finite.
        """
        start, first = time.monotonic(), self.step
        self.criterion = self.recipe.make_criterion(self.epoch / self.schedule.epochs, self.counts)
        self.model.train()
        batches = iter(self.train.epoch(self.epoch, self.position))
        while self.step < self.steps:
            self._step([next(batches) for _ in range(self.compute.accumulate)])
            look = self.step % READ_EVERY == 0 or self.step == self.steps
            progress.advance(self.batch, self._look() if look else "")
            if self.step < self.steps:
                between(look)
        for _ in batches:  # too few for one more step; but a loader reports damaged images when it is exhausted
            pass
        seconds = max(time.monotonic() - start, 1e-9)
        row = {
            "epoch": self.epoch + 1,
            "loss": self._mean_loss(),
            "lr": self.schedule.rate((self.epoch + 1) * self.steps - 1, self.steps),
            "images_per_second": self.batch * (self.steps - first) / seconds,
        }
        if self.recipe.batch_hook == "none":  # with a batch hook an image may have two labels
            row["train_accuracy"] = 100.0 * self.ranks.sum(self.right).item() / (self.batch * self.steps)
        if self.average is not None:
            self.average.after_epoch(self.model, (self.epoch + 1) / self.schedule.epochs)
            if self.epoch + 1 == self.schedule.epochs:
                self.average.finish(self._renew_statistics)
        if self.val is not None:
            row |= self._evaluate(self.val)
        self.epoch, self.step, self.position = self.epoch + 1, 0, 0
        self.losses.zero_()
        self.right.zero_()
        return row

    def _step(self, parts: list[Batch]) -> None:
        number = self.epoch * self.steps + self.step
        for group, factor in zip(self.optimizer.param_groups, self.factors, strict=True):
            group["lr"] = factor * self.schedule.rate(number, self.steps)
        self.optimizer.zero_grad()
        if self.recipe.sam.rho:
            with torch.random.fork_rng(self._cuda):  # so that the second pass draws the same random numbers, of dropout
                self._backward(parts, number)
            with self.recipe.sam.nearby(self.model):
                self.optimizer.zero_grad()
                self._backward(parts, number, again=True)
        else:
            self._backward(parts, number)
        if self.recipe.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        if self.average is not None:
            self.average.after_step(self.model)
        self.step += 1

    def _backward(self, parts: list[Batch], number: int, again: bool = False) -> None:
        """Adds the gradients of a step. number: of the step. again: these images have been counted already."""
        for place, batch in enumerate(parts):
            if self.parallel is not None:
                self.parallel.require_backward_grad_sync = place == len(parts) - 1
            seen = _full(batch.images, self.bf16)
            key = self.seed, number, place, self.ranks.rank
            given = seen, batch.labels, key, self.criterion, self.hook
            with torch.autocast(self.train.device.type, torch.bfloat16, enabled=self.bf16):
                try:
                    loss, logits = self.recipe.batch_loss(self.replica, *given)
                except ValueError as error:
                    if "more than 1 value per channel" not in str(error):
                        raise
                    raise UserError(
                        f"BatchNorm has a single value of a channel to average over, as {len(batch.ids)} image is seen "
                        f"at once: raise {self.stage.batch_key}, or lower accumulate={self.compute.accumulate}"
                    ) from error
            (loss / len(parts)).backward()
            if not again:
                images = self.batch // len(parts)  # of all ranks; a batch has one row for each of their views
                self.losses += loss.detach() / len(parts)
                right = (logits.detach().argmax(1) == batch.labels).sum()
                self.right += right / (len(batch.ids) * self.ranks.world // images)
                self.position += images

    @property
    def _cuda(self) -> list[torch.device]:
        return [self.train.device] if self.train.device.type == "cuda" else []

    def _renew_statistics(self, model: Model) -> None:
        """Recomputes the statistics of BatchNorm on the augmented training images of the last epoch."""

        def forward(model: Model, batch: Batch) -> None:
            with torch.autocast(self.train.device.type, torch.bfloat16, enabled=self.bf16):
                model(_full(batch.images, self.bf16))

        renew_statistics(model, self.train.epoch(self.epoch), forward, self.ranks)

    def _look(self) -> str:
        mean = self._mean_loss()
        if not math.isfinite(mean):
            raise UserError(
                f"the loss is {mean} in epoch {self.epoch + 1}, step {self.step}: lower "
                f"{self.stage.lr_key}={self.schedule.lr}"
            )
        val = "" if self.accuracy is None else f", val {self.accuracy:.1f} %"
        return f"epoch {self.epoch + 1}/{self.schedule.epochs}, loss {mean:.3f}{val}"

    def _mean_loss(self) -> float:
        return self.ranks.sum(self.losses.clone()).item() / self.step / self.ranks.world

    def _evaluate(self, val: Batches) -> dict[str, float]:
        evaluated = self._evaluated
        right, total = evaluate_classes(evaluated, val, self.bf16, self.ranks)
        accuracy = self.accuracy = 100.0 * float(right.sum() / total.sum())
        if accuracy > self.best:
            weights = self.stage.weights(evaluated)
            kept = {
                name: value.detach().cpu().clone() if isinstance(value, torch.Tensor) else copy.deepcopy(value)
                for name, value in weights.items()  # a module of the user's own may have further state
            }
            self.best, self.kept = accuracy, {"epoch": self.epoch + 1, "model": kept}
        row = {"val_accuracy": accuracy}
        for number, name in enumerate(() if self.class_groups is None else GROUPS):
            inside = (self.class_groups == number) & (total > 0)
            if inside.any():
                row[f"val_{name}"] = 100.0 * float((right[inside] / total[inside]).mean())
        return row

    @property
    def _evaluated(self) -> Model:
        return self.model if self.average is None else self.average.evaluated(self.model)

    def state(self) -> dict[str, Any]:
        """Returns the state of the training, as tensors and plain values, for a checkpoint.

        Of a finished training it holds only what a representation needs: the weights to keep, and facts about them.
        """
        finished, model = self.epoch == self.schedule.epochs, self._evaluated
        averaged = self.average.epochs if self.average is not None else 0
        state = {
            "finished": finished,
            "epoch": self.epoch,
            "classifier": self.model.classifier_kind,
            "model": self.stage.weights(model) if finished else model.state_dict(),
            "chosen_on_val": self.val is not None and not averaged,
            "averaged_epochs": averaged,
            "images": self.images,
        }
        if finished:
            return state if averaged else state | self.kept
        state |= {
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            "kept": self.kept,
            "step": self.step,
            "position": self.position,
            # Of all ranks, as their number may be another one when the training goes on.
            "losses": self.ranks.sum(self.losses.clone()) / self.ranks.world,
            "right": self.ranks.sum(self.right.clone()),
            "random": torch.get_rng_state(),
        }
        if self.average is not None:
            state |= {"trained": self.model.state_dict(), "average": self.average.model.state_dict()}
        if self.train.device.type == "cuda":
            state["random_cuda"] = torch.cuda.get_rng_state(self.train.device)
        return state

    def resume(self, state: dict[str, Any]) -> None:
        """Continues from a state that `state` returned in an unfinished training of the same settings."""
        self.model.load_state_dict(state.get("trained", state["model"]))
        if self.average is not None:
            self.average.model.load_state_dict(state["average"])
            self.average.epochs = state["averaged_epochs"]
        for kept, group in zip(state["optimizer"]["param_groups"], self.optimizer.param_groups, strict=True):
            if "fused" in group:  # the checkpoint may have been written on another kind of device
                kept["fused"] = group["fused"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.step, self.position = state["epoch"], state["step"], state["position"]
        self.best, self.kept = state["best"], state["kept"]
        self.losses.copy_(state["losses"])
        self.right.copy_(state["right"] if self.ranks.main else torch.zeros(()))

    def seed_random(self, state: dict[str, Any] | None) -> None:
        """Sets torch's random generators, which layers such as dropout use.

        state: the checkpoint to continue from; None seeds the generators. A checkpoint holds only the generators of
        rank 0, so the other ranks are seeded anew when a training is resumed.
        """
        if state is None or not self.ranks.main:
            torch.manual_seed(self.seed + self.ranks.rank)
            return
        torch.set_rng_state(state["random"])
        if self.train.device.type == "cuda" and "random_cuda" in state:
            torch.cuda.set_rng_state(state["random_cuda"], self.train.device)


@torch.no_grad()
def evaluate_classes(
    model: Model, loader: Batches, bf16: bool = False, ranks: Ranks = ALONE
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the number of correctly classified samples and of all samples of each class, two int64 [C].

    loader: this rank's share of the samples; the counts are summed over the ranks. bf16: compute under autocast.
    """
    model.eval()
    counts = torch.zeros(2, len(model.classifier.weight), dtype=torch.int64, device=loader.device)
    for batch in loader.epoch():
        with torch.autocast(loader.device.type, torch.bfloat16, enabled=bf16):
            logits = model(_full(batch.images, bf16))
        counts[0].index_add_(0, batch.labels, (logits.argmax(1) == batch.labels).long())
        counts[1].index_add_(0, batch.labels, torch.ones_like(batch.labels))
    right, total = ranks.sum(counts).cpu().numpy()
    return right, total


def _full(images: torch.Tensor, bf16: bool) -> torch.Tensor:
    """Returns images in channels-last order, as float32 unless bf16.

    A loader on a GPU yields float16. Autocast converts that as needed; without autocast, the weights are float32.
    """
    return (images if bf16 else images.float()).to(memory_format=torch.channels_last)
