"""Keys hash what is not at its default: a setting that is new changes no key of what was computed before it."""

from dataclasses import field, make_dataclass, replace
from typing import Any

import pytest
from test_configs import DATASET, options

from fastlt.core.config import assemble, changed
from fastlt.core.errors import UserError
from fastlt.experiment.config import TrainConfig
from fastlt.experiment.identity import determined_by
from fastlt.grid.cells import results_key


def widened(component: Any, **given: Any) -> Any:
    """The component with a field that its class does not have."""
    new = ("brand_new", float, field(default=0.5, kw_only=True))
    kind: Any = make_dataclass(type(component).__name__, [new], bases=(type(component),), frozen=True)
    return assemble(kind, component, **given)


def with_new(config: TrainConfig, place: str, **given: Any) -> TrainConfig:
    """The configuration with a new setting there."""
    if not place:
        return widened(config, **given)
    section, _, inner = place.partition(".")
    component = getattr(config, section)
    new = replace(component, **{inner: widened(getattr(component, inner), **given)}) if inner else None
    return replace(config, **{section: new or widened(component, **given)})


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    return options("protocol=cifar_lt_bags", "protocol.loss=focal", "stage2.seeds=2")


@pytest.mark.parametrize("place", ["", "backbone", "sampler", "protocol", "protocol.crt", "protocol.lws", "stage2"])
def test_a_new_setting_changes_no_key(config: TrainConfig, place: str) -> None:
    for key in (lambda one: determined_by(one, DATASET).key, lambda one: results_key(one, DATASET)):
        assert key(with_new(config, place)) == key(config)
    other = with_new(config, place, brand_new=0.7)
    stage_2 = place.startswith(("stage2", "protocol."))
    assert (determined_by(other, DATASET).key == determined_by(config, DATASET).key) == stage_2
    assert results_key(other, DATASET) != results_key(config, DATASET)


def test_what_only_says_how_it_runs_is_in_no_key(config: TrainConfig) -> None:
    how: dict[str, Any] = {
        "threads": 3,
        "device": "cpu",
        "compile": "default",
        "logger": (),
        "overwrite": True,
    }
    other = replace(config, data="elsewhere", run="there", save_epochs=7, save_minutes=0.0, max_damaged=0, **how)
    assert results_key(other, DATASET) == results_key(config, DATASET)
    assert determined_by(replace(config, classifiers=("crt",), augmented_passes=2), DATASET) == determined_by(
        config, DATASET
    )


def test_a_key_says_what_was_set(config: TrainConfig) -> None:
    about = determined_by(config, DATASET).about
    assert about["protocol.loss"] == "focal" and about["backbone"] == "resnet152" and about["epochs"] == 1
    assert not {"seed", "sampler.drawing", "protocol.ema", "protocol.epochs", "protocol.crt.lr"} & about.keys()
    assert changed(config.trainings)["crt.milestones"] == [9, 19] and changed(config.trainings)["seeds"] == 2


def test_augmentations_are_in_a_key_where_there_are_some(config: TrainConfig) -> None:
    assert not {"protocol.augment", "protocol.augment_options"} & determined_by(config, DATASET).about.keys()
    keys = ["protocol.augment=[randaugment,cutout]", "protocol.augment_options.cutout.size=8"]
    about = determined_by(options("protocol=cifar_lt_bags", *keys), DATASET).about
    assert about["protocol.augment"] == ["randaugment", "cutout"]
    assert about["protocol.augment_options"] == {"cutout": {"size": 8}}
    with pytest.raises(
        UserError, match=r"^protocol.augment_options.cutout.size=0: it must be a whole number from 1 to"
    ):
        options("protocol=cifar_lt_bags", "protocol.augment=[cutout]", "protocol.augment_options.cutout.size=0")
