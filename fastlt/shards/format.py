"""The layout of a dataset folder.

dataset.json     what it is: names, counts, options, shards with size and SHA-256, quarantined inputs, digest
index.h5         per split where every sample lies: one group a split, one array a column
train-000000.tar a shard: POSIX tar in WebDataset layout, members <sample>.jpg|.png|.npy and <sample>.cls (ASCII label)
train-000000.idx beside it, DALI's index of the WebDataset reader

A sample is named by its number within the split (000000042); its `key` in index.h5 is the name the source gave it.
"""

import io
import tarfile
from dataclasses import dataclass

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


def member(name: str, data: bytes) -> bytes:
    """A tar member: header, data, padding. No time, owner or machine in it: the same input gives the same bytes."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    return info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % BLOCK)


def sample_members(number: int, encoding: int, data: bytes, label: int) -> tuple[bytes, int, str]:
    """The two members of a sample.

    Returns (bytes, offset of the image's data in them, line of DALI's index with offsets relative to these bytes as
    format fields {0} and {1}).
    """
    extension = EXTENSIONS[encoding]
    image, text = f"{number:09d}.{extension}", str(label).encode()
    first = member(image, data)
    second = member(f"{number:09d}.cls", text)
    line = f"{extension} {{0}} {len(data)} {image} cls {{1}} {len(text)} {number:09d}.cls\n"
    return first + second, len(first), line


def index_header(samples: int) -> str:
    """First line of DALI's WebDataset index."""
    return f"v1.2 {samples}\n"


def raw_member(pixels: np.ndarray) -> bytes:
    """uint8 [H, W, 3] pixels as the bytes of a .npy file."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(pixels), version=(1, 0))
    return buffer.getvalue()
