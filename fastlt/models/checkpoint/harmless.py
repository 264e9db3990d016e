"""Classes that a file of torch.save may name beside tensors and plain values when it is read with weights_only=True."""

import argparse
from typing import Any


class NumpyValue:
    """Replaces NumPy values in a file, such as a stored accuracy. They are not needed, and NumPy's code is not run."""

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, _: Any) -> None:
        pass


# Names that pickles of NumPy numbers and arrays contain; the module is `numpy._core` since NumPy 2.
_NUMPY = (
    "dtype",
    "ndarray",
    *(f"{core}.multiarray.{made}" for core in ("core", "_core") for made in ("scalar", "_reconstruct")),
)
# For torch.serialization.safe_globals. The training scripts of torchvision and timm store a Namespace of arguments.
HARMLESS: list[Any] = [argparse.Namespace, *((NumpyValue, f"numpy.{name}") for name in _NUMPY)]
