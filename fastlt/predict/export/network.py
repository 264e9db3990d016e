"""The complete network from pixels to logits in PyTorch operations that ONNX and torch.export can write."""

import numpy as np
import torch
from torch import Tensor, nn

from fastlt.predict.export.head import Head, HeadLayer
from fastlt.predict.images import Evaluation

_UNIT = float(1 << 22)  # the value that stands for a weight of 1 in Pillow's resize


class Resize(nn.Module):
    """Resize(round(size / crop_pct)) + CenterCrop(size), with the same results as the kernel bit for bit.

    As in Pillow, rows are resized first, then columns, with 22-bit weights, and pixels are rounded to 0..255 after each
    pass. Weights are dense matrices in float64, in which all products and sums of these whole numbers are exact. Images
    may have any height and width, but all images of a batch must have the same.
    """

    def __init__(self, evaluation: Evaluation):
        super().__init__()
        self.size, self.bicubic = evaluation.size, evaluation.interpolation == "bicubic"
        self.short = float(round(evaluation.size / evaluation.crop_pct))

    def forward(self, pixels: Tensor) -> Tensor:
        """Resizes pixels 0..255, float64 [N, H, W, 3], to [N, size, size, 3]."""
        height, width = torch.ones_like(pixels[0, :, 0, 0]), torch.ones_like(pixels[0, 0, :, 0])
        shorter = torch.minimum(height.sum(), width.sum())
        across = self._weights(width, shorter)
        rows = torch.einsum("ow,nhwc->nhoc", across, pixels)
        rows = torch.floor((rows + _UNIT / 2) / _UNIT).clamp(0, 255)
        columns = torch.einsum("oh,nhwc->nowc", self._weights(height, shorter), rows)
        return torch.floor((columns + _UNIT / 2) / _UNIT).clamp(0, 255)

    def _weights(self, ones: Tensor, shorter: Tensor) -> Tensor:
        """Returns weights [size, n], in units of 2^-22, for a side of n pixels. ones: [n]. shorter: the short side."""
        n, out = ones.sum(), torch.arange(self.size, dtype=torch.float64)
        resized = torch.floor(self.short * n / shorter)
        scale = n / resized
        stretch = torch.clamp(scale, min=1.0)
        first = torch.round((resized - self.size) / 2)
        centre = (first + out + 0.5) * scale
        x = ((torch.cumsum(ones, 0) - 0.5)[None] - centre[:, None]).abs() / stretch
        if self.bicubic:
            near, far = (1.5 * x - 2.5) * x * x + 1, (((x - 5) * x + 8) * x - 4) * -0.5
            weights = torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
        else:
            weights = torch.clamp(1 - x, min=0.0)
        shares = weights / weights.sum(1, keepdim=True) * _UNIT
        return torch.where(shares >= 0, torch.floor(shares + 0.5), torch.ceil(shares - 0.5))


class ExportedNetwork(nn.Module):
    """A network from images to logits.

    backbone: a module from images [N, 3, size, size] to features, in eval mode. head: the classifier.
    evaluation: the preprocessing of images. uint8: whether images are pixels 0..255, uint8 [N, H, W, 3]; otherwise they
    are float32 [N, H, W, 3] in 0..1, that is, pixels divided by 255.
    """

    def __init__(self, backbone: nn.Module, head: Head, evaluation: Evaluation, uint8: bool):
        super().__init__()
        self.resize, self.backbone, self.head, self.uint8 = Resize(evaluation), backbone, HeadLayer(head), uint8
        # Computed in float32 as in the loader, because the last bit of every value depends on it.
        mean, std = (np.array(values, np.float32) * 255 for values in (evaluation.mean, evaluation.std))
        self.register_buffer("mean", torch.from_numpy(mean))
        self.register_buffer("inverse_std", torch.from_numpy(np.float32(1) / std))
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits of images, float32 [N, C]."""
        pixels = images.double() if self.uint8 else images.double() * 255
        inputs = (self.resize(pixels).float() - self.mean) * self.inverse_std  # type: ignore[operator]
        return self.head(self.backbone(inputs.permute(0, 3, 1, 2)).float())
