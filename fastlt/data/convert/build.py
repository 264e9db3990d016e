"""Runs a conversion from its configuration: builds the source and the options from a ConvertConfig."""

import itertools
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastlt.core.errors import UserError
from fastlt.core.log import say
from fastlt.core.words import agree, counted
from fastlt.data.convert.append import Growth
from fastlt.data.convert.config import ConvertConfig
from fastlt.data.convert.duplicates import without_duplicates
from fastlt.data.convert.engine import Conversion, convert, described_conversion, is_result
from fastlt.data.convert.keys import check_alone, check_keys
from fastlt.data.convert.link import check_linkable
from fastlt.data.convert.parts import Part, convert_part
from fastlt.data.convert.remove import read_list, remove
from fastlt.data.convert.shares import Shares, share
from fastlt.data.convert.workers import cores
from fastlt.data.shards.encode import ENCODINGS, Encoding
from fastlt.data.sources import lmdb_file, parquet, webdataset
from fastlt.data.sources.base import SPLITS, Source
from fastlt.data.sources.cifar import Cifar
from fastlt.data.sources.classes import Renumbered, read_class_names, say_text_order
from fastlt.data.sources.csv_rows import Columns, has_column
from fastlt.data.sources.csv_table import CsvTable
from fastlt.data.sources.divided import Divided
from fastlt.data.sources.grouped import Grouped
from fastlt.data.sources.image_folder import ImageFolder
from fastlt.data.sources.image_list import ImageList
from fastlt.data.sources.inaturalist import INaturalist
from fastlt.data.sources.listed import shown
from fastlt.data.sources.lmdb_file import Lmdb
from fastlt.data.sources.long_tail import LongTail
from fastlt.data.sources.packed_files import files_by_split, files_of, folder_of
from fastlt.data.sources.parquet import Parquet
from fastlt.data.sources.shapes import Shapes
from fastlt.data.sources.webdataset import WebDataset

NO_TEST = (
    "there are no test images, which a training needs: add split=0.7,0.1,0.2 (shares of train, val and test) or "
    "test=0.2, or test=0 to convert without"
)


def convert_configured(config: ConvertConfig) -> Path | None:
    """Runs the conversion that a ConvertConfig describes; returns the dataset's folder.

    Returns None with `part` if other parts are missing.

    Raises UserError for keys that are missing, unknown to this kind of source, or have wrong values.
    """
    kind = config.dataset.kind
    if config.remove:
        check_alone(config)
        return remove(read_list(Path(config.remove)), Path(config.out))
    check_keys(config, kind)
    Shares.of(config)  # checks the shares before any file is read
    if kind == "shapes":
        return convert_source(Shapes(seed=config.seed, imbalance=_imbalance(config), classes=config.classes), config)
    files = _files(config)
    if config.class_names and kind != "image_list":
        files = Renumbered(files, read_class_names(Path(config.class_names)))
    return converted(files, config)


def converted(files: Source, config: ConvertConfig) -> Path | None:
    """Converts a source of the user's images, or adds it to a dataset with `append=true`; returns the folder.

    Raises UserError if there is no test split and the configuration says neither `test=0` nor `append=true`.
    """
    if not config.append:
        return convert_source(arranged(files, config), config)
    if config.overwrite:
        raise UserError("overwrite=true: append=true keeps the dataset and adds to it, leave one of the two out")
    if config.part:
        raise UserError(f"part={config.part}: append=true is done by one process, leave part= out")
    with Growth(Path(config.out), config.max_pixels, config.max_bad, config.workers) as growth:
        growth.check(config)
        new = growth.new(files)
        if new is None:
            say(f"{config.out} has all of these images already: nothing was added")
        else:
            growth.say_without_groups(config.group_by)
            source = arranged(new, config, growth.settled(files, config.group_by) if config.group_by else {})
            if config.drop_duplicates:
                source = without_duplicates(source, growth.options.encoding, config.workers or cores())
            growth.add(source)
    return Path(config.out)


