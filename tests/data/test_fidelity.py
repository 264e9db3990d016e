"""How close the loader's images are to torchvision's on Pillow images: same crop boxes, on real photographs where there
are some, and a training that sees the ones or the others."""

import io
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import conversion, jpeg, picture
from PIL import Image
from test_graph_gpu import OnCpu
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, PILToTensor, Resize
from torchvision.transforms import functional as transforms

from fastlt.data.convert import Conversion, convert
from fastlt.data.pipeline.loader import Loader
from fastlt.data.plan import Augment, draw_plan
from fastlt.data.shards.encode import Encoding
from fastlt.data.shards.reader import Dataset
from fastlt.data.sources.base import Listing
from fastlt.kernels.crop_resize import INTERPOLATIONS
from fastlt.longtail.sampler import InOrder, Sampler
from fastlt.predict.images import Evaluation

PHOTOGRAPHS = 60


@dataclass(frozen=True)
class Gratings:
    """Waves in noise; a class is an angle. Flipped, one class would be another."""

    classes: int = 8
    train: int = 60
    test: int = 150
    name: str = "gratings"

    @property
    def class_names(self) -> list[str]:
        return [str(j) for j in range(self.classes)]

    @property
    def splits(self) -> dict[str, Listing]:
        return {
            split: Listing([str(i) for i in range(n * self.classes)], np.arange(n * self.classes) % self.classes)
            for split, n in (("train", self.train), ("test", self.test))
        }

    def load(self, split: str, index: int) -> np.ndarray:
        rng = np.random.default_rng([split == "test", index])
        angle = np.pi * (index % self.classes + rng.uniform(-0.5, 0.5)) / self.classes
        y, x = np.mgrid[0 : rng.integers(40, 70), 0 : rng.integers(40, 70)]
        wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * rng.uniform(0.5, 0.9) + rng.uniform(0, 6))
        return (127 + 40 * wave[:, :, None] + rng.normal(0, 120, (*wave.shape, 3))).clip(0, 255).astype(np.uint8)

    def where(self, split: str, index: int) -> str:
        return str(index)


@dataclass(frozen=True)
class Files:
    """Encoded images as one class."""

    images: list[bytes]
    name: str = "files"
    class_names: list[str] = field(default_factory=lambda: ["all"])

    @property
    def splits(self) -> dict[str, Listing]:
        return {"train": Listing([str(i) for i in range(len(self.images))], np.zeros(len(self.images), np.int64))}

    def load(self, split: str, index: int) -> bytes:
        return self.images[index]

    def where(self, split: str, index: int) -> str:
        return str(index)


def theirs(dataset: Dataset, ids: np.ndarray, augment: Augment, seed: int, epoch: int) -> Iterator[torch.Tensor]:
    """What torchvision makes of the same plan: uint8 [3, size, size] each.

    Width and height are resized one after the other, as Pillow does in one call unless it finds the other order faster.
    """
    index = dataset.split("train")
    plan = draw_plan(ids, np.arange(len(ids)), index.height[ids], index.width[ids], augment, seed, epoch)
    for i, sample in enumerate(ids):
        image = Image.open(io.BytesIO(dataset.data("train", sample).tobytes())).convert("RGB")
        how = InterpolationMode(augment.interpolation)
        crop: Any = transforms.crop(image, *plan.window[i].tolist())  # type: ignore[arg-type]
        for height in (crop.height, augment.image_size):
            crop = transforms.resize(crop, [height, augment.image_size], how, antialias=True)
        yield transforms.pil_to_tensor(transforms.hflip(crop) if plan.flip[i] else crop)


def differences(images: list[bytes], augment: Augment, folder: Path) -> torch.Tensor:
    """Levels of 255 by which every value differs."""
    dataset = Dataset(convert(Files(images), conversion("keep"), folder / "data", workers=1))
    ids = np.arange(len(images))
    with Loader(dataset, "train", InOrder(ids), augment, 8, seed=3, dtype=torch.uint8) as loader:
        ours = torch.cat([batch.images for batch in loader.epoch(1)])
    return (ours.int() - torch.stack(list(theirs(dataset, ids, augment, 3, 1))).int()).abs().float()


