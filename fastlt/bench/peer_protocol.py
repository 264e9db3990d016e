"""What the peers' scripts share: a request on stdin, then a line for every epoch; one number on stdout for each.

Imports nothing that is not in every environment.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any


def serve(build: Callable[[dict[str, Any]], Callable[[], Iterator[Any]]]) -> None:
    """Reads the request, builds the loader, and works through an epoch for every further line.

    build: from the request a function that gives an epoch's batches, without a last one that is not full. A request
    has `paths` (files of the images), `shards` (ours, of the same images), `data` (FFCV's file of them), `batch`,
    `threads`, `device` (cpu or cuda), `size` (pixels), `mean` and `std` (of the RGB channels in 0..1) and what is a
    script's own.

    The answer is images per second from asking for the first batch to having the last. Every batch is checked to be
    [batch, 3, size, size], float32 or on a GPU float16, and nothing else is done with it.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not be taken for an answer
    request = json.loads(sys.stdin.readline())
    epoch = build(request)
    shape = (request["batch"], 3, request["size"], request["size"])
    gpu = request["device"] == "cuda"
    dtype = "float16" if gpu else "float32"
    answers.write("ready\n")
    answers.flush()
    for _ in sys.stdin:
        batches = 0
        start = time.monotonic()
        for batch in epoch():
            if tuple(batch.shape) != shape or str(batch.dtype) != f"torch.{dtype}" or batch.is_cuda != gpu:
                sys.exit(f"a batch is {batch.dtype} {list(batch.shape)}, not {dtype} {list(shape)}")
            batches += 1
        if gpu:
            import torch  # not in every environment

            torch.cuda.synchronize()
        answers.write(f"{batches * shape[0] / (time.monotonic() - start)}\n")
        answers.flush()
