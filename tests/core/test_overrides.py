"""Arguments of commands: strings mean themselves, near keys are suggested, what cannot be read is told its quotes."""

import hydra
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from fastlt.core.cli import one_line
from fastlt.core.errors import UserError
from fastlt.core.overrides import quoted, quoted_strings
from fastlt.core.structured import register
from fastlt.data.convert.config import ConvertConfig
from fastlt.experiment.config import TrainConfig
from fastlt.grid.arguments import combinations, split_arguments

LETTERS = st.text(st.sampled_from("ab1_\\'\" ,=()[]{}#%:é昆\t~^-.*?!|&;<>@/"), min_size=1)
NAMES = [
    "Käfer_昆虫", "photos (2024)", "r/epoch=3-step=10.ckpt", "a,b", "2024_01_15", "true", "1e3", "0x10", "[a]", "{b}",
    "a: b", "it's", '"half', "C:\\new\\", "choice(a,b)", "~/x", "#1", "a$b", " blank ", "-", "@x", "off",
]  # fmt: skip


def composed(*arguments: str, command: str = "train", schema: type = TrainConfig) -> DictConfig:
    register(command, schema)
    with hydra.initialize_config_module("fastlt.conf", version_base="1.3"):
        return hydra.compose(command, quoted_strings(arguments, schema))


@given(LETTERS)
def test_any_text_can_be_quoted(text: str) -> None:
    assert OverridesParser.create().parse_override(f"data={quoted(text)}").value() == text


@pytest.mark.parametrize("name", NAMES)
def test_strings_mean_themselves(name: str) -> None:
    assert composed(f"data={name}").data == name
    assert composed(f"protocol.pretrained={name}").protocol.pretrained == name


def test_strings_of_every_command() -> None:
    config = composed("dataset=shapes", "out=2024_01_15", command="convert", schema=ConvertConfig)
    assert config.out == "2024_01_15"


def test_what_is_no_string_stays() -> None:
    given = [
        "seed=0_1",
        "classifiers=[joint,ncm_l2]",
        "run=null",
        "data='a b'",
        "run=${data}",
        "+data=x",
        "--config",
        "job",
    ]
    assert quoted_strings(given, TrainConfig) == given
    assert composed("run=null").run is None


def test_several_values_of_a_sweep() -> None:
    assert quoted_strings(["data=a,b"], TrainConfig, sweeps=True) == ["data=a,b"]
    assert quoted_strings(["data=a,b"], TrainConfig) == ["data='a,b'"]
    own, cells = split_arguments(["out=x (y)", "data=p (q)", "sampler=instance,class", "seed=0"])
    assert own == ["out=x (y)"]  # quoted by the grid's own command
    wanted = [["data='p (q)'", f"sampler={law}", "seed=0"] for law in ("instance", "class")]
    assert combinations([["seed=1"]], cells) == wanted


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("classifiers=[a b", "classifiers=[a b cannot be read: text stands in quotes (\"classifiers='[a b'\"), lists"),
        ("epochs=(3", "epochs=(3 cannot be read: text stands in quotes"),
        ("a b=3", "a b=3: arguments are key=value, and 'a b' is no key"),
    ],
)
def test_what_cannot_be_read(argument: str, told: str) -> None:
    with pytest.raises(UserError) as error:
        quoted_strings([argument], TrainConfig)
    assert str(error.value).startswith(told) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("argument", "near"),
    [
        ("lr=1", "protocol.lr or"),
        ("batch=8", "protocol.batch or"),
        ("optimizer=adamw", "protocol.optimizer?"),
        ("protocol.learn_rate=1", "protocol.lr?"),
        ("learning_rate=1", "protocol.lr or"),
        ("protocol.batchsize=8", "protocol.batch?"),
        ("model=resnet32", "backbone?"),
        ("gpus=2", "device?"),
        ("workers=2", "threads?"),
        ("out=mine", "run?"),
        ("colour=red", None),
        ("clasifiers=[joint]", "classifiers?"),
        ("protocol.lrr=1", "protocol.lr?"),
        ("weight_decy=1", "protocol.weight_decay?"),
    ],
)
def test_unknown_keys_are_told_the_near_one(argument: str, near: str | None) -> None:
    with pytest.raises(HydraException) as error:
        composed(argument)
    line = one_line(error.value, TrainConfig)
    assert line.startswith(f"unknown key {argument.partition('=')[0]}") and "\n" not in line
    assert (f"(did you mean {near}" in line) if near else ("did you mean" not in line)


@pytest.mark.parametrize("argument", ["data=in/${x}", "data=${oc.env:NO_SUCH}", "seed=${y}", "data=${run:3}"])
def test_what_stands_for_another_key_is_told_how_to_write_it_as_letters(argument: str) -> None:
    key = argument.partition("=")[0]
    with pytest.raises(OmegaConfBaseException) as error:
        _ = composed(argument)[key]
    line = one_line(error.value, TrainConfig)
    assert line.startswith(f"{key}: ") and "\n" not in line
    assert line.endswith(r"; ${KEY} stands for the value of KEY: write \${...} for the letters themselves")
    assert composed(r"data=in/\${x}").data == "in/${x}"
