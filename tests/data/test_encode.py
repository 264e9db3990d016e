"""One image in, stored bytes out; and DALI's decoder gives the pixels of what is stored."""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# (DALI makes most of its names when it is imported)

import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from nvidia.dali import Pipeline, fn, types
from pictures import Pictures, jpeg, picture
from PIL import Image, ImageCms, features

from fastlt.core.errors import UserError
from fastlt.data.convert.workers import encode_sample
from fastlt.data.plugins import missing_plugin, register_plugins
from fastlt.data.shards import format as layout
from fastlt.data.shards.encode import BadImage, Encoding, decode, encode
from fastlt.data.sources.walk import image_extensions

PIXELS = picture(0, 60, 90)
PICTURE = Image.fromarray(PIXELS)
GREY = PICTURE.convert("L")
Box = tuple[int, int, int, int]


def stored(found: bytes, **options) -> tuple[Image.Image, layout.Encoded]:
    result = encode(found, Encoding(**options))
    return Image.open(io.BytesIO(result.data)), result


def written(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def rgb(data: bytes) -> np.ndarray:
    """Pillow's pixels."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def dali(data: Sequence[bytes], boxes: Sequence[Box]) -> list[np.ndarray]:
    """The pixels of a box (y, x, height, width) of each image, decoded as the training pipeline does."""
    pipeline = Pipeline(batch_size=len(data), num_threads=1, device_id=None, prefetch_queue_depth=1)
    with pipeline:
        box = np.array(boxes, np.int32)
        inputs = [np.frombuffer(each, np.uint8) for each in data], box[:, :2].copy(), box[:, 2:].copy()
        columns = fn.external_source(lambda: inputs, num_outputs=3, batch=True)
        where = {"axes": [0, 1], "normalized_anchor": False, "normalized_shape": False}
        image = fn.decoders.image_slice(*columns, output_type=types.RGB, adjust_orientation=False, **where)
        pipeline.set_outputs(image)
    pipeline.build()
    (images,) = pipeline.run()
    return [np.array(images.at(number)) for number in range(len(data))]


def decoded_by_dali(found: bytes) -> bool:
    """Whether DALI decodes the bytes at all."""
    try:
        dali([found], [(0, 0, 1, 1)])
    except RuntimeError as error:
        assert "decoders.image_slice" in str(error)
        return False
    return True


def check_dali(names: Sequence[str], results: Sequence[layout.Encoded]) -> None:
    """DALI decodes what is stored to Pillow's pixels: the whole image and two crops of it, of the size in the index."""
    for name, result in zip(names, results, strict=True):
        assert rgb(result.data).shape == (result.height, result.width, 3), name
    for y, x, height, width in ((0, 0, 1, 1), (0.33, 0.41, 0.5, 0.4), (0.47, 0.28, 0.53, 0.72)):
        boxes: list[Box] = []
        for result in results:
            top, left = int(y * result.height), int(x * result.width)
            size = max(1, int(height * result.height)), max(1, int(width * result.width))
            boxes.append((top, left, *size))
        decoded = dali([result.data for result in results], boxes)
        for name, result, box, pixels in zip(names, results, boxes, decoded, strict=True):
            part = rgb(result.data)[box[0] : box[0] + box[2], box[1] : box[1] + box[3]]
            np.testing.assert_array_equal(pixels, part, err_msg=f"{name} {box}")


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
    kept = encode(found, Encoding())
    assert kept.data == found and kept.colour == "not turned as EXIF says"
    image, result = stored(found, orientation="apply")
    assert (result.height, result.width, result.colour) == (90, 60, "")
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


def test_exif_orientation_that_cannot_be_read_or_means_nothing_leaves_the_file_as_it_is() -> None:
    exif = Image.Exif()
    exif[0x0112] = 9
    undefined = written(PICTURE, "JPEG", exif=exif.tobytes())
    exif[0x0112] = 6
    sound = written(PICTURE, "JPEG", exif=exif.tobytes())
    damaged = sound.replace(b"Exif\0\0MM", b"Exif\0\0XX")
    assert damaged != sound
    for found in (undefined, damaged):
        assert encode(found, Encoding(orientation="apply")).data == found
        assert encode(found, Encoding()).colour == ""


# --- JPEG ---


def patched(found: bytes, sampling: Sequence[int] = (), ids: Sequence[int] = ()) -> bytes:
    """A JPEG with other sampling factors or component ids in its header: other pixels, or none."""
    data = bytearray(found)
    frame, scan = found.index(b"\xff\xc0"), found.index(b"\xff\xda")
    for place, factors in enumerate(sampling):
        data[frame + 11 + 3 * place] = factors
    for place, name in enumerate(ids):
        data[frame + 10 + 3 * place] = data[scan + 5 + 2 * place] = name
    return bytes(data)


def jpegs() -> dict[str, bytes]:
    """JPEGs of every kind that is kept."""
    plain = written(PICTURE, "JPEG", subsampling="4:4:4")
    bare = plain[:2] + plain[20:]  # without the JFIF segment
    found = {
        f"{sampling} progressive={progressive}": written(
            PICTURE, "JPEG", subsampling=sampling, progressive=progressive, quality=quality
        )
        for sampling in ("4:4:4", "4:2:2", "4:2:0")
        for progressive, quality in ((False, 100), (True, 30))
    }
    for sampling in (
        (0x41, 0x11, 0x11),
        (0x12, 0x11, 0x11),
        (0x42, 0x11, 0x11),
        (0x11, 0x21, 0x11),
        (0x22, 0x21, 0x12),
    ):
        found["sampling " + bytes(sampling).hex()] = patched(plain, sampling)
    for ids in (b"RGB", b"\0\1\2", b"567"):
        found[f"ids {ids!r}"] = patched(bare, ids=ids)
        found[f"ids {ids!r} JFIF"] = patched(plain, ids=ids)
    for transform in (0, 1, 2):
        adobe = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([transform])
        found[f"Adobe {transform}"] = bare[:2] + adobe + bare[2:]
        found[f"Adobe {transform} JFIF"] = plain[:20] + adobe + plain[20:]
    exif = Image.Exif()
    exif[0x0112] = 6
    return found | {
        "RGB": written(PICTURE, "JPEG", keep_rgb=True),
        "RGB progressive": written(PICTURE, "JPEG", keep_rgb=True, progressive=True),
        "grey": written(GREY, "JPEG"),
        "grey progressive": written(GREY, "JPEG", progressive=True),
        "restart markers": written(PICTURE, "JPEG", restart_marker_blocks=1),
        "several pictures": written(PICTURE, "MPO", save_all=True, append_images=[PICTURE.rotate(90)]),
        "extended": plain.replace(b"\xff\xc0", b"\xff\xc1"),
        "orientation": written(PICTURE, "JPEG", exif=exif),
        "comment": written(PICTURE, "JPEG", comment=bytes(65533)),
        "fill bytes": plain[:20] + b"\xff\xff" + plain[20:],
        "bytes after the end": plain + b"\xff\xd8 and more" * 100,
        "1 x 1": jpeg(PIXELS[:1, :1]),
        "1 x 60": jpeg(PIXELS[:, :1]),
    }


def test_dali_decodes_kept_jpegs_as_pillow_does() -> None:
    found = jpegs()
    results = {name: encode(data, Encoding()) for name, data in found.items()}
    for name, result in results.items():
        assert result.data == found[name], name
        lies = "not turned as EXIF says" if name == "orientation" else ""
        assert result.colour == ("grey" if name.startswith("grey") else lies)
    check_dali(list(results), list(results.values()))


def test_jpeg_that_dali_refuses_is_written_anew() -> None:
    plain = jpeg(PIXELS)
    gap = plain[:20] + b"\0\1\2" + plain[20:]
    assert decoded_by_dali(plain)
    assert not decoded_by_dali(gap)
    result = encode(gap, Encoding())
    assert result.encoding == layout.PNG
    np.testing.assert_array_equal(rgb(result.data), rgb(plain))


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"restart_marker_blocks": 3}, {"subsampling": 0, "quality": 95}], ids=str
)
def test_every_cut_of_a_jpeg_is_refused(options: dict) -> None:
    for found in (written(PICTURE, "JPEG", **options), written(GREY, "JPEG", **options)):
        for end in range(1, len(found)):  # down to the last byte of the end marker
            for kind in ("keep", "raw"):
                with pytest.raises(BadImage):
                    encode(found[:end], Encoding(kind))


