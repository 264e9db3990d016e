"""Draws a picture of a dataset: the class counts, and below some images of many-, medium- and few-shot classes."""

import io
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.font_manager import findfont, get_font
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text
from PIL import Image, ImageOps

from fastlt.core.errors import UserError
from fastlt.core.files import replacing
from fastlt.core.groups import GROUPS, class_groups
from fastlt.core.log import say
from fastlt.core.palette import GROUP_COLOURS, WIDTH, draw_class_counts, styled
from fastlt.core.words import counted
from fastlt.data.shards import format as layout
from fastlt.data.shards.reader import Dataset

CLASSES, IMAGES = 6, 2  # columns (classes of a group) and rows (images of a class)
DPI = 160
TILE, GAP = 160, 12  # side of an image, and gap between two, in pixels
MARK = "fastlt.shards describe"  # written into the file, so that only pictures drawn here are ever overwritten


def picture_path(root: Path, wanted: Path | None) -> Path:
    """Returns the path of the picture of the dataset in `root`: `wanted`, or by default `root`.png.

    Raises UserError if the path is inside the dataset, does not end in .png, has no folder, or is a file that was not
    drawn by `save_picture`.
    """
    path = wanted or root.resolve().with_name(f"{root.resolve().name}.png")
    why = "name another file with --picture FILE, or draw nothing with --no-picture"
    if path.suffix.lower() != ".png":
        raise UserError(f"--picture={path}: the name must end in .png")
    if path.resolve().is_relative_to(root.resolve()):
        raise UserError(f"the picture {path} would lie inside the dataset {root}, which stays as it is: {why}")
    if not path.parent.is_dir():
        raise UserError(f"--picture={path}: there is no folder {path.parent}; make it, or {why}")
    if path.exists() and not _drawn_here(path):
        raise UserError(f"{path} exists, and is no picture that describe drew: {why}")
    return path


