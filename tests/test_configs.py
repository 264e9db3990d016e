"""Every file in conf/ composes and fits its schema."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from fastlt.backbones import BACKBONES
from fastlt.config import register
from fastlt.plan import Augment
from fastlt.representation import Schedule
from fastlt.sampler import LAWS

CONF = Path(__file__).parents[1] / "conf"
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


@pytest.mark.parametrize(("command", "group", "name"), CASES)
def test_composes(command: str, group: str, name: str) -> None:
    register()
    with initialize_config_module("fastlt.conf", version_base="1.3"):
        cfg = compose(command, [f"{group}={name}"])
    chosen = OmegaConf.to_container(cfg[group], throw_on_missing=group != "dataset")
    assert cfg[group].name == name
    assert isinstance(chosen, dict)
    if group == "protocol":
        assert cfg.protocol.backbone in BACKBONES
        Augment(cfg.protocol.image_size, cfg.protocol.crop, tuple(cfg.protocol.scale), jitter=cfg.protocol.jitter)
        Schedule(cfg.protocol.epochs, cfg.protocol.lr, cfg.protocol.momentum, cfg.protocol.weight_decay)


def test_samplers_and_backbones_have_a_file_each() -> None:
    assert {path.stem for path in (CONF / "sampler").glob("*.yaml")} == set(LAWS)
    assert {path.stem for path in (CONF / "backbone").glob("*.yaml")} == {*BACKBONES, "auto"}