def arranged(source: Source, config: ConvertConfig, settled: Mapping[str, str] | None = None) -> Source:
    """Returns a source of the user's images, divided into splits and made long-tailed as a ConvertConfig says.

    settled: the splits of groups that a dataset has already, as in `Divided`.

    Raises UserError if there is no test split and the configuration says neither `test=0` nor `append=true`.
    """
    shares = Shares.of(config)
    if not config.class_names and not config.append:
        say_text_order(source.class_names)
    if config.group_by or any(listing.groups is not None for listing in source.splits.values()):
        source = Grouped(source, config.group_by or "")
    alone = list(source.splits) == ["train"]  # a source without splits of its own, whose images go to their groups
    if (shares.val or shares.test or (settled and alone)) and (not config.append or "train" in source.splits):
        source = Divided(source, shares.val, shares.test, config.seed, settled or {})
    if "test" not in source.splits and not (shares.without_test or config.append):
        raise UserError(NO_TEST)
    _say_shared(source, settled or {})
    if config.long_tail:
        return LongTail(
            source, config.long_tail, _imbalance(config), config.seed, config.minimum, config.alpha, config.head or ""
        )
    return source


def convert_source(source: Source, config: ConvertConfig) -> Path | None:
    """Converts a source with the options of a ConvertConfig; returns the dataset's folder.

    Returns None with `part` if other parts are missing.
    """
    part = Part.parsed(config.part) if config.part else None
    kind = config.encode or config.dataset.encode
    auto = kind == "auto"
    if kind not in (*ENCODINGS, "auto"):
        raise UserError(f"encode={kind} is unknown: allowed are {', '.join(ENCODINGS)}, auto")
    if auto:  # images that are not stored raw keep their bytes, or become smaller JPEGs
        kind = "jpeg" if config.max_short_side else "keep"
    if config.quality != ConvertConfig.quality and kind != "jpeg":
        raise UserError(f"quality={config.quality} is for encode=jpeg, not encode={kind}: leave one of the two out")
    if config.raw_fraction != ConvertConfig.raw_fraction and not auto:
        raise UserError(
            f"raw_fraction={config.raw_fraction:g} is for encode=auto, not encode={kind}: leave one of the two out"
        )
    if config.drop_duplicates and part:
        raise UserError(
            f"part={part}: drop_duplicates=true compares all images, which every part would have to decode: leave one "
            "of the two out"
        )
    out, encoding = (
        Path(config.out),
        Encoding(
            kind,
            config.quality,
            config.max_short_side,
            config.orientation,
            config.max_pixels,
            config.check,
            config.background,
            config.seek_table,
        ),
    )
    options = Conversion(
        name=config.name or _name(source, config, out),
        mean=tuple(config.dataset.mean),
        std=tuple(config.dataset.std),
        protocol=config.dataset.protocol,
        encoding=encoding,
        shard_mb=config.shard_mb,
        raw_fraction=config.raw_fraction if auto else 0.0,
        max_bad=config.max_bad,
    )
    if kind == "link":
        check_linkable(source, config.dataset.name)
    if config.drop_duplicates and not config.check:
        raise UserError("drop_duplicates=true needs decoded images: leave out check=false")
    if config.drop_duplicates:
        source = without_duplicates(source, encoding, config.workers or cores())
    if part:
        return convert_part(source, options, out, part, config.workers, config.overwrite)
    # Images that are passed from Python have no names by which they could be known again.
    known = config.dataset.kind != "examples" and not config.overwrite
    if known and is_result(out, described_conversion(source, options, config.workers), source, encoding):
        say(
            f"{out} is finished: these images were converted with these options, and nothing is done; overwrite=true "
            "converts them anew, if files have changed under the same names"
        )
        return out
    return convert(source, options, out, config.workers, config.overwrite)


def _name(source: Source, config: ConvertConfig, out: Path) -> str:
    """Returns the dataset's name: that of a known dataset, else that of the folder the images are converted to."""
    if config.dataset.name != config.dataset.kind:
        return config.dataset.name
    return source.name if config.dataset.kind == "shapes" else out.resolve().name


def _imbalance(config: ConvertConfig) -> float:
    return 100.0 if config.imbalance is None else config.imbalance


