"""What a run does otherwise than its protocol: resolved values decide, not what was typed."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_module

from fastlt.core.cli import own_parts
from fastlt.experiment.departures import find_departures
from fastlt.train import resolve


@pytest.fixture(scope="module", autouse=True)
def hydra() -> Iterator[None]:
    with initialize_config_module("fastlt.conf", version_base="1.3"):
        yield


class Images:
    """The index of 20,000 images of one class."""

    class_start, class_members = np.array([0, 20_000]), np.arange(20_000)

    def __len__(self) -> int:
        return len(self.class_members)


def departures(*overrides: str, own: str = "cifar_lt_200") -> dict[str, list[Any]]:
    dataset: Any = SimpleNamespace(about={"protocol": own}, split=lambda _: Images(), image_groups=lambda split: None)
    given = own_parts(list(overrides))
    return find_departures(resolve(compose("train", given), given, dataset), dataset)


def test_a_protocol_as_it_is_has_none() -> None:
    for name in ("cifar_lt_200", "cifar_lt_bags", "imagenet_lt_90", "demo", "authors", "authors_places"):
        assert departures(f"protocol={name}") == departures(own=name) == {}


def test_the_protocols_own_value_is_no_departure() -> None:
    own = (
        "protocol.lr=0.1",
        "protocol.milestones=[]",
        "epochs=200",
        "mode=features",
        "stage2.seeds=1",
    )
    assert departures(*own, "protocol.crt.epochs=10", "image_size=32", "sampler.drawing=quota") == {}


def test_what_is_no_part_of_a_protocol_is_no_departure() -> None:
    free = (
        "seed=3",
        "sampler=class",
        "backbone=resnet18",
        "classifiers=[joint]",
        "hold_out=0.1",
        "threads=1",
        "device=cpu",
        "precision=bf16",
    )
    assert departures(*free, "data=elsewhere", "run=here", "choose_on=train", "overwrite=true", "compile=default") == {}


def test_one_word_asks_for_all_that_the_authors_do_and_what_is_given_wins() -> None:
    habits = ("mode=images", "bn=train", "stage2.drawing=reference", "stage2.stepped=epoch", "stage2.keep=best")
    assert departures("protocol=authors", *habits, "protocol.stepped=epoch", "sampler.drawing=reference") == {}
    assert set(departures("protocol=imagenet_lt_90", *habits)) == {given.partition("=")[0] for given in habits}
    assert departures("protocol=authors", "sampler=class", "mode=features") == {"mode": ["images", "features"]}
    assert departures("protocol=authors_inaturalist", "stage2.keep=best") == {"stage2.keep": ["last", "best"]}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("protocol.lr=0.2", {"protocol.lr": [0.1, 0.2]}),
        ("epochs=20", {"epochs": [200, 20]}),
        ("protocol.milestones=[100,150]", {"protocol.milestones": [[], [100, 150]]}),
        ("protocol.crt.epochs=30", {"protocol.crt.epochs": [10, 30]}),
        ("protocol.optimizer_options.dampening=0.5", {"protocol.optimizer_options": [{}, {"dampening": 0.5}]}),
        ("stage2.lr=[0.1,0.2]", {"stage2.lr": [None, [0.1, 0.2]]}),
        ("mode=images", {"mode": ["features", "images"]}),
        ("sampler.drawing=iid", {"sampler.drawing": ["quota", "iid"]}),
        ("accumulate=2", {"accumulate": [1, 2]}),
        ("feature_scale=none", {"feature_scale": ["rms", "none"]}),
    ],
)
def test_what_differs_is_told_with_both_values(given: str, expected: dict[str, list[Any]]) -> None:
    assert departures(given) == expected
    assert departures("protocol=cifar_lt_200", given, own="demo") == expected


def test_what_is_taken_from_the_backbone_and_the_number_of_features_is_no_departure() -> None:
    """A frozen backbone brings mean, size and interpolation; 9,000 features bring batches of 300."""
    frozen = ("epochs=0", "backbone=torchvision:convnext_tiny")
    assert departures(*frozen) == {}
    assert "protocol.crt.batch" not in departures("epochs=0", "protocol=cifar_lt_200")
    assert departures(*frozen, "feature_scale=none") == {"feature_scale": ["rms", "none"]}
    given = departures(*frozen, "protocol.crop_pct=0.5", "protocol.crt.batch=64")
    assert set(given) == {"protocol.crop_pct", "protocol.crt.batch"} and given["protocol.crop_pct"][1] == 0.5
