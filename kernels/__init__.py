"""Compute kernels, one operation per file. They take and return arrays and import nothing from the rest of fastlt.

Most operations exist as `reference` (NumPy, the definition that tests compare with), `cpu` (Numba) and `cuda`
(numba-cuda); the function that has the file's name checks its arguments and calls the one that fits the device.
"""

from .cache import settle_cache

settle_cache()
