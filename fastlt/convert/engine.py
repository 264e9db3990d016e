"""images + labels -> dataset/: decodes, checks and stores every sample of a source once."""

import hashlib
import json
import multiprocessing
import os
import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fastlt.errors import UserError
from fastlt.log import Progress, say
from fastlt.shards.encode import BadImage, Encoding, encode
from fastlt.shards.format import DATASET_FILE, Encoded
from fastlt.shards.writer import SplitWriter, publish, write_dataset
from fastlt.sources.base import SPLITS, Listing, Source

SHARD_UNIT = 1_000_000  # bytes of a megabyte of shard_mb
CHUNK = 32  # samples a worker takes at once
SHOWN = 20  # bad images listed by name before the rest is only counted


@dataclass(frozen=True)
class Conversion:
    """Options of a conversion. mean, std: of the RGB channels in 0..1, what training normalizes by. protocol: the
    training protocol this data set is used with by default. shard_mb: target size of a shard. max_bad: how many images
    that do not decode may be left out."""

    name: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    protocol: str
    encoding: Encoding = field(default_factory=Encoding)
    shard_mb: int = 256
    max_bad: int = 0

    def __post_init__(self) -> None:
        if self.shard_mb < 1:
            raise UserError(f"shard_mb={self.shard_mb}: a shard needs at least 1 MB")
        if self.max_bad < 0:
            raise UserError(f"max_bad={self.max_bad}: it must be 0 or more")


def convert(source: Source, options: Conversion, out: Path, workers: int = 0, overwrite: bool = False) -> Path:
    """Converts a source into the folder `out`, whole or not at all; returns `out`.

    The same source and options give the same bytes for any number of workers. Work goes on in `out`.partial, where a
    killed conversion resumes behind its last complete shard. workers: processes that decode, 0 for one per core.
    Raises UserError if `out` is taken (and `overwrite` is not set), if a class has no training image, or if more than
    `max_bad` images do not decode; then nothing stays behind.
    """
    if workers < 0:
        raise UserError(f"workers={workers}: it must be 0 (one per core) or more")
    if out.exists() and not overwrite and (not out.is_dir() or any(out.iterdir())):
        kind = "a finished dataset" if (out / DATASET_FILE).exists() else "not empty"
        raise UserError(f"out={out} is {kind}: choose another folder or add overwrite=true")
    _check_classes(source)
    about = {
        "name": options.name,
        "class_names": source.class_names,
        "mean": list(options.mean),
        "std": list(options.std),
        "protocol": options.protocol,
        "options": {**asdict(options.encoding), "shard_mb": options.shard_mb, "max_bad": options.max_bad},
        "source": {"kind": source.name, "sha256": _source_digest(source)},
    }
    partial = _partial_folder(out, about)
    workers = workers or os.cpu_count() or 1
    try:
        splits = {}
        with _pool(source, options.encoding, workers) as pool:
            for split in SPLITS:
                if split in source.splits:
                    splits[split] = _convert_split(source, split, options, partial, pool, workers)
        _check_bad(splits, options.max_bad)
        rows = {split: writer.finish() for split, writer in splits.items()}
        _check_classes_left(rows["train"], source.class_names)
        write_dataset(partial, rows, about)
    except UserError:
        shutil.rmtree(partial)
        raise
    (partial / "conversion.json").unlink()
    publish(partial, out)
    return out


def _check_classes(source: Source) -> None:
    seen = set(source.splits["train"].labels.tolist())
    for number, name in enumerate(source.class_names):
        if number not in seen:
            raise UserError(
                f"class {number} ({name}) has no training image: every class needs at least one, add one or drop it"
            )


def _check_classes_left(train: list[dict[str, Any]], class_names: list[str]) -> None:
    counts = np.bincount(np.concatenate([part["label"] for part in train]), minlength=len(class_names))
    for number in np.flatnonzero(counts == 0):
        raise UserError(
            f"class {number} ({class_names[number]}) has no training image left, all are bad: mend one or drop it"
        )


