"""python -m fastlt.convert, also as python tools/convert.py."""

import sys
from typing import Any

from fastlt.core.cli import hydra_command
from fastlt.core.groups import group_sizes
from fastlt.data.convert.build import convert_configured
from fastlt.data.convert.storage import draws_served
from fastlt.data.shards.format import RAW
from fastlt.data.shards.reader import Dataset
from fastlt.experiment.config import ConvertConfig


@hydra_command("convert", ConvertConfig)
def main(cfg: Any) -> None:
    """Converts, then says what the dataset holds."""
    dataset = Dataset(convert_configured(cfg))
    lines = [f"{dataset.name}: {dataset.classes} classes"]
    for name, split in dataset.splits.items():
        counts = split.counts
        lines.append(f"  {name:5} {len(split):,} images, {counts.max():,}..{counts.min():,} per class")
    if stored := _raw_part(dataset):
        lines.append(f"  {stored}")
    sizes = group_sizes(dataset.split("train").counts)
    lines.append("  classes: " + ", ".join(f"{count} {group}" for group, count in sizes.items()))
    if bad := dataset.about["quarantined"]:
        lines.append(f"  left out: {sum(len(rows) for rows in bad.values())} images, listed in dataset.json")
    lines.append(f"  shards: {sum(shard['size'] for shard in dataset.about['shards']) / 1e6:,.1f} MB in {dataset.root}")
    sys.stdout.write("\n".join(lines) + "\n")


def _raw_part(dataset: Dataset) -> str:
    """What class-aware storage gives and costs, if some of the training images are raw and some are not."""
    train = dataset.split("train")
    raw = train.encoding == RAW
    if raw.all() or not raw.any():
        return ""
    served = {law: 100 * draws_served(train.label, raw, law) for law in ("class", "sqrt")}
    size = train.length[raw].sum() / 1e6
    return (
        f"raw: {raw.sum():,} training images ({100 * raw.mean():.0f} %), {size:,.1f} MB; they serve "
        f"{served['class']:.0f} % of class-balanced draws and {served['sqrt']:.0f} % of square-root draws"
    )


if __name__ == "__main__":
    main()
