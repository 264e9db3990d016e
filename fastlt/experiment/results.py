"""What results.json says of an experiment besides its classifiers, and how it is written."""

import json
from pathlib import Path
from typing import Any

from fastlt.core.groups import group_sizes
from fastlt.data.shards.reader import Dataset
from fastlt.experiment.options import Options
from fastlt.models.backbones import parameters
from fastlt.training.representation import Representation

SCHEMA = 1


def about(dataset: Dataset, options: Options, representation: Representation, choose_on: str) -> dict[str, Any]:
    """Data, representation and options of an experiment."""
    settings, seconds = representation.about, representation.seconds
    stored = dataset.about["options"]
    return {
        "schema": SCHEMA,
        "dataset": dataset.name,
        "dataset_digest": dataset.digest,
        "backbone": representation.model.backbone_name,
        "sampler": settings.get("sampler", "unknown"),
        "drawing": settings.get("drawing"),
        "seed": options.seed,
        "protocol": options.protocol["name"],
        "key": representation.key,
        "epochs": settings.get("epochs"),
        "image_size": options.image_size,
        "evaluation": {
            "keep": options.protocol["keep"],
            **options.normalization(dataset),
            **{name: stored[name] for name in ("kind", "quality", "max_short_side", "orientation")},
        },
        "parameters": parameters(representation.model),
        "checkpoint": {"epoch": representation.epoch, "chosen": representation.chosen},
        "seconds": round(seconds, 3),
        "images_per_second": round(representation.images / seconds, 1) if seconds else None,
        "class_names": dataset.class_names,
        "class_counts": {name: split.counts.tolist() for name, split in dataset.splits.items()},
        "groups": group_sizes(dataset.split("train").counts),
        "choose_on": choose_on,
        **({} if choose_on in ("train", "none") else {"temperature_on": choose_on}),
        "hold_out": options.hold_out,
        "precision": options.precision,
        "mode": options.mode,
        "bn": options.bn,
        "views": options.views,
        "feature_dtype": options.feature_dtype,
    }


def write_results(results: dict[str, Any], folder: Path) -> Path:
    """Writes results.json whole or not at all; its path."""
    path = folder / "results.json"
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n")
    temporary.replace(path)
    return path
