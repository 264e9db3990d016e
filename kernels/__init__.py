"""Compute kernels, one operation per file. They take and return arrays and import nothing from the rest of fastlt.

Most operations exist as `reference` (NumPy, the definition that tests compare with), `cpu` (Numba) and `cuda`
(numba-cuda). Where a file has a function of its own name, that checks its arguments and calls the one that fits the
device; the others are called by compiled code, or by code that has checked them.
"""

from .cache import settle_cache

settle_cache()
