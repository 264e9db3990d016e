"""The public face: names that cost nothing until they are used, datasets and runs from Python, one console command."""

import itertools
import shutil
import sys
from importlib import metadata
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from commands import run

import fastlt
from fastlt.api import _composed
from fastlt.core.errors import UserError
from fastlt.experiment.config import TrainConfig
from fastlt.training.trainer import Trainer

COMMANDS = ("fastlt.train", "fastlt.convert", "fastlt.shards", "fastlt.checkpoint")


def test_importing_costs_nothing() -> None:
    code = "import sys, fastlt; heavy = {'torch', 'nvidia', 'hydra', 'numba', 'h5py', 'numpy'} & set(sys.modules); "
    done = run("-c", code + "assert not heavy, heavy; assert set(fastlt.__all__) <= set(dir(fastlt))", cwd=Path())
    assert done.returncode == 0, done.stderr


def test_the_version_is_that_of_the_package() -> None:
    assert fastlt.__version__ == metadata.version("fastlt")


def test_every_public_name_is_there() -> None:
    for name in fastlt.__all__:
        assert getattr(fastlt, name) is not None
    assert fastlt.UserError is UserError
    with pytest.raises(AttributeError, match="public names are Augment, Dataset"):
        fastlt.Nothing  # noqa: B018


def test_names_and_commands_live_side_by_side() -> None:
    """Whatever is imported first: a command's module is a module, a public name what it names."""
    for order in itertools.islice(itertools.permutations((*COMMANDS, "names")), 0, None, 40):
        steps = [
            f"import {part}" if part != "names" else "[getattr(fastlt, n) for n in fastlt.__all__]" for part in order
        ]
        checks = [f"assert type({part}).__name__ == 'module'" for part in COMMANDS]
        done = run("-c", "; ".join(["import fastlt", *steps, *checks]), cwd=Path())
        assert done.returncode == 0, (order, done.stderr)


def test_the_console_command(tmp_path: Path) -> None:
    told = run("-m", "fastlt", cwd=tmp_path)
    assert told.returncode == 0 and "convert" in told.stdout and "train" in told.stdout
    wrong = run("-m", "fastlt", "trian", cwd=tmp_path)
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: command trian is unknown: allowed are convert, ")
    data = run("-m", "fastlt", "convert", "dataset=shapes", "classes=3", "imbalance=2", "out=shapes", cwd=tmp_path)
    assert data.returncode == 0, data.stderr
    assert run("-m", "fastlt", "shards", "verify", "shapes", cwd=tmp_path).returncode == 0


