"""Helpers for configurations, which are frozen dataclasses.

A setting is declared once, as a field of the dataclass of the component that uses it, which checks the value when it is
constructed. Larger configurations inherit from that dataclass or hold it in a field, and Hydra makes each field a key
of the command line. The functions here go over all fields of a configuration, so they need no change for a new setting.
"""

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar

# Metadata for fields that do not change the representation, used as field(default=0, metadata=RUN).
RUN = {"only": "run"}  # the field says how something is computed and changes no result
STAGE_2 = {"only": "stage 2"}  # the field concerns classifiers only

Made = TypeVar("Made")


def assemble(kind: type[Made], *sources: Any, **given: Any) -> Made:
    """Returns an instance of the dataclass `kind` with field values taken from other objects by name.

    sources: each field takes its value from the first source that has an attribute of that name; a field that no source
        has keeps its default.
    given: values by field name, which take precedence over the sources.

    Example: assemble(Schedule, config.protocol, epochs=10) is the protocol's schedule, but with 10 epochs.
    """
    for one in fields(kind):  # type: ignore[arg-type]
        source = next((source for source in sources if hasattr(source, one.name)), None)
        if source is not None:
            given.setdefault(one.name, getattr(source, one.name))
    return kind(**given)


def flat(config: Any, *without: Mapping[str, str]) -> dict[str, Any]:
    """Returns every setting of a configuration as a dict from its key, such as "protocol.lr", to a plain value.

    without: leave out fields with this metadata, RUN or STAGE_2.

    The field `name` of a nested configuration has the key of that configuration: {"backbone": "resnet10"}.
    """
    return {key: value for key, value, _ in _settings(config, without)}


def changed(config: Any, *without: Mapping[str, str]) -> dict[str, Any]:
    """Returns the settings of `flat` that differ from their default or have none.

    A hash of these does not change when a new setting with a default is added to a configuration.

    >>> from fastlt.core.schedule import RateConfig
    >>> changed(RateConfig(warmup_epochs=5))
    {'warmup_epochs': 5}
    """
    return {key: value for key, value, usual in _settings(config, without) if not usual}


def _settings(config: Any, without: tuple[Mapping[str, str], ...]) -> Iterator[tuple[str, Any, bool]]:
    """Yields (key, value, whether the value is the default) of every setting."""
    for one in fields(config):
        value = getattr(config, one.name)
        if any(one.metadata == left_out for left_out in without):
            continue
        if is_dataclass(value):
            for key, inner, usual in _settings(value, without):
                yield f"{one.name}.{key}".removesuffix(".name"), inner, usual
        else:
            default = one.default if one.default_factory is MISSING else one.default_factory()
            yield one.name, list(value) if isinstance(value, tuple) else value, value == default
