"""Classifiers of stage 2: one file each, one function `fit(task) -> Fitted`; this table names them."""

from collections.abc import Callable

from fastlt.classifiers import crt, joint, lws, ncm, tau_norm
from fastlt.classifiers.base import Fitted, Task

CLASSIFIERS: dict[str, Callable[[Task], Fitted]] = {
    "joint": joint.fit,
    "ncm_l2": ncm.fit_l2,
    "ncm_cosine": ncm.fit_cosine,
    "crt": crt.fit,
    "tau_norm": tau_norm.fit,
    "lws": lws.fit,
}
