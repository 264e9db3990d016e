"""What a new command takes from an existing run folder: its configuration, and the classifiers in its results."""

import os
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fastlt.core.errors import UserError
from fastlt.core.log import say
from fastlt.core.structured import schema
from fastlt.core.torch_file import Unreadable, read_torch_file
from fastlt.core.typed import plain
from fastlt.core.yaml_file import read_yaml
from fastlt.experiment.config import PARTS, TrainConfig
from fastlt.experiment.departures import SETTLED
from fastlt.experiment.given import JOINT_FILE
from fastlt.experiment.results import AGAIN, NAME, Results, read_results
from fastlt.registry import is_own
from fastlt.stage2.classify import CLASSIFIERS, file_of

CONFIG_FILE = "config.yaml"
GROUPS = ("backbone", "sampler")  # keys for which a name, such as backbone=resnet32, selects a whole section of conf/
# Fields of results.json in which two runs must agree for classifiers of the earlier one to stay in the results.
ALIKE = (
    "key",
    "image_size",
    "evaluation",
    "departures",
    "choose_on",
    "hold_out",
    "precision",
    "mode",
    "bn",
    "augmented_passes",
)
ALIKE += ("feature_dtype", "seed", "trained_by")


def take_from_run(composed: DictConfig, overrides: list[str]) -> DictConfig:
    """Returns the configuration with keys that the user did not give taken from config.yaml in the run folder.

    composed: the configuration that Hydra composed from the overrides. It is returned as it is if it names no run
        folder, or one without config.yaml.
    overrides: the user's key=value arguments. `protocol=NAME` among them also replaces all other settings that a
        protocol determines (SETTLED).

    Raises UserError if config.yaml cannot be read, or if it names a user's own part that the overrides do not name
    again: loading the part would run its code.
    """
    path = Path(composed.run or "", CONFIG_FILE)
    if composed.run is None or not os.path.lexists(path):
        if composed.run is not None and path.with_name(NAME).exists():
            say(f"{path} is missing: every key that is not given is at its default")
        return composed
    remedy = "choose another run=DIR, or delete it to give all keys"
    try:
        found = OmegaConf.merge(schema(TrainConfig), read_yaml(path, remedy))
    except (ValueError, TypeError, OmegaConfBaseException) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} cannot be read ({str(error).splitlines()[0]}): {remedy}") from None
    assert isinstance(found, DictConfig)
    if not path.with_name(NAME).exists():
        say(f"{path.parent} is not finished: every key that is not given is taken from {path}")
    given: list[str] = []
    for override in OverridesParser.create().parse_overrides(overrides):
        key = override.key_or_group
        if (key, override.value()) != ("protocol", "auto"):
            given += SETTLED if key == "protocol" else [key]
        # These two keys of the experiment take the protocol's value unless they are given.
        given += {"protocol.epochs": ["epochs"], "protocol.image_size": ["image_size"]}.get(key, [])
    for key in given:
        OmegaConf.update(found, key, OmegaConf.select(composed, key), merge=key not in (*SETTLED, *GROUPS))
    try:
        OmegaConf.to_container(found, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{path} lacks {error.full_key or 'a key'}: {remedy}") from None
    named = [(key, OmegaConf.select(found, f"{key}.name" if key in GROUPS else key)) for key in PARTS]
    named += [(key, name) for key in ("classifiers", "logger") for name in found[key]]
    for key, name in named:
        if (
            isinstance(name, str)
            and is_own(name)
            and not any(f"{key}.".startswith(f"{one}.".replace(".name.", ".")) for one in given)
        ):
            raise UserError(f"{path} names {key}={name}, whose code would run: give {key}= again to let it")
    return found


def refuse_another(folder: Path, keys: Collection[str], config: TrainConfig, sources: Collection[str] = ()) -> None:
    """Raises UserError if the run folder holds another network or its results, unless `overwrite` is set.

    keys: of the representation of this run, and of those that it may take the place of.
    sources: keys of checkpoints that may lie in the folder without results, as the run begins with their weights.
    """
    if config.overwrite:
        return
    remedy = "choose another run=DIR, or overwrite=true to replace them"
    try:
        before = read_results(folder)
    except UserError:  # there are none, or they are damaged: then the files say what was trained
        for path in (folder / "checkpoint.pt", folder / JOINT_FILE):
            try:
                state = read_torch_file(path) if path.is_file() else None
            except Unreadable:
                continue
            if isinstance(state, dict) and state.get("key") not in (*keys, *sources):
                raise UserError(f"{path} holds the weights of another network: {remedy}") from None
        return
    if before.seed != config.seed:
        raise UserError(f"seed={config.seed}: {folder} holds results of seed={before.seed}: {remedy}")
    if before.key not in keys:
        raise UserError(
            f"run={folder} holds results of another network ({before.backbone} on {before.dataset}) or of other "
            f"features of it: {remedy}"
        )


def keep_rows(results: Results, folder: Path) -> Results:
    """Returns the results together with classifiers of an earlier run in this folder that were not fitted again.

    They are left out, with a message, if the earlier run differs in one of the fields ALIKE, or if its results.json is
    damaged. The folder stays that of a finished grid cell while it has all classifiers of the cell.
    """
    if not (folder / NAME).exists():
        return results
    asked = {*results.classifiers, *results.failed}
    try:
        before = read_results(folder)
    except UserError as error:
        files = {file_of(folder / CLASSIFIERS, name) for name in asked}
        others = [path.stem for path in sorted((folder / CLASSIFIERS).glob("*.pt")) if path not in files]
        lost = f"{', '.join(others)} are left out: name them again, what is kept of them is not fitted again"
        say(f"{str(error).removesuffix(f'; {AGAIN}')}; {lost if others else 'it is written anew'}")
        return results
    earlier = {name: row for name, row in before.classifiers.items() if name not in asked}
    differ = [key for key in ALIKE if plain(getattr(before, key)) != plain(getattr(results, key))]
    if earlier and differ:
        say(f"{folder}: {', '.join(earlier)} are left out, as {differ[0]} is another now: name them again to keep them")
        return results
    classifiers = {**earlier, **results.classifiers}
    cell = before.cell if not differ and before.classifiers.keys() <= classifiers.keys() else None
    return replace(results, classifiers=classifiers, cell=results.cell or cell)
