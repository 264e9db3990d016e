"""The command `python -m fastlt.doctor`: what this machine has, whether fastlt works on it, and what would be slow."""

import argparse
import contextlib
import io
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch

from fastlt import __version__
from fastlt.core.cli import DEBUG, Parser, guard
from fastlt.core.device import pick_device, versions
from fastlt.core.errors import first_line
from fastlt.core.log import printed
from fastlt.core.words import counted
from fastlt.kernels.cache import kernel_folder, writable

OK, SLOW, BAD = "ok", "slow", "bad"
BROKEN = 1  # exit code if something does not work
LITTLE_MEMORY, LITTLE_DISK = 4e9, 2e9  # bytes, below which a warning is printed
IMAGES, SIDE, ROUNDS = 64, 224, 4  # the JPEG images that are decoded, their size, and how often


@dataclass(frozen=True)
class Finding:
    """What a check found. verdict: OK, SLOW (works, but slowly or not everywhere) or BAD. text: one line."""

    verdict: str
    about: str
    text: str

    def __str__(self) -> str:
        return f"{self.verdict:4}  {self.about:9}  {printed(self.text)}"


def examine(device: str = "auto") -> Iterator[Finding]:
    """Yields the findings of all checks, in about ten seconds; a check that raises an exception is a BAD finding.

    device: where kernels and loader are tried: auto, cpu, cuda or cuda:N.

    The first run in an installation takes some minutes longer, because it compiles the kernels.
    """
    checks: list[Callable[[], Iterator[Finding]]] = [
        _system,
        _packages,
        lambda: _gpu(device),
        _cores,
        _folders,
        _environment,
        lambda: _kernels(device),
        lambda: _loader(device),
    ]
    names = ("system", "packages", "gpu", "cores", "folders", "variables", "kernels", "loader")
    for name, check in zip(names, checks, strict=True):
        try:
            yield from check()
        except Exception as error:  # whatever a broken installation raises
            if os.environ.get(DEBUG) == "1":
                raise
            yield Finding(BAD, name, first_line(error))


def _system() -> Iterator[Finding]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    text = f"fastlt {__version__} in {Path(__file__).parent}; {platform.platform()}; {memory / 1e9:.0f} GB of memory"
    yield Finding(SLOW if memory < LITTLE_MEMORY else OK, "system", text)


def _packages() -> Iterator[Finding]:
    found = versions()
    yield Finding(OK, "packages", ", ".join(f"{name} {version}" for name, version in found.items()))
    builds = [name for name in found if name.startswith("nvidia-dali-cuda")]
    if not builds:
        yield Finding(BAD, "packages", "DALI is missing: pip install nvidia-dali-cuda120 (or -cuda130)")
    if len(builds) > 1:
        yield Finding(BAD, "packages", f"{' and '.join(builds)} share one folder: pip uninstall both, install one")
    cuda = torch.version.cuda
    if cuda and builds and torch.cuda.is_available() and not builds[0].endswith(f"cuda{cuda.split('.')[0]}0"):
        yield Finding(
            SLOW, "packages", f"{builds[0]} beside torch for CUDA {cuda}: the build of the same CUDA is safer"
        )


def _gpu(device: str) -> Iterator[Finding]:
    chosen = pick_device(device)
    if not torch.cuda.is_available():
        why = "this torch is built without CUDA" if torch.version.cuda is None else "torch finds no usable GPU"
        text = f"none ({why}): stage 2 and images of 32 pixels train on a CPU, 224 pixels need a GPU"
        yield Finding(SLOW, "gpu", text)
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        text = f"cuda:{number} {about.name}, {about.total_memory / 1e9:.0f} GB, compute {about.major}.{about.minor}"
        yield Finding(OK, "gpu", text)
    if chosen.type == "cuda":
        yield from _compiler()
    yield Finding(OK, "gpu", f"device={device} is {chosen}")


def _compiler() -> Iterator[Finding]:
    """Looks for libNVVM, with which Numba compiles CUDA kernels; the wheels of torch do not bring it."""
    from numba.cuda.cudadrv.nvvm import NVVM

    try:
        NVVM().get_version()
    except Exception as error:  # depends on how it is missing
        major = (torch.version.cuda or "12").partition(".")[0]
        text = f"CUDA kernels cannot be compiled ({first_line(error)}): pip install 'numba-cuda[cu{major}]'"
        yield Finding(BAD, "gpu", text)


def _cores() -> Iterator[Finding]:
    from fastlt.experiment.precision import computes_in_bf16

    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    bf16 = "computes in bf16" if computes_in_bf16() else "has no instructions for bf16"
    yield Finding(OK, "cores", f"{counted(cores, 'core')}; the processor {bf16}")
    if load > cores / 2:
        text = (
            f"other work runs here (load {load:.1f} on {counted(cores, 'core')}): times will be longer, threads=1 helps"
        )
        yield Finding(SLOW, "cores", text)


