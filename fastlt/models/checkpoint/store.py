"""Imports weights of other projects as checkpoints of fastlt, loads checkpoints as models, and exports them."""

import errno
import json
import os
import re
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from fastlt import __version__
from fastlt.core.checkpoint import finished_state
from fastlt.core.errors import UserError
from fastlt.core.files import replacing
from fastlt.core.identity import Identity
from fastlt.core.log import say
from fastlt.core.torch_file import reason, write_torch_file
from fastlt.models.backbones import BACKBONES, IMAGE_SIZE, Model, build_backbone, build_model
from fastlt.models.checkpoint.networks import seems
from fastlt.models.checkpoint.pretrained import closest, fill, identify, misfit, shapes
from fastlt.models.checkpoint.read import KIND_OURS, classifier_kind, open_checkpoint, read_weights
from fastlt.models.checkpoint.sources import file_digest
from fastlt.registry import is_own

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # buffers of batch norm, which are not parameters


def import_weights(
    path: Path, backbone: str | None = None, image_size: int = IMAGE_SIZE, classifier: str | None = None
) -> tuple[dict[str, Any], str]:
    """Makes the state of a finished checkpoint of fastlt from a file of weights.

    Returns the state, and in words what the file is.

    backbone: as in `build_backbone`; None finds it by the shapes of the tensors. An own backbone must be named, because
        its code is run.
    image_size: side in pixels of the images on which an own backbone is tried.
    classifier: as in `read_weights`.

    Raises UserError if the file cannot be read, lacks a classifier, or does not fit the backbone.
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
    if name not in BACKBONES:
        about["image_size"] = image_size
    return finished_state(Identity(about), model.classifier_kind, model.state_dict()), weights.kind


def _names(backbone: str, image_size: int) -> dict[str, Any]:
    return shapes(backbone) if backbone in BACKBONES else build_backbone(backbone, image_size)[0].state_dict()


def load_model(path: Path, backbone: str | None = None) -> tuple[Model, dict[str, Any]]:
    """Returns the model of a finished checkpoint of fastlt, in eval mode on the CPU, and the state of the checkpoint.

    path: a file, or a run folder. backbone: the expected backbone; None allows any except a user's own.

    Raises UserError if the checkpoint is unfinished or of another backbone. A user's own backbone must be named in
    `backbone`, because its code is run.
    """
    state = open_checkpoint(path)
    name = str(state["settings"].get("backbone"))
    if backbone is not None and backbone != name:
        raise UserError(f"{path} holds backbone={name}, asked for is backbone={backbone}: choose another of the two")
    if backbone is None and is_own(name):
        raise UserError(f"{path} holds the backbone {name}: ask for it by name, because its code then runs")
    if not state.get("finished", False):
        raise UserError(f"{path} is not finished, it stands after epoch {state['epoch']}: train it to its end first")
    size = state["settings"].get("image_size", IMAGE_SIZE)
    classes, options = len(state["model"]["classifier.weight"]), state["settings"].get("backbone.options")
    model = build_model(name, classes, 0, size, classifier_kind(state), options=options)
    fill(model, state["model"], str(path), f"backbone={name}")
    return model.eval(), state


def export(path: Path, out: Path, overwrite: bool = False) -> dict[str, str]:
    """Writes the model of a checkpoint of fastlt atomically as a .safetensors file and returns the file's metadata.

    The names of the tensors are torchvision's: the backbone's own, and fc.weight and fc.bias for the classifier. A
    classifier that compares by cosine has no fc.bias, and the metadata has classifier=cosine.

    Raises UserError if `path` is not a checkpoint of fastlt, or if `out` exists and `overwrite` is not set.
    """
    if out.suffix != ".safetensors":
        raise UserError(f"--out={out}: the name must end in .safetensors")
    check_place(out, path, overwrite)
    state = open_checkpoint(path)
    if not state.get("finished", False):
        say(f"{path} is not finished: exporting it as it stands after epoch {state['epoch']}")
    tensors: dict[str, Tensor] = {}
    for name, value in state["model"].items():
        plain = name.removeprefix("backbone.") if name.startswith("backbone.") else name.replace("classifier.", "fc.")
        if plain in tensors:
            raise UserError(f"{path}: the backbone has a {plain} of its own, the classifier's name: rename it there")
        # Copied, because the format refuses tensors that share memory.
        tensors[plain] = value.detach().clone().contiguous()
    metadata = {
        "format": "pt",
        "fastlt": __version__,
        "key": str(state["key"]),
        "backbone": str(state["settings"].get("backbone")),
        "classes": str(len(state["model"]["classifier.weight"])),
    }
    if classifier_kind(state) != "linear":
        metadata["classifier"] = "cosine"
    write_safetensors(tensors, metadata, out)
    return metadata


def write_safetensors(tensors: dict[str, Tensor], metadata: dict[str, str], out: Path) -> None:
    """Writes a .safetensors file atomically; the same tensors and metadata always give the same bytes.

    Raises NotWritten if the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with replacing(out, f"--out={out}") as temporary:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:  # the package raises this instead of the OSError of a failed write
            number = int(found[1]) if (found := re.search(r"os error (\d+)", str(error))) else errno.EIO
            raise OSError(number, os.strerror(number) if found else reason(error), str(out)) from error
        with temporary.open("r+b") as file:
            _sort_metadata(file)


def _sort_metadata(file: BinaryIO) -> None:
    """Sorts the metadata in the header of a .safetensors file, so that the same model always gives the same bytes.

    The package writes metadata in random order. A file has the length of the header in 8 bytes, the header as JSON, and
    the tensors.
    """
    length = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(length))
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    if len(text) <= length:  # the format allows spaces after the JSON
        file.seek(8)
        file.write(text.ljust(length))


def save_imported(state: dict[str, Any], out: Path) -> None:
    """Writes a checkpoint atomically. Raises UserError if it cannot be written."""
    write_torch_file(state, out, f"--out={out}")


def check_place(out: Path, source: Path, overwrite: bool) -> None:
    """Raises UserError if `out` is a folder, is `source`, or exists and `overwrite` is not set.

    It is called before the work, so that the work is not in vain.
    """
    if out.is_dir():
        raise UserError(f"--out={out} is a folder: give the name of a file in it")
    if out.exists() and source.exists() and out.samefile(source):
        raise UserError(f"--out={out} is the file that is read: choose another name")
    if out.exists() and not overwrite:
        raise UserError(f"--out={out} exists: choose another name, or add --overwrite")


def count_parameters(tensors: dict[str, Any]) -> int:
    """Returns the number of parameters in a model's state dict, which excludes the statistics of batch norm."""
    return sum(value.numel() for name, value in tensors.items() if not name.endswith(STATISTICS))
