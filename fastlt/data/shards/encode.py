"""Encodes one image from a source as the bytes that are stored. Runs in the worker processes of a conversion.

The encoding `keep` stores the unchanged bytes of files that DALI's decoder, which decodes them in every epoch, decodes
to the same pixels as Pillow:

- JPEG: Huffman-coded (baseline, extended or progressive), 8 bits, one or three components, no gaps between the segments
  of the header. Chroma subsampling, colour space, restart markers and bytes after the end may be anything.
- PNG: 8-bit grey or RGB without transparency, background or animation, complete, with correct checksums and chunks in
  order.

Any other image that Pillow decodes is re-encoded as PNG. As with Pillow's `convert("RGB")`, by which the paper's
authors load images, alpha is dropped unless a background is given, and the first of several frames is taken. 16-bit
grey is divided by 257. Floats from 0 to 1 are multiplied by 255, and floats from 0 to 255 are rounded.
"""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageColor

from fastlt.core.errors import UserError
from fastlt.data.plugins import missing_plugin, register_plugins
from fastlt.data.shards import format as layout
from fastlt.data.shards.decodable import BadImage, decodes_alike, jpeg_frame
from fastlt.data.shards.format import Encoded
from fastlt.data.shards.look import look_of

ENCODINGS = ("keep", "jpeg", "png", "raw", "link")
ORIENTATIONS = ("ignore", "apply")
MAX_PIXELS = 100_000_000  # by default larger images are refused before decoding, as a small file can claim any size

_COLOURS = {
    "L": "grey",
    "1": "bilevel",
    "P": "palette",
    "PA": "palette",
    "LA": "grey+alpha",
    "RGBA": "alpha",
    "F": "float",
}
# What stands after the colour type of an image.
FIRST_FRAME = "first of several frames"
AS_IT_LIES = "not turned as EXIF says"
_JPEG_LONGEST = 65_500  # pixels of the longest side that libjpeg writes
_REDUCING_GAP = 2  # as in Pillow's thumbnails: from this factor on, decoding at reduced size changes nothing visible
# EXIF orientation -> the transpose that turns the image upright
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Encoding:
    """How images are stored.

    kind: `keep` (unchanged bytes if DALI decodes them, else PNG; sources of pixels are stored raw), `jpeg`, `png`,
    `raw`, or `link` (images in tars stay where they are; those that `keep` would store as PNG are bad images).
    quality: for `jpeg`, 1 to 100.
    max_short_side: in pixels; `jpeg`, `png` and `raw` scale larger images down to it. 0 means never.
    orientation: `ignore` the EXIF tag (as the authors' loader does) or `apply` it to the pixels.
    max_pixels: images with more pixels are refused.
    background: the colour that shows through transparent pixels, as Pillow writes colours (`white`, `#808080`); ""
    drops the alpha channel and leaves the colours under it.
    check: whether every image is decoded. Without it, only headers are read of images that are linked.
    seek_table: whether JPEG files get a segment by which the loader decodes windows without what is around them
    (kernels/jpeg_seek.py). Their pixels and everything else stay as they are.

    Raises UserError for values that are not allowed.
    """

    kind: str = "keep"
    quality: int = 90
    max_short_side: int = 0
    orientation: str = "ignore"
    max_pixels: int = MAX_PIXELS
    check: bool = True
    background: str = ""
    seek_table: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ENCODINGS:
            raise UserError(f"encode={self.kind} is unknown: allowed are {', '.join(ENCODINGS)}")
        if not 1 <= self.quality <= 100:
            raise UserError(f"quality={self.quality}: it must be in 1..100")
        if self.max_short_side < 0:
            raise UserError(f"max_short_side={self.max_short_side}: it must be 0 (as found) or a number of pixels")
        if self.max_short_side and self.kind in ("keep", "link"):
            raise UserError(
                f"max_short_side needs encode=jpeg, png or raw: encode={self.kind} leaves the bytes as found"
            )
        if self.background:
            try:
                ImageColor.getrgb(self.background)
            except ValueError:
                raise UserError(
                    f"background={self.background} is no colour: allowed are names such as white, and #RRGGBB"
                ) from None
        if not self.check and self.kind != "link":
            raise UserError(f"check=false needs encode=link: encode={self.kind} decodes every image once")
        if self.seek_table and self.kind not in ("keep", "jpeg"):
            raise UserError(f"seek_table=true needs JPEG files, encode=keep, jpeg or auto: encode={self.kind} is set")
        if self.max_pixels < 1:
            raise UserError(f"max_pixels={self.max_pixels}: it must be at least 1")
        if self.orientation not in ORIENTATIONS:
            raise UserError(f"orientation={self.orientation} is unknown: allowed are {', '.join(ORIENTATIONS)}")


