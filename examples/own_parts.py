"""Your own sampler, loss, backbone, hooks and classifier, each a few lines, all in one training.

    cd examples
    python own_parts.py data/dots       # writes a small dataset from a Python list
    python -m fastlt.train data=data/dots epochs=2 image_size=16 protocol.batch=16 run=runs/own \
        sampler=own_parts:effective sampler.options.q=-1 backbone=own_parts:network backbone.options.width=16 \
        protocol.loss=own_parts:Poly protocol.loss_options.eps=2 \
        protocol.optimizer=adamw 'protocol.optimizer_options.betas=[0.9,0.95]' protocol.lr=0.001 \
        protocol.batch_hook=own_parts:cutmix protocol.batch_hook_options.alpha=0.5 \
        protocol.image_hook=own_parts:erase protocol.image_hook_options.side=4 \
        'classifiers=[joint,tau_norm,own_parts:centred]' stage2.options.centred.power=0.5
    python -m fastlt.train data=data/dots epochs=2 image_size=16 protocol.batch=16 run=runs/contrastive \
        protocol.views_per_image=2 'protocol.augment=[color_jitter,grayscale]' protocol.loss=own_parts:contrastive \
        'classifiers=[joint,ncm_cosine]'

A part draws its random numbers from the key that it is given, so that an interrupted training resumes to the same bits.
The source of this file is part of what determines the representation: after an edit it is trained anew.
"""

import sys

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import fastlt
from fastlt.stage2.classifiers.base import Fitted, Task


def effective(counts: np.ndarray, progress: float, q: float) -> np.ndarray:
    """A sampler: the probability of a class is proportional to n^q. With q = -1 the rare classes come most often."""
    return counts**q


class Poly:
    """A loss: PolyLoss (Leng et al. 2022), cross-entropy + eps (1 - p_y), one value per image."""

    def __init__(self, counts: Tensor, progress: float, eps: float = 1.0):
        self.eps = eps

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        losses = functional.cross_entropy(logits.float(), labels, reduction="none")
        return losses + self.eps * (1 - torch.exp(-losses))


def contrastive(counts: Tensor, progress: float, temperature: float = 0.1):
    """A loss on features: cross-entropy + supervised contrastive loss (Khosla et al. 2020), one value per view."""

    def loss(logits: Tensor, labels: Tensor, features: Tensor) -> Tensor:
        z = functional.normalize(features.float(), dim=1)
        itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
        others = (z @ z.T / temperature).masked_fill(itself, -1e9).log_softmax(1)
        alike = (labels[:, None] == labels) & ~itself  # with two views of each image, each has at least one other
        pulled = -(others * alike).sum(1) / alike.sum(1).clamp_min(1)
        return functional.cross_entropy(logits.float(), labels, reduction="none") + pulled

    return loss


contrastive.on_features = True  # type: ignore[attr-defined]


def network(width: int) -> nn.Module:
    """A backbone: images [N, 3, H, W] to features [N, width]."""
    convolution = nn.Conv2d(3, width, 3, stride=2, padding=1)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def cutmix(images: Tensor, labels: Tensor, key: tuple[int, ...], alpha: float = 1.0):
    """A batch hook: CutMix (Yun et al. 2019) replaces a box of each image by that of another, and mixes the losses."""
    rng = np.random.default_rng(key)
    height, width = images.shape[2:]
    side = np.sqrt(1 - rng.beta(alpha, alpha))
    y, x = rng.integers(height), rng.integers(width)
    top, bottom = (int(np.clip(y + sign * side * height / 2, 0, height)) for sign in (-1, 1))
    left, right = (int(np.clip(x + sign * side * width / 2, 0, width)) for sign in (-1, 1))
    other = torch.from_numpy(rng.permutation(len(labels))).to(labels.device)
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images[other][:, :, top:bottom, left:right]
    kept = 1 - (bottom - top) * (right - left) / (height * width)
    return mixed, [(kept, labels), (1 - kept, labels[other])]


def erase(image: Tensor, key: tuple[int, ...], side: int = 8) -> Tensor:
    """An image hook for normalized images [3, H, W]: replaces a random square by the mean colour."""
    height, width = image.shape[1:]
    y, x = np.random.default_rng(key).integers((height - side, width - side))
    erased = image.clone()
    erased[:, y : y + side, x : x + side] = 0
    return erased


def centred(task: Task, power: float = 1.0) -> Fitted:
    """A classifier: the joint one with the mean weight vector subtracted, and tau-normalized with tau = power."""
    weight = task.weight - task.weight.mean(0)
    return Fitted({"weight": weight / weight.norm(dim=1, keepdim=True) ** power, "bias": task.bias}, {"power": power})


def dots(count: int, label: int, seed: int) -> list[tuple[np.ndarray, str]]:
    """Returns a list of (image, label): noise with a bright column, whose position depends on the class."""
    pixels = np.random.default_rng(seed).integers(0, 160, (count, 24, 24, 3), np.uint8)
    pixels[:, :, 6 * label : 6 * label + 6] += 90
    return [(array, f"column {label}") for array in pixels]


if __name__ == "__main__":
    sizes = (90, 40, 20, 10)
    train = [pair for label, size in enumerate(sizes) for pair in dots(size, label, label)]
    test = [pair for label in range(len(sizes)) for pair in dots(10, label, 10 + label)]
    fastlt.write_dataset({"train": train, "test": test}, sys.argv[1], workers=1)
