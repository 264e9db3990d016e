"""Accuracy by group and class, top-5, calibration."""

import numpy as np
import pytest
import torch

from fastlt.classifiers.base import Features
from fastlt.evaluate import calibration_error, evaluate
from fastlt.groups import class_groups, group_sizes


def test_groups_have_the_papers_bounds() -> None:
    counts = np.array([1280, 101, 100, 20, 19, 1])
    assert class_groups(counts).tolist() == [0, 0, 1, 1, 2, 2]
    assert group_sizes(counts) == {"many": 2, "medium": 2, "few": 2}


def test_accuracies_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastlt.evaluate.ROWS", 4)  # several pieces
    #                     class 0: 3 of 4     class 1: 1 of 2  class 2: 0 of 1; class 3 is not tested
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 2])
    predicted = torch.tensor([0, 0, 0, 1, 1, 2, 0])
    scores = torch.nn.functional.one_hot(predicted, 4).float() * 10
    features = Features(scores, labels)
    result = evaluate(lambda x: x, features, np.array([0, 1, 1, 2], np.int8))
    assert result["many"] == 75
    assert result["medium"] == pytest.approx((50 + 0) / 2)
    assert result["few"] is None
    assert result["all"] == pytest.approx(100 * 4 / 7)
    assert result["mean_class"] == pytest.approx((75 + 50 + 0) / 3)
    assert result["per_class"] == [75, 50, 0, None]
    assert result["top5"] == 100


def test_top5_counts_the_five_best() -> None:
    scores = torch.arange(10.0).repeat(10, 1)
    result = evaluate(lambda x: x, Features(scores, torch.arange(10)), np.zeros(10, np.int8))
    assert (result["all"], result["top5"]) == (10, 50)


def test_calibration_error_by_hand() -> None:
    # Bin of 0.9: accuracy 0.5, gap 0.4; bin of 0.6: accuracy 1, gap 0.4.
    assert calibration_error(np.array([0.9, 0.9, 0.6, 0.6]), np.array([1, 0, 1, 1])) == pytest.approx(40)
    assert calibration_error(np.array([1.0, 1.0]), np.array([1, 1])) == 0
    confidence = np.random.default_rng(0).uniform(0.2, 1, 200_000)
    correct = np.random.default_rng(1).uniform(size=200_000) < confidence
    assert calibration_error(confidence, correct) < 0.6