def encode(found: bytes | np.ndarray | Image.Image, encoding: Encoding) -> Encoded:
    """Encodes an image for storage.

    found: the bytes of an image file, uint8 [H, W, 3] pixels, or an image of Pillow, whose pixels are stored as those
    of its file would be. Raises BadImage with the reason if it does not decode.
    """
    if isinstance(found, bytes):
        with _opened(found, encoding.max_pixels) as image:
            stored = _encode_file(found, image, encoding)
    else:
        if isinstance(found, np.ndarray):
            pixels, colour = _resized(Image.fromarray(found), _stored_size(found.shape[1::-1], encoding)), ""
        else:
            pixels, colour = _given_pixels(found, encoding), _colour(b"", found)
        stored = _encode_pixels(pixels, "raw" if encoding.kind == "keep" else encoding.kind, encoding.quality, colour)
    if not encoding.seek_table or stored.encoding != layout.JPEG:
        return stored
    from fastlt.kernels.jpeg_seek import with_seek_table  # imported here because it imports Numba

    return replace(stored, data=with_seek_table(stored.data))


def decode(found: bytes | Image.Image, encoding: Encoding) -> np.ndarray:
    """Returns the pixels, uint8 [H, W, 3], that the pipeline would decode if the image were stored with `encoding`.

    It is used for images that are read without a conversion. found: the bytes of an image file, or an image of Pillow.
    Raises BadImage for the same images as `encode`.
    """
    if isinstance(found, Image.Image):
        return _decoded(_given_pixels(found, encoding), encoding)
    with _opened(found, encoding.max_pixels) as image:
        decodes_alike(found, image)
        return _decoded(_stored_pixels(image, encoding, _turn(image, encoding)), encoding)


def _decoded(pixels: Image.Image, encoding: Encoding) -> np.ndarray:
    if encoding.kind == "jpeg":
        stored = _encode_pixels(pixels, "jpeg", encoding.quality, "").data
        pixels = Image.open(io.BytesIO(stored)).convert("RGB")
    return np.asarray(pixels)


def _given_pixels(image: Image.Image, encoding: Encoding) -> Image.Image:
    """Returns the pixels of an image that the user has opened, as they are stored."""
    with _refusals(b"", encoding.max_pixels):
        _check_size(image, encoding.max_pixels)
        turn = _turn(image, encoding)  # of a TIFF, a copy does not tell it
        return _stored_pixels(image.copy(), encoding, turn)  # of a copy, as the user's own must stay as it is


@contextmanager
def _opened(found: bytes, limit: int) -> Iterator[Image.Image]:
    """Opens an image file and checks its size (context manager).

    All exceptions of Pillow, also in the body of the `with` statement, become BadImage; a MemoryError stays one.
    """
    if not found:
        raise BadImage("the file is empty")
    register_plugins()
    with _refusals(found, limit), Image.open(io.BytesIO(found)) as image:
        _check_size(image, limit)
        yield image


