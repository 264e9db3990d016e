"""Adds images and classes to a dataset as new shards. The shards that it has stay byte for byte."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fastlt.core.errors import UserError
from fastlt.core.log import Progress, say
from fastlt.core.words import agree, counted, first_of
from fastlt.data.convert.config import ConvertConfig
from fastlt.data.convert.duplicates import LISTED, Looks, listed, near_duplicates, say_duplicates
from fastlt.data.convert.engine import (
    Before,
    Conversion,
    check_workers,
    recorded,
    source_digest,
    told,
    write_shards,
)
from fastlt.data.convert.work_folder import WorkFolder
from fastlt.data.convert.workers import Stored, Workers, cores, encode_sample
from fastlt.data.shards.content import Content, finished, write_content
from fastlt.data.shards.encode import Encoding
from fastlt.data.shards.format import DATASET_FILE, RAW, index_name
from fastlt.data.shards.history import APPEND, given_out, hashed, removed_keys, step, steps
from fastlt.data.shards.reader import Dataset
from fastlt.data.shards.writer import Behind, Files
from fastlt.data.sources.base import SPLITS, Derived, Listing, Source, described
from fastlt.data.sources.classes import check_alike, without_training
from fastlt.data.sources.grouped import groups_by

_SETTLED = ("quality", "max_short_side", "orientation", "shard_mb", "raw_fraction", "background", "seek_table")
_NOT_ALWAYS = {"background": "", "seek_table": False}  # options that are recorded only if they are set


@dataclass(frozen=True)
class Selected(Derived):
    """Some samples of a source, with those of its classes that they belong to.

    rows: {split: positions int64 [n] in the source}. Splits without samples are left out.
    """

    source: Source
    rows: dict[str, np.ndarray] = field(repr=False, hash=False)
    class_names: list[str] = field(init=False, compare=False, repr=False)
    splits: dict[str, Listing] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        given = self.source.splits
        taken = {split: given[split].take(rows) for split, rows in self.rows.items() if len(rows)}
        present = np.unique(np.concatenate([np.empty(0, np.int64), *(own.labels for own in taken.values())]))
        splits = {split: replace(own, labels=np.searchsorted(present, own.labels)) for split, own in taken.items()}
        object.__setattr__(self, "class_names", [self.source.class_names[one] for one in present.tolist()])
        object.__setattr__(self, "splits", splits)

    def origin(self, split: str, index: int) -> tuple[str, int]:
        """Returns (split, position) of a sample in the source it comes from."""
        return split, int(self.rows[split][index])


@dataclass(frozen=True)
class Joining(Derived):
    """A source with the classes of the dataset that it is added to.

    class_names: those of the dataset. Classes of the source that are not among them are put after them, so that the
        labels of the dataset keep their meaning.
    """

    source: Source
    class_names: list[str]
    splits: dict[str, Listing] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        known = set(self.class_names)
        names = [*self.class_names, *(name for name in self.source.class_names if name not in known)]
        number = {name: place for place, name in enumerate(names)}
        labels = np.array([number[name] for name in self.source.class_names], np.int64)
        splits = {split: replace(one, labels=labels[one.labels]) for split, one in self.source.splits.items()}
        object.__setattr__(self, "class_names", names)
        object.__setattr__(self, "splits", splits)


class Growth:
    """An addition to the dataset in a folder; a context manager that holds the lock of the folder.

    out: the folder. max_pixels, max_bad: as in `Encoding` and `Conversion`. workers: worker processes, 0 for one per
    core.

    Everything else is as it was when the dataset was converted. Raises UserError if there is no dataset in the folder.

    Example:

        with Growth(Path("data/photos"), max_pixels=100_000_000, max_bad=0) as growth:
            new = growth.new(ImageFolder(Path("more_photos")))
            if new is not None:
                growth.add(new)
    """

    def __init__(self, out: Path, max_pixels: int, max_bad: float, workers: int = 0):
        check_workers(workers)
        self.out, self.workers = out, workers
        self._limits = max_pixels, max_bad
        self.folder = WorkFolder(out, None, overwrite=True)

    def __enter__(self) -> "Growth":
        if not self.folder.root.exists():
            self._check_there()
        self.folder.__enter__()
        try:
            with told(self.folder):
                self.folder.recover()
            self._check_there()
            self.folder.check_free()
            self.dataset = Dataset(self.out)
            check_own_shards(self.dataset, "append=true")
        except BaseException:
            self.folder.__exit__()
            raise
        about, (max_pixels, max_bad) = self.dataset.about, self._limits
        stored = {**_NOT_ALWAYS, **about["options"]}
        kept = {name: stored[name] for name in ("kind", "quality", "max_short_side", "orientation", *_NOT_ALWAYS)}
        self.options = Conversion(
            name=self.dataset.name,
            mean=tuple(about["mean"]),
            std=tuple(about["std"]),
            protocol=about["protocol"],
            encoding=Encoding(**kept, max_pixels=max_pixels),
            shard_mb=stored["shard_mb"],
            raw_fraction=stored["raw_fraction"],
            max_bad=max_bad,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.folder.__exit__()

    def _check_there(self) -> None:
        if not (self.out / DATASET_FILE).is_file():
            raise UserError(f"append=true: there is no dataset in out={self.out} to add to: convert one there first")

    def check(self, config: ConvertConfig) -> None:
        """Raises UserError for keys that say to store new images otherwise than those of the dataset are stored."""
        stored = {**_NOT_ALWAYS, **self.dataset.about["options"]}
        encode = "auto" if stored["raw_fraction"] else stored["kind"]
        values = {"encode": (config.encode, None, encode), "name": (config.name, None, self.dataset.name)}
        usual = {one: getattr(ConvertConfig, one) for one in _SETTLED}
        values |= {one: (getattr(config, one), usual[one], stored[one]) for one in _SETTLED}
        for key, (given, default, of_dataset) in values.items():
            if given not in (default, of_dataset):
                raise UserError(
                    f"{key}={given}: append=true stores new images as the dataset's, with {key}={of_dataset}; leave "
                    "the key out"
                )

    def new(self, source: Source) -> Source | None:
        """Returns the images of a source that the dataset does not have; None if there are none.

        An image is there already if an image of the dataset, in whatever split, has the same key and the same bytes.
        Such images are skipped, and so are images that were removed, and those that were left out as bad and still are;
        a line says how many. Raises UserError if an image with the same key has other bytes or another class.
        """
        self._check_names(source)
        there = {key: (split, row) for split in self.dataset.splits for row, key in self._keys(split)}
        gone, bad = removed_keys(self.dataset.about), bad_keys(self.dataset)
        new: dict[str, list[int]] = {}
        again: dict[str, list[int]] = {}
        withdrawn: list[str] = []
        still: list[str] = []
        for split, listing in source.splits.items():
            new[split], again[split] = [], []
            for row, key in enumerate(listing.keys):
                if key.encode() in there:
                    again[split].append(row)
                elif gone and hashed(key) in gone:
                    withdrawn.append(key)
                elif key in bad and isinstance(encode_sample(source, self.options.encoding, split, row, False), str):
                    still.append(key)
                else:
                    new[split].append(row)
        if withdrawn:
            say(
                f"{counted(len(withdrawn), 'image')} {agree(len(withdrawn), 'was', 'were')} removed from {self.out} "
                f"before and {agree(len(withdrawn), 'is', 'are')} not added again, such as {withdrawn[0]}"
            )
        if still:
            say(
                f"{counted(len(still), 'image')} {agree(len(still), 'was', 'were')} bad before and "
                f"{agree(len(still), 'is', 'are')} so still, such as {still[0]}"
            )
        if any(again.values()):
            self._compare(Selected(source, _rows(again)), there)
        found = Selected(source, _rows(new))
        return found if found.splits else None

    def say_without_groups(self, group_by: str | None) -> None:
        """Prints a note if the images of the dataset have groups, and new ones are to have none."""
        if not group_by and self.dataset.group_names("train") is not None:
            say(
                f"note: the images of {self.out} have groups, and without group_by= the new ones have none: each is a "
                "group alone, and may get into another split than others of its group"
            )

    def settled(self, source: Source, group_by: str) -> dict[str, str]:
        """Returns {group: its split} for the groups of the images that the dataset has.

        source: all that the user gave, with images that are there already. group_by: as in `Grouped`. A dataset knows
        the groups of its images if it was converted with group_by=. Otherwise groups that are a column of the source
        are known only for images that the source has. A line says for how many they are not known.
        """
        known = {key: group for one in source.splits.values() for key, group in (one.of_keys() or {}).items()}
        found: dict[str, str] = {}
        unknown = 0
        for split in self.dataset.splits:
            kept = self.dataset.group_names(split)
            if kept is not None:
                names: list[str | None] = [group.decode() for group in kept.tolist()]
            else:
                keys = [key.decode() for _, key in self._keys(split)]
                names = [known.get(key) for key in keys] if known else groups_by(group_by, keys)
            for group in names:
                if not group:
                    unknown += kept is None  # a dataset that keeps groups knows that such an image has none
                else:
                    found.setdefault(group, split)
        if unknown:
            say(
                f"note: group_by={group_by} tells no group for {counted(unknown, 'image')} of {self.out}: new images "
                "of their groups may get into another split"
            )
        return found

    def _keys(self, split: str) -> list[tuple[int, bytes]]:
        return list(enumerate(self.dataset.keys(split).tolist()))

    def _check_names(self, source: Source) -> None:
        """Raises UserError if the source only numbers its classes, and the dataset names them."""
        names, known = source.class_names, self.dataset.class_names
        if names == [str(number) for number in range(len(names))] and not set(names) & set(known):
            raise UserError(
                f"the classes of this source are only numbers, from 0 to {len(names) - 1}, but those of {self.out} "
                f"have names, such as {known[0]!r}: give their names with class_names=FILE"
            )

    def _compare(self, source: Selected, there: dict[bytes, tuple[str, int]]) -> None:
        """Raises UserError if an image differs from the one that the dataset has under its key."""
        total = sum(len(listing.keys) for listing in source.splits.values())
        encoding = self.options.encoding
        with Workers(source, encoding, self.workers or cores()) as pool, Progress("comparing", total) as progress:
            for split, listing in source.splits.items():
                places = [there[key.encode()] for key in listing.keys]
                raw = np.array([self.dataset.splits[of].encoding[row] == RAW for of, row in places])
                for place, result in enumerate(pool.results(split, raw, 0)):
                    of, row = places[place]
                    index, where = self.dataset.splits[of], source.where(split, place)
                    name = source.class_names[listing.labels[place]]
                    if name != (stored := self.dataset.class_names[index.label[row]]):
                        raise UserError(
                            f"{where} is of class {name!r}, but {self.out} has an image {listing.keys[place]} of class "
                            f"{stored!r} in {of}: append=true changes no labels; give this one another name"
                        )
                    bytes_there = (int(index.crc32[row]), int(index.length[row]))
                    if isinstance(result, Stored) and (result.crc32, len(result.image.data)) != bytes_there:
                        raise UserError(
                            f"{where} is another image than {listing.keys[place]}, which {self.out} has in {of}: give "
                            "this one another name"
                        )
                    progress.advance(1, "")
        first = next(listing.keys[0] for listing in source.splits.values())
        say(
            f"{counted(total, 'image')} {agree(total, 'is', 'are')} in {self.out} already and "
            f"{agree(total, 'is', 'are')} skipped, such as {first}"
        )

    def add(self, new: Source) -> None:
        """Adds images to the dataset, completely or not at all. new: what `new` returned, perhaps divided into splits.

        A call that was killed resumes after its last complete shard. Raises UserError as `convert` does.
        """
        about, old = self.dataset.about, self.dataset
        source = Joining(new, old.class_names)
        check_alike(source.class_names)
        counts = np.zeros(len(source.class_names), np.int64)
        counts[: old.classes] = old.split("train").counts
        self._check_new_classes(source)
        origin = {**described(new), "sha256": source_digest(source)}
        with told(self.folder):
            self.folder.concerns({"append": about["digest"], "options": recorded(self.options), "source": origin})
            self.folder.prepare()
            behind = {split: Behind(_shards(about, split), given_out(about, split)) for split in old.splits}
            before = Before(behind, counts)
            with Workers(source, self.options.encoding, self.workers or cores()) as pool:
                writers = write_shards(source, self.options, self.folder, pool, before)
            looks = {split: Looks(*writer.looks()) for split, writer in writers.items()}
            found = near_duplicates(source, looks, self.options.encoding)
            duplicates = listed(source, found)
            say_duplicates(duplicates)
            content = Content.of(old)
            for split, writer in writers.items():
                content.add(split, writer, source.splits[split].of_keys())
                good = {key.decode() for rows in writer.finish() for key in rows["key"].tolist()}
                for name, rows in content.quarantined.items():  # what was bad before and is mended
                    content.quarantined[name] = [row for row in rows if row["key"] not in good]
            content.columns = {split: content.columns[split] for split in SPLITS if split in content.columns}
            added = {split: sum(len(rows["label"]) for rows in writer.finish()) for split, writer in writers.items()}
            note = step(APPEND, about, added=added, source=origin)
            description = {
                **carried(about),
                "class_names": source.class_names,
                "near_duplicates": _together(about.get("near_duplicates", {}), duplicates),
                "history": [*steps(about), note],
            }
            files = write_content(self.folder.dataset, content, description)
            files |= {name: file for writer in writers.values() for name, file in writer.files().items()}
            kept = files_of(old)
            self.folder.take(kept, old.root)
            self.folder.publish({**kept, **files})
        _say_added(old, source, added)

    def _check_new_classes(self, source: Source) -> None:
        seen = set(source.splits["train"].labels.tolist()) if "train" in source.splits else set()
        new = range(self.dataset.classes, len(source.class_names))
        if lost := [source.class_names[number] for number in new if number not in seen]:
            raise UserError(
                f"{without_training(lost)} and {agree(len(lost), 'is', 'are')} new: every class needs at least one, "
                "add one or drop the class"
            )


def bad_keys(dataset: Dataset) -> set[str]:
    """Returns the keys of images that were left out of a dataset because they did not decode."""
    return {row["key"] for rows in dataset.about["quarantined"].values() for row in rows}


def _rows(places: dict[str, list[int]]) -> dict[str, np.ndarray]:
    return {split: np.array(rows, np.int64) for split, rows in places.items()}


def check_own_shards(dataset: Dataset, key: str) -> None:
    """Raises UserError if the shards are links to somebody's tars (encode=link). key: what the user asked for."""
    if dataset.about["options"]["kind"] == "link":
        raise UserError(
            f"{key}: {dataset.root} links to tars (encode=link), which stay as they are: convert them to shards of its "
            "own first, with another encode"
        )