# Crops of 8 to 30 % of these images are smaller than 224 pixels and grow, those of 60 to 100 % shrink.
DIRECTIONS = {"up": (0.02, 0.15), "down": (0.6, 1.0)}


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_drawn_images(direction: str, interpolation: str, tmp_path: Path) -> None:
    images = [jpeg(picture(i, 300 + 10 * i, 420 - 5 * i), 92) for i in range(12)]
    augment = Augment(224, "resized", DIRECTIONS[direction], flip=True, interpolation=interpolation)
    assert differences(images, augment, tmp_path).max() == 0


@pytest.fixture(scope="module")
def photographs(shared: Path) -> list[bytes]:
    with tarfile.open(shared / "data" / "imagenet-samples.tar") as tar:
        files = [member for member in tar if member.isfile() and member.name.endswith(".JPEG")][:PHOTOGRAPHS]
        images = [tar.extractfile(member).read() for member in files]  # type: ignore[union-attr]
    assert len(images) == PHOTOGRAPHS
    return images


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_photographs(direction: str, interpolation: str, photographs: list[bytes], tmp_path: Path) -> None:
    augment = Augment(224, "resized", DIRECTIONS[direction], flip=True, interpolation=interpolation)
    assert differences(photographs, augment, tmp_path).max() == 0


# --- evaluation: Resize(round(size / keep)) + CenterCrop(size) ---

# size, keep, interpolation
EVALUATIONS = [(224, 0.875, "bilinear"), (32, 0.875, "bilinear"), (32, 1.0, "bilinear")]
EVALUATIONS += [(224, 0.9, "bicubic"), (32, 1.0, "bicubic")]
# Height and width: smaller than the crop, than the filter, one pixel high or wide, long, of the resized size, one off.
SIZES = (
    (1, 1), (1, 2), (2, 1), (1, 300), (300, 1), (2, 399), (3, 3), (5, 7), (17, 600), (31, 33), (32, 32), (33, 32),
    (37, 37), (100, 101), (223, 224), (224, 224), (255, 256), (256, 256), (256, 400), (257, 1000), (224, 900),
    (1500, 37), (750, 1001), (640, 480), (481, 641), (3000, 200), (7, 901), (40, 10_000), (10_000, 40), (513, 511),
)  # fmt: skip


@pytest.fixture(scope="module")
def drawn() -> list[bytes]:
    """Images of SIZES, every other one a JPEG, the others PNG."""
    return [encoded(picture(i, *size), "JPEG" if i % 2 else "PNG") for i, size in enumerate(SIZES)]


