"""The device a command runs on, and what to write down about it."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import numba
import torch

from fastlt.core.errors import UserError

PACKAGES = ("fastlt", "torch", "torchvision", "nvidia-dali-cuda120", "nvidia-dali-cuda130", "numba", "numpy", "h5py")


def pick_device(name: str, local: int = 0) -> torch.device:
    """auto: a GPU if there is one; where it has no number, it is that of the process among those of this node, `local`.

    Raises UserError when a GPU that was asked for is not there.
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
    """Makes a GPU the one that this process works on where none is named, and float32 there as exact as on a CPU."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.allow_tf32 = False  # cuDNN would round what it multiplies to 10 bits


def set_threads(threads: int, neighbours: int = 1) -> int:
    """Threads of torch, Numba and DALI: as asked for, 0 for one per core this process may use, shared with its
    neighbours. Returns the number."""
    cores = max(1, len(os.sched_getaffinity(0)) // neighbours)
    if threads < 0:
        raise UserError(f"threads={threads}: it must be 0 (one per core) or more")
    threads = threads or cores
    torch.set_num_threads(threads)
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
    return threads


def describe(device: torch.device, threads: int) -> str:
    """For results: `cpu, 2 threads` or the GPU's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {threads} threads"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
