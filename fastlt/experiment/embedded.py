"""Data sets that are drawn when they are first asked for; every other one is converted by its owner."""

from pathlib import Path

from fastlt.core.cli import recompose
from fastlt.core.lock import locked
from fastlt.core.log import say
from fastlt.data.convert import convert_configured
from fastlt.data.shards.format import DATASET_FILE

# Folder -> arguments of tools/convert.py.
EMBEDDED = {"data/shapes": ["dataset=shapes"], "data/shapes_6": ["dataset=shapes", "classes=6"]}
PATIENCE = 600.0  # seconds; another process may be drawing it


def draw_embedded(data: str) -> None:
    """Draws and converts the embedded data set if `data` names one that is not there. Needs a running command."""
    if data not in EMBEDDED or (Path(data) / DATASET_FILE).exists():
        return
    with locked(Path(f"{data}.lock"), data, PATIENCE):
        if not (Path(data) / DATASET_FILE).exists():
            say(f"drawing the embedded data set {data}")
            convert_configured(recompose("convert", [*EMBEDDED[data], f"out={data}"], own=False))