def test_damaged_jpegs_are_bad_or_decode_alike_whichever_way() -> None:
    rng = np.random.default_rng(0)
    sound = [
        jpeg(PIXELS),
        written(PICTURE, "JPEG", progressive=True),
        written(PICTURE, "JPEG", restart_marker_blocks=2),
    ]
    kept, bad = [], 0
    for number in range(400):
        found = bytearray(sound[number % 3])
        at, length = int(rng.integers(2, len(found))), int(rng.integers(1, 40))
        piece = (b"", bytes(length), rng.bytes(length), b"\xff\xd9")[number % 4]
        found[at : at + (0 if number % 5 == 0 else length)] = piece
        outcomes = []
        for kind in ("keep", "raw"):
            try:
                outcomes.append(encode(bytes(found), Encoding(kind)))
            except BadImage as error:
                outcomes.append(None)
                assert "\n" not in str(error)
                assert "0x" not in str(error)
        assert (outcomes[0] is None) == (outcomes[1] is None)
        bad += outcomes[0] is None
        if outcomes[0] is not None:
            np.testing.assert_array_equal(rgb(outcomes[0].data), np.load(io.BytesIO(outcomes[1].data)))
            kept.append(outcomes[0])
    assert bad > 50
    assert len(kept) > 100
    data = [result.data for result in kept]
    for image, result in zip(dali(data, [(0, 0, result.height, result.width) for result in kept]), kept, strict=True):
        np.testing.assert_array_equal(image, rgb(result.data))
    # A crop skips what lies above it and need not guess the same in the damaged part. But it never fails.
    for image in dali(data, [(result.height // 3, result.width // 3, 9, 7) for result in kept]):
        assert image.shape == (9, 7, 3)


# --- PNG ---


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(
    pixels: np.ndarray, *before: bytes, depth: int = 8, interlaced: bool = False, height: int = 0, split: int = 0
) -> bytes:
    """A PNG of uint8 [H, W, bytes of a pixel], grey or RGB. before: chunks ahead of the pixels. height: as stated."""
    rows, columns, size = pixels.shape
    colour = 0 if size * 8 == depth else 2
    passes = ((0, 0, 1, 1),)
    if interlaced:
        passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    data = b"".join(
        b"\0" + row.tobytes() for x, y, right, down in passes for row in pixels[y::down, x::right] if row.size
    )
    packed = zlib.compress(data)
    header = struct.pack(">IIBBBBB", columns, height or rows, depth, colour, 0, 0, interlaced)
    parts = [chunk(b"IDAT", part) for part in (packed[:split], packed[split:])]
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join([*before, *parts, chunk(b"IEND", b"")])


def test_dali_decodes_kept_pngs_as_pillow_does() -> None:
    profile = zlib.compress(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    found = {
        "RGB": written(PICTURE, "PNG"),
        "grey": written(GREY, "PNG"),
        "two pieces": png(PIXELS, split=100),
        "gamma 1": png(PIXELS, chunk(b"gAMA", struct.pack(">I", 100_000))),
        "gamma 1/2.2": png(PIXELS[..., :1], chunk(b"gAMA", struct.pack(">I", 45_455))),
        "colour profile": png(PIXELS, chunk(b"iCCP", b"x\0\0" + profile)),
        "orientation": png(PIXELS, chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0")),
        "bytes after the end": written(PICTURE, "PNG") + b"more" * 100,
    }
    for height, width in ((1, 1), (2, 3), (5, 4), (9, 17), (60, 90)):
        found[f"interlaced {height} x {width}"] = png(PIXELS[:height, :width], interlaced=True)
    results = {name: encode(data, Encoding()) for name, data in found.items()}
    assert [name for name in found if results[name].data != found[name]] == []
    check_dali(list(results), list(results.values()))
    turned = encode(found["orientation"], Encoding(orientation="apply"))
    np.testing.assert_array_equal(rgb(turned.data), np.rot90(PIXELS, -1))


def test_other_pngs_are_written_anew() -> None:
    plain = written(PICTURE, "PNG")
    at = plain.index(b"IDAT")
    end = at + 4 + struct.unpack(">I", plain[at - 4 : at])[0]
    refused = {
        "wrong checksum": plain[:end] + b"\0\0\0\0" + plain[end + 4 :],
        "no end": plain[:-12],
        "half an end": plain[:-3],
        "unknown critical chunk": png(PIXELS, chunk(b"ABCD", b"")),
    }
    differ = {
        "16-bit": png(np.random.default_rng(0).integers(0, 256, (60, 90, 6), np.uint8), depth=16),
        "transparent colour": written(PICTURE, "PNG", transparency=tuple(PIXELS[0, 0].tolist())),
        "alpha": written(Image.fromarray(np.dstack([PIXELS, PIXELS[..., 0]])), "PNG"),
        "palette": written(PICTURE.quantize(16), "PNG", transparency=3),
        "animated": written(PICTURE, "PNG", save_all=True, append_images=[PICTURE.rotate(180)]),
        "more rows than said": png(PIXELS, height=50),
    }
    assert not any(map(decoded_by_dali, refused.values()))
    results = {}
    for name, found in (refused | differ).items():
        results[name] = encode(found, Encoding())
        assert (results[name].data != found, results[name].encoding) == (True, layout.PNG), name
        np.testing.assert_array_equal(rgb(results[name].data), rgb(found), err_msg=name)
    check_dali(list(results), list(results.values()))
    colours = {name: result.colour for name, result in results.items() if result.colour}
    first = "first of several frames"
    assert colours == {"16-bit": "16-bit", "alpha": "alpha", "palette": "palette", "animated": first}


@pytest.mark.parametrize("kind", ["keep", "raw"])
@pytest.mark.parametrize("interlaced", [False, True])
def test_png_with_missing_rows_is_bad(kind: str, interlaced: bool) -> None:
    with pytest.raises(BadImage, match=r"^the file is truncated$"):
        encode(png(PIXELS, height=61, interlaced=interlaced), Encoding(kind))


def test_text_that_inflates_without_end_is_bad() -> None:
    with pytest.raises(BadImage, match="too large"):
        encode(png(PIXELS, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000)))), Encoding())


# --- all formats ---


def test_alpha_is_dropped_and_the_first_frame_taken() -> None:
    transparent = np.dstack([PIXELS, np.zeros_like(PIXELS[..., 0])])
    np.testing.assert_array_equal(stored(written(Image.fromarray(transparent), "PNG"))[0], PIXELS)
    found = written(PICTURE.quantize(), "GIF", save_all=True, append_images=[GREY])
    np.testing.assert_array_equal(stored(found)[0], rgb(written(PICTURE.quantize(), "GIF")))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG", "AVIF"])
def test_several_pages_or_frames_are_said(kind: str) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {"quality": 100} if kind == "AVIF" else {}
    single = encode(written(PICTURE, kind, **options), Encoding())
    both = encode(written(PICTURE, kind, save_all=True, append_images=[PICTURE.rotate(180)], **options), Encoding())
    np.testing.assert_allclose(rgb(both.data), rgb(single.data), atol=8 if kind == "AVIF" else 0)
    colour = "palette, " if kind == "GIF" else ""
    assert (single.colour, both.colour) == (colour[:-2], f"{colour}first of several frames")


def test_damage_behind_the_first_frame_does_no_harm() -> None:
    found = written(PICTURE, "TIFF", save_all=True, append_images=[PICTURE] * 2)
    np.testing.assert_array_equal(rgb(encode(found[: len(found) * 2 // 3], Encoding()).data), PIXELS)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "palette", "colour"])
def test_a_background_under_transparent_pixels(mode: str) -> None:
    """Half of the pixels are transparent, a quarter is half transparent where the mode can say so."""
    alpha = np.zeros(PIXELS.shape[:2], np.uint8)
    alpha[:, 45:] = 255
    if mode in ("RGBA", "LA"):
        alpha[:30, :45] = 51
        picture = Image.fromarray(np.dstack([PIXELS, alpha])).convert(mode)
        found = written(picture, "PNG")
        plain = np.asarray(picture.convert("RGB"))
    else:
        flat = np.where(alpha[..., None] > 0, PIXELS // 2, 255).astype(np.uint8)
        picture = Image.fromarray(flat)
        if mode == "palette":
            picture = picture.quantize(16)
            found = written(picture, "PNG", transparency=picture.getpixel((0, 0)))
        else:
            found = written(picture, "PNG", transparency=(255, 255, 255))
        plain = np.asarray(picture.convert("RGB"))
    dropped = stored(found)[0]
    np.testing.assert_array_equal(dropped, plain)
    for name, colour in (("white", (255, 255, 255)), ("#204060", (0x20, 0x40, 0x60))):
        share = alpha[..., None] / 255
        expected = share * plain + (1 - share) * np.array(colour)
        found_pixels = np.asarray(stored(found, background=name)[0], np.float64)
        np.testing.assert_allclose(found_pixels, expected, atol=1)
    with pytest.raises(UserError, match="background=clear is no colour: allowed are names such as white, and #RRGGBB"):
        Encoding(background="clear")


def test_a_background_changes_nothing_else() -> None:
    found = written(PICTURE, "PNG")
    assert encode(found, Encoding(background="white")).data == found


def test_floats() -> None:
    values = PIXELS[..., 0].astype(np.float32)
    for scale in (1, 1 / 255):
        found = stored(written(Image.fromarray(values * scale), "TIFF"))[0]
        np.testing.assert_array_equal(found, np.dstack([PIXELS[..., 0]] * 3))
    for wrong, text in ((values - 300, "floats from -"), (values + 200, "to 4"), (values * np.nan, "floats from nan")):
        with pytest.raises(BadImage, match=text):
            encode(written(Image.fromarray(wrong.astype(np.float32)), "TIFF"), Encoding())


@pytest.mark.parametrize(("package", "kind"), [("pillow_heif", "HEIF"), ("pillow_jxl", "JXL")])
def test_formats_of_plugins(package: str, kind: str) -> None:
    pytest.importorskip(package, reason=f"{package} is not installed: pip install 'fastlt[formats]'")
    register_plugins()
    options = {"quality": 100} if kind == "HEIF" else {"lossless": True}
    np.testing.assert_allclose(np.asarray(stored(written(PICTURE, kind, **options))[0], int), PIXELS, atol=20)
    assert {".heic", ".jxl"} & image_extensions()


@pytest.mark.parametrize(
    ("found", "name"),
    [(b"\0\0\0\x18ftypheic" + bytes(20), "HEIC"), (b"\xff\x0a" + bytes(20), "JPEG XL")],
)
def test_formats_without_their_plugin(found: bytes, name: str) -> None:
    assert missing_plugin(found) == f"{name} is read with pip install 'fastlt[formats]'"
    assert missing_plugin(b"x" * 20) == ""


def test_nothing_but_pixels_is_stored_of_a_file_written_anew() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    found = written(PICTURE.convert("CMYK"), "JPEG", icc_profile=profile, comment=b"a comment", dpi=(10, 10))
    for kind in ("keep", "jpeg"):
        assert set(stored(found, kind=kind)[0].info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


def test_postscript_is_not_run() -> None:
    with pytest.raises(BadImage, match="program"):
        encode(written(PICTURE, "EPS"), Encoding())


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (b"", "the file is empty"),
        (b"not an image at all", "no image format known to Pillow"),
        (jpeg(PIXELS)[:100], "the file is truncated"),
        (jpeg(PIXELS)[:900], "the file is truncated"),
        (jpeg(PIXELS)[:-2], "the file is truncated"),
        (
            jpeg(PIXELS).replace(b"\xff\xc0\0\x11\x08", b"\xff\xc1\0\x11\x0c"),
            "a JPEG of 12 bits a sample, only 8 are read",
        ),
        (written(PICTURE, "PNG")[:900], "the file is truncated"),
        (written(PICTURE, "PNG")[:20], "the file is truncated"),
        (written(PICTURE, "BMP")[:900], "the file is truncated"),
    ],
)
@pytest.mark.parametrize("kind", ["keep", "raw"])
def test_damaged_files_are_named_bad(found: bytes, reason: str, kind: str) -> None:
    with pytest.raises(BadImage) as raised:
        encode(found, Encoding(kind))
    assert str(raised.value) == reason


def test_too_many_pixels_are_refused_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)  # Pillow itself refuses twice as many
    for limit, told in ((1000, "more than twice"), (5399, "90 x 60 pixels, max_pixels=5399 allows fewer")):
        with pytest.raises(BadImage, match=told):
            encode(jpeg(PIXELS), Encoding(max_pixels=limit))
    assert (encode(jpeg(PIXELS), Encoding(max_pixels=5400)).width, Image.MAX_IMAGE_PIXELS) == (90, 5400)
    with pytest.raises(UserError, match=r"^max_pixels=0: it must be at least 1$"):
        Encoding(max_pixels=0)


def test_want_of_memory_makes_no_bad_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object) -> None:
        raise MemoryError

    source = Pictures()
    monkeypatch.setattr(Image, "open", none_left)
    with pytest.raises(MemoryError):
        encode(jpeg(PIXELS), Encoding())
    with pytest.raises(UserError, match=r"größe 3\.jpg: there was no memory left to decode it: give the same command"):
        encode_sample(source, Encoding(), "train", 3, raw=False)


SMALL = Image.fromarray(PIXELS[:7, :9])
TURNED = Image.Exif()
TURNED[0x0112] = 6
WAYS = [
    Encoding(kind, orientation=orientation, max_short_side=side)
    for kind in ("keep", "jpeg", "png", "raw")
    for orientation in ("ignore", "apply")
    for side in ((0,) if kind == "keep" else (0, 3))
]


def refuses(found: bytes, encoding: Encoding) -> bool:
    try:
        encode(found, encoding)
    except BadImage:
        return True
    return False


@pytest.mark.parametrize(
    "found",
    [
        written(SMALL, "PNG"),
        written(SMALL, "PNG", exif=TURNED),
        written(SMALL.convert("L"), "PNG"),
        written(SMALL.quantize(8), "PNG"),
        written(SMALL, "JPEG"),
        written(SMALL, "JPEG", exif=TURNED, progressive=True),
        written(SMALL.convert("CMYK"), "JPEG"),
        written(SMALL.quantize(8), "GIF"),
        written(SMALL, "WEBP", exif=TURNED),
        written(SMALL, "TIFF", exif=TURNED, compression="tiff_adobe_deflate"),
        written(SMALL, "BMP"),
    ],
    ids=["png", "png exif", "png grey", "png palette", "jpeg", "jpeg exif", "jpeg cmyk", "gif", "webp", "tiff", "bmp"],
)
def test_a_flipped_bit_is_refused_with_all_options_or_with_none(found: bytes) -> None:
    bits = np.random.default_rng(0).choice(8 * len(found), min(8 * len(found), 150), replace=False)
    refused = 0
    for bit in bits.tolist():
        damaged = bytearray(found)
        damaged[bit // 8] ^= 1 << bit % 8
        outcomes = {refuses(bytes(damaged), way) for way in WAYS}
        assert len(outcomes) == 1, f"bit {bit}"
        refused += outcomes.pop()
    assert 0 < refused < len(bits)


@pytest.mark.parametrize("orientation", ["ignore", "apply"])
def test_damaged_pixels_of_a_png_are_bad_also_where_its_exif_is_looked_for(orientation: str) -> None:
    found = bytearray(written(PICTURE, "PNG"))
    found[found.index(b"IDAT") + 1000] ^= 4
    for kind in ("keep", "jpeg", "png", "raw"):
        with pytest.raises(BadImage, match="broken data stream"):
            encode(bytes(found), Encoding(kind, orientation=orientation))


def test_an_image_too_long_for_a_jpeg_is_stored_as_png() -> None:
    long = np.repeat(PIXELS[:1, :1], 65_501, axis=1)
    for found in (long, written(Image.fromarray(long), "PNG")):
        result = encode(found, Encoding("jpeg"))
        assert (result.encoding, result.width) == (layout.PNG, 65_501)
        np.testing.assert_array_equal(rgb(result.data), long)
    np.testing.assert_array_equal(decode(written(Image.fromarray(long), "PNG"), Encoding("jpeg")), long)


@pytest.mark.parametrize(
    "wrong", [{"kind": "foo"}, {"quality": 0}, {"max_short_side": -1}, {"max_short_side": 9}, {"orientation": "foo"}]
)
def test_wrong_options_are_refused(wrong: dict) -> None:
    with pytest.raises(UserError):
        Encoding(**wrong)
