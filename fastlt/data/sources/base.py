"""What a source of labelled images has to offer to the conversion."""

from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Listing:
    """The samples of one split, in the order in which they are stored.

    keys: the source's own name of every sample (relative path, row of a file), unique within the split.
    labels: int64 [N], each in [0, number of classes).
    """

    keys: list[str]
    labels: np.ndarray


class Source(Protocol):
    """Labelled images. Picklable: worker processes call `load`."""

    @property
    def name(self) -> str: ...

    @property
    def class_names(self) -> list[str]: ...

    @property
    def splits(self) -> dict[str, Listing]: ...

    def load(self, split: str, index: int) -> bytes | np.ndarray:
        """Sample `index` of `split`: the file's bytes as found, or uint8 [H, W, 3] pixels.

        Raises OSError when the sample cannot be read.
        """
        ...

    def where(self, split: str, index: int) -> str | Path:
        """Where a person finds this sample, for messages."""
        ...


def described(source: Source) -> dict[str, Any]:
    """What made a source's listing, as dataset.json records it: its kind and its settings, without paths.

    A source made from another one has that one's description as the field's value.
    """
    about: dict[str, Any] = {"kind": type(source).__name__}
    for field in fields(source) if is_dataclass(source) else ():
        value = getattr(source, field.name) if field.init and field.name != "name" else None
        if isinstance(value, str | int | float):
            about[field.name] = value
        elif hasattr(value, "splits"):
            about[field.name] = described(value)  # type: ignore[arg-type]
    return about
