"""Augmentations: tables and laws of their papers, and loaded images that are torchvision's of the same operations."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import AutoAugmentPolicy, InterpolationMode, RandomErasing, v2
from torchvision.transforms.functional import _get_inverse_affine_matrix

from fastlt.core.errors import UserError
from fastlt.data import policies
from fastlt.data.augmentations import AUGMENTATIONS, draw_slots, make_augmentations
from fastlt.data.pipeline.loader import Loader
from fastlt.data.plan import Augment, draw_plan
from fastlt.data.shards.reader import Dataset
from fastlt.kernels import augment_codes as codes
from fastlt.kernels import philox
from fastlt.longtail.sampler import InOrder

N = 20_000
POSITIONS = np.arange(N)
SIZE = 32


def drawn(*names: str, options: Mapping[str, Any] | None = None, size: int = SIZE) -> np.ndarray:
    return draw_slots(make_augmentations(names, options or {}), POSITIONS, size, 5, 3)


def unit(position: int, purpose: int, word: int = 0) -> float:
    return (philox.reference(5, position, position >> 32, purpose, 3)[word] + 0.5) / 2**32


@pytest.mark.parametrize(
    ("ours", "theirs"), [(policies.CIFAR, AutoAugmentPolicy.CIFAR10), (policies.IMAGENET, AutoAugmentPolicy.IMAGENET)]
)
def test_policies_are_the_papers(ours: Any, theirs: AutoAugmentPolicy) -> None:
    plain = [[(name, p, None if name in policies.PLAIN else m) for name, p, m in pair] for pair in ours]
    assert plain == [[tuple(one) for one in pair] for pair in v2.AutoAugment(theirs)._policies]


SPACES = {"randaugment": v2.RandAugment, "trivialaugment": v2.TrivialAugmentWide}


@pytest.mark.parametrize("name", SPACES)
def test_policies_of_one_operation_at_a_time(name: str) -> None:
    space = SPACES[name]._AUGMENTATION_SPACE
    slots = drawn(name)
    assert slots.shape == (N, 2 if name == "randaugment" else 1, codes.WIDTH)
    for column in range(slots.shape[1]):
        found = slots[:, column]
        kinds = list(space)
        number = np.array(
            [int(unit(i, 64 + 2 * column) * (14 if name == "randaugment" else 14 * 31)) for i in range(2000)]
        )
        for i, row in enumerate(number):
            kind = policies.RANDOM_OPERATIONS[row if name == "randaugment" else row // 31]
            magnitudes, signed = space[kind][0](31, SIZE, SIZE), space[kind][1]
            magnitude = 0.0 if magnitudes is None else float(magnitudes[9 if name == "randaugment" else row % 31])
            if signed and unit(i, 64 + 2 * column + 1, 1) <= 0.5:
                magnitude = -magnitude
            np.testing.assert_allclose(found[i], expected(kind, magnitude), atol=1e-12, err_msg=f"{i} {kind}")
        assert set(policies.RANDOM_OPERATIONS) == set(kinds)
        # Five of fourteen move pixels, one does nothing; a turn by magnitude 0 counts among the former.
        assert abs((found[:, 0] == codes.NEAREST).mean() - 5 / 14) < 0.02
        assert abs((found[:, 0] == codes.NOTHING).mean() - 1 / 14) < 0.01


def expected(kind: str, magnitude: float) -> list[float]:
    """The slot of an operation, its affine map by torchvision's formula."""
    centre = [0.0, 0.0] if kind.startswith("Shear") else [SIZE / 2, SIZE / 2]
    degrees = math.degrees(math.atan(magnitude))
    maps = {
        "ShearX": lambda: _get_inverse_affine_matrix(centre, 0.0, [0, 0], 1.0, [degrees, 0.0]),
        "ShearY": lambda: _get_inverse_affine_matrix(centre, 0.0, [0, 0], 1.0, [0.0, degrees]),
        "TranslateX": lambda: _get_inverse_affine_matrix(centre, 0.0, [int(magnitude), 0], 1.0, [0.0, 0.0]),
        "TranslateY": lambda: _get_inverse_affine_matrix(centre, 0.0, [0, int(magnitude)], 1.0, [0.0, 0.0]),
        "Rotate": lambda: _get_inverse_affine_matrix(centre, -magnitude, [0, 0], 1.0, [0.0, 0.0]),
    }
    if kind in maps:
        return [codes.NEAREST, *maps[kind](), 0]
    argument = {"Posterize": int(magnitude), "Solarize": 255 * magnitude}.get(kind, 1 + magnitude)
    return [policies.KINDS[kind], 0 if kind in policies.PLAIN else argument, *[0] * 6]


