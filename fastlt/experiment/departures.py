"""Finds the settings of a configuration that differ from the protocol that it names."""

from typing import Any

import hydra

from fastlt.core.config import flat
from fastlt.core.structured import from_node
from fastlt.experiment.config import TrainConfig

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
SETTLED += ("accumulate", "sampler.options", "backbone.options")


def find_departures(config: TrainConfig) -> dict[str, list[Any]]:
    """Returns {key: [the protocol's value, the value used]} for the settings of SETTLED in which the two differ.

    Composes the protocol's configuration, so Hydra must be initialized.
    """
    usual = from_node(hydra.compose("train", [f"protocol={config.protocol.name}"]), TrainConfig)
    theirs, ours = flat(usual), flat(config)
    return {
        key: [theirs[key], ours[key]]
        for key in theirs
        if settled(key) and theirs[key] != ours[key] and key != "protocol.backbone"
    }


def settled(key: str) -> bool:
    """Returns whether SETTLED names this key or a section that contains it."""
    return any(f"{key}.".startswith(f"{name}.") for name in SETTLED)
