"""Training on its way: steps and evaluations, and all that must be kept to go on at any of them."""

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
from fastlt.models.backbones import Model
from fastlt.training.optimizers import make_optimizer
from fastlt.training.recipe import Recipe, average_into

READ_EVERY = 20  # steps between two looks at the loss: a look waits for the device, and for the other ranks


@dataclass(frozen=True)
class Stage:
    """What tells other trainings of a model from stage 1.

    name: in the progress line. lr_key: where the user sets the learning rate. rates: factors on it by child of the
    model, 1 where none is given. weights: what of the model is kept when it is finished. chosen_on: what the best epoch
    is chosen on, where it is.
    """

    name: str = "stage 1"
    lr_key: str = "protocol.lr"
    rates: Mapping[str, float] = field(default_factory=dict)
    weights: Callable[[Model], dict[str, Any]] = Model.state_dict
    chosen_on: str = "val"


STAGE_1 = Stage()


class Trainer:
    """One training: where it stands and how it goes on.

    model: on the loaders' device; parameters that need no gradient stay as they are. train: full batches, a rank's
    share; val: its share too, or None. class_groups: int8 [C], 0 many, 1 medium, 2 few, where their accuracies on val
    are wanted. Counters: `epoch` that are complete, `step` and `position` in the next one.
    """

    def __init__(
        self,
        model: Model,
        schedule: Schedule,
        recipe: Recipe,
        train: Batches,
        val: Batches | None,
        seed: int = 0,
        precision: str = "fp32",
        ranks: Ranks = ALONE,
        stage: Stage = STAGE_1,
        class_groups: np.ndarray | None = None,
    ):
        self.model, self.schedule, self.recipe, self.train, self.val = model, schedule, recipe, train, val
        self.seed, self.bf16, self.ranks, self.stage = seed, precision == "bf16", ranks, stage
        self.class_groups = class_groups
        self.steps = len(train) // recipe.accumulate
        if not self.steps:
            raise UserError(f"accumulate={recipe.accumulate}: an epoch has only {len(train)} batches to accumulate")
        self.batch = train.images // len(train) * recipe.accumulate * ranks.world  # images of a step
        groups: dict[float, list[torch.nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                groups.setdefault(stage.rates.get(name.partition(".")[0], 1.0), []).append(parameter)
        self.factors = list(groups)
        self.optimizer = make_optimizer(
            recipe.optimizer,
            [{"params": parameters} for parameters in groups.values()],
            schedule,
            recipe.optimizer_options,
            train.device.type == "cuda",
        )
        self.average = copy.deepcopy(model) if recipe.ema else None
        self.replica = self._replica()
        self.epoch = self.step = self.position = 0
        self.best, self.kept = -1.0, {}
        self.losses = torch.zeros((), device=train.device)
        self.right = torch.zeros((), dtype=torch.float64, device=train.device)  # images of this epoch that it knew

    def _replica(self) -> torch.nn.Module:
        """What is called in a step: the model, its gradients shared by the ranks, compiled if asked for."""
        replica: torch.nn.Module = self.model
        if self.ranks.world > 1:
            ids = [self.train.device.index] if self.train.device.type == "cuda" else None
            replica = DistributedDataParallel(replica, device_ids=ids, gradient_as_bucket_view=True)
        if self.recipe.compile != "off":
            replica = torch.compile(replica, mode=self.recipe.compile)  # type: ignore[assignment]
        return replica

    @property
    def images(self) -> int:
        """Images that all ranks have trained on."""
        return self.batch * self.steps * self.epoch + self.position

    def finish_epoch(self, progress: Progress, between: Callable[[bool], None]) -> dict[str, Any]:
        """The rest of an epoch and its evaluation; what is logged of it.

        between: called after every step but the last, with whether the ranks have just met. Raises UserError if the
        loss is not finite.
        """
        start, first = time.monotonic(), self.step
        self.criterion = self.recipe.make_criterion(self.epoch / self.schedule.epochs, self.train.device)
        self.model.train()
        batches = iter(self.train.epoch(self.epoch, self.position))
        while self.step < self.steps:
            self._step([next(batches) for _ in range(self.recipe.accumulate)])
            look = self.step % READ_EVERY == 0 or self.step == self.steps
            progress.advance(self.batch, self._look() if look else "")
            if self.step < self.steps:
                between(look)
        for _ in batches:  # less than a step's; and a loader says at its end what was damaged
            pass
        seconds = max(time.monotonic() - start, 1e-9)
        row = {
            "epoch": self.epoch + 1,
            "loss": self._mean_loss(),
            "lr": self.schedule.rate((self.epoch + 1) * self.steps - 1, self.steps),
            "images_per_second": self.batch * (self.steps - first) / seconds,
        }
        right = self.ranks.sum(self.right).item()
        if self.recipe.batch_hook == "none" and not math.isnan(right):  # else an image may have two labels
            row["train_accuracy"] = 100.0 * right / (self.batch * self.steps)
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
        for place, batch in enumerate(parts):
            if isinstance(self.replica, DistributedDataParallel):
                self.replica.require_backward_grad_sync = place == len(parts) - 1
            images = _full(batch.images, self.bf16)
            key = self.seed, number, place, self.ranks.rank
            with torch.autocast(self.train.device.type, torch.bfloat16, enabled=self.bf16):
                loss, logits = self.recipe.batch_loss(self.replica, images, batch.labels, key, self.criterion)
            (loss / len(parts)).backward()
            self.losses += loss.detach() / len(parts)
            self.right += (logits.detach().argmax(1) == batch.labels).sum()
            self.position += len(batch.ids) * self.ranks.world
        if self.recipe.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        if self.average is not None:
            average_into(self.average, self.model, self.recipe.ema)
        self.step += 1

    def _look(self) -> str:
        mean = self._mean_loss()
        if not math.isfinite(mean):
            raise UserError(
                f"the loss is {mean} in epoch {self.epoch + 1}, step {self.step}: lower "
                f"{self.stage.lr_key}={self.schedule.lr}"
            )
        return f"epoch {self.epoch + 1}/{self.schedule.epochs}, loss {mean:.3f}"

    def _mean_loss(self) -> float:
        return self.ranks.sum(self.losses.clone()).item() / self.step / self.ranks.world

    def _evaluate(self, val: Batches) -> dict[str, float]:
        evaluated = self.average or self.model
        right, total = evaluate_classes(evaluated, val, self.bf16, self.ranks)
        accuracy = 100.0 * float(right.sum() / total.sum())
        if accuracy > self.best:
            weights = self.stage.weights(evaluated)
            kept = {name: value.detach().cpu().clone() for name, value in weights.items()}
            self.best, self.kept = accuracy, {"epoch": self.epoch + 1, "model": kept}
        row = {"val_accuracy": accuracy}
        for number, name in enumerate(() if self.class_groups is None else GROUPS):
            inside = (self.class_groups == number) & (total > 0)
            if inside.any():
                row[f"val_{name}"] = 100.0 * float((right[inside] / total[inside]).mean())
        return row

    def state(self) -> dict[str, Any]:
        """All of a training; when it is finished, only its weights and whose they are."""
        finished, model = self.epoch == self.schedule.epochs, self.average or self.model
        state = {
            "finished": finished,
            "epoch": self.epoch,
            "classifier": self.model.classifier_kind,
            "model": self.stage.weights(model) if finished else model.state_dict(),
            "chosen_on_val": self.val is not None,
            "images": self.images,
        }
        if finished:
            return state | self.kept
        state |= {
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            "kept": self.kept,
            "step": self.step,
            "position": self.position,
            "losses": self.losses,
            "right": self.right,
            "random": torch.get_rng_state(),
        }
        if self.average is not None:
            state["trained"] = self.model.state_dict()
        if self.train.device.type == "cuda":
            state["random_cuda"] = torch.cuda.get_rng_state(self.train.device)
        return state

    def resume(self, state: dict[str, Any]) -> None:
        """Goes on from a `state`."""
        self.model.load_state_dict(state.get("trained", state["model"]))
        if self.average is not None:
            self.average.load_state_dict(state["model"])
        for kept, group in zip(state["optimizer"]["param_groups"], self.optimizer.param_groups, strict=True):
            if "fused" in group:  # the checkpoint may come from another device
                kept["fused"] = group["fused"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.step, self.position = state["epoch"], state["step"], state["position"]
        self.best, self.kept = state["best"], state["kept"]
        self.losses.copy_(state["losses"])
        self.right.fill_(state.get("right", math.nan))  # a checkpoint within an epoch may be older than this count

    def seed_random(self, state: dict[str, Any] | None) -> None:
        """What is random in a model of one's own, such as dropout, comes from the seed and goes on with a checkpoint.

        Only the first rank's generator is in it: the others begin anew where a training was resumed.
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
    """How many samples of the ranks' loaders are classified right, and how many there are, of each class: int64 [C]."""
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
    """A GPU's loader gives float16, which autocast turns into what it wants; without it the weights are float32."""
    return (images if bf16 else images.float()).to(memory_format=torch.channels_last)