def _source_digest(source: Source) -> str:
    """Identifies what is listed: splits, keys, labels, class names. What the images hold is hashed with the shards."""
    digest = hashlib.sha256(json.dumps(source.class_names).encode())
    for split, listing in source.splits.items():
        digest.update(json.dumps([split, len(listing.keys)]).encode())
        for key in listing.keys:
            digest.update(key.encode("utf-8", "surrogateescape") + b"\n")
        digest.update(listing.labels.astype("<i8").tobytes())
    return digest.hexdigest()


def _partial_folder(out: Path, about: dict[str, Any]) -> Path:
    """The folder where work goes on; an unfinished one is taken up if it was begun with the same input and options."""
    partial = out.with_name(out.name + ".partial")
    record = partial / "conversion.json"
    text = json.dumps(about, sort_keys=True, ensure_ascii=False)
    if partial.exists():
        if record.exists() and record.read_text() == text:
            say(f"resuming the conversion in {partial}")
            return partial
        say(f"{partial} was begun with other input or options: starting again")
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    record.write_text(text)
    return partial


def _convert_split(
    source: Source, split: str, options: Conversion, folder: Path, pool: ProcessPoolExecutor | None, workers: int
) -> SplitWriter:
    listing = source.splits[split]
    writer = SplitWriter(folder, split, options.shard_mb * SHARD_UNIT)
    total = len(listing.keys)
    try:
        with Progress(f"converting {split}", total, done=writer.position) as progress:
            for result in _results(source, split, listing, options.encoding, writer.position, pool, workers):
                place = writer.position
                if isinstance(result, Encoded):
                    writer.add(listing.keys[place], int(listing.labels[place]), result)
                else:
                    writer.quarantine(listing.keys[place], result)
                    if len(writer.quarantined) <= SHOWN:
                        say(f"bad image: {source.where(split, place)}: {result}")
                progress.advance()
        writer.finish()
    finally:
        writer.close()
    return writer


def _results(
    source: Source,
    split: str,
    listing: Listing,
    encoding: Encoding,
    start: int,
    pool: ProcessPoolExecutor | None,
    workers: int,
) -> Iterator[Encoded | str]:
    """Encoded images, or the reason why not, in the order of the source; a bounded number is under way at once."""
    total = len(listing.keys)
    if pool is None:
        for place in range(start, total):
            yield _encode_one(source, split, place, encoding)
        return
    waiting: deque[Future[list[Encoded | str]]] = deque()
    for first in range(start, total, CHUNK):
        waiting.append(pool.submit(_work, split, first, min(first + CHUNK, total)))
        if len(waiting) > 3 * workers:
            yield from waiting.popleft().result()
    while waiting:
        yield from waiting.popleft().result()


def _check_bad(splits: dict[str, SplitWriter], max_bad: int) -> None:
    bad = [(split, *pair) for split, writer in splits.items() for pair in writer.quarantined]
    if len(bad) > max_bad:
        split, key, reason = bad[0]
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise UserError(
            f"{split} image {key} does not decode ({reason}){more}: {max_bad} bad images are allowed; "
            f"mend or remove it, or allow more with max_bad={len(bad)}"
        )


# --- worker processes ---

_worker: tuple[Source, Encoding] | None = None


def _pool(source: Source, encoding: Encoding, workers: int) -> Any:
    if workers == 1:
        return nullcontext()
    # Forked: a source with millions of keys is shared, not sent, and workers start at once. They use Pillow and NumPy
    # only, no thread pool of this process.
    context = multiprocessing.get_context("fork")
    return ProcessPoolExecutor(workers, context, _start_worker, (source, encoding))


def _start_worker(source: Source, encoding: Encoding) -> None:
    global _worker
    _worker = source, encoding


def _work(split: str, first: int, end: int) -> list[Encoded | str]:
    assert _worker is not None
    source, encoding = _worker
    return [_encode_one(source, split, place, encoding) for place in range(first, end)]


def _encode_one(source: Source, split: str, place: int, encoding: Encoding) -> Encoded | str:
    try:
        return encode(source.load(split, place), encoding)
    except BadImage as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)