@contextmanager
def _refusals(found: bytes, limit: int) -> Iterator[None]:
    """Lets Pillow decode images of up to `limit` pixels, and turns its exceptions into BadImage (context manager)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata only; real problems raise exceptions
        if Image.MAX_IMAGE_PIXELS is not None and limit > Image.MAX_IMAGE_PIXELS:
            Image.MAX_IMAGE_PIXELS = limit  # Pillow raises at twice this number; the limit is not lowered again
        try:
            yield
        except (BadImage, MemoryError):
            raise
        except Image.UnidentifiedImageError:
            raise BadImage(_why_unknown(found)) from None
        except Image.DecompressionBombError:
            raise BadImage(f"more than twice the {limit} pixels that max_pixels allows") from None
        except Exception as error:  # Pillow's decoders raise nearly any exception for damaged files
            raise BadImage(_reason(error)) from None


def _check_size(image: Image.Image, limit: int) -> None:
    if image.format == "EPS":
        raise BadImage("EPS is a program, not pixels")  # Pillow would run it in Ghostscript
    width, height = image.size
    if width * height > limit:
        raise BadImage(f"{width} x {height} pixels, max_pixels={limit} allows fewer")


def _encode_file(found: bytes, image: Image.Image, encoding: Encoding) -> Encoded:
    plain = decodes_alike(found, image)
    width, height = image.size
    turn = _turn(image, encoding)
    colour = _noted(_colour(found, image), AS_IT_LIES, _lies(image, encoding))
    as_found = plain and image.mode in ("RGB", "L") and turn is None
    if encoding.kind in ("keep", "link") and as_found:
        code = layout.PNG if image.format == "PNG" else layout.JPEG
        if not encoding.check:
            return Encoded(found, code, height, width, colour)
        if image.format != "PNG":
            image.draft("L", (1, 1))  # decoding at one eighth of the size detects damage just as well
        image.load()
        return Encoded(found, code, height, width, colour, look_of(image))
    if encoding.kind == "link":
        kind = f"{_colour(found, image)} {image.format}".strip()
        raise BadImage(f"this {kind} cannot stay as it is: encode=keep would store it as PNG")
    pixels = _stored_pixels(image, encoding, turn)
    colour = _noted(colour, FIRST_FRAME, _has_frames(image))
    return _encode_pixels(pixels, "png" if encoding.kind == "keep" else encoding.kind, encoding.quality, colour)


def _stored_pixels(image: Image.Image, encoding: Encoding, turn: Image.Transpose | None) -> Image.Image:
    """Returns the pixels of an opened file as they are re-encoded: RGB, scaled down and turned upright if asked for.

    turn: what turns them upright (see `_turn`).
    """
    size = _stored_size(image.size, encoding)
    if size != image.size:  # a JPEG is decoded at 1/2, 1/4 or 1/8 of its size if that is still twice the wanted size
        image.draft(None, (_REDUCING_GAP * size[0], _REDUCING_GAP * size[1]))
    pixels = _resized(_rgb(image, encoding.background), size)
    return pixels if turn is None else pixels.transpose(turn)


def _has_frames(image: Image.Image) -> bool:
    """Returns whether a decoded file has several pages or frames. Previews in a camera's JPEG (MPO) do not count."""
    try:
        return image.format != "MPO" and getattr(image, "n_frames", 1) > 1
    except Exception:  # the frames after the first are damaged, and nobody needs them
        return True