def pairs(count: int, seed: int) -> list[tuple[np.ndarray, str]]:
    rng = np.random.default_rng(seed)
    shades = {"dark": 40, "grey": 120, "light": 210}
    return [
        (np.clip(rng.normal(shade, 20, (32, 32, 3)), 0, 255).astype(np.uint8), name)
        for name, shade in shades.items()
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> "fastlt.Run":
    place = tmp_path_factory.mktemp("api")
    dataset = fastlt.write_dataset(
        {"train": pairs(24, 0), "test": pairs(6, 1)}, place / "shades (3), a=b", encode="raw"
    )
    assert dataset.class_names == ["dark", "grey", "light"] and dataset.name == "shades (3), a=b"
    keys = {"protocol": "demo", "epochs": 2, "threads": 1, "precision": "fp32", "classifiers": ["joint", "ncm_l2"]}
    return fastlt.run_experiment(data=dataset.root, run=place / "run", **keys)


def test_an_experiment_from_python(finished: "fastlt.Run") -> None:
    assert finished.classifiers == ["joint", "ncm_l2"]
    assert "shades (3), a=b" in repr(finished) and "NCM" in repr(finished)
    again = fastlt.open_run(finished.folder)
    assert again == finished
    x, y = again.features("test")
    assert x.shape == (18, 64) and y.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    found = again.predictions("test", "ncm_l2")
    assert found.classes.shape == found.scores.shape == (18, 3)
    assert 100 * (found.classes[:, 0] == found.y).mean() == pytest.approx(again.results.classifiers["ncm_l2"].all)


def test_a_run_folder_that_is_named_again_has_the_rest_in_its_config(
    finished: "fastlt.Run", tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    more = fastlt.run_experiment(run=folder, classifiers=["tau_norm"])
    out, err = capsys.readouterr()
    assert "reusing the representation" in err
    assert out == ""  # the table is what a run shows of itself
    assert more.classifiers == ["joint", "ncm_l2", "tau_norm"] and "tau-norm" in (folder / "report.md").read_text()
    assert {name: more.results.classifiers[name] for name in finished.classifiers} == finished.results.classifiers
    assert more.results.departures == finished.results.departures
    assert fastlt.run_experiment(run=folder).classifiers == more.classifiers
    # Rows of other settings are not mixed.
    other = fastlt.run_experiment(run=folder, classifiers=["joint"], augmented_passes=1)
    assert other.classifiers == ["joint"] and other.results.augmented_passes == 1
    assert "ncm_l2, tau_norm are left out, as departures is another now" in capsys.readouterr().err
    # A protocol that is named anew brings all that protocols settle.
    assert fastlt.run_experiment(run=folder, protocol="demo", epochs=2).results.augmented_passes == 0
    kept = (folder / "config.yaml").read_bytes()
    for keys, told in (
        ({"epochs": 3}, r"epochs=2, asked for is epochs=3: a finished training does not go on.*protocol.pretrained="),
        ({"seed": 1}, "with seed at its default, asked for is seed=1: choose another run=DIR, or overwrite=true"),
    ):
        with pytest.raises(UserError, match=told):
            fastlt.run_experiment(run=folder, **keys)
        assert (folder / "config.yaml").read_bytes() == kept
    _, text = (folder / "config.yaml").read_text().split("\n", 1)  # edited by hand: without the digest
    for wrong, told in (
        (text.replace("name: instance", "name: mymod:Law"), "names sampler=mymod:Law, whose code would run"),
        (text.replace("- jsonl", "- mymod:Log"), "names logger=mymod:Log, whose code would run"),
        (text.replace("- joint", "- mymod:fit"), "names classifiers=mymod:fit, whose code would run"),
        (text + "nonsense: 1\n", "config.yaml cannot be read"),
        ("seed: 1\n", r"config.yaml lacks [\w.]+: choose another run=DIR, or delete it to give all keys"),
        ("[", "config.yaml cannot be read"),
    ):
        (folder / "config.yaml").write_text(wrong)
        with pytest.raises(UserError, match=told):
            fastlt.run_experiment(run=folder)


def test_a_run_that_was_killed_in_its_first_epoch_is_begun_again_by_its_folder_alone(
    finished: "fastlt.Run", tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = {"protocol": "demo", "epochs": 2, "threads": 1, "precision": "fp32", "classifiers": ["joint", "ncm_l2"]}
    keys |= {"data": finished.folder.parent / "shades (3), a=b", "run": tmp_path / "run", "overwrite": True}
    with mock.patch.object(Trainer, "finish_epoch", side_effect=InterruptedError), pytest.raises(InterruptedError):
        fastlt.run_experiment(**keys)
    again = fastlt.run_experiment(run=tmp_path / "run")
    assert f"{tmp_path}/run is not finished: every key that is not given is taken from" in capsys.readouterr().err
    assert again.results.key == finished.results.key and again.classifiers == finished.classifiers
    assert again.results.departures == finished.results.departures
    assert "overwrite: false" in (tmp_path / "run" / "config.yaml").read_text()


def test_one_more_classifier_does_not_run_the_code_of_an_own_one(
    finished: "fastlt.Run", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    source = (
        "from fastlt.stage2.classifiers.base import Fitted\ndef fit(task): return Fitted({'weight': task.weight})\n"
    )
    (tmp_path / "fitting.py").write_text(source)
    with monkeypatch.context() as there:
        there.syspath_prepend(str(tmp_path))
        fastlt.run_experiment(run=folder, classifiers=["fitting:fit"])
    del sys.modules["fitting"]
    more = fastlt.run_experiment(run=folder, classifiers=["ncm_un_l2"])
    assert more.classifiers == ["joint", "ncm_l2", "fitting:fit", "ncm_un_l2"] and "fitting" not in sys.modules
    assert "- fitting:fit\n- ncm_un_l2\n" in (folder / "config.yaml").read_text()
    assert "NCM (raw, L2)" in (folder / "report.md").read_text()


def test_options_of_classifiers_are_checked_before_anything_is_written(tmp_path: Path) -> None:
    own, given = f"{__name__}:pairs", tmp_path / "given.npz"  # called with a task in place of a count
    split = np.repeat(["train", "test"], 6)
    np.savez(given, x=np.eye(12, 4, dtype=np.float32), y=np.arange(12) % 2, split=split)
    for options, told in (
        (
            {"pears": {}, "pairs": {"seed": 1}},
            r"stage2.options.pears: no classifier of this name is asked for; allowed are pairs$",
        ),
        ({"pairs": {"sed": 1}}, r"stage2.options.pairs.sed=1 is unknown to classifier=\S+:pairs: allowed are seed$"),
        ({"pairs": 3}, r"stage2.options.pairs=3: it must name an option, as in stage2.options.pairs.NAME=VALUE"),
        ({}, r"classifier=\S+:pairs needs stage2.options.pairs.seed=VALUE"),
    ):
        with pytest.raises(UserError, match=told):
            fastlt.run_experiment(
                features=given, run=tmp_path / "run", classifiers=[own], **{"stage2.options": options}
            )
    assert list(tmp_path.iterdir()) == [given]


def test_weights_of_a_run_begin_another(finished: "fastlt.Run", tmp_path: Path) -> None:
    keys = {"protocol": "demo", "epochs": 1, "threads": 1, "precision": "fp32", "classifiers": ["joint"]}
    data = finished.folder.parent / "shades (3), a=b"
    begun = fastlt.run_experiment(data=data, run=tmp_path / "run", **keys, **{"protocol.pretrained": finished.folder})
    assert begun.results.departures["protocol.pretrained"] == [None, str(finished.folder)]


def test_what_a_command_refuses_is_refused(finished: "fastlt.Run", tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown key epoch \(did you mean epochs\?\)"):
        fastlt.run_experiment(epoch=3)
    with pytest.raises(UserError, match="classifier=none is unknown"):
        fastlt.run_experiment(data=str(finished.folder.parent / "shades (3), a=b"), classifiers=["none"])
    with pytest.raises(UserError, match="split tests is unknown: allowed are train, val, test"):
        fastlt.write_dataset({"train": pairs(2, 0), "tests": pairs(2, 0)}, tmp_path / "out")
    with pytest.raises(UserError, match="label pale of test is no class: allowed are dark, grey, light"):
        fastlt.write_dataset(
            {"train": pairs(2, 0), "test": [(np.zeros((8, 8, 3), np.uint8), "pale")]}, tmp_path / "out"
        )
    with pytest.raises(UserError, match=r"results\.json: does not exist"):
        fastlt.open_run(tmp_path)
    assert not (tmp_path / "out").exists()


def test_values_of_python_are_read_as_those_of_the_command() -> None:
    keys: dict[str, object] = {
        "protocol.loss_options": {"gamma": 1.5, "names": ["größe", "true"], "on": True},
        "protocol.pretrained": True,
        "seed": np.int64(3),
        "stage2.lr": [np.float32(0.5), 1e-5],
        "classifiers": ("joint", "a b"),
        "run": None,
        "backbone": "resnet18",
    }
    with _composed("train", keys, TrainConfig) as (config, _):
        assert config.protocol.loss_options == {"gamma": 1.5, "names": ["größe", "true"], "on": True}
        assert config.protocol.pretrained == "true" and config.seed == 3 and config.run is None
        assert config.stage2.lr == [0.5, 1e-5] and config.classifiers == ["joint", "a b"]
    with pytest.raises(UserError, match=r"seed: .* is of type object; allowed are text, numbers, True"):
        fastlt.run_experiment(seed=object())


def test_labels_that_are_numbers_keep_their_order(tmp_path: Path) -> None:
    image = np.zeros((8, 8), np.uint8)
    train = [(image, label) for label in (10.0, 2.0, np.int64(1), 11)]
    dataset = fastlt.write_dataset({"train": train, "test": [(image, 2)]}, tmp_path / "numbers", workers=1)
    assert dataset.class_names == ["1", "2", "10", "11"]
    with pytest.raises(UserError, match="neither a string nor a whole number"):
        fastlt.write_dataset({"train": [(image, 0.5)]}, tmp_path / "half")
