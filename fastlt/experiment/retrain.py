"""Stage 2 on images instead of stored features: trains classifiers and parts of the backbone (paper section 4.1)."""

import contextlib
import copy
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from fastlt.core.config import assemble, changed
from fastlt.core.errors import UserError
from fastlt.core.identity import Identity
from fastlt.core.ranks import ALONE, Ranks
from fastlt.core.schedule import Schedule
from fastlt.data.pipeline.loader import Loader
from fastlt.data.plan import Augment
from fastlt.experiment.config import BN, TrainConfig
from fastlt.longtail.sampler import Order, Sampler
from fastlt.models.backbones import Model, freeze, freeze_before, last_block, thaw
from fastlt.stage2.classifiers import IMAGE_CLASSIFIERS
from fastlt.stage2.classifiers.base import Stage2, Training
from fastlt.training.compute import ComputeConfig
from fastlt.training.recipe import Recipe
from fastlt.training.representation import EVERY_EPOCH, CheckpointPolicy, Representation, train_representation
from fastlt.training.trainer import Stage, Trainer

SLOW = 0.1  # factor on the learning rate of the backbone in retrain_all_slow


@dataclass(frozen=True)
class Retraining(ComputeConfig):
    """One training of stage 2 on images, with class-balanced sampling and the augmentation of stage 1.

    name: one of IMAGE_CLASSIFIERS. Each starts from the finished representation, and all but lws_images with a newly
        initialized linear classifier. In quotes, the rows of the paper's table of retrained parts:
        - crt_images trains the classifier ("C").
        - lws_images trains one scale for each class's scores of the joint classifier, starting from 1.
        - retrain_all trains backbone and classifier ("B+C").
        - retrain_all_slow does so with a tenth of the learning rate for the backbone. The table only says "B+C (0.1 x
          lr)"; we assume that the new classifier has the full learning rate, as in "C".
        - retrain_last trains the last block of the backbone and the classifier ("LB+C").
    stage2: its `lws` holds the settings for lws_images and its `crt` those for the others; `seeds` and `hidden` are not
        used.
    bn: mode of the layers that are not trained: `frozen` (eval mode), or `train`, where BatchNorm normalizes by the
        statistics of the batch and its running statistics drift, as in the paper's code. Layers that are trained are
        always in training mode.
    seed: of the new classifier and the sampling.

    Raises UserError if name or bn is unknown, or if there are several learning rates or weight decays to choose from.
    """

    name: str
    stage2: Stage2
    bn: str = "frozen"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name not in IMAGE_CLASSIFIERS:
            raise UserError(f"{self.name} is not trained on images: allowed are {', '.join(IMAGE_CLASSIFIERS)}")
        if self.bn not in BN:
            raise UserError(f"bn={self.bn} is unknown: allowed are {', '.join(BN)}")
        for key in ("lr", "weight_decay"):
            values = getattr(self.stage2, key)
            if values is not None and len(values) != 1:
                raise UserError(f"stage2.{key}={list(values)}: image mode trains one setting, give one value")

    @property
    def section(self) -> str:
        """Returns the name of the field of `stage2` with the settings of this training, `crt` or `lws`."""
        return "lws" if self.name == "lws_images" else "crt"

    @property
    def training(self) -> Training:
        """Returns epochs, batch size, learning rate and weight decay of this training."""
        training = getattr(self.stage2, self.section)
        (lr,), (decay,) = self.stage2.rates(training), self.stage2.decays(training)
        return replace(training, lr=lr, weight_decay=decay)

    @property
    def keeps_backbone(self) -> bool:
        """Returns whether the training leaves the backbone, and so the features of the representation, unchanged."""
        return self.name in ("crt_images", "lws_images") and self.bn == "frozen"

    @property
    def schedule(self) -> Schedule:
        """Returns the learning rate schedule."""
        return self.training.schedule(self.stage2.stepped)

    def batch_of_a_rank(self, world: int, images: int) -> int:
        """Returns how many images each of `world` ranks loads at once.

        images: number of training images. Raises UserError if the batch is larger than that, or is not a multiple of
        the number of ranks times `accumulate`.
        """
        batch, parts = self.training.batch, world * self.accumulate
        if batch > images:
            raise UserError(
                f"protocol.{self.section}.batch={batch} is larger than the number of training images ({images}): "
                "choose a smaller one"
            )
        if batch % parts:
            raise UserError(
                f"protocol.{self.section}.batch={batch} cannot be shared out to {world} ranks in {self.accumulate} "
                f"parts: choose a multiple of {parts}"
            )
        return batch // parts


