"""Converts dataclasses to the schemas that Hydra composes, and composed configurations back to dataclasses."""

import math
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, ListConfig, OmegaConf

from fastlt.core.errors import UserError

Kind = TypeVar("Kind")


def register(name: str, kind: type) -> None:
    """Registers a dataclass as the schema NAME_schema, which conf/NAME.yaml refers to: its fields become the keys."""
    ConfigStore.instance().store(f"{name}_schema", schema(kind))


def schema(kind: type) -> DictConfig:
    """Returns an OmegaConf node with the fields of a dataclass and of its nested dataclasses.

    Fields without a default are missing (`???`) until they are set. A field of type dict[str, Any] takes any keys: the
    part that it is passed to checks them.
    """
    node = OmegaConf.structured(kind)
    OmegaConf.set_readonly(node, None)  # OmegaConf makes nodes of frozen dataclasses read-only, but Hydra must set keys
    for name, hint in get_type_hints(kind).items():
        if is_dataclass(hint):
            node[name] = schema(hint)  # type: ignore[arg-type]
        elif hint == dict[str, Any]:
            OmegaConf.set_struct(node[name], False)
    return node


def from_node(node: Any, kind: type[Kind]) -> Kind:
    """Returns a composed node as an instance of the dataclass `kind`, with lists as tuples.

    Raises UserError for a value that one of the dataclasses refuses; the message has the full key, such as protocol.lr.
    """
    made = _object(node, "")
    assert isinstance(made, kind)
    return made


def _object(node: Any, path: str) -> Any:
    if isinstance(node, ListConfig):
        return tuple(_object(one, path) for one in node)
    if not isinstance(node, DictConfig):
        return _finite(node, path)
    kind = OmegaConf.get_type(node)
    if not is_dataclass(kind):
        return _finite(OmegaConf.to_container(node, resolve=True), path)
    values = {one.name: _object(node[one.name], f"{path}{one.name}.") for one in fields(kind)}
    try:
        return kind(**values)
    except UserError as error:  # the message of a component begins with the name of its own field
        raise UserError(str(error) if str(error).startswith(path[:-1]) else f"{path}{error}") from None


def _finite(value: Any, path: str) -> Any:
    """Returns a value of plain types. Raises UserError for a number in it that is infinite or none, as none is allowed.

    path: of the key, with a dot after it.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{path[:-1]}={value}: it must be a finite number")
    if isinstance(value, dict):
        for name, one in value.items():
            _finite(one, f"{path}{name}.")
    elif isinstance(value, list):
        for one in value:
            _finite(one, path)
    return value
