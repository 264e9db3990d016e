"""Stage 1: a backbone and its joint linear classifier, trained end to end (paper section 3)."""

import hashlib
import json
import math
import os
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from fastlt.backbones import Model, build_model
from fastlt.errors import UserError
from fastlt.log import MetricsFile, Progress, say
from fastlt.pipeline.loader import Loader

SCHEMA = 1
READ_EVERY = 20  # steps between two looks at the loss: a look waits for the device


@dataclass(frozen=True)
class Settings:
    """Everything that determines a representation, besides the machine. `about`: plain values by name."""

    about: dict[str, Any]

    @property
    def key(self) -> str:
        """Hash of the settings; a representation with the same key is reused, never trained again."""
        return hashlib.sha256(json.dumps(self.about, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Schedule:
    """SGD: epochs, top learning rate, momentum, weight decay, epochs of linear warm-up, then cosine to 0, per step."""

    epochs: int
    lr: float
    momentum: float
    weight_decay: float
    warmup_epochs: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise UserError(f"epochs={self.epochs}: it must be at least 1")
        if self.lr <= 0:
            raise UserError(f"lr={self.lr}: it must be greater than 0")

    def rate(self, step: int, steps_per_epoch: int) -> float:
        """Learning rate of a step, counted from 0 over the whole training."""
        # A training cut short keeps a peak: at most a fifth of it is warm-up.
        warmup = min(self.warmup_epochs, self.epochs // 5) * steps_per_epoch
        if step < warmup:
            return self.lr * (step + 1) / warmup
        return cosine(self.lr, step - warmup, self.epochs * steps_per_epoch - warmup)


def cosine(lr: float, step: int, steps: int) -> float:
    """Half a cosine from `lr` at step 0 to 0 at `steps`."""
    return 0.5 * lr * (1 + math.cos(math.pi * step / max(steps, 1)))


@dataclass(frozen=True)
class Representation:
    """A trained model with what is known of its training. epoch: whose weights these are, counted from 1. chosen: how
    that epoch was chosen. seconds: wall time of training and its evaluations. images: seen in training."""

    model: Model
    key: str
    epoch: int
    chosen: str
    seconds: float
    images: int


def train_representation(
    settings: Settings,
    schedule: Schedule,
    backbone: str,
    classes: int,
    seed: int,
    train: Loader,
    val: Loader | None,
    folder: Path,
    precision: str = "fp32",
    overwrite: bool = False,
) -> Representation:
    """Trains, or takes what `folder`/checkpoint.pt holds: a finished representation is reused, one that was cut off
    goes on behind its last complete epoch.

    The weights are those of the best epoch on val (top-1), or of the last epoch where there is no val split. Raises
    UserError if the checkpoint is of other settings (and `overwrite` is not set), or if the loss is not finite.
    """
    path = folder / "checkpoint.pt"
    state = load_checkpoint(path, settings) if path.exists() and not overwrite else None
    model = build_model(backbone, classes, seed).to(train.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if state is not None and state["finished"]:
        say(f"reusing the representation in {path}")
    else:
        state = _fit(model, settings, schedule, train, val, path, state, precision)
    model.load_state_dict(state["model"])
    chosen = "best epoch on val" if state["chosen_on_val"] else "last epoch"
    return Representation(model.eval(), settings.key, state["epoch"], chosen, state["seconds"], state["images"])


def _fit(
    model: Model,
    settings: Settings,
    schedule: Schedule,
    train: Loader,
    val: Loader | None,
    path: Path,
    state: dict[str, Any] | None,
    precision: str,
) -> dict[str, Any]:
    optimizer = torch.optim.SGD(model.parameters(), schedule.lr, schedule.momentum, weight_decay=schedule.weight_decay)
    first, seconds, best, kept = 0, 0.0, -1.0, {}
    if state is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first, seconds, best, kept = state["epoch"], state["seconds"], state["best"], state["kept"]
        say(f"resuming {path} behind epoch {first}")
    path.parent.mkdir(parents=True, exist_ok=True)
    metrics = MetricsFile(path.with_name("metrics.jsonl"), first)
    total = train.images * schedule.epochs
    result: dict[str, Any] = {}
    with Progress("stage 1", total, done=train.images * first) as progress:
        for epoch in range(first, schedule.epochs):
            start = time.monotonic()
            loss = _train_epoch(model, optimizer, schedule, train, epoch, progress, precision)
            lap = time.monotonic() - start
            accuracy = evaluate_top1(model, val, precision) if val is not None else None
            seconds += time.monotonic() - start
            rate = schedule.rate((epoch + 1) * len(train) - 1, len(train))
            row: dict[str, Any] = {
                "epoch": epoch + 1,
                "loss": loss,
                "lr": rate,
                "images_per_second": train.images / lap,
            }
            if accuracy is not None:
                row["val_accuracy"] = accuracy
            metrics.write(**row)
            if accuracy is not None and accuracy > best:
                best, kept = accuracy, {"epoch": epoch + 1, "model": _copy(model)}
            result = {
                "schema": SCHEMA,
                "key": settings.key,
                "settings": settings.about,
                "finished": epoch + 1 == schedule.epochs,
                "epoch": epoch + 1,
                "model": model.state_dict(),
                "chosen_on_val": val is not None,
                "seconds": seconds,
                "images": train.images * (epoch + 1),
            }
            if result["finished"]:
                result |= kept
            else:
                result |= {"optimizer": optimizer.state_dict(), "best": best, "kept": kept}
            save_checkpoint(result, path)
    metrics.close()
    return result


def _train_epoch(
    model: Model,
    optimizer: torch.optim.SGD,
    schedule: Schedule,
    train: Loader,
    epoch: int,
    progress: Progress,
    precision: str,
) -> float:
    """One epoch; the mean loss."""
    model.train()
    losses = torch.zeros((), device=train.device)
    steps = len(train)
    for step, batch in enumerate(train.epoch(epoch)):
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(epoch * steps + step, steps)
        with torch.autocast(train.device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = model(batch.images.to(memory_format=torch.channels_last))
        loss = functional.cross_entropy(logits.float(), batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses += loss.detach()
        note = ""
        if (step + 1) % READ_EVERY == 0 or step + 1 == steps:
            mean = losses.item() / (step + 1)
            if not math.isfinite(mean):
                raise UserError(
                    f"the loss is {mean} in epoch {epoch + 1}, step {step + 1}: lower protocol.lr={schedule.lr}"
                )
            note = f"epoch {epoch + 1}/{schedule.epochs}, loss {mean:.3f}"
        progress.advance(len(batch.ids), note)
    return losses.item() / steps


@torch.no_grad()
def evaluate_top1(model: Model, loader: Loader, precision: str = "fp32") -> float:
    """Top-1 accuracy in percent over all samples of a loader."""
    model.eval()
    correct = torch.zeros((), dtype=torch.int64, device=loader.device)
    for batch in loader.epoch():
        with torch.autocast(loader.device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = model(batch.images.to(memory_format=torch.channels_last))
        correct += (logits.argmax(1) == batch.labels).sum()
    return 100.0 * correct.item() / loader.images


def _copy(model: Model) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Whole or not at all: written beside its place, then renamed."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load_checkpoint(path: Path, settings: Settings) -> dict[str, Any]:
    """A checkpoint of just these settings. Raises UserError, naming the first setting that differs."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        about, key = state["settings"], state["key"]
    except Exception as error:  # damage shows as nearly any error of pickle, zipfile or torch
        reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        raise UserError(
            f"{path} is not a checkpoint of fastlt ({reason}): delete it or choose another run=DIR"
        ) from None
    if key == settings.key:
        return state
    for name in settings.about:
        if about.get(name) != settings.about[name]:
            raise UserError(
                f"{path} holds a representation with {name}={_short(about.get(name))}, asked for is "
                f"{name}={_short(settings.about[name])}: choose another run=DIR, or overwrite=true to train anew"
            )
    raise UserError(
        f"{path} holds a representation of other settings: choose another run=DIR, or overwrite=true to train anew"
    )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 16 else text[:12] + "..."


def hold_out(class_start: np.ndarray, members: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits the samples of every class: (kept for training, held out), int64 ids in class order.

    share: of each class, rounded, but never the last image of a class. class_start, members: as in the index.
    """
    if not 0 <= share < 1:
        raise UserError(f"hold_out={share}: it must be in [0, 1)")
    kept, held = [], []
    for j, (a, b) in enumerate(pairwise(class_start)):
        count = min(round(share * (b - a)), b - a - 1) if share else 0
        order = np.random.default_rng([seed, j]).permutation(members[a:b])
        held.append(np.sort(order[:count]))
        kept.append(np.sort(order[count:]))
    return np.concatenate(kept), np.concatenate(held)
