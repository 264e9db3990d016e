"""The classifiers of stage 2: one file for each, and the table CLASSIFIERS of their names."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fastlt.core.errors import UserError
from fastlt.registry import call_part, check_options, find_part, is_own
from fastlt.stage2.classifiers.base import Classifier, Fitted, Task, linear_scores
from fastlt.stage2.classifiers.cosine import COSINE
from fastlt.stage2.classifiers.cosine_means import COSINE_MEANS
from fastlt.stage2.classifiers.crt import CRT, CRT_LAS
from fastlt.stage2.classifiers.joint import JOINT
from fastlt.stage2.classifiers.logit_adjust import LOGIT_ADJUST
from fastlt.stage2.classifiers.logit_adjust_mult import LOGIT_ADJUST_MULT
from fastlt.stage2.classifiers.los import LOS
from fastlt.stage2.classifiers.lws import LWS
from fastlt.stage2.classifiers.max_norm import MAX_NORM
from fastlt.stage2.classifiers.mlp import MLP_1, MLP_2, MLP_3
from fastlt.stage2.classifiers.ncm import classifier as ncm
from fastlt.stage2.classifiers.prior_losses import BALANCED_SOFTMAX, LOGIT_ADJUSTED_LOSS
from fastlt.stage2.classifiers.tau_learned import TAU_LEARNED
from fastlt.stage2.classifiers.tau_norm import TAU_NORM, TAU_TRAIN

CLASSIFIERS: dict[str, Classifier] = {
    "joint": JOINT,
    "ncm_l2": ncm("cl2n", "l2"),
    "ncm_cosine": ncm("cl2n", "cosine"),
    "crt": CRT,
    "tau_norm": TAU_NORM,
    "lws": LWS,
    "ncm_un_l2": ncm("un", "l2"),
    "ncm_un_cosine": ncm("un", "cosine"),
    "ncm_l2n_l2": ncm("l2n", "l2"),
    "ncm_l2n_cosine": ncm("l2n", "cosine"),
    "ncm_authors_cos": ncm("cl2n", "authors_cos"),
    "tau_train": TAU_TRAIN,
    "tau_learned": TAU_LEARNED,
    "cosine": COSINE,
    "mlp_1": MLP_1,
    "mlp_2": MLP_2,
    "mlp_3": MLP_3,
    "balanced_softmax": BALANCED_SOFTMAX,
    "logit_adjust": LOGIT_ADJUST,
    "logit_adjusted_loss": LOGIT_ADJUSTED_LOSS,
    "crt_las": CRT_LAS,
    "logit_adjust_mult": LOGIT_ADJUST_MULT,
    "max_norm": MAX_NORM,
    "los": LOS,
    "cosine_means": COSINE_MEANS,
}
PAPER = tuple(CLASSIFIERS)[:6]  # the classifiers of the paper's main tables
SETS = {"paper": PAPER, "all": tuple(CLASSIFIERS)}  # names that stand for several classifiers
# Classifiers made from the logits of a linear joint classifier, or from the norms of its weights. One that compares by
# cosine (protocol.head) has neither.
NEED_LINEAR = ("tau_norm", "tau_train", "tau_learned", "lws", "logit_adjust", "logit_adjust_mult", "max_norm", "los")
NEED_LINEAR += ("lws_images",)
# Classifiers that are trained on images instead of features, see fastlt/experiment/retrain.py.
IMAGE_CLASSIFIERS = ("crt_images", "lws_images", "retrain_all", "retrain_all_slow", "retrain_last")


def find_classifier(name: str, options: Mapping[str, Any] | None = None) -> Classifier:
    """Returns the Classifier that a name stands for.

    name: a key of CLASSIFIERS, one of IMAGE_CLASSIFIERS, or `package.module:NAME` of your own, where NAME is a
        Classifier, or a function from a Task to a Fitted whose tensors are `weight` and perhaps `bias`.
    options: keyword arguments for the `fit` of an own classifier; None where nothing is fitted.

    Raises UserError, in one line, if there is no such classifier, or if it does not take the options.

    >>> find_classifier("crt") is CLASSIFIERS["crt"]
    True
    """
    if name in IMAGE_CLASSIFIERS:
        return Classifier(JOINT.fit)
    found: Any = find_part(
        "classifier", name, {**dict.fromkeys(SETS), **CLASSIFIERS, **dict.fromkeys(IMAGE_CLASSIFIERS)}
    )
    if not isinstance(found, Classifier):
        if not callable(found):
            what = f"a {type(found).__name__}"
            raise UserError(f"classifier={name} is {what}: name a Classifier, or a function from a Task to a Fitted")
        found = Classifier(found)  # type: ignore[arg-type]
    if not is_own(name):
        return found
    fit, scores = found.fit, found.scores
    if options is not None:
        check_options("classifier", name, fit, options, 1)

    def fit_checked(task: Task) -> Fitted:
        # It may change in place what it is given, and other classifiers begin with the same joint one.
        own = replace(task, joint=copy.deepcopy(task.joint), counts=task.counts.copy())
        fitted = call_part("classifier", name, fit, options or {}, own)
        _check_fitted(name, fitted, task, linear=scores is linear_scores)
        return fitted

    if scores is not linear_scores:
        found = replace(found, scores=lambda tensors, x: call_part("classifier", name, scores, {}, tensors, x))
    return replace(found, fit=fit_checked)


def _check_fitted(name: str, fitted: Any, task: Task, linear: bool) -> None:
    """Raises UserError if an own classifier gives something else than a Fitted that its scores can be computed from.

    linear: whether these are the scores of a linear classifier.
    """
    if not isinstance(fitted, Fitted):
        raise UserError(f"classifier={name} gives a {type(fitted).__name__}: it must give a Fitted")
    for tensors in (fitted.tensors, *fitted.others):
        for key, value in tensors.items():
            if not isinstance(value, Tensor):
                raise UserError(f"classifier={name} gives a {type(value).__name__} as {key}: it must be a tensor")
        wanted = {"weight": [task.classes, task.train.x.shape[1]], "bias": [task.classes]}
        found = {key: list(tensors[key].shape) for key in wanted if key in tensors}
        if linear and found not in (wanted, {"weight": wanted["weight"]}):
            raise UserError(
                f"classifier={name} gives tensors of the shapes {found}: one with linear scores gives {wanted}, or no "
                "bias; for other scores, name a Classifier(fit, scores)"
            )
        if linear and (others := {value.dtype for value in tensors.values()} - {torch.float32}):
            raise UserError(f"classifier={name} gives tensors of {others.pop()}: float32 is needed")
