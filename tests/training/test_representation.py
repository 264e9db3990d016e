"""Stage 1: learning rates, what a recipe adds, checkpoints; on a model small enough for a test."""

import copy
import json
import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fastlt.core.batches import Batch
from fastlt.core.checkpoint import before, load_checkpoint, save_checkpoint
from fastlt.core.errors import UserError
from fastlt.core.identity import Identity
from fastlt.core.log import Progress
from fastlt.core.ranks import Ranks
from fastlt.core.schedule import Schedule
from fastlt.longtail.losses import LOSSES, classifier_of
from fastlt.models.backbones import Model, build_model, freeze_before
from fastlt.training.compute import ComputeConfig
from fastlt.training.recipe import Recipe
from fastlt.training.representation import CheckpointPolicy, Representation, train_representation
from fastlt.training.trainer import Stage, Trainer

SETTINGS = Identity({"backbone": "tiny", "seed": 0})
COUNTS = (200, 40, 12, 3)


def tiny() -> nn.Sequential:
    """Without BatchNorm: what a part of a batch gives does not depend on the other part."""
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.GroupNorm(2, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def narrow() -> nn.Module:
    """BatchNorm of one value for each image and channel."""
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(8), nn.Flatten())


class Noise:
    """Batches that are a function of (epoch, position)."""

    device = torch.device("cpu")

    def __init__(self, images: int = 48, batch: int = 8):
        self.images, self.batch = images, batch

    def __len__(self) -> int:
        return self.images // self.batch

    def epoch(self, epoch: int = 0, position: int = 0) -> Iterator[Batch]:
        rng = np.random.default_rng(epoch)
        images = torch.from_numpy(rng.standard_normal((self.images, 3, 8, 8), np.float32))
        labels = torch.from_numpy(rng.integers(0, 4, self.images))
        for begin in range(position, self.images, self.batch):
            rows = slice(begin, begin + self.batch)
            yield Batch(images[rows], labels[rows], np.arange(self.images)[rows])


def fit(recipe: Recipe, train: Noise | None = None, val: Noise | None = None, accumulate: int = 1) -> Trainer:
    model = build_model(f"{__name__}:tiny", 4, 0, 8, classifier_of(recipe.loss))
    compute, counts = ComputeConfig(accumulate=accumulate), np.array(COUNTS)
    schedule = Schedule(3, 0.1, 0.9, 1e-4)
    return Trainer(model, schedule, recipe, train or Noise(), val, compute=compute, class_counts=counts)


def trained(recipe: Recipe, folder: Path, *given: Any, **named: Any) -> Representation:
    return train_representation(SETTINGS, fit(recipe, *given, **named), folder)


def loss(recipe: Recipe, model: nn.Module, images: Tensor, labels: Tensor, key: tuple[int, ...]) -> Tensor:
    counts = torch.tensor(COUNTS)
    return recipe.batch_loss(
        model, images, labels, key, recipe.make_criterion(0.0, counts), recipe.batch_function(counts)
    )[0]


def difference(a: nn.Module, b: nn.Module) -> float:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return max(float((one - other).abs().max()) for one, other in pairs)


