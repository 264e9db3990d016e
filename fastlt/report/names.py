"""Readable names for the names in results.json, and formatting of numbers and of names from outside."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from fastlt.core.groups import FEW, GROUPS, MANY
from fastlt.core.log import printed
from fastlt.experiment.results import Results

LABELS = {
    "joint": "joint",
    "ncm_l2": "NCM (L2)",
    "ncm_cosine": "NCM (cosine)",
    "ncm_un_l2": "NCM (raw, L2)",
    "ncm_un_cosine": "NCM (raw, cosine)",
    "ncm_l2n_l2": "NCM (unit, L2)",
    "ncm_l2n_cosine": "NCM (unit, cosine)",
    "ncm_authors_cos": "NCM (the authors' cos)",
    "crt": "cRT",
    "crt_las": "cRT, label-aware smoothing",
    "crt_images": "cRT (images)",
    "lws": "LWS",
    "lws_images": "LWS (images)",
    "tau_norm": "tau-norm",
    "tau_train": "tau-norm (tau on train)",
    "tau_learned": "tau-norm (learned tau)",
    "cosine": "cosine",
    "mlp_1": "MLP, 1 hidden layer",
    "mlp_2": "MLP, 2 hidden layers",
    "mlp_3": "MLP, 3 hidden layers",
    "balanced_softmax": "balanced softmax",
    "logit_adjust": "logit adjustment",
    "logit_adjust_mult": "logit adjustment (multiplicative)",
    "logit_adjusted_loss": "logit-adjusted loss",
    "max_norm": "MaxNorm",
    "los": "LOS",
    "cosine_means": "cosine from class means",
    "retrain_all": "B + C",
    "retrain_all_slow": "B + C (B at 0.1 lr)",
    "retrain_last": "LB + C",
}
# Names for use in sentences. Classifiers that are not listed use their label.
LONG_NAMES = {
    "joint": "the joint classifier",
    "ncm_l2": "the nearest class mean (L2)",
    "ncm_cosine": "the nearest class mean (cosine)",
    "ncm_un_l2": "the nearest class mean (raw features, L2)",
    "ncm_un_cosine": "the nearest class mean (raw features, cosine)",
    "ncm_l2n_l2": "the nearest class mean (unit features, L2)",
    "ncm_l2n_cosine": "the nearest class mean (unit features, cosine)",
    "ncm_authors_cos": "the nearest class mean (the authors' code's cos)",
    "crt": "classifier re-training (cRT)",
    "crt_las": "classifier re-training with label-aware smoothing",
    "crt_images": "classifier re-training on images (cRT)",
    "lws": "learnable weight scaling (LWS)",
    "lws_images": "learnable weight scaling on images (LWS)",
    "tau_norm": "tau-normalization",
    "tau_train": "tau-normalization with tau chosen on train",
    "tau_learned": "tau-normalization with a learned tau",
    "cosine": "the cosine classifier",
    "mlp_1": "an MLP with 1 hidden layer",
    "mlp_2": "an MLP with 2 hidden layers",
    "mlp_3": "an MLP with 3 hidden layers",
    "logit_adjusted_loss": "the logit-adjusted loss",
    "retrain_all": "re-training of backbone and classifier (B + C)",
    "retrain_all_slow": "re-training of backbone, at 0.1 lr, and classifier (B + C)",
    "retrain_last": "re-training of last block and classifier (LB + C)",
}
# The paper's classifiers, which have priority in figures and tables that show only a few.
PAPER = ("joint", "crt", "tau_norm", "lws", "ncm_l2", "ncm_cosine")
SAMPLERS = {
    "instance": "instance-balanced sampling",
    "class": "class-balanced sampling",
    "sqrt": "square-root sampling",
    "progressive": "progressively-balanced sampling",
}
SPLITS = {"held_out": "held-out train", "folds": "5 folds of train"}  # the names of other splits are readable
SCOPES = {
    "many": f"the many-shot classes (more than {MANY} training images)",
    "medium": f"the medium-shot classes ({FEW} to {MANY} training images)",
    "few": f"the few-shot classes (fewer than {FEW} training images)",
    "all": "all test images",
    "mean_class": "all classes, each counting the same,",
}
CRITERIA = {"mean_class": "mean class accuracy", "all": "accuracy over all images"}
CRITERIA |= {group: f"accuracy on the {group} classes" for group in GROUPS}


def label(name: str) -> str:
    """Returns the readable name of a classifier; an unknown name is returned unchanged.

    Example:

        >>> label("ncm_l2"), label("mymodule:Mine")
        ('NCM (L2)', 'mymodule:Mine')
    """
    return LABELS.get(name, name)


def long_name(name: str) -> str:
    """Returns the name of a classifier for a sentence, as Markdown."""
    return LONG_NAMES.get(name, escaped(label(name)))


def listed(names: Iterable[str]) -> str:
    """Returns labels in one line of Markdown, separated by semicolons because labels may have commas."""
    return "; ".join(escaped(label(name)) for name in names)


def split_name(split: Any) -> str:
    """Returns the readable name of a split."""
    return SPLITS.get(split, str(split))


def sampling(results: Results) -> str:
    """Returns the sampler of stage 1 in words, such as `class-balanced sampling`."""
    return SAMPLERS.get(results.sampler, f"{results.sampler} sampling")


def prior_name(prior: str) -> str:
    """Returns the readable name of a shifted prior, such as `forward 50`."""
    return prior.replace("_", " ")


def paper_first(names: list[str], most: int) -> list[str]:
    """Returns at most `most` classifiers: the paper's in the order of PAPER, then others in the given order."""
    known = [name for name in PAPER if name in names]
    return (known + [name for name in names if name not in PAPER])[:most]


def number(value: Any) -> float | None:
    """Returns a value as a float; None if it is no number."""
    return float(value) if isinstance(value, int | float) else None


def percent(value: float | None) -> str:
    """Formats a percentage with one decimal; `-` for None."""
    return "-" if value is None else f"{value:.1f}"


def escaped(value: Any) -> str:
    """Escapes outside text for one line of Markdown, so that it cannot break a table or become markup or a link."""
    text = printed(" ".join(str(value).split()))
    # Underscores, colons and dots are escaped only where Markdown gives them a meaning, to keep other text readable.
    return re.sub(r"[\\|*`<\[&~$@]|(?<!\w)_|_(?!\w)|:(?=//)|(?<=www)\.", r"\\\g<0>", text)
