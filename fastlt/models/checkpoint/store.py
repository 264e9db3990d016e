"""Checkpoints of fastlt made from others' weights, turned into models, and written for others."""

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from fastlt import __version__
from fastlt.core.checkpoint import SCHEMA, write_checkpoint
from fastlt.core.errors import UserError
from fastlt.core.log import say
from fastlt.core.settings import Settings
from fastlt.core.torch_file import reason
from fastlt.models.backbones import IMAGE_SIZE, Model, build_backbone, build_model
from fastlt.models.checkpoint.networks import seems
from fastlt.models.checkpoint.pretrained import closest, file_digest, fill, identify, misfit, shapes
from fastlt.models.checkpoint.read import KIND_OURS, classifier_kind, open_checkpoint, read_weights
from fastlt.registry import is_own

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # of batch norm: no parameters


def import_weights(
    path: Path, backbone: str | None = None, image_size: int = IMAGE_SIZE, classifier: str | None = None
) -> tuple[dict[str, Any], str]:
    """(state of a finished checkpoint of fastlt made from a file of weights, what the file is in words).

    backbone: as in `build_backbone`; None where the shapes tell it. An own backbone must be named: its code runs.
    image_size: pixels that an own backbone is tried on. classifier: as in `read_weights`. Raises UserError if the file
    cannot be read, lacks a classifier, or does not fit.
    """
    own = {} if backbone is None else _names(backbone, image_size)
    weights = read_weights(path, own, classifier)
    if weights.kind == KIND_OURS:
        raise UserError(f"{path} is a checkpoint of fastlt already: use it as it is, or export it")
    name = backbone or identify(weights.backbone)
    if name is None:
        near = closest(weights.backbone)
        own_name = weights.backbone_name or ""
        raise UserError(
            f"{path} seems to be {seems(weights.backbone)}, and fits no backbone of fastlt, {near} least badly: "
            f"{misfit(shapes(near), weights.backbone)}: give --backbone "
            + (
                own_name
                if is_own(own_name)
                else "package.module:factory, a function of yours that builds that network without its classifier"
            )
        )
    if weights.classifier is None:
        about = "; ".join((weights.kind, name, *weights.notes))
        raise UserError(
            f"{path} holds a backbone without a classifier that can be imported ({about}): train one on it with "
            f"python -m fastlt.train data=DIR backbone={name} protocol.pretrained={path}"
        )
    for note in weights.notes:
        say(f"{path}: {note}")
    weight, bias = weights.classifier
    kind = "cosine" if bias is None else "linear"
    if classifier not in (None, kind):
        raise UserError(
            f"--classifier={classifier}: that of {path} is {kind}, its tensors show it: leave the option out"
        )
    head = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    model = build_model(name, len(weight), 0, image_size, kind)
    fill(model.backbone, weights.backbone, str(path), f"backbone={name}")
    fill(model.classifier, head, f"{path}: its classifier", f"backbone={name}")
    about = {"imported": path.name, "sha256": file_digest(path), "backbone": name, "classes": len(weight)}
    if is_own(name):
        about["image_size"] = image_size
    settings = Settings(about)
    state = {
        "schema": SCHEMA,
        "key": settings.key,
        "settings": settings.about,
        "finished": True,
        "epoch": 0,
        "classifier": model.classifier_kind,
        "model": model.state_dict(),
        "chosen_on_val": False,
        "seconds": 0.0,
        "images": 0,
    }
    return state, weights.kind


def _names(backbone: str, image_size: int) -> dict[str, Any]:
    return build_backbone(backbone, image_size)[0].state_dict() if is_own(backbone) else shapes(backbone)


