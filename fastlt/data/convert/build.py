"""A conversion as configured: the source and the options that conf/convert.yaml and the command line name."""

import itertools
from pathlib import Path
from typing import Any

from fastlt.core.errors import UserError
from fastlt.core.log import say
from fastlt.data.convert.engine import Conversion, convert
from fastlt.data.shards.encode import ENCODINGS, Encoding
from fastlt.data.sources.base import SPLITS, Source
from fastlt.data.sources.cifar import Cifar
from fastlt.data.sources.csv_table import CsvTable
from fastlt.data.sources.image_folder import ImageFolder
from fastlt.data.sources.image_list import ImageList
from fastlt.data.sources.inaturalist import INaturalist
from fastlt.data.sources.long_tail import LAWS, LongTail
from fastlt.data.sources.shapes import Shapes


def convert_configured(cfg: Any) -> Path:
    """Runs the conversion a ConvertConfig describes; the dataset's folder."""
    if not cfg.dataset.get("name"):
        raise UserError("dataset is not given: add dataset=NAME (cifar100_lt, image_list, ...)")
    return convert_source(_source(cfg), cfg)


def convert_source(source: Source, cfg: Any) -> Path:
    """Converts a source as a ConvertConfig says; the dataset's folder."""
    kind = cfg.encode or cfg.dataset.encode
    auto = kind == "auto"
    if kind not in (*ENCODINGS, "auto"):
        raise UserError(f"encode={kind} is unknown: allowed are {', '.join(ENCODINGS)}, auto")
    if auto:  # what is not stored raw is kept as found, or made smaller as JPEG
        kind = "jpeg" if cfg.max_short_side else "keep"
    out = Path(_given(cfg, "out"))
    options = Conversion(
        # The user's own images are named after their folder, unless dataset.name says otherwise.
        name=source.name if cfg.dataset.name == cfg.dataset.kind else cfg.dataset.name,
        mean=tuple(cfg.dataset.mean),
        std=tuple(cfg.dataset.std),
        protocol=cfg.dataset.protocol,
        encoding=Encoding(kind, cfg.quality, cfg.max_short_side, cfg.orientation),
        shard_mb=cfg.shard_mb,
        raw_fraction=cfg.raw_fraction if auto else 0.0,
        max_bad=cfg.max_bad,
    )
    return convert(source, options, out, cfg.workers, cfg.overwrite)


def _source(cfg: Any) -> Source:
    kind = cfg.dataset.kind
    imbalance = 100.0 if cfg.imbalance is None else cfg.imbalance
    if cfg.classes is not None and kind != "shapes":
        raise UserError(f"classes={cfg.classes} is for dataset=shapes: leave it out for dataset={cfg.dataset.name}")
    if kind != "cifar" and cfg.selection != "ours":
        raise UserError(f"selection={cfg.selection} is for CIFAR: leave it out for dataset={cfg.dataset.name}")
    if kind in ("shapes", "cifar"):
        if cfg.long_tail:
            raise UserError(f"long_tail={cfg.long_tail}: dataset={cfg.dataset.name} has a long tail, set by imbalance=")
        if kind == "shapes":
            return Shapes(seed=cfg.seed, imbalance=imbalance, classes=cfg.classes)
        return Cifar(Path(_given(cfg, "source")), cfg.dataset.classes, imbalance, cfg.seed, cfg.selection)
    if cfg.imbalance is not None and not cfg.long_tail:
        raise UserError(f"imbalance={cfg.imbalance:g} needs a law: add long_tail={' or long_tail='.join(LAWS)}")
    source = _files(cfg)
    _say_shared(source)
    if cfg.long_tail:
        return LongTail(source, cfg.long_tail, imbalance, cfg.seed, cfg.minimum, cfg.alpha, cfg.head or "")
    return source


def _files(cfg: Any) -> Source:
    """A source of image files below `root`."""
    kind = cfg.dataset.kind
    if kind == "image_list":
        return _listed(cfg)
    if kind == "image_folder":
        return ImageFolder(Path(_given(cfg, "root")))
    if kind == "csv":
        if cfg.train:
            raise UserError(f"train={cfg.train}: dataset={cfg.dataset.name} takes the table of training as table=FILE")
        val, test = (Path(cfg[split]) if cfg[split] else None for split in ("val", "test"))
        source = CsvTable(Path(_given(cfg, "root")), Path(_given(cfg, "table")), val, test)
        if "test" not in source.splits:
            raise UserError(f"table={cfg.table} has no test images: add test=FILE or a column split that names them")
        return source
    raise UserError(f"dataset.kind={kind} is unknown: allowed are shapes, cifar, image_list, image_folder, csv")


def _listed(cfg: Any) -> Source:
    """Text lists, or iNaturalist's annotation files: the names of the files decide."""
    for split in ("train", "test"):
        _given(cfg, split)
    lists = {split: Path(cfg[split]) for split in SPLITS if cfg[split]}
    root = Path(_given(cfg, "root"))
    json = [path.name.endswith((".json", ".json.gz")) for path in lists.values()]
    if any(json):
        if not all(json):
            names = ", ".join(f"{split}={path}" for split, path in lists.items())
            raise UserError(f"{names}: some are .json, some are not; give all splits as text lists or all as .json")
        if cfg.class_names:
            raise UserError(f"class_names={cfg.class_names}: .json files name their classes; leave class_names out")
        return INaturalist(root, lists["train"], lists.get("val"), lists["test"])
    return ImageList(root, lists, Path(cfg.class_names) if cfg.class_names else None)


def _say_shared(source: Source) -> None:
    """Names the splits that have images in common, by key. Allowed: some data sets use one list for two splits."""
    for first, second in itertools.combinations(source.splits, 2):
        listed = set(source.splits[second].keys)
        shared = sum(key in listed for key in source.splits[first].keys)
        if shared:
            say(f"note: {shared:,} images are in {first} and in {second}, under the same path")


def _given(cfg: Any, key: str) -> Any:
    value = cfg.get(key)
    if value is None:
        raise UserError(f"{key} is not given: dataset={cfg.dataset.name} needs {key}=PATH")
    return value
