"""Every file in conf/ composes and fits its schema."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from fastlt.core.errors import UserError
from fastlt.core.structured import from_node, register
from fastlt.data.convert.config import ConvertConfig
from fastlt.experiment.config import TrainConfig
from fastlt.experiment.identity import determined_by, reweighting_of
from fastlt.grid.config import GridConfig
from fastlt.longtail.losses.reweighting import Reweighting
from fastlt.longtail.sampler import LAWS
from fastlt.models.backbones import BACKBONES
from fastlt.stage2.classifiers import NEED_LINEAR, SETS

DATASET: Any = SimpleNamespace(digest="digest")
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
    register("convert", ConvertConfig)
    register("grid", GridConfig)
    with initialize_config_module("fastlt.conf", version_base="1.3"):
        return compose(command, list(overrides))


@pytest.mark.parametrize(("command", "group", "name"), CASES)
def test_composes(command: str, group: str, name: str) -> None:
    config = composed(command, f"{group}={name}")
    chosen = OmegaConf.to_container(config[group], throw_on_missing=group != "dataset")
    assert config[group].name == name
    assert isinstance(chosen, dict)
    if group == "protocol":
        assert from_node(config, TrainConfig).backbone.name == config.protocol.backbone


def options(*overrides: str) -> TrainConfig:
    given = ("backbone=resnet152", "epochs=1", "image_size=32", "precision=fp32")
    return from_node(composed("train", *given, *overrides), TrainConfig)


def key(config: TrainConfig) -> str:
    return determined_by(config, DATASET).key


@pytest.mark.parametrize(
    ("protocol", "smoothing"),
    [("places_lt", (0.4, 0.1)), ("cifar_lt_200", (0.4, 0.1)), ("cifar_lt_bags", (0.4, 0.1)),
     ("cifar_lt_ldam", (0.4, 0.1)), ("imagenet_lt_90", (0.3, 0.0)), ("inaturalist_90", (0.3, 0.0))],
)  # fmt: skip
def test_label_aware_smoothing_has_the_numbers_of_mislas(protocol: str, smoothing: tuple[float, float]) -> None:
    given = options(f"protocol={protocol}", "protocol.loss=label_aware_smoothing")
    stage2 = given.trainings
    assert (stage2.smoothing_head, stage2.smoothing_tail) == smoothing
    assert given.protocol.options_of_loss() == dict(zip(("smoothing_head", "smoothing_tail"), smoothing, strict=True))
    other = options(f"protocol={protocol}", "protocol.loss=label_aware_smoothing", "protocol.smoothing_head=0.5")
    assert key(other) != key(given)
    said = options(
        f"protocol={protocol}", "protocol.loss=label_aware_smoothing", "protocol.loss_options.smoothing_head=0.5"
    )
    assert said.protocol.options_of_loss()["smoothing_head"] == 0.5
    # Without that loss the smoothing concerns crt_las alone, and no representation.
    plain = options(f"protocol={protocol}"), options(f"protocol={protocol}", "protocol.smoothing_head=0.5")
    assert key(plain[0]) == key(plain[1])
    assert plain[0].protocol.options_of_loss() == {}


def test_a_head_of_cosines_leaves_out_what_needs_a_linear_one_and_parts_of_a_recipe_are_named() -> None:
    keys = ["protocol.head=etf", "protocol.drw.weights=inverse_frequency", "protocol.sam.rho=0.1"]
    framed = options("protocol=cifar_lt_200", *keys)
    assert framed.classifier_names == ["joint", "ncm_l2", "ncm_cosine", "crt"]
    every = options("protocol=cifar_lt_200", "protocol.loss=ldam", "classifiers=[all]").classifier_names
    assert set(SETS["all"]) - set(every) == set(NEED_LINEAR) - {"lws_images"}
    given = options("protocol=cifar_lt_200", "representation=other.pt")
    assert given.with_classifiers_for("linear") is given
    assert given.with_classifiers_for("cosine").classifier_names == framed.classifier_names
    given = options("protocol=cifar_lt_200", "representation=other.pt", "classifiers=[joint,los]")
    with pytest.raises(UserError, match=r"classifiers: los is made from a linear joint classifier, and this one"):
        given.with_classifiers_for("etf")
    about = determined_by(framed, DATASET).about
    assert about["protocol.drw.weights"] == "inverse_frequency" and about["protocol.sam.rho"] == 0.1
    assert reweighting_of(about) == framed.protocol.drw != Reweighting()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        *((f"classifiers=[{name}]", f"{name} is made from a linear .* .protocol.head=etf") for name in NEED_LINEAR),
        ("protocol.drw.after=2", "protocol.drw.after=2.0: it must be in"),
        ("protocol.swa.after=-1", "protocol.swa.after=-1.0: it must be in"),
        ("protocol.head_scale=0", "protocol.head_scale=0.0: it must be greater than 0"),
        ("protocol.clip_norm=nan", "protocol.clip_norm=nan: it must be a finite number"),
        ("protocol.crt.weight_decay=inf", "protocol.crt.weight_decay=inf: it must be a finite number"),
        ("stage2.lr=[0.1,nan]", "stage2.lr=nan: it must be a finite number"),
        ("protocol.batch_hook_options={deep:{er:[1.0,-inf]}}", "protocol.batch_hook_options.deep.er=-inf: it must"),
        ("protocol.weight_decay=-1", "protocol.weight_decay=-1.0: it must be 0 .none. or more"),
        ("protocol.momentum=1", "protocol.momentum=1.0: it must be in .0, 1., such as 0.9"),
    ],
)
def test_wrong_parts_of_a_recipe_are_named(wrong: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        options("protocol=cifar_lt_200", "protocol.head=etf", wrong)


def test_samplers_and_backbones_have_a_file_each() -> None:
    assert {path.stem for path in (CONF / "sampler").glob("*.yaml")} == set(LAWS)
    assert {path.stem for path in (CONF / "backbone").glob("*.yaml")} == {*BACKBONES, "auto"}
