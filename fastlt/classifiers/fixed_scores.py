"""Scores of the joint classifier as rows to learn from, for classifiers that leave its weights as they are."""

import torch

from fastlt.classifiers.base import Features

ROWS = 8192  # features multiplied at once


def joint_scores(features: Features, weight: torch.Tensor, bias: torch.Tensor | None) -> Features:
    """W x + b of every row, float32 [N, C]: one matrix product takes the place of one for every batch."""
    scores = torch.empty(len(features), len(weight), device=weight.device)
    for rows, out in zip(features.x.split(ROWS), scores.split(ROWS), strict=True):
        if bias is None:
            torch.mm(rows.float(), weight.T, out=out)
        else:
            torch.addmm(bias, rows.float(), weight.T, out=out)
    return Features(scores, features.labels)
