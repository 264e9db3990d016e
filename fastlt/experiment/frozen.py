"""Experiments with a backbone that is not trained (`epochs=0`): the joint classifier is trained on its features."""

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch

from fastlt.core import device as machine
from fastlt.core.checkpoint import finished_state, load_checkpoint, save_checkpoint
from fastlt.core.config import assemble, changed
from fastlt.core.errors import UserError
from fastlt.core.log import say
from fastlt.core.ranks import Ranks
from fastlt.data.shards.reader import Dataset
from fastlt.experiment.config import TrainConfig
from fastlt.experiment.identity import determined_by, features_determined_by
from fastlt.models.backbones import Model
from fastlt.stage2.classifiers import IMAGE_CLASSIFIERS
from fastlt.stage2.classifiers.base import Features
from fastlt.stage2.classifiers.joint import linear_layer, train_joint
from fastlt.stage2.estimators.scale import fixed_scale, scale_of
from fastlt.training.recipe import Recipe
from fastlt.training.representation import Representation, devices_of

# Keys below `protocol` that do nothing where the backbone is not trained.
OF_TRAINING = ("train_from", "label_smoothing", "drw.weights", "batch_hook", "views_per_image", "sam.rho", "swa.after")
OF_TRAINING += ("ema", "clip_norm", "layer_decay", "head_lr")


def check_frozen(config: TrainConfig) -> None:
    """Raises UserError, in one line, for settings that need a training of the backbone."""
    on_images = [name for name in config.classifier_names if name in IMAGE_CLASSIFIERS]
    if on_images:
        raise UserError(
            f"classifiers={on_images}: these train on images, and with epochs=0 there are only features: leave them "
            "out, or train with epochs=N"
        )
    protocol = config.protocol
    if protocol.loss != "cross_entropy":
        raise UserError(f"protocol.loss={protocol.loss}: with epochs=0 it is cross_entropy")
    if protocol.head not in ("auto", "linear"):
        raise UserError(f"protocol.head={protocol.head}: with epochs=0 it is linear")
    given = {"train_from": protocol.train_from, **changed(assemble(Recipe, protocol))}
    if protocol.views_per_image > 1:
        given["views_per_image"] = protocol.views_per_image
    for key in OF_TRAINING:
        if given.get(key) is not None:
            raise UserError(
                f"protocol.{key}={given[key]}: with epochs=0 the backbone is not trained: leave it out or train"
            )


def frozen_representation(
    dataset: Dataset,
    config: TrainConfig,
    folder: Path,
    begin: Callable[[], Model],
    train_features: Callable[[Representation], Features],
    begun: Callable[[], None],
    ranks: Ranks,
) -> Representation:
    """Returns the backbone with a joint classifier that is trained on its features, or read from the run folder.

    folder: the run folder, where it is stored as checkpoint.pt.
    begin: returns the model with its initial weights.
    train_features: returns the training features of a representation, divided by its `feature_scale`; it extracts them
        if they are not stored.
    begun: as in `train_representation`. ranks: all of them must call this; rank 0 trains the joint classifier.
    """
    identity, path = determined_by(config, dataset), folder / "checkpoint.pt"
    features_key = features_determined_by(config, dataset).key
    model = begin()
    state = None if config.overwrite else load_checkpoint(path, identity)
    begun()
    if ranks.tell(state is None):
        if not config.protocol.pretrained:
            say(
                f"backbone={config.backbone.name}: nothing is trained and protocol.pretrained is not given, so its "
                "weights are random, or those that a network of your own comes with"
            )
        start = time.monotonic()
        raw = train_features(Representation(model, identity.key, {}, 0, "", 0.0, 0, 1.0, features_key))
        if ranks.main:
            scale = power_of_two(config.feature_scale, raw.x)
            rows = Features(raw.x / scale, raw.labels)
            layer = train_joint(rows, dataset.classes, config.trainings, config.seed, config.sampler.name)
            # The weights are divided by the scale, so that the model takes features that are not. This is exact,
            # because the scale is a power of two.
            model.classifier = linear_layer(layer.weight.detach() / scale, layer.bias.detach())
            state = finished_state(
                identity,
                "linear",
                {name: value.cpu() for name, value in model.state_dict().items()},
                seconds=time.monotonic() - start,
                images=len(rows),
                devices=[machine.describe(raw.x.device, torch.get_num_threads())],
                feature_scale=scale,
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            save_checkpoint(state, path)
        ranks.wait()
    else:
        say(f"reusing the representation in {path}")
    state = state or load_checkpoint(path, identity)
    assert state is not None, f"rank 0 has written {path}"
    model.load_state_dict(state["model"])
    known = identity.about, 0, "as it came", state["seconds"], state["images"]
    scale = float(state["feature_scale"])
    return Representation(model.eval(), identity.key, *known, scale, features_key, devices=devices_of(state))


def power_of_two(asked: str, rows: torch.Tensor) -> float:
    """Returns the number that features are divided by, rounded to the nearest power of two.

    asked: the key feature_scale, as in `scale_of`. rows: features [N, D].

    Dividing features or weights by a power of two is exact.
    """
    fixed = fixed_scale(asked)
    return 2.0 ** round(math.log2(scale_of(asked, rows) if fixed is None else fixed))
