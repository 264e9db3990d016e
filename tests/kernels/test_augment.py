"""Operations on pixels: every backend against the definition, and both against torchvision's transforms v2."""

from typing import Any

import numpy as np
import pytest
import torch
from backends import GPU, Backend
from PIL import Image
from test_crop_resize import picture
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from fastlt.kernels import augment as op
from fastlt.kernels import augment_codes as codes
from fastlt.kernels import draw_augment as draws
from fastlt.kernels.gpu import SIMULATED

PLAIN = np.array([0, 0, 0, 1, 1, 1], np.float32)
NORMALIZE = np.array([124.4, 116, 103, 1 / 58, 1 / 57, 1 / 55], np.float32)
KINDS = {
    "ShearX": (draws.SHEAR_X, (0.1, 0.3, -0.3, 0.99)),
    "ShearY": (draws.SHEAR_Y, (0.1, -0.3, 0.99)),
    "TranslateX": (draws.TRANSLATE_X, (3.7, -9.2, 500)),
    "TranslateY": (draws.TRANSLATE_Y, (3.7, -9.2)),
    "Rotate": (draws.ROTATE, (30.0, -8.3, 135.0, 0.0)),
    "Brightness": (codes.BRIGHTNESS, (0.9, -0.9, 0.27)),
    "Color": (codes.SATURATION, (0.9, -0.9, 0.27)),
    "Contrast": (codes.CONTRAST, (0.9, -0.9, 0.27)),
    "Sharpness": (codes.SHARPNESS, (0.9, -0.9, 0.27)),
    "Posterize": (codes.POSTERIZE, (8, 7, 4, 2)),
    "Solarize": (codes.SOLARIZE, (1.0, 0.0, 0.7, 1 / 3)),
    "AutoContrast": (codes.AUTOCONTRAST, (0,)),
    "Equalize": (codes.EQUALIZE, (0,)),
    "Invert": (codes.INVERT, (0,)),
}
MOVING = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")


def slot(code: int, *arguments: float) -> np.ndarray:
    return np.array([code, *arguments, *[0] * (codes.WIDTH - 1 - len(arguments))], np.float64)


def operation(name: str, magnitude: float, size: int, bilinear: bool = False, fill: float = 0) -> np.ndarray:
    made = np.zeros(codes.WIDTH)
    draws._operation(made, KINDS[name][0], magnitude, size, bilinear, float(fill))
    return made


def pixels(image: np.ndarray, *slots: np.ndarray) -> np.ndarray:
    """The image after operations, int64 [T, T, 3], by the CPU kernel."""
    return (
        op.cpu(torch.from_numpy(image)[None], np.stack(slots)[None], PLAIN, torch.uint8, True)[0]
        .permute(1, 2, 0)
        .long()
        .numpy()
    )


