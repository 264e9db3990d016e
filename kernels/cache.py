"""Chooses the folder in which Numba caches compiled kernels, also if installation and home are both read-only.

What Numba finds there may be damaged, as it does not flush its files to the disk before a power cut, and a disk may be
full: then kernels are compiled again, as if there were no cache.
"""

import contextlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numba
from numba.core import caching
from numba.core.ccallback import CFunc
from numba.core.dispatcher import Dispatcher

_config: Any = numba.config  # its attributes are made from the environment, so type checkers do not know them
_NOT_KEPT = (
    "compiled kernels cannot be kept{}: each process takes a minute to compile them; NUMBA_CACHE_DIR=FOLDER helps"
)
_TOLD = "FASTLT_KERNEL_CACHE_TOLD"  # the lines that were printed, which child processes do not repeat


class _Files(caching.IndexDataCacheFile):
    """Numba's cache files of one function, whose faults do not end the work that calls the function."""

    def load(self, key: Any) -> Any:
        try:
            return super().load(key)
        except Exception:  # a damaged pickle raises nearly any exception
            with contextlib.suppress(OSError):
                self.flush()
            return None

    def save(self, key: Any, data: Any) -> None:
        try:
            super().save(key, data)
        except Exception as error:  # an OSError; or as above, if the index could not be mended
            _say(_NOT_KEPT.format(f" ({getattr(error, 'strerror', None) or type(error).__name__})"))


def settle_cache() -> None:
    """Gives Numba a writable cache folder. Must be called before the first kernel is defined.

    Numba caches in NUMBA_CACHE_DIR, in this folder's `__pycache__` or in the user's cache folder, and raises an error
    if none of them is writable. In that case a folder that belongs to the user is made in the system's temporary
    folder. If that fails too, caching is turned off, and every process compiles the kernels again. The first process
    reports either case on stderr.

    NUMBA_DISABLE_JIT, which some set to debug other code, is ignored, as the kernels only work compiled.
    """
    if _config.DISABLE_JIT:
        _config.DISABLE_JIT = 0
        os.environ["NUMBA_DISABLE_JIT"] = "0"  # which Numba reads again once its other variables change
        _say("NUMBA_DISABLE_JIT is ignored: fastlt's kernels only work compiled")
    caching.IndexDataCacheFile = _Files
    if kernel_folder() is not None:
        return
    try:
        folder = _own_folder(Path(tempfile.gettempdir()) / f"fastlt-kernels-{os.getuid()}")
    except OSError:
        _say(_NOT_KEPT.format(""))
        without: Any = lambda _: None  # noqa: E731
        Dispatcher.enable_caching = CFunc.enable_caching = without
        return
    _say(f"compiled kernels are kept in {folder}; NUMBA_CACHE_DIR=FOLDER keeps them elsewhere")
    _config.CACHE_DIR = os.environ["NUMBA_CACHE_DIR"] = str(folder)


def kernel_folder() -> Path | None:
    """Returns the folder that Numba chooses by itself for compiled kernels; None if it finds no writable one."""
    users = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "numba"
    asked = [Path(_config.CACHE_DIR)] if _config.CACHE_DIR else []
    return next((folder for folder in (*asked, Path(__file__).parent / "__pycache__", users) if writable(folder)), None)


def writable(folder: Path) -> bool:
    """Returns whether a file can be created in a folder, by trying: permission bits do not tell. Makes the folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def _own_folder(folder: Path) -> Path:
    """Makes a folder that only this user can write to, because code from it is executed. Raises OSError otherwise."""
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if folder.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o022 or not writable(folder):
        raise PermissionError(f"{folder} belongs to somebody else")
    return folder


def _say(line: str) -> None:
    told = os.environ.get(_TOLD, "")
    if line not in told:
        os.environ[_TOLD] = f"{told}{line}\n"
        sys.stderr.write(line + "\n")
