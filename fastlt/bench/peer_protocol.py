"""The protocol of the scripts that run other libraries: a request on stdin, then a line on stdin for every epoch.

The script answers each line with one number on stdout. This module imports only what every environment has.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any


def serve(build: Callable[[dict[str, Any]], Callable[[], Iterator[Any]]]) -> None:
    """Reads the request, builds the loader, and runs an epoch for every further line.

    build: a function from the request to a function that yields the full batches of an epoch. A request has `paths`
    (image files), `shards` (fastlt's shards of the same images), `data` (FFCV's file of them), `batch`, `threads`,
    `device` (cpu or cuda), `size` (pixels), `mean` and `std` (of the RGB channels in 0..1), and options of the script.

    The answer is images per second, from requesting the first batch to receiving the last. Each batch is checked to be
    [batch, 3, size, size], float32 or on a GPU float16, and is otherwise unused.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output that a library prints must not be taken for an answer
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
            import torch  # not every environment has it

            torch.cuda.synchronize()
        answers.write(f"{batches * shape[0] / (time.monotonic() - start)}\n")
        answers.flush()