def pictures(size: int) -> list[np.ndarray]:
    """One of all levels, one of few, one of a single colour, one of two."""
    image = picture(size, size)
    two = np.where(image[:, :, :1] > 128, np.uint8(7), np.uint8(99)).repeat(3, axis=2)
    return [image, image // 3 + 40, np.full_like(image, 77), two]


@pytest.mark.parametrize("size", [32, 61])
@pytest.mark.parametrize(("name", "bilinear"), [*((name, False) for name in KINDS), *((name, True) for name in MOVING)])
def test_operations_of_policies_are_torchvisions(name: str, bilinear: bool, size: int) -> None:
    interpolation = InterpolationMode.BILINEAR if bilinear else InterpolationMode.NEAREST
    policy: Any = v2.RandAugment(interpolation=interpolation, fill=[128, 128, 128])
    for image in pictures(size):
        for magnitude in KINDS[name][1]:
            ours = pixels(image, operation(name, magnitude, size, bilinear, 128))
            pil, tensor = (
                policy._apply_image_or_video_transform(one, name, magnitude, interpolation, policy._fill)
                for one in (Image.fromarray(image), torch.from_numpy(image).permute(2, 0, 1))
            )
            assert np.abs(ours - np.asarray(pil)).max() <= bilinear  # a level of what was rounded
            if name not in MOVING:  # on tensors torchvision chooses other pixels, here and there
                # Its mean grey value of tensors is not rounded, which two steps of contrast may show.
                assert np.abs(ours - tensor.permute(1, 2, 0).numpy()).max() <= (2 if name == "Contrast" else 1)


@pytest.mark.parametrize("size", [32, 61])
def test_operations_by_themselves_are_torchvisions(size: int) -> None:
    for image in pictures(size):
        pil: Any = Image.fromarray(image)
        equal = {
            "gray": (slot(codes.GRAYSCALE), F.rgb_to_grayscale(pil, 3)),
            "upside down": (slot(codes.VERTICAL_FLIP), F.vertical_flip(pil)),
            **{f"hue {turn}": (slot(codes.HUE, turn), F.adjust_hue(pil, turn)) for turn in (-0.5, -0.03, 0.1, 0.37)},
        }
        for name, (ours, theirs) in equal.items():
            np.testing.assert_array_equal(pixels(image, ours), np.asarray(theirs), err_msg=name)
        for taps, sigma in ((3, 0.1), (5, 1.0), (23, 2.0), (2 * size - 1, 9.0)):
            difference = np.abs(
                pixels(image, slot(codes.BLUR, taps, sigma))
                - np.asarray(F.gaussian_blur(pil, [taps, taps], [sigma, sigma]))
            )
            assert difference.max() <= 1 and (difference > 0).mean() < 0.01


def test_hue_of_every_colour() -> None:
    levels = np.arange(0, 256, 5)
    colours = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    image = np.resize(colours, (365 * 365, 3)).reshape(365, 365, 3).astype(np.uint8)
    for turn in (-0.41, 0.2):
        pil: Any = Image.fromarray(image)
        np.testing.assert_array_equal(pixels(image, slot(codes.HUE, turn)), np.asarray(F.adjust_hue(pil, turn)))


CHAINS = {
    **{name: [(name, magnitudes[0])] for name, (_, magnitudes) in KINDS.items()},
    "tables": [("Equalize", 0), ("AutoContrast", 0), ("Posterize", 4)],
    "moves": [("Rotate", 21.0), ("ShearY", -0.3), ("TranslateX", 3.0)],
    "all": [("Contrast", 0.5), ("Rotate", 40.0), ("Equalize", 0), ("Sharpness", 0.9), ("Color", -0.5), ("Invert", 0)],
}
OTHERS = {
    "gray": slot(codes.GRAYSCALE),
    "upside down": slot(codes.VERTICAL_FLIP),
    "hue": slot(codes.HUE, 0.3),
    "blur": slot(codes.BLUR, 5, 0.8),
    "blur far": slot(codes.BLUR, 15, 3.0),
}


def run(
    backend: Backend, images: np.ndarray, slots: np.ndarray, dtype: torch.dtype = torch.uint8, last: bool = True
) -> np.ndarray:
    normalize = NORMALIZE
    if backend.name == "reference":
        return op.reference(images, slots, normalize, dtype, last).astype(np.float64)
    tensor = torch.from_numpy(images.copy()).to("cuda" if backend.name == "cuda" and GPU else "cpu")
    found = (op.cuda if backend.name == "cuda" else op.cpu)(tensor, slots, normalize, dtype, last)
    assert found.dtype == dtype and found.shape == (len(images), 3, *images.shape[1:3])
    assert found.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    return found.double().cpu().numpy()


def small(backend: Backend) -> np.ndarray:
    return np.stack(pictures(9 if backend.name == "cuda" and SIMULATED else 20))


@pytest.mark.parametrize("bilinear", [False, True])
@pytest.mark.parametrize("chain", CHAINS)
def test_backends_agree(backend: Backend, chain: str, bilinear: bool) -> None:
    images = small(backend)
    made = [operation(name, magnitude, len(images[0]), bilinear, 9) for name, magnitude in CHAINS[chain]]
    slots = np.stack([np.stack(made)] * len(images))
    slots[1, 0] = 0  # one of the images goes without
    difference = np.abs(run(backend, images, slots) - op.reference(images, slots, NORMALIZE, torch.uint8, True))
    if bilinear and chain in (*MOVING, "moves"):
        assert difference.max() <= 2 and (difference > 0).mean() < 0.02  # float32 and float64 round apart
    elif not bilinear:
        assert not difference.any()


@pytest.mark.parametrize("name", OTHERS)
def test_backends_agree_on_other_operations(backend: Backend, name: str) -> None:
    images = small(backend)
    slots = np.stack([np.stack([OTHERS[name], slot(codes.NOTHING)])] * len(images))
    difference = np.abs(run(backend, images, slots) - op.reference(images, slots, NORMALIZE, torch.uint8, True))
    assert difference.max() <= (1 if name.startswith("blur") else 0)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.uint8])
def test_formats_and_erasing(backend: Backend, dtype: torch.dtype, last: bool) -> None:
    images = small(backend)[:2]
    slots = np.stack([np.stack([slot(codes.INVERT), slot(codes.ERASE, 2, 0, 5, 3), slot(codes.ERASE, 4, 2, 1, 6)])] * 2)
    slots[1, 1:] = 0
    found = run(backend, images, slots, dtype, last)
    inverted = 255 - images.transpose(0, 3, 1, 2).astype(np.float64)
    mean, inv_std = NORMALIZE[:3].reshape(3, 1, 1), NORMALIZE[3:].reshape(3, 1, 1)
    expected = inverted if dtype == torch.uint8 else (inverted - mean) * inv_std
    gone = np.floor(mean + 0.5) if dtype == torch.uint8 else np.zeros((3, 1, 1))
    expected[0, :, 2:7, 0:3], expected[0, :, 4:5, 2:8] = gone, gone
    np.testing.assert_allclose(found, expected, atol=2e-3 if dtype == torch.float16 else 1e-6)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_smallest_images(backend: Backend, size: int) -> None:
    images = picture(size, size)[None]
    chain = CHAINS["all"] + CHAINS["tables"] + CHAINS["moves"]
    slots = np.stack([operation(name, magnitude, size) for name, magnitude in chain])[None]
    np.testing.assert_array_equal(
        run(backend, images, slots), op.reference(images, slots, NORMALIZE, torch.uint8, True)
    )
