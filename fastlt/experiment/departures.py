"""Finds the settings of a configuration that differ from the protocol that it names."""

from dataclasses import asdict
from typing import Any

import hydra

from fastlt.core.config import flat
from fastlt.core.structured import from_node
from fastlt.data.shards.reader import Dataset
from fastlt.experiment.config import TrainConfig
from fastlt.experiment.given import GivenDataset, usual_trainings
from fastlt.experiment.results import FROZEN, GIVEN
from fastlt.models.libraries import inputs_of

# The settings (keys or whole sections) that a protocol determines. The others are not compared: experiments by one
# protocol differ in backbone, sampler, seed and classifiers; hold_out, choose_on and precision have fields of their own
# in results.json; and the remaining keys change no result.
SETTLED = (
    "protocol",
    "stage2",
    "sampler.drawing",
    "epochs",
    "image_size",
    "mode",
    "bn",
    "augmented_passes",
    "feature_dtype",
)
SETTLED += ("accumulate", "sampler.options", "backbone.options", "feature_scale")


def find_departures(config: TrainConfig, dataset: Dataset) -> dict[str, list[Any]]:
    """Returns {key: [the protocol's value, the value used]} for the settings of SETTLED in which the two differ.

    A setting that is taken from the backbone or from the number of training features, because the user gave none, is no
    departure. Composes the protocol's configuration, so Hydra must be initialized.
    """
    usual = from_node(hydra.compose("train", [f"protocol={config.protocol.name}"]), TrainConfig)
    theirs, ours = {**flat(usual), **taken(config, dataset)}, flat(config)
    return {
        key: [theirs[key], ours[key]]
        for key in theirs
        if settled(key) and _plain(theirs[key]) != _plain(ours[key]) and key != "protocol.backbone"
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def taken(config: TrainConfig, dataset: Dataset) -> dict[str, Any]:
    """Returns the settings that are taken where the user gives none, by key.

    They are the preprocessing of images that the backbone asks for, and, for the protocols of features, batch sizes and
    epochs that suit the number of training features.
    """
    inputs = None if isinstance(dataset, GivenDataset) else inputs_of(config.backbone.name, config.protocol.pretrained)
    found = {
        name if name == "image_size" else f"protocol.{name}": _plain(value)
        for name, value in (asdict(inputs) if inputs else {}).items()
    }
    if config.protocol.name in (GIVEN, FROZEN):
        found |= usual_trainings(len(dataset.split("train")))
    return found


def settled(key: str) -> bool:
    """Returns whether SETTLED names this key or a section that contains it."""
    return any(f"{key}.".startswith(f"{name}.") for name in SETTLED)