def _files(config: ConvertConfig) -> Source:
    """Returns the source of images that the user's files describe, before it is divided or made long-tailed."""
    kind = config.dataset.kind
    if kind == "cifar":
        source, classes = Path(_given(config, "source")), config.dataset.classes or 0
        return Cifar(source, classes, _imbalance(config), config.seed, config.selection)
    if kind == "image_list":
        return _listed(config)
    if kind == "parquet":
        columns = config.image_column or "", config.label_column or "", config.group_by or ""
        return Parquet(_packed_files(config, parquet.ENDS), *columns, top=_top(config))
    if kind == "lmdb":
        return Lmdb(_packed_files(config, lmdb_file.ENDS), top=_top(config))
    if kind == "webdataset":
        columns = config.image_column or "", config.label_column or ""
        return WebDataset(_packed_files(config, webdataset.ENDS), *columns, top=_top(config))
    root = Path(_given(config, "root"))
    if kind == "image_folder":
        for split in ("val", "test"):
            if (path := _file(config, split)) is not None:
                raise UserError(f"{split}={path}: with dataset={config.dataset.name} this is a share, such as 0.1")
        return ImageFolder(root)
    table = Path(_given(config, "table"))
    val, test = _file(config, "val"), _file(config, "test")
    columns = Columns(config.path_column or "", config.label_column or "", config.split_column or "")
    if config.group_by and has_column(table, config.group_by):
        columns = replace(columns, group=config.group_by)
    return CsvTable(root, table, val, test, columns=columns)


def _packed_files(config: ConvertConfig, ends: Collection[str]) -> dict[str, list[Path]]:
    """Returns {split: files} for a source whose files hold many images each; val= and test= may name further files."""
    files = files_by_split("source", Path(_given(config, "source")), ends)
    for split in ("val", "test"):
        if (path := _file(config, split)) is not None:
            if split in files:
                raise UserError(
                    f"{split}={path}: source={config.source} has this split already; leave out one of the two"
                )
            files[split] = files_of(split, path, ends)
    return files


def _top(config: ConvertConfig) -> Path:
    """Returns the folder that keys of such a source are relative to."""
    return folder_of(Path(_given(config, "source")))


def _listed(config: ConvertConfig) -> Source:
    """Returns the source of `image_list`: text lists, or iNaturalist's annotations if the files end in .json[.gz]."""
    _given(config, "train")
    lists = {split: path for split in SPLITS if (path := _file(config, split)) is not None}
    root = Path(_given(config, "root"))
    json = [path.name.endswith((".json", ".json.gz")) for path in lists.values()]
    class_names = Path(config.class_names) if config.class_names else None
    if not any(json):
        if config.annotations:
            raise UserError(f"annotations={config.annotations} is for JSON: the lists of this source are text")
        return ImageList(root, lists, class_names)
    if not all(json):
        names = ", ".join(f"{split}={path}" for split, path in lists.items())
        raise UserError(f"{names}: some are .json, some are not; give all splits as text lists or all as .json")
    keys = {"annotations": config.annotations or "", "group_by": config.group_by or ""}
    source = INaturalist(root, lists["train"], lists.get("val"), lists.get("test"), **keys)
    return Renumbered(source, read_class_names(class_names)) if class_names else source


def _say_shared(source: Source, settled: Mapping[str, str]) -> None:
    """Reports splits that have image keys or groups in common, also with the dataset that a source is added to.

    This is no error: some datasets use one list for two splits, or were divided by others. settled: as in `arranged`.
    """
    for split, listing in source.splits.items():
        if apart := sorted({one for one in listing.groups or () if settled.get(one, split) != split}):
            say(
                f"note: {counted(len(apart), 'group')} {agree(len(apart), 'has', 'have')} new images in {split}, and "
                f"images in another split of the dataset, such as {shown(apart[0])} in {settled[apart[0]]}"
            )
    for first, second in itertools.combinations(source.splits, 2):
        listed = set(source.splits[second].keys)
        shared = sum(key in listed for key in source.splits[first].keys)
        if shared:
            say(
                f"note: {counted(shared, 'image')} {agree(shared, 'is', 'are')} in {first} and in {second}, under the "
                "same path"
            )
        both = sorted(set(source.splits[first].groups or ()) & set(source.splits[second].groups or ()) - {""})
        if both:
            say(
                f"note: {counted(len(both), 'group')} {agree(len(both), 'has', 'have')} images in {first} and in "
                f"{second}, such as {shown(both[0])}"
            )


def _file(config: ConvertConfig, split: str) -> Path | None:
    """Returns the path of the list or table of a split; None if none is given, or a share instead."""
    value = getattr(config, split)
    return Path(value) if value and share(config, split) is None else None


def _given(config: ConvertConfig, key: str) -> Any:
    value = getattr(config, key)
    if value is None:
        raise UserError(f"{key} is not given: dataset={config.dataset.name} needs {key}=PATH")
    return value