def _rgb(image: Image.Image, background: str) -> Image.Image:
    """Converts an image to 8-bit RGB. 16-bit grey and floats are scaled, whereas Pillow's own conversion would clip.

    background: the colour under transparent pixels; "" drops the alpha channel.
    """
    if image.mode.startswith("I"):
        values = np.asarray(image).clip(0, 65535).astype(np.uint16) // 257
        return Image.fromarray(values.astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        values = np.asarray(image)
        low, high = float(values.min()), float(values.max())
        if not 0 <= low <= high <= 255:
            raise BadImage(f"floats from {low:g} to {high:g}: allowed are 0 to 1, and 0 to 255")
        values = np.rint(values * 255 if high <= 1 else values)
        return Image.fromarray(values.astype(np.uint8)).convert("RGB")
    image.load()
    if background and image.has_transparency_data:
        whole = Image.new("RGBA", image.size, background)
        whole.alpha_composite(image.convert("RGBA"))
        return whole.convert("RGB")
    pixels = image if image.mode == "RGB" else image.convert("RGB")
    pixels.info = {}  # otherwise Pillow would write colour profiles, comments and transparency into the stored file
    return pixels


def _colour(found: bytes, image: Image.Image) -> str:
    """Returns the colour type for the counts in dataset.json: `16-bit`, else the channels; "" for 8-bit RGB."""
    if image.mode.startswith("I") or (image.format == "PNG" and found[24:25] == b"\x10"):
        return "16-bit"
    return "" if image.mode == "RGB" else _COLOURS.get(image.mode, image.mode.lower())


def _noted(colour: str, note: str, holds: bool) -> str:
    return ", ".join([colour] * bool(colour) + [note]) if holds else colour


def _lies(image: Image.Image, encoding: Encoding) -> bool:
    """Returns whether a JPEG, as of a phone or camera, is to be turned by its EXIF and will not be."""
    known = encoding.orientation == "ignore" and image.format in ("JPEG", "MPO") and "exif" in image.info
    return known and _upright(image) is not None


def _turn(image: Image.Image, encoding: Encoding) -> Image.Transpose | None:
    """Returns the transpose that turns the image upright; None if it is not asked for or needed."""
    return _upright(image) if encoding.orientation == "apply" else None


def _upright(image: Image.Image) -> Image.Transpose | None:
    """Returns the transpose that turns the image upright; None if it is so, or if there is no readable EXIF."""
    if image.format not in ("JPEG", "MPO"):  # JPEGs have EXIF before the pixels, and may still be decoded smaller
        image.load()  # getexif() loads a PNG, and damaged pixels must not be taken for damaged EXIF
    try:
        return _UPRIGHT.get(image.getexif().get(0x0112, 1))
    except Exception:  # damaged EXIF is no reason to refuse the image
        return None


# --- reasons ---


def _why_unknown(found: bytes) -> str:
    """Returns why Pillow does not recognize a file as an image."""
    if found.startswith(b"\x89PNG"):
        return "damaged PNG header"
    if not found.startswith(b"\xff\xd8"):
        return missing_plugin(found) or "no image format known to Pillow"
    frame = jpeg_frame(found)
    if frame is None:
        return "damaged JPEG header"
    _, bits, height, width = frame
    if not height or not width:
        return f"a JPEG of {width} x {height} pixels"
    return "damaged JPEG header" if bits == 8 else f"a JPEG of {bits} bits a sample, only 8 are read"


def _reason(error: Exception) -> str:
    """Returns the message of a decoder's exception in one line."""
    text = re.sub(r"<[^<>]* at 0x[0-9a-fA-F]+>", "the file", " ".join(str(error).split()))
    if "truncated" in text.lower():
        return "the file is truncated"
    if text == "cannot load this image":
        return "the file holds no pixels"
    if isinstance(error, OSError | SyntaxError | ValueError) and text:
        return text
    return "damaged file (" + ": ".join(filter(None, (type(error).__name__, text))) + ")"


# --- pixels ---


def _stored_size(size: tuple[int, int], encoding: Encoding) -> tuple[int, int]:
    """Returns the (width, height) that an image of size (width, height) is stored with."""
    scale = encoding.max_short_side / min(size)
    if not 0 < scale < 1:
        return size
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resizes an image to (width, height), bilinearly with antialiasing.

    It uses the kernel of the training pipeline, which gives the same pixels as Pillow in a third of the time.
    """
    if size == image.size:
        return image
    from fastlt.kernels.crop_resize import resize  # imported here because it imports Numba, which few conversions need

    return Image.fromarray(resize(np.asarray(image), (size[1], size[0])))


def _encode_pixels(image: Image.Image, kind: str, quality: int, colour: str) -> Encoded:
    """Encodes an image. kind: `jpeg`, `png` or `raw`. An image that is too long for a JPEG becomes a PNG."""
    width, height = image.size
    about = height, width, colour, look_of(image)
    if kind == "raw":
        return Encoded(layout.raw_member(np.asarray(image)), layout.RAW, *about)
    buffer = io.BytesIO()
    if kind == "jpeg" and max(image.size) <= _JPEG_LONGEST:
        image.save(buffer, "JPEG", quality=quality)
        return Encoded(buffer.getvalue(), layout.JPEG, *about)
    image.save(buffer, "PNG")
    return Encoded(buffer.getvalue(), layout.PNG, *about)
