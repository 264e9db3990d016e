"""The configuration of an experiment: all keys of `python -m fastlt.train`, their types and meanings.

Most keys are declared as fields of the components that use them, whose dataclasses are combined here. The values of
protocols and of other named parts are in conf/.
"""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from omegaconf import II

from fastlt.core.checks import wrong_channels
from fastlt.core.config import RUN, STAGE_2, assemble
from fastlt.core.errors import UserError
from fastlt.core.schedule import Schedule
from fastlt.core.structured import register
from fastlt.data.plan import Augment
from fastlt.data.shards.reader import Dataset
from fastlt.longtail.sampler import SamplerConfig
from fastlt.models.backbones import BackboneConfig
from fastlt.registry import is_own
from fastlt.stage2.classifiers import CLASSIFIERS, IMAGE_CLASSIFIERS, NEED_LINEAR, SETS, find_classifier
from fastlt.stage2.classifiers.base import Stage2, Stage2Config, Training
from fastlt.stage2.estimators.scale import fixed_scale
from fastlt.stage2.features import DTYPES
from fastlt.training.compute import ComputeConfig
from fastlt.training.recipe import Recipe
from fastlt.training.representation import CheckpointPolicy

BN = ("frozen", "train")
CHOOSE_ON = ("auto", "val", "held_out", "folds", "none", "train", "test")
MODES = ("features", "images")
# Keys whose value may be package.module:NAME of a user's own part.
PARTS = ("sampler", "backbone", *(f"protocol.{kind}" for kind in ("loss", "optimizer", "batch_hook", "image_hook")))


@dataclass(frozen=True, kw_only=True)
class ProtocolConfig(Recipe, Augment, Schedule):
    """The settings by which a paper trains on a dataset, under one name: conf/protocol/NAME.yaml."""

    name: str  # of the file in conf/protocol
    backbone: str  # backbone that is used if the user names none
    batch: int  # images of a step, over all ranks
    flip: bool = True  # mirror training images at random
    mean: tuple[float, ...] | None = None  # mean of RGB in 0..1 for normalization; default: the dataset's
    std: tuple[float, ...] | None = None  # standard deviation, as mean
    lr_batch: int = 0  # batch size that lr is meant for; lr is scaled linearly to the actual one; 0: it is not scaled
    # Initial weights of the backbone: true (those published for it), torchvision, local-dir:DIR, hf-hub:NAME, a file,
    # or a run folder.
    pretrained: str | None = None
    train_from: str | None = None  # first layer of the backbone that is trained, such as layer4; earlier ones are fixed
    crt: Training = field(metadata=STAGE_2)  # training of classifiers with new weights, such as crt
    lws: Training = field(metadata=STAGE_2)  # training of classifiers that scale the joint one, such as lws

    def __post_init__(self) -> None:
        for part in (Schedule, Augment, Recipe):
            part.__post_init__(self)
        if self.batch < 1 or self.lr_batch < 0:
            raise UserError(
                f"batch={self.batch}, lr_batch={self.lr_batch}: the first must be at least 1, the second 0 "
                "(off) or more"
            )
        if (self.mean is None) != (self.std is None):
            raise UserError(
                f"mean={_plain(self.mean)}, protocol.std={_plain(self.std)}: give both or neither (the dataset's)"
            )
        if self.mean is not None and (problem := wrong_channels(self.mean, self.std)):
            raise UserError(f"{problem}: they are of pixel values divided by 255")