@pytest.mark.parametrize("name", ["autoaugment_cifar", "autoaugment_imagenet"])
def test_autoaugment_draws_a_sub_policy_and_which_of_its_operations(name: str) -> None:
    table = policies.CIFAR if name.endswith("cifar") else policies.IMAGENET
    space = v2.AutoAugment._AUGMENTATION_SPACE
    slots = drawn(name)
    for i in range(2000):
        for j, (kind, share, level) in enumerate(table[int(unit(i, 64) * 25)]):
            magnitudes, signed = space[kind][0](10, SIZE, SIZE), space[kind][1]
            magnitude = 0.0 if magnitudes is None else float(magnitudes[level])
            magnitude *= -1 if signed and unit(i, 65 + j, 1) <= 0.5 else 1
            wanted = expected(kind, magnitude) if unit(i, 65 + j) <= share else [0] * codes.WIDTH
            np.testing.assert_allclose(slots[i, j], wanted, atol=1e-12)
    both = [pair[0][1] * pair[1][1] for pair in table]
    assert abs((slots[:, :, 0] > 0).all(axis=1).mean() - np.mean(both)) < 0.02 or any(p == 0 for p in both)


def test_simple_laws() -> None:
    assert abs((drawn("grayscale")[:, 0, 0] == codes.GRAYSCALE).mean() - 0.1) < 0.01
    assert abs((drawn("vertical_flip")[:, 0, 0] == codes.VERTICAL_FLIP).mean() - 0.5) < 0.02
    turned = drawn("rotation", options={"rotation": {"degrees": 30, "fill": 7}})[:, 0]
    angles = np.degrees(np.arcsin(turned[:, 2]))
    assert -30 <= angles.min() < -29.8 and 29.8 < angles.max() <= 30 and abs(angles.mean()) < 0.5
    assert (turned[:, 7] == 7).all()
    blurred = drawn("blur", size=224)[:, 0]
    done = blurred[:, 0] == codes.BLUR
    assert abs(done.mean() - 0.5) < 0.02 and (blurred[done, 1] == 23).all()
    assert 0.1 <= blurred[done, 2].min() < 0.12 and 1.98 < blurred[done, 2].max() <= 2


def test_colour_jitter_has_all_orders() -> None:
    slots = drawn("color_jitter", options={"color_jitter": {"hue": 0.2, "p": 0.8}})
    done = slots[:, 0, 0] > 0
    assert abs(done.mean() - 0.8) < 0.02
    orders, counts = np.unique(slots[done, :, 0], axis=0, return_counts=True)
    assert len(orders) == 24 and counts.min() > 0.8 * done.sum() / 24
    for code, strength in ((codes.BRIGHTNESS, 0.4), (codes.CONTRAST, 0.4), (codes.SATURATION, 0.4), (codes.HUE, 0.2)):
        argument = slots[slots[:, :, 0] == code][:, 1] - (code != codes.HUE)
        assert -strength <= argument.min() < -0.98 * strength and 0.98 * strength < argument.max() <= strength


