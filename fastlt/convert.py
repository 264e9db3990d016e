"""The command `python -m fastlt.convert` (also `python tools/convert.py`): converts labelled images to a dataset."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import BooleanNode, ValidationError

from fastlt.core.cli import guard, hydra_command
from fastlt.core.errors import UserError
from fastlt.core.groups import group_sizes
from fastlt.core.help import Help
from fastlt.core.log import printed, say
from fastlt.core.overrides import quoted
from fastlt.core.structured import from_node
from fastlt.core.words import counted
from fastlt.data.convert.build import convert_configured
from fastlt.data.convert.config import ConvertConfig
from fastlt.data.convert.storage import draws_served
from fastlt.data.shards.format import RAW
from fastlt.data.shards.reader import Dataset
from fastlt.data.sources.guess import guessed

LISTED = 20  # a dataset with at most so many classes is printed with the counts of each class


def main() -> None:
    """Runs the command: `PATH out=DIR`, where the kind of source is guessed, or `dataset=NAME ... out=DIR`."""

    def command() -> None:
        sys.argv[1:] = with_guess(sys.argv[1:])
        _convert()

    guard(command, ConvertConfig)


def with_guess(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments with a bare path replaced by the keys that describe it, such as dataset=csv table=PATH.

    Logs the keys that were guessed. Raises UserError for two paths, or for a path beside dataset=.
    """
    paths = [one for one in arguments if not one.startswith("-") and ("=" not in one or Path(one).exists())]
    keys = {one.partition("=")[0]: one.partition("=")[2] for one in arguments if one not in paths}
    if "remove" in keys and "dataset" not in keys and not paths:  # any kind: there is no source
        return ["dataset=image_folder", *arguments]
    if not paths:
        return list(arguments)
    if len(paths) > 1:
        raise UserError(f"{paths[0]} and {paths[1]} are two sources: give one; other arguments are key=value")
    if "dataset" in keys:
        raise UserError(f"{paths[0]} has no key: with dataset=NAME arguments are key=value, such as root={paths[0]}")
    # Without splits of their own, images that are added to a dataset are for training.
    found = guessed(Path(paths[0]), {*keys, "split"} if _is_true(keys.get("append", "")) else keys)
    say(f"{paths[0]} is taken as {' '.join(f'{key}={value}' for key, value in found.items())}")
    rest = [one for one in arguments if one not in paths]
    return [*(f"{key}={quoted(value)}" for key, value in found.items()), *rest]


def _is_true(text: str) -> bool:
    """Returns whether OmegaConf takes the value of a key for true: also `True`, `yes` or `1`."""
    try:
        return BooleanNode().validate_and_convert(text.strip("'\"")) is True
    except ValidationError:
        return False


def configuration(node: Any) -> ConvertConfig:
    """Returns the configuration of a conversion from the node that Hydra composed.

    Raises UserError if it names no kind of source or no folder for the dataset.
    """
    if not node.dataset.get("name"):
        raise UserError("dataset is not given: add dataset=NAME (cifar100_lt, image_list, ...)")
    if not node.get("out"):
        raise UserError(f"out is not given: dataset={node.dataset.name} needs out=PATH")
    return from_node(node, ConvertConfig)


HELP = Help(
    "python -m fastlt.convert PATH out=DIR [KEY=VALUE ...]    or    dataset=KIND ... out=DIR",
    "Converts labelled images once into a dataset that training reads. The kind of a source PATH (a folder with a "
    "folder of images per class, a CSV table, a list, ...) is guessed and printed. A source without splits is divided "
    "into train, val and test. Every image is decoded; damaged ones are listed. The same command goes on where it was "
    "stopped.",
    [
        "python -m fastlt.convert photos/ out=data/photos",
        "python -m fastlt.convert labels.csv root=images out=data/mine val=0.1 test=0.2 group_by=patient max_bad=0.001",
        "python -m fastlt.convert dataset=cifar100_lt source=cifar-100-python.tar.gz out=data/c100 imbalance=100",
        "python -m fastlt.convert photos/ append=true out=data/photos",
        "python -m fastlt.convert remove=withdrawn.txt out=data/photos",
    ],
    ["dataset"],
)


@hydra_command("convert", ConvertConfig, HELP)
def _convert(node: Any) -> None:
    """Converts the source and prints what the dataset holds."""
    out = convert_configured(configuration(node))
    if out is None:  # other parts are missing, and a line has named them
        return
    dataset = Dataset(out)
    lines = [f"{dataset.name}: {counted(dataset.classes, 'class')}"]
    for name, split in dataset.splits.items():
        counts = split.counts
        lines.append(f"  {name:5} {counted(len(split), 'image')}, {counts.max():,}..{counts.min():,} per class")
    lines += _table(dataset)
    if stored := _raw_part(dataset):
        lines.append(f"  {stored}")
    sizes = group_sizes(dataset.split("train").counts)
    lines.append("  classes: " + ", ".join(f"{count} {group}" for group, count in sizes.items()))
    if bad := dataset.about["quarantined"]:
        lines.append(f"  left out: {counted(sum(len(rows) for rows in bad.values()), 'image')}, listed in dataset.json")
    lines.append(f"  shards: {sum(shard['size'] for shard in dataset.about['shards']) / 1e6:,.1f} MB in {dataset.root}")
    sys.stdout.write("".join(f"{printed(line)}\n" for line in lines))


def _table(dataset: Dataset) -> list[str]:
    """Returns lines with the number of images of every class in every split.

    A dataset of more than LISTED classes gets a line for each split that lacks classes, with the number it lacks.
    """
    if dataset.classes > LISTED:
        lacking = {name: int((split.counts == 0).sum()) for name, split in dataset.splits.items()}
        return [f"  {name} has no image of {counted(count, 'class')}" for name, count in lacking.items() if count]
    wide = max(map(len, dataset.class_names))
    rows = zip(dataset.class_names, *(split.counts.tolist() for split in dataset.splits.values()), strict=True)
    return [f"    {name:<{wide}} " + "".join(f"{count:>9,}" for count in counts) for name, *counts in rows]


def _raw_part(dataset: Dataset) -> str:
    """Returns a line on the size and the use of class-aware storage, where only some training images are raw.

    Returns "" where all training images are stored the same way.
    """
    train = dataset.split("train")
    raw = train.encoding == RAW
    if raw.all() or not raw.any():
        return ""
    served = {law: 100 * draws_served(train.label, raw, law) for law in ("class", "sqrt")}
    size = train.length[raw].sum() / 1e6
    return (
        f"raw: {counted(raw.sum(), 'training image')} ({100 * raw.mean():.0f} %), {size:,.1f} MB; they serve "
        f"{served['class']:.0f} % of class-balanced draws and {served['sqrt']:.0f} % of square-root draws"
    )


if __name__ == "__main__":
    main()
