"""Tells from the bytes of a file whether DALI decodes it to the same pixels as Pillow; encode.py says which files."""

import re
import zlib

from PIL import Image

_PNG_PIECE = 1 << 16  # bytes inflated at once; the pixels are only counted
# The concatenated names of chunks. By the rules of PNG a lower-case first letter marks a chunk that decoders may skip.
_PNG_CHUNKS = re.compile(rb"IHDR([a-z][A-Za-z][A-Z][A-Za-z])*(IDAT)+([a-z][A-Za-z][A-Z][A-Za-z])*IEND")
_PNG_DRAWN = {b"tRNS", b"bKGD", b"acTL", b"fcTL", b"fdAT"}  # transparency, background, animation
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_PNG_WHOLE = ((0, 0, 1, 1),)  # first column, first row, step between columns, step between rows
_PNG_INTERLACED = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


class BadImage(Exception):
    """Raised for an image that cannot be stored. The text is the reason."""


def decodes_alike(found: bytes, image: Image.Image) -> bool:
    """Returns whether DALI decodes a file to the same pixels as Pillow. Raises BadImage if a PNG lacks pixel rows."""
    if image.format == "PNG":
        return _plain_png(found, image.size)
    return image.format in ("JPEG", "MPO") and _plain_jpeg(found)


def _number(found: bytes, at: int, length: int) -> int:
    return int.from_bytes(found[at : at + length])


def jpeg_frame(found: bytes) -> tuple[int, int, int, int] | None:
    """Returns (SOF marker, bits, height, width) of a JPEG; None if its header has gaps between segments or no scan."""
    at, frame = 2, None
    while at + 9 <= len(found) and found[at] == 0xFF:
        marker = found[at + 1]
        if marker == 0xDA:  # a scan begins
            return frame
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if not 0xC0 <= marker <= 0xFE or 0xD0 <= marker <= 0xD9:  # these markers cannot be in a header
            return None
        if marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            frame = (marker, found[at + 4], _number(found, at + 5, 2), _number(found, at + 7, 2))
        at += 2 + _number(found, at + 2, 2)
    return None


def _plain_jpeg(found: bytes) -> bool:
    """Returns whether a JPEG that Pillow opens is Huffman-coded with 8 bits and has no gaps in its header."""
    frame = jpeg_frame(found)
    # SOF0 is baseline, SOF1 extended, SOF2 progressive. DALI does not decode lossless JPEGs (SOF3), and arithmetic
    # coding (SOF9 and up) only if its libjpeg was built for it. Pillow skips bytes between segments, DALI does not.
    return frame is not None and frame[:2] in ((0xC0, 8), (0xC1, 8), (0xC2, 8))


def _plain_png(found: bytes, size: tuple[int, int]) -> bool:
    """Returns whether a PNG is 8-bit grey or RGB and has no fault that Pillow tolerates but libpng (in DALI) does not.

    size: the width and height that Pillow read. Raises BadImage for missing pixel rows, which Pillow would leave black.
    """
    width, height = _number(found, 16, 4), _number(found, 20, 4)
    if found[12:16] != b"IHDR" or (width, height) != size:
        return False
    at, names, parts, sound = 8, [], [], True
    while at + 12 <= len(found) and names[-1:] != [b"IEND"]:
        end = at + 8 + _number(found, at, 4)
        names.append(found[at + 4 : at + 8])
        if names[-1] == b"IDAT":
            parts.append(found[at + 8 : end])
        sound &= zlib.crc32(found[at + 4 : end]) == _number(found, end, 4) and end + 4 <= len(found)
        at = end + 4
    depth, kind, packing, filters, interlaced = found[24:29]
    expected = 0
    for x, y, right, down in _PNG_INTERLACED if interlaced else _PNG_WHOLE:
        columns, rows = -((x - width) // right), -((y - height) // down)
        if columns > 0:
            expected += max(rows, 0) * (1 + (columns * depth * _PNG_CHANNELS.get(kind, 0) + 7) // 8)
    stream, packed, length = zlib.decompressobj(), b"".join(parts), 0
    try:
        for first in range(0, len(packed), _PNG_PIECE):
            length += len(stream.decompress(packed[first : first + _PNG_PIECE]))
            if length > expected:
                return False
    except zlib.error:
        return False  # Pillow raises an error that says what is wrong
    if length < expected:
        raise BadImage("the file is truncated")
    return (
        sound
        and stream.eof
        and (depth, packing, filters) == (8, 0, 0)
        and kind in (0, 2)
        and interlaced in (0, 1)
        and _PNG_DRAWN.isdisjoint(names)
        and _PNG_CHUNKS.fullmatch(b"".join(names)) is not None
    )