def _folders() -> Iterator[Finding]:
    kept = kernel_folder()
    if kept is None:
        yield Finding(SLOW, "folders", "each process compiles the kernels anew; NUMBA_CACHE_DIR=FOLDER keeps them")
    else:
        yield Finding(OK, "folders", f"compiled kernels are kept in {kept}")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    for folder, use in ((cache, "measured speeds, downloads"), (Path.cwd(), "runs"), (Path(tempfile.gettempdir()), "")):
        about = f"{folder}{f' ({use})' if use else ''}"
        if not writable(folder):
            yield Finding(SLOW, "folders", f"{about} cannot be written")
            continue
        free = shutil.disk_usage(folder).free
        yield Finding(SLOW if free < LITTLE_DISK else OK, "folders", f"{about}: {free / 1e9:.1f} GB free")
    if Path("/dev/shm").is_dir():
        text = f"/dev/shm: {shutil.disk_usage('/dev/shm').free / 1e9:.2f} GB free; fastlt's loader needs none of it"
        yield Finding(OK, "folders", text)


def _environment() -> Iterator[Finding]:
    slow = {
        "NUMBA_DISABLE_JIT": "kernels run as plain Python",
        "NUMBA_ENABLE_CUDASIM": "CUDA kernels run in a simulator",
        "CUDA_LAUNCH_BLOCKING": "every kernel of a GPU is waited for",
    }
    for name, effect in slow.items():
        if os.environ.get(name, "0") not in ("", "0"):
            yield Finding(SLOW, "variables", f"{name}={os.environ[name]}: {effect}")
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdigit() and int(threads) > len(os.sched_getaffinity(0)):
        yield Finding(SLOW, "variables", f"OMP_NUM_THREADS={threads} is more than there are cores")


def _kernels(device: str) -> Iterator[Finding]:
    from fastlt.kernels.class_mean import class_mean, reference
    from fastlt.kernels.winning_interval import winning_interval

    rng = np.random.default_rng(0)
    labels = torch.from_numpy(np.arange(600) % 7)
    x = torch.from_numpy(rng.standard_normal((600, 64), np.float32)) + labels[:, None]
    weight = torch.from_numpy(rng.standard_normal((7, 64), np.float32))
    place, start = pick_device(device), time.monotonic()
    means = class_mean(x.to(place), labels.to(place), 7).un.cpu()
    low, high = (end.cpu() for end in winning_interval(x.to(place), weight.to(place), labels.to(place)))
    won = (low <= 0) & (high > 0)
    if not np.allclose(means, reference(x.numpy(), labels.numpy(), 7).un, atol=1e-4):
        yield Finding(BAD, "kernels", f"class means on {place} differ from NumPy's")
    elif int((won != ((x @ weight.T).argmax(1) == labels)).sum()):
        yield Finding(BAD, "kernels", f"intervals of tau on {place} differ from torch's argmax")
    else:
        text = f"class means and intervals of tau on {place} are right ({time.monotonic() - start:.1f} s with loading)"
        yield Finding(OK, "kernels", text)


def _loader(device: str) -> Iterator[Finding]:
    from fastlt import Augment, Loader, Sampler, write_dataset

    place = pick_device(device)
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (IMAGES, 8, 8, 3), dtype=np.uint8)
    pictures = [(np.kron(one, np.ones((32, 32, 1), np.uint8)), str(i % 4)) for i, one in enumerate(coarse)]
    with tempfile.TemporaryDirectory(prefix="fastlt-doctor-") as folder:
        with contextlib.redirect_stderr(io.StringIO()):  # what a conversion says is of no interest here
            given = {"train": pictures, "test": pictures[:4]}
            data = write_dataset(given, Path(folder) / "data", encode="jpeg", workers=1)
        members = data.split("train")
        order = Sampler(members.class_members, members.class_start, "class", 0, ROUNDS)
        augment = Augment(SIDE, crop="resized", flip=True)
        with Loader(data, "train", order, augment, 16, device=place, threads=1) as loader:
            total = sum(float(images.float().sum()) for images, _, _ in loader)  # the first epoch loads the kernels
            start = time.monotonic()
            for _ in range(ROUNDS - 1):
                total += sum(float(images.float().sum()) for images, _, _ in loader)
            rate = IMAGES * (ROUNDS - 1) / (time.monotonic() - start)
    if not np.isfinite(total):
        yield Finding(BAD, "loader", f"images that are decoded on {place} are not finite")
    else:
        text = f"converts, decodes and augments on {place}: {rate:.0f} images/s of 256 pixels by one thread"
        yield Finding(OK, "loader", text)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m fastlt.doctor",
        description="Prints what this machine has, tries conversion, loader and kernels on it, and says what would be "
        "slow and why. A line each: ok, slow or bad. Exit code 0, or 1 if something does not work.",
        examples=(
            "python -m fastlt.doctor",
            "python -m fastlt.doctor --device cpu",
            "python -m fastlt.doctor > doctor.txt",
        ),
    )
    parser.add_argument("--device", default="auto", help="where to try: auto (the default), cpu, cuda, cuda:N")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Runs the command and exits with code 0, or with 1 if something does not work.

    arguments: command-line arguments; None takes those of the process.
    """

    def command() -> NoReturn:
        options = _parser().parse_args(arguments)
        verdicts = []
        for finding in examine(options.device):
            sys.stdout.write(f"{finding}\n")
            sys.stdout.flush()
            verdicts.append(finding.verdict)
        sys.exit(BROKEN if BAD in verdicts else 0)

    guard(command)


if __name__ == "__main__":
    main()