def test_learning_rate_by_the_epoch_is_the_authors() -> None:
    schedule = Schedule(10, 0.2, 0.9, 0, stepped="epoch")
    rates = [schedule.rate(step, 7) for step in range(70)]
    assert rates == pytest.approx([0.1 * (1 + math.cos(math.pi * (step // 7 + 1) / 10)) for step in range(70)])
    assert rates[0] < 0.2 and rates[63:] == [0.0] * 7


def test_learning_rate_by_the_batch_goes_from_top_to_nearly_0_behind_its_warm_up() -> None:
    schedule = Schedule(10, 0.2, 0.9, 0, warmup_epochs=1)
    rates = [schedule.rate(step, 5) for step in range(50)]
    assert rates[:5] == pytest.approx([0.04, 0.08, 0.12, 0.16, 0.2])
    assert rates[5] == 0.2 and 0 < rates[-1] < 0.001
    assert all(a >= b for a, b in pairwise(rates[4:]))


@pytest.mark.parametrize("stepped", ["batch", "epoch"])
def test_kinds_of_warm_up(stepped: str) -> None:
    def rates(warmup: str) -> list[float]:
        given = {"stepped": stepped, "warmup_epochs": 4, "warmup": warmup, "warmup_from": 0.25}
        schedule = Schedule(40, 0.2, 0.9, 0, **given)
        return [schedule.rate(step, 3) for step in range(13)]

    shares = [(step // 3 + 1) / 4 if stepped == "epoch" else (step + 1) / 12 for step in range(12)]
    linear, cosine, constant = (rates(kind) for kind in ("linear", "cosine", "constant"))
    assert linear[:12] == pytest.approx([0.05 + 0.15 * share for share in shares])
    assert cosine[:12] == pytest.approx([0.05 + 0.15 * math.sin(math.pi / 2 * share) ** 2 for share in shares])
    assert constant[:12] == pytest.approx([0.05] * 12)
    assert linear[12] == cosine[12] == constant[12] > 0.19


def test_learning_rate_of_ldam_drw() -> None:
    """Its function adjust_learning_rate, on epochs that count from 1."""
    schedule = Schedule(200, 0.1, 0.9, 0, stepped="epoch", warmup_epochs=5, milestones=(160, 180), factor=0.01)
    theirs = []
    for epoch in range(1, 201):
        theirs.append(0.1 * epoch / 5 if epoch <= 5 else 1e-5 if epoch > 180 else 1e-3 if epoch > 160 else 0.1)
    assert [schedule.rate(3 * epoch + 2, 3) for epoch in range(200)] == pytest.approx(theirs, rel=1e-12)


def test_learning_rate_of_bagoftricks() -> None:
    """Its warm-up rises from a third, and it steps before each epoch: epoch 1 runs with a count of 1."""
    schedule = Schedule(
        200,
        0.1,
        0.9,
        0,
        stepped="epoch",
        warmup_epochs=5,
        warmup_from=1 / 3,
        milestones=(159, 179),
        factor=0.01,
        nesterov=True,
    )
    theirs = []
    for count in range(1, 201):
        warm = 1 / 3 * (1 - count / 5) + count / 5 if count < 5 else 1
        theirs.append(0.1 * warm * 0.01 ** bisect_right([160, 180], count))
    assert theirs[158:160] == pytest.approx([0.1, 0.001])  # it falls for epoch 160, one before LDAM-DRW's
    assert [schedule.rate(3 * epoch, 3) for epoch in range(200)] == pytest.approx(theirs, rel=1e-12)


def test_gradients_are_clipped_as_pytorch_does() -> None:
    ours = fit(Recipe(clip_norm=0.05), Noise(images=8))
    theirs = copy.deepcopy(ours.model).train()
    (batch,) = Noise(images=8).epoch()
    nn.functional.cross_entropy(theirs(batch.images), batch.labels).backward()
    assert torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.05) > 0.05
    torch.optim.SGD(theirs.parameters(), ours.schedule.rate(0, 1), weight_decay=1e-4).step()
    with Progress("test", 1) as progress:
        ours.finish_epoch(progress, lambda _: None)
    assert difference(ours.model, theirs) < 1e-7


def test_a_cosine_may_end_above_0() -> None:
    by_batch = Schedule(4, 0.2, 0.9, 0, last_lr=0.05)
    assert by_batch.rate(0, 10) == 0.2 and 0.05 < by_batch.rate(39, 10) < 0.051
    by_epoch = Schedule(4, 0.2, 0.9, 0, stepped="epoch", last_lr=0.05)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.2)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4, 0.05)
    for epoch in range(4):
        optimizer.step()
        theirs.step()
        assert by_epoch.rate(epoch * 3, 3) == pytest.approx(theirs.get_last_lr()[0])


def test_steps_are_pytorchs_with_nesterov_and_a_rate_for_the_head() -> None:
    schedule = Schedule(1, 0.1, 0.9, 1e-2, nesterov=True, milestones=(5,))
    model = build_model(f"{__name__}:tiny", 4, 0, 8)
    ours = Trainer(model, schedule, Recipe(), Noise(), None, stage=Stage(rates={"classifier": 0.5}))
    theirs = copy.deepcopy(ours.model).train()
    optimizer = torch.optim.SGD(
        [{"params": theirs.backbone.parameters()}, {"params": theirs.classifier.parameters(), "lr": 0.05}],
        0.1, 0.9, weight_decay=1e-2, nesterov=True,
    )  # fmt: skip
    for batch in Noise().epoch():
        optimizer.zero_grad()
        nn.functional.cross_entropy(theirs(batch.images), batch.labels).backward()
        optimizer.step()
    with Progress("test", 1) as progress:
        ours.finish_epoch(progress, lambda together: None)
    assert difference(ours.model, theirs) < 1e-6


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"warmup_epochs": -1}, "warmup_epochs=-1"),
        ({"warmup": "step"}, "warmup=step is unknown: allowed are linear, cosine, constant; warmup_epochs=0 is none"),
        ({"warmup": "constant", "warmup_epochs": 5}, "warmup=constant needs warmup_from=SHARE"),
        ({"warmup_from": 1.5}, "warmup_from=1.5: it must be in"),
        ({"last_lr": 0.2}, "last_lr=0.2: it must be in"),
        ({"milestones": (8, 4)}, "milestones=.8, 4.: they must be numbers of epochs that rise"),
        ({"milestones": (4,), "last_lr": 0.01}, "leave it or milestones out"),
        ({"factor": 0.0}, "factor=0.0: it must be in"),
        ({"momentum": 0.0, "nesterov": True}, "nesterov=true needs a momentum"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Schedule(**{"epochs": 10, "lr": 0.1, "momentum": 0.9, "weight_decay": 0, **wrong})


def test_a_batch_in_parts_gives_the_same_steps(tmp_path: Path) -> None:
    whole = trained(Recipe(), tmp_path / "whole", Noise(batch=8))
    parts = trained(Recipe(), tmp_path / "parts", Noise(batch=4), accumulate=2)
    assert difference(whole.model, parts.model) < 1e-5
    assert whole.images == parts.images == 3 * 48


def test_batches_that_fill_no_step_are_left_out(tmp_path: Path) -> None:
    assert trained(Recipe(), tmp_path, Noise(batch=8), accumulate=4).images == 3 * 32
    with pytest.raises(UserError, match="accumulate=7: an epoch has only 6 batches"):
        fit(Recipe(), accumulate=7)


def test_averaged_weights_are_those_of_the_formula(tmp_path: Path) -> None:
    by_hand = fit(Recipe())
    average = copy.deepcopy(by_hand.model)
    step = by_hand._step

    def note(parts: list[Batch]) -> None:
        step(parts)
        with torch.no_grad():
            for mine, theirs in zip(average.parameters(), by_hand.model.parameters(), strict=True):
                mine.copy_(0.9 * mine + 0.1 * theirs)

    by_hand._step = note  # type: ignore[method-assign]
    with Progress("test", 1) as progress:
        for _ in range(3):
            by_hand.finish_epoch(progress, lambda together: None)
    result = trained(Recipe(ema=0.9), tmp_path)
    assert difference(result.model, average) < 1e-6
    assert difference(result.model, by_hand.model) > 1e-4


def test_label_smoothing_and_mixup_are_pytorchs_loss_on_mixed_targets() -> None:
    torch.manual_seed(0)
    model, images, labels = nn.Flatten(), torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    smooth = loss(Recipe(label_smoothing=0.1), model, images, labels, (0,))
    target = torch.full((6, 5), 0.02).scatter_add_(1, labels[:, None], torch.full((6, 1), 0.9))
    torch.testing.assert_close(smooth, -(target * images.log_softmax(1)).sum(1).mean())
    mixed = loss(Recipe(batch_hook="mixup", batch_hook_options={"alpha": 1.0}), model, images, labels, (1, 2))
    rng = np.random.default_rng((1, 2))
    share, other = rng.beta(1, 1), torch.from_numpy(rng.permutation(6))
    both = share * nn.functional.one_hot(labels, 5) + (1 - share) * nn.functional.one_hot(labels[other], 5)
    blended = share * images + (1 - share) * images[other]
    torch.testing.assert_close(
        mixed.double(), -(both * blended.log_softmax(1)).sum(1).mean().double(), rtol=1e-6, atol=0
    )
    assert mixed == loss(Recipe(batch_hook="mixup", batch_hook_options={"alpha": 1.0}), model, images, labels, (1, 2))
    assert mixed != loss(Recipe(batch_hook="mixup", batch_hook_options={"alpha": 1.0}), model, images, labels, (1, 3))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_torchs_to_the_last_bit(smoothing: float) -> None:
    logits, labels = torch.randn(37, 11, generator=torch.Generator().manual_seed(0)), torch.arange(37) % 11
    ours = loss(Recipe(label_smoothing=smoothing), nn.Identity(), logits.bfloat16(), labels, (0,))
    theirs = nn.functional.cross_entropy(logits.bfloat16().float(), labels, label_smoothing=smoothing)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "cross_entropy"])
def test_another_loss_is_the_mean_over_the_batch_of_mixed_labels(name: str) -> None:
    logits, labels = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 0, 1])
    recipe = Recipe(batch_hook="mixup", batch_hook_options={"alpha": 0.5}, loss=name)
    mixed = loss(recipe, nn.Identity(), logits, labels, (4,))
    rng = np.random.default_rng((4,))
    share, other = rng.beta(0.5, 0.5), torch.from_numpy(rng.permutation(6))
    each = LOSSES[name](torch.tensor(COUNTS), 0.0)
    blended = share * logits + (1 - share) * logits[other]
    by_hand = sum(
        share * each(blended[i], labels[i]) + (1 - share) * each(blended[i], labels[other[i]]) for i in range(6)
    )
    torch.testing.assert_close(mixed, by_hand / 6)


