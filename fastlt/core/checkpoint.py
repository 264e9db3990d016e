"""Reads and writes the checkpoints of a training.

A checkpoint is written completely or not at all. While a training runs, the previous checkpoint is kept as well.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from fastlt.core.errors import UserError
from fastlt.core.identity import Identity
from fastlt.core.log import say
from fastlt.core.torch_file import Unreadable, read_torch_file, write_torch_file

SCHEMA = 2


def before(path: Path) -> Path:
    """Returns the path of the previous checkpoint, such as checkpoint.before.pt for checkpoint.pt."""
    return path.with_name(f"{path.stem}.before{path.suffix}")


def finished_state(identity: Identity, classifier: str, model: dict[str, Tensor], **more: Any) -> dict[str, Any]:
    """Returns the contents of the checkpoint of a model that was not trained by gradient descent in stage 1.

    classifier: linear, cosine or etf. model: its state dict. more: further entries, or other values of those here.
    """
    state = {"schema": SCHEMA, "key": identity.key, "settings": identity.about, "finished": True, "epoch": 0}
    state |= {"classifier": classifier, "model": model, "chosen_on_val": False, "seconds": 0.0, "images": 0}
    return state | more


def save_checkpoint(state: dict[str, Any], path: Path, keep: bool = False) -> None:
    """Writes a checkpoint.

    keep: move the present checkpoint to `before(path)` instead of replacing it.

    Raises NotWritten if the file cannot be written; the present checkpoint then stays.
    """
    again = "give the same command again: it goes on from the checkpoint before"
    write_torch_file(state, path, again=again, keep=before(path) if keep else None)


def load_checkpoint(path: Path, identity: Identity) -> dict[str, Any] | None:
    """Returns the checkpoint at `path`, or the previous one if the newest is damaged; None if there is neither.

    Raises UserError if the checkpoint has another identity, naming the first setting that differs, or if no checkpoint
    can be read.
    """
    if not path.exists() and not before(path).exists():
        return None
    state, problem = _read(path)
    if state is None:
        state = read_checkpoint(before(path) if before(path).exists() else path)
        say(f"{path} {problem}: going on from {before(path)}")
    if state["key"] == identity.key:
        return state
    about = state["settings"]
    for name in {**identity.about, **about}:
        if about.get(name) != identity.about.get(name):
            remedy = "choose another run=DIR, or overwrite=true to train anew"
            if name == "epochs" and state.get("finished"):
                remedy = (
                    "a finished training does not go on, as its learning rate has come to its end: begin another one "
                    f"with its weights, protocol.pretrained={path.parent} and another run=DIR, or overwrite=true to "
                    "train anew"
                )
            raise UserError(
                f"{path} holds a representation with {_told(name, about)}, asked for is "
                f"{_told(name, identity.about)}: {remedy}"
            )
    raise UserError(
        f"{path} holds a representation of other settings: choose another run=DIR, or overwrite=true to train anew"
    )


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Returns the contents of a checkpoint with all tensors on the CPU, without running any code from the file.

    Raises UserError if the file is damaged or is not a checkpoint of fastlt.
    """
    state, problem = _read(path)
    if state is None:
        raise UserError(f"{path} {problem}: delete it to train anew, or choose another run=DIR")
    return state


def _read(path: Path) -> tuple[dict[str, Any] | None, str]:
    """Returns the contents of a checkpoint, or None and what is wrong with it, in words that continue its path."""
    try:
        state = read_torch_file(path)
    except Unreadable as error:
        return None, str(error)
    if isinstance(state, dict) and {"settings", "key", "model"} <= state.keys():
        return state, ""
    return None, "is not a checkpoint of fastlt (it lacks settings, key or model)"


def _told(name: str, about: dict[str, Any]) -> str:
    if name not in about:
        return f"{name} at its default"
    text = str(about[name])
    return f"{name}={text if len(text) <= 16 else text[:12] + '...'}"
