"""Seek tables of JPEG files, and windows cut out by them: the same pixels, and no crash whatever the bytes are."""

import io
import itertools
from typing import Any

import numpy as np
import pytest
from pictures import picture
from PIL import Image

from fastlt.kernels.jpeg_header import AC, DC, DC_TABLE, HEAD, SCAN, SIGNATURE, TABLE, read_header
from fastlt.kernels.jpeg_huffman import CATEGORIES, build_writer
from fastlt.kernels.jpeg_seek import LARGEST, with_seek_table
from fastlt.kernels.jpeg_window import SPARE, cut_window

GUARD = 64  # bytes after the output, which must stay as they are


def written(pixels: np.ndarray, **options: Any) -> bytes:
    """A JPEG file of such pixels; `subsampling` is 0 for 4:4:4, 1 for 4:2:2, 2 for 4:2:0."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", **{"quality": 95, **options})
    return buffer.getvalue()


def upright(found: bytes) -> bytes:
    """A 4:2:2 file of 256 x 256 pixels made one of 4:4:0, with other pixels: its MCUs have as many blocks."""
    at = found.index(b"\xff\xc0")
    assert found[at + 11] == 0x21
    return found[: at + 11] + b"\x12" + found[at + 12 :]


def decoded(found: bytes | np.ndarray) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(bytes(found))))


def head_of(found: bytes) -> np.ndarray | None:
    head = np.zeros(HEAD, np.int64)
    return head if read_header(np.frombuffer(found, np.uint8), head) else None


def cut(found: bytes, window: tuple[int, int, int, int]) -> tuple[bytes, int, int]:
    """The file with a window (y, x, height, width), and the window's place in it."""
    data, placed = np.frombuffer(found, np.uint8), np.full(2, -1, np.int32)
    out = np.full(len(data) + SPARE + GUARD, 77, np.uint8)
    y, x, height, width = window
    anchor, shape = np.array([y, x], np.int32), np.array([height, width], np.int32)
    length = cut_window(data, anchor, shape, out[:-GUARD], placed)
    assert 0 < length <= len(out) - GUARD and (out[-GUARD:] == 77).all()
    return out[:length].tobytes(), int(placed[0]), int(placed[1])


def check(found: bytes, window: tuple[int, int, int, int]) -> bool:
    """Checks the pixels of a window; returns whether it was cut out, and not the whole file taken."""
    y, x, height, width = window
    piece, top, left = cut(found, window)
    pixels = decoded(piece)[top : top + height, left : left + width]
    np.testing.assert_array_equal(pixels, decoded(found)[y : y + height, x : x + width], err_msg=str(window))
    return piece != found


def windows(seed: int, height: int, width: int, count: int) -> list[tuple[int, int, int, int]]:
    rng = np.random.default_rng(seed)
    sizes = [(int(rng.integers(1, height + 1)), int(rng.integers(1, width + 1))) for _ in range(count)]
    return [(int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w) for h, w in sizes]


SIZES = [(256, 256), (241, 307), (333, 130), (63, 700)]
KINDS = [(kind, size) for size in SIZES for kind in ("4:4:4", "4:2:2", "4:2:0", "grey")] + [("4:4:0", SIZES[0])]


@pytest.mark.parametrize("optimize", [False, True])
@pytest.mark.parametrize(("kind", "size"), KINDS, ids=str)
def test_windows_have_the_pixels_of_the_whole_image(kind: str, size: tuple[int, int], optimize: bool) -> None:
    pixels = picture(sum(size), *size)
    if kind == "grey":
        found = written(pixels[..., 0], optimize=optimize)
    else:
        found = written(pixels, optimize=optimize, subsampling={"4:4:4": 0, "4:2:0": 2}.get(kind, 1))
        found = upright(found) if kind == "4:4:0" else found
    seekable = with_seek_table(found)
    assert len(found) < len(seekable) <= (1 + LARGEST) * len(found) + 4
    np.testing.assert_array_equal(decoded(seekable), decoded(found))
    edges = [(0, 0, 1, 1), (size[0] - 1, size[1] - 1, 1, 1), (0, size[1] - 9, size[0], 9), (size[0] - 9, 0, 9, size[1])]
    were_cut = [check(seekable, window) for window in [*edges, *windows(1, *size, 24)]]
    assert all(were_cut[1:3]) and sum(were_cut) > 12
    assert not check(seekable, (0, 0, *size))  # the file itself


@pytest.mark.parametrize("width", [147, 148, 149])
@pytest.mark.parametrize("subsampling", [1, 2])
def test_the_last_columns_are_interpolated_as_in_the_whole_image(subsampling: int, width: int) -> None:
    # The last point of a row is 3 to 5 pixels before its end; decoders repeat the chroma of images so narrow.
    noise = np.random.default_rng(0).integers(0, 256, (90, width, 3), np.uint8)
    found = with_seek_table(written(noise, subsampling=subsampling))
    for left in range(width - 4, width):
        assert check(found, (20, left, 30, width - left))


def test_a_seek_table_is_one_segment_before_the_scan_and_is_made_anew() -> None:
    found = written(picture(0, 200, 300))
    seekable = with_seek_table(found)
    head = head_of(seekable)
    assert head is not None and head[SCAN] - head[TABLE] > len(seekable) - len(found)
    at, length = int(head[TABLE]), len(seekable) - len(found)
    assert seekable[:at] + seekable[at + length :] == found
    assert seekable[at + 4 :].startswith(bytes(SIGNATURE))
    assert with_seek_table(seekable) == seekable
    damaged = bytearray(seekable)
    damaged[at + 40] ^= 1
    assert with_seek_table(bytes(damaged)) == seekable
    foreign = seekable[at : at + 2] + b"\0\x10" + bytes(SIGNATURE) + b"\0\0"
    assert with_seek_table(found[:2] + 1200 * foreign + found[2:]) == seekable


