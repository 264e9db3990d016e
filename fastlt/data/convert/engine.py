"""Converts a source of labelled images into a dataset: decodes, checks and stores every sample once."""

import contextlib
import errno
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fastlt.core.errors import UserError
from fastlt.core.log import Progress, say
from fastlt.core.words import agree, counted, first_of
from fastlt.data.convert.duplicates import Looks, listed, near_duplicates, say_duplicates
from fastlt.data.convert.fingerprint import Fingerprint, check_outside, inner
from fastlt.data.convert.link import LinkWriter, place_of
from fastlt.data.convert.storage import raw_choice
from fastlt.data.convert.work_folder import WorkFolder
from fastlt.data.convert.workers import Results, Stored, Workers, cores, encode_sample
from fastlt.data.shards.content import write_dataset
from fastlt.data.shards.encode import AS_IT_LIES, FIRST_FRAME, Encoding
from fastlt.data.shards.format import RAW
from fastlt.data.shards.reader import Dataset, implausible_settings, read_description
from fastlt.data.shards.writer import FIRST, Behind, SplitWriter
from fastlt.data.sources.base import SPLITS, Source, described
from fastlt.data.sources.classes import check_alike
from fastlt.data.sources.examples import Examples

SHARD_UNIT = 1_000_000  # bytes in a megabyte of shard_mb
COMPARED = 16  # images of a split that tell whether a finished dataset was made of the images of a source
SHOWN = 1000  # bad images of a split that are named; the rest is only counted
CLASSES_SHOWN = 100  # classes without training images that are named
BY_SIZE = "by_size"  # stands for the protocol among PROTOCOLS that fits the size of the images
PROTOCOLS = {"small_32": 40, "small_64": 63, "imagenet_lt_90": math.inf}  # largest short side, in pixels
SPACE = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Conversion:
    """Options of a conversion.

    name: the name of the dataset.
    mean, std: of the RGB channels in 0..1; training normalizes images by them.
    protocol: the default protocol for training on the dataset; `by_size` chooses the one of PROTOCOLS that fits the
    images.
    encoding: how images are stored.
    shard_mb: the target size of a shard in megabytes.
    raw_fraction: the share of the training images that are stored as raw pixels, those that class-aware sampling draws
    most often.
    max_bad: how many undecodable images may be left out; below 1, as a share of all images.

    Raises UserError for values that are not allowed.
    """

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    protocol: str
    encoding: Encoding = field(default_factory=Encoding)
    shard_mb: int = 256
    raw_fraction: float = 0.0
    max_bad: float = 0

    def __post_init__(self) -> None:
        if self.shard_mb < 1:
            raise UserError(f"shard_mb={self.shard_mb}: a shard needs at least 1 MB")
        if not 0 <= self.raw_fraction <= 1:
            raise UserError(f"raw_fraction={self.raw_fraction}: the share of raw images must be in 0..1")
        if self.max_bad < 0 or (self.max_bad > 1 and self.max_bad != int(self.max_bad)):
            raise UserError(f"max_bad={self.max_bad}: it must be a number of images, or a share of all below 1")

    def allowed_bad(self, samples: int) -> int:
        """Returns how many of `samples` images may be bad, that is undecodable."""
        return int(self.max_bad * samples) if self.max_bad < 1 else int(self.max_bad)


def convert(source: Source, options: Conversion, out: Path, workers: int = 0, overwrite: bool = False) -> Path:
    """Converts a source into a dataset in the folder `out`, completely or not at all; returns `out`.

    The same source and options give the same bytes for any number of workers. The work is done in `out`.partial. A
    conversion that was killed or ran out of space resumes there after its last complete shard, once all files have been
    checked against what was written.

    workers: the number of worker processes that decode, 0 for one per core.
    overwrite: whether a dataset in `out` may be replaced. It stays complete until the new one takes its place.

    Raises UserError if `out` exists and `overwrite` is not set, if `out` holds a file that no conversion wrote, if a
    class has no training image, if more images than `max_bad` allows do not decode, or if the disk is full.
    """
    about = described_conversion(source, options, workers)
    check_outside(source, out)
    folder = WorkFolder(out, about, overwrite, anew=overwrite)
    with told(folder, options.encoding.kind == "link"), folder:
        if folder.recover() and is_result(out, about, source, options.encoding):
            return out
        folder.check_free()
        folder.prepare()
        with Workers(source, options.encoding, workers or cores()) as pool:
            convert_prepared(source, options, folder, about, pool)
    return out


