"""The plan: crop laws, and that nothing depends on what is drawn together."""

import numpy as np
import pytest
import torch
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.functional import _compute_resized_output_size

from fastlt.core.errors import UserError
from fastlt.data.plan import Augment, Plan, center_boxes, draw_plan

N = 5000
POSITIONS = np.arange(N, dtype=np.int64)
HEIGHT = np.random.default_rng(0).integers(30, 400, N).astype(np.int32)
WIDTH = np.random.default_rng(1).integers(30, 400, N).astype(np.int32)


def plan(augment: Augment, part: slice = slice(None), seed: int = 1, epoch: int = 2) -> Plan:
    return draw_plan(POSITIONS[part] + 7, POSITIONS[part], HEIGHT[part], WIDTH[part], augment, seed, epoch)


RESIZED = Augment(224, "resized", flip=True, jitter=0.4)


def test_resized_crops_lie_inside_and_follow_the_law() -> None:
    drawn = plan(RESIZED)
    box = drawn.box
    np.testing.assert_array_equal(drawn.window, box)  # whole pixels, and nothing beyond the crop is read
    assert (box[:, :2] >= 0).all()
    assert (box[:, 2:] >= 1).all()
    assert (box[:, 0] + box[:, 2] <= HEIGHT).all()
    assert (box[:, 1] + box[:, 3] <= WIDTH).all()


def test_resized_crop_distribution_on_a_square() -> None:
    height = np.full(N, 1000, np.int32)
    box = draw_plan(POSITIONS, POSITIONS, height, height, RESIZED, 0, 0).box.astype(float)
    area, ratio = box[:, 2] * box[:, 3] / 1e6, box[:, 3] / box[:, 2]
    assert 0.079 < area.min() < 0.09
    assert area.max() > 0.97
    assert 0.74 < ratio.min() < 0.77
    assert 1.30 < ratio.max() < 1.35
    assert abs(np.median(ratio) - 1) < 0.02
    room = 1000 - box[:, 2]
    assert abs(np.mean(box[:, 0][room > 50] / room[room > 50]) - 0.5) < 0.02


@pytest.mark.parametrize(("height", "width"), [(375, 500), (400, 400)])
def test_resized_crop_agrees_with_torchvision(height: int, width: int) -> None:
    torch.manual_seed(0)
    image = torch.zeros(1, height, width)
    theirs = np.array([RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(N)], float)
    shape = np.full(N, height, np.int32), np.full(N, width, np.int32)
    ours = draw_plan(POSITIONS, POSITIONS, *shape, RESIZED, 5, 0).box.astype(float)
    for column in range(4):
        q = np.linspace(0.05, 0.95, 19)
        # Quantiles of two samples of 5000: within a few standard errors of each other.
        np.testing.assert_allclose(np.quantile(ours[:, column], q), np.quantile(theirs[:, column], q), atol=14)


