"""Checks that the given keys of a conversion belong to its kind of source."""

from dataclasses import fields
from typing import Any

from fastlt.core.errors import UserError
from fastlt.data.convert.config import ConvertConfig

_DRAWN = ("imbalance", "minimum", "alpha", "head")
_OWN_FILES = ("class_names", "split", "val", "test", "group_by", "seed", "drop_duplicates", "long_tail", *_DRAWN)
_NAMED = ("append",)  # for images with names, by which those are known that a dataset has already
KEYS = {
    "shapes": ("classes", "imbalance", "seed"),
    "cifar": ("source", "imbalance", "seed", "selection", "class_names", "val", "drop_duplicates"),
    "image_folder": ("root", *_OWN_FILES, *_NAMED),
    "image_list": ("root", "train", "annotations", *_OWN_FILES, *_NAMED),
    "csv": ("root", "table", "path_column", "label_column", "split_column", *_OWN_FILES, *_NAMED),
    "parquet": ("source", "image_column", "label_column", *_OWN_FILES, *_NAMED),
    "webdataset": ("source", "image_column", "label_column", *_OWN_FILES, *_NAMED),
    "lmdb": ("source", *_OWN_FILES, *_NAMED),
    "examples": _OWN_FILES,  # images passed to fastlt.write_dataset
}
# The defaults of these keys. That of all others is None.
DEFAULTS = {"seed": 0, "drop_duplicates": False, "minimum": 1, "alpha": 6.0, "selection": "ours", "append": False}
_LAW = "long_tail=exponential or long_tail=pareto"
_NEEDS = {  # key -> (the keys of which it needs at least one, how the error message says so)
    **dict.fromkeys(_DRAWN, (("long_tail",), f"a law: add {_LAW}")),
    "seed": (("split", "val", "test", "long_tail"), f"something to draw: add split=0.7,0.1,0.2 or {_LAW}"),
}


def _shown(value: Any) -> str:
    """Returns a value as it is written on the command line."""
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def check_alone(config: ConvertConfig) -> None:
    """Raises UserError for a key that remove= does not use."""
    for one in fields(config):
        if one.name not in ("dataset", "out", "remove", "workers") and getattr(config, one.name) != one.default:
            raise UserError(
                f"{one.name}={_shown(getattr(config, one.name))}: remove=LIST takes out=DIR alone, leave it out"
            )


def check_keys(config: ConvertConfig, kind: str) -> None:
    """Raises UserError for a given key that this kind of source does not use, or that lacks a key it depends on."""
    if kind not in KEYS:
        raise UserError(f"dataset.kind={kind} is unknown: allowed are {', '.join(KEYS)}")
    own = KEYS[kind]
    given = [key for key in dict.fromkeys(sum(KEYS.values(), ())) if getattr(config, key) != DEFAULTS.get(key)]
    for key in given:
        value = _shown(getattr(config, key))
        if key not in own:
            raise UserError(f"{key}={value} is not for dataset={config.dataset.name}: its keys are {', '.join(own)}")
        others, how = _NEEDS.get(key, ((), ""))
        if "long_tail" in own and others and not set(others) & set(given):
            raise UserError(f"{key}={value} needs {how}")
