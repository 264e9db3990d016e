"""What a file of torch.save may name beside tensors and plain values, so that it can be read with weights_only=True."""

import argparse
from typing import Any


class NumpyValue:
    """Stands for a value of NumPy's in a file, an accuracy or the like: none is needed, and no code of NumPy's runs."""

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, _: Any) -> None:
        pass


# Names by which NumPy's pickles ask for a number or an array; `numpy._core` since NumPy 2.
_NUMPY = (
    "dtype",
    "ndarray",
    *(f"{core}.multiarray.{made}" for core in ("core", "_core") for made in ("scalar", "_reconstruct")),
)
# For torch.serialization.safe_globals. Scripts of torchvision and timm keep their arguments in a Namespace.
HARMLESS: list[Any] = [argparse.Namespace, *((NumpyValue, f"numpy.{name}") for name in _NUMPY)]