def test_fallback_is_the_largest_centred_box_of_allowed_ratio() -> None:
    height, width = np.array([10], np.int32), np.array([1000], np.int32)
    box = draw_plan(POSITIONS[:1], POSITIONS[:1], height, width, Augment(8, "resized", scale=(1.0, 1.0)), 0, 0).box[0]
    assert box.tolist() == [0, (1000 - 13) // 2, 10, 13]


def test_pad_crop_covers_all_offsets() -> None:
    size = np.full(N, 32, np.int32)
    box = draw_plan(POSITIONS, POSITIONS, size, size, Augment(32, "pad", pad=4), 0, 0).box
    assert (box[:, 2:] == 32).all()
    for column in (0, 1):
        values, counts = np.unique(box[:, column], return_counts=True)
        assert values.tolist() == list(range(-4, 5))
        assert counts.min() > 0.8 * N / 9
    with pytest.raises(ValueError, match="does not fit"):
        draw_plan(POSITIONS, POSITIONS, size, size, Augment(64, "pad", pad=4), 0, 0)


def test_center_is_the_central_share_of_the_short_side() -> None:
    height, width = np.array([256, 300, 512], np.int32), np.array([400, 200, 512], np.int32)
    drawn = draw_plan(POSITIONS[:3], POSITIONS[:3], height, width, Augment(224, crop_pct=0.875), 0, 0)
    # 300 x 200 is resized to 384 x 256: the crop begins at row 80 and column 16 of it.
    np.testing.assert_allclose(drawn.box, [[16, 88, 224, 224], [62.5, 12.5, 175, 175], [32, 32, 448, 448]])
    # A triangle of half width 1 (2 where two pixels become one) around the centres of the outermost output pixels.
    assert drawn.window.tolist() == [[16, 88, 225, 225], [62, 12, 176, 176], [31, 31, 450, 450]]


@pytest.mark.parametrize(("size", "keep"), [(224, 0.875), (32, 0.875), (32, 1.0), (1, 1.0), (7, 0.01)])
def test_center_has_the_place_that_torchvision_gives_it(size: int, keep: float) -> None:
    rng = np.random.default_rng(3)
    sides = np.exp(rng.uniform(0, np.log(10_000), (2000, 2))).astype(np.int32)
    sides[:4] = [[1, 1], [10_000, 10_000], [1, 10_000], [10_000, 1]]
    box, window = center_boxes(sides[:, 0], sides[:, 1], size, keep)
    for side, start, extent in zip(sides.tolist(), box[:, :2].tolist(), box[:, 2:].tolist(), strict=True):
        resized = _compute_resized_output_size((side[0], side[1]), [round(size / keep)])
        assert min(resized) >= size  # so nothing is padded
        for axis in (0, 1):
            first = round((resized[axis] - size) / 2)  # as CenterCrop has it
            assert start[axis] == pytest.approx(first * side[axis] / resized[axis], abs=1e-9)
            assert extent[axis] == pytest.approx(size * side[axis] / resized[axis], abs=1e-9)
    end, stop = box[:, :2] + box[:, 2:], window[:, :2] + window[:, 2:]
    assert (window[:, :2] >= 0).all() and (stop <= sides).all()
    # The window goes beyond the box by what the filter may reach, and not by more.
    reach = np.maximum(1, box[:, 2:] / size)
    assert (window[:, :2] <= box[:, :2]).all() and (stop + 1e-6 >= end).all()
    assert (window[:, :2] >= box[:, :2] - reach - 0.5).all() and (stop <= end + reach + 0.5).all()


def test_flips_and_colours_are_even() -> None:
    drawn = plan(RESIZED)
    assert abs(drawn.flip.mean() - 0.5) < 0.03
    assert (np.abs(drawn.jitter[:, :3] - 1) <= 0.4).all()
    np.testing.assert_allclose(drawn.jitter[:, :3].mean(0), 1, atol=0.02)
    assert (np.bincount(drawn.jitter[:, 3].astype(int)) > 0.8 * N / 6).all()
    still = plan(Augment(32))
    assert not still.flip.any()
    assert (still.jitter == [1, 1, 1, 0]).all()


@pytest.mark.parametrize("crop", ["resized", "pad", "center"])
def test_a_position_has_one_plan_whatever_it_is_drawn_with(crop: str) -> None:
    augment = Augment(30, crop, flip=True, jitter=0.4)
    whole, part = plan(augment), plan(augment, slice(1000, 1077))
    for name in ("ids", "box", "window", "flip", "jitter"):
        np.testing.assert_array_equal(getattr(whole, name)[1000:1077], getattr(part, name))
    if crop != "center":
        assert not np.array_equal(whole.box, plan(augment, epoch=3).box)
        assert not np.array_equal(whole.box, plan(augment, seed=2).box)


@pytest.mark.parametrize(
    "wrong",
    [
        {"crop": "foo"},
        {"image_size": 0},
        {"crop_pct": 0.0},
        {"crop_pct": 1.5},
        {"crop_pct": 1e-9},
        {"jitter": -1.0},
        {"jitter": 2.0},
    ],
)
def test_wrong_options_are_refused(wrong: dict) -> None:
    with pytest.raises(UserError):
        Augment(**{"image_size": 8, **wrong})