def test_shares_of_labels_may_differ_between_images() -> None:
    logits, labels = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 0, 1])
    options = {"alpha": 1.0, "remix_kappa": 3.0}
    for name in ("cross_entropy", "focal"):
        recipe = Recipe(batch_hook="mixup", batch_hook_options=options, loss=name)
        found = loss(recipe, nn.Identity(), logits, labels, (4,))
        mixed, parts = recipe.batch_function(torch.tensor(COUNTS))(logits, labels, (4,))
        assert isinstance(parts, list) and len(torch.as_tensor(parts[0][0]).unique()) == 2
        each = LOSSES[name](torch.tensor(COUNTS), 0.0)
        torch.testing.assert_close(found, sum((share * each(mixed, part)).mean() for share, part in parts))


class Twice(Noise):
    """Two views of every image: the same twice."""

    def epoch(self, epoch: int = 0, position: int = 0) -> Iterator[Batch]:
        for images, labels, ids in super().epoch(epoch, position):
            yield Batch(torch.cat([images, images]), torch.cat([labels, labels]), np.tile(ids, 2))


def test_views_of_an_image_count_as_one_image(tmp_path: Path) -> None:
    plain, twice = (trained(Recipe(), tmp_path / type(noise).__name__, noise) for noise in (Noise(), Twice()))
    assert difference(plain.model, twice.model) < 1e-5 and plain.images == twice.images == 3 * 48
    rows = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("Noise", "Twice")]
    assert [json.loads(row)["train_accuracy"] for row in rows[0]] == pytest.approx(
        [json.loads(row)["train_accuracy"] for row in rows[1]]
    )
    whole, resumed = fit(Recipe(), Twice()), fit(Recipe(), Twice())
    state = run_through(whole, (1, 2))
    assert state is not None and state["position"] == 16
    resumed.resume(state)
    run_through(resumed)
    assert difference(whole.model, resumed.model) == 0


