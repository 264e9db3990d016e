"""Real files that break loaders: each has a decided outcome, and what is stored decodes in DALI."""

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_encode import check_dali, rgb, written

from fastlt.data.shards import format as layout
from fastlt.data.shards.encode import AS_IT_LIES, BadImage, Encoding, encode

MEMORY = 2e9  # bytes a process may take for any of these files
SMALL = 1_000_000  # pixels; larger images are not written as PNG and JPEG here, for time

# Width, height, and colour if it is not RGB. Kept as found with encode=keep:
KEPT = {
    "corrupted_exif_3648x2736.jpg": (3648, 2736, ""),
    "exif_landscape_1.jpg": (1800, 1200, ""),
    "exif_landscape_2.jpg": (1800, 1200, ""),
    "exif_landscape_3.jpg": (1800, 1200, ""),
    "exif_landscape_4.jpg": (1800, 1200, ""),
    "exif_landscape_5.jpg": (1200, 1800, ""),
    "exif_landscape_6.jpg": (1200, 1800, ""),
    "exif_landscape_7.jpg": (1200, 1800, ""),
    "exif_landscape_8.jpg": (1200, 1800, ""),
    "exif_portrait_6.jpg": (1800, 1200, ""),
    "extraneous_data.jpg": (16, 16, ""),
    "jpeg_baseline_227x149.jpg": (227, 149, ""),
    "jpeg_named.png": (128, 128, ""),
    "n03825788_nipple.JPEG": (106, 150, ""),
    "one_by_one_16bit_qtables.jpg": (1, 1, ""),
    "progressive_partial.jpg": (4, 4, ""),
    "restart_8mp_3264x2448.jpg": (3264, 2448, ""),
    "restart_markers_640x480.jpg": (640, 480, ""),
}
# Written anew as PNG:
ANEW = {
    "arithmetic.jpg": (227, 149, ""),  # arithmetic coding
    "bmp_named.jpg": (128, 128, ""),
    "cmyk_adobe.jpg": (100, 100, "cmyk"),
    "cmyk_mozilla_256.jpg": (256, 256, "cmyk"),
    "cmyk_progressive.jpg": (194, 71, "cmyk"),
    "gif_named.jpg": (128, 128, "palette"),
    "jpeg_lossless_8bit_gray.jpg": (512, 512, "grey"),  # SOF3; DALI fails
    "png16_i_trns.png": (64, 64, "16-bit"),  # DALI differs
    "png16_rgb_monkey.png": (149, 227, "16-bit"),  # DALI rounds otherwise
    "png_1bit.png": (800, 280, "bilevel"),
    "png_gray_alpha.png": (128, 128, "grey+alpha"),
    "png_named.JPEG": (128, 128, ""),  # a background chunk
    "webp_named.jpg": (128, 128, ""),
    "ycck_500x333_restart63.jpg": (500, 333, "cmyk"),
}
# Refused, and why:
BAD = {
    "bomb_65535x65535.jpg": "more than twice the 100000000 pixels that max_pixels allows",
    "broken.png": "damaged PNG header",
    "broken_stream_1280x960.jpg": "broken data stream when reading image file",
    "empty_0_bytes.jpg": "the file is empty",
    "jpeg_12bit.jpg": "a JPEG of 12 bits a sample, only 8 are read",
    "jpeg_lossless_16bit.jpg": "a JPEG of 16 bits a sample, only 8 are read",
    "missing_sof.jpg": "the file is truncated",
    "missing_sos.jpg": "the file holds no pixels",
    "null_height.jpg": "a JPEG of 0 x 800 pixels",
    "truncated.png": "the file is truncated",
    "truncated_193x31423.jpg": "the file is truncated",
    "truncated_3484x2347.jpg": "the file is truncated",
}


@pytest.fixture(scope="session")
def files(shared: Path) -> dict[str, bytes]:
    """The files by name."""
    with tarfile.open(shared / "data" / "awkward-images.tar.gz") as archive:
        members = [member for member in archive if member.isfile() and not member.name.endswith(".tsv")]
        return {Path(member.name).name: archive.extractfile(member).read() for member in members}  # type: ignore[union-attr]


