"""Few photos: the default protocol suits them, and a batch that does not is refused before anything runs."""

import contextlib
import io
import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from unittest import mock

import pytest
import yaml
from hydra import compose, initialize_config_module
from pictures import Pictures, conversion

from fastlt.core.errors import UserError
from fastlt.data.convert import convert
from fastlt.data.shards.reader import Dataset
from fastlt.experiment.config import TrainConfig
from fastlt.train import main, resolve


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """73 training images of 5 classes."""
    source = Pictures(counts=(40, 16, 9, 5, 3))
    options = replace(conversion(), protocol="by_size")
    return Dataset(convert(source, options, tmp_path_factory.mktemp("few") / "data", workers=1))


def settled(dataset: Dataset, *given: str) -> TrainConfig:
    overrides = [f"data={dataset.root}", *given]
    with initialize_config_module("fastlt.conf", version_base="1.3"):
        return resolve(compose("train", overrides), overrides, dataset)


def test_the_default_protocol_suits_few_images(few: Dataset) -> None:
    config = settled(few)
    usual = settled(few, f"protocol={config.protocol.name}", "protocol.batch=16").protocol
    assert config.protocol.name in ("small_32", "small_64")
    assert (config.protocol.batch, config.protocol.lr) == (16, usual.lr / 8)
    for training in (config.protocol.crt, config.protocol.lws):
        assert training.epochs * (73 // training.batch) >= 300
    assert (usual.crt.epochs, usual.crt.batch) == (10, 128)  # as the protocol that was named says
    own = settled(few, "protocol.batch=32", "protocol.crt.epochs=3").protocol
    assert (own.batch, own.lr, own.crt.epochs) == (32, usual.lr, 3)


def test_a_batch_that_is_too_large_is_refused_at_once(few: Dataset) -> None:
    for given, images in (((), 73), (("hold_out=0.2",), 58)):
        with pytest.raises(UserError, match=rf"protocol.batch=74 is larger .* training images \({images}\): choose"):
            settled(few, "protocol.batch=74", *given)
    assert settled(few, "protocol.batch=74", "epochs=0").epochs == 0


@pytest.mark.parametrize("asked", [["--cfg", "job"], ["--cfg=job", "--resolve"], ["-c", "job"]])
def test_cfg_job_prints_the_values_that_a_training_takes(few: Dataset, tmp_path: Path, asked: list[str]) -> None:
    text = printed(f"data={few.root}", "seed=3", *asked, cwd=tmp_path)
    assert "???" not in text
    expected = asdict(replace(settled(few), seed=3))
    assert yaml.safe_load(text) == json.loads(json.dumps(expected))  # which has lists for tuples
    assert list(tmp_path.iterdir()) == []


def test_cfg_job_draws_no_embedded_data(tmp_path: Path) -> None:
    for given, name in (([], "demo"), (["protocol=small_64"], "small_64")):
        values = yaml.safe_load(printed(*given, "--cfg", "job", cwd=tmp_path))
        assert values["protocol"]["name"] == name and values["protocol"]["epochs"] > 0
    assert list(tmp_path.iterdir()) == []


def printed(*arguments: str, cwd: Path) -> str:
    """What the command prints on stdout."""
    out = io.StringIO()
    with (
        contextlib.chdir(cwd),
        mock.patch.object(sys, "argv", ["train", *arguments]),
        mock.patch.dict(os.environ, {"HYDRA_FULL_ERROR": ""}),
        contextlib.redirect_stdout(out),
    ):
        main()
    return out.getvalue()
