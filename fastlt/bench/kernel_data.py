"""Drawn features, weights and labels that the kernels are measured on."""

from dataclasses import dataclass

import numpy as np
import torch

from fastlt.kernels.arrays import host

HEAD_NORM, TAIL_NORM = 2.0, 0.4  # classifiers trained on a long tail have weights that shrink with the class
MARGIN = 8.0  # how much the own class stands out: some 6 of 10 are right at the best tau


@dataclass(frozen=True)
class Size:
    """train: rows of class means. test: rows that are classified. A Zipf long tail of `classes`, features of `dim`."""

    train: int
    test: int
    classes: int
    dim: int


SIZES = {
    "tiny": Size(300, 200, 12, 16),
    "standard": Size(28_961, 20_000, 1000, 2048),
    "imagenet_lt": Size(115_846, 50_000, 1000, 2048),
    "inaturalist2018": Size(24_426, 24_426, 8142, 2048),  # its val split
}


class KernelData:
    """Tensors of one size on one device; x is what ends in a ReLU, labels rise, groups are thirds of the classes."""

    def __init__(self, size: Size, device: torch.device):
        rng = torch.Generator().manual_seed(0)
        share = 1 / torch.arange(1, size.classes + 1)
        norm = torch.linspace(HEAD_NORM, TAIL_NORM, size.classes)
        weight = torch.randn((size.classes, size.dim), generator=rng) * norm[:, None] / size.dim**0.5

        def draw(rows: int, labels: torch.Tensor) -> torch.Tensor:
            x = torch.randn((rows, size.dim), generator=rng).relu_()
            for part in torch.arange(rows).split(4096):
                own = weight[labels[part]]
                x[part] += MARGIN * own / own.norm(dim=1, keepdim=True)
            return x.to(device)

        train = torch.multinomial(share, size.train, replacement=True, generator=rng).sort().values
        test = torch.randint(size.classes, (size.test,), generator=rng).sort().values
        self.size = size
        self.train, self.test = draw(size.train, train), draw(size.test, test)
        self.train_labels, self.test_labels = train.to(device), test.to(device)
        self.weight = weight.to(device)
        self.groups = (torch.arange(size.classes) * 3 // size.classes).to(torch.int8).to(device)

    def shuffled(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Training features and labels in random order."""
        order = torch.randperm(self.size.train, generator=torch.Generator().manual_seed(1)).to(self.train.device)
        return self.train[order], self.train_labels[order]

    def on_host(self) -> tuple[np.ndarray, np.ndarray]:
        """Training features and labels as NumPy arrays."""
        return host(self.train, np.float32), host(self.train_labels, np.int64)