def pixels(found: bytes, **options) -> np.ndarray:
    """What is stored as raw pixels."""
    return np.load(io.BytesIO(encode(found, Encoding("raw", **options)).data))


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference of two images of the same shape."""
    assert a.shape == b.shape
    return float(np.abs(a.astype(int) - b).mean())


def test_each_file_has_an_outcome(files: dict[str, bytes]) -> None:
    assert len(files) == 44
    assert sorted([*KEPT, *ANEW, *BAD]) == sorted(files)


@pytest.mark.parametrize("name", [*KEPT, *ANEW])
def test_good_files(name: str, files: dict[str, bytes]) -> None:
    found = files[name]
    width, height, colour = (KEPT | ANEW)[name]
    if name.startswith("exif_") and not name.endswith("_1.jpg"):
        colour = AS_IT_LIES
    stored = {kind: encode(found, Encoding(kind, quality=95)) for kind in ("keep", "raw")}
    if width * height <= SMALL:
        stored |= {kind: encode(found, Encoding(kind, quality=95)) for kind in ("png", "jpeg")}
    for result in stored.values():
        assert (result.height, result.width, result.colour) == (height, width, colour)
    as_found = stored["keep"].data == found
    assert as_found == (name in KEPT)
    codes = {"keep": layout.JPEG if as_found else layout.PNG, "raw": layout.RAW, "png": layout.PNG, "jpeg": layout.JPEG}
    assert {kind: result.encoding for kind, result in stored.items()} == {kind: codes[kind] for kind in stored}
    # Pillow's RGB is the reference, but for 16-bit grey, which it clips.
    reference = rgb(found)
    if name == "png16_i_trns.png":
        reference = np.dstack([np.asarray(Image.open(io.BytesIO(found))) // 257] * 3).astype(np.uint8)
    np.testing.assert_array_equal(np.load(io.BytesIO(stored["raw"].data)), reference)
    if width * height <= SMALL:
        np.testing.assert_array_equal(rgb(stored["keep"].data), reference)
        np.testing.assert_array_equal(rgb(stored["png"].data), reference)
        lossy = written(Image.fromarray(reference), "JPEG", quality=95)
        np.testing.assert_array_equal(rgb(stored["jpeg"].data), rgb(lossy))


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("kind", ["keep", "jpeg", "png", "raw"])
@pytest.mark.parametrize("orientation", ["ignore", "apply"])
def test_bad_files(name: str, kind: str, orientation: str, files: dict[str, bytes]) -> None:
    with pytest.raises(BadImage) as raised:
        encode(files[name], Encoding(kind, orientation=orientation))
    assert str(raised.value) == BAD[name]


def test_dali_decodes_all_that_is_stored(files: dict[str, bytes]) -> None:
    names = [*KEPT, *ANEW]
    check_dali(names, [encode(files[name], Encoding()) for name in names])


@pytest.mark.parametrize(
    ("name", "reference", "tolerance"),
    [
        ("arithmetic.jpg", "jpeg_baseline_227x149.jpg", 0),  # the same coefficients, coded otherwise
        ("bmp_named.jpg", "png_named.JPEG", 0),
        ("jpeg_named.png", "png_named.JPEG", 0.1),
        ("gif_named.jpg", "png_named.JPEG", 5),  # 256 colours
        ("webp_named.jpg", "png_named.JPEG", 5),  # lossy
    ],
)
def test_same_picture_in_another_coding(name: str, reference: str, tolerance: float, files: dict[str, bytes]) -> None:
    assert difference(pixels(files[name]), pixels(files[reference])) <= tolerance


def test_inks_have_the_right_colours(files: dict[str, bytes]) -> None:
    """A white page stays white, red is red: CMYK of Adobe is stored inverted, and others not."""
    logo, words = pixels(files["cmyk_progressive.jpg"]), pixels(files["cmyk_mozilla_256.jpg"])
    assert logo[0, 0].min() > 240
    assert words[0, 0].min() > 240
    red = np.median(logo[logo[..., 1] < 100], axis=0)
    assert red[0] > 200
    assert red[1:].max() < 60
    letters = pixels(files["cmyk_adobe.jpg"])
    bright = np.median(letters[letters[..., 0] > 150], axis=0)
    assert bright[1:].max() < 60
    grass = pixels(files["ycck_500x333_restart63.jpg"])[200:230, :100].reshape(-1, 3).mean(axis=0)
    assert grass.argmax() == 1


@pytest.mark.parametrize("number", range(1, 9))
def test_orientation(number: int, files: dict[str, bytes]) -> None:
    """Eight files of one picture. They were turned and saved as JPEG again, and the digit in them differs."""
    upright, found = pixels(files["exif_landscape_1.jpg"]), files[f"exif_landscape_{number}.jpg"]
    as_found = rgb(found)
    np.testing.assert_array_equal(pixels(found), as_found)
    turned = pixels(found, orientation="apply")
    assert difference(turned, upright) < 4
    for wrong in (turned[::-1], turned[:, ::-1], turned[::-1, ::-1]):
        assert difference(wrong, upright) > 20
    assert (as_found.shape == upright.shape) == (number < 5)
    kept = encode(found, Encoding(orientation="apply")).data == found
    assert kept == (number == 1)


def test_orientation_of_a_portrait(files: dict[str, bytes]) -> None:
    found = files["exif_portrait_6.jpg"]
    np.testing.assert_array_equal(pixels(found, orientation="apply"), np.rot90(rgb(found), -1))


def test_memory(files: dict[str, bytes], tmp_path: Path) -> None:
    for name, found in files.items():
        (tmp_path / name).write_bytes(found)
    script = """
import pathlib, sys
from fastlt.data.shards.encode import BadImage, Encoding, encode
for path in pathlib.Path(sys.argv[1]).iterdir():
    for kind, orientation in (("keep", "ignore"), ("raw", "apply")):
        try:
            encode(path.read_bytes(), Encoding(kind, orientation=orientation))
        except BadImage:
            pass
# Not getrusage: its peak starts at that of the process that started this one.
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    assert int(done.stdout) * 1024 < MEMORY
