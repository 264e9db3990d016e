"""SAM: steps by its equation; BatchNorm, parts of a batch, clipping, bf16, and going on to the same bits."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from test_representation import Noise, difference, run_through
from torch import nn

from fastlt.core.errors import UserError
from fastlt.core.log import Progress
from fastlt.core.schedule import Schedule
from fastlt.models.backbones import build_model
from fastlt.training.compute import ComputeConfig
from fastlt.training.recipe import Recipe
from fastlt.training.sam import SAM
from fastlt.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")


def with_norm() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def with_dropout() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def trainer(sam: SAM, train: Noise, backbone: str = f"{__name__}:with_norm", **given: Any) -> Trainer:
    compute = ComputeConfig(accumulate=given.pop("accumulate", 1), precision=given.pop("precision", "fp32"))
    model, recipe = build_model(backbone, 4, 0, 8), Recipe(sam=sam, **given)
    return Trainer(model, Schedule(1, 0.1, 0.9, 1e-2), recipe, train, None, compute=compute, class_counts=np.ones(4))


@pytest.mark.parametrize("gap", [50, 60, 80, 200])
@pytest.mark.parametrize("adaptive", [False, True])
def test_no_step_is_longer_than_rho_however_small_the_gradient(gap: float, adaptive: bool) -> None:
    """The squares of gradients vanish in float32 long before they do."""
    layer = nn.Linear(4, 4, bias=False)
    with torch.no_grad():
        layer.weight.copy_(gap * torch.eye(4))
    nn.functional.cross_entropy(layer(torch.eye(4)), torch.arange(4)).backward()
    before = layer.weight.detach().clone()
    with SAM(rho=0.05, adaptive=adaptive).nearby(layer):
        moved = layer.weight.detach() - before
        size = before.abs() + 0.01 if adaptive else torch.ones_like(before)
        assert (moved / size).norm() <= 0.05 * 1.001
    assert torch.equal(layer.weight, before)


def one_epoch(trainer: Trainer) -> Trainer:
    with Progress("test", 1) as progress:
        trainer.finish_epoch(progress, lambda together: None)
    return trainer


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_step_is_that_of_its_equation(adaptive: bool) -> None:
    sam = SAM(rho=0.7, adaptive=adaptive, eta=0.05)
    ours = trainer(sam, Noise(images=8))
    theirs = copy.deepcopy(ours.model).train()
    (batch,) = Noise(images=8).epoch()
    named = dict(theirs.named_parameters())
    gradients = torch.autograd.grad(
        nn.functional.cross_entropy(theirs(batch.images), batch.labels), list(named.values())
    )
    size = [
        weight.detach().abs() + 0.05 if adaptive and not name.endswith("bias") else torch.ones_like(weight)
        for name, weight in named.items()
    ]
    norm = sum((t * g).pow(2).sum() for t, g in zip(size, gradients, strict=True)) ** 0.5
    near = copy.deepcopy(theirs)
    with torch.no_grad():
        for weight, t, g in zip(near.parameters(), size, gradients, strict=True):
            weight += 0.7 * t * t * g / norm
    nn.functional.cross_entropy(near(batch.images), batch.labels).backward()
    for weight, moved in zip(theirs.parameters(), near.parameters(), strict=True):
        weight.grad = moved.grad
    torch.optim.SGD(theirs.parameters(), ours.schedule.rate(0, 1), weight_decay=1e-2).step()
    one_epoch(ours)
    assert difference(ours.model, theirs) < 1e-6  # the statistics of BatchNorm, too: as of one pass, at w
    plain = one_epoch(trainer(SAM(), Noise(images=8)))
    assert difference(ours.model.get_submodule("backbone.1"), plain.model.get_submodule("backbone.1")) > 1e-4


def test_batch_norm_sees_a_batch_once() -> None:
    ours, plain = (one_epoch(trainer(sam, Noise(images=8))) for sam in (SAM(rho=0.7), SAM()))
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(
            getattr(ours.model.get_submodule("backbone.1"), name),
            getattr(plain.model.get_submodule("backbone.1"), name),
        )
    assert ours.model.get_submodule("backbone.1").track_running_stats
    assert ours.losses == plain.losses  # the loss is that at w


def test_a_batch_in_parts_gives_the_same_steps() -> None:
    def without_norm(batch: int, accumulate: int) -> Trainer:
        backbone = "test_representation:tiny"
        return one_epoch(trainer(SAM(rho=0.5), Noise(batch=batch), backbone, accumulate=accumulate))

    whole, parts = without_norm(8, 1), without_norm(4, 2)
    assert difference(whole.model, parts.model) < 1e-5 and whole.images == parts.images


def test_the_gradient_that_is_followed_is_clipped() -> None:
    ours = trainer(SAM(rho=0.7), Noise(images=8), clip_norm=0.05)
    seen: list[float] = []
    step = ours.optimizer.step
    parameters = list(ours.model.parameters())

    def note() -> None:
        seen.append(
            float(torch.nn.utils.get_total_norm([weight.grad for weight in parameters if weight.grad is not None]))
        )
        step()

    ours.optimizer.step = note  # type: ignore[method-assign, assignment]
    one_epoch(ours)
    assert seen == pytest.approx([0.05], rel=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_tiny_radius_gives_plain_steps_and_both_passes_draw_the_same_dropout(precision: str) -> None:
    backbone = f"{__name__}:with_dropout"
    ends = []
    for sam in (SAM(rho=1e-12), SAM()):
        torch.manual_seed(0)
        ends.append(one_epoch(trainer(sam, Noise(images=16), backbone, precision=precision)).model)
    assert difference(*ends) < 1e-6


def test_it_goes_on_to_the_same_bits() -> None:
    recipe = {"sam": SAM(rho=0.5, adaptive=True), "backbone": f"{__name__}:with_dropout", "batch_hook": "mixup"}
    whole, resumed = (trainer(train=Noise(), **recipe) for _ in range(2))
    torch.manual_seed(0)
    state = run_through(whole, (0, 3))
    assert state is not None
    resumed.resume(state)
    resumed.seed_random(state)
    run_through(resumed)
    assert difference(whole.model, resumed.model) == 0


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"rho": -0.1}, "rho=-0.1: it must be from 0"),
        ({"rho": 0.5, "eta": -1.0}, "eta=-1.0: it must be from 0"),
        ({"adaptive": True}, "adaptive=true needs protocol.sam.rho=NUMBER"),
    ],
)
def test_what_cannot_be_is_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        SAM(**wrong)