def test_differences_that_a_table_has_no_code_for_get_one() -> None:
    # A gradient from left to right: neighbours differ little, the ends of rows much.
    rng = np.random.default_rng(0)
    pixels = np.linspace(0, 255, 512)[None] + rng.normal(0, 6, (256, 512))
    found = with_seek_table(written(np.clip(pixels, 0, 255).astype(np.uint8), optimize=True, quality=100))
    head = head_of(found)
    assert head is not None
    codes, lengths = np.zeros(CATEGORIES, np.int64), np.zeros(CATEGORIES, np.int64)
    data = np.frombuffer(found, np.uint8)
    missing = build_writer(data, head[DC + head[DC_TABLE]], codes, lengths)
    assert missing > 0 and (lengths > 0).all()
    texts = [f"{code:0{length}b}" for code, length in zip(codes.tolist(), lengths.tolist(), strict=True)]
    assert all("0" in text for text in texts)  # a code of ones only is not allowed
    assert not any(a.startswith(b) for a, b in itertools.permutations(texts, 2))
    assert check(found, (0, 0, 200, 400)) and check(found, (100, 50, 100, 440))


@pytest.mark.parametrize(
    "options",
    [{"progressive": True}, {"restart_marker_blocks": 4}, {"restart_marker_rows": 1}],
    ids=["progressive", "blocks", "rows"],
)
def test_files_of_other_kinds_stay_as_they_are(options: dict[str, Any]) -> None:
    found = written(picture(0, 200, 300), **options)
    assert with_seek_table(found) == found
    assert not check(found, (10, 10, 50, 50))


def test_files_that_are_not_exactly_complete_stay_as_they_are() -> None:
    found = written(picture(0, 200, 300))
    assert with_seek_table(found) != found
    cmyk = io.BytesIO()
    Image.fromarray(picture(0, 200, 300)).convert("CMYK").save(cmyk, "JPEG", quality=95)
    at = found.index(b"\xff\xc0")
    others = {
        "cut off": found[:-500],
        "without an end": found[:-2],
        "more than the image": found[:-2] + b"\0\0\xff\xd9",
        "higher": found[: at + 5] + b"\x00\xe0" + found[at + 7 :],
        "not so high": found[: at + 5] + b"\x00\x80" + found[at + 7 :],
        "12 bits": found[: at + 4] + b"\x0c" + found[at + 5 :],
        "four colours": cmyk.getvalue(),
        "small": written(picture(0, 24, 24), quality=50),
        "nothing": b"",
        "no JPEG": b"\x89PNG" + bytes(200),
    }
    for name, other in others.items():
        assert with_seek_table(other) == other, name


def test_a_table_without_the_code_of_zeros_or_with_too_many_codes_is_refused() -> None:
    found = written(picture(0, 200, 300))
    head = head_of(found)
    assert head is not None
    at = int(head[AC])  # counts of the codes of each length
    for counts in (bytes([3]) + found[at + 1 : at + 16], bytes([2, 0]) + found[at + 2 : at + 16]):
        assert head_of(found[:at] + counts + found[at + 16 :]) is None
    assert head_of(found[: at + 15] + b"\xff" + found[at + 16 :]) is None


def test_a_table_gets_no_more_codes_than_decoders_take() -> None:
    codes, lengths = np.zeros(CATEGORIES, np.int64), np.zeros(CATEGORIES, np.int64)
    for more, missing in ((243, 12), (244, 12), (245, -1)):  # 12 categories have no code of their own yet
        table = np.zeros(16 + more, np.uint8)
        table[14:16] = more - 100, 100
        table[16:] = CATEGORIES
        assert build_writer(table, 0, codes, lengths) == missing


def test_damaged_files_neither_crash_nor_write_outside() -> None:
    rng = np.random.default_rng(3)
    sizes = {"4:4:4": (written, {"subsampling": 0}), "4:2:0": (written, {"subsampling": 2})}
    kept = [with_seek_table(make(picture(7, 150, 210), **options)) for make, options in sizes.values()]
    kept.append(with_seek_table(written(picture(7, 150, 210)[..., 0], optimize=True)))
    were_cut = 0
    for number in range(1000):
        whole = kept[number % len(kept)]
        head = head_of(whole)
        assert head is not None
        mutated = bytearray(whole)
        # A third in the whole file, a third in the header with its tables, a third in the seek table.
        first, last = ((0, len(whole)), (0, int(head[SCAN])), (int(head[TABLE]), int(head[SCAN])))[number // 3 % 3]
        for place in rng.integers(first, last, rng.integers(1, 6)).tolist():
            mutated[place] = int(
                rng.choice([0, 255, int(rng.integers(256)), mutated[place] ^ 1 << int(rng.integers(8))])
            )
        if number % 5 == 0:
            at = int(rng.integers(2, len(mutated)))
            del mutated[at : at + int(rng.integers(1, len(mutated)))]
        with_seek_table(bytes(mutated))
        for window in windows(number, 150, 210, 2):
            were_cut += len(cut(bytes(mutated), window)[0]) != len(mutated)
    assert were_cut > 300
