"""Sharpness-aware minimization (SAM): steps by the gradient at weights nearby where the loss is larger."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from fastlt.core.errors import UserError

LARGEST = 100.0  # rho and eta
SMALLEST = 1e-12  # norm that is divided by: with smaller gradients, squares vanish in float32 and leave no true norm


@dataclass(frozen=True, kw_only=True)
class SAM:
    """Sharpness-aware minimization (Foret et al. 2021), around any optimizer.

    A step takes the gradient at w + e instead of w, where e = rho g / ||g|| and g is the gradient at w, over all
    parameters that are trained and over the whole batch of all ranks. So a step costs two passes over its batch. The
    second pass sees the same images, the same random numbers, and does not change the running statistics of BatchNorm.
    Gradients are clipped after the second pass.

    rho: the length of e, up to 100; 0 is off. 0.05 is usual, Saddle-LongTail (Rangwani et al. 2022) takes 0.8 on
        CIFAR-LT. Where ||g|| is below 1e-12, e is shorter.
    adaptive: take e = rho T^2 g / ||T g|| with T = |w| + eta for each weight, and T = 1 for biases (ASAM, Kwon et al.
        2021, where rho is 0.5 or more).
    eta: of the adaptive form.
    """

    rho: float = 0.0
    adaptive: bool = False
    eta: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.rho <= LARGEST:
            raise UserError(f"rho={self.rho}: it must be from 0 (off) to {LARGEST:g}, such as 0.05")
        if not 0 <= self.eta <= LARGEST:
            raise UserError(f"eta={self.eta}: it must be from 0 to {LARGEST:g}, such as 0.01")
        if self.adaptive and not self.rho:
            raise UserError("adaptive=true needs protocol.sam.rho=NUMBER, such as 0.5")

    @contextmanager
    def nearby(self, model: nn.Module) -> Iterator[None]:
        """Context manager in which the weights are w + e and running statistics do not change; then w is restored.

        model: its gradients are those at w; they are overwritten. w is restored to the last bit.
        """
        named = [
            (name, value.detach(), value.grad) for name, value in model.named_parameters() if value.grad is not None
        ]
        weights = [value for _, value, _ in named]
        before = [value.clone() for value in weights]
        torch._foreach_add_(weights, self._steps(named))
        layers = [one for one in model.modules() if isinstance(one, _NormBase) and one.training]
        layers = [one for one in layers if one.track_running_stats]
        for layer in layers:
            layer.track_running_stats = False  # in training mode it then normalizes by the batch and stores nothing
        try:
            yield
        finally:
            for layer in layers:
                layer.track_running_stats = True
            torch._foreach_copy_(weights, before)

    def _steps(self, named: list[tuple[str, Tensor, Tensor]]) -> list[Tensor]:
        """Returns e of every parameter, in the memory of its gradient. named: (name, weights, gradient) of each."""
        steps = [gradient for _, _, gradient in named]
        scaled = [
            (gradient, weight.abs() + self.eta)
            for name, weight, gradient in named
            if self.adaptive and not name.endswith("bias")
        ]
        for step, factor in scaled:
            step.mul_(factor)
        norm = torch.nn.utils.get_total_norm(steps)  # stays on the device, so that the CPU need not wait
        torch._foreach_mul_(steps, self.rho / norm.clamp_min(SMALLEST))
        for step, factor in scaled:
            step.mul_(factor)
        return steps
