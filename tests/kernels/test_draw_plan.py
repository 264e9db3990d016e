"""The compiled draws are those of the definitions, position by position."""

import numpy as np
import pytest

from fastlt.kernels import draw_plan as op

POSITIONS = np.concatenate([np.arange(400), np.array([2**32 - 1, 2**32, 2**40 + 5])])
RNG = np.random.default_rng(0)
HEIGHT = RNG.integers(1, 500, len(POSITIONS)).astype(np.int32)
WIDTH = RNG.integers(1, 500, len(POSITIONS)).astype(np.int32)
KEYS = [(0, 0), (2**50 + 3, 89)]


@pytest.mark.parametrize(("seed", "epoch"), KEYS)
@pytest.mark.parametrize(
    ("scale", "ratio"), [((0.08, 1.0), (3 / 4, 4 / 3)), ((1.0, 1.0), (1.0, 1.0)), ((0.3, 0.5), (2, 3))]
)
def test_resized_crops(scale: tuple, ratio: tuple, seed: int, epoch: int) -> None:
    arguments = HEIGHT, WIDTH, POSITIONS, scale, ratio, seed, epoch
    boxes = op.draw_resized_crops(*arguments)
    np.testing.assert_array_equal(boxes, op.reference_resized_crop(*arguments))
    assert boxes.dtype == np.int32


@pytest.mark.parametrize(("seed", "epoch"), KEYS)
@pytest.mark.parametrize(("size", "pad"), [(1, 0), (8, 4)])
def test_pad_crops(size: int, pad: int, seed: int, epoch: int) -> None:
    arguments = HEIGHT, WIDTH, POSITIONS, size, pad, seed, epoch
    np.testing.assert_array_equal(op.draw_pad_crops(*arguments), op.reference_pad_crop(*arguments))


@pytest.mark.parametrize(("seed", "epoch"), KEYS)
def test_flips_and_colours(seed: int, epoch: int) -> None:
    np.testing.assert_array_equal(op.draw_flips(POSITIONS, seed, epoch), op.reference_flip(POSITIONS, seed, epoch))
    jitter = op.draw_jitter(POSITIONS, 0.4, seed, epoch)
    np.testing.assert_array_equal(jitter, op.reference_jitter(POSITIONS, 0.4, seed, epoch))


def test_no_positions() -> None:
    none, empty = POSITIONS[:0], HEIGHT[:0]
    assert op.draw_resized_crops(empty, empty, none, (0.1, 1), (1, 1), 0, 0).shape == (0, 4)
    assert op.reference_resized_crop(empty, empty, none, (0.1, 1), (1, 1), 0, 0).shape == (0, 4)
    assert op.draw_flips(none, 0, 0).shape == (0,)


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match="scale must be"):
        op.draw_resized_crops(HEIGHT, WIDTH, POSITIONS, (0, 1), (1, 1), 0, 0)
    with pytest.raises(ValueError, match=f"a crop of 32 px does not fit an image of {HEIGHT.min()} x {WIDTH.min()} px"):
        op.draw_pad_crops(HEIGHT, WIDTH, POSITIONS, 32, 4, 0, 0)
