"""Runs in the peers' environment: writes images with FFCV's DatasetWriter; the seconds are the last line of stdout.

Reads {"paths", "out", "mode", "workers"} as JSON from stdin. The clock starts when everything is imported.
"""

# pyright: reportMissingImports=false

import json
import sys
import time

from ffcv.fields import IntField, RGBImageField
from ffcv.writer import DatasetWriter
from PIL import Image

# Bytes of a page by mode: FFCV's default, with which its writer is fastest, and one that a raw photograph fits into: a
# writer whose worker died for want of it never ends.
PAGES = {"jpg": 8 << 20, "raw": 32 << 20}


class Files:
    """What FFCV's writer asks of a data set: decoded images by number."""

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
