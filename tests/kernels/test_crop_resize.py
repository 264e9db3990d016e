"""crop_resize against Pillow and torchvision.

Each of the two resampling passes is compared for equality with Pillow's own single pass, so the comparison holds for
any order of passes Pillow may choose. Against `F.resized_crop` as a whole, whose Pillow may do columns first, the
tolerance is one level of 255 for any pixel and 0.3 on average. Jitter is compared for equality on x86; other compilers
may fuse Pillow's multiply-add, which moves single pixels by one level.
"""

import platform
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fastlt.kernels.crop_resize import INTERPOLATIONS, ORDERS, REACH, crop_resize_into, reference

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
PLAIN: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}  # out = pixel value
ADJUST: tuple[Any, ...] = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation)


def picture(height, width, seed=0):
    """Smooth colours, hard edges and noise: uint8 [height, width, 3]."""
    rng = np.random.default_rng([seed, height, width])
    y, x = np.mgrid[0:height, 0:width]
    smooth = 128 + 90 * np.stack([np.sin(x / 17 + y / 29), np.cos(y / 11), np.sin((x + y) / 23)], axis=2)
    edges = np.where(((x // 9 + y // 13) % 3 == 0)[:, :, None], rng.integers(0, 256, 3), smooth)
    noise = rng.normal(0, 60, (height, width, 3)) * ((x + y) // 40 % 2)[:, :, None]
    return (edges + noise).clip(0, 255).astype(np.uint8)


def crop_resize(image, box, size, flip=False, jitter=None, mean=MEAN, std=STD, window=None, interpolation="bilinear"):
    """What crop_resize_into writes, float32 [3, T_h, T_w], for the arguments of the reference; size may be a number."""
    window = np.array(box if window is None else window, np.int32)
    inside = np.array(box, np.float64)
    inside[:2] -= window[:2]
    out = np.full((3, *np.broadcast_to(size, 2)), np.nan, np.float32)  # all of it must be overwritten
    factors = np.array((1, 1, 1, 0) if jitter is None else jitter, np.float32)
    scales = np.array(mean, np.float32), (1 / np.array(std, np.float64)).astype(np.float32)
    crop_resize_into(out, image, window, inside, int(flip), factors, *scales, INTERPOLATIONS.index(interpolation))
    return out


def chw(image):
    return np.asarray(image).transpose(2, 0, 1).astype(np.float32)


def torchvision_crop(image, box, size, flip=False, interpolation="bilinear"):
    pil: Any = Image.fromarray(image)
    y, x, crop_h, crop_w = box
    how = F.InterpolationMode(interpolation)
    result = F.resized_crop(pil, y, x, crop_h, crop_w, list(size), how, antialias=True)
    return F.hflip(result) if flip else result


def two_passes(image, box, size, interpolation="bilinear"):
    """Pillow's rows, then Pillow's columns."""
    y, x, crop_h, crop_w = box
    how = Image.Resampling[interpolation.upper()]
    crop = Image.fromarray(image).crop((x, y, x + crop_w, y + crop_h))
    rows = crop.resize((size[1], crop_h), how)
    return chw(rows.resize((size[1], size[0]), how))


CASES = {
    "down": ((500, 375), (20, 30, 400, 300), (224, 224)),
    "down far": ((700, 900), (0, 0, 700, 900), (32, 32)),
    "up": ((100, 90), (10, 20, 60, 50), (224, 224)),
    "up far": ((40, 40), (3, 5, 7, 6), (224, 224)),
    "wide to tall": ((300, 500), (50, 10, 100, 480), (224, 160)),
    "tall to wide": ((500, 120), (5, 10, 480, 100), (97, 201)),
    "whole image": ((333, 250), (0, 0, 333, 250), (224, 224)),
    "whole image 32": ((64, 48), (0, 0, 64, 48), (32, 32)),
    "width kept": ((100, 64), (10, 0, 80, 64), (33, 64)),
    "height kept": ((64, 100), (0, 10, 64, 80), (64, 33)),
    "one pixel": ((20, 30), (19, 29, 1, 1), (224, 224)),
    "one row": ((20, 30), (7, 0, 1, 30), (32, 32)),
    "one column": ((20, 30), (0, 29, 20, 1), (17, 19)),
    "to one pixel": ((50, 70), (1, 2, 40, 60), (1, 1)),
    "odd": ((301, 203), (7, 11, 211, 157), (113, 71)),
    "exact half": ((64, 128), (0, 0, 64, 128), (32, 64)),
}


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_resize_is_pillows(case, flip, interpolation):
    (height, width), box, size = CASES[case]
    image = picture(height, width)
    ours = crop_resize(image, box, size, flip, interpolation=interpolation, **PLAIN)
    assert ours.dtype == np.float32 and ours.shape == (3, *size)
    passes = two_passes(image, box, size, interpolation)
    np.testing.assert_array_equal(ours, passes[:, :, ::-1] if flip else passes)
    difference = np.abs(ours - chw(torchvision_crop(image, box, size, flip, interpolation)))
    # Columns first clips what overshoots at other places than rows first.
    largest, mean = (1, 0.3) if interpolation == "bilinear" else (24, 0.5)
    assert difference.max() <= largest and difference.mean() <= mean


def test_bicubic_overshoots_an_edge_and_is_clipped():
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, 4:] = 255
    image[:4, :4] = 20
    grown = crop_resize(image, (0, 0, 8, 8), 64, interpolation="bicubic", **PLAIN)
    np.testing.assert_array_equal(grown, two_passes(image, (0, 0, 8, 8), (64, 64), "bicubic"))
    assert (grown[:, :16, :32] < 20).any() and grown.min() == 0 and grown.max() == 255


@pytest.mark.parametrize("size", [(32, 32), (224, 224), (33, 17)])
@pytest.mark.parametrize("flip", [False, True])
def test_a_crop_of_the_output_size_is_copied(size, flip):
    image = picture(size[0] + 9, size[1] + 5)
    expected = chw(image[4 : 4 + size[0], 3 : 3 + size[1]])
    np.testing.assert_array_equal(
        crop_resize(image, (4, 3, *size), size, flip, **PLAIN), expected[:, :, ::-1] if flip else expected
    )


@pytest.mark.parametrize("y", [-4, 0, 2])
@pytest.mark.parametrize("x", [-4, 1, 4])
@pytest.mark.parametrize("flip", [False, True])
def test_pad_crop_is_torchs(y, x, flip):
    image = picture(32, 32)
    mean, std = np.array([125.3, 123.0, 113.9]), np.array([63.0, 62.1, 66.7])
    padded = torch.nn.functional.pad(torch.from_numpy(image).permute(2, 0, 1), (4, 4, 4, 4))
    crop = padded[:, y + 4 : y + 36, x + 4 : x + 36].float()
    crop = crop.flip(2) if flip else crop
    offset = torch.tensor(mean, dtype=torch.float32).view(3, 1, 1)
    factor = torch.tensor((1 / std).astype(np.float32)).view(3, 1, 1)
    ours = crop_resize(image, (y, x, 32, 32), 32, flip, None, mean, std)
    np.testing.assert_array_equal(ours, ((crop - offset) * factor).numpy())


@pytest.mark.parametrize(
    "box", [(-5, -7, 40, 50), (10, 12, 60, 30), (-3, 5, 20, 20), (-9, -9, 80, 90), (100, 0, 9, 9), (0, -60, 30, 20)]
)
@pytest.mark.parametrize("size", [(24, 36), (9, 9), (80, 90)])
def test_a_window_that_sticks_out_is_resized_with_black(box, size):
    image = picture(40, 44)
    ours = crop_resize(image, box, size, **PLAIN)
    np.testing.assert_array_equal(ours, two_passes(image, box, size))
    np.testing.assert_array_equal(crop_resize(image, box, size, True, **PLAIN), ours[:, :, ::-1])


def torchvision_jitter(image, jitter):
    result = Image.fromarray(image)
    for op in ORDERS[int(jitter[3])]:
        result = ADJUST[op](result, float(np.float32(jitter[op])))
    return chw(result)


def assert_same_colours(ours, theirs):
    difference = np.abs(ours - theirs)
    if platform.machine() == "x86_64":
        assert difference.max() == 0
    assert difference.max() <= 3 and difference.mean() <= 0.1


@pytest.mark.parametrize("op", [0, 1, 2])
@pytest.mark.parametrize("factor", [0.0, 0.6, 0.95, 1.4, 2.5])
def test_each_jitter_op_is_torchvisions(op, factor):
    image = picture(61, 50)
    jitter = [1.0, 1.0, 1.0, 0.0]
    jitter[op] = factor
    assert_same_colours(
        crop_resize(image, (0, 0, 61, 50), (61, 50), False, jitter, **PLAIN), torchvision_jitter(image, jitter)
    )


@pytest.mark.parametrize("order", range(6))
@pytest.mark.parametrize("factors", [(1.4, 0.6, 1.3), (0.7, 1.35, 0.8), (1.2, 1.4, 1.4)])
def test_all_orders_of_jitter_are_torchvisions(order, factors):
    image, box, size = picture(180, 150), (11, 7, 160, 120), (64, 48)
    small = two_passes(image, box, size).transpose(1, 2, 0).astype(np.uint8)
    jitter = (*factors, order)
    theirs = torchvision_jitter(small, jitter)
    assert_same_colours(crop_resize(image, box, size, False, jitter, **PLAIN), theirs)
    assert_same_colours(crop_resize(image, box, size, True, jitter, **PLAIN), theirs[:, :, ::-1])


def test_orders_matter_and_are_the_six_permutations():
    assert sorted(ORDERS) == sorted(set(ORDERS)) and len(ORDERS) == 6
    image = picture(40, 40)
    results = {crop_resize(image, (0, 0, 40, 40), 40, False, (1.4, 0.6, 1.3, k), **PLAIN).tobytes() for k in range(6)}
    assert len(results) == 6


def test_factors_of_one_change_nothing():
    image = picture(60, 60)
    a = crop_resize(image, (1, 2, 50, 50), 32, False, None)
    np.testing.assert_array_equal(a, crop_resize(image, (1, 2, 50, 50), 32, False, (1, 1, 1, 5)))


@pytest.mark.parametrize("size", [(32, 32), (75, 120), (100, 77)])
def test_views_give_the_same_as_copies(size):
    large = picture(200, 300)
    band, window = large[20:170], large[20:170, 40:240]
    jitter = (1.2, 0.8, 1.1, 3)
    expected = crop_resize(np.ascontiguousarray(window), (10, 30, 100, 77), size, True, jitter)
    np.testing.assert_array_equal(crop_resize(window, (10, 30, 100, 77), size, True, jitter), expected)
    np.testing.assert_array_equal(crop_resize(band, (10, 70, 100, 77), size, True, jitter), expected)
    np.testing.assert_array_equal(crop_resize(large, (30, 70, 100, 77), size, True, jitter), expected)
    upside_down = np.ascontiguousarray(window[::-1])[::-1]
    np.testing.assert_array_equal(crop_resize(upside_down, (10, 30, 100, 77), size, True, jitter), expected)
    frozen = large.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(crop_resize(frozen, (30, 70, 100, 77), size, True, jitter), expected)


RESIZED = {  # image, resized image, first row and column of the crop, its size
    "photograph": ((375, 500), (256, 341), (16, 58), (224, 224)),
    "no bigger than the filter": ((2, 3), (256, 384), (16, 80), (224, 224)),
    "up": ((100, 90), (284, 256), (30, 16), (224, 224)),
    "one row": ((1, 700), (37, 25900), (2, 12934), (32, 32)),
    "one column": ((700, 1), (2800, 4), (1398, 1), (4, 2)),
    "far down": ((900, 2000), (37, 82), (2, 25), (32, 32)),
    "corner": ((300, 301), (111, 97), (0, 0), (50, 60)),
    "other corner": ((300, 301), (111, 97), (61, 37), (50, 60)),
    "not resized": ((64, 80), (64, 80), (5, 8), (50, 60)),
    "one side resized": ((64, 80), (64, 70), (5, 8), (50, 60)),
    "whole": ((333, 250), (42, 32), (0, 0), (42, 32)),
}


def place_of(case, margin, reach):
    """Box in the source of the crop of a resized image, and a window that is larger by the filter's reach and more."""
    source, resized, first, size = (np.array(pair) for pair in RESIZED[case])
    scale = source / resized
    begin = np.maximum(np.floor(first * scale - reach * np.maximum(scale, 1) - margin), 0).astype(int)
    end = np.minimum(np.ceil((first + size) * scale + reach * np.maximum(scale, 1) + margin), source).astype(int)
    return [*(first * scale), *(size * scale)], [*begin, *(end - begin)]


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("margin", [0, 10_000])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("case", RESIZED)
def test_a_crop_of_a_resized_image_is_pillows(case, flip, margin, interpolation):
    source, resized, (y, x), size = RESIZED[case]
    image = picture(*source)
    whole = two_passes(image, (0, 0, *source), resized, interpolation)
    expected = whole[:, y : y + size[0], x : x + size[1]]
    box, window = place_of(case, margin, REACH[INTERPOLATIONS.index(interpolation)])
    how = {"window": window, "interpolation": interpolation, **PLAIN}
    ours = crop_resize(image, box, size, flip, **how)
    np.testing.assert_array_equal(ours, expected[:, :, ::-1] if flip else expected)
    difference = np.abs(reference(image, box, size, flip, **how) - ours)
    assert difference.max() <= 1 and difference.mean() <= 0.05  # ties, as in test_cpu_is_the_reference


def test_any_crop_of_any_resized_image_is_pillows():
    rng = np.random.default_rng(0)
    for seed in range(200):
        (height, width), resized = rng.integers(1, 60, 2), rng.integers(1, 80, 2)
        size = rng.integers(1, resized + 1)
        first = rng.integers(0, resized - size + 1)
        scale = np.array([height, width]) / resized
        image, box = picture(height, width, seed), [*(first * scale), *(size * scale)]
        for how in INTERPOLATIONS:
            whole = two_passes(image, (0, 0, height, width), resized.tolist(), how)
            expected = whole[:, first[0] : first[0] + size[0], first[1] : first[1] + size[1]]
            ours = crop_resize(image, box, tuple(size), window=(0, 0, height, width), interpolation=how, **PLAIN)
            np.testing.assert_array_equal(ours, expected)


def test_only_the_window_matters():
    image = picture(120, 130)
    other = np.full_like(image, 255)
    other[15:95, 20:101] = image[15:95, 20:101]
    for size in ((32, 32), (80, 81), (120, 140)):
        expected = crop_resize(image, (15, 20, 80, 81), size)
        np.testing.assert_array_equal(crop_resize(other, (15, 20, 80, 81), size), expected)


def test_normalization():
    image = picture(30, 30)
    pixels = crop_resize(image, (0, 0, 30, 30), 16, **PLAIN)
    expected = (pixels - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]
    np.testing.assert_allclose(crop_resize(image, (0, 0, 30, 30), 16), expected, atol=1e-6, rtol=1e-6)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_cpu_is_the_reference(data):
    """Weights of 22 bits against float64 may round a tie the other way: one level in each pass, in the few pixels that
    are ties, so two levels where the ties of both passes meet.

    On average in one pixel of a thousand, in one of six where the sizes make ties common. Jitter multiplies a level by
    up to 2 per op: 8, and once more for the pixel's own grey.
    """
    side = st.integers(1, 40)
    image = picture(data.draw(side), data.draw(side), data.draw(st.integers(0, 1000)))
    offset = st.integers(-12, 40)
    box = (data.draw(offset), data.draw(offset), data.draw(side), data.draw(side))
    size, flip = (data.draw(side), data.draw(side)), data.draw(st.booleans())
    how = {"interpolation": data.draw(st.sampled_from(INTERPOLATIONS)), **PLAIN}
    ours = crop_resize(image, box, size, flip, **how)
    theirs = reference(image, box, size, flip, **how)
    difference = np.abs(ours - theirs)
    assert difference.max() <= 2 and difference.sum() <= max(4, 0.25 * difference.size)
    assert (difference > 1).sum() <= max(4, 0.01 * difference.size)
    factor = st.floats(0, 2, width=32)
    jitter = (data.draw(factor), data.draw(factor), data.draw(factor), data.draw(st.integers(0, 5)))
    ours = crop_resize(image, box, size, flip, jitter, **how)
    theirs = reference(image, box, size, flip, jitter, **how)
    assert np.abs(ours - theirs).max() <= 16 * max(1, difference.max())
