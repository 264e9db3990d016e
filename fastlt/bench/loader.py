"""Benchmark of loading images: python -m fastlt.bench loader images=FOLDER_OR_DATASET [peers=true]."""

import contextlib
import os
import tempfile
from pathlib import Path

import torch

from fastlt.bench.config import BenchConfig
from fastlt.bench.cores import counting_cores
from fastlt.bench.images import take_images
from fastlt.bench.loader_cases import HARDWARE_SHARES, SIZE, SMALL_INDEX, Case, Cases
from fastlt.bench.loader_data import MEAN, SMALL_SIZE, STD, Data
from fastlt.bench.loader_stages import stage_rows
from fastlt.bench.peers import LOADERS, Peer, PeerError, write_ffcv
from fastlt.bench.rows import Row, measure, measure_series, ratio, row
from fastlt.core import device as machine
from fastlt.core.errors import UserError
from fastlt.core.log import say
from fastlt.core.words import counted
from fastlt.data.augmentations import AUGMENTATIONS

# The ratios that are reported if both cases were measured.
RATIOS = [
    ("fastlt_jpeg", "ffcv_jpg"),
    ("fastlt_jpeg_q90", "ffcv_jpg"),
    ("fastlt_seek", "fastlt_jpeg"),
    ("fastlt_seek", "decode_ceiling"),
    ("fastlt_seek_cold", "fastlt_jpeg_cold"),
    ("fastlt_q90_seek", "fastlt_jpeg_q90"),
    ("fastlt_q90_seek", "ffcv_jpg"),
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
    ("fastlt_jpeg_randaugment", "fastlt_jpeg"),
    ("fastlt_jpeg_randaugment", "torch_randaugment"),
    ("fastlt_small", "torch_small"),
    ("fastlt_small_augmented", "fastlt_small"),
    ("fastlt_small_augmented", "torch_small_augmented"),
    *((f"augment_jpeg_{name}", "fastlt_jpeg") for name in AUGMENTATIONS),
    *((f"augment_small_{name}", "fastlt_small") for name in AUGMENTATIONS),
    ("fastlt_jpeg", "torch_gpu"),
    ("decode_repeated", "decode_ceiling"),
    ("decode_whole", "decode_ceiling"),
    *((f"decode_hw{percent}", "decode_ceiling") for percent in HARDWARE_SHARES),
    *((f"decode_whole_hw{percent}", "decode_ceiling") for percent in HARDWARE_SHARES),
]


