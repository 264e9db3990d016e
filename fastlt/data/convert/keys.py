"""Checks that the given keys of a conversion belong to its kind of source."""

from fastlt.core.errors import UserError
from fastlt.data.convert.config import ConvertConfig

_DRAWN = ("imbalance", "minimum", "alpha", "head")
_OWN_FILES = ("class_names", "split", "val", "test", "group_by", "seed", "drop_duplicates", "long_tail", *_DRAWN)
KEYS = {
    "shapes": ("classes", "imbalance", "seed"),
    "cifar": ("source", "imbalance", "seed", "selection", "class_names", "val", "drop_duplicates"),
    "image_folder": ("root", *_OWN_FILES),
    "image_list": ("root", "train", "annotations", *_OWN_FILES),
    "csv": ("root", "table", "path_column", "label_column", "split_column", *_OWN_FILES),
    "parquet": ("source", "image_column", "label_column", *_OWN_FILES),
    "webdataset": ("source", "image_column", "label_column", *_OWN_FILES),
    "examples": _OWN_FILES,  # images passed to fastlt.write_dataset
}
# The defaults of these keys. That of all others is None.
DEFAULTS = {"seed": 0, "drop_duplicates": False, "minimum": 1, "alpha": 6.0, "selection": "ours"}
_LAW = "long_tail=exponential or long_tail=pareto"
_NEEDS = {  # key -> (the keys of which it needs at least one, how the error message says so)
    **dict.fromkeys(_DRAWN, (("long_tail",), f"a law: add {_LAW}")),
    "group_by": (("split", "val", "test"), "shares: add split=0.7,0.1,0.2"),
    "seed": (("split", "val", "test", "long_tail"), f"something to draw: add split=0.7,0.1,0.2 or {_LAW}"),
}


def check_keys(config: ConvertConfig, kind: str) -> None:
    """Raises UserError for a given key that this kind of source does not use, or that lacks a key it depends on."""
    if kind not in KEYS:
        raise UserError(f"dataset.kind={kind} is unknown: allowed are {', '.join(KEYS)}")
    own = KEYS[kind]
    given = [key for key in dict.fromkeys(sum(KEYS.values(), ())) if getattr(config, key) != DEFAULTS.get(key)]
    for key in given:
        value = f"{found:g}" if isinstance(found := getattr(config, key), float) else found
        if key not in own:
            raise UserError(f"{key}={value} is not for dataset={config.dataset.name}: its keys are {', '.join(own)}")
        others, how = _NEEDS.get(key, ((), ""))
        if "long_tail" in own and others and not set(others) & set(given):
            raise UserError(f"{key}={value} needs {how}")