def pulled(counts: Tensor, progress: float) -> Any:
    """An own loss on features."""
    return lambda logits, labels, features: (
        nn.functional.cross_entropy(logits, labels, reduction="none") + (features.pow(2).sum(1))
    )


pulled.on_features = True  # type: ignore[attr-defined]


def test_a_loss_may_take_features() -> None:
    recipe, (batch,) = Recipe(loss=f"{__name__}:pulled"), Noise(images=8).epoch()
    model = fit(recipe).model
    features = model.backbone(batch.images)
    expected = nn.functional.cross_entropy(model.classifier(features), batch.labels) + features.pow(2).sum(1).mean()
    torch.testing.assert_close(loss(recipe, model, batch.images, batch.labels, (0,)), expected)


def run_through(fit: Trainer, stop: tuple[int, int] | None = None) -> dict[str, Any] | None:
    """Trains to the end; the state at an (epoch, step) on the way, as it would be saved."""
    seen = None

    def between(together: bool) -> None:
        nonlocal seen
        if (fit.epoch, fit.step) == stop:
            seen = copy.deepcopy(fit.state())

    with Progress("test", 1) as progress:
        while fit.epoch < fit.schedule.epochs:
            fit.finish_epoch(progress, between)
    return seen


@pytest.mark.parametrize("stop", [(0, 2), (2, 3)])
def test_a_loss_that_changes_with_the_epochs_goes_on_to_the_same_bits(stop: tuple[int, int]) -> None:
    """(2, 3) lies in the epoch where LDAM's weights have set in."""
    recipe = Recipe(batch_hook="mixup", ema=0.9, loss="ldam_drw", loss_options={"drw_from": 2 / 3})
    whole, resumed = fit(recipe), fit(recipe)
    state = run_through(whole, stop)
    assert state is not None and (state["epoch"], state["step"], state["classifier"]) == (*stop, "cosine")
    resumed.resume(state)
    run_through(resumed)
    assert difference(whole.model, resumed.model) == 0
    assert whole.average is not None and resumed.average is not None
    assert difference(whole.average.model, resumed.average.model) == 0


