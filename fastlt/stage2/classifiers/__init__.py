"""Classifiers of stage 2: one file each; this table names them."""

import importlib
from types import FunctionType

from fastlt.core.errors import UserError
from fastlt.stage2.classifiers.base import Classifier
from fastlt.stage2.classifiers.cosine import COSINE
from fastlt.stage2.classifiers.crt import CRT, CRT_LAS
from fastlt.stage2.classifiers.joint import JOINT
from fastlt.stage2.classifiers.logit_adjust import LOGIT_ADJUST
from fastlt.stage2.classifiers.lws import LWS
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
}
PAPER = tuple(CLASSIFIERS)[:6]  # those of the paper's main tables
SETS = {"paper": PAPER, "all": tuple(CLASSIFIERS)}  # names that stand for several
# Trained on images, through the pipeline: fastlt/retrain.
IMAGE_CLASSIFIERS = ("crt_images", "lws_images", "retrain_all", "retrain_all_slow", "retrain_last")


def is_own(name: str) -> bool:
    """Whether a classifier is the user's own, `package.module:NAME`."""
    return ":" in name


def find_classifier(name: str) -> Classifier:
    """The entry of this table, or the user's own: `package.module:NAME` is imported, where NAME is a Classifier, or a
    function from a Task to a Fitted with the tensors of a linear one.

    Raises UserError, in one line, where there is none.
    """
    if not is_own(name):
        if name in IMAGE_CLASSIFIERS:
            return Classifier(JOINT.fit)
        if name not in CLASSIFIERS:
            allowed = ", ".join((*SETS, *CLASSIFIERS, *IMAGE_CLASSIFIERS))
            raise UserError(f"classifier {name} is unknown: allowed are {allowed}, or your own package.module:NAME")
        return CLASSIFIERS[name]
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except Exception as error:  # a module of the user's: whatever it raises, the line must say whose it is
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(
            f"classifier {name}: importing {module} fails ({reason}): it must be installed, or lie in this folder or "
            "one of PYTHONPATH"
        ) from error
    if isinstance(found, Classifier):
        return found
    if not isinstance(found, FunctionType):
        what = f"{module} has no {attribute}" if found is None else f"{attribute} is a {type(found).__name__}"
        raise UserError(f"classifier {name}: {what}: name a Classifier, or a function from a Task to a Fitted")
    return Classifier(found)
