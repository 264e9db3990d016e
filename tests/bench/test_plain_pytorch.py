"""tools/plain_pytorch.py, the training that fastlt's numbers are set beside: split, rates, network, a run."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import ROOT
from hydra import compose, initialize_config_module
from test_source_cifar import write_tar

from fastlt.core.structured import from_node
from fastlt.data.sources.cifar import Cifar
from fastlt.data.sources.long_tail import long_tail_rows
from fastlt.experiment.config import TrainConfig
from fastlt.models.backbones import build_model

FOLDER = "cifar-100-python"


def load_tool() -> Any:
    spec = importlib.util.spec_from_file_location("plain_pytorch", ROOT / "tools" / "plain_pytorch.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


plain = load_tool()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """500 + 100 images in the official layout: 5 of each class are enough to train on, one to test."""
    random = np.random.default_rng(0)
    files: dict[str, Any] = {"meta": {"fine_label_names": [f"class {k}" for k in range(100)]}}
    for split, per_class in {"train": 5, "test": 1}.items():
        labels = random.permutation(np.repeat(np.arange(100), per_class)).tolist()
        files[split] = {"fine_labels": labels, "data": random.integers(0, 256, (len(labels), 3072), np.uint8)}
    return write_tar(tmp_path_factory.mktemp("cifar") / "cifar.tar", FOLDER, files, "w")


def options(archive: Path, out: Path, *more: str) -> Any:
    few = ["--imbalance=1", "--stride=16", "--batch=8", "--epochs=2", "--stage2-epochs=1", "--every=1"]
    return plain.parsed([f"--data={archive}", f"--out={out}", "--device=cpu", *few, *more])


def test_a_run_that_was_stopped_ends_with_the_same_bits(archive: Path, tmp_path: Path, monkeypatch: Any) -> None:
    straight = plain.run(options(archive, tmp_path / "straight"))
    assert set(straight["classifiers"]) >= {"joint", "tau_norm", "crt", "lws", "joint_best_epoch"}

    say, said = plain.say, []

    def stop_after_first(line: str, file: Path) -> None:
        say(line, file)
        said.append(line)
        if len(said) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(plain, "say", stop_after_first)
    with pytest.raises(KeyboardInterrupt):
        plain.run(options(archive, tmp_path / "stopped"))
    again = plain.run(options(archive, tmp_path / "stopped"))
    assert again["classifiers"] == straight["classifiers"]
    for stage in ("joint", "crt", "lws"):
        one, two = (torch.load(tmp_path / run / f"{stage}.pt", weights_only=True) for run in ("straight", "stopped"))
        assert all(torch.equal(one["model"][name], two["model"][name]) for name in one["model"])
    lines = [json.loads(line) for line in (tmp_path / "stopped" / "metrics.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["epoch"]) for line in lines] == [("joint", 1), ("joint", 2), ("crt", 1), ("lws", 1)]


def test_stage_2_leaves_the_representation_but_for_its_bn_statistics(archive: Path, tmp_path: Path) -> None:
    plain.run(options(archive, tmp_path, "--precision=bf16", "--channels-last"))
    joint, crt, lws = (
        torch.load(tmp_path / f"{name}.pt", weights_only=True)["model"] for name in ("joint", "crt", "lws")
    )
    for name, value in joint.items():
        trained = {"crt": name.startswith("head"), "lws": name == "scale"}
        drifts = "running" in name or "num_batches" in name
        for stage, state in {"crt": crt, "lws": lws}.items():
            assert torch.equal(state[name], value) != (trained[stage] or drifts), (stage, name)


def test_rates_of_the_published_schedule_and_of_ours() -> None:
    third = 1 / 3
    warm = [0.1 * (third * (1 - epoch / 5) + epoch / 5) for epoch in (1, 2, 3, 4)]
    expected = [*warm, *[0.1] * 155, *[1e-3] * 20, *[1e-5] * 21]
    assert [plain.rate(epoch, (160, 180), 0.01) for epoch in range(1, 201)] == pytest.approx(expected)
    with initialize_config_module("fastlt.conf", version_base="1.3"):
        ours = from_node(compose("train", ["protocol=cifar_lt_bags"]), TrainConfig)
    protocol = ours.protocol
    assert [ours.schedule.rate(84 * epoch, 84) for epoch in range(200)] == pytest.approx(expected)
    assert (protocol.momentum, protocol.weight_decay, protocol.nesterov, protocol.batch) == (0.9, 2e-4, True, 128)
    stage2 = [plain.rate(epoch, (10, 20), 0.1) for epoch in range(1, 31)]
    assert stage2 == pytest.approx([*warm, *[0.1] * 5, *[1e-2] * 10, *[1e-3] * 11])
    for section in (protocol.crt, protocol.lws):
        schedule = section.schedule(ours.stage2.stepped)
        assert [schedule.rate(84 * epoch, 84) for epoch in range(30)] == pytest.approx(stage2)
        assert (section.weight_decay, section.nesterov, section.batch) == (5e-4, True, 128)
    normalize = plain.NORMALIZE[1]
    assert (list(protocol.mean or ()), list(protocol.std or ())) == (list(normalize.mean), list(normalize.std))


def test_network_is_fastlts_true_resnet32() -> None:
    model = plain.ResNet32().eval()
    ours = build_model("resnet32", 100, 0, 32).eval()
    theirs = {name: value for name, value in model.state_dict().items() if name != "scale"}
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.values(), strict=True)))
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(images), ours(images))
    # He et al.'s 464,154 for CIFAR-10, with a head of 100 classes in place of 10.
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 464_154 + 90 * 65


def test_it_uses_no_code_of_fastlt() -> None:
    assert "import fastlt" not in (text := Path(plain.__file__).read_text()) and "from fastlt" not in text


def test_split_is_that_of_the_source() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(100), 500))
    rows = plain.long_tailed_rows(labels, 100)
    counts = np.bincount(labels[rows], minlength=100)
    assert len(np.unique(rows)) == len(rows) == 10_847
    assert (counts[0], counts[-1]) == (500, 5) and np.all(np.diff(counts) <= 0)
    assert sorted(rows) == sorted(long_tail_rows(labels, 100, 100, 0, "ldam"))


def test_images_of_the_archive_are_those_of_the_source(archive: Path) -> None:
    ours = Cifar(archive, 100, imbalance=5, seed=0, selection="ldam")
    pixels, labels = plain.read_archive(archive)["train"]
    rows = np.sort(plain.long_tailed_rows(labels, 5))
    at = {key: place for place, key in enumerate(ours.splits["train"].keys)}
    assert at.keys() == {f"train/{row}" for row in rows}
    for row in rows[::7]:
        place = at[f"train/{row}"]
        assert labels[row] == ours.splits["train"].labels[place]
        assert np.array_equal(pixels[row].transpose(1, 2, 0), ours.load("train", place))
