"""A perceptual hash (`look`) of 64 bits, which differs in few bits between near duplicates."""

import numpy as np
from PIL import Image

_ACROSS, _DOWN = 9, 8
_STEP = 3  # grey levels; smaller differences are compression noise, which must not change the bits of plain areas
_SIDE = 32  # pixels of the short side that are sufficient


def look_of(image: Image.Image) -> int:
    """Returns the difference hash of an image in mode L or RGB, an integer of 64 bits.

    The image is shrunk to 8 rows of 9 grey cells. Each bit says whether a cell is brighter than the cell to its left.
    Scaling and compressing an image again change few bits.
    """
    factor = min(image.size) // _SIDE
    small = (image.reduce(factor) if factor > 1 else image).convert("L").resize((_ACROSS, _DOWN), Image.Resampling.BOX)
    cells = np.asarray(small, np.int16)
    return int.from_bytes(np.packbits(cells[:, 1:] - cells[:, :-1] >= _STEP).tobytes())
