"""What one experiment does, as plain values."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from fastlt.core.errors import UserError
from fastlt.core.schedule import Schedule
from fastlt.core.settings import Settings
from fastlt.data.shards.reader import Dataset
from fastlt.experiment.config import ProtocolConfig
from fastlt.experiment.retrain import BN, Retraining
from fastlt.longtail.sampler import by_quota
from fastlt.models.backbones import HEAD_STARTS
from fastlt.models.checkpoint.pretrained import pretrained_identity
from fastlt.registry import own_sources
from fastlt.stage2.classifiers import CLASSIFIERS, IMAGE_CLASSIFIERS, SETS, find_classifier
from fastlt.stage2.classifiers.base import Stage2, Training
from fastlt.stage2.features import DTYPES
from fastlt.training.recipe import Recipe, RecipeConfig
from fastlt.training.representation import CheckpointPolicy
from fastlt.training.trainer import Stage

CHOOSE_ON = ("auto", "val", "held_out", "none", "train", "test")
MODES = ("features", "images")
PRECISIONS = ("fp32", "bf16")
SMOOTHING = ("smoothing_head", "smoothing_tail")
STAGE_2 = ("crt", "lws", *SMOOTHING)  # of a protocol, what concerns no representation


@dataclass(frozen=True)
class Options:
    """Checked at construction. Meanings as in config.TrainConfig."""

    backbone: str
    sampler: str
    drawing: str
    sampler_options: dict[str, Any]
    backbone_options: dict[str, Any]
    protocol: dict[str, Any]
    seed: int
    epochs: int
    image_size: int
    representation: str | None
    classifiers: list[str]
    stage2: dict[str, Any]
    mode: str
    bn: str
    views: int
    feature_dtype: str
    hold_out: float
    choose_on: str
    precision: str
    accumulate: int
    compile: str
    save_epochs: int
    save_minutes: float
    tensorboard: bool
    overwrite: bool
    max_damaged: int

    def __post_init__(self) -> None:
        if not self.classifiers:
            raise UserError(
                f"classifiers=[]: name one or more of {', '.join((*SETS, *CLASSIFIERS, *IMAGE_CLASSIFIERS))}"
            )
        for name in self.names():
            find_classifier(name)
        for key, allowed in (("mode", MODES), ("bn", BN), ("feature_dtype", DTYPES)):
            if getattr(self, key) not in allowed:
                raise UserError(f"{key}={getattr(self, key)} is unknown: allowed are {', '.join(allowed)}")
        if self.views < 0:
            raise UserError(f"views={self.views}: it must be 0 (none) or more")
        if self.choose_on not in CHOOSE_ON:
            raise UserError(f"choose_on={self.choose_on} is unknown: allowed are {', '.join(CHOOSE_ON)}")
        if self.seed < 0:
            raise UserError(f"seed={self.seed}: it must be 0 or more")
        if self.max_damaged < 0:
            raise UserError(f"max_damaged={self.max_damaged}: it must be 0 or more")
        if self.precision not in PRECISIONS:
            raise UserError(f"precision={self.precision} is unknown: allowed are auto, {', '.join(PRECISIONS)}")
        if self.protocol["batch"] < 1 or self.protocol["lr_batch"] < 0:
            raise UserError(
                f"protocol.batch={self.protocol['batch']}, protocol.lr_batch={self.protocol['lr_batch']}: the first "
                "must be at least 1, the second 0 (off) or more"
            )
        _check_normalization(self.protocol["mean"], self.protocol["std"])
        if self.protocol["head_start"] not in HEAD_STARTS:
            raise UserError(
                f"protocol.head_start={self.protocol['head_start']} is unknown: allowed are {', '.join(HEAD_STARTS)}"
            )
        # Built once here, so that what is wrong with them is said before anything is read or written.
        for made in (self.schedule, self.stage, self.recipe, self.retrainings, lambda: self.keeping(Path())):
            made()

    def names(self) -> list[str]:
        """The classifiers that are asked for, each once: sets spelled out, crt and lws on images if `mode` says so."""
        spelled = [name for asked in self.classifiers for name in SETS.get(asked, (asked,))]
        images = {"crt": "crt_images", "lws": "lws_images"} if self.mode == "images" else {}
        return list(dict.fromkeys(images.get(name, name) for name in spelled))

    def trainings(self) -> Stage2:
        """How classifiers are trained."""
        stage2 = dict(self.stage2)
        rates, decays = stage2.pop("lr"), stage2.pop("weight_decay")

        def training(section: dict[str, Any]) -> Training:
            rate, decay = tuple(rates or [section["lr"]]), tuple(decays or [section["weight_decay"]])
            return Training(
                **{**section, "lr": rate, "weight_decay": decay, "milestones": tuple(section["milestones"])}
            )

        smoothing = {name: self.protocol[name] for name in SMOOTHING}
        return Stage2(training(self.protocol["crt"]), training(self.protocol["lws"]), **stage2, **smoothing)

    def retrainings(self) -> dict[str, Retraining]:
        """The classifiers that are trained on images."""
        stage2, numbers = self.trainings(), (self.seed, self.precision, self.accumulate, self.compile)
        return {name: Retraining(name, stage2, self.bn, *numbers) for name in self.names() if name in IMAGE_CLASSIFIERS}

    def schedule(self) -> Schedule:
        """Learning rates of stage 1. In a training of fewer or more epochs than the protocol's the milestones move in
        proportion."""
        protocol = self.protocol
        lr = protocol["lr"] * (protocol["batch"] / protocol["lr_batch"] if protocol["lr_batch"] else 1)
        return Schedule(
            self.epochs,
            lr,
            protocol["momentum"],
            protocol["weight_decay"],
            protocol["warmup_epochs"],
            protocol["stepped"],
            protocol["warmup_from"],
            protocol["last_lr"],
            tuple(self._milestones()),
            protocol["factor"],
            protocol["nesterov"],
        )

    def _milestones(self) -> list[int]:
        moved = [round(epoch * self.epochs / self.protocol["epochs"]) for epoch in self.protocol["milestones"]]
        return [milestone for milestone in dict.fromkeys(moved) if milestone]

    def stage(self) -> Stage:
        """Stage 1, with the rate of the joint classifier where it has one of its own."""
        head, lr = self.protocol["head_lr"], self.protocol["lr"]
        if head is not None and head <= 0:
            raise UserError(f"protocol.head_lr={head}: it must be greater than 0")
        return Stage() if head is None else Stage(rates={"classifier": head / lr})

    def normalization(self, dataset: Dataset) -> dict[str, list[float]]:
        """Mean and std of RGB in 0..1 that images are normalized by: the protocol's, else the dataset's."""
        return {name: self.protocol[name] or dataset.about[name] for name in ("mean", "std")}

    def recipe(self, counts: Sequence[int] = ()) -> Recipe:
        """What is added to plain SGD. counts: images of each class that are trained on."""
        named: dict[str, Any] = {one.name: self.protocol[one.name] for one in fields(RecipeConfig)} | {
            "loss_options": self._loss_options()
        }
        return Recipe(**named, accumulate=self.accumulate, compile=self.compile, counts=tuple(counts))

    def _loss_options(self) -> dict[str, float]:
        """Those of stage 1's loss: label-aware smoothing has the protocol's numbers where nothing else is said."""
        smooth = self.protocol["loss"] == "label_aware_smoothing"
        return {**{name: self.protocol[name] for name in SMOOTHING if smooth}, **self.protocol["loss_options"]}

    def keeping(self, folder: Path) -> CheckpointPolicy:
        """Where stage 1 is kept, and when."""
        return CheckpointPolicy(folder, self.save_epochs, self.save_minutes, self.overwrite, self.tensorboard)

    def batch_of_a_rank(self, world: int) -> int:
        """Images that one of `world` ranks loads at once. Raises UserError if the batch cannot be shared out."""
        parts = world * self.accumulate
        if self.protocol["batch"] % parts:
            raise UserError(
                f"protocol.batch={self.protocol['batch']} cannot be shared out to {world} ranks in "
                f"{self.accumulate} parts: choose a multiple of {parts}"
            )
        return self.protocol["batch"] // parts

    def settings(self, digest: str) -> Settings:
        """What determines the representation trained on the dataset of this digest."""
        stage_1 = {name: value for name, value in self.protocol.items() if name not in STAGE_2}
        stage_1["milestones"], stage_1["loss_options"] = self._milestones(), self._loss_options()
        if stage_1["pretrained"]:
            stage_1["pretrained"] = pretrained_identity(self.backbone, stage_1["pretrained"])
        usual = asdict(ProtocolConfig())  # what is at its default is no part of the key: new settings change no old one
        protocol = {
            f"protocol.{name}": value
            for name, value in stage_1.items()
            if name not in ("backbone", "epochs", "image_size") and value != usual[name]
        }
        options = {"sampler.options": self.sampler_options, "backbone.options": self.backbone_options}
        sources = {
            f"protocol.{kind}": self.protocol[kind] for kind in ("loss", "optimizer", "batch_hook", "image_hook")
        }
        about = {
            "dataset": digest,
            "backbone": self.backbone,
            "sampler": self.sampler,
            "drawing": "quota" if by_quota(self.sampler, self.drawing) else self.drawing,
            "epochs": self.epochs,
            "image_size": self.image_size,
            "seed": self.seed,
            "hold_out": self.hold_out,
            "precision": self.precision,
            **protocol,
            **{key: value for key, value in options.items() if value},
            **own_sources(sampler=self.sampler, backbone=self.backbone, **sources),
        }
        return Settings(about if self.accumulate == 1 else {**about, "accumulate": self.accumulate})

    def choose_split(self, dataset: Dataset) -> str:
        """The split hyper-parameters are chosen on, or none: tau then is 1, and all else must be given.

        Raises UserError where there is no such split, or where there is something to choose and none to choose on.
        """
        split = self._split(dataset)
        if split in ("train", "none") and self.stage2["keep"] == "best":
            raise UserError(
                "stage2.keep=best needs images to choose the epoch on, and there is no val split: hold_out=0.1 keeps "
                "some apart, stage2.keep=last takes the last epoch"
            )
        for key in ("lr", "weight_decay"):
            if split == "none" and len(self.stage2[key] or []) > 1:
                raise UserError(
                    f"stage2.{key}={list(self.stage2[key])}: there are no images to choose one of them on. Name one; "
                    "hold_out=0.1 keeps training images apart to choose on; choose_on=train takes those trained on"
                )
        return split

    def _split(self, dataset: Dataset) -> str:
        there = {"held_out": self.hold_out > 0, "val": "val" in dataset.splits}
        offered = {**there, "none": True, "train": True, "test": True}
        if self.choose_on == "auto":
            return next(name for name, there in offered.items() if there)
        if not offered[self.choose_on]:
            raise UserError(
                f"choose_on={self.choose_on}: there is no such split here; allowed are "
                f"{', '.join(name for name, there in offered.items() if there)} (hold_out=0.1 makes held_out)"
            )
        return self.choose_on

    def run_name(self, dataset: Dataset) -> str:
        """A folder name that tells runs apart, by eye and by the representation's key."""
        if self.representation:
            return f"{dataset.name}_{Path(self.representation).stem}_seed{self.seed}"
        key = self.settings(dataset.digest).key[:8]
        backbone, sampler = (name.replace(":", ".") for name in (self.backbone, self.sampler))
        return f"{dataset.name}_{backbone}_{sampler}_seed{self.seed}_{key}"


def _check_normalization(mean: list[float] | None, std: list[float] | None) -> None:
    if (mean is None) != (std is None):
        raise UserError(f"protocol.mean={mean}, protocol.std={std}: give both or neither (the dataset's)")
    if mean is not None and std is not None and not (len(mean) == len(std) == 3 and min(std) > 0):
        raise UserError(f"protocol.mean={mean}, protocol.std={std}: three numbers each, std greater than 0")
