"""What a predictor is given, as features: images through the backbone of a run, or features of another network."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from fastlt.core.errors import UserError
from fastlt.core.torch_file import Unreadable, read_torch_file
from fastlt.data.shards.encode import BadImage, Encoding, decode
from fastlt.experiment.results import NAME as RESULTS
from fastlt.experiment.results import Results
from fastlt.models.checkpoint.store import load_model
from fastlt.predict.images import Evaluation
from fastlt.registry import is_own

STAGE_1 = "checkpoint.pt"  # the checkpoint of the run's own representation
AGAIN = "give its training command again, which trains no representation anew"


class Inputs(Protocol):
    """Turns what a user gives into features.

    one: what one of them is called in messages, `image` or `row`. dim: the length D of a feature vector. scale: what
    features are divided by before the classifier.
    """

    one: str
    dim: int
    scale: float

    def input(self, given: Any, place: int) -> torch.Tensor:
        """Returns one of them as a tensor. Raises UserError for what is none. place: its position, for the message."""
        ...

    def raw(self, inputs: torch.Tensor) -> torch.Tensor:
        """Returns the features of a batch of tensors of `input`, [n, D], before they are scaled."""
        ...

    def scaled(self, raw: torch.Tensor) -> torch.Tensor:
        """Returns features as classifiers take them. raw: as `raw` returns them."""
        ...

    def facts(self) -> list[Any]:
        """Returns the plain values that features depend on."""
        ...

    def weights(self) -> Mapping[str, torch.Tensor]:
        """Returns the weights that features depend on, by name."""
        ...


class Images:
    """Images, whose features the backbone of a run computes.

    run, results: of the run. checkpoint: the path of the backbone, relative to `run` or absolute. device: where the
    backbone runs.

    Attributes: one, "image"; dim; evaluation, the preprocessing; backbone; backbone_options, those it was built with.
    """

    one = "image"

    def __init__(self, run: Path, results: Results, checkpoint: str, device: torch.device):
        self.evaluation = _evaluation(results)
        own = results.backbone if is_own(results.backbone) else None
        model, state = load_model(run / checkpoint, own)
        if checkpoint == STAGE_1 and state["key"] != results.key:
            raise UserError(f"{run / STAGE_1} is newer than {run / RESULTS}: {AGAIN}")
        self.backbone_options, self.dim = model.backbone_options, int(model.classifier.weight.shape[1])
        self.backbone = model.backbone.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._device = device
        # A classifier that was trained on images, with a backbone of its own, has features that were not scaled.
        self.scale: float = (results.feature_scale or 1.0) if checkpoint == STAGE_1 else 1.0
        # The precision is that of training on a GPU. On a CPU float32 is used, which is more exact than bfloat16 and
        # mostly faster.
        self._bf16 = device.type == "cuda" and state["settings"].get("precision") == "bf16"

    def input(self, given: np.ndarray | Image.Image | Path | str, place: int) -> torch.Tensor:
        """Preprocesses an image; returns float32 [size, size, 3]. place: its position, for error messages."""
        if isinstance(given, Path | str):
            loaded = self.evaluation.load(str(given))
            if isinstance(loaded, str):
                raise UserError(f"image {place}, {given}: {loaded}")
            return loaded
        pixels = given
        if isinstance(given, Image.Image):
            try:
                pixels = decode(given, self.evaluation.encoding)
            except BadImage as error:
                raise UserError(f"image {place}: {error}") from None
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            what = f"{pixels.dtype} {list(pixels.shape)}" if isinstance(pixels, np.ndarray) else type(given).__name__
            raise UserError(f"image {place} is {what}: allowed are uint8 arrays [H, W, 3], PIL images and paths")
        if not pixels.size:
            raise UserError(f"image {place} is empty, {list(pixels.shape)}: it must have pixels")
        return self.evaluation.input(np.ascontiguousarray(pixels))

    def raw(self, inputs: torch.Tensor) -> torch.Tensor:
        """Returns the features of images, float32 [n, D]. inputs: float32 [n, size, size, 3], as from `input`."""
        images = inputs.to(self._device).permute(0, 3, 1, 2)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            features = self.backbone(images)
        return features.float()

    def scaled(self, raw: torch.Tensor) -> torch.Tensor:
        return raw / self.scale

    def facts(self) -> list[Any]:
        return [self.scale, asdict(self.evaluation)]

    def weights(self) -> Mapping[str, torch.Tensor]:
        return self.backbone.state_dict()


class FeatureVectors:
    """Features of the network whose features the run was trained on.

    run, results: of the run. checkpoint: the path of its joint classifier, relative to `run`. device: where classifiers
    run.
    """

    one = "row"

    def __init__(self, run: Path, results: Results, checkpoint: str, device: torch.device):
        self.dim, self._device = _width(run / checkpoint, results.key), device
        self.scale: float = results.feature_scale or 1.0
        self._dtype = results.feature_dtype

    def input(self, given: Any, place: int) -> torch.Tensor:
        """Returns a feature vector, float64 [D]. given: D numbers. place: its position, for error messages."""
        try:
            row = torch.as_tensor(given).detach().cpu()
        except (TypeError, ValueError, RuntimeError):
            raise UserError(f"row {place} is {type(given).__name__}: allowed are {self.dim} numbers") from None
        if row.shape != (self.dim,) or row.dtype.is_complex:
            what = f"{str(row.dtype).removeprefix('torch.')} {list(row.shape)}"
            raise UserError(f"row {place} is {what}: allowed are {self.dim} numbers, [{self.dim}]")
        return row.double()

    def raw(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs.to(self._device)

    def scaled(self, raw: torch.Tensor) -> torch.Tensor:
        # As `GivenFeatures.write` stores them, so that the run's own features get the run's scores to the last bit.
        return (raw / self.scale).to(getattr(torch, self._dtype)).float()

    def facts(self) -> list[Any]:
        return [self.scale, self._dtype]

    def weights(self) -> Mapping[str, torch.Tensor]:
        return {}


def _width(path: Path, key: str) -> int:
    """Returns the length of a feature vector, from the file of the joint classifier. key: of the run."""
    try:
        state = read_torch_file(path)
    except Unreadable as error:
        raise UserError(f"{path} {error}; {AGAIN}") from None
    if not isinstance(state, dict) or state.get("key") != key:
        raise UserError(f"{path} is not of the training that {RESULTS} tells of; {AGAIN}")
    return int(state["weight"].shape[1])


def _evaluation(results: Results) -> Evaluation:
    seen = results.evaluation
    assert seen is not None and results.image_size is not None, "a run without images has FeatureVectors"
    stored = Encoding(
        seen.kind, seen.quality, seen.max_short_side, orientation=seen.orientation, background=seen.background
    )
    return Evaluation(results.image_size, seen.crop_pct, tuple(seen.mean), tuple(seen.std), stored, seen.interpolation)