def retrainings(config: TrainConfig) -> dict[str, Retraining]:
    """Returns, by name, the trainings of those classifiers of an experiment that are trained on images."""
    names = [name for name in config.classifier_names if name in IMAGE_CLASSIFIERS]
    return {name: assemble(Retraining, config, name=name, stage2=config.trainings) for name in names}


class Loaders(Protocol):
    """The methods of an experiment's loaders that this module uses.

    augment: the augmentation of training images. train: returns a loader of batches with `batch` images for each rank.
    evaluation: returns a loader of each of these samples of a split once.
    """

    augment: Augment

    def train(self, order: Order, batch: int) -> Loader: ...

    def evaluation(self, split: str, ids: np.ndarray) -> Loader: ...


class Choose(NamedTuple):
    """The samples on which the best epoch is chosen.

    name: `val`, `held_out` or another value of choose_on. split: the split that contains them. ids: int64 [n].
    """

    name: str
    split: str
    ids: np.ndarray


def retrain(
    retraining: Retraining,
    representation: Representation,
    loaders: Loaders,
    members: np.ndarray,
    class_start: np.ndarray,
    folder: Path,
    policy: CheckpointPolicy = EVERY_EPOCH,
    ranks: Ranks = ALONE,
    choose: Choose | None = None,
) -> Representation:
    """Trains a classifier on images and returns the model, as a representation with a linear classifier.

    The weights are those of the last epoch or, with stage2.keep=best, of the epoch that is best on the samples of
    `choose`. The scales of lws_images are multiplied into the linear classifier.

    retraining: what is trained and how.
    representation: the finished stage 1, which is not changed.
    members, class_start: ids of the training images by class, as in Sampler.
    folder: a folder of its own for this training's checkpoint.pt. As with `train_representation`, an interrupted
        training is resumed and a finished one is reused.
    policy: when checkpoints are written.
    choose: the samples for stage2.keep=best.

    All ranks must call this. Raises what `train_representation` raises, and UserError if the batch does not fit the
    number of images and ranks.
    """
    order = Sampler(
        members, class_start, "class", retraining.seed, retraining.training.epochs, retraining.stage2.drawing
    )
    model = _begin(retraining, representation.model)
    stage = Stage(
        retraining.name,
        "stage2.lr",
        {"backbone": SLOW} if retraining.name == "retrain_all_slow" else {},
        _folded_state if retraining.name == "lws_images" else Model.state_dict,
        choose.name if choose else "",
        f"protocol.{retraining.section}.batch",
    )
    with contextlib.ExitStack() as stack:
        train = stack.enter_context(loaders.train(order, retraining.batch_of_a_rank(ranks.world, len(order))))
        kept = choose if retraining.stage2.keep == "best" else None
        settings = _settings(retraining, representation, loaders.augment, order, train, kept)
        val = None
        if kept is not None:
            val = stack.enter_context(loaders.evaluation(kept.split, kept.ids[ranks.rank :: ranks.world]))
        fit = Trainer(model, retraining.schedule, Recipe(), train, val, retraining.seed, retraining, ranks, stage)
        done = train_representation(settings, fit, folder, policy)
    if retraining.name == "lws_images":
        done.model.classifier = _scaled(done.model).folded()
    return done


