"""Prints the seconds from the call of Loader to its first batch.

    python -m fastlt.bench.first_batch DATASET BATCH THREADS DEVICE

It must run in a new process each time, because compiled functions and libraries remain in memory. Imports are not
counted, except those that Loader itself makes.
"""

import sys
import time

from fastlt.data.pipeline.loader import Loader
from fastlt.data.plan import Augment
from fastlt.data.shards.reader import Dataset
from fastlt.longtail.sampler import Sampler

if __name__ == "__main__":
    root, batch, threads, device = sys.argv[1:]
    dataset = Dataset(root)
    index = dataset.split("train")
    start = time.monotonic()
    sampler = Sampler(index.class_members, index.class_start)
    augment = Augment(224, "resized", flip=True)
    loader = Loader(dataset, "train", sampler, augment, int(batch), 0, device, int(threads), drop_last=True)
    next(loader.epoch())
    sys.stdout.write(f"{time.monotonic() - start}\n")
    loader.close()
