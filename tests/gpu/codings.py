"""A source of one picture in every coding that is stored as it is found."""

import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pictures import Pictures, picture
from PIL import Image

from fastlt.data.sources.base import Listing

TURNED = Image.Exif()
TURNED[0x0112] = 6
# Name, side lengths, mode, format, options of Pillow.
CODINGS: tuple[tuple[str, tuple[int, int], str, str, dict[str, Any]], ...] = (
    ("4:2:0", (300, 401), "RGB", "JPEG", {"subsampling": "4:2:0"}),
    ("4:2:2", (300, 401), "RGB", "JPEG", {"subsampling": "4:2:2"}),
    ("4:4:4", (300, 401), "RGB", "JPEG", {"subsampling": "4:4:4"}),
    ("progressive", (300, 401), "RGB", "JPEG", {"progressive": True}),
    ("grey", (300, 401), "L", "JPEG", {}),
    ("grey, progressive", (300, 401), "L", "JPEG", {"progressive": True}),
    ("restart markers", (300, 401), "RGB", "JPEG", {"restart_marker_rows": 1}),
    ("turned by EXIF", (300, 401), "RGB", "JPEG", {"exif": TURNED}),
    ("one pixel", (1, 1), "RGB", "JPEG", {}),
    ("narrow", (7, 500), "RGB", "JPEG", {}),
    ("large", (1500, 2001), "RGB", "JPEG", {}),
    ("PNG", (300, 401), "RGB", "PNG", {}),
    ("grey PNG", (300, 401), "L", "PNG", {}),
)


@dataclass(frozen=True)
class Codings(Pictures):
    """Training images of one class; val and test are as in Pictures."""

    counts: tuple[int, ...] = field(default=(len(CODINGS),))

    def __post_init__(self) -> None:
        super().__post_init__()
        self.splits["train"] = Listing([name for name, *_ in CODINGS], np.zeros(len(CODINGS), np.int64))

    def load(self, split: str, index: int) -> bytes | np.ndarray:
        if split != "train":
            return super().load(split, index)
        _, side, mode, kind, options = CODINGS[index]
        buffer = io.BytesIO()
        quality = {"quality": 90} if kind == "JPEG" else {}
        Image.fromarray(picture(index, *side)).convert(mode).save(buffer, kind, **quality, **options)
        return buffer.getvalue()
