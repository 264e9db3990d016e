"""Separates the grid's own arguments from those of its cells, and expands `key=A,B` into cells."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import fields

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from fastlt.core.errors import UserError
from fastlt.core.overrides import quoted_strings
from fastlt.experiment.config import TrainConfig
from fastlt.grid.config import GridConfig

OWN = (*(field.name for field in fields(GridConfig)), "hydra")
VALUED = ("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd")
FLAGS = {"--dry-run": "dry_run=true"}  # the usual spelling of a flag -> the override it stands for


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns (arguments of the grid, arguments for every cell). Raises UserError for Hydra's --multirun.

    Example:

        >>> split_arguments(["grid=demo", "--dry-run", "epochs=2"])
        (['grid=demo', 'dry_run=true'], ['epochs=2'])
    """
    own: list[str] = []
    before = ""
    cells: list[str] = []
    for argument in (FLAGS.get(argument, argument) for argument in arguments):
        if argument in ("-m", "--multirun"):
            raise UserError(f"{argument}: a grid sweeps by itself, as in seed=0,1,2; leave it out")
        key = re.split(r"[=.@]", argument.lstrip("+~"), maxsplit=1)[0]
        value_of_flag = own[-1:] == [before] and before in VALUED
        (own if value_of_flag or argument.startswith("-") or key in OWN else cells).append(argument)
        before = argument
    return own, quoted_strings(cells, TrainConfig, sweeps=True)


def combinations(parts: Sequence[Sequence[str]], given: Sequence[str]) -> list[list[str]]:
    """Expands the parts of a grid into cells; returns the list of arguments of every cell.

    parts: lists of arguments. `key=A,B` makes a cell with A and a cell with B, and all combinations are made.
    given: arguments that replace those with the same key in all parts.

    Cells are sorted by seed, so that every setting has its first results early. Raises UserError for an argument that
    cannot be parsed, and for `data` if the grid has several datasets.

    Example:

        >>> combinations([["sampler=instance,class", "seed=0,1"]], ["seed=0"])
        [['sampler=instance', 'seed=0'], ['sampler=class', 'seed=0']]
    """
    replacing, parsed = _parse(given), [_parse(part) for part in parts]
    keys = {override.key_or_group for override in replacing}
    data = {o.get_value_element_as_str() for part in parsed for o in part if o.key_or_group == "data"}
    if "features" in keys and data:
        of = " and ".join(sorted(data))
        raise UserError(f"features=...: this grid is of {of}; for features of your own take grid=features")
    if "data" in keys and len(data) > 1:
        raise UserError(
            f"data=...: this grid is of {' and '.join(sorted(data))}; for data of your own take grid=samplers"
        )
    cells: list[list[str]] = []
    for part in parsed:
        overrides = [override for override in part if override.key_or_group not in keys] + replacing
        cells += [list(cell) for cell in itertools.product(*map(_values, overrides))]
    unique = list(dict.fromkeys(map(tuple, cells)))
    return [list(cell) for cell in sorted(unique, key=_seed)]


def _parse(arguments: Sequence[str]) -> list[Override]:
    try:
        return OverridesParser.create().parse_overrides(list(arguments))
    except HydraException as error:
        raise UserError(f"{str(error).splitlines()[0]} (arguments are key=value)") from error


def _values(override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [str(override.input_line)]
    key = override.get_key_element()
    # Hydra escapes the colon of package.module:NAME, which its grammar takes as it is.
    return [f"{key}={value}".replace("\\:", ":") for value in map(str, override.sweep_string_iterator())]


def _seed(cell: tuple[str, ...]) -> int:
    seeds = [argument.partition("=")[2] for argument in cell if argument.startswith("seed=")]
    return int(seeds[-1]) if seeds and seeds[-1].isdecimal() else 0
