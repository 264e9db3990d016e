"""Checkpoints of stage 1: written whole or not at all, the one before kept until training is over."""

import os
from pathlib import Path
from typing import Any

import torch

from fastlt.core.errors import UserError
from fastlt.core.log import say
from fastlt.core.settings import Settings
from fastlt.core.torch_file import Unreadable, read_torch_file

SCHEMA = 2


def before(path: Path) -> Path:
    """Where the checkpoint before the newest lies."""
    return path.with_name(f"{path.stem}.before{path.suffix}")


def save_checkpoint(state: dict[str, Any], path: Path, keep: bool = False) -> None:
    """`write_checkpoint`, for a training. Raises UserError if it cannot be written; what was there stays."""
    try:
        write_checkpoint(state, path, keep)
    except (OSError, RuntimeError) as error:  # torch's writer says RuntimeError when the disk is full
        reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        raise UserError(
            f"{path} cannot be written ({reason}): make room; the same command goes on from the checkpoint before"
        ) from None


def write_checkpoint(state: dict[str, Any], path: Path, keep: bool = False) -> None:
    """Writes beside its place, then renames. keep: the one that is there now becomes `before(path)`."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        if keep and path.exists():
            path.replace(before(path))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # renamed by now, unless it failed


def load_checkpoint(path: Path, settings: Settings) -> dict[str, Any] | None:
    """A checkpoint of just these settings, None if there is none; the one before if the newest is damaged.

    Raises UserError, naming the first setting that differs.
    """
    if not path.exists() and not before(path).exists():
        return None
    try:
        state = read_checkpoint(path)
    except UserError as error:
        if not before(path).exists():
            raise
        state = read_checkpoint(before(path))
        say(f"{error}; going on from {before(path)}")
    if state["key"] == settings.key:
        return state
    about = state["settings"]
    for name in {**settings.about, **about}:
        if about.get(name) != settings.about.get(name):
            raise UserError(
                f"{path} holds a representation with {name}={_short(about.get(name))}, asked for is "
                f"{name}={_short(settings.about.get(name))}: choose another run=DIR, or overwrite=true to train anew"
            )
    raise UserError(
        f"{path} holds a representation of other settings: choose another run=DIR, or overwrite=true to train anew"
    )


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint holds, tensors on the CPU; nothing in it is run. Raises UserError if it is none."""
    try:
        state = read_torch_file(path)
    except Unreadable as error:
        raise UserError(f"{path} {error}: delete it to train anew, or choose another run=DIR") from None
    if isinstance(state, dict) and {"settings", "key", "model"} <= state.keys():
        return state
    raise UserError(
        f"{path} is not a checkpoint of fastlt (it lacks settings, key or model): delete it or choose another run=DIR"
    )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 16 else text[:12] + "..."
