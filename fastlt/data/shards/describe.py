"""Describes a dataset, as facts for JSON and as text. Reads its description and index, but no shard."""

from typing import Any

import numpy as np

from fastlt.core.groups import GROUPS, class_groups
from fastlt.core.log import printed
from fastlt.core.words import agree, counted
from fastlt.data.shards import format as layout
from fastlt.data.shards.history import APPEND, steps
from fastlt.data.shards.reader import Dataset

QUARANTINED = 5  # inputs left out by the conversion that are named; the rest is only counted


def describe(dataset: Dataset) -> dict[str, Any]:
    """Returns the facts of a dataset, ready for JSON.

    Image sizes are those of the stored images in pixels. Classes and groups are those of the train split. Encodings and
    image sizes cover all splits. `image_groups` are those of group_by=, None without it. Near duplicates are None
    if nobody looked for them (check=false).
    """
    about, splits = dataset.about, dataset.splits
    counts = dataset.split("train").counts
    largest, smallest = int(counts.argmax()), int(counts.argmin())
    left_out = [{"split": split, **row} for split, rows in about.get("quarantined", {}).items() for row in rows]
    return {
        "name": dataset.name,
        "digest": dataset.digest,
        "protocol": about.get("protocol"),
        "splits": {
            name: {
                "images": len(index),
                "classes": int((index.counts > 0).sum()),
                "image_groups": _groups(dataset, name),
            }
            for name, index in splits.items()
        },
        "classes": dataset.classes,
        "largest_class": {"class": dataset.class_names[largest], "images": int(counts[largest])},
        "smallest_class": {"class": dataset.class_names[smallest], "images": int(counts[smallest])},
        "imbalance": round(float(counts.max() / max(counts.min(), 1)), 2),
        "groups": {
            group: {"classes": int(inside.sum()), "images": int(counts[inside].sum())}
            for place, group in enumerate(GROUPS)
            for inside in [class_groups(counts) == place]
        },
        "image_sizes": _image_sizes(dataset),
        "encodings": _encodings(dataset),
        "colours": about.get("colours", {}),
        "near_duplicates": about.get("near_duplicates", {}) if about["options"].get("check", True) else None,
        "quarantined": {"images": len(left_out), "first": left_out[:QUARANTINED]},
        "history": [_told(step) for step in steps(about)],
        "shards": {"count": len(dataset.shards), "bytes": sum(shard["size"] for shard in about["shards"])},
    }


def _told(step: dict[str, Any]) -> dict[str, Any]:
    """Returns a step of the dataset's history: what was done, with how many images of each split, and to what."""
    images = step["added"] if step["step"] == APPEND else {split: len(rows) for split, rows in step["removed"].items()}
    return {"step": step["step"], "images": images, "from": step["from"]}


def _groups(dataset: Dataset, split: str) -> int | None:
    groups = dataset.image_groups(split)
    return None if groups is None else int(groups.max()) + 1


def _column(dataset: Dataset, name: str) -> np.ndarray:
    return np.concatenate([getattr(index, name) for index in dataset.splits.values()])


def _image_sizes(dataset: Dataset) -> dict[str, dict[str, float]]:
    height, width = _column(dataset, "height"), _column(dataset, "width")
    sizes = {"height": height, "width": width, "short_side": np.minimum(height, width)}
    return {
        name: {"min": int(values.min()), "median": float(np.median(values)), "max": int(values.max())}
        for name, values in sizes.items()
    }


def _encodings(dataset: Dataset) -> dict[str, dict[str, float]]:
    encoding, length = _column(dataset, "encoding"), _column(dataset, "length")
    found = {}
    for code, name in enumerate(layout.EXTENSIONS):
        own = length[encoding == code]
        if len(own):
            found[name] = {"images": len(own), "bytes_per_image": round(float(own.mean()), 1)}
    return found


