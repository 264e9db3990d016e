"""mixup's and CutMix's partners and boxes, by their definitions."""

import itertools
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from test_representation import Noise

from fastlt.core.errors import UserError
from fastlt.core.schedule import Schedule
from fastlt.longtail.losses.reweighting import Reweighting
from fastlt.models.backbones import build_model
from fastlt.training.batch_hooks import make_batch_hook, partners
from fastlt.training.recipe import Recipe
from fastlt.training.trainer import Trainer

LABELS = torch.tensor([0] * 24 + [1] * 6 + [2] * 2)


def images() -> torch.Tensor:
    return torch.arange(32.0)[:, None, None, None].expand(32, 3, 10, 12).contiguous()


@pytest.mark.parametrize("power", [-1.0, 0.0, 0.5, 1.0])
def test_partners_come_by_the_law_of_their_class(power: float) -> None:
    rng = np.random.default_rng(0)
    drawn = torch.cat([partners(LABELS, rng, power) for _ in range(400)])
    weights = np.array([24, 6, 2]) ** power
    np.testing.assert_allclose(np.bincount(LABELS[drawn]) / len(drawn), weights / weights.sum(), atol=0.02)
    head = np.bincount(drawn[LABELS[drawn] == 0], minlength=24)
    assert head.min() > 0.5 * head.mean() and head.max() < 1.6 * head.mean()


def test_every_image_is_a_partner_once_by_default() -> None:
    assert sorted(partners(LABELS, np.random.default_rng(1), None).tolist()) == list(range(32))


@pytest.mark.parametrize("options", [{}, {"partner": 0.0}])
def test_cutmix_puts_a_box_of_another_image_into_each(options: dict[str, float]) -> None:
    hook, shares = make_batch_hook("cutmix", options), []
    mixed = images()
    for number in range(300):
        mixed, labels = hook(images(), LABELS, (7, number))
        assert isinstance(labels, list)
        (kept, first), (given, other) = labels
        assert isinstance(kept, float) and isinstance(given, float)
        assert torch.equal(first, LABELS) and kept + given == pytest.approx(1)
        foreign = mixed[:, 0] != images()[:, 0]
        box = foreign.any(dim=0)
        rows, columns = box.any(dim=1).nonzero().ravel(), box.any(dim=0).nonzero().ravel()
        if len(rows):  # one and the same rectangle, whose area is the share of the other label
            inside = mixed[:, :, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            assert inside[0, 0].numel() == box.sum() == round(given * 120)
            assert torch.equal(LABELS[inside[:, 0, 0, 0].long()], other)
            assert (inside == inside[:, :1, :1, :1]).all()
        shares.append(given)
    again = hook(images(), LABELS, (7, 299))
    assert torch.equal(again[0], mixed)
    # Half of the image, less a third of that at the edges and by whole pixels.
    assert 0.22 < np.mean(shares) < 0.34 and np.max(shares) > 0.6


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_remix_gives_labels_to_the_rarer_class(name: str) -> None:
    counts, kappa, tau = torch.tensor([100, 30, 8]), 3.0, 0.6
    plain = make_batch_hook(name, {"alpha": 1.0})
    remix = make_batch_hook(name, {"alpha": 1.0, "remix_kappa": kappa, "remix_tau": tau}, counts)
    changed = 0
    for number in range(40):
        mixed, labels = plain(images(), LABELS, (3, number))
        same, by_remix = remix(images(), LABELS, (3, number))
        assert torch.equal(mixed, same) and isinstance(labels, list) and isinstance(by_remix, list)
        (share, first), (_, second) = labels
        (shares, own), (others, other) = by_remix
        assert isinstance(share, float) and isinstance(shares, torch.Tensor) and isinstance(others, torch.Tensor)
        assert torch.equal(own, first) and torch.equal(other, second)
        for i, (y, z) in enumerate(zip(first.tolist(), second.tolist(), strict=True)):
            ratio, expected = counts[y] / counts[z], share
            if ratio >= kappa and share < tau:
                expected = 0.0
            elif ratio <= 1 / kappa and 1 - share < tau:
                expected = 1.0
            assert shares[i] == pytest.approx(expected) and others[i] == pytest.approx(1 - expected)
            changed += expected != share
    assert changed > 100


def test_wrong_options_are_named() -> None:
    with pytest.raises(UserError, match=r"unknown to protocol.batch_hook=cutmix: allowed are alpha, partner, remix"):
        make_batch_hook("cutmix", {"p": 1})
    with pytest.raises(UserError, match=r"batch_hook_options.counts=1 is unknown to protocol.batch_hook=mixup"):
        make_batch_hook("mixup", {"counts": 1})
    wrong = {
        "alpha": (0, -1.0, math.nan, math.inf, "a", None, [1.0], True),
        "partner": (300, -1000.0, math.nan, -math.inf, "x", [0]),
        "remix_kappa": (0.5, math.nan, math.inf, "x"),
        "remix_tau": (2.0, -0.1, math.nan, "x", None),
    }
    for option, values in wrong.items():
        for value, name in itertools.product(values, ("mixup", "cutmix")):
            told = re.escape(f"protocol.batch_hook_options.{option}={value}: it must be a number from ")
            with pytest.raises(UserError, match=told):
                make_batch_hook(name, {option: value})


@pytest.mark.parametrize(
    "recipe",
    [
        {"loss": "focal"},
        {"drw": Reweighting(weights="inverse_frequency", after=0.0)},
        {"batch_hook": "mixup", "batch_hook_options": {"remix_kappa": 3}},
    ],
)
def test_what_needs_class_counts_says_so_before_it_trains(recipe: dict[str, Any]) -> None:
    model = build_model("resnet32", 4, 0)
    with pytest.raises(UserError, match=r"class_counts=None: losses other than cross_entropy, .* need the number"):
        Trainer(model, Schedule(1, 0.1, 0.9, 0.0), Recipe(**recipe), Noise(images=8), None)