def _drawn_here(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            return image.info.get("Software") == MARK
    except (OSError, SyntaxError, ValueError):
        return False


@styled
def save_picture(dataset: Dataset, path: Path) -> None:
    """Draws a dataset into the PNG file `path`. The same dataset gives the same bytes.

    Raises UserError if the file cannot be written.
    """
    counts = dataset.split("train").counts
    order = np.argsort(-counts, kind="stable")
    groups = class_groups(counts[order])
    bands = [(group, order[groups == place]) for place, group in enumerate(GROUPS) if (groups == place).any()]
    heights = [4.0] + [3.1] * len(bands)
    figure = Figure(figsize=(WIDTH, sum(heights)), layout=ConstrainedLayoutEngine(h_pad=0.08, hspace=0, wspace=0))
    parts = figure.subfigures(1 + len(bands), 1, height_ratios=heights, squeeze=False)[:, 0]
    axes = parts[0].subplots()
    draw_class_counts(axes, counts[order])
    total = (
        f"{_drawable(dataset.name, 'dataset')}: {counted(counts.sum(), 'training image')} of "
        f"{counted(len(counts), 'class')}"
    )
    titles = [(parts[0].suptitle(total, fontweight="bold", fontsize=12), WIDTH * 0.95)]
    for part, (group, classes) in zip(parts[1:], bands, strict=True):
        titles += _draw_group(part, dataset, group, classes)
    _fit(figure, titles)
    with replacing(path, f"--picture={path}") as temporary:  # an incomplete file without MARK could not be overwritten
        figure.savefig(temporary, dpi=DPI, format="png", metadata={"Software": MARK})


def _draw_group(part: SubFigure, dataset: Dataset, group: str, classes: np.ndarray) -> list[tuple[Text, float]]:
    """Draws images of some classes of a group, from its largest to its smallest.

    Returns the titles that were drawn, and the width in inches that each may take.
    """
    shown = classes[np.unique(np.linspace(0, len(classes) - 1, min(CLASSES, len(classes))).round().astype(int))]
    index = dataset.split("train")
    title = f"{group}: {len(shown)} of {counted(len(classes), 'class')}"
    part.suptitle(title, color=GROUP_COLOURS[group], fontweight="bold", fontsize=12, x=0.01, ha="left")
    bare = {"xticks": [], "yticks": [], "frame_on": False}
    grid = part.subplots(1, CLASSES, squeeze=False, subplot_kw=bare)[0]
    titles = []
    for axes, label in zip(grid, shown.tolist(), strict=False):
        members = index.class_members[index.class_start[label] : index.class_start[label + 1]]
        axes.imshow(_column([_tile(dataset, sample) for sample in members[:IMAGES].tolist()]), interpolation="none")
        name = _drawable(dataset.class_names[label], f"class {label}")
        titles.append((axes.set_title(name, fontsize=10, loc="center"), WIDTH / CLASSES * 0.95))
        number = counted(len(members), "image")
        axes.text(0.5, -0.02, number, transform=axes.transAxes, ha="center", va="top", fontsize=10)
    return titles


def _drawable(name: str, otherwise: str) -> str:
    """Returns `name`, or `otherwise` if the font lacks one of its characters and would draw a box."""
    return (
        name
        if {ord(letter) for letter in name} <= get_font(findfont("DejaVu Sans")).get_charmap().keys()
        else otherwise
    )


def _column(tiles: list[np.ndarray]) -> np.ndarray:
    """Stacks images vertically; the rest is white if a class has fewer than IMAGES."""
    column = np.full((IMAGES * (TILE + GAP) - GAP, TILE, 3), 255, np.uint8)
    for row, tile in enumerate(tiles):
        column[row * (TILE + GAP) : row * (TILE + GAP) + TILE] = tile
    return column


def _tile(dataset: Dataset, sample: int) -> np.ndarray:
    """Returns the central square of a training image, uint8 [TILE, TILE, 3]; grey if the image does not decode."""
    index = dataset.split("train")
    pixels = int(index.height[sample]) * int(index.width[sample])
    if Image.MAX_IMAGE_PIXELS is not None and pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = pixels  # max_pixels= allowed it when the image was converted
    try:
        if index.encoding[sample] == layout.RAW:
            image = Image.fromarray(np.array(dataset.pixels("train", sample)))
        else:
            image = Image.open(io.BytesIO(dataset.data("train", sample).tobytes()))
            image.draft("RGB", (TILE, TILE))  # a photograph need not be decoded at full size
            image = image.convert("RGB")
        return np.asarray(ImageOps.fit(image, (TILE, TILE), Image.Resampling.BICUBIC))
    except Exception:  # Pillow's decoders raise nearly any exception for damaged bytes
        key = dataset.key("train", sample)
        say(f"train image {key} does not decode: python -m fastlt.shards verify {dataset.root} tells what is damaged")
        return np.full((TILE, TILE, 3), 200, np.uint8)


def _fit(figure: Figure, titles: list[tuple[Text, float]]) -> None:
    """Breaks titles that are wider than allowed (in inches) into two lines, and abbreviates lines in the middle."""
    renderer = FigureCanvasAgg(figure).get_renderer()

    def shortened(text: Text, line: str, room: float) -> str:
        kept, short = len(line), line
        while True:
            text.set_text(short)
            if kept == 1 or text.get_window_extent(renderer).width <= room:
                return short
            kept = min(kept - 1, 60)
            short = f"{line[: -(-kept // 2)]}…{line[len(line) - kept // 2 :]}"

    for text, inches in titles:
        name, room = text.get_text(), inches * figure.dpi
        lines = [name] if shortened(text, name, room) == name else _broken(name)
        text.set_text("\n".join([shortened(text, line, room) for line in lines]))


def _broken(name: str) -> list[str]:
    """Breaks a name into two lines after the space, `_`, `-` or `/` nearest to its middle; one line if it has none."""
    places = [at for at in range(1, len(name)) if name[at - 1] in " _-/" and name[at - 1 :].strip(" _-/")]
    if not places:
        return [name]
    at = min(places, key=lambda place: abs(2 * place - len(name)))
    return [name[:at].rstrip(), name[at:]]
