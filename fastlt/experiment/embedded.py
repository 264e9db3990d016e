"""The embedded datasets, which are drawn and converted when they are first used."""

from pathlib import Path

import hydra

from fastlt.core.lock import locked
from fastlt.core.log import say
from fastlt.core.structured import from_node, register
from fastlt.data.convert import convert_configured
from fastlt.data.convert.config import ConvertConfig
from fastlt.data.shards.format import DATASET_FILE

# The folder of an embedded dataset -> the arguments of fastlt.convert that make it.
EMBEDDED = {"data/shapes": ["dataset=shapes"], "data/shapes_6": ["dataset=shapes", "classes=6"]}
SHAPES_DIGEST = "20830c318a837780e4ddb765636c69c3202cc83559c34095ff41be89b015be67"  # of the dataset in data/shapes
PATIENCE = 600.0  # seconds to wait for another process that is drawing the same dataset


def draw_embedded(data: str) -> None:
    """Draws and converts the embedded dataset if `data` is its folder and does not exist yet.

    Composes a configuration, so Hydra must be initialized.
    """
    if data not in EMBEDDED or (Path(data) / DATASET_FILE).exists():
        return
    with locked(Path(f"{data}.lock"), data, PATIENCE):
        if not (Path(data) / DATASET_FILE).exists():
            say(f"drawing the embedded dataset {data}")
            register("convert", ConvertConfig)
            node = hydra.compose("convert", [*EMBEDDED[data], f"out={data}"])
            convert_configured(from_node(node, ConvertConfig))
