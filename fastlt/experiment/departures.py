"""What a configuration does otherwise than the protocol that it names."""

from collections.abc import Iterator, Sequence
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

# What a protocol settles. Backbone, sampler, seed and classifiers are what experiments by one protocol differ in, how
# much is held out, where choices are made and the precision stand in results.json by themselves, and the rest changes
# no result.
SETTLED = ("protocol", "stage2", "sampler.drawing", "epochs", "image_size", "mode", "bn", "views", "feature_dtype")
SETTLED += ("accumulate", "sampler.options", "backbone.options")


def find_departures(cfg: Any, overrides: Sequence[str], protocol: str) -> dict[str, list[Any]]:
    """{key: [the protocol's value, the value used]} for all that SETTLED names, where the two differ.

    cfg: of fastlt.train, resolved. overrides: what it was composed of. protocol: the dataset's own, where none was
    asked for. A key that was given the protocol's own value is no departure.
    """
    asked = [given.partition("=")[2] for given in overrides if given.startswith("protocol=")]
    name = asked[-1] if asked and asked[-1] != "auto" else protocol
    usual = hydra.compose("train", [f"protocol={name}"])
    usual.epochs, usual.image_size = usual.protocol.epochs, usual.protocol.image_size
    theirs, ours = ({k: v for key in SETTLED for k, v in _leaves(key, OmegaConf.select(c, key))} for c in (usual, cfg))
    return {
        key: [theirs.get(key), ours.get(key)]
        for key in {**theirs, **ours}
        if theirs.get(key) != ours.get(key) and key != "protocol.backbone"
    }


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Keys and plain values of a section whose keys are declared; a dict of free keys is one value."""
    if isinstance(value, DictConfig) and OmegaConf.get_type(value) is not dict:
        for name in value:
            yield from _leaves(f"{key}.{name}", value[name])
    else:
        yield key, OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
