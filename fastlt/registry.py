"""One rule for every part that has a name: NAME of a table, or package.module:NAME of the user's own."""

import contextlib
import hashlib
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from fastlt.core.errors import UserError

_OWN = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_digests: WeakKeyDictionary[ModuleType, bytes] = WeakKeyDictionary()


def is_own(name: str) -> bool:
    """Whether a part is named as the user's own, `package.module:NAME`."""
    return _OWN.fullmatch(name) is not None


def find_part(key: str, name: str, table: Mapping[str, Any], more: str = "") -> Any:
    """The part that `key=name` asks for: an entry of `table`, or what the user's own module has under this name.

    key: what the user sets, for messages, such as `protocol.loss`. more: further names that are allowed, in words. The
    module is imported, so a name that comes out of somebody's file must never reach this function unasked.

    Raises UserError, in one line, where there is no such part or its module cannot be imported.
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
        sys.path.append(str(Path.cwd()))  # a console script does not look into the folder it is called in
    try:
        module = importlib.import_module(source)
    except Exception as error:  # a module of the user's: whatever it raises, the line must say whose it is
        raise UserError(
            f"{key}={name}: importing {source} fails ({reason(error)}): it must be installed, or lie in this folder or "
            "one of PYTHONPATH"
        ) from error
    if not hasattr(module, attribute):
        raise UserError(f"{key}={name}: {source} has no {attribute}")
    part = getattr(module, attribute)
    for used in _modules(module, part):
        _digest(used)  # while the file is the one that was imported: a run may go on for hours
    return part


def call_part(key: str, name: str, part: Callable[..., Any], options: Mapping[str, Any], *given: Any) -> Any:
    """part(*given, **options), where `options` are what the user sets as `key_options` or `key.options`.

    Raises UserError, in one line, where the part does not take the options, or fails.
    """
    check_options(key, name, part, options, len(given))
    try:
        return part(*given, **options)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{key}={name} with {_options_key(key, name)}={dict(options)} fails ({reason(error)}); --debug shows where"
        ) from error


def check_options(key: str, name: str, part: Callable[..., Any], options: Mapping[str, Any], given: int) -> None:
    """Raises UserError, in one line, where a part that is called with so many arguments takes no such option, or needs
    one that is missing."""
    parameters = list(inspect.signature(part).parameters.values())[given:]
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
    """Where the user sets the options of a part."""
    if key == "classifier":
        return f"stage2.options.{name.rpartition(':')[2]}"
    return f"{key}.options" if key in ("sampler", "backbone") else f"{key}_options"


def part_digest(key: str, name: str) -> str:
    """SHA-256 of the source that an own part comes from: of the module that is named, and of the one that defines the
    part where that is another. Modules that these import are not in it."""
    part = find_part(key, name, {})
    modules = _modules(sys.modules[name.partition(":")[0]], part)
    return hashlib.sha256(b"".join(_digest(module) for module in modules)).hexdigest()


def own_sources(**parts: str) -> dict[str, str]:
    """{"KEY.source": digest} for those of these parts that are the user's own, for the key of what is made of them."""
    return {f"{key}.source": part_digest(key, name) for key, name in parts.items() if is_own(name)}


def reason(error: BaseException) -> str:
    """An error of the user's code in few words."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _modules(module: ModuleType, part: Any) -> list[ModuleType]:
    defined = sys.modules.get(getattr(part, "__module__", "") or "", module)
    return [module] if defined is module else [module, defined]


def _digest(module: ModuleType) -> bytes:
    if module not in _digests:
        source = module.__name__.encode()
        with contextlib.suppress(OSError):  # built in, or within an archive
            source = Path(getattr(module, "__file__", None) or "").read_bytes()
        _digests[module] = hashlib.sha256(source).digest()
    return _digests[module]
