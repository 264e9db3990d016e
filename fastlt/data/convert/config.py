"""The configuration of a conversion: every key with its type and meaning. Values for known datasets are in conf/."""

from dataclasses import dataclass

from fastlt.data.shards.encode import MAX_PIXELS


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """The kind of source, and the constants of a known dataset."""

    name: str  # of the source: a known dataset, or its kind
    kind: str  # of source: shapes, cifar, image_list, image_folder, csv, parquet, webdataset or lmdb
    protocol: str  # the default protocol for training on the dataset
    mean: tuple[float, ...]  # of the RGB channels, in 0..1
    std: tuple[float, ...]  # standard deviation, as mean
    classes: int | None = None  # for cifar: 10 or 100
    encode: str = "keep"  # the default of encode


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """The keys of `python -m fastlt.convert` and of `fastlt.write_dataset`."""

    dataset: DatasetConfig
    out: str  # the folder to write
    name: str | None = None  # name of the dataset; default: that of a known dataset, else that of the folder `out`
    source: str | None = None  # cifar: its archive or folder; parquet, webdataset: file, folder or pattern
    root: str | None = None  # folder that paths of images are relative to
    train: str | None = None  # image_list: a text list, or iNaturalist's annotations if it ends in .json or .json.gz
    val: str | None = None  # image_list: a list; csv: a table; parquet, webdataset: files; or a share, as val=0.1
    test: str | None = None  # the same for the test split
    table: str | None = None  # csv: the table, with a header
    path_column: str | None = None  # csv: default: path, image, file, filename and the like
    image_column: str | None = None  # parquet, webdataset: column or extension; default: the only one of images
    label_column: str | None = None  # csv, parquet, webdataset: default: label, class, category and the like
    split_column: str | None = None  # csv: default: split, if there is such a column
    annotations: str | None = None  # JSON: what an image with several gets: first, largest, or skip it
    class_names: str | None = None  # file with the order of the classes: a name per line, or a class map
    split: str | None = None  # shares of train, val and test for a source without splits, as split=0.7,0.1,0.2
    group_by: str | None = None  # column of a table, field of JSON, or regular expression over paths: keeps together
    drop_duplicates: bool = False  # leave out images of val and test that look like one of an earlier split
    long_tail: str | None = None  # exponential or pareto: thins the train split; for all but cifar and shapes
    imbalance: float | None = None  # size of the largest class / smallest; for long_tail, cifar, shapes; default: 100
    minimum: int = 1  # long_tail: images that every class keeps at least
    alpha: float = 6.0  # long_tail=pareto: its exponent; 6 made ImageNet-LT, 1.34 Places-LT
    head: str | None = None  # long_tail: large classes are the `first` or `random`; default: random for pareto
    classes: int | None = None  # shapes: how many of its 36 classes, the most frequent ones; default: all
    seed: int = 0  # for everything that is drawn: shapes, splits, the images that remain in a long tail
    selection: str = "ours"  # cifar: how remaining images are chosen; ldam: as LDAM-DRW's code does with seed 0
    encode: str | None = None  # keep, jpeg, png, raw, auto, or link (webdataset); default: the dataset's
    raw_fraction: float = 0.2  # encode=auto: share of the training images to store raw, those drawn most often
    quality: int = 90  # encode=jpeg: quality of the JPEG files, 1 to 100
    check: bool = True  # encode=link: decode every image; false reads only the headers of JPEGs
    seek_table: bool = False  # JPEGs get a table by which only the crop is read and decoded; up to 5 % larger
    max_short_side: int = 0  # in pixels: larger images are scaled down to it; 0: all keep their size
    orientation: str = "ignore"  # the EXIF orientation: ignore, or apply it to the pixels
    background: str = ""  # colour under transparent pixels, as white or #808080; default: alpha is dropped
    max_pixels: int = MAX_PIXELS  # larger images count as bad, because a small file can claim any size
    shard_mb: int = 256  # target size of a shard, in megabytes
    max_bad: float = 0  # bad images that may be left out; below 1: as a share of all images
    workers: int = 0  # worker processes; 0: one per core
    part: str | None = None  # convert a part of the images, such as 3/16; the last part joins all of them
    overwrite: bool = False  # replace a dataset in `out`
    append: bool = False  # add the images that the dataset in `out` lacks, as new shards; stored as its images are
    remove: str | None = None  # alone with out: a file of keys or paths, whose images the dataset in `out` loses
