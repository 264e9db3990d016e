"""Heads: the joint classifier of stage 1 on the features of a backbone, linear, by cosine, or a fixed frame."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastlt.core.errors import UserError

HEAD_STARTS = ("uniform", "kaiming_normal")


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """The joint classifier of stage 1.

    Every field is also a key protocol.NAME of the command line.
    """

    # linear: W x + b; cosine: of the angles between features and weights; etf: cosine with fixed weights, a simplex
    # equiangular tight frame; auto: cosine for a loss on cosines such as ldam, else linear.
    head: str = "auto"
    head_scale: float = 16.0  # factor on cosines before the loss; losses on cosines, such as ldam, have their own
    head_start: str = "uniform"  # initial weights of a linear head: uniform (PyTorch's default), kaiming_normal
    head_lr: float | None = None  # learning rate of the joint classifier; default: lr

    def __post_init__(self) -> None:
        if self.head not in ("auto", *JOINT):
            raise UserError(f"head={self.head} is unknown: allowed are auto, {', '.join(JOINT)}")
        if not 0 < self.head_scale < float("inf"):
            raise UserError(f"head_scale={self.head_scale}: it must be greater than 0")
        if self.head_start not in HEAD_STARTS:
            raise UserError(f"head_start={self.head_start} is unknown: allowed are {', '.join(HEAD_STARTS)}")
        if self.head_lr is not None and not 0 < self.head_lr < float("inf"):
            raise UserError(f"head_lr={self.head_lr}: it must be greater than 0")


class CosineClassifier(nn.Module):
    """A classifier whose logits are cosines in [-1, 1]: cos(x, w_c) for the weight vector w_c of each class.

    It has the attributes of nn.Linear: weight [C, D], bias (None), in_features, out_features. The weights are
    initialized as random vectors of norm 1; their norms do not influence the logits.
    """

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = nn.Parameter(_unit(torch.randn(out_features, in_features)))
        self.bias = None

    def forward(self, x: Tensor) -> Tensor:
        """Returns cosines, float32 [..., C], of features [..., D].

        They are float32 under autocast as well, because losses multiply cosines by a large scale, and so their errors.
        """
        with torch.autocast(x.device.type, enabled=False):
            return functional.linear(_unit(x.float()), _unit(self.weight))


_SHORT = 1e-6  # a vector of at most this norm is treated as zero


def _unit(x: Tensor) -> Tensor:
    """Returns vectors [..., D] scaled to norm 1. A zero vector stays zero, with gradient 0 instead of infinity."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return torch.where(length > _SHORT, x / length.clamp_min(_SHORT), 0.0)


class EtfClassifier(CosineClassifier):
    """A cosine classifier whose weights are fixed: a simplex equiangular tight frame (Yang et al. 2022).

    The C weight vectors have norm 1 and a cosine of -1 / (C - 1) with each other, the smallest that C vectors can all
    have. They are drawn in a random orientation and never trained.

    Raises UserError if there are fewer than C - 1 features, as there is no such frame then.
    """

    def __init__(self, in_features: int, out_features: int):
        super().__init__(in_features, out_features)
        self.weight = nn.Parameter(equiangular_frame(out_features, in_features), requires_grad=False)


def equiangular_frame(classes: int, length: int) -> Tensor:
    """Returns a random simplex equiangular tight frame of C vectors, float32 [C, D]. classes: C. length: D.

    It is sqrt(C / (C - 1)) V U^T with orthonormal columns: V [C, C - 1] is orthogonal to the vector of ones, and U
    [D, C - 1] is random.

    >>> frame = equiangular_frame(3, 2)
    >>> (frame @ frame.T).round(decimals=4)
    tensor([[ 1.0000, -0.5000, -0.5000],
            [-0.5000,  1.0000, -0.5000],
            [-0.5000, -0.5000,  1.0000]])
    """
    if length < classes - 1:
        raise UserError(
            f"protocol.head=etf: {classes} classes need at least {classes - 1} features, the backbone has {length}: "
            "take another backbone, or protocol.head=cosine"
        )
    if classes < 2:
        raise UserError("protocol.head=etf: one class has no frame, take protocol.head=linear")
    centred = torch.eye(classes, dtype=torch.float64) - 1 / classes
    across = torch.linalg.qr(centred[:, : classes - 1]).Q
    turned = torch.linalg.qr(torch.randn(length, classes - 1, dtype=torch.float64)).Q
    return ((classes / (classes - 1)) ** 0.5 * across @ turned.T).float()


# Kinds of joint classifier: functions from (features D, classes C) to a module.
JOINT: dict[str, Callable[[int, int], nn.Linear | CosineClassifier]] = {
    "linear": nn.Linear,
    "cosine": CosineClassifier,
    "etf": EtfClassifier,
}
