"""Stage 2 on images: classifiers, and parts of the backbone, trained through the pipeline (paper section 4.1)."""

import contextlib
import copy
import zlib
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from fastlt.core.errors import UserError
from fastlt.core.ranks import ALONE, Ranks
from fastlt.core.schedule import Schedule
from fastlt.core.settings import Settings
from fastlt.data.pipeline.loader import Loader
from fastlt.data.plan import Augment
from fastlt.longtail.sampler import Order, Sampler
from fastlt.models.backbones import Model, freeze, freeze_before, last_block, thaw
from fastlt.stage2.classifiers import IMAGE_CLASSIFIERS
from fastlt.stage2.classifiers.base import Stage2, Training
from fastlt.training.recipe import Recipe
from fastlt.training.representation import CheckpointPolicy, Representation, train_representation
from fastlt.training.trainer import Stage, Trainer

BN = ("frozen", "train")
SLOW = 0.1  # of the learning rate, for the backbone in retrain_all_slow


@dataclass(frozen=True)
class Retraining:
    """One training of stage 2 on images, with class-balanced sampling and stage 1's augmentation.

    name: one of IMAGE_CLASSIFIERS. They begin with the finished representation, and all but lws_images with a new
    linear classifier of this seed (the paper's table of retrained parts):
    - crt_images: the classifier is trained ("C"). lws_images: a scale of each class's joint scores, from 1.
    - retrain_all: everything ("B+C"). retrain_all_slow: everything, the backbone at a tenth of the learning rate. The
      table says "B+C (0.1 x lr)" and no more: we take it that a new classifier needs the whole rate, as in "C".
    - retrain_last: the backbone's last block, and the classifier ("LB+C").
    stage2: `lws` of it for lws_images, else `crt`; `seeds` and `hidden` do not count here. bn: what is not trained is
    in eval mode (frozen), or in training mode (train), where BatchNorm takes the statistics of the batch while its own
    drift, as in the authors' code. What is trained is always in training mode. accumulate, compile: as in Recipe.

    Raises UserError if name or bn is unknown, or if there are several learning rates or weight decays to choose from.
    """

    name: str
    stage2: Stage2
    bn: str = "frozen"
    seed: int = 0
    precision: str = "fp32"
    accumulate: int = 1
    compile: str = "off"

    def __post_init__(self) -> None:
        if self.name not in IMAGE_CLASSIFIERS:
            raise UserError(f"{self.name} is not trained on images: allowed are {', '.join(IMAGE_CLASSIFIERS)}")
        if self.bn not in BN:
            raise UserError(f"bn={self.bn} is unknown: allowed are {', '.join(BN)}")
        for key in ("lr", "weight_decay"):
            values = getattr(self.training, key)
            if len(values) != 1:
                raise UserError(f"stage2.{key}={list(values)}: image mode trains one setting, give one value")

    @property
    def section(self) -> str:
        """The part of `stage2` that it is trained by."""
        return "lws" if self.name == "lws_images" else "crt"

    @property
    def training(self) -> Training:
        """Epochs, batch, learning rate and weight decay."""
        return getattr(self.stage2, self.section)

    @property
    def keeps_backbone(self) -> bool:
        """Whether the features of the representation stay as they are."""
        return self.name in ("crt_images", "lws_images") and self.bn == "frozen"

    @property
    def schedule(self) -> Schedule:
        """Learning rates."""
        (lr,), (decay,) = self.training.lr, self.training.weight_decay
        return self.training.schedule(lr, decay, self.stage2.stepped)

    def batch_of_a_rank(self, world: int, images: int) -> int:
        """Images that one of `world` ranks loads at once. Raises UserError if the batch cannot be shared out, or there
        are fewer images."""
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


class Loaders(Protocol):
    """Where the images come from: `augment` is how `train` changes them; `batch` images are a rank's. evaluation: every
    one of these samples of a split once."""

    augment: Augment

    def train(self, order: Order, batch: int) -> Loader: ...

    def evaluation(self, split: str, ids: np.ndarray) -> Loader: ...


class Choose(NamedTuple):
    """Samples to choose on: what they are called (val, held_out), the split they are of, their ids."""

    name: str
    split: str
    ids: np.ndarray


