"""--help of the commands that take key=value arguments."""

import re
import sys

import pytest

import fastlt.bench.__main__ as bench
import fastlt.convert as convert
import fastlt.grid.__main__ as grid
import fastlt.train as train
from fastlt.bench.config import BenchConfig
from fastlt.core.keys import described
from fastlt.data.convert.config import ConvertConfig
from fastlt.experiment.config import TrainConfig
from fastlt.grid.config import GridConfig

COMMANDS = [
    (train.main, train.HELP, [TrainConfig]),
    (convert.main, convert.HELP, [ConvertConfig]),
    (grid.main, grid.HELP, [GridConfig, TrainConfig]),
    (bench.main, bench.HELP, [BenchConfig]),
]


@pytest.mark.parametrize(("command", "about", "schemas"), COMMANDS)
def test_help(command, about, schemas, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["command", "--help"])
    command()
    text = capsys.readouterr().out
    keys = {key.path for schema in schemas for key in described(schema)}
    groups = {key.rpartition(".")[0] for key in keys}
    assert len(about.examples) >= 3
    for example in about.examples:
        assert f"  {example}\n" in text
        given = re.findall(r" \'?([a-z][\w.]*)=", example.partition("#")[0])
        assert given and set(given) <= keys | groups, example
    own = described(schemas[0])
    assert all(re.search(rf"^  {re.escape(key.path)}\b", text, re.MULTILINE) for key in own)
    assert max(map(len, text.splitlines())) <= 120
    assert not re.search(
        r"(see|as in) (`|[A-Z]\w+\b)|[A-Z_]{4,} \([a-z_]+[.]py", text
    )  # no reader of it knows the code


@pytest.mark.parametrize("schema", [TrainConfig, ConvertConfig, GridConfig, BenchConfig])
def test_every_key_is_explained(schema: type) -> None:
    assert [key.path for key in described(schema) if not key.meaning] == []


def test_names_that_keys_take_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["command", "--help"])
    train.main()
    named = " ".join(capsys.readouterr().out.partition("named values:")[2].partition("keys,")[0].split())
    assert "classifiers=paper, all, joint, ncm_l2, ncm_cosine, crt, " in named and ", crt_images, " in named
    assert "protocol.loss=cross_entropy, " in named
    assert "protocol.augment=autoaugment_cifar, " in named
    assert "sampler=class, instance, " in named