def described_conversion(source: Source, options: Conversion, workers: int) -> dict[str, Any]:
    """Returns the input and options of a conversion, in the form of dataset.json.

    Raises UserError if a class has no training image, or for a number of workers, a name or other options that cannot
    be.
    """
    check_workers(workers)
    _check_classes(source)
    about = {
        "name": options.name,
        "class_names": source.class_names,
        "mean": list(options.mean),
        "std": list(options.std),
        "protocol": options.protocol,
        "options": recorded(options),
        "source": {**described(source), "sha256": source_digest(source)},
    }
    if problem := implausible_settings(about):
        raise UserError(f"{problem}: correct it and give the command again")
    return about


def is_result(out: Path, about: dict[str, Any], source: Source, encoding: Encoding) -> bool:
    """Returns whether the dataset in `out` is the result of a conversion with this input and these options.

    about: as `described_conversion` returns it, which knows images by their names. Some images of every split are
    therefore encoded again and compared with those of the dataset; images that were passed from Python all are.
    """
    try:
        found = read_description(out)
        wanted = json.loads(json.dumps(about))
        settled = {key: value for key, value in wanted.items() if (key, value) != ("protocol", BY_SIZE)}
        if "history" in found or any(found.get(key) != value for key, value in settled.items()):
            return False
        dataset = Dataset(out)
        return all(_same_images(dataset, split, source, encoding) for split in dataset.splits)
    except UserError:
        return False


def _same_images(dataset: Dataset, split: str, source: Source, encoding: Encoding) -> bool:
    index, keys = dataset.splits[split], dataset.keys(split)
    count = len(keys) if isinstance(inner(source), Examples) else min(COMPARED, len(keys))
    rows = {bytes(keys[row]): row for row in np.linspace(0, len(keys) - 1, count).astype(np.int64).tolist()}
    for place, key in enumerate(source.splits[split].keys):
        if (row := rows.get(key.encode())) is not None:
            again = encode_sample(source, encoding, split, place, bool(index.encoding[row] == RAW))
            there = int(index.crc32[row]), int(index.length[row])
            if isinstance(again, str) or (again.crc32, len(again.image.data)) != there:
                return False
    return True


def check_workers(workers: int) -> None:
    """Raises UserError for a number of workers that cannot be."""
    if workers < 0:
        raise UserError(f"workers={workers}: it must be 0 (one per core) or more")


def recorded(options: Conversion) -> dict[str, Any]:
    """Returns the options that determine the stored bytes, as dataset.json records them."""
    return {
        **_recorded(options.encoding),
        "shard_mb": options.shard_mb,
        "raw_fraction": options.raw_fraction,
    }


@contextlib.contextmanager
def told(folder: WorkFolder, linking: bool = False) -> Iterator[None]:
    """Context manager that turns an OSError into a UserError that names the work folder and says what to do.

    linking: whether shards are linked, which is not resumed.
    """
    try:
        yield
    except OSError as error:
        if error.errno in SPACE:
            problem, remedy = f"no space left for {folder.root}", "make room"
        else:
            named = f" ({error.filename})" if error.filename else ""
            problem, remedy = f"{folder.root}: {error.strerror or error}{named}", "mend that"
        goes_on = "begins again" if linking else "goes on after the last complete shard"
        raise UserError(f"{problem}: {remedy} and give the same command again, it {goes_on}") from error


def _say_notes(writers: Mapping[str, SplitWriter | LinkWriter]) -> None:
    """Prints a line for what images have that is not stored, with the number of these images."""
    colours = [colour for writer in writers.values() for page in writer.finish() for colour in page["colour"].tolist()]
    if count := sum(FIRST_FRAME in colour for colour in colours if colour):
        say(
            f"note: {counted(count, 'image')} {agree(count, 'has', 'have')} several pages or frames: the first is taken"
        )
    if count := sum(AS_IT_LIES in colour for colour in colours if colour):
        say(
            f"note: {counted(count, 'image')} {agree(count, 'is', 'are')} to be turned upright, as EXIF says, and "
            f"{agree(count, 'stays as it lies', 'stay as they lie')}: orientation=apply turns them"
        )


