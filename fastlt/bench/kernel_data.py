"""Random features, weights and labels on which the kernels are measured."""

from dataclasses import dataclass

import numpy as np
import torch

from fastlt.kernels.arrays import host

HEAD_NORM, TAIL_NORM = 2.0, 0.4  # norms of weights; they shrink with class size in classifiers of long-tailed data
MARGIN = 8.0  # by how much features point to their class; about 6 of 10 samples are correct at the best tau


@dataclass(frozen=True)
class Size:
    """The size of the data.

    train: the number of rows whose class means are computed. test: the number of rows that are classified.
    classes: the number of classes, whose sizes in train follow Zipf's law. dim: the number of features.
    """

    train: int
    test: int
    classes: int
    dim: int


SIZES = {
    "tiny": Size(300, 200, 12, 16),
    "standard": Size(28_961, 20_000, 1000, 2048),
    "imagenet_lt": Size(115_846, 50_000, 1000, 2048),
    "inaturalist2018": Size(24_426, 24_426, 8142, 2048),  # as many rows as its val split
    "inaturalist2018_768": Size(437_513, 24_426, 8142, 768),  # all of it, on features of a ViT-B or ConvNeXt-T
}


class KernelData:
    """Random tensors of one size on one device, the same in every process.

    train, test: features float32 [N, D], ReLU of normal noise plus a multiple of the direction of their class.
    train_labels, test_labels: int64 [N], ascending. weight: float32 [C, D]. groups: int8 [C], thirds of the classes.
    """

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
        """Returns the training features and labels in random order."""
        order = torch.randperm(self.size.train, generator=torch.Generator().manual_seed(1)).to(self.train.device)
        return self.train[order], self.train_labels[order]

    def on_host(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the training features and labels as NumPy arrays."""
        return host(self.train, np.float32), host(self.train_labels, np.int64)