def test_deferred_weights_begin_with_their_epoch() -> None:
    def after(epochs: int, drw_from: float) -> Model:
        recipe = Recipe(loss="ldam_drw", loss_options={"drw_from": drw_from})
        on_its_way = fit(recipe)
        with Progress("test", 1) as progress:
            for _ in range(epochs):
                on_its_way.finish_epoch(progress, lambda together: None)
        return on_its_way.model

    assert difference(after(2, 2 / 3), after(2, 1.0)) == 0
    assert difference(after(3, 2 / 3), after(3, 1.0)) > 1e-5


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_trains_and_leaves_a_checkpoint_that_says_its_classifier(name: str, tmp_path: Path) -> None:
    result = trained(Recipe(loss=name), tmp_path)
    assert difference(result.model.backbone, fit(Recipe()).model.backbone) > 1e-4
    state = load_checkpoint(tmp_path / "checkpoint.pt", SETTINGS)
    assert state is not None and state["classifier"] == classifier_of(name)
    assert ("classifier.bias" in state["model"]) == (classifier_of(name) == "linear")
    assert all(value.isfinite().all() for value in state["model"].values())


def test_frozen_layers_keep_weights_and_statistics(tmp_path: Path) -> None:
    model = build_model("resnet10", 4, 0)
    start = copy.deepcopy(model)
    freeze_before(model, "layer4")
    schedule = Schedule(1, 0.1, 0.9, 1e-4)
    train_representation(SETTINGS, Trainer(model, schedule, Recipe(), Noise(16, 8), None), tmp_path)
    for name, child in model.backbone.named_children():
        if not list(child.state_dict()):
            continue
        moved = difference(child, getattr(start.backbone, name))
        assert (moved > 0) == (name == "layer4"), name
    assert difference(model.classifier, start.classifier) > 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"label_smoothing": 1.0}, "label_smoothing=1.0"),
        ({"clip_norm": -1.0}, "clip_norm=-1.0: it must be 0"),
        ({"batch_hook": "mixup", "batch_hook_options": {"alpha": -1.0}}, "batch_hook_options.alpha=-1.0"),
        ({"ema": 1.0}, "ema=1.0"),
        ({"loss": "foo"}, "protocol.loss=foo is unknown: allowed are cross_entropy, focal"),
        (
            {"loss": "focal", "loss_options": {"tau": 1.0}},
            "protocol.loss_options.tau=1.0 is unknown to loss=focal: allowed are gamma",
        ),
        (
            {"loss": "focal", "loss_options": {"gamma": -1.0}},
            "protocol.loss_options.gamma=-1.0: it must be 0 or more",
        ),
        ({"loss_options": {"smoothing": 0.1}}, "cross_entropy takes protocol.label_smoothing in its place"),
        (
            {"loss": "focal", "label_smoothing": 0.1},
            "label_smoothing=0.1 belongs to protocol.loss=cross_entropy, not to focal",
        ),
    ],
)
def test_wrong_recipes_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Recipe(**wrong)


def test_wrong_keeping_and_schedule_are_refused() -> None:
    with pytest.raises(UserError, match="accumulate=0"):
        ComputeConfig(accumulate=0)
    with pytest.raises(UserError, match="compile=fast is unknown: allowed are off, default"):
        ComputeConfig(compile="fast")
    with pytest.raises(UserError, match="compile=max-autotune replays CUDA graphs, which overwrite the gradients"):
        ComputeConfig(compile="max-autotune", accumulate=2)
    with pytest.raises(UserError, match="save_epochs=0"):
        CheckpointPolicy(save_epochs=0)
    with pytest.raises(UserError, match="save_minutes=-1"):
        CheckpointPolicy(save_minutes=-1)
    with pytest.raises(UserError, match="stepped=day is unknown: allowed are batch, epoch"):
        Schedule(1, 0.1, 0.9, 0, stepped="day")