def encoded(pixels: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, quality=92, compress_level=1)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """Images as evaluation sees them, and as torchvision makes them: uint8 [n, 3, size, size] both."""
    datasets: dict[tuple[int, str], Dataset] = {}
    expected: dict[tuple[int, int, float, str], torch.Tensor] = {}

    def both(
        images: list[bytes], size: int, keep: float, how: str, kind: str = "keep", loader: type[Loader] = Loader
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if (len(images), kind) not in datasets:
            folder = tmp_path_factory.mktemp("evaluated") / "data"
            datasets[len(images), kind] = Dataset(convert(Files(images), conversion(kind), folder, workers=1))
        dataset, order = datasets[len(images), kind], InOrder(np.arange(len(images)))
        augment = Augment(size, crop_pct=keep, interpolation=how)
        with loader(dataset, "train", order, augment, 8, dtype=torch.uint8) as opened:
            ours = torch.cat([batch.images for batch in opened.epoch()])
        if (len(images), size, keep, how) not in expected:
            transform = Compose([Resize(round(size / keep), InterpolationMode(how)), CenterCrop(size), PILToTensor()])
            pictures = (Image.open(io.BytesIO(image)).convert("RGB") for image in images)
            expected[len(images), size, keep, how] = torch.stack([transform(image) for image in pictures])  # type: ignore[arg-type]
        return ours, expected[len(images), size, keep, how]

    return both


def apart(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Levels of 255 by which every value differs."""
    return (ours.int() - theirs.int()).abs().float()


@pytest.mark.parametrize(("size", "keep", "how"), EVALUATIONS)
@pytest.mark.parametrize("kind", ["keep", "raw"])
def test_evaluation_of_drawn_images(
    kind: str, size: int, keep: float, how: str, drawn: list[bytes], evaluated: Any
) -> None:
    difference = apart(*evaluated(drawn, size, keep, how, kind))
    assert difference.mean() <= 0.05 and difference.max() <= 1
    # Pillow 13 resamples some tall images columns first, the kernel never; but for these, the pixels are Pillow's.
    assert (difference.amax((1, 2, 3)) == 0).sum() >= len(SIZES) - 4


@pytest.mark.parametrize(("size", "keep", "how"), EVALUATIONS)
def test_evaluation_of_photographs(size: int, keep: float, how: str, photographs: list[bytes], evaluated: Any) -> None:
    difference = apart(*evaluated(photographs, size, keep, how))
    assert difference.mean() <= 0.05 and difference.max() <= 1
    assert (difference.amax((1, 2, 3)) == 0).sum() >= PHOTOGRAPHS - 4


@pytest.mark.parametrize(("size", "keep", "how"), EVALUATIONS)
def test_evaluation_by_the_gpu_graph(size: int, keep: float, how: str, drawn: list[bytes], evaluated: Any) -> None:
    """DALI's resize does not round between its passes, and repeats the outermost pixels where Pillow's filter ends."""
    difference = apart(*evaluated(drawn, size, keep, how, loader=OnCpu))
    most = 4 if how == "bicubic" else 1  # nor does it clip what overshoots between its passes
    assert difference.mean() < 0.2 and difference[:, :, 1:-1, 1:-1].max() <= most
    assert keep == 1 or difference.max() <= most  # a smaller crop is away from the image's edges


def test_evaluation_of_a_huge_image() -> None:
    """10,000 x 10,000 pixels, all rows of which are the same: what Pillow makes of one row is the answer in all."""
    row = picture(0, 1, 10_000)
    evaluation = Evaluation(224, 0.875, (0.0,) * 3, (1 / 255,) * 3, Encoding())
    ours = evaluation.input(np.broadcast_to(row, (10_000, 10_000, 3)))
    theirs = np.asarray(Image.fromarray(row).resize((256, 1), Image.Resampling.BILINEAR))[:, 16:240]
    np.testing.assert_array_equal(ours, np.broadcast_to(theirs, (224, 224, 3)))


CLASSES, EPOCHS, BATCH = 8, 4, 32
TRAIN = Augment(32, "resized", (0.5, 1.0))


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    layers: list[torch.nn.Module] = []
    for before, after in ((3, 32), (32, 64), (64, 128)):
        layers += [torch.nn.Conv2d(before, after, 3, 2, 1, bias=False), torch.nn.BatchNorm2d(after), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.LazyLinear(CLASSES))


def accuracy(dataset: Dataset, epochs: Iterator[Iterator[tuple[torch.Tensor, torch.Tensor]]]) -> float:
    """Of a small network trained on these epochs of (images, labels), in percent."""
    model = network()
    model(torch.zeros(2, 3, 32, 32))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=5e-4)
    steps = EPOCHS * -(-len(dataset.split("train")) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for batches in epochs:
        for images, labels in batches:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with Loader(dataset, "test", InOrder(np.arange(len(dataset.split("test")))), Augment(32), 100) as loader:
        hits = [model(batch.images).argmax(1) == batch.labels for batch in loader.epoch()]
    return 100 * torch.cat(hits).float().mean().item()


def test_a_training_is_as_good_through_either(tmp_path: Path) -> None:
    options = Conversion("gratings", (0.5,) * 3, (0.25,) * 3, "demo", conversion("png").encoding)  # type: ignore[arg-type]
    dataset = Dataset(convert(Gratings(CLASSES), options, tmp_path / "data", workers=2))
    index = dataset.split("train")
    order = Sampler(index.class_members, index.class_start, "class", epochs=EPOCHS)

    def by_torchvision(epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        ids = order.order(epoch)
        images = torch.stack(list(theirs(dataset, ids, TRAIN, 1, epoch))).float().div_(127.5).sub_(1).mul_(2)
        labels = torch.from_numpy(index.label[ids].astype(np.int64))
        return zip(images.split(BATCH), labels.split(BATCH), strict=True)

    with Loader(dataset, "train", order, TRAIN, BATCH) as loader:
        ours = accuracy(dataset, ((batch[:2] for batch in loader.epoch(epoch)) for epoch in range(EPOCHS)))
    other = accuracy(dataset, (by_torchvision(epoch) for epoch in range(EPOCHS)))
    assert min(ours, other) > 75
    assert abs(ours - other) < 6  # 1200 test images and other draws: two seeds differ by as much
