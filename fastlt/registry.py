"""Finds the parts that a key names: samplers, losses, optimizers, hooks, backbones, classifiers, ...

Every such key follows one rule. Its value is the NAME of an entry in the table of built-in parts, or
`package.module:NAME`, where the user's own module is imported and its attribute NAME is the part.
"""

import contextlib
import hashlib
import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from fastlt.core.errors import UserError

LIBRARIES = ("timm", "torchvision")  # whose networks are backbones, as LIBRARY:NAME: no module of the user's
_OWN = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_digests: WeakKeyDictionary[ModuleType, bytes] = WeakKeyDictionary()


def is_own(name: str) -> bool:
    """Returns whether `name` has the form `package.module:NAME` of a user's own part.

    >>> is_own("mymodule:Poly"), is_own("focal")
    (True, False)
    """
    return _OWN.fullmatch(name) is not None and not library_of(name)


def library_of(name: str) -> str:
    """Returns the library of a name LIBRARY:NAME, or "" if it is none of LIBRARIES.

    >>> library_of("timm:resnet18"), library_of("mymodule:network")
    ('timm', '')
    """
    library, colon, _ = name.partition(":")
    return library if colon and library in LIBRARIES else ""


def find_part(key: str, name: str, table: Mapping[str, Any], more: str = "") -> Any:
    """Returns the part that `key=name` asks for.

    key: the key that the user sets, such as `protocol.loss`; it appears in error messages.
    name: a key of `table`, or `package.module:NAME` of the user's own.
    table: the built-in parts by name.
    more: further allowed values, in words, for the error message.

    An own part's module is imported, which runs its code. So a name that was read from a file of unknown origin must
    not be passed on without the user's consent.

    Raises UserError, in one line, if there is no such part or its module cannot be imported.

    >>> find_part("number", "one", {"one": 1, "two": 2})
    1
    >>> find_part("number", "math:pi", {"one": 1, "two": 2})
    3.141592653589793
    """
    if name in table:
        return table[name]
    if not is_own(name):
        allowed = "".join(f"{one}, " for one in (*table, more) if one)
        raise UserError(
            f"{key}={name} is unknown: allowed are {allowed}{'or ' if allowed else ''}package.module:NAME of your own"
        )
    source, _, attribute = name.partition(":")
    if str(Path.cwd()) not in sys.path and "" not in sys.path:
        sys.path.append(str(Path.cwd()))  # a console script does not have the working directory in sys.path
    try:
        module = importlib.import_module(source)
    except Exception as error:  # the user's module may raise anything, and the message must name the module
        raise UserError(
            f"{key}={name}: importing {source} fails ({reason(error)}{_place(error)}): it must be installed, or lie in "
            "this folder or one of PYTHONPATH"
        ) from error
    if not hasattr(module, attribute):
        raise UserError(f"{key}={name}: {source} has no {attribute}")
    part = getattr(module, attribute)
    for used in _modules(module, part):
        _digest(used)  # now, as the file may be edited while the run goes on with what was imported
    return part


def call_part(key: str, name: str, part: Callable[..., Any], options: Mapping[str, Any], *given: Any) -> Any:
    """Returns part(*given, **options).

    key, name: as in `find_part`, for error messages.
    options: keyword arguments that the user sets as `KEY_options` or `KEY.options`.

    Raises UserError, in one line, if the part does not take these options, or raises an exception itself.
    """
    check_options(key, name, part, options, len(given))
    try:
        return part(*given, **options)
    except UserError:
        raise
    except Exception as error:
        why = reason(error) + (_place(error) if is_own(name) else "")
        raise UserError(
            f"{key}={name} with {_options_key(key, name)}={dict(options)} fails ({why}); --debug shows the traceback"
        ) from error


def check_options(
    key: str, name: str, part: Callable[..., Any], options: Mapping[str, Any], given: int, also: Collection[str] = ()
) -> None:
    """Checks the names of a part's options against its signature.

    given: the number of positional arguments that the part is called with; the parameters after these are its options.
    also: names of keyword arguments that it is called with as well, which are no options.

    Raises UserError, in one line, for an option that the part does not have, for one that it requires and is missing,
    and for a part that cannot be called.
    """
    if not callable(part):
        raise UserError(f"{key}={name} is a {type(part).__name__}: it must be something that can be called")
    try:
        signature = inspect.signature(part)
    except ValueError:  # some functions that are written in C do not tell their parameters
        return
    parameters = [one for one in signature.parameters.values() if one.name not in also][given:]
    named = [one for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    allowed = [one.name for one in named]
    unknown = [] if any(one.kind is one.VAR_KEYWORD for one in parameters) else [o for o in options if o not in allowed]
    if unknown:
        raise UserError(
            f"{_options_key(key, name)}.{unknown[0]}={options[unknown[0]]} is unknown to {key}={name}: allowed are "
            f"{', '.join(allowed) or 'none'}"
        )
    for one in named:
        if one.default is one.empty and one.name not in options:
            raise UserError(f"{key}={name} needs {_options_key(key, name)}.{one.name}=VALUE")


def _options_key(key: str, name: str) -> str:
    """Returns the key by which the user sets the options of a part."""
    if key == "classifier":
        return f"stage2.options.{name.rpartition(':')[2]}"
    if key == "logger":
        return f"logger_options.{name.rpartition(':')[2]}"
    return f"{key}.options" if key in ("sampler", "backbone") else f"{key}_options"


def part_digest(key: str, name: str) -> str:
    """Returns the SHA-256 of the source of an own part, as hexadecimal digits.

    It covers the module that `name` names and, if another module defines the part, that module as well, but not the
    modules that these import.
    """
    part = find_part(key, name, {})
    modules = _modules(sys.modules[name.partition(":")[0]], part)
    return hashlib.sha256(b"".join(_digest(module) for module in modules)).hexdigest()


def own_sources(**parts: str) -> dict[str, str]:
    """Returns {"KEY.source": digest of its source} for the user's own parts among `parts`, leaving out built-in ones.

    parts: names of parts by key. The digests become part of the identity of what is computed with the parts, so that
    an edited part is computed anew.
    """
    return {f"{key}.source": part_digest(key, name) for key, name in parts.items() if is_own(name)}


def reason(error: BaseException) -> str:
    """Returns the type of an exception and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _place(error: BaseException) -> str:
    """Returns the place of an exception in the user's own file, such as `, line 12 of mine.py`; "" if there is none.

    That is the innermost line in the first file that was called from here.
    """
    frames = traceback.extract_tb(error.__traceback__)
    ours = (__file__, importlib.__file__)
    own = [frame for frame in frames if frame.filename not in ours and not frame.filename.startswith("<frozen ")]
    lines = [frame.lineno for frame in own if frame.filename == own[0].filename]
    return f", line {lines[-1]} of {Path(own[0].filename).name}" if lines else ""


def _modules(module: ModuleType, part: Any) -> list[ModuleType]:
    defined = sys.modules.get(getattr(part, "__module__", "") or "", module)
    return [module] if defined is module else [module, defined]


def _digest(module: ModuleType) -> bytes:
    if module not in _digests:
        source = module.__name__.encode()
        with contextlib.suppress(OSError):  # the module is built in, or within an archive, and has no file of its own
            source = Path(getattr(module, "__file__", None) or "").read_bytes()
        _digests[module] = hashlib.sha256(source).digest()
    return _digests[module]