def test_a_loss_that_is_not_finite_ends_the_training_and_keeps_what_was_saved(tmp_path: Path) -> None:
    class Spoilt(Noise):
        def epoch(self, epoch: int = 0, position: int = 0) -> Iterator[Batch]:
            for batch in super().epoch(epoch, position):
                yield batch._replace(images=batch.images * torch.nan) if epoch == 1 else batch

    with pytest.raises(UserError, match=r"the loss is nan in epoch 2, step 6: lower protocol.lr=0.1"):
        trained(Recipe(), tmp_path, Spoilt())
    state = load_checkpoint(tmp_path / "checkpoint.pt", SETTINGS)
    assert state is not None and state["epoch"] == 1
    assert all(value.isfinite().all() for value in state["model"].values())


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint({"settings": {}, "key": SETTINGS.key, "model": {}, "epoch": 1}, path, keep=True)

    def full(state: dict, file: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"checkpoint.pt cannot be written \(No space left on device\): make room"):
        save_checkpoint({"epoch": 2}, path, keep=True)
    assert [each.name for each in tmp_path.iterdir()] == ["checkpoint.pt"]
    state = load_checkpoint(path, SETTINGS)
    assert state is not None and state["epoch"] == 1


@pytest.mark.parametrize("flipped", [True, False])
def test_the_checkpoint_before_stands_in_for_a_damaged_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flipped: bool
) -> None:
    path = tmp_path / "checkpoint.pt"
    weight = torch.arange(64.0)
    for epoch in (1, 2):
        state = {"settings": {}, "key": SETTINGS.key, "model": {"weight": weight}, "epoch": epoch}
        save_checkpoint(state, path, keep=True)
    data = bytearray(path.read_bytes())
    data[data.index(weight.numpy().tobytes()) + 41] ^= 1  # torch.load takes such a file, with another weight
    path.write_bytes(data if flipped else data[:200])
    state = load_checkpoint(path, SETTINGS)
    assert state is not None and state["epoch"] == 1
    assert torch.equal(state["model"]["weight"], weight)
    assert f"going on from {before(path)}" in capsys.readouterr().err
    before(path).write_bytes(data)
    with pytest.raises(
        UserError, match=rf"{before(path)} is damaged.*: delete it to train anew, or choose another run"
    ):
        load_checkpoint(path, SETTINGS)
    assert "going on" not in capsys.readouterr().err
    before(path).unlink()
    with pytest.raises(UserError, match=rf"{path} is damaged.*: delete it to train anew, or choose another run=DIR"):
        load_checkpoint(path, SETTINGS)


