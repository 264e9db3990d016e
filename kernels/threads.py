"""Starts Numba's threads so that torch keeps the number of threads that it has."""

import functools

import numba
import torch


@functools.cache
def start_threads() -> None:
    """Starts the threads of Numba's parallel kernels. Must be called before the first of them runs in a process.

    Numba and torch share one OpenMP. When Numba starts, it sets OpenMP's number of threads in the calling thread to one
    for each core, and torch would compute with that many from then on: a training with threads=1 beside other work ran
    100 times slower on two cores, and its sums were added in another order. Calls after the first do nothing.
    """
    before = torch.get_num_threads()
    numba.get_num_threads()  # type: ignore[attr-defined]
    torch.set_num_threads(before)