def load_model(path: Path, backbone: str | None = None) -> tuple[Model, dict[str, Any]]:
    """(the model of a finished checkpoint of fastlt, in eval mode on the CPU; the checkpoint's state).

    path: a file, or a run folder. backbone: the one that is expected; None for any of BACKBONES. Raises UserError if
    the checkpoint is unfinished, of another backbone, or of an own one that was not asked for: its code would run.
    """
    state = open_checkpoint(path)
    name = str(state["settings"].get("backbone"))
    if backbone is not None and backbone != name:
        raise UserError(f"{path} holds backbone={name}, asked for is backbone={backbone}: choose another of the two")
    if backbone is None and is_own(name):
        raise UserError(f"{path} holds the backbone {name}: ask for it by name, because its code then runs")
    if not state.get("finished", False):
        raise UserError(f"{path} is not finished, it stands behind epoch {state['epoch']}: train it to its end first")
    size = state["settings"].get("image_size", IMAGE_SIZE)
    classes, options = len(state["model"]["classifier.weight"]), state["settings"].get("backbone.options")
    model = build_model(name, classes, 0, size, classifier_kind(state), options=options)
    fill(model, state["model"], str(path), f"backbone={name}")
    return model.eval(), state


def export(path: Path, out: Path, overwrite: bool = False) -> dict[str, str]:
    """Writes the model of a checkpoint of fastlt as a .safetensors file, whole or not at all; its metadata.

    Names are torchvision's: the backbone's own without prefix, and fc.weight, fc.bias. A classifier that compares by
    cosine has no fc.bias, and the metadata say classifier=cosine. Raises UserError if `path` holds no checkpoint of
    fastlt, or if `out` exists and not `overwrite`.
    """
    if out.suffix != ".safetensors":
        raise UserError(f"--out={out}: the name must end in .safetensors")
    check_place(out, path, overwrite)
    state = open_checkpoint(path)
    if not state.get("finished", False):
        say(f"{path} is not finished: exporting it as it stands behind epoch {state['epoch']}")
    tensors: dict[str, Tensor] = {}
    for name, value in state["model"].items():
        plain = name.removeprefix("backbone.") if name.startswith("backbone.") else name.replace("classifier.", "fc.")
        if plain in tensors:
            raise UserError(f"{path}: the backbone has a {plain} of its own, the classifier's name: rename it there")
        # A copy of its own: tensors that share memory are refused by the format.
        tensors[plain] = value.detach().clone().contiguous()
    metadata = {
        "format": "pt",
        "fastlt": __version__,
        "key": str(state["key"]),
        "backbone": str(state["settings"].get("backbone")),
        "classes": str(len(state["model"]["classifier.weight"])),
    }
    if classifier_kind(state) == "cosine":
        metadata["classifier"] = "cosine"
    from safetensors.torch import save_file

    def write() -> None:
        temporary = _temporary(out)
        save_file(tensors, temporary, metadata)
        with temporary.open("r+b") as file:
            _sort_metadata(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(out)

    _write(write, out)
    return metadata


def _sort_metadata(file: BinaryIO) -> None:
    """Gives the header of a .safetensors file one order of metadata: the package writes another one every time, and the
    same model would be another file. Layout: length of the header in 8 bytes, the header as JSON, the tensors."""
    length = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(length))
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    if len(text) <= length:  # blanks behind it are part of the format
        file.seek(8)
        file.write(text.ljust(length))


def save_imported(state: dict[str, Any], out: Path) -> None:
    """Writes a checkpoint, whole or not at all. Raises UserError if it cannot be written."""
    _write(lambda: write_checkpoint(state, out), out)


def check_place(out: Path, source: Path, overwrite: bool) -> None:
    """Raises UserError if `out` may not be written: before the work, not behind it."""
    if out.is_dir():
        raise UserError(f"--out={out} is a folder: give the name of a file in it")
    if out.exists() and source.exists() and out.samefile(source):
        raise UserError(f"--out={out} is the file that is read: choose another name")
    if out.exists() and not overwrite:
        raise UserError(f"--out={out} exists: choose another name, or add --overwrite")


def _temporary(out: Path) -> Path:
    return out.with_name(out.name + ".tmp")


def _write(write: Callable[[], None], out: Path) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write()
    except Exception as error:  # torch and safetensors have errors of their own for a full disk
        raise UserError(f"--out={out} cannot be written ({reason(error)}): choose another place") from error
    finally:
        with contextlib.suppress(OSError):
            _temporary(out).unlink(missing_ok=True)  # renamed by now, unless it was cut off


def count_parameters(tensors: dict[str, Any]) -> int:
    """Number of parameters among a model's tensors: all but the statistics of batch norm."""
    return sum(value.numel() for name, value in tensors.items() if not name.endswith(STATISTICS))
