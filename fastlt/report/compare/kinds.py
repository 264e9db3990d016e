"""The kinds of tables within one backbone: which classifiers each compares, in the paper's order."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from fastlt.report.choices import chosen_on
from fastlt.report.compare.published import MAIN, RERUN
from fastlt.report.compare.runs import RunGroup, sampling
from fastlt.report.names import label, number

# ncm_l2 is the default of the authors' code; crt_images and lws_images are for protocols that train them on images.
PAPER = ("joint", "ncm_l2", "ncm_cosine", "crt", "crt_images", "tau_norm", "lws", "lws_images")
TAU = ("tau_norm", "tau_train", "tau_learned")
NCM = ("ncm_l2", "ncm_cosine", "ncm_l2n_l2", "ncm_l2n_cosine", "ncm_un_l2", "ncm_un_cosine", "ncm_authors_cos")
HEADS = ("crt", "mlp_1", "mlp_2", "mlp_3", "cosine")
PARTS = ("retrain_all", "retrain_all_slow", "retrain_last", "crt_images", "crt")
_NAMES = {
    ("heads", "crt"): "linear (cRT)",
    ("parts", "crt"): "C (cRT, on features)",
    ("parts", "crt_images"): "C (cRT, on images)",
}


@dataclass(frozen=True)
class Kind:
    """A kind of table with a row for each sampler and classifier.

    slug: the start of its file name. title: its title.
    classifiers: the classifiers that are shown if they were measured; None for all that no other kind shows.
    needed: the table is shown only if one of these classifiers was measured.
    series: the series of published numbers; None for none.
    about: a sentence below the title. heads: the headings of the label columns.
    """

    slug: str
    title: str
    classifiers: tuple[str, ...] | None
    needed: tuple[str, ...] = ()
    series: str | None = None
    about: str = ""
    heads: tuple[str, ...] = ("sampler", "classifier")

    def labels(self, run_group: RunGroup, classifier: str) -> tuple[str, ...]:
        """Returns the labels of a row, one for each of `heads`."""
        shown = _NAMES.get((self.slug, classifier), label(classifier))
        return (sampling(run_group), *(_tau(run_group, classifier) if self.slug == "tau" else (shown,)))


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
    """Returns the classifiers that a kind shows. known: those that were measured. [] if the table is not shown."""
    if kind.classifiers is None:
        return [name for name in known if name not in _NAMED]
    return [name for name in kind.classifiers if name in known] if set(kind.needed) & set(known) else []


def _tau(run_group: RunGroup, classifier: str) -> tuple[str, str]:
    runs = [results for results in run_group.runs if classifier in results.classifiers]
    found = [number(results.classifiers[classifier].choices.get("tau")) for results in runs]
    known = [value for value in found if value is not None]
    split = chosen_on(runs[0], classifier) if runs else None
    way = f"on {split}" if split else "not chosen" if known else ""
    way = {"tau_train": "on train", "tau_learned": "learned on train"}.get(classifier, way)
    spread = f" ± {statistics.stdev(known):.2f}" if len(known) > 1 else ""
    return way, f"{statistics.fmean(known):.2f}{spread}" if known else ""
