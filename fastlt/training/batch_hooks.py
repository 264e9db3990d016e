"""Batch hooks: functions that change the images and labels of a batch on the device, between loader and model."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from fastlt.core.checks import within
from fastlt.core.errors import UserError
from fastlt.registry import call_part, check_options, find_part

Labels = Tensor | list[tuple[float | Tensor, Tensor]]  # see make_batch_hook
Hook = Callable[[Tensor, Tensor, tuple[int, ...]], tuple[Tensor, Labels]]


def none(images: Tensor, labels: Tensor, key: tuple[int, ...]) -> tuple[Tensor, Labels]:
    """Returns the batch unchanged."""
    return images, labels


def mixup(
    images: Tensor,
    labels: Tensor,
    key: tuple[int, ...],
    alpha: float = 0.2,
    partner: float | None = None,
    remix_kappa: float | None = None,
    remix_tau: float = 0.5,
    *,
    counts: Tensor | None = None,
) -> tuple[Tensor, Labels]:
    """Mixes each image with another one of the batch: lambda x_i + (1 - lambda) x_j (mixup, Zhang et al. 2018).

    images, labels, key, counts, and what is returned: as in `make_batch_hook`.
    alpha: from 0.001 to 1000; one lambda is drawn from Beta(alpha, alpha) for the whole batch.
    partner: how x_j is drawn, as `power` in `partners`.
    remix_kappa, remix_tau: kappa and tau of `remixed`, which gives labels to rare classes; None mixes labels as images.
    """
    rng = np.random.default_rng(key)
    share = float(rng.beta(alpha, alpha))
    other = partners(labels, rng, partner)
    mixed = share * images + (1 - share) * images[other]
    return mixed, remixed(share, labels, labels[other], counts, remix_kappa, remix_tau)


def cutmix(
    images: Tensor,
    labels: Tensor,
    key: tuple[int, ...],
    alpha: float = 1.0,
    partner: float | None = None,
    remix_kappa: float | None = None,
    remix_tau: float = 0.5,
    *,
    counts: Tensor | None = None,
) -> tuple[Tensor, Labels]:
    """Replaces a box of each image by that of another one of the batch (CutMix, Yun et al. 2019).

    images, labels, key, counts, and what is returned: as in `make_batch_hook`. The shares of the two labels are the
    shares of the area. The box is the same for the whole batch.
    alpha: from 0.001 to 1000. The box has the area 1 - lambda of the image, with lambda from Beta(alpha, alpha). Its
        centre is uniform in the image, so it may be cut off at the edge.
    partner: how the other image is drawn, as `power` in `partners`.
    remix_kappa, remix_tau: as in `mixup`.
    """
    rng = np.random.default_rng(key)
    height, width = images.shape[2:]
    side = np.sqrt(1 - rng.beta(alpha, alpha))
    y, x = rng.integers(height), rng.integers(width)
    tall, wide = int(height * side) // 2, int(width * side) // 2
    rows, columns = slice(max(y - tall, 0), y + tall), slice(max(x - wide, 0), x + wide)
    other = partners(labels, rng, partner)
    mixed = images.clone()
    mixed[:, :, rows, columns] = images[other][:, :, rows, columns]
    share = 1 - mixed[0, 0, rows, columns].numel() / (height * width)
    return mixed, remixed(share, labels, labels[other], counts, remix_kappa, remix_tau)


def remixed(
    share: float, labels: Tensor, others: Tensor, counts: Tensor | None, kappa: float | None, tau: float
) -> list[tuple[float | Tensor, Tensor]]:
    """Returns the labels of mixed images with their shares, by ReMix (Chou et al. 2020, equation 8).

    The label is that of the rarer of the two images alone if its class is at least kappa times as small and its share
    of the image is more than 1 - tau; else the labels have the shares of the images.

    share: lambda, of the first image. labels, others: int64 [N], of the first and the second image.
    counts: training images of each class, int64 [C]. kappa: at least 1, or None: labels always have the shares of the
        images. tau: in [0, 1]. The paper takes kappa = 3 and tau = 0.5.
    """
    if kappa is None:
        return [(share, labels), (1 - share, others)]
    assert counts is not None
    first, second = counts[labels], counts[others]
    shares = torch.full(labels.shape, share, device=labels.device)
    if share < tau:
        shares = torch.where(first >= kappa * second, 0.0, shares)
    if 1 - share < tau:
        shares = torch.where(kappa * first <= second, 1.0, shares)
    return [(shares, labels), (1 - shares, others)]


def partners(labels: Tensor, rng: np.random.Generator, power: float | None) -> Tensor:
    """Draws, for every image of a batch, the index of the image that it is mixed with, int64 [N] on the labels' device.

    labels: class indices, int64 [N].
    power: None permutes the batch, so that every image is a partner once. With a number q from -8 to 8, a class with n
        images in the batch is drawn with a probability proportional to n^q, then one of its images: 0 draws all classes
        equally, as a class-balanced sampler does, 1 all images equally, and -1 rare classes most often.
    """
    count = len(labels)
    if power is None:
        return torch.from_numpy(rng.permutation(count)).to(labels.device, non_blocking=True)
    drawn = torch.from_numpy(rng.random(count)).to(labels.device, non_blocking=True)
    # Computed on the device, so that the CPU need not wait for it.
    alike = (labels[:, None] == labels[None]).sum(1).double()
    ends = (alike ** (power - 1)).cumsum(0)
    return torch.searchsorted(ends, drawn * ends[-1], right=True).clamp_max(count - 1)


BATCH_HOOKS: dict[str, Hook] = {"none": none, "mixup": mixup, "cutmix": cutmix}


def make_batch_hook(name: str, options: Mapping[str, Any], counts: Tensor | None = None) -> Hook:
    """Returns the batch hook that `name` stands for: a function hook(images, labels, key) -> (images, labels).

    name: a key of BATCH_HOOKS, or `package.module:NAME` of your own: a function that takes the options as keyword
        arguments, or a class that is constructed with them and whose instances are called.
    counts: training images of each class, int64 [C] on the device; passed on to a function or class that has a
        keyword-only parameter `counts`. Without them such a class is not made, only its options are checked.

    The hook is called with
        images: [N, 3, H, W] on the device, float32, or half precision under autocast,
        labels: int64 [N] on the device,
        key: a tuple of integers that is unique to the batch within the training. A hook should draw all its random
            numbers from numpy.random.default_rng(key): a resumed training then gives the same results to the last bit.

    It returns images, and labels in one of three forms:
        int64 [N], class indices,
        [(share, labels), ...], several such tensors with their shares of the loss, numbers or float tensors [N], or
        float [N, C], the share of each class in the target, for cross_entropy and for own losses that accept it.

    Raises UserError if there is no such hook or it does not take the options.
    """
    key = "protocol.batch_hook"
    hook = find_part(key, name, BATCH_HOOKS)
    taken = inspect.signature(hook).parameters.get("counts") if callable(hook) else None
    own = None if counts is None else counts.clone()  # a hook may change its counts
    given = {"counts": own} if taken is not None and taken.kind is taken.KEYWORD_ONLY else {}
    check_options(key, name, hook, options, 0 if inspect.isclass(hook) else 3, given)
    if inspect.isclass(hook):
        if given and counts is None:
            return none
        made = call_part(key, name, partial(hook, **given), options)
        if not callable(made):
            raise UserError(f"{key}={name} gives a {type(made).__name__}: it must be something that can be called")
        return cast(Hook, made)
    if hook in (mixup, cutmix):
        _check_mixing(**options)
    return cast(Hook, partial(hook, **options, **given))


def _check_mixing(
    alpha: float = 1.0, partner: float | None = None, remix_kappa: float | None = None, remix_tau: float = 0.5
) -> None:
    key = "protocol.batch_hook_options"
    within(f"{key}.alpha", alpha, 1e-3, 1e3, "such as 0.2")
    within(f"{key}.remix_tau", remix_tau, 0, 1, "such as 0.5")
    if remix_kappa is not None:
        within(f"{key}.remix_kappa", remix_kappa, 1, 1e6, "such as 3, or null for none")
    if partner is not None:
        within(f"{key}.partner", partner, -8, 8, "such as -1, or null for a permutation")
