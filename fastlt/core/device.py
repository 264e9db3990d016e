"""Chooses the device and the number of threads of a command, and describes them for results.json."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import numba
import torch

from fastlt.core.errors import UserError
from fastlt.core.words import counted

PACKAGES = (
    "fastlt",
    "torch",
    "torchvision",
    "nvidia-dali-cuda120",
    "nvidia-dali-cuda130",
    "numba",
    "numba-cuda",
    "numpy",
    "h5py",
)


def pick_device(name: str, local: int = 0) -> torch.device:
    """Returns the device that `name` asks for.

    name: auto (a GPU if there is one, else the CPU), cpu, cuda or cuda:N.
    local: local rank of this process, which is the index of its GPU where `name` gives none.

    Raises UserError for another name, or if this machine has no such GPU.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device={name} is unknown: allowed are auto, cpu, cuda, cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device={name} is not supported: allowed are auto, cpu, cuda, cuda:N")
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", local)
    found = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= found:
        raise UserError(f"device={name}: this machine has {found} usable GPUs; use device=cpu or device=auto")
    return device


def work_on(device: torch.device) -> None:
    """Makes a GPU the current device of this process and turns TF32 off in cuDNN; does nothing for a CPU."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.allow_tf32 = False  # with TF32, cuDNN rounds the factors of products to 10 bits


def set_threads(threads: int, neighbours: int = 1) -> int:
    """Sets the number of threads of torch and Numba and returns it, for DALI.

    threads: the number; 0 takes one for each core that this process may use.
    neighbours: number of processes of this training on this machine, among which the cores are divided for threads=0.

    Raises UserError for a negative number.
    """
    cores = max(1, len(os.sched_getaffinity(0)) // neighbours)
    if threads < 0:
        raise UserError(f"threads={threads}: it must be 0 (one per core) or more")
    threads = threads or cores
    # Numba first: when it starts, it sets the number of threads that torch would compute with (kernels/threads.py).
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
    torch.set_num_threads(threads)
    return threads


def describe(device: torch.device, threads: int) -> str:
    """Returns a description of the device for results.json: the name of the GPU, or such as "cpu, 2 threads"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {counted(threads, 'thread')}"


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the installed packages that results depend on, by name."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
