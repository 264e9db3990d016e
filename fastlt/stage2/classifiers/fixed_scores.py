"""Scores of the joint classifier as rows to learn from, for classifiers that leave its weights as they are."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from fastlt.stage2.classifiers.base import Features

ROWS = 8192  # features multiplied at once


def fixed_scores(
    features: Features, weight: Tensor, bias: Tensor | None
) -> tuple[Features, Callable[[Tensor], Tensor]]:
    """Rows to train on, and the function from some of these rows to their scores W x + b.

    The rows are the scores, float32 [N, C], where these take no more memory than features: one matrix product then
    serves for all epochs. With more classes than dimensions (iNaturalist: 8142 against 2048) they are the features.
    """
    if weight.shape[0] > weight.shape[1]:
        return features, lambda x: functional.linear(x, weight, bias)
    scores = torch.empty(len(features), len(weight), device=weight.device)
    for rows, out in zip(features.x.split(ROWS), scores.split(ROWS), strict=True):
        out.copy_(functional.linear(rows.float(), weight, bias))
    return Features(scores, features.labels), lambda z: z
