"""Packages by which Pillow reads further formats: `pip install 'fastlt[formats]'`."""

import contextlib
import functools
import importlib
from importlib.util import find_spec

# Package -> the function that registers its format; without one, importing the package does that.
_PLUGINS = {"pillow_heif": "register_heif_opener", "pillow_jxl": ""}
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
_JXL = (b"\xff\x0a", b"\x00\x00\x00\x0cJXL \r\n\x87\n")


@functools.cache
def register_plugins() -> None:
    """Registers the formats HEIC and JPEG XL with Pillow, if the packages for them are installed."""
    for package, function in _PLUGINS.items():
        if find_spec(package):
            with contextlib.suppress(ImportError, OSError):  # of another version of Python or of a library
                module = importlib.import_module(package)
                if function:
                    getattr(module, function)()


def missing_plugin(found: bytes) -> str:
    """Returns why Pillow does not read the bytes of a file, if it is for want of a plugin; else ""."""
    heif = found[4:8] == b"ftyp" and found[8:12] in _HEIF
    if heif or found.startswith(_JXL):
        return f"{'HEIC' if heif else 'JPEG XL'} is read with pip install 'fastlt[formats]'"
    return ""
