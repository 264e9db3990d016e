"""Running a command: configuration by Hydra, wrong input as one line with exit code 2."""

import argparse
import functools
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from fastlt.core.errors import UserError
from fastlt.core.interrupts import Stopped

WRONG_INPUT = 2
DEBUG = "FASTLT_DEBUG"


def hydra_command(name: str, schema: type) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Decorator: a command configured by conf/`name`.yaml, whose keys `schema` declares, and key=value arguments.

    Wrong input ends it with one line on stderr and exit code 2; --debug, or HYDRA_FULL_ERROR=1, shows the traceback.
    """

    def decorate(main: Callable[[DictConfig], Any]) -> Callable[[], None]:
        @functools.wraps(main)
        def job(cfg: DictConfig) -> None:
            # Here, because Hydra would announce an error of the job in lines of its own.
            guard(lambda: main(cfg), schema)

        command = hydra.main(config_path="pkg://fastlt.conf", config_name=name, version_base="1.3")(job)

        def run() -> None:
            if "--debug" in sys.argv:
                sys.argv.remove("--debug")
                os.environ[DEBUG] = "1"
            elif os.environ.get("HYDRA_FULL_ERROR") == "1":
                os.environ[DEBUG] = "1"
            sys.argv[1:] = own_parts(sys.argv[1:])
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing and exiting with 1
            guard(command, schema)

        return run

    return decorate


def own_parts(arguments: Sequence[str]) -> list[str]:
    """Arguments as Hydra understands them: it looks for a file of conf/sampler or conf/backbone, and has none of the
    name package.module:NAME."""
    return [re.sub(r"^(sampler|backbone)=(?=['\"]?[\w.,]*\w:\w)", r"\1.name=", argument) for argument in arguments]


class Parser(argparse.ArgumentParser):
    """argparse whose complaints are one line, as those of every command; its own would print the usage as well."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def guard(command: Callable[[], Any], schema: type | None = None) -> None:
    """Runs a command; turns what users can mend into one line and exit code 2.

    schema: dataclass whose keys are allowed, for the message on an unknown one.
    """
    try:
        command()
    except (UserError, HydraException, OmegaConfBaseException) as error:
        if os.environ.get(DEBUG) == "1":
            raise
        sys.stderr.write(f"error: {one_line(error, schema)}\n")
        sys.exit(WRONG_INPUT)
    except Stopped as stopped:
        sys.stderr.write(f"stopped by {signal.Signals(stopped.signal).name}: {stopped}\n")
        sys.exit(128 + stopped.signal)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)


def recompose(name: str, choices: list[str], own: bool = True) -> DictConfig:
    """A configuration composed inside a running command: its own overrides (if `own`), then `choices`."""
    return hydra.compose(name, [*(HydraConfig.get().overrides.task if own else []), *choices])


def one_line(error: BaseException, schema: type | None) -> str:
    """What users can mend, in one line. schema: dataclass whose keys are allowed, for the message on an unknown one."""
    if isinstance(error, UserError):
        return str(error)
    chain: list[BaseException] = []
    step: BaseException | None = error
    while step is not None:
        chain.append(step)
        step = step.__cause__ or step.__context__
    text = "\n".join(str(part) for part in chain)
    if match := re.search(r"Could not override '([^']+)'", text):
        return _unknown_key(match[1], schema)
    if match := re.search(r"Could not find '([^/']+)/([^']+)'", text):
        return f"{match[1]}={match[2]} is unknown: allowed are {', '.join(_options(match[1]))}"
    if match := re.search(r"You must specify '([^']+)', e.g", text):
        return f"{match[1]} is not given: add {match[1]}=NAME with one of {', '.join(_options(match[1]))}"
    if match := re.search(r"Missing mandatory value: (\S+)", text):
        return f"{match[1]} is not given: add {match[1]}=VALUE"
    if match := re.search(r"full_key: (\S+)", text):
        told = next((str(part) for part in chain if str(part).startswith("Value")), str(chain[-1]))
        if "is not a ListConfig" in told:
            return f"{match[1]} takes a list: write '{match[1]}=[A,B]', in quotes, also for a single one"
        return f"{match[1]}: {told.splitlines()[0]}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{lines[0]} (arguments are key=value)" if "mismatched" in text or "missing EQUAL" in text else lines[0]


def _unknown_key(key: str, schema: type | None) -> str:
    parent, _, leaf = key.rpartition(".")
    allowed = _keys(schema, parent)
    close = get_close_matches(leaf, allowed, 1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"unknown key {key}{hint}: allowed are {', '.join(allowed)}"


def _keys(schema: Any, parent: str) -> list[str]:
    """Keys that `schema` declares in its section `parent`."""
    for name in filter(None, parent.split(".")):
        schema = get_type_hints(schema).get(name) if is_dataclass(schema) else None
    return [field.name for field in fields(schema)] if is_dataclass(schema) else []


def _options(group: str) -> list[str]:
    folder = Path(__file__).parents[1] / "conf" / group
    return sorted(path.stem for path in folder.glob("*.yaml") if path.stem != "auto")
