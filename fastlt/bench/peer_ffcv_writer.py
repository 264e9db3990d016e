"""Writes images with FFCV's DatasetWriter, in the environment of the other libraries.

Reads {"paths", "out", "mode", "workers"} as JSON from stdin. The last line of stdout is the number of seconds, counted
from the end of imports.
"""

# pyright: reportMissingImports=false

import json
import sys
import time

from ffcv.fields import IntField, RGBImageField
from ffcv.writer import DatasetWriter
from PIL import Image

# Bytes of a page for each mode: FFCV's default, which is fastest, and a size that raw photographs fit into. If one does
# not fit, a worker of FFCV dies, and its writer waits forever.
PAGES = {"jpg": 8 << 20, "raw": 32 << 20}


class Files:
    """A dataset of decoded images, by number, as FFCV's writer expects it."""

    def __init__(self, paths: list[str]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int):
        with Image.open(self.paths[index]) as image:
            return image.convert("RGB"), 0


if __name__ == "__main__":
    request = json.load(sys.stdin)
    start = time.monotonic()
    fields = {"image": RGBImageField(write_mode=request["mode"], jpeg_quality=90), "label": IntField()}
    page, workers = PAGES[request["mode"]], request["workers"]
    writer = DatasetWriter(request["out"], fields, page_size=page, num_workers=workers)
    writer.from_indexed_dataset(Files(request["paths"]), chunksize=32)
    sys.stdout.write(f"\n{time.monotonic() - start}\n")
