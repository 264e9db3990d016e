"""Every file in conf/ composes and fits its schema."""

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from fastlt.core.schedule import Schedule
from fastlt.data.plan import Augment
from fastlt.experiment.config import register
from fastlt.experiment.options import Options
from fastlt.longtail.sampler import LAWS
from fastlt.models.backbones import BACKBONES
from fastlt.train import options_of

CONF = Path(__file__).parents[2] / "conf"
COMMANDS = {"train": ("protocol", "backbone", "sampler"), "convert": ("dataset",), "grid": ("grid",)}
CASES = [
    (command, group, path.stem)
    for command, groups in COMMANDS.items()
    for group in groups
    for path in sorted((CONF / group).glob("*.yaml"))
    if path.stem != "auto"
]


def test_no_file_is_left_out() -> None:
    groups = {path.name for path in CONF.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert groups == {group for groups in COMMANDS.values() for group in groups}


def composed(command: str, *overrides: str) -> Any:
    register()
    with initialize_config_module("fastlt.conf", version_base="1.3"):
        return compose(command, list(overrides))


@pytest.mark.parametrize(("command", "group", "name"), CASES)
def test_composes(command: str, group: str, name: str) -> None:
    cfg = composed(command, f"{group}={name}")
    chosen = OmegaConf.to_container(cfg[group], throw_on_missing=group != "dataset")
    assert cfg[group].name == name
    assert isinstance(chosen, dict)
    if group == "protocol":
        assert cfg.protocol.backbone in BACKBONES
        Augment(cfg.protocol.image_size, cfg.protocol.crop, tuple(cfg.protocol.scale), jitter=cfg.protocol.jitter)
        Schedule(cfg.protocol.epochs, cfg.protocol.lr, cfg.protocol.momentum, cfg.protocol.weight_decay)


def options(*overrides: str) -> Options:
    return options_of(
        composed("train", "backbone=resnet152", "epochs=1", "image_size=32", "precision=fp32", *overrides)
    )


@pytest.mark.parametrize(
    ("protocol", "smoothing"),
    [("places_lt", (0.4, 0.1)), ("cifar_lt_200", (0.4, 0.1)), ("cifar_lt_bags", (0.4, 0.1)),
     ("cifar_lt_ldam", (0.4, 0.1)), ("imagenet_lt_90", (0.3, 0.0)), ("inaturalist_90", (0.3, 0.0))],
)  # fmt: skip
def test_label_aware_smoothing_has_the_numbers_of_mislas(protocol: str, smoothing: tuple[float, float]) -> None:
    given = options(f"protocol={protocol}", "protocol.loss=label_aware_smoothing")
    stage2 = given.trainings()
    assert (stage2.smoothing_head, stage2.smoothing_tail) == smoothing
    recipe, key = given.recipe(), given.settings("digest").key
    assert recipe.loss_options == dict(zip(("smoothing_head", "smoothing_tail"), smoothing, strict=True))
    other = options(f"protocol={protocol}", "protocol.loss=label_aware_smoothing", "protocol.smoothing_head=0.5")
    assert other.settings("digest").key != key
    said = options(
        f"protocol={protocol}", "protocol.loss=label_aware_smoothing", "protocol.loss_options.smoothing_head=0.5"
    )
    assert said.recipe().loss_options["smoothing_head"] == 0.5
    # Without that loss the smoothing concerns crt_las alone, and no representation.
    plain = options(f"protocol={protocol}"), options(f"protocol={protocol}", "protocol.smoothing_head=0.5")
    assert plain[0].settings("digest").key == plain[1].settings("digest").key
    assert plain[0].recipe().loss_options == {}


def test_samplers_and_backbones_have_a_file_each() -> None:
    assert {path.stem for path in (CONF / "sampler").glob("*.yaml")} == set(LAWS)
    assert {path.stem for path in (CONF / "backbone").glob("*.yaml")} == {*BACKBONES, "auto"}