def _recorded(encoding: Encoding) -> dict[str, Any]:
    """Returns the options of an encoding that dataset.json records: those that may change what is stored."""
    usual = asdict(Encoding(encoding.kind))
    left_out = {name for name in ("check", "background", "seek_table") if getattr(encoding, name) == usual[name]}
    return {name: value for name, value in asdict(encoding).items() if name not in {"max_pixels", *left_out}}


def convert_prepared(
    source: Source, options: Conversion, folder: WorkFolder, about: dict[str, Any], pool: Results
) -> None:
    """Converts a source in a work folder that is prepared, and puts the dataset in its place.

    about: as `described_conversion` returns it. pool: what the encoded images come from.
    """
    writers = write_shards(source, options, folder, pool)
    looked = writers if options.encoding.check else {}
    looks = {split: Looks(*writer.looks()) for split, writer in looked.items()}
    found = near_duplicates(source, looks, options.encoding)
    about = {**about, "near_duplicates": listed(source, found)}
    say_duplicates(about["near_duplicates"])
    if options.protocol == BY_SIZE:
        about = {**about, "protocol": _protocol_by_size(writers["train"])}
    groups = {split: listing.of_keys() for split, listing in source.splits.items()}
    folder.publish(write_dataset(folder.dataset, writers, about, groups))


@dataclass(frozen=True)
class Before:
    """What is settled before shards are written: for a dataset that grows, or for a part of a source.

    behind: {split: where its new shards begin}. counts: the training images of each class that are there, int64 [C],
    with zeros for classes that are new.
    raw: {split: which of its images are stored as raw pixels, bool [N]}, if that is settled.
    """

    behind: dict[str, Behind] = field(default_factory=dict)
    counts: np.ndarray | int = 0
    raw: dict[str, np.ndarray] = field(default_factory=dict)


NOTHING = Before()


def write_shards(
    source: Source, options: Conversion, folder: WorkFolder, pool: Results, before: Before = NOTHING
) -> dict[str, SplitWriter | LinkWriter]:
    """Writes the shards of a source into a work folder that is prepared; returns {split: its finished writer}.

    pool: what the encoded images come from.

    Raises UserError if more images are bad than the options allow, or if a class has no training image.
    """
    writers: dict[str, SplitWriter | LinkWriter] = {}
    for split in SPLITS:
        if split in source.splits:
            writers[split] = convert_split(source, split, options, folder, pool, before)
    try:
        refuse_bad(writers, options.allowed_bad(sum(len(source.splits[split].keys) for split in writers)))
        _check_left(source, writers, before)
    except UserError:
        # A single shard per split is quickly converted again. More are kept for the next try, in which the user has
        # mended the bad images or allowed them.
        if all(writer.shards <= 1 for writer in writers.values()):
            folder.remove()
        raise
    _say_notes(writers)
    return writers


def _protocol_by_size(train: SplitWriter | LinkWriter) -> str:
    """Returns the protocol that fits the stored size of the training images, and prints which one and why."""
    short = np.concatenate([np.minimum(part["height"], part["width"]) for part in train.finish()])
    median = float(np.median(short))
    name = next(name for name, largest in PROTOCOLS.items() if median <= largest)
    say(f"protocol={name} is the default for training: the short side of the images has {median:g} pixels (median)")
    return name


def _check_classes(source: Source) -> None:
    check_alike(source.class_names)
    seen = set(source.splits["train"].labels.tolist())
    if lost := [number for number in range(len(source.class_names)) if number not in seen]:
        raise UserError(f"{_without_training(source, lost)}: every class needs at least one, add one or drop the class")


def _without_training(source: Source, lost: list[int]) -> str:
    """Returns, for a message, that these classes have no training image."""
    named = first_of([f"{number} ({source.class_names[number]})" for number in lost], CLASSES_SHOWN)
    return f"class{'es' * (len(lost) > 1)} {named} {agree(len(lost), 'has', 'have')} no training image"


