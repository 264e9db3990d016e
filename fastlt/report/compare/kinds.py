"""The tables that stand for themselves within one backbone: which classifiers each compares, in the paper's order."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from fastlt.report.choices import chosen_on
from fastlt.report.compare.published import MAIN, RERUN
from fastlt.report.compare.runs import Setting, sampling
from fastlt.report.names import label, number

# With the NCM that is the default of the authors' code; on images where the protocol says so.
PAPER = ("joint", "ncm_l2", "crt", "crt_images", "tau_norm", "lws", "lws_images")
TAU = ("tau_norm", "tau_train", "tau_learned")
NCM = ("ncm_l2", "ncm_cosine", "ncm_l2n_l2", "ncm_l2n_cosine", "ncm_un_l2", "ncm_un_cosine", "ncm_authors_cos")
HEADS = ("crt", "mlp_1", "mlp_2", "mlp_3", "cosine")
PARTS = ("retrain_all", "retrain_all_slow", "retrain_last", "crt_images", "crt")  # needed are those of its own
_NAMES = {
    ("heads", "crt"): "linear (cRT)",
    ("parts", "crt"): "C (cRT, on features)",
    ("parts", "crt_images"): "C (cRT, on images)",
}


@dataclass(frozen=True)
class Kind:
    """A table of samplers x classifiers. classifiers: its rows, those that were measured; None: all that no other kind
    has. needed: it is shown where one of these was measured. series: of the published numbers, None for none.
    """

    slug: str
    title: str
    classifiers: tuple[str, ...] | None
    needed: tuple[str, ...] = ()
    series: str | None = None
    about: str = ""
    heads: tuple[str, ...] = ("sampler", "classifier")

    def labels(self, setting: Setting, classifier: str) -> tuple[str, ...]:
        """The labels of a row, one for each of `heads`."""
        shown = _NAMES.get((self.slug, classifier), label(classifier))
        return (sampling(setting), *(_tau(setting, classifier) if self.slug == "tau" else (shown,)))


MAIN_KIND = Kind("samplers", "Samplers and classifiers", PAPER, PAPER, MAIN)
RERUN_KIND = Kind(
    "rerun", "cRT after every sampler, beside its re-run", ("crt", "crt_images"), ("crt", "crt_images"), RERUN,
    "The published numbers are not the paper's: authors of the paper ran its method again for a survey.",
)  # fmt: skip
PARTS_KIND = Kind(
    "parts", "Re-training different parts", PARTS, PARTS[:3], None,
    "B: backbone, LB: its last block, C: classifier; all with class-balanced sampling.",
)  # fmt: skip
TAU_KIND = Kind(
    "tau", "How tau is chosen", TAU, TAU, None, "tau: its mean over seeds.", ("sampler", "tau is chosen", "tau")
)
NCM_KIND = Kind(
    "ncm", "Nearest class mean", NCM, NCM, MAIN,
    "Features raw, scaled to unit length, or, where nothing else is said, centred before that.",
)  # fmt: skip
HEADS_KIND = Kind("heads", "Linear, deeper and cosine classifiers", HEADS, HEADS[1:])
OTHERS_KIND = Kind("others", "Other classifiers", None)

_NAMED = {name for names in (PAPER, TAU, NCM, HEADS, PARTS) for name in names}


def rows_of(kind: Kind, known: list[str]) -> list[str]:
    """The classifiers of a kind among those that were measured; none where the kind is not to be shown."""
    if kind.classifiers is None:
        return [name for name in known if name not in _NAMED]
    return [name for name in kind.classifiers if name in known] if set(kind.needed) & set(known) else []


def _tau(setting: Setting, classifier: str) -> tuple[str, str]:
    runs = [results for results in setting.runs if classifier in results["classifiers"]]
    found = [number((results["classifiers"][classifier].get("choices") or {}).get("tau")) for results in runs]
    known = [value for value in found if value is not None]
    split = chosen_on(runs[0], classifier) if runs else None
    way = f"on {split}" if split else "not chosen" if known else ""
    way = {"tau_train": "on train", "tau_learned": "learned on train"}.get(classifier, way)
    spread = f" ± {statistics.stdev(known):.2f}" if len(known) > 1 else ""
    return way, f"{statistics.fmean(known):.2f}{spread}" if known else ""