def page(facts: dict[str, Any]) -> str:
    """Formats the facts of `describe` as text for a terminal, as a line or a small table each."""
    wide = max(len(name) for name in (*facts["splits"], *GROUPS))
    split_rows = [(name, row["images"], row["classes"]) for name, row in facts["splits"].items()]
    group_rows = [(name, row["images"], row["classes"]) for name, row in facts["groups"].items()]
    digits = max(len(f"{images:,}") for _, images, _ in (*split_rows, *group_rows))

    def table(rows: list[tuple[str, int, int]]) -> list[str]:
        return [
            f"{name:<{wide}}  {counted(images, 'image'):>{digits + 7}}  {counted(classes, 'class'):>14}"
            for name, images, classes in rows
        ]

    together = [
        f"{name}: {counted(row['image_groups'], 'group')} of images"
        for name, row in facts["splits"].items()
        if row["image_groups"] is not None
    ]
    largest, smallest = (
        f"{row['class']} ({row['images']:,})" for row in (facts["largest_class"], facts["smallest_class"])
    )
    sizes = facts["image_sizes"]
    left_out, shards = facts["quarantined"], facts["shards"]
    encodings = [
        f"{name}: {counted(row['images'], 'image')} of {row['bytes_per_image']:,.0f} bytes on average"
        for name, row in facts["encodings"].items()
    ]
    colours = [f"{colour}: {count:,}" for colour, count in facts["colours"].items()]
    bad = [f"{row['split']} {row['key']}: {row['reason']}" for row in left_out["first"]]
    if left_out["images"] > len(bad):
        bad.append(f"and {left_out['images'] - len(bad):,} more, see {layout.DATASET_FILE}")
    near = [
        f"{counted(row['images'], 'image')} of {split} {agree(row['images'], 'looks', 'look')} like others, such as "
        f"{one['key']} like {one['of']} of {one['split']}"
        for split, row in (facts["near_duplicates"] or {}).items()
        for one in row["first"][:1]
    ] or ["none across splits" if facts["near_duplicates"] is not None else "not looked for (check=false)"]
    if any(row["step"] == APPEND for row in facts["history"]):
        near.append("images that were added later were compared with each other only")
    history = [
        f"{done} {counted(sum(row['images'].values()), 'image')} ({parts}) {to} {row['from'][:12]}"
        for row in facts["history"]
        for done, to in [("added", "to") if row["step"] == APPEND else ("removed", "from")]
        for parts in [", ".join(f"{split} {count:,}" for split, count in row["images"].items())]
    ]
    entries: list[tuple[str, list[str]]] = [
        ("name", [facts["name"]]),
        ("digest", [facts["digest"]]),
        ("protocol", [str(facts["protocol"])]),
        ("splits", table(split_rows)),
        *([("kept together", together)] if together else []),
        ("train groups", table(group_rows)),
        ("largest class", [largest]),
        ("smallest class", [smallest]),
        ("imbalance", [f"{facts['imbalance']:g}"]),
        *((name.replace("_", " "), [_spread(sizes[name])]) for name in ("height", "width", "short_side")),
        ("encodings", encodings),
        ("colours", ["other than RGB as found: " + ", ".join(colours) if colours else "all RGB as found"]),
        ("near duplicates", near),
        ("quarantined", [counted(left_out["images"], "image"), *bad] if bad else ["none"]),
        ("history", history or ["as it was converted"]),
        ("shards", [f"{shards['count']:,}, {shards['bytes'] / 1e6:,.1f} MB"]),
    ]
    if "picture" in facts:
        entries.append(("picture", [facts["picture"]]))
    lines = [printed(f"{'' if row else name:<15}  {line}") for name, rows in entries for row, line in enumerate(rows)]
    return "\n".join(lines) + "\n"


def _spread(size: dict[str, float]) -> str:
    if size["min"] == size["max"]:
        return f"{size['min']} pixels, all"
    return f"{size['min']} to {size['max']} pixels, median {size['median']:g}"