def test_cutout_has_its_centre_anywhere() -> None:
    cut = drawn("cutout", options={"cutout": {"size": 8}})[:, 0]
    assert (cut[:, 0] == codes.ERASE).all()
    y, x, height, width = cut[:, 1:5].T
    assert ((y >= 0) & (x >= 0) & (y + height <= SIZE) & (x + width <= SIZE)).all()
    # 4 + min(centre, 4) rows, and as many less at the other edge: the squares of DeVries and Taylor.
    tops, counts = np.unique(y, return_counts=True)
    assert tops.tolist() == list(range(28)) and abs(counts[0] / N - 5 / SIZE) < 0.01
    assert set(np.unique(height)) == {4, 5, 6, 7, 8} and abs((height == 8).mean() - 25 / SIZE) < 0.02
    two = drawn("cutout", options={"cutout": {"holes": 2, "p": 0.5}})
    assert abs((two[:, :, 0] > 0).mean() - 0.5) < 0.02 and not np.array_equal(two[:, 0], two[:, 1])


def test_erasing_follows_torchvisions_law() -> None:
    torch.manual_seed(0)
    ours = drawn("erasing", size=64)[:, 0]
    done = ours[ours[:, 0] == codes.ERASE][:, 1:5]
    assert abs(len(done) / N - 0.5) < 0.02
    image = torch.zeros(3, 64, 64)
    theirs = np.array(
        [RandomErasing.get_params(image, (0.02, 0.33), (0.3, 3.3), [0.0])[:4] for _ in range(5000)], np.float64
    )
    q = np.linspace(0.05, 0.95, 19)
    for column in range(4):
        np.testing.assert_allclose(np.quantile(done[:, column], q), np.quantile(theirs[:, column], q), atol=2.5)


EVERY = tuple(AUGMENTATIONS)
LISTS = [("randaugment", "cutout"), EVERY]


@pytest.mark.parametrize("names", LISTS)
def test_a_position_has_one_draw_whatever_it_is_drawn_with(names: tuple[str, ...]) -> None:
    made = make_augmentations(names, {})
    whole = draw_slots(made, POSITIONS[:3000], SIZE, 5, 3)
    np.testing.assert_array_equal(whole[100:177], draw_slots(made, POSITIONS[100:177], SIZE, 5, 3))
    assert not np.array_equal(whole, draw_slots(made, POSITIONS[:3000], SIZE, 5, 4))
    assert not np.array_equal(whole, draw_slots(made, POSITIONS[:3000], SIZE, 6, 3))


def images(dataset: Dataset, augment: Augment, position: int = 0, batch: int = 16, **options: Any) -> torch.Tensor:
    with Loader(dataset, "train", InOrder(POSITIONS[:71]), augment, batch, seed=1, **options) as loader:
        return torch.cat([batch.images for batch in loader.epoch(2, position)])