def bench_loader(config: BenchConfig) -> list[Row]:
    """Measures images per second of loading, unless another unit is given.

    Every case does the same work on the same photographs, each listed `copies` times: RandomResizedCrop(224), flip and
    normalization to full batches, float32 NCHW. A round is one epoch of each case. The cases are:

        fastlt_jpeg: unchanged JPEG bytes, instance-balanced sampling. fastlt_jpeg_class, _sqrt, _progressive: the other
            samplers on the same dataset, all of whose classes have the same photographs (loader_data.equal_mix).
        fastlt_jpeg_1thread: one thread. fastlt_jpeg_q90: re-encoded with quality 90, as FFCV's files are.
        fastlt_seek, fastlt_q90_seek: the datasets of fastlt_jpeg and fastlt_jpeg_q90 with seek tables.
        fastlt_raw: raw pixels.
        fastlt_jpeg_cold, fastlt_seek_cold, fastlt_raw_cold: the shards are dropped from the page cache before each
            epoch.
        fastlt_jpeg_randaugment: fastlt_jpeg with two operations of RandAugment.
        fastlt_small: raw images of 32 x 32, padded by 4, cropped and flipped. fastlt_small_augmented: the same with
            CIFAR's AutoAugment and Cutout.
        augment_jpeg_NAME, augment_small_NAME: fastlt_jpeg and fastlt_small with one augmentation; only if `cases`
            names them.
        fastlt_auto_class, fastlt_auto_jpeg_class: class-balanced sampling on a long tail, with a fifth of the images
            stored raw, or none.
        index_1000, index_N: class-balanced sampling from an index of 1000, or of samples=N, rows that refer to the same
            photographs (loader_data.Data.indexed). They load as many images as fastlt_jpeg; the order is drawn before
            the clock starts.
        index_order_1000, index_order_N (s): drawing the order of an epoch from these indices.
        decode_ceiling: DALI only decodes the crop windows of fastlt_jpeg. On a GPU there are also decode_whole, which
            decodes whole images; _hw0 to _hw100 of both, which give this percentage of the images to the GPU's JPEG
            decoder (DALI's default is 65); and decode_repeated, where chroma samples are repeated, not interpolated.
        first_batch_warm, first_batch_cold (s): from the call of Loader in a new process to its first batch, with or
            without Numba's compiled functions in the cache.
        stage_*: microseconds of a thread per image (loader_stages.py); two of them are cases above in that unit.

    With peers=true the cases of peers.LOADERS are measured as well, each in a process of its own with as many workers.
    A library that does not run here is left out, with a message. Only one case works at a time. Ratios (unit x) are
    computed within rounds. The key `cases` restricts the run to some cases.

    With device=cuda the GPU graph is measured, and every case ends with float16 channels-last batches on the GPU. Rows
    in the unit `cores` tell how many CPU cores a case kept busy.
    """
    device = machine.pick_device(config.device)
    threads = config.threads or len(os.sched_getaffinity(0))
    for key, least in (("files", 1), ("copies", 1), ("rounds", 1), ("batch", 1), ("samples", SMALL_INDEX + 1)):
        if getattr(config, key) < least:
            raise UserError(f"{key}={getattr(config, key)}: it must be at least {least}")
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=config.scratch))).resolve()
        data = Data(scratch, take_images(config.images, config.files, scratch / "files"), config.copies, threads)
        ours = Cases(data, config.batch, threads, config.samples, config.rounds + 1, stack, device)
        makers, seconds = ours.rates(), ours.seconds()
        asked = {name: make for name, make in ours.augmentations().items() if name in config.cases}
        makers |= asked
        peers = [name for name, script in LOADERS.items() if device.type in script.devices]
        names = _chosen(config, [*makers, *seconds], peers)
        if config.batch > len(data.paths):
            raise UserError(
                f"batch={config.batch} is larger than the {counted(len(data.paths), 'image')}: choose a smaller one"
            )
        cases = {name: make() for name, make in makers.items() if name in names}
        for name in [name for name in peers if name in names]:
            try:
                cases[name] = _peer(name, data, config.batch, threads, device, stack)
            except PeerError as error:
                say(f"{name} is left out, it does not run here: {error}")
        used: dict[str, list[float]] = {}
        if device.type == "cuda":
            cases = {name: counting_cores(case, used.setdefault(name, [])) for name, case in cases.items()}
        series = measure_series(cases, config.rounds, "images/s")
        rates = [row(name, values, "images/s") for name, values in series.items()]
        rows = [rate for rate in rates if not rate.case.startswith("stage_")]
        pairs = [*RATIOS, (f"index_{config.samples}", f"index_{SMALL_INDEX}")]
        rows += [ratio(*pair, series) for pair in pairs if series.keys() >= set(pair)]
        rows += stage_rows(rates, threads if device.type == "cpu" else 1)
        rows += [row(f"{name}_cores", cores[1:], "cores") for name, cores in used.items()]  # without the warm-up
        return rows + measure({name: make() for name, make in seconds.items() if name in names}, config.rounds, "s")


def _chosen(config: BenchConfig, ours: list[str], peers: list[str]) -> list[str]:
    """Returns the names of the cases to run. Raises UserError for unknown ones."""
    allowed = [*ours, *peers] if config.peers else ours
    for name in config.cases:
        if name in peers and not config.peers:
            raise UserError(f"cases: {name} is another library, add peers=true")
        if name not in allowed:
            raise UserError(f"cases: {name} is unknown, allowed are {', '.join(allowed)}")
    return list(config.cases) or allowed


def _peer(name: str, data: Data, batch: int, threads: int, device: torch.device, stack: contextlib.ExitStack) -> Case:
    """Starts another library and lets it run an epoch, to see that it works. Raises PeerError if it does not."""
    script = LOADERS[name]
    request = {
        "paths": [str(path) for path in data.paths],
        "shards": [str(path) for path in data.jpeg.shards],
        "batch": batch,
        "threads": threads,
        "device": device.type,
        "size": SMALL_SIZE if script.options.get("decoder") == "array" else SIZE,
        "mean": MEAN,
        "std": STD,
    }
    if script.options.get("decoder") == "array":
        request["array"] = str(data.small_array)
    if "mode" in script.options:
        request["data"] = str(data.scratch / f"{name}.beton")
        write_ffcv(data.paths, Path(request["data"]), script.options["mode"], threads)
    peer = Peer(script, request)
    stack.callback(peer.close)
    peer.rate()
    return peer.rate
