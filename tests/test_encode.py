"""One image in, stored bytes out."""

import io

import numpy as np
import pytest
from conftest import jpeg, picture
from PIL import Image

from fastlt.errors import UserError
from fastlt.shards import format as layout
from fastlt.shards.encode import BadImage, Encoding, encode

PIXELS = picture(0, 60, 90)


def stored(found: bytes, **options) -> tuple[Image.Image, layout.Encoded]:
    result = encode(found, Encoding(**options))
    return Image.open(io.BytesIO(result.data)), result


def written(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_keep_keeps_what_dali_decodes() -> None:
    for found in (jpeg(PIXELS), written(Image.fromarray(PIXELS), "PNG"), jpeg(PIXELS[..., 0])):
        result = encode(found, Encoding())
        assert result.data == found
        assert (result.height, result.width) == (60, 90)
    assert encode(jpeg(PIXELS[..., 0]), Encoding()).colour == "grey"


@pytest.mark.parametrize(
    ("mode", "kind"), [("CMYK", "JPEG"), ("P", "GIF"), ("1", "PNG"), ("RGBA", "PNG"), ("RGB", "WEBP")]
)
def test_other_colours_and_formats_become_rgb_without_loss(mode: str, kind: str) -> None:
    found = written(Image.fromarray(PIXELS).convert(mode), kind)
    image, result = stored(found)
    assert (image.format, image.mode) == ("PNG", "RGB")
    np.testing.assert_array_equal(np.asarray(image), np.asarray(Image.open(io.BytesIO(found)).convert("RGB")))
    assert bool(result.colour) == (mode != "RGB")


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    image, result = stored(written(Image.fromarray(ramp), "PNG"))
    assert result.colour == "16-bit"
    np.testing.assert_array_equal(np.asarray(image)[..., 0], ramp // 257)


def test_exif_orientation_is_ignored_or_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    found = written(Image.fromarray(PIXELS), "JPEG", exif=exif.tobytes())
    assert encode(found, Encoding()).data == found
    image, result = stored(found, orientation="apply")
    assert (result.height, result.width) == (90, 60)
    upright = np.asarray(Image.open(io.BytesIO(found)).convert("RGB").transpose(Image.Transpose.ROTATE_270))
    np.testing.assert_array_equal(np.asarray(image), upright)


def test_jpeg_png_raw_and_max_short_side() -> None:
    found = jpeg(PIXELS)
    image, result = stored(found, kind="jpeg", quality=80, max_short_side=30)
    assert (image.format, image.size, result.encoding) == ("JPEG", (45, 30), layout.JPEG)
    assert stored(found, kind="png")[1].encoding == layout.PNG
    raw = encode(found, Encoding("raw"))
    np.testing.assert_array_equal(np.load(io.BytesIO(raw.data)), np.asarray(Image.open(io.BytesIO(found))))
    assert stored(found, kind="png", max_short_side=500)[0].size == (90, 60)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (b"", "empty"),
        (b"not an image at all", "no image format"),
        (jpeg(PIXELS)[:900], "truncated"),
        (written(Image.fromarray(PIXELS), "PNG")[:900], "truncated"),
    ],
)
@pytest.mark.parametrize("kind", ["keep", "raw"])
def test_damaged_files_are_named_bad(found: bytes, reason: str, kind: str) -> None:
    with pytest.raises(BadImage, match=reason):
        encode(found, Encoding(kind))


def test_too_many_pixels_are_refused_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastlt.shards.encode.MAX_PIXELS", 1000)
    with pytest.raises(BadImage, match="90 x 60 pixels"):
        encode(jpeg(PIXELS), Encoding())


@pytest.mark.parametrize(
    "wrong", [{"kind": "foo"}, {"quality": 0}, {"max_short_side": -1}, {"max_short_side": 9}, {"orientation": "foo"}]
)
def test_wrong_options_are_refused(wrong: dict) -> None:
    with pytest.raises(UserError):
        Encoding(**wrong)
