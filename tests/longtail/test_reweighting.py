"""Re-weighting of classes: its weights by their formulas, around any loss, from an epoch on."""

import numpy as np
import pytest
import torch
from torch import Tensor

from fastlt.core.errors import UserError
from fastlt.longtail.losses import LOSSES, make_loss
from fastlt.longtail.losses.reweighting import Reweighting

COUNTS = torch.tensor([500, 120, 33, 7, 1])
LOGITS = torch.randn(30, 5, generator=torch.Generator().manual_seed(0)).tanh()
LABELS = torch.arange(30) % 5
BY_FREQUENCY = Reweighting(weights="inverse_frequency", after=0.8)


def test_weights_are_those_of_their_formulas() -> None:
    n = COUNTS.double().numpy()
    for reweighting, inverse in (
        (BY_FREQUENCY, 1 / n),
        (Reweighting(weights="effective_number", beta=0.99), 0.01 / (1 - 0.99**n)),
    ):
        found = reweighting.of_classes(COUNTS).double().numpy()
        np.testing.assert_allclose(found, inverse / inverse.mean(), rtol=1e-6)
    assert BY_FREQUENCY.of_classes(torch.tensor([8, 0, 2]))[1] == BY_FREQUENCY.of_classes(torch.tensor([8, 2, 2]))[1]


@pytest.mark.parametrize("name", LOSSES)
def test_any_loss_is_weighted_from_an_epoch_on(name: str) -> None:
    each = make_loss(name, COUNTS, 0.9)
    early, late = (BY_FREQUENCY.of_loss(each, COUNTS, progress)(LOGITS, LABELS) for progress in (0.79, 0.8))
    assert torch.equal(early, each(LOGITS, LABELS))
    torch.testing.assert_close(late, BY_FREQUENCY.of_classes(COUNTS)[LABELS] * each(LOGITS, LABELS))


@pytest.mark.parametrize("weighted_mean", [False, True])
def test_losses_that_weight_classes_themselves_are_others_with_weights(weighted_mean: bool) -> None:
    drw = Reweighting(weights="effective_number", after=0.8, beta=0.99, weighted_mean=weighted_mean)
    for name, plain, options in (("ldam_drw", "ldam", {}), ("class_balanced", "cross_entropy", {})):
        own = make_loss(name, COUNTS, 0.8, {**options, "beta": 0.99, "weighted_mean": float(weighted_mean)})
        weighted = drw.of_loss(make_loss(plain, COUNTS, 0.8), COUNTS, 0.8)
        torch.testing.assert_close(own(LOGITS, LABELS), weighted(LOGITS, LABELS))


def test_a_loss_without_values_per_image_is_refused() -> None:
    def mean(logits: Tensor, labels: Tensor) -> Tensor:
        return logits.mean()

    with pytest.raises(UserError, match=r"protocol.drw.weights=inverse_frequency needs a loss with one value"):
        BY_FREQUENCY.of_loss(mean, COUNTS, 0.9)(LOGITS, LABELS)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (
            {"weights": "frequency"},
            "weights=frequency is unknown: allowed are none, effective_number, in",
        ),
        ({"after": 160}, "after=160: it must be in"),
        ({"beta": 1.0}, "beta=1.0: it must be in"),
    ],
)
def test_what_cannot_be_is_refused(wrong: dict, told: str) -> None:
    with pytest.raises(UserError, match=told):
        Reweighting(**wrong)