def _check_left(source: Source, writers: Mapping[str, SplitWriter | LinkWriter], before: Before) -> None:
    """Raises UserError if a split, or a class in train, has no images left without the bad ones.

    In a split of a dataset that grows, all new images may be bad, if there are others in another split.
    """
    some = any(writer.finish() for writer in writers.values())
    for split, writer in writers.items():
        parts = writer.finish()
        if not parts and not (some and split in before.behind):
            raise UserError(f"no image of the {split} split decodes: mend them, or leave the split out")
        if split == "train":
            labels = np.concatenate([np.empty(0, np.int64), *(part["label"] for part in parts)])
            counts = np.bincount(labels, minlength=len(source.class_names))
            # All are named: a conversion without these classes is another one, which begins again.
            if lost := np.flatnonzero(counts + before.counts == 0).tolist():
                raise UserError(
                    f"{_without_training(source, lost)} left, all are bad: mend one of each class, or drop the class"
                )


def source_digest(source: Source) -> str:
    """Returns a SHA-256 of splits, keys, labels, groups and class names.

    The images themselves are hashed with the shards.
    """
    digest = hashlib.sha256(json.dumps(source.class_names).encode())
    for split, listing in source.splits.items():
        digest.update(json.dumps([split, len(listing.keys)]).encode())
        for key in listing.keys:
            digest.update(key.encode("utf-8", "surrogateescape") + b"\n")
        digest.update(listing.labels.astype("<i8").tobytes())
        if listing.groups is not None:
            digest.update(json.dumps(listing.groups).encode())
    return digest.hexdigest()


def chosen_raw(source: Source, split: str, options: Conversion, before: Before = NOTHING) -> np.ndarray:
    """Returns which images of a split are stored as raw pixels whatever the encoding, bool [N]."""
    if split in before.raw:
        return before.raw[split]
    labels = source.splits[split].labels
    if split != "train" or not options.raw_fraction:
        return np.zeros(len(labels), bool)
    counts = before.counts + np.bincount(labels, minlength=len(source.class_names))
    return raw_choice(labels, options.raw_fraction, counts)


def convert_split(
    source: Source, split: str, options: Conversion, folder: WorkFolder, pool: Results, before: Before
) -> SplitWriter | LinkWriter:
    """Writes the shards of a split; returns the finished writer. Arguments as for `write_shards`."""
    listing = source.splits[split]
    total = len(listing.keys)
    raw = chosen_raw(source, split, options, before)
    if options.encoding.kind == "link":
        writer = LinkWriter(folder.dataset, split, lambda place: place_of(source, split, place))
    else:
        behind = before.behind.get(split, FIRST)
        unit, known_by = options.shard_mb * SHARD_UNIT, Fingerprint(source, split)
        writer = SplitWriter(folder.dataset, folder.journal, split, unit, folder.seal, behind, known_by)

    def mended(place: int) -> bool:
        """Returns whether an image that was bad in an earlier try decodes now."""
        return isinstance(encode_sample(source, pool.encoding, split, place, bool(raw[place])), Stored)

    writer.forget(mended)
    for key, reason in writer.quarantined[:SHOWN]:
        say(f"bad image: {split} {key}: {reason} (found in an earlier try)")
    try:
        with Progress(f"converting {split}", total, done=writer.position) as progress:
            for result in pool.results(split, raw, writer.position):
                place = writer.position
                if isinstance(result, Stored):
                    writer.add(listing.keys[place], int(listing.labels[place]), result.image, result.crc32)
                else:
                    writer.quarantine(listing.keys[place], result)
                    if len(writer.quarantined) <= SHOWN:
                        say(f"bad image: {source.where(split, place)}: {result}")
                progress.advance(1, f"{writer.bytes / 1e6 / progress.seconds:.0f} MB/s" if place % 256 == 0 else "")
        writer.finish()
    finally:
        writer.close()
    return writer


def refuse_bad(writers: Mapping[str, SplitWriter | LinkWriter], allowed: int) -> None:
    """Raises UserError if more than `allowed` images were left out."""
    bad = [(split, *pair) for split, writer in writers.items() for pair in writer.quarantined]
    if len(bad) > allowed:
        split, key, reason = bad[0]
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise UserError(
            f"{split} image {key} does not decode ({reason}){more}: {counted(allowed, 'bad image')} "
            f"{agree(allowed, 'is', 'are')} allowed; "
            f"mend it, or allow more with max_bad={len(bad)}; to take it out of the source, add overwrite=true, and "
            "all is converted anew"
        )
