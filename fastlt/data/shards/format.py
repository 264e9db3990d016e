"""The layout of a dataset folder.

dataset.json     description: names, counts, options, shards with size and SHA-256, quarantined inputs, digest
index.h5         position, label and size of every sample: a group for each split, an array for each column
train-000000.tar a shard: POSIX tar in WebDataset layout, members <sample>.jpg|.png|.npy and <sample>.cls (ASCII label)
train-000000.idx the index of that shard for DALI's WebDataset reader

A sample is named by its number within the split (000000042). Its `key` in index.h5 is its name in the source.
"""

import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from typing import Any

import numpy as np

SCHEMA = 1
DATASET_FILE = "dataset.json"
INDEX_FILE = "index.h5"
BLOCK = 512  # bytes of a tar block
TAR_END = bytes(2 * BLOCK)

EXTENSIONS = ("jpg", "png", "npy")  # a sample's `encoding` is a position in this tuple
JPEG, PNG, RAW = range(3)

# Columns of the index and their types. Stored in addition, as fixed-length UTF-8, are `key` and, if the dataset was
# converted with group_by=, `group`, which is empty for samples without a group.
COLUMNS = {
    "shard": np.int32,  # position in dataset.json's list of shards
    "offset": np.int64,  # first byte of the image in the shard
    "length": np.int64,  # bytes of the image
    "label": np.int32,  # class index
    "height": np.int32,  # of the stored image in pixels, EXIF orientation ignored
    "width": np.int32,
    "encoding": np.uint8,  # JPEG, PNG or RAW
    "crc32": np.uint32,  # of the bytes of the image
}


@dataclass(frozen=True)
class Encoded:
    """An encoded image that is ready to be stored.

    data: its bytes. encoding: JPEG, PNG or RAW. height, width: in pixels.
    colour: the colour type of the source image if it was not 8-bit RGB (`grey`, `cmyk`, ...), counted in dataset.json.
    look: a perceptual hash of 64 bits, which differs in few bits between near duplicates (`look_of`).
    """

    data: bytes
    encoding: int
    height: int
    width: int
    colour: str = ""
    look: int = 0


def shard_name(split: str, number: int) -> str:
    """Returns the file name of a shard, such as train-000000.tar."""
    return f"{split}-{number:06d}.tar"


def index_name(shard: str) -> str:
    """Returns the file name of DALI's index of a shard, such as train-000000.idx."""
    return shard.removesuffix(".tar") + ".idx"


def member_name(number: int, extension: str) -> str:
    """Returns the name of a sample's tar member, such as 000000042.jpg."""
    return f"{number:09d}.{extension}"


def _blank_header() -> bytes:
    info = tarfile.TarInfo()
    info.mode = 0o644
    return info.tobuf(tarfile.USTAR_FORMAT)


_HEADER = _blank_header()
_REST = sum(_HEADER[:124] + _HEADER[136:148] + b" " * 8 + _HEADER[156:])  # the checksum without name and size


def member_header(name: str, size: int) -> bytes:
    """Returns the tar header of a member, without time or owner. name: ASCII. size: bytes of its data.

    The bytes are those of TarInfo.tobuf, computed ten times faster, which matters for many small images.
    """
    start, length = name.encode(), b"%011o\0" % size
    checksum = b"%06o\0 " % (_REST + sum(start) + sum(length))
    return start + _HEADER[len(start) : 124] + length + _HEADER[136:148] + checksum + _HEADER[156:]


def member(name: str, data: bytes) -> bytes:
    """Returns a tar member: header, data and padding. The same input gives the same bytes."""
    return member_header(name, len(data)) + data + bytes(-len(data) % BLOCK)


def sample_frame(number: int, encoding: int, length: int, label: int) -> tuple[bytes, bytes, str]:
    """Returns (bytes before a sample's image, bytes after it, the sample's line of DALI's index).

    number: of the sample in its split. length: bytes of the image. The line has format fields {0} and {1} for the
    offsets of image and label.
    """
    before = member_header(member_name(number, EXTENSIONS[encoding]), length)
    label_member = member(member_name(number, "cls"), str(label).encode())
    return before, bytes(-length % BLOCK) + label_member, index_line(number, encoding, length, label)


def label_offset(offset: Any, length: Any) -> Any:
    """Returns the offset of a sample's label from offset and length of its image; integers or integer arrays."""
    return offset + length + -length % BLOCK + BLOCK


def sample_end(offset: Any, length: Any) -> Any:
    """Returns the offset of the first byte after both members of a sample; integers or integer arrays."""
    return label_offset(offset, length) + BLOCK


def index_line(number: int, encoding: int, length: int, label: int) -> str:
    """Returns a sample's line of DALI's index, with format fields {0} and {1} for the offsets of image and label."""
    extension = EXTENSIONS[encoding]
    image, text = member_name(number, extension), member_name(number, "cls")
    return f"{extension} {{0}} {length} {image} cls {{1}} {len(str(label))} {text}\n"


def index_header(samples: int) -> str:
    """Returns the first line of DALI's WebDataset index."""
    return f"v1.2 {samples}\n"


def indexed(columns: dict[str, np.ndarray], classes: int) -> dict[str, np.ndarray]:
    """Returns all columns of a split's index: `columns` (those of COLUMNS and `key`), class_start and class_members."""
    counts = np.bincount(columns["label"], minlength=classes)
    return {
        **columns,
        "class_start": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        "class_members": np.argsort(columns["label"], kind="stable").astype(np.int64),
    }


def dataset_digest(described: dict[str, Any]) -> str:
    """Returns the digest of a dataset: the SHA-256 of dataset.json without its field `digest`.

    The digest covers all files of the dataset, because dataset.json has the SHA-256 of shards and the checksums of the
    index.
    """
    own = {key: value for key, value in described.items() if key != "digest"}
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()


def raw_member(pixels: np.ndarray) -> bytes:
    """Returns uint8 [H, W, 3] pixels as the bytes of a .npy file."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(pixels), version=(1, 0))
    return buffer.getvalue()