def _plain(numbers: tuple[float, ...] | None) -> list[float] | None:
    return None if numbers is None else list(numbers)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(CheckpointPolicy, ComputeConfig):
    """All keys of `python -m fastlt.train`."""

    data: str = field(metadata=RUN)  # folder of a converted dataset
    # Features of another network instead of data and stage 1: a .npz, .h5 or .parquet file, or a folder of .npy files.
    features: str | None = field(default=None, metadata=RUN)
    # Divisor of these features, or of those of a backbone that is not trained (epochs=0): rms (their root mean square
    # on train), none, or a number. For a backbone it is rounded to the nearest power of two.
    feature_scale: str = field(default="rms", metadata=STAGE_2)
    run: str | None = field(default=None, metadata=RUN)  # run folder; default: below runs/, named after the settings
    backbone: BackboneConfig
    sampler: SamplerConfig
    protocol: ProtocolConfig
    seed: int = 0  # of initial weights, sampling and augmentation
    epochs: int = II("protocol.epochs")  # of stage 1; 0: the backbone is not trained
    image_size: int = II("protocol.image_size")  # side of the square input in pixels
    representation: str | None = field(default=None, metadata=STAGE_2)  # checkpoint or run folder instead of stage 1
    # Names of classifiers, or of the sets `paper` and `all`.
    classifiers: tuple[str, ...] = field(default=("paper",), metadata=STAGE_2)
    stage2: Stage2Config = field(metadata=STAGE_2)
    # features: train crt and lws on stored features; images: train them on augmented images.
    mode: str = field(default="features", metadata=STAGE_2)
    # Mode of the BatchNorm layers of a fixed backbone while stage 2 trains on images: frozen (eval) or train.
    bn: str = field(default="frozen", metadata=STAGE_2)
    # Passes over the augmented training images, whose features are stored and trained on as well.
    augmented_passes: int = field(default=0, metadata=STAGE_2)
    feature_dtype: str = field(default="float32", metadata=STAGE_2)  # of the feature store: float32 or float16
    hold_out: float = 0.0  # share of the training images held out to choose hyperparameters on
    # What hyperparameters are chosen on: held_out, val, folds, none, train or test; auto: the first that exists.
    choose_on: str = field(default="auto", metadata=STAGE_2)
    device: str = field(default="auto", metadata=RUN)  # cpu, cuda, cuda:N, or auto: a GPU if there is one
    threads: int = field(default=0, metadata=RUN)  # CPU threads; 0: one per core
    # How many training images may be found damaged; each is replaced by another image of its class.
    max_damaged: int = field(default=10, metadata=RUN)
    precision: str = "auto"  # fp32 or bf16; auto: bf16 on a GPU, and on a CPU if it is at least 1.2 times as fast

    def __post_init__(self) -> None:
        CheckpointPolicy.__post_init__(self)
        ComputeConfig.__post_init__(self)
        if not self.classifiers:
            raise UserError(
                f"classifiers=[]: name one or more of {', '.join((*SETS, *CLASSIFIERS, *IMAGE_CLASSIFIERS))}"
            )
        for name in self.classifier_names:
            find_classifier(name, self.stage2.options_of(name) if is_own(name) else None)
        self.check_classifiers(self.head_kind)
        allowed = {"mode": MODES, "bn": BN, "feature_dtype": DTYPES, "choose_on": CHOOSE_ON}
        for key, values in allowed.items():
            if getattr(self, key) not in values:
                raise UserError(f"{key}={getattr(self, key)} is unknown: allowed are {', '.join(values)}")
        if self.threads < 0:
            raise UserError(f"threads={self.threads}: it must be 0 (one per core) or more")
        for key in ("augmented_passes", "seed", "max_damaged"):
            if getattr(self, key) < 0:
                raise UserError(f"{key}={getattr(self, key)}: it must be 0 or more")
        try:
            fixed_scale(self.feature_scale)
        except UserError as error:
            raise UserError(f"feature_{error}") from None
        # Constructing these checks them, so that an error is raised before anything is read or written.
        assert self.schedule and self.augment and self.trainings

    @property
    def head_kind(self) -> str:
        """The kind of joint classifier that stage 1 trains; `linear` where it is given or trained on features."""
        return "linear" if self.representation or self.epochs == 0 else self.protocol.head_kind

    @property
    def classifier_names(self) -> list[str]:
        """Returns the names of the requested classifiers, each once.

        Sets are replaced by their members, without those that need a linear joint classifier if there is none; with
        mode=images, crt and lws are replaced by crt_images and lws_images.
        """
        return self._spelled(self.head_kind)

    def with_classifiers_for(self, kind: str) -> "TrainConfig":
        """Returns the configuration with the classifiers that a given joint classifier allows.

        kind: of the joint classifier, a key of JOINT.

        Raises UserError if one of the others was asked for by its name.
        """
        self.check_classifiers(kind)
        return self if kind == "linear" else replace(self, classifiers=tuple(self._spelled(kind)))

    def check_classifiers(self, kind: str) -> None:
        """Raises UserError for a classifier that was asked for by name and needs another kind of joint classifier."""
        named = [name for name in self.classifiers if name in NEED_LINEAR]
        if kind != "linear" and named:
            raise UserError(
                f"classifiers: {named[0]} is made from a linear joint classifier, and this one compares by cosine "
                f"(protocol.head={kind}): leave it out"
            )

    def _spelled(self, kind: str) -> list[str]:
        left_out = NEED_LINEAR if kind != "linear" else ()
        sets = {name: [one for one in members if one not in left_out] for name, members in SETS.items()}
        spelled = [name for asked in self.classifiers for name in sets.get(asked, (asked,))]
        images = {"crt": "crt_images", "lws": "lws_images"} if self.mode == "images" else {}
        return list(dict.fromkeys(images.get(name, name) for name in spelled))

    @property
    def schedule(self) -> Schedule:
        """Returns the learning rate schedule of stage 1.

        If `epochs` differs from the protocol's, the milestones are moved in proportion.
        """
        protocol = self.protocol
        moved = [round(epoch * self.epochs / protocol.epochs) for epoch in protocol.milestones]
        milestones = tuple(milestone for milestone in dict.fromkeys(moved) if milestone)
        lr = protocol.lr * (protocol.batch / protocol.lr_batch if protocol.lr_batch else 1)
        return assemble(Schedule, protocol, epochs=self.epochs, lr=lr, milestones=milestones)

    @property
    def augment(self) -> Augment:
        """Returns the augmentation of training images."""
        return assemble(Augment, self.protocol, image_size=self.image_size)

    @property
    def trainings(self) -> Stage2:
        """Returns the settings by which classifiers are trained."""
        return assemble(Stage2, self.stage2, self.protocol)

    @property
    def joint_training(self) -> dict[str, Any]:
        """Returns how a joint classifier is trained on features that have none, as settings for an Identity.

        The settings are those of crt; of several learning rates or weight decays the first is taken.
        """
        crt, stage2 = self.protocol.crt, self.trainings
        rate, decay = stage2.rates(crt)[0], stage2.decays(crt)[0]
        return {"joint": asdict(stage2.crt), "rate": rate, "decay": decay, "stepped": stage2.stepped}

    def normalization(self, dataset: Dataset) -> dict[str, list[float]]:
        """Returns the `mean` and `std` of RGB in 0..1 for normalization: the protocol's, or else the dataset's."""
        return {name: list(getattr(self.protocol, name) or dataset.about[name]) for name in ("mean", "std")}


register("train", TrainConfig)