def test_the_checkpoint_before_stands_in_for_one_that_a_kill_between_two_renames_left_out(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint({"settings": {}, "key": SETTINGS.key, "model": {}, "epoch": 1}, before(path))
    state = load_checkpoint(path, SETTINGS)
    assert state is not None and state["epoch"] == 1


@pytest.mark.parametrize("newest", ["whole", "damaged", "missing"])
def test_a_finished_training_is_in_one_checkpoint_whatever_a_kill_left(newest: str, tmp_path: Path) -> None:
    trained(Recipe(), tmp_path)
    path = tmp_path / "checkpoint.pt"
    whole = path.read_bytes()
    before(path).write_bytes(whole)
    if newest == "missing":
        path.unlink()
    elif newest == "damaged":
        path.write_bytes(whole[:200])
    trained(Recipe(), tmp_path)
    assert path.read_bytes() == whole
    assert not before(path).exists()


def test_metrics_tell_what_was_known_of_the_images_as_they_were_trained_on(tmp_path: Path) -> None:
    trainer, right = fit(Recipe(), accumulate=2), 0
    forward = trainer.model.forward

    def counted(images: Tensor) -> Tensor:
        nonlocal right
        logits = forward(images)
        for begin in range(0, 48, 8):
            batch = next(iter(Noise().epoch(trainer.epoch, begin)))
            if torch.equal(batch.images, images):
                right += int((logits.argmax(1) == batch.labels).sum())
        return logits

    trainer.model.forward = counted  # type: ignore[method-assign]
    train_representation(SETTINGS, trainer, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert 0 < right < 3 * 48
    assert sum(row["train_accuracy"] for row in rows) == pytest.approx(100 * right / 48)
    trained(Recipe(batch_hook="mixup", batch_hook_options={"alpha": 0.2}), tmp_path / "mixed")
    assert "train_accuracy" not in (tmp_path / "mixed" / "metrics.jsonl").read_text()


def test_what_was_counted_goes_on_on_another_number_of_ranks() -> None:
    @dataclass(frozen=True)
    class Alike(Ranks):  # every rank has what this one has
        def sum(self, values: Tensor) -> Tensor:
            return values.mul_(self.world)

    trainer, other = fit(Recipe()), fit(Recipe())
    batches = iter(trainer.train.epoch(0))
    trainer.criterion = trainer.recipe.make_criterion(0.0, trainer.counts)
    trainer._step([next(batches)])
    right, losses = trainer.right.item(), trainer.losses.item()
    trainer.ranks = Alike(0, 2)
    state = trainer.state()
    assert (state["right"].item(), state["losses"].item()) == (2 * right, pytest.approx(losses))
    other.resume(state)
    assert (other.right.item(), other.losses.item()) == (2 * right, pytest.approx(losses))
    other.ranks = Alike(1, 2)  # its part is counted on rank 0
    other.resume(state)
    assert other.right.item() == 0


def test_metrics_hold_the_groups_on_val(tmp_path: Path) -> None:
    groups = np.array([0, 0, 2, 2], np.int8)  # no class is medium
    trainer = fit(Recipe(), val=Noise())
    trainer.class_groups = groups
    model = train_representation(SETTINGS, trainer, tmp_path, CheckpointPolicy(save_epochs=3)).model
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    best = max(rows, key=lambda row: (row["val_accuracy"], -row["epoch"]))
    assert {name for name in best if name.startswith("val")} == {"val_accuracy", "val_many", "val_few"}
    batches = list(Noise().epoch())
    labels = torch.cat([batch.labels for batch in batches])
    with torch.no_grad():
        right = torch.cat([model.eval()(batch.images).argmax(1) for batch in batches]) == labels
    for name, members in (("val_many", (0, 1)), ("val_few", (2, 3))):
        each = [float(right[labels == c].float().mean()) for c in members]
        assert best[name] == pytest.approx(100 * np.mean(each))
    assert best["val_accuracy"] == pytest.approx(100 * float(right.float().mean()))


def test_best_epoch_on_val_is_kept(tmp_path: Path) -> None:
    result = trained(Recipe(), tmp_path, val=Noise())
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    best = max(rows, key=lambda row: (row["val_accuracy"], -row["epoch"]))
    assert (result.epoch, result.chosen) == (best["epoch"], "best epoch on val")
    assert isinstance(result.model, Model)


class Counted(nn.Sequential):
    """Counts its training steps in a state that is no tensor."""

    steps = 0

    def forward(self, x: Tensor) -> Tensor:
        self.steps += self.training
        return super().forward(x)

    def get_extra_state(self) -> dict[str, int]:
        return {"steps": self.steps}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.steps = state["steps"]


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_network_may_have_further_state_than_tensors(ema: float, tmp_path: Path) -> None:
    model = build_model(f"{__name__}:tiny", 4, 0, 8)
    model.backbone = Counted(*tiny())
    how: Any = Schedule(3, 0.1, 0.9, 1e-4), Recipe(ema=ema), Noise(), Noise()
    result = train_representation(SETTINGS, Trainer(model, *how), tmp_path)
    assert result.model.backbone.steps == 6 * result.epoch  # type: ignore[union-attr]


def test_one_image_at_once_is_too_few_for_batch_norm(tmp_path: Path) -> None:
    for batch, accumulate in ((1, 1), (1, 4)):
        model = build_model(f"{__name__}:narrow", 4, 0, 8)
        compute = ComputeConfig(accumulate=accumulate)
        with pytest.raises(UserError) as told:
            train_representation(
                SETTINGS,
                Trainer(model, Schedule(1, 0.1, 0.9, 0), Recipe(), Noise(8, batch), None, compute=compute),
                tmp_path / str(accumulate),
            )
        assert str(told.value) == (
            "BatchNorm has a single value of a channel to average over, as 1 image is seen at once: raise "
            f"protocol.batch, or lower accumulate={accumulate}"
        )
