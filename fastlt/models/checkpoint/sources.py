"""Finds the file of pretrained weights that protocol.pretrained names, and downloads it if necessary."""

import contextlib
import hashlib
import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastlt.core.errors import UserError
from fastlt.core.torch_file import reason
from fastlt.models.checkpoint.read import checkpoint_path
from fastlt.models.libraries import default_weights, import_library, published, timm_arguments
from fastlt.registry import find_part, is_own, library_of

PUBLISHED = "true"  # value of protocol.pretrained for the weights that are published for the backbone
TORCHVISION = "torchvision"  # value for torchvision's weights IMAGENET1K_V1 of the paper's networks
LOCAL, HUB = "local-dir:", "hf-hub:"
FILES = ("model.safetensors", "pytorch_model.bin")  # names of the weights in a folder in timm's layout, or on the Hub
# Backbones for which torchvision publishes ImageNet weights, and its names for them.
THEIRS = {
    "resnet18": "resnet18",
    "resnet50": "resnet50",
    "resnet101": "resnet101",
    "resnet152": "resnet152",
    "resnext50": "resnext50_32x4d",
}


def weights_file(backbone: str, source: str) -> Path:
    """Returns the path of the file of weights that protocol.pretrained names, after downloading it if necessary.

    backbone: its name, as in `build_backbone`.
    source: the value of protocol.pretrained.
        - `true`: the weights that are published for this backbone. For networks of timm and torchvision these are
          downloaded once, into the cache folders of these packages; for an own backbone it is the `file` of the
          `default_cfg` of its factory.
        - `torchvision`: torchvision's weights for one of fastlt's own backbones.
        - `local-dir:DIR`: a folder in timm's layout.
        - `hf-hub:OWNER/NAME[@REVISION]`: such a folder on the Hugging Face Hub.
        - Anything else: a file that `read_weights` reads, or a run folder.

    Raises UserError, in one line, if there is no such file or it cannot be downloaded.
    """
    if source == TORCHVISION or (source == PUBLISHED and library_of(backbone) != "timm" and not is_own(backbone)):
        return _downloaded(of_torchvision(backbone, source).url, source)
    if source == PUBLISHED:
        return _named(backbone, source)
    if source.startswith(LOCAL):
        folder = Path(source.removeprefix(LOCAL))
        found = next((folder / name for name in FILES if (folder / name).is_file()), None)
        if found is None:
            raise UserError(f"protocol.pretrained={source}: {folder} holds none of {', '.join(FILES)}")
        return found
    if source.startswith(HUB):
        return _of_hub(source.removeprefix(HUB), FILES, source)
    return checkpoint_path(Path(source))


def _named(backbone: str, source: str) -> Path:
    """Returns the file that the pretrained_cfg of a network of timm, or the default_cfg of an own one, names."""
    cfg = getattr(find_part("backbone", backbone, {}), "default_cfg", {}) if is_own(backbone) else published(backbone)
    if cfg.get("file"):
        return Path(cfg["file"])
    if cfg.get("hf_hub_id"):
        return _of_hub(cfg["hf_hub_id"], (cfg["hf_hub_filename"],) if cfg.get("hf_hub_filename") else FILES, source)
    if cfg.get("url"):
        return _downloaded(cfg["url"], source)
    raise UserError(
        f"protocol.pretrained={source}: no weights are published for backbone={backbone}: give a file, "
        "protocol.pretrained=FILE"
    )


def of_torchvision(backbone: str, source: str) -> Any:
    """Returns torchvision's entry for its weights of a backbone. Raises UserError if it publishes none."""
    if library_of(backbone) == "torchvision":
        return default_weights(backbone)
    if backbone not in THEIRS:
        raise UserError(
            f"protocol.pretrained={source}: torchvision publishes no weights of backbone={backbone}, only of "
            f"{', '.join(THEIRS)} and its own, torchvision:NAME: choose one of these, or protocol.pretrained=FILE"
        )
    from torchvision.models import get_model_weights

    return get_model_weights(THEIRS[backbone])["IMAGENET1K_V1"]


def file_digest(path: Path) -> str:
    """Returns the SHA-256 of a file as hexadecimal digits. Raises UserError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give a file of weights") from error


def _downloaded(url: str, source: str) -> Path:
    """Returns the path of a published file in torch's folder of checkpoints, after downloading it if necessary."""
    # As in torchvision, except that an earlier download is checked again: its name ends in the start of its SHA-256.
    name = url.rpartition("/")[2]
    digest, path = name.rpartition("-")[2].partition(".")[0], Path(torch.hub.get_dir(), "checkpoints", name)
    told = "-" in name and len(digest) >= 8
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.redirect_stdout(sys.stderr):  # torch prints what it downloads, but stdout is for results
                how = {"progress": sys.stderr.isatty()}
                torch.hub.download_url_to_file(url, str(path), digest if told else None, **how)
    except Exception as error:  # without a network or disk space, many kinds of exceptions are raised
        raise UserError(
            f"protocol.pretrained={source}: {url} cannot be had ({reason(error)}): check the "
            f"network, put that file into {path.parent}, or give a file, protocol.pretrained=FILE"
        ) from error
    if told and not file_digest(path).startswith(digest):
        raise UserError(
            f"protocol.pretrained={source}: {path} is damaged: its SHA-256 does not begin as its name ends: delete it, "
            "it is downloaded again"
        )
    return path


def _of_hub(name: str, files: tuple[str, ...], source: str) -> Path:
    """Returns the path of a file of a model on the Hugging Face Hub in the cache of huggingface_hub.

    name: OWNER/NAME, perhaps with @REVISION. files: names of files; the first one that exists is taken.
    """
    try:
        hub = importlib.import_module("huggingface_hub")
        errors = importlib.import_module("huggingface_hub.errors")
    except ImportError:
        raise UserError(
            f"protocol.pretrained={source} needs the package huggingface_hub: pip install 'fastlt[timm]'"
        ) from None
    place, _, revision = name.partition("@")
    failed = None
    try:
        for file in files:
            # Without a network, which is waited for once, a file may still be in the cache.
            how = {"local_files_only": True} if failed else {}
            try:
                return Path(hub.hf_hub_download(place, file, revision=revision or None, **how))
            except errors.LocalEntryNotFoundError as error:  # there is no network, and the file is not in the cache
                failed = failed or error
            except errors.EntryNotFoundError:
                continue
        if failed:
            raise failed
    except Exception as error:  # the package and the network raise many kinds of exceptions
        raise UserError(
            f"protocol.pretrained={source}: {place} cannot be had from the Hugging Face Hub ({reason(error)}): check "
            "name and network, or give a file, protocol.pretrained=FILE"
        ) from error
    raise UserError(f"protocol.pretrained={source}: {place} holds none of {', '.join(files)}")


def read_published(name: str, path: Path, image_size: int, options: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns the state dict of a backbone of timm with its published weights, read from their file.

    timm itself loads the file, because it renames and reshapes the tensors of older files, and resamples the position
    embeddings of a transformer for images of another size. image_size, options: of the backbone.

    Raises UserError if the file does not fit.
    """
    timm = import_library(name)
    wanted = name.partition(":")[2]
    made = {**timm_arguments(wanted, image_size), **options}
    made |= {"pretrained": True, "pretrained_cfg_overlay": {"file": str(path)}}
    try:
        with torch.random.fork_rng(devices=[]):
            return timm.create_model(wanted, **made).state_dict()
    except Exception as error:
        raise UserError(
            f"protocol.pretrained={PUBLISHED}: {path} does not fit backbone={name} ({reason(error)})"
        ) from error
