"""A conversion as configured: the source and the options that conf/convert.yaml and the command line name."""

from pathlib import Path
from typing import Any

from fastlt.convert.engine import Conversion, convert
from fastlt.errors import UserError
from fastlt.shards.encode import Encoding
from fastlt.sources.base import Source
from fastlt.sources.cifar import Cifar
from fastlt.sources.image_folder import ImageFolder
from fastlt.sources.image_list import ImageList
from fastlt.sources.shapes import Shapes


def convert_configured(cfg: Any) -> Path:
    """Runs the conversion a ConvertConfig describes; the dataset's folder."""
    if not cfg.dataset.get("name"):
        raise UserError("dataset is not given: add dataset=NAME (cifar100_lt, image_list, ...)")
    encoding = Encoding(cfg.encode or cfg.dataset.encode, cfg.quality, cfg.max_short_side, cfg.orientation)
    mean, std = (tuple(cfg.dataset[key]) for key in ("mean", "std"))
    options = Conversion(cfg.dataset.name, mean, std, cfg.dataset.protocol, encoding, cfg.shard_mb, cfg.max_bad)
    out = Path(_given(cfg, "out"))
    return convert(_source(cfg), options, out, cfg.workers, cfg.overwrite)


def _source(cfg: Any) -> Source:
    kind = cfg.dataset.kind
    if kind == "shapes":
        return Shapes(seed=cfg.seed, imbalance=cfg.imbalance)
    if kind == "cifar":
        return Cifar(Path(_given(cfg, "source")), cfg.dataset.classes, cfg.imbalance, cfg.seed)
    if kind == "image_list":
        lists = {split: Path(cfg[split]) for split in ("train", "val", "test") if cfg[split]}
        for split in ("train", "test"):
            _given(cfg, split)
        names = Path(cfg.class_names) if cfg.class_names else None
        return ImageList(Path(_given(cfg, "root")), lists, names)
    if kind == "image_folder":
        return ImageFolder(Path(_given(cfg, "root")))
    raise UserError(f"dataset.kind={kind} is unknown: allowed are shapes, cifar, image_list, image_folder")


def _given(cfg: Any, key: str) -> Any:
    value = cfg.get(key)
    if value is None:
        raise UserError(f"{key} is not given: dataset={cfg.dataset.name} needs {key}=PATH")
    return value
