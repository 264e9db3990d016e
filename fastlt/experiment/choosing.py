"""Determines which images hyperparameters of classifiers are chosen on (the key choose_on)."""

from fastlt.core.errors import UserError
from fastlt.core.log import say
from fastlt.data.shards.reader import Dataset
from fastlt.experiment.config import TrainConfig


def choose_split(config: TrainConfig, dataset: Dataset) -> str:
    """Returns what hyperparameters are chosen on: `held_out`, `val`, `train`, `test`, `folds` or `none`.

    `folds` is a cross-validation on the training images. With `none` nothing is chosen: tau is 1, and there must be one
    value of every other hyperparameter.

    Raises UserError if the dataset has no such split, or if there are hyperparameters to choose and `none` is given.
    """
    split, stage2 = _split(config, dataset), config.stage2
    if split in ("train", "folds", "none") and stage2.keep == "best":
        raise UserError(
            "stage2.keep=best needs images to choose the epoch on, and there is no val split: hold_out=0.1 keeps some "
            "apart, stage2.keep=last takes the last epoch"
        )
    for key, values in (("lr", stage2.lr), ("weight_decay", stage2.weight_decay)):
        if split == "none" and len(values or ()) > 1:
            raise UserError(
                f"stage2.{key}={list(values or ())} and choose_on=none: give one value, or another choose_on"
            )
    return split


def _split(config: TrainConfig, dataset: Dataset) -> str:
    there = {"held_out": config.hold_out > 0, "val": "val" in dataset.splits}
    offered = {**there, "folds": True, "none": True, "train": True, "test": True}
    if config.choose_on == "auto":
        return next(name for name, there in offered.items() if there)
    if not offered[config.choose_on]:
        raise UserError(
            f"choose_on={config.choose_on}: there is no such split here; allowed are "
            f"{', '.join(name for name, there in offered.items() if there)} (hold_out=0.1 makes held_out)"
        )
    return config.choose_on


def say_choice(choose_on: str, names: list[str], val: bool) -> None:
    """Logs what choices are made on, where that deserves a warning.

    This is called before stage 1, because images for choices can only be held out by training again.

    choose_on: as `choose_split` returns it. names: the classifiers. val: whether the dataset has a val split.
    """
    if choose_on in _CHOICES and names != ["joint"]:
        reason = "as asked" if val or choose_on != "folds" else "no val split"
        apart = "" if val else "; hold_out=0.1 keeps images apart for both, from stage 1 on"
        say(f"{reason}: {_CHOICES[choose_on]}, and no temperature is fitted{apart}")
    if choose_on == "test":
        say("settings are chosen on the test split, as asked: results are marked, and no fair test of them")


_CHOICES = {
    "folds": "tau and other settings are chosen by a 5-fold cross-validation of classifiers on all training images",
    "none": "nothing is chosen (tau is 1 where none is given)",
    "train": (
        "tau and other settings are chosen on the images that are trained on, which means nothing where the network "
        "knows them by heart"
    ),
}
