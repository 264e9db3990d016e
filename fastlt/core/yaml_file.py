"""Reads and writes configurations as YAML files with a digest that detects damage."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import AliasToken, YAMLError

from fastlt.core.errors import UserError, first_line
from fastlt.core.files import write_file
from fastlt.core.typed import DIGEST, signed, unsigned

LARGEST = 1 << 20  # largest file that is read, in bytes
NESTED = 1000  # most lists, and mappings, in the flow style [...] or {...}; fastlt writes only empty ones in it


def write_yaml(path: Path, value: Mapping[str, Any], shared: bool = False) -> None:
    """Writes a configuration with its digest as a YAML file, for `read_yaml`.

    shared, and the errors raised: as in `fastlt.core.files.write_file`.
    """
    plain = OmegaConf.to_container(OmegaConf.create(dict(value)))  # turns tuples into lists
    assert isinstance(plain, dict)
    told = signed({str(key): one for key, one in plain.items()})
    # The digest comes first, so that a truncated file still has it and is found to be damaged.
    write_file(path, OmegaConf.to_yaml({DIGEST: told.pop(DIGEST), **told}), shared=shared)


def read_yaml(path: Path, remedy: str, always: bool = False) -> DictConfig:
    """Returns the contents of a YAML file without its digest.

    remedy: what the user can do if the file cannot be used, for the error message.
    always: refuse a file without a digest, which is otherwise read without being checked.

    Raises UserError, in one line, if there is no such file, if it holds no keys, or if it does not match its digest.
    """
    try:
        if not path.is_file():  # reading from a named pipe would block
            raise UserError("is no file")
        if path.stat().st_size > LARGEST:
            raise UserError(f"is larger than {LARGEST:,} bytes")
        text = path.read_text("utf-8")
        if max(text.count("["), text.count("{")) > NESTED:
            raise UserError("is nested too deeply")
        # fastlt never writes these. OmegaConf could replace ${...} by an environment variable, and aliases could expand
        # to a huge configuration.
        if "${" in text or any(isinstance(token, AliasToken) for token in yaml.scan(text)):
            raise UserError("holds ${...} or an alias")
        found = OmegaConf.create(text)
        if not isinstance(found, DictConfig) or not found:
            raise UserError("holds no keys")
        if always and DIGEST not in found:
            raise UserError(f"has no {DIGEST}")
        plain: dict[str, Any] = unsigned(OmegaConf.to_container(found))
        return OmegaConf.create(plain)
    except UserError as error:
        raise UserError(f"{path} {error}; {remedy}") from None
    except (OSError, ValueError, TypeError, RecursionError, YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path} cannot be read ({first_line(error)}): {remedy}") from None
