"""Every accuracy that a report may show as published: read in a public source, never worked out, never from memory.

Kang et al., "Decoupling Representation and Classifier for Long-Tailed Recognition" (ICLR 2020), as its authors' code or
those who quote it print it, and others' runs of its methods. What no source confirms is absent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# Numbers of one series may stand in one table; those of several never do.
MAIN = "main"  # the paper's own where the paper has the data set, else BagofTricks-LT's
RERUN = "re-run"  # cRT for every sampler, run again by authors of the paper
RIDE = "RIDE"
FIGURE_2 = "figure 2"  # read off the paper's curve over tau, so within half a point
BEST_DECOUPLED = "best_decoupled"  # RIDE's row for the best of cRT, tau-norm and LWS: no classifier by itself

_README = "classifier-balancing README"
_BAGS = "BagofTricks-LT"


@dataclass(frozen=True)
class PublishedRow:
    """Accuracies in percent of one classifier, None where no source prints them.

    sampler, epochs: of stage 1; several epochs where the authors do not remember which. imbalance: of CIFAR-LT. tau:
    of a point of FIGURE_2.
    """

    dataset: str
    backbone: str
    epochs: tuple[int, ...]
    classifier: str
    source: str
    all: float
    many: float | None = None
    medium: float | None = None
    few: float | None = None
    sampler: str = "instance"
    series: str = MAIN
    imbalance: int | None = None
    tau: float | None = None


def _imagenet(classifier: str, *scores: float, backbone: str = "resnext50", **others: Any) -> PublishedRow:
    return _row("imagenet_lt", backbone, (90,), classifier, scores, **{"source": _README, **others})


def _places(classifier: str, source: str, *scores: float) -> PublishedRow:
    return _row("places_lt", "resnet152", (30, 90), classifier, scores, source=f"as quoted by {source}")


def _inaturalist(backbone: str, epochs: int, classifier: str, source: str, *scores: float) -> PublishedRow:
    return _row("inaturalist2018", backbone, (epochs,), classifier, scores, source=f"as quoted by {source}")


def _cifar(classes: int, imbalance: int, classifier: str, *scores: float, **others: Any) -> PublishedRow:
    told = {"source": _BAGS, **others}
    return _row(f"cifar{classes}_lt", "resnet32", (200,), classifier, scores, imbalance=imbalance, **told)


def _row(
    dataset: str, backbone: str, epochs: tuple[int, ...], classifier: str, scores: tuple[float, ...], **others: Any
) -> PublishedRow:
    """scores: many, medium, few, all, or all alone."""
    names = ("many", "medium", "few", "all") if len(scores) == 4 else ("all",)
    named: dict[str, Any] = {**dict(zip(names, scores, strict=True)), **others}
    return PublishedRow(dataset, backbone, epochs, classifier, **named)


_SURVEY = {"source": "re-run in the survey of Zhang, Kang et al.", "series": RERUN}
_CURVE = {"source": "read off Figure 2, ±0.5", "series": FIGURE_2}
_R10 = {"backbone": "resnet10"}
_R50 = {"backbone": "resnet50", "source": "as quoted by the DBM-loss paper and OpenLT"}
_BOARD = "the Long-Tailed Classification Leaderboard"
_ZOO = {"source": "RIDE model zoo", "series": RIDE}

PUBLISHED = (
    # ImageNet-LT, ResNeXt-50: the joint classifier after every sampler, all classifiers after the instance-balanced one
    _imagenet("joint", 65.9, 37.5, 7.7, 44.4),
    _imagenet("joint", 61.8, 40.1, 15.5, 45.1, sampler="class"),
    _imagenet("joint", 64.3, 41.2, 17.0, 46.8, sampler="sqrt"),
    _imagenet("joint", 61.9, 43.2, 19.4, 47.2, sampler="progressive"),
    _imagenet("ncm_l2", 56.6, 45.3, 28.1, 47.3),
    _imagenet("crt", 61.8, 46.2, 27.4, 49.6),
    _imagenet("tau_norm", 59.1, 46.9, 30.7, 49.4),
    _imagenet("lws", 60.2, 47.2, 30.3, 49.9),
    _imagenet("crt", 62.6, 46.2, 26.7, 49.9, **_SURVEY),
    _imagenet("crt", 62.4, 39.3, 14.9, 44.9, sampler="class", **_SURVEY),
    _imagenet("crt", 64.1, 43.9, 19.5, 49.3, sampler="sqrt", **_SURVEY),
    _imagenet("crt", 63.9, 45.0, 23.2, 48.4, sampler="progressive", **_SURVEY),
    _imagenet("tau_norm", 65.9, 37.5, 7.7, 44.4, tau=0.0, **_CURVE),
    _imagenet("tau_norm", 59.1, 46.9, 30.7, 49.4, tau=0.7, **_CURVE),
    _imagenet("tau_norm", 8.5, 18.0, 47.8, 18.4, tau=2.0, **_CURVE),
    # ImageNet-LT, other backbones
    _imagenet("joint", 34.8, **_R10, source="as quoted by OpenLT and BalancedMetaSoftmax"),
    _imagenet("crt", 41.8, **_R10, source="as quoted by OpenLT"),
    _imagenet("lws", 41.4, **_R10, source="as quoted by OpenLT"),
    _imagenet("joint", 41.6, **_R50),
    _imagenet("tau_norm", 46.7, **_R50),
    _imagenet("crt", 47.3, **_R50),
    _imagenet("lws", 47.7, **_R50),
    _imagenet("lws", 63.5, 50.4, 34.2, 53.3, backbone="resnext152", source=f"as quoted by {_BOARD}"),
    # Places-LT
    _places("joint", "AlphaNet", 45.7, 27.3, 8.2, 30.2),
    _places("ncm_l2", "AlphaNet", 40.4, 37.1, 27.3, 36.4),
    _places("crt", "AlphaNet", 42.0, 37.6, 24.9, 36.7),
    _places("tau_norm", "AlphaNet and LADE", 37.8, 40.7, 31.8, 37.9),
    _places("lws", f"LADE and {_BOARD}", 40.6, 39.1, 28.6, 37.6),
    # iNaturalist 2018
    _inaturalist("resnet50", 90, "joint", "LTR-weight-balancing and RIDE", 72.2, 63.0, 57.2, 61.7),
    _inaturalist("resnet50", 90, "crt", "LTR-weight-balancing", 69.0, 66.0, 63.2, 65.2),
    _inaturalist("resnet50", 90, "tau_norm", "LTR-weight-balancing", 65.6),
    _inaturalist("resnet50", 90, "lws", "RIDE", 65.0, 66.3, 65.5, 65.9),
    _inaturalist("resnet50", 200, "tau_norm", "LADE", 71.1, 68.9, 69.3, 69.3),
    _inaturalist("resnet50", 200, "lws", f"LADE and {_BOARD}", 69.5),
    _inaturalist("resnet152", 90, "lws", _BOARD, 69.1),
    _inaturalist("resnet152", 200, "crt", "AlphaNet, from the released checkpoint", 71.2),
    _inaturalist("resnet152", 200, "tau_norm", "summaries of the paper", 72.5),
    _inaturalist("resnet152", 200, "lws", _BOARD, 72.1),
    # CIFAR-LT: not in the paper
    _cifar(100, 100, "joint", 38.3),
    _cifar(100, 100, "tau_norm", 41.0),
    _cifar(100, 100, "crt", 40.3),
    _cifar(100, 100, "lws", 40.2),
    _cifar(100, 50, "joint", 43.9),
    _cifar(100, 50, "tau_norm", 45.7),
    _cifar(100, 50, "crt", 45.4),
    _cifar(100, 50, "lws", 45.2),
    _cifar(100, 100, "joint", 66.1, 37.3, 10.6, 39.1, **_ZOO),
    _cifar(100, 100, BEST_DECOUPLED, 64.0, 44.8, 18.1, 43.3, **_ZOO),
    _cifar(10, 100, "joint", 70.4),
    _cifar(10, 100, "tau_norm", 72.7),
    _cifar(10, 100, "crt", 75.0),
    _cifar(10, 100, "lws", 72.6),
    _cifar(10, 50, "joint", 74.8),
    _cifar(10, 50, "tau_norm", 79.8),
    _cifar(10, 50, "crt", 80.2),
    _cifar(10, 50, "lws", 78.7),
)