@pytest.mark.parametrize(("kind", "names"), [("jpeg", EVERY), ("raw", LISTS[0]), ("mixed", LISTS[0])])
def test_images_do_not_depend_on_threads_batch_size_start_or_rank(
    kind: str, names: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    dataset = request.getfixturevalue(f"{kind}_dataset")
    crop = Augment(32, "pad") if kind == "raw" else Augment(24, "resized", scale=(0.3, 1.0))
    augment = Augment(crop.image_size, crop.crop, crop.scale, flip=True, jitter=0.4, augment=names)
    whole = images(dataset, augment, threads=1)
    for options in ({"batch": 7, "threads": 2}, {"batch": 1}, {"batch": 48, "prefetch": 5}):
        assert torch.equal(whole, images(dataset, augment, **options))
    assert torch.equal(whole[32:], images(dataset, augment, position=32))
    for rank in range(3):
        assert torch.equal(whole[rank:69:3], images(dataset, augment, batch=8, rank=rank, world=3))


def test_images_are_torchvisions_of_the_same_operations(jpeg_dataset: Dataset) -> None:
    plain = Augment(24, "resized", scale=(0.3, 1.0), flip=True)
    augment = Augment(
        24, "resized", scale=(0.3, 1.0), flip=True, augment=("randaugment", "autoaugment_cifar", "cutout")
    )
    index = jpeg_dataset.split("train")
    ids = POSITIONS[:71]
    plan = draw_plan(ids, ids, index.height[ids], index.width[ids], augment, 1, 2)
    before = images(jpeg_dataset, plain, dtype=torch.uint8)
    ours = images(jpeg_dataset, augment)
    mean, std = (torch.tensor(jpeg_dataset.about[key])[:, None, None] for key in ("mean", "std"))
    names = {code: name for name, code in policies.KINDS.items()}
    policy: Any = v2.RandAugment()
    for start, found, slots in zip(before, ours, plan.slots, strict=True):
        picture: Any = v2.functional.to_pil_image(start)
        for slot in slots[slots[:, 0] > 0]:
            code, arguments = int(slot[0]), slot[1:].tolist()
            if code == codes.NEAREST:
                picture = picture.transform(picture.size, Image.Transform.AFFINE, arguments[:6], fillcolor=(0, 0, 0))
            elif code != codes.ERASE:
                value = arguments[0] / 255 if code == codes.SOLARIZE else arguments[0] - (code != codes.POSTERIZE)
                picture = policy._apply_image_or_video_transform(
                    picture, names[code], value, InterpolationMode.NEAREST, policy._fill
                )
        theirs = (v2.functional.pil_to_tensor(picture) / 255 - mean) / std
        y, x, height, width = (int(one) for one in slots[-1, 1:5])
        theirs[:, y : y + height, x : x + width] = 0
        torch.testing.assert_close(found, theirs, atol=1e-4, rtol=1e-4)


def test_erased_pixels_are_the_mean(raw_dataset: Dataset) -> None:
    augment = Augment(32, "pad", augment=("cutout",))
    erased = images(raw_dataset, augment).abs().amax(dim=1) == 0
    pixels = images(raw_dataset, augment, dtype=torch.uint8)
    mean = torch.tensor([math.floor(255 * value + 0.5) for value in raw_dataset.about["mean"]])
    assert 0.1 < erased.float().mean() < 0.3
    assert (pixels.permute(0, 2, 3, 1)[erased] == mean).all()


@pytest.mark.parametrize(
    ("names", "options", "told"),
    [
        (("mosaic",), {}, "augment=mosaic is unknown: allowed are autoaugment_cifar, "),
        (("cutout", "blur"), {}, r"augment=\[cutout,blur\]: blur must stand in front of cutout, erasing"),
        (("blur",), {"cutout": {"size": 3}}, r"augment_options.cutout: augment=\[blur\] has no cutout"),
        (("blur",), {"blur": {"kernel_size": 4}}, "augment_options.blur.kernel_size=4: it must be odd"),
        (("blur",), {"blur": {"sigma": [2, 1]}}, r"augment_options.blur.sigma=\[2, 1\]: it must be \[low, high\]"),
        (
            ("blur",),
            {"blur": {"size": 4}},
            "augment_options.blur.size=4 is unknown to augment=blur: allowed are kernel_s",
        ),
        (("blur",), {"blur": {"sigma": 1}}, r"augment_options.blur.sigma=1: it must be \[low, high\]"),
        (
            ("blur",),
            {"blur": {"sigma": ["a", "b"]}},
            r"augment_options.blur.sigma=\['a', 'b'\]: it must be \[low, high\]",
        ),
        (("blur",), {"blur": {"sigma": [True, True]}}, r"augment_options.blur.sigma=\[True, True\]: it must be"),
        (("erasing",), {"erasing": {"scale": None}}, r"augment_options.erasing.scale=None: it must be \[low, high\]"),
        (("blur",), {"blur": 4}, "augment_options.blur=4: options are given by name"),
        (
            ("randaugment",),
            {"randaugment": {"magnitude": 31}},
            "randaugment.magnitude=31: it must be a whole number fr",
        ),
        (("randaugment",), {"randaugment": {"fill": 256}}, "augment_options.randaugment.fill=256: it must be a number"),
        (
            ("rotation",),
            {"rotation": {"interpolation": "cubic"}},
            "interpolation=cubic is unknown: allowed are nearest",
        ),
        (("cutout",), {"cutout": {"size": 0}}, "augment_options.cutout.size=0: it must be a whole number from 1"),
        (("erasing",), {"erasing": {"p": "x"}}, "augment_options.erasing.p=x: it must be a number from 0 to 1"),
    ],
)
def test_wrong_settings_are_named(names: tuple[str, ...], options: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        Augment(32, augment=names, augment_options=options)
