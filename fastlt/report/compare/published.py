"""All accuracies that a report may show as published. Each was read in a public source; none is computed or recalled.

They are those of Kang et al., "Decoupling Representation and Classifier for Long-Tailed Recognition" (ICLR 2020), as
printed in the authors' code or quoted by others, and others' runs of its methods. Numbers without a source are absent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# A table shows numbers of one series only.
MAIN = "main"  # the paper's own numbers; BagofTricks-LT's for datasets that the paper does not have
RERUN = "re-run"  # cRT after every sampler, run again by authors of the paper
OTHERS = "others"  # from protocols that fastlt does not have: for orientation, never compared
FIGURE_2 = "figure 2"  # read off the paper's curve over tau, accurate to half a percentage point

_README = "classifier-balancing README"
_BAGS = "BagofTricks-LT"
_IMAGENET = ("imagenet_lt_90", "authors")
_INATURALIST = ("inaturalist_90", "inaturalist_200", "authors_inaturalist")


@dataclass(frozen=True)
class PublishedRow:
    """The published accuracies of one classifier in percent; None where no source prints them.

    dataset, backbone, sampler: as in fastlt.
    epochs: of stage 1; several if the authors do not remember which.
    classifier: its name in fastlt; in OTHERS the name of the method in the source.
    source: who prints the numbers.
    protocols: fastlt's protocols that equal the published one, so that runs may be compared; none for OTHERS.
    imbalance: for CIFAR-LT.
    tau: for points of FIGURE_2.
    about: for OTHERS, the network and how its training differs.
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
    protocols: tuple[str, ...] = ()
    imbalance: int | None = None
    tau: float | None = None
    about: str = ""


def _imagenet(classifier: str, *scores: float, backbone: str = "resnext50", **others: Any) -> PublishedRow:
    told = {"source": _README, "protocols": _IMAGENET, **others}
    return _row("imagenet_lt", backbone, (90,), classifier, scores, **told)


def _places(classifier: str, source: str, *scores: float) -> PublishedRow:
    told = {"source": f"as quoted by {source}", "protocols": ("places_lt", "authors_places")}
    return _row("places_lt", "resnet152", (30, 90), classifier, scores, **told)


def _inaturalist(backbone: str, epochs: int, classifier: str, source: str, *scores: float) -> PublishedRow:
    told = {"source": f"as quoted by {source}", "protocols": _INATURALIST}
    return _row("inaturalist2018", backbone, (epochs,), classifier, scores, **told)


def _bags(classes: int, imbalance: int, **scores: float) -> tuple[PublishedRow, ...]:
    """Returns BagofTricks-LT's own numbers {classifier: accuracy}, which are of the epoch that is best on test."""
    own = {"joint": f"{_BAGS} README, baselines using its code"}
    told = {"protocols": ("cifar_lt_bags",), "imbalance": imbalance}
    return tuple(
        _row(
            f"cifar{classes}_lt",
            "resnet32",
            (200,),
            known,
            (score,),
            source=own.get(known, f"{_BAGS} gallery, epoch best on test"),
            **told,
        )
        for known, score in scores.items()
    )


def _other(
    source: str, method: str, about: str, *scores: float, classes: int = 100, imbalance: int = 100,
    backbone: str = "resnet32", epochs: int = 200,
) -> PublishedRow:  # fmt: skip
    told = {"source": source, "about": about, "imbalance": imbalance, "series": OTHERS}
    return _row(f"cifar{classes}_lt", backbone, (epochs,), method, scores, **told)


def _row(
    dataset: str, backbone: str, epochs: tuple[int, ...], classifier: str, scores: tuple[float, ...], **others: Any
) -> PublishedRow:
    """Makes a PublishedRow. scores: many, medium, few and all, or all only."""
    names = ("many", "medium", "few", "all") if len(scores) == 4 else ("all",)
    named: dict[str, Any] = {**dict(zip(names, scores, strict=True)), **others}
    return PublishedRow(dataset, backbone, epochs, classifier, **named)


_SURVEY = {"source": "re-run in the survey of Zhang, Kang et al.", "series": RERUN}
_CURVE = {"source": "read off Figure 2, ±0.5", "series": FIGURE_2}
_R10 = {"backbone": "resnet10"}
_R50 = {"backbone": "resnet50", "source": "as quoted by the DBM-loss paper and OpenLT"}
_BOARD = "the Long-Tailed Classification Leaderboard"
_REFERENCE = (
    f'{_BAGS}, "Reference"',
    "softmax",
    "true ResNet-32; quoted there from Cui, Kang and Liu, printed beside its tricks",
)
_ZOO = "RIDE model zoo"
_SADDLE = "Saddle-LongTail README"
_SADE = "SADE README"
_TRUE = "true ResNet-32"
_WIDE = "64-wide ResNet-34, 20 times as many parameters or more; epoch chosen on test"

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
    *_bags(100, 100, joint=37.7, tau_norm=41.0, crt=40.3, lws=40.2),
    *_bags(100, 50, joint=43.8, tau_norm=45.7, crt=45.4, lws=45.2),
    *_bags(10, 100, joint=72.0, tau_norm=72.7, crt=75.0, lws=72.6),
    *_bags(10, 50, joint=76.5, tau_norm=79.8, crt=80.2, lws=78.7),
    _other(*_REFERENCE, 38.3),
    _other(*_REFERENCE, 43.9, imbalance=50),
    _other(*_REFERENCE, 70.4, classes=10),
    _other(*_REFERENCE, 74.8, classes=10, imbalance=50),
    _other(_ZOO, "softmax", f"{_TRUE}; RIDE's own run", 66.1, 37.3, 10.6, 39.1),
    _other(_ZOO, "best of cRT, tau-norm and LWS", f"{_TRUE}; whichever is best", 64.0, 44.8, 18.1, 43.3),
    _other(_SADE, "softmax", _TRUE, 41.4),
    _other(_SADE, "RIDE", f"{_TRUE}, 3 experts", 48.0),
    _other(_SADE, "SADE", f"{_TRUE}, 3 experts", 49.8),
    _other(_SADDLE, "CE + DRW + SAM", _TRUE, 44.6),
    _other(_SADDLE, "LDAM + DRW + SAM", _TRUE, 45.4),
    _other(_SADDLE, "CE + DRW + SAM", _TRUE, 80.6, classes=10),
    _other(_SADDLE, "LDAM + DRW + SAM", _TRUE, 81.9, classes=10),
    _other("ProCo README", "ProCo", f"{_TRUE}, cosine head; AutoAugment and Cutout", 52.8),
    _other("ProCo README", "ProCo", f"{_TRUE}, cosine head; AutoAugment and Cutout", 54.2, epochs=400),
    _other("SHIKE's log", "SHIKE", f"{_TRUE} in width, 3 experts; AutoAugment and Cutout", 56.34),
    _other("weight balancing, logs", "softmax", _WIDE, 39.1, backbone="resnet34", epochs=320),
    _other("weight balancing, logs", "weight decay 5e-3", _WIDE, 46.8, backbone="resnet34", epochs=320),
    _other("weight balancing, logs", "weight decay and MaxNorm", _WIDE, 51.8, backbone="resnet34", epochs=320),
)