def retrain(
    retraining: Retraining,
    representation: Representation,
    loaders: Loaders,
    members: np.ndarray,
    class_start: np.ndarray,
    keeping: CheckpointPolicy,
    ranks: Ranks = ALONE,
    choose: Choose | None = None,
) -> Representation:
    """The model of the last epoch, or with stage2.keep=best of the one that is best on the samples of `choose`: a
    backbone and a linear classifier, into which lws_images has folded its scales.

    members, class_start: training images as in Sampler. keeping: in a folder of this training's own, as
    `train_representation` keeps stage 1: it goes on where it was cut off, a finished one is reused, and its
    checkpoint.pt is one of a representation. All ranks take part. `representation` is left as it is.

    Raises what `train_representation` raises, and UserError if the batch does not fit images and ranks.
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
    )
    recipe = Recipe(accumulate=retraining.accumulate, compile=retraining.compile)
    with contextlib.ExitStack() as stack:
        train = stack.enter_context(loaders.train(order, retraining.batch_of_a_rank(ranks.world, len(order))))
        kept = choose if retraining.stage2.keep == "best" else None
        settings = _settings(retraining, representation, loaders.augment, order, train, kept)
        val = None
        if kept is not None:
            val = stack.enter_context(loaders.evaluation(kept.split, kept.ids[ranks.rank :: ranks.world]))
        numbers = retraining.seed, retraining.precision
        fit = Trainer(model, retraining.schedule, recipe, train, val, *numbers, ranks, stage)
        done = train_representation(settings, fit, keeping)
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
) -> Settings:
    """What determines the training; `backbone` and `image_size` also tell how to build the model again."""
    training, name, read = retraining.training, retraining.name, train.state_dict()
    crops = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(augment).items()}
    image_size = crops.pop("size")
    del crops["keep"]  # of evaluation
    crops = {key: value for key, value in crops.items() if value or not key.startswith("image_hook")}
    options = representation.model.backbone_options
    about: dict[str, Any] = {
        "retrained": name,
        "representation": representation.key,
        "dataset": read["dataset"],
        "train_images": zlib.crc32(order.members.tobytes()),
        "backbone": representation.model.backbone_name,
        "image_size": image_size,
        "sampler": order.law,
        "drawing": order.drawing,
        "seed": retraining.seed,
        "crop_seed": read["seed"],
        "precision": retraining.precision,
        "epochs": training.epochs,
        "batch": training.batch,
        "lr": training.lr[0],
        "weight_decay": training.weight_decay[0],
        "stepped": retraining.stage2.stepped,
        **crops,
        **training.further(),
        **({"backbone.options": options} if options else {}),
    }
    if name not in ("retrain_all", "retrain_all_slow"):  # which leave nothing frozen
        about["bn"] = retraining.bn
    if name == "lws_images":
        about["scale_bias"] = retraining.stage2.scale_bias
    if kept is not None:
        about["keep"] = f"best on {kept.name}"
    if retraining.accumulate != 1:
        about["accumulate"] = retraining.accumulate
    return Settings(about)


def _begin(retraining: Retraining, finished: Model) -> Model:
    """A copy of the finished model as the training begins with it: its classifier, and what is frozen."""
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
        for parameter in model.backbone.parameters(recurse=False):  # of no block
            parameter.requires_grad_(False)
    if retraining.bn == "train":
        model.frozen = ()
    return model


class ScaledLinear(nn.Module):
    """s (W x + b), or s W x + b: W [C, D] and b [C] stay, one scale per class is learned, from 1.

    weight, bias: are copied; zeros in the place of no bias. A state dict without scales is one of folded weights: with
    scales of 1 it gives the same scores.
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
        """Logits [N, C] of features [N, D]."""
        if self.scale_bias:
            return nn.functional.linear(x, self.weight, self.bias) * self.scale
        return nn.functional.linear(x, self.weight) * self.scale + self.bias

    @torch.no_grad()
    def folded(self) -> nn.Linear:
        """A linear classifier that gives the same scores."""
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
    """The state dict of the model with its scales folded in."""
    backbone = {name: value for name, value in model.state_dict().items() if name.startswith("backbone.")}
    folded = _scaled(model).folded().state_dict()
    return backbone | {f"classifier.{name}": value for name, value in folded.items()}
