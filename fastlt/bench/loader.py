"""python -m fastlt.bench loader images=FOLDER_OR_DATASET [peers=true]: images per second of loading, by case."""

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from fastlt.bench.images import take_images
from fastlt.bench.loader_cases import SIZE, SMALL_INDEX, Case, Cases
from fastlt.bench.loader_data import MEAN, STD, Data
from fastlt.bench.loader_stages import stage_rows
from fastlt.bench.peers import LOADERS, ON_GPU, Peer, PeerError, write_ffcv
from fastlt.bench.rows import Row, measure, measure_series, ratio, row
from fastlt.core import device as machine
from fastlt.core.errors import UserError
from fastlt.core.log import say

# What is compared with what, where both were measured.
RATIOS = [
    ("fastlt_jpeg", "ffcv_jpg"),
    ("fastlt_jpeg_q90", "ffcv_jpg"),
    ("fastlt_jpeg", "torch"),
    ("fastlt_jpeg", "torch_tensor"),
    ("fastlt_jpeg", "dali"),
    ("fastlt_jpeg", "webdataset"),
    ("fastlt_jpeg", "spdl"),
    ("fastlt_jpeg", "decode_ceiling"),
    ("fastlt_raw", "ffcv_raw"),
    ("fastlt_auto_class", "fastlt_auto_jpeg_class"),
    ("fastlt_jpeg_class", "fastlt_jpeg"),
    ("fastlt_jpeg_sqrt", "fastlt_jpeg"),
    ("fastlt_jpeg_progressive", "fastlt_jpeg"),
    ("fastlt_jpeg", "fastlt_jpeg_1thread"),
    ("decode_ceiling", "decode_ceiling_cuda"),
    ("decode_ceiling_repeated", "decode_ceiling"),
    ("decode_whole", "decode_ceiling"),
    ("decode_whole_hardware", "decode_whole_cuda"),
]


def bench_loader(cfg: Any) -> list[Row]:
    """Every case does the same work: RandomResizedCrop(224), flip, normalize, to float32 NCHW batches, full ones only,
    on the same photographs, listed `copies` times. A round is an epoch of each; images/s unless another unit is said.

    fastlt_jpeg: bytes as found, order of the instance law; fastlt_jpeg_class, _sqrt, _progressive: the other laws on
        the same dataset, whose classes all hold the same photographs (loader_data.equal_mix).
    fastlt_jpeg_1thread: one thread. fastlt_jpeg_q90: encoded again at quality 90, as FFCV's files are.
    fastlt_raw: pixels. fastlt_jpeg_cold, fastlt_raw_cold: the shards are dropped from the page cache before the epoch.
    fastlt_auto_class, fastlt_auto_jpeg_class: class-balanced on a long tail, a fifth of the images raw, or none.
    index_1000, index_N: class-balanced, from an index of 1000 and of samples=N rows that point at the same photographs
        (loader_data.Data.indexed); as many positions as fastlt_jpeg, ordered before the clock starts.
    index_order_1000, index_order_N (s): that ordering, of a whole epoch.
    decode_ceiling: DALI decodes the windows of fastlt_jpeg's plan, and nothing follows; decode_whole, on a GPU: all of
        the same images. _cuda, _hardware: without the GPU's JPEG decoder, or with it alone; else DALI shares them out.
        _repeated: chroma samples are repeated instead of interpolated.
    first_batch_warm, first_batch_cold (s): a new process, from the call of Loader to its first batch, with Numba's
        functions compiled before, or not.
    stage_*: microseconds of a thread per image (loader_stages.py); two of them are the cases above in that unit.

    With peers, the cases of peers.LOADERS, each in a process of its own with as many workers; one that does not run
    here is left out with a line. One case works at a time. Ratios (x) are taken within rounds. `cases`: only those.

    device=cuda: the same with the GPU graph, and every case ends with float16 batches on the GPU, channels last.
    """
    device = machine.pick_device(cfg.device)
    threads = cfg.threads or len(os.sched_getaffinity(0))
    for key, least in (("files", 1), ("copies", 1), ("rounds", 1), ("batch", 1), ("samples", SMALL_INDEX + 1)):
        if cfg[key] < least:
            raise UserError(f"{key}={cfg[key]}: it must be at least {least}")
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=cfg.scratch))).resolve()
        data = Data(scratch, take_images(cfg.images, cfg.files, scratch / "files"), cfg.copies, threads)
        ours = Cases(data, cfg.batch, threads, cfg.samples, cfg.rounds + 1, stack, device)
        makers, seconds = ours.rates(), ours.seconds()
        peers = list(ON_GPU if device.type == "cuda" else LOADERS)
        names = _chosen(cfg, [*makers, *seconds], peers)
        if cfg.batch > len(data.paths):
            raise UserError(f"batch={cfg.batch} is larger than the {len(data.paths)} images: choose a smaller one")
        cases = {name: make() for name, make in makers.items() if name in names}
        for name in [name for name in peers if name in names]:
            try:
                cases[name] = _peer(name, data, cfg.batch, threads, device, stack)
            except PeerError as error:
                say(f"{name} is left out, it does not run here: {error}")
        series = measure_series(cases, cfg.rounds, "images/s")
        rates = [row(name, values, "images/s") for name, values in series.items()]
        rows = [rate for rate in rates if not rate.case.startswith("stage_")]
        pairs = [*RATIOS, (f"index_{cfg.samples}", f"index_{SMALL_INDEX}")]
        rows += [ratio(*pair, series) for pair in pairs if series.keys() >= set(pair)]
        rows += stage_rows(rates, threads if device.type == "cpu" else 1)
        return rows + measure({name: make() for name, make in seconds.items() if name in names}, cfg.rounds, "s")


def _chosen(cfg: Any, ours: list[str], peers: list[str]) -> list[str]:
    """The names of the cases to run."""
    allowed = [*ours, *peers] if cfg.peers else ours
    for name in cfg.cases:
        if name in peers and not cfg.peers:
            raise UserError(f"cases: {name} is another library, add peers=true")
        if name not in allowed:
            raise UserError(f"cases: {name} is unknown, allowed are {', '.join(allowed)}")
    return list(cfg.cases) or allowed


def _peer(name: str, data: Data, batch: int, threads: int, device: torch.device, stack: contextlib.ExitStack) -> Case:
    """A peer that has worked through its first epoch, so that it is known to work. Raises PeerError if it does not."""
    script = LOADERS[name]
    request = {
        "paths": [str(path) for path in data.paths],
        "shards": [str(path) for path in data.jpeg.shards],
        "batch": batch,
        "threads": threads,
        "device": device.type,
        "size": SIZE,
        "mean": MEAN,
        "std": STD,
    }
    if "mode" in script.options:
        request["data"] = str(data.scratch / f"{name}.beton")
        write_ffcv(data.paths, Path(request["data"]), script.options["mode"], threads)
    peer = Peer(script, request)
    stack.callback(peer.close)
    peer.rate()
    return peer.rate
