"""One image from a source becomes the bytes that are stored. Runs in the conversion's worker processes."""

import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from fastlt.errors import UserError
from fastlt.shards import format as layout
from fastlt.shards.format import Encoded

ENCODINGS = ("keep", "jpeg", "png", "raw")
ORIENTATIONS = ("ignore", "apply")
MAX_PIXELS = 100_000_000  # more is refused before decoding: a small file can claim any size

_COLOURS = {
    "L": "grey",
    "1": "bilevel",
    "P": "palette",
    "CMYK": "cmyk",
    "I;16": "16-bit",
    "LA": "grey+alpha",
    "RGBA": "alpha",
}
# As found, DALI decodes these to the pixels Pillow gives; other modes are turned into RGB here.
_KEPT = {"JPEG": ("RGB", "L"), "MPO": ("RGB",), "PNG": ("RGB", "L")}


class BadImage(Exception):
    """An image that cannot be stored; the text is the reason."""


@dataclass(frozen=True)
class Encoding:
    """How images are stored.

    kind: `keep` (bytes as found where DALI decodes them, else PNG; pixel sources become raw), `jpeg`, `png` or `raw`.
    quality: of `jpeg`, 1..100. max_short_side: pixels, `jpeg`, `png` and `raw` shrink larger images, 0 for never.
    orientation: `ignore` the EXIF tag (as the authors' loader does) or `apply` it to the pixels.
    """

    kind: str = "keep"
    quality: int = 90
    max_short_side: int = 0
    orientation: str = "ignore"

    def __post_init__(self) -> None:
        if self.kind not in ENCODINGS:
            raise UserError(f"encode={self.kind} is unknown: allowed are {', '.join(ENCODINGS)}")
        if not 1 <= self.quality <= 100:
            raise UserError(f"quality={self.quality}: it must be in 1..100")
        if self.max_short_side < 0:
            raise UserError(f"max_short_side={self.max_short_side}: it must be 0 (as found) or a number of pixels")
        if self.max_short_side and self.kind == "keep":
            raise UserError("max_short_side needs encode=jpeg, png or raw: encode=keep stores the bytes as found")
        if self.orientation not in ORIENTATIONS:
            raise UserError(f"orientation={self.orientation} is unknown: allowed are {', '.join(ORIENTATIONS)}")


def encode(found: bytes | np.ndarray, encoding: Encoding) -> Encoded:
    """What is stored for an image.

    found: an image file's bytes, or uint8 [H, W, 3] pixels. Raises BadImage with the reason if it does not decode.
    """
    if isinstance(found, np.ndarray):
        return _encode_pixels(Image.fromarray(found), "raw" if encoding.kind == "keep" else encoding.kind, encoding, "")
    if not found:
        raise BadImage("the file is empty")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata; what matters raises
        try:
            with Image.open(io.BytesIO(found)) as image:
                return _encode_file(found, image, encoding)
        except BadImage:
            raise
        except Image.UnidentifiedImageError:
            raise BadImage("no image format known to Pillow") from None
        except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
            raise BadImage(str(error) or type(error).__name__) from None


def _encode_file(found: bytes, image: Image.Image, encoding: Encoding) -> Encoded:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise BadImage(f"{width} x {height} pixels, the limit is {MAX_PIXELS // 1_000_000} million")
    colour = "16-bit" if image.mode.startswith("I") else _COLOURS.get(image.mode, "")
    turned = encoding.orientation == "apply" and image.getexif().get(0x0112, 1) != 1
    kept = image.format in _KEPT and image.mode in _KEPT[image.format] and not turned
    if encoding.kind == "keep" and kept:
        if image.format != "PNG":
            image.draft("L", (1, 1))  # decoding at one eighth of the size finds damage just as well
        image.load()
        code = layout.PNG if image.format == "PNG" else layout.JPEG
        return Encoded(found, code, height, width, colour)
    if turned:
        image = ImageOps.exif_transpose(image)
    return _encode_pixels(_rgb(image), "png" if encoding.kind == "keep" else encoding.kind, encoding, colour)


def _rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB; 16-bit grey is scaled, not clipped as Pillow's own conversion does."""
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        image = Image.fromarray((np.clip(values, 0, 65535) // 257).astype(np.uint8))
    return image.convert("RGB")


def _encode_pixels(image: Image.Image, kind: str, encoding: Encoding, colour: str) -> Encoded:
    short = min(image.size)
    if 0 < encoding.max_short_side < short:
        scale = encoding.max_short_side / short
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.BILINEAR)
    width, height = image.size
    if kind == "raw":
        return Encoded(layout.raw_member(np.asarray(image)), layout.RAW, height, width, colour)
    buffer = io.BytesIO()
    if kind == "jpeg":
        image.save(buffer, "JPEG", quality=encoding.quality)
    else:
        image.save(buffer, "PNG")
    return Encoded(buffer.getvalue(), layout.JPEG if kind == "jpeg" else layout.PNG, height, width, colour)
