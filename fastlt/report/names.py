"""What people read in place of the names in results.json, and how numbers and foreign names are written."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from fastlt.core.groups import FEW, GROUPS, MANY

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
    "logit_adjusted_loss": "logit-adjusted loss",
    "retrain_all": "B + C",
    "retrain_all_slow": "B + C (B at 0.1 lr)",
    "retrain_last": "LB + C",
}
# For sentences; the others are named by their label.
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
# What a figure or table with room for a few shows before any other.
PAPER = ("joint", "crt", "tau_norm", "lws", "ncm_l2", "ncm_cosine")
SAMPLERS = {
    "instance": "instance-balanced sampling",
    "class": "class-balanced sampling",
    "sqrt": "square-root sampling",
    "progressive": "progressively-balanced sampling",
}
SPLITS = {"held_out": "held-out train"}  # what people read; the others are words already
SCOPES = {
    "many": f"the many-shot classes (more than {MANY} training images)",
    "medium": f"the medium-shot classes ({FEW} to {MANY} training images)",
    "few": f"the few-shot classes (fewer than {FEW} training images)",
    "all": "all test images",
}
CRITERIA = {"mean_class": "mean class accuracy", "all": "accuracy over all images"}
CRITERIA |= {group: f"accuracy on the {group} classes" for group in GROUPS}


def label(name: str) -> str:
    """The classifier's name for people; a name this module does not know stays as it is."""
    return LABELS.get(name, name)


def long_name(name: str) -> str:
    """The classifier's name for a sentence, as Markdown."""
    return LONG_NAMES.get(name, escaped(label(name)))


def listed(names: Iterable[str]) -> str:
    """Labels as one line of Markdown; labels may hold commas."""
    return "; ".join(escaped(label(name)) for name in names)


def split_name(split: Any) -> str:
    """The split's name for people."""
    return SPLITS.get(split, str(split))


def sampling(results: dict[str, Any]) -> str:
    """The sampling law of stage 1 in words."""
    return SAMPLERS.get(results["sampler"], f"{results['sampler']} sampling")


def prior_name(prior: str) -> str:
    """The name of a shifted prior for people: `forward 50`."""
    return prior.replace("_", " ")


def paper_first(names: list[str], most: int) -> list[str]:
    """At most so many of the names, the paper's before others; each part in its own order."""
    known = [name for name in PAPER if name in names]
    return (known + [name for name in names if name not in PAPER])[:most]


def number(value: Any) -> float | None:
    """`value` as a finite float, or None for null, NaN and infinity (an empty group has no accuracy)."""
    return float(value) if value is not None and math.isfinite(value) else None


def percent(value: Any) -> str:
    """An accuracy or error with one decimal, `-` for none."""
    found = number(value)
    return "-" if found is None else f"{found:.1f}"


def escaped(value: Any) -> str:
    """A name from outside as one line of Markdown that cannot break a table or start markup of its own."""
    text = " ".join(str(value).split()).replace("\\", "\\\\")
    for mark in "|*`<[":
        text = text.replace(mark, f"\\{mark}")
    return text
