"""SWA: the mean over late epochs, the statistics of BatchNorm on it, what is evaluated and kept, going on."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_representation import SETTINGS, Noise, difference, run_through
from torch import Tensor, nn

from fastlt.core.errors import UserError
from fastlt.core.log import Progress
from fastlt.core.schedule import Schedule
from fastlt.models.backbones import build_model, freeze_before
from fastlt.training.averages import SWA, average_into, renew_statistics
from fastlt.training.recipe import Recipe
from fastlt.training.representation import train_representation
from fastlt.training.trainer import Trainer, evaluate_classes

pytestmark = pytest.mark.usefixtures("one_thread")


def with_norm() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def trainer(after: float, val: Noise | None = None) -> Trainer:
    model, schedule = build_model(f"{__name__}:with_norm", 4, 0, 8), Schedule(4, 0.1, 0.9, 0.0, milestones=(9,))
    return Trainer(model, schedule, Recipe(swa=SWA(after=after)), Noise(), val, class_counts=np.ones(4))


def test_it_is_the_mean_of_late_epochs_with_statistics_of_its_own(tmp_path: Path) -> None:
    by_hand, ends = trainer(1.0), []
    with Progress("test", 1) as progress:
        for _ in range(4):
            by_hand.finish_epoch(progress, lambda together: None)
            ends.append({name: value.clone() for name, value in by_hand.model.named_parameters()})
    ours = trainer(0.5, val=Noise(batch=16))
    result = train_representation(SETTINGS, ours, tmp_path)
    assert (result.epoch, result.chosen) == (4, "average of the last 2 epochs")
    for name, value in result.model.named_parameters():
        torch.testing.assert_close(value, (ends[2][name] + ends[3][name]) / 2)
    inner: Any = result.model.backbone
    outputs = [batch.images for batch in Noise().epoch(3)]
    with torch.no_grad():
        planes = [inner[0](images).transpose(0, 1).flatten(1) for images in outputs]
    torch.testing.assert_close(inner[1].running_mean, torch.stack([part.mean(1) for part in planes]).mean(0))
    torch.testing.assert_close(inner[1].running_var, torch.stack([part.var(1) for part in planes]).mean(0))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    right, total = evaluate_classes(result.model, Noise(batch=16))
    assert rows[-1]["val_accuracy"] == pytest.approx(100 * right.sum() / total.sum())


@pytest.mark.parametrize("stop", [(1, 2), (3, 4)])
def test_it_goes_on_to_the_same_bits(stop: tuple[int, int]) -> None:
    whole, resumed = trainer(0.5), trainer(0.5)
    state = run_through(whole, stop)
    assert state is not None
    resumed.resume(state)
    run_through(resumed)
    ends = [copy.deepcopy(one.state()) for one in (whole, resumed)]
    assert all(torch.equal(ends[0]["model"][name], value) for name, value in ends[1]["model"].items())
    assert [end["averaged_epochs"] for end in ends] == [2, 2]


def test_the_last_epoch_is_always_averaged() -> None:
    ours = trainer(0.99)
    run_through(ours)
    assert ours.state()["averaged_epochs"] == 1


def test_frozen_layers_keep_their_statistics() -> None:
    model = build_model("resnet10", 4, 0, 32)
    freeze_before(model, "layer4")
    before = copy.deepcopy(model)

    def forward(model: nn.Module, images: Tensor) -> None:
        model(images)

    renew_statistics(model, [torch.randn(2, 3, 32, 32) for _ in range(2)], forward)
    assert difference(*(one.get_submodule("backbone.layer3") for one in (model, before))) == 0
    assert difference(*(one.get_submodule("backbone.layer4") for one in (model, before))) > 0 and not model.training


def test_tied_weights_are_averaged_once() -> None:
    def tied(value: float) -> Any:
        first, second = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
        nn.init.constant_(first.weight, value)
        second.weight = first.weight
        return nn.Sequential(first, second)

    average = tied(0.0)
    average_into(average, tied(1.0), 0.9)
    assert average[1].weight[0].tolist() == pytest.approx([0.1, 0.1])


def test_two_averages_and_wrong_shares_are_refused() -> None:
    with pytest.raises(UserError, match=r"ema=0.9 and protocol.swa.after=0.5 both average weights: leave one out"):
        Recipe(ema=0.9, swa=SWA(after=0.5))
    with pytest.raises(UserError, match="after=2: it must be in"):
        SWA(after=2)
