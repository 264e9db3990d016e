"""Stage 1: a backbone and its joint linear classifier, trained end to end (paper section 3)."""

from fastlt.representation.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint, write_checkpoint
from fastlt.representation.fit import Batches, Fit, Stage, evaluate_top1
from fastlt.representation.recipe import Recipe
from fastlt.representation.schedule import Schedule
from fastlt.representation.settings import Settings
from fastlt.representation.train import SCHEMA, Keeping, Representation, train_representation

__all__ = [
    "SCHEMA",
    "Batches",
    "Fit",
    "Keeping",
    "Recipe",
    "Representation",
    "Schedule",
    "Settings",
    "Stage",
    "evaluate_top1",
    "load_checkpoint",
    "read_checkpoint",
    "save_checkpoint",
    "train_representation",
    "write_checkpoint",
]