def carried(about: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of dataset.json that stay as they are when a dataset grows or shrinks."""
    written = ("schema", "splits", "colours", "quarantined", "shards", "index", "digest")
    return {name: value for name, value in about.items() if name not in written}


def files_of(dataset: Dataset) -> Files:
    """Returns the shards of a dataset and their DALI indices with their sizes and SHA-256."""
    files: Files = {}
    for shard in dataset.about["shards"]:
        files[shard["name"]] = shard["size"], shard["sha256"]
        beside = index_name(shard["name"])
        files[beside] = finished(dataset.root / beside)
    return files


def _shards(about: dict[str, Any], split: str) -> int:
    """Returns the number of the first shard that can be added to a split."""
    own = [name for shard in about["shards"] if (name := shard["name"]).rpartition("-")[0] == split]
    return max((int(name.rpartition("-")[2].removesuffix(".tar")) + 1 for name in own), default=0)


def _together(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Returns the near duplicates of both, in the form of dataset.json."""
    nothing = {"images": 0, "first": []}
    found = {split: (one.get(split, nothing), other.get(split, nothing)) for split in SPLITS}
    return {
        split: {"images": a["images"] + b["images"], "first": [*a["first"], *b["first"]][:LISTED]}
        for split, (a, b) in found.items()
        if a["images"] + b["images"]
    }


def _say_added(old: Dataset, source: Source, added: dict[str, int]) -> None:
    parts = ", ".join(f"{split} {count:,}" for split, count in added.items())
    names = source.class_names[old.classes :]
    more = f", and {counted(len(names), 'class')} after the old ones: {first_of(names, 5)}" if names else ""
    say(f"added to {old.root}: {parts}{more}; it grew from {old.digest[:12]}, whose shards are unchanged")
    say("note: new images were compared with each other for near duplicates, not with those that were there before")
