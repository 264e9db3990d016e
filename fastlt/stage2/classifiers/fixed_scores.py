"""Precomputes the scores of the joint classifier, for classifiers that do not change its weights."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from fastlt.stage2.classifiers.base import Features

ROWS = 8192  # features whose scores are computed at once


def fixed_scores(
    features: Features, weight: Tensor, bias: Tensor | None
) -> tuple[Features, Callable[[Tensor], Tensor]]:
    """Returns rows to train on, and a function from some of these rows to their scores W x + b.

    features: x [N, D]. weight: W [C, D]. bias: b [C] or None.

    If there are at most as many classes as dimensions, the rows are the scores, float32 [N, C], so that one matrix
    product serves for all epochs. With more classes (iNaturalist has 8142, and features of 2048 dimensions) the rows
    are the features, as scores would take more memory.
    """
    if weight.shape[0] > weight.shape[1]:
        return features, lambda x: functional.linear(x, weight, bias)
    scores = torch.empty(len(features), len(weight), device=weight.device)
    for rows, out in zip(features.x.split(ROWS), scores.split(ROWS), strict=True):
        out.copy_(functional.linear(rows.float(), weight, bias))
    return Features(scores, features.labels), lambda z: z