def _settings(
    retraining: Retraining,
    representation: Representation,
    augment: Augment,
    order: Sampler,
    train: Loader,
    kept: Choose | None,
) -> Identity:
    """Returns the settings that determine the training. The model is rebuilt from its `backbone` and `image_size`."""
    training, name, read = retraining.training, retraining.name, train.state_dict()
    used = {"accumulate", "stage2.drawing", "stage2.stepped"}
    used |= set() if name in ("retrain_all", "retrain_all_slow") else {"bn"}  # these two train all layers
    used |= {"stage2.scale_bias"} if name == "lws_images" else set()
    crops = changed(augment)
    crops.pop("crop_pct", None)  # concerns evaluation only
    options = representation.model.backbone_options
    about: dict[str, Any] = {
        "retrained": name,
        "representation": representation.key,
        "dataset": read["dataset"],
        "train_images": zlib.crc32(order.members.tobytes()),
        "backbone": representation.model.backbone_name,
        "sampler": order.law,
        "seed": retraining.seed,
        "crop_seed": read["seed"],
        "precision": retraining.precision,
        **changed(training),
        **crops,
        **({"backbone.options": options} if options else {}),
        **{key: value for key, value in changed(retraining).items() if key in used},
    }
    if kept is not None:
        about["stage2.keep"] = f"best on {kept.name}"
    return Identity(about)


def _begin(retraining: Retraining, finished: Model) -> Model:
    """Returns a copy of the finished model, prepared for the training: its classifier replaced, and layers frozen."""
    model = copy.deepcopy(finished)
    thaw(model)
    model.classifier_kind = "linear"
    if retraining.name == "lws_images":
        joint = finished.classifier
        model.classifier = ScaledLinear(joint.weight, joint.bias, retraining.stage2.scale_bias)  # type: ignore[assignment]
    else:
        classes, length = finished.classifier.weight.shape
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(retraining.seed)
            model.classifier = nn.Linear(length, classes).to(finished.classifier.weight.device)
    if retraining.name in ("crt_images", "lws_images"):
        freeze(model)
    elif retraining.name == "retrain_last":
        freeze_before(model, last_block(model))
        for parameter in model.backbone.parameters(recurse=False):  # parameters outside all blocks
            parameter.requires_grad_(False)
    if retraining.bn == "train":
        model.frozen = ()
    return model


class ScaledLinear(nn.Module):
    """A linear layer with fixed W [C, D] and b [C], and one learned scale per class, s [C], initialized to 1.

    Its scores are s (W x + b) or, with scale_bias=False, s W x + b. weight and bias are copied; a bias of None becomes
    zeros. When it loads a state dict without scales, whose weights are already scaled, the scales are set to 1.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, scale_bias: bool):
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros_like(weight[:, 0]), requires_grad=False)
        if bias is not None:
            self.bias.copy_(bias.detach())
        self.scale = nn.Parameter(torch.ones_like(self.bias))
        self.scale_bias = scale_bias
        self.register_load_state_dict_pre_hook(_unscaled)

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits [N, C] of features [N, D]."""
        if self.scale_bias:
            return nn.functional.linear(x, self.weight, self.bias) * self.scale
        return nn.functional.linear(x, self.weight) * self.scale + self.bias

    @torch.no_grad()
    def folded(self) -> nn.Linear:
        """Returns an nn.Linear that gives the same scores, with the scales multiplied into its weights and bias."""
        classes, length = self.weight.shape
        linear: Any = skip_init(nn.Linear, length, classes, device=self.weight.device)
        linear.weight.copy_(self.weight * self.scale[:, None])
        linear.bias.copy_(self.bias * self.scale if self.scale_bias else self.bias)
        return linear


def _unscaled(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    state.setdefault(f"{prefix}scale", torch.ones_like(state[f"{prefix}bias"]))


def _scaled(model: Model) -> ScaledLinear:
    assert isinstance(model.classifier, ScaledLinear)
    return model.classifier


def _folded_state(model: Model) -> dict[str, Any]:
    """Returns the state dict of the model with the scales multiplied into its classifier."""
    backbone = {name: value for name, value in model.state_dict().items() if name.startswith("backbone.")}
    folded = _scaled(model).folded().state_dict()
    return backbone | {f"classifier.{name}": value for name, value in folded.items()}
