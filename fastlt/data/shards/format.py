"""The layout of a dataset folder.

dataset.json     what it is: names, counts, options, shards with size and SHA-256, quarantined inputs, digest
index.h5         per split where every sample lies: one group a split, one array a column
train-000000.tar a shard: POSIX tar in WebDataset layout, members <sample>.jpg|.png|.npy and <sample>.cls (ASCII label)
train-000000.idx beside it, DALI's index of the WebDataset reader

A sample is named by its number within the split (000000042); its `key` in index.h5 is the name the source gave it.
"""

import hashlib
import io
import json
import tarfile
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

SCHEMA = 1
DATASET_FILE = "dataset.json"
INDEX_FILE = "index.h5"
BLOCK = 512  # bytes of a tar block
TAR_END = bytes(2 * BLOCK)

EXTENSIONS = ("jpg", "png", "npy")  # a sample's `encoding` is the place in this tuple
JPEG, PNG, RAW = range(3)

# Columns of the index and their types; `key` is stored beside them as fixed-length UTF-8.
COLUMNS = {
    "shard": np.int32,  # place in dataset.json's list of shards
    "offset": np.int64,  # first byte of the image member in the shard
    "length": np.int64,  # bytes of the image member
    "label": np.int32,
    "height": np.int32,  # of the image as stored, EXIF ignored
    "width": np.int32,
    "encoding": np.uint8,
    "crc32": np.uint32,  # of the image member
}


@dataclass(frozen=True)
class Encoded:
    """One image ready to be stored: its bytes, encoding (JPEG, PNG or RAW), and height and width in pixels.

    colour: how it came, if not as 8-bit RGB (`grey`, `cmyk`, ...), for the counts in dataset.json.
    """

    data: bytes
    encoding: int
    height: int
    width: int
    colour: str = ""


def shard_name(split: str, number: int) -> str:
    """File name of a shard: train-000000.tar."""
    return f"{split}-{number:06d}.tar"


def index_name(shard: str) -> str:
    """File name of DALI's index beside a shard."""
    return shard.removesuffix(".tar") + ".idx"


def member_name(number: int, extension: str) -> str:
    """Name of a tar member of a sample: 000000042.jpg."""
    return f"{number:09d}.{extension}"


def _blank_header() -> bytes:
    info = tarfile.TarInfo()
    info.mode = 0o644
    return info.tobuf(tarfile.USTAR_FORMAT)


_HEADER = _blank_header()
_REST = sum(_HEADER[:124] + _HEADER[136:148] + b" " * 8 + _HEADER[156:])  # its checksum without name and size


def member_header(name: str, size: int) -> bytes:
    """Tar header of a member: no time, owner or machine in it. name: ASCII. size: bytes of its data.

    The bytes that TarInfo.tobuf makes, in a tenth of its time: of small images there are many.
    """
    start, length = name.encode(), b"%011o\0" % size
    checksum = b"%06o\0 " % (_REST + sum(start) + sum(length))
    return start + _HEADER[len(start) : 124] + length + _HEADER[136:148] + checksum + _HEADER[156:]


def member(name: str, data: bytes) -> bytes:
    """A tar member: header, data, padding. The same input gives the same bytes."""
    return member_header(name, len(data)) + data + bytes(-len(data) % BLOCK)


def sample_frame(number: int, encoding: int, length: int, label: int) -> tuple[bytes, bytes, str]:
    """What stands before and behind the `length` bytes of a sample's image, and its line of DALI's index.

    The line has the offsets of image and label as format fields {0} and {1}.
    """
    before = member_header(member_name(number, EXTENSIONS[encoding]), length)
    label_member = member(member_name(number, "cls"), str(label).encode())
    return before, bytes(-length % BLOCK) + label_member, index_line(number, encoding, length, label)


def label_offset(offset: Any, length: Any) -> Any:
    """First byte of a sample's label member, from where its image lies. Whole numbers or integer arrays."""
    return offset + length + -length % BLOCK + BLOCK


def sample_end(offset: Any, length: Any) -> Any:
    """First byte behind both members of a sample: a label takes one block. Whole numbers or integer arrays."""
    return label_offset(offset, length) + BLOCK


def index_line(number: int, encoding: int, length: int, label: int) -> str:
    """A sample's line of DALI's index; format fields {0} and {1} are the offsets of its image and its label."""
    extension = EXTENSIONS[encoding]
    image, text = member_name(number, extension), member_name(number, "cls")
    return f"{extension} {{0}} {length} {image} cls {{1}} {len(str(label))} {text}\n"


def index_header(samples: int) -> str:
    """First line of DALI's WebDataset index."""
    return f"v1.2 {samples}\n"


def indexed(columns: dict[str, np.ndarray], classes: int) -> dict[str, np.ndarray]:
    """All columns of a split's index. columns: those of COLUMNS and `key`; class_start and class_members are added."""
    counts = np.bincount(columns["label"], minlength=classes)
    return {
        **columns,
        "class_start": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        "class_members": np.argsort(columns["label"], kind="stable").astype(np.int64),
    }


def checksum(column: np.ndarray) -> int:
    """CRC-32 of a column's bytes, which dataset.json holds."""
    return zlib.crc32(np.ascontiguousarray(column).reshape(-1).view(np.uint8).data)


def dataset_digest(described: dict[str, Any]) -> str:
    """SHA-256 of all dataset.json says but the digest itself: shards by their SHA-256, the index by its checksums."""
    own = {key: value for key, value in described.items() if key != "digest"}
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()


def raw_member(pixels: np.ndarray) -> bytes:
    """uint8 [H, W, 3] pixels as the bytes of a .npy file."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(pixels), version=(1, 0))
    return buffer.getvalue()
