"""Gives each process of tests that runs beside others a core of its own: imported before what counts cores.

Commands start as many threads as there are cores, and those of four processes on two cores mostly wait for each other.
"""

import os

if beside := os.environ.get("PYTEST_XDIST_WORKER"):
    CORES = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {CORES[int(beside.removeprefix("gw")) % len(CORES)]})
