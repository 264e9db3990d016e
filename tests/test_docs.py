"""What the README and the pages of docs/ show is true of this code: commands, Python, files, configuration keys."""

import re
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from documented import PAGES, ROOT, commands, links, paths, python_blocks
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pictures import jpeg, picture
from test_classifiers import COUNTS, made
from test_configs import COMMANDS, composed

import fastlt
from fastlt.__main__ import COMMANDS as FASTLT
from fastlt.bench.__main__ import BENCHES
from fastlt.bench.config import BenchConfig
from fastlt.checkpoint import _parser as checkpoint_parser
from fastlt.convert import with_guess
from fastlt.core.cli import own_parts
from fastlt.core.errors import UserError
from fastlt.core.overrides import quoted_strings
from fastlt.core.structured import from_node, register
from fastlt.data.convert.config import ConvertConfig
from fastlt.data.convert.keys import check_alone, check_keys
from fastlt.data.shards.reader import Dataset
from fastlt.experiment.config import TrainConfig
from fastlt.grid.arguments import combinations, split_arguments
from fastlt.grid.config import GridConfig
from fastlt.predict.__main__ import _parser as predict_parser
from fastlt.report.__main__ import main as report
from fastlt.shards import _parser as shards_parser
from fastlt.stage2.classifiers.base import Stage2, Training
from fastlt.training import loggers

KINDS = {".csv": ("csv", "table")}  # what a bare path of a conversion stands for
OTHERS = {"pip", "uv", "find", "cd", "mkdir"}  # programs that are not fastlt's


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_exist(page: str) -> None:
    folder = (ROOT / page).parent
    missing = [target for target in links(page) if not (folder / target).exists()]
    assert not missing + [path for path in paths(page) if not (ROOT / path).exists()]


def test_the_readme_is_short() -> None:
    assert len(PAGES["README.md"].splitlines()) <= 130


@cache
def base(command: str, *groups: str) -> Any:
    return composed(command, *groups)


def applied(command: str, arguments: list[str]) -> Any:
    """Composes a configuration as Hydra does, but each choice of files in conf/ only once, which takes most time."""
    parsed = OverridesParser.create().parse_overrides(arguments)
    files = [one for one in parsed if one.key_or_group in COMMANDS.get(command, ("backbone",))]
    config = deepcopy(base(command, *sorted(str(one.input_line) for one in files)))
    for one in (one for one in parsed if one not in files):
        OmegaConf.update(config, one.key_or_group, one.value())
    return config


def trains(arguments: list[str]) -> None:
    """Composes and checks the configurations of a training; of `key=A,B` that of each value."""
    sweeps = "-m" in arguments
    given = quoted_strings(own_parts([one for one in arguments if one != "-m"]), TrainConfig, sweeps)
    for cell in combinations([given], []) if sweeps else [given]:
        keys = {argument.partition("=")[0] for argument in cell}
        protocol = "protocol=features" if "features" in keys else "protocol=imagenet_lt_90"
        from_node(applied("train", [*([] if "protocol" in keys else [protocol]), *cell]), TrainConfig)


def grids(arguments: list[str]) -> None:
    own, every = split_arguments(arguments)
    config = from_node(applied("grid", own), GridConfig)
    trains(combinations(config.grid.parts, every)[0])


def converts(arguments: list[str]) -> None:
    if any(one.startswith("remove=") for one in arguments):
        check_alone(from_node(applied("convert", with_guess(arguments)), ConvertConfig))
        return
    named = [one for one in arguments if "=" in one]
    for bare in (one for one in arguments if "=" not in one):
        dataset, key = KINDS.get(Path(bare).suffix, ("image_folder", "root"))
        named = [f"dataset={dataset}", f"{key}={bare}", *named]
    if not {"split", "val", "test", "dataset"} & {one.partition("=")[0] for one in arguments}:
        named.append("split=0.7,0.1,0.2")
    config = from_node(applied("convert", quoted_strings(named, ConvertConfig)), ConvertConfig)
    check_keys(config, config.dataset.kind)


def benches(arguments: list[str]) -> None:
    assert arguments[0] in BENCHES
    register("bench", BenchConfig)
    from_node(applied("bench", quoted_strings(arguments[1:], BenchConfig)), BenchConfig)


CHECKS: dict[str, Callable[[list[str]], object]] = {
    "train": trains,
    "grid": grids,
    "convert": converts,
    "bench": benches,
    "predict": lambda arguments: predict_parser().parse_args(arguments),
    "shards": lambda arguments: shards_parser().parse_args(arguments),
    "checkpoint": lambda arguments: checkpoint_parser().parse_args(arguments),
}


class AnyLogger:
    def __init__(self, place: object, **options: object):
        pass


def check(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Fails unless the command exists and takes these arguments."""
    program, *arguments = words
    if program == "fastlt":
        assert arguments[0] in FASTLT
        program, arguments = "python", ["-m", f"fastlt.{arguments[0]}", *arguments[1:]]
    if program == "torchrun":
        program, arguments = "python", [one for one in arguments if not one.startswith("--nproc")]
    if program == "make":
        assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif program == "tools/gpu_check.sh":
        assert (ROOT / program).exists()
    elif program != "python":
        assert program in OTHERS
    elif arguments[0] != "-m":
        assert (ROOT / arguments[0]).exists() or (ROOT / "examples" / arguments[0]).exists()
        if arguments[0] == "tools/convert.py" and len(arguments) > 1:
            converts(arguments[1:])
    else:
        module = arguments[1]
        assert find_spec(module)
        command = module.removeprefix("fastlt.")
        if command == "completion":
            assert arguments[2] == ">"
        elif command == "report" and arguments[2:]:
            report([*arguments[2:], "--out", "/dev/null/none"])
            assert "allowed is RUN" not in capsys.readouterr().err
        elif command in CHECKS and arguments[2:]:
            CHECKS[command](arguments[2:])


def test_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    monkeypatch.setattr(loggers, "_installed", lambda name: True)  # the packages of loggers need not be there
    monkeypatch.setattr(loggers, "_part", lambda name: dict.fromkeys(loggers.LOGGERS, AnyLogger)[name])
    wrong = []
    for words in sorted({tuple(words) for page in PAGES for words in commands(page)}):
        try:
            check(list(words), capsys)
        except (AssertionError, UserError, HydraException, OmegaConfBaseException) as error:
            wrong.append(f"{' '.join(words)}: {error}")
    assert not wrong


def run(page: str, known: dict[str, Any], changes: dict[str, str] | None = None) -> dict[str, Any]:
    """Executes each block of Python of a page by itself and returns all names that they define.

    known: names that the blocks may use. changes: text -> text in its place.
    """
    found: dict[str, Any] = {}
    blocks = python_blocks(page)
    for there, here in (changes or {}).items():
        assert there in "\n".join(blocks)
        blocks = [block.replace(there, here) for block in blocks]
    for block in blocks:
        names = dict(known)
        exec(block, names)
        found |= {name: value for name, value in names.items() if known.get(name) is not value}
    return found


RUN = "docs/how-to/predict.md", "README.md"
FEATURES = "docs/tutorials/features.md", "docs/how-to/features.md"
ALONE = "docs/how-to/own-loop.md", "docs/how-to/own-parts.md", "docs/reference/kernels.md"


def test_python_of_every_page_is_run() -> None:
    assert {page for page in PAGES if python_blocks(page)} == {*RUN, *FEATURES, *ALONE}


def drawn(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features [N, 6] and labels [N] of three classes of different size."""
    labels = np.repeat(np.arange(3), [rows, rows // 2, rows // 4])
    return np.random.default_rng(seed).normal(size=(len(labels), 6)) + 3 * np.eye(3, 6)[labels], labels


@pytest.mark.filterwarnings("ignore:.*prediction set.*")
def test_images_to_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, count in (("cat", 20), ("lynx", 10)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(count):
            shade = picture(number, 40, 48) // (2 if name == "lynx" else 1)
            (tmp_path / "photos" / name / f"{number}.jpg").write_bytes(jpeg(shade))
    (tmp_path / "new.jpg").write_bytes(jpeg(picture(99, 40, 48)))
    (features, labels), (test_features, test_labels) = drawn(40, 0), drawn(12, 1)
    known = {"features": features, "labels": labels, "test_features": test_features, "test_labels": test_labels}
    small = 'epochs=1, threads=1, precision="fp32", protocol="demo", **{"protocol.batch": 4}'
    found = run("README.md", known, {"epochs=90": small, '"data/photos")': '"data/photos", workers=1)'})
    assert found["run"].classifiers == ["joint", "ncm_l2", "ncm_cosine", "crt", "tau_norm", "lws"]
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in told if line.endswith(" few") and len(line.split()) == 3]
    (tmp_path / "runs" / "mine").symlink_to("photos")
    found = run("docs/how-to/predict.md", {"images": ["new.jpg", picture(1, 40, 48)]})
    assert found["best"].name in ("cat", "lynx") and found["features"].shape == (2, 64)


@pytest.mark.filterwarnings("ignore")  # too few rows of a class for a set of its own
def test_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (x, y), (x_test, y_test) = drawn(60, 0), drawn(20, 1)
    split = np.repeat(["train", "test"], [len(y), len(y_test)])
    run("docs/tutorials/features.md", {"x": np.vstack([x, x_test]), "y": np.append(y, y_test), "split": split})
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["NCM", "CRT", "TauNorm"]
    assert set(np.load("features.npz")) == {"x", "y", "split"}
    fastlt.run_experiment(features="features.npz", run="runs/dino", classifiers=["crt"], threads=1)
    known = {"X": x, "y": y, "X_val": x_test, "y_val": y_test, "X_test": x_test, "y_test": y_test}
    known = run("docs/how-to/features.md", known)
    assert known["crt"].score(x_test, y_test) > 0.8
    assert known["probability"].shape == (len(y_test), len(set(y)))
    assert known["best"].confidence == pytest.approx(known["probability"][0].max())


def test_a_loop_of_ones_own(jpeg_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    changes = {
        '"data/places_lt"': "root",
        "batch=256": "batch=32",
        "threads=16": "threads=1",
        '"cuda"': '"cpu"',
        "224": "32",
        "range(90)": "range(2)",
        "            ...\n": "            loss.append((float(images.mean()), int(labels.sum()), len(ids)))\n",
    }
    known: dict[str, Any] = {"root": jpeg_dataset.root, "loss": []}
    known |= {"labels": [0] * 30 + [1] * 3, "images": list(range(33))}
    known = {**known, **run("docs/how-to/own-loop.md", known, changes)}
    assert [images for _, _, images in known["loss"]] == [32, 32, 32, 32]  # 71 images, two full batches each epoch
    assert known["ids"][-1] == len(jpeg_dataset.split("test")) - 1  # of the evaluation, in order
    state = known["torch"].load("checkpoint.pt", weights_only=False)["loader"]
    assert (state["epoch"], state["position"]) == (1, 64)
    assert known["batch"].shape == (33,) and (known["batch"] >= 30).sum() > 10  # the rare class is half of the draws


def test_parts_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    changes = {'encode="png")': 'encode="png", workers=1)'}
    known = run("docs/how-to/own-parts.md", {"pixels": lambda number: picture(number, 24, 24)}, changes)
    assert known["dataset"].class_names == ["cat", "lynx"] and len(known["dataset"].split("test")) == 15
    task = made(COUNTS, Stage2(Training(1, 64, 0.1, 0.0), Training(1, 64, 0.1, 0.0)))
    fitted = known["prior_free"](task)
    log_prior = np.log(COUNTS / COUNTS.sum())
    strength = fitted.choices["strength"]
    assert strength > 0  # the joint classifier favours the head
    np.testing.assert_allclose(fitted.tensors["bias"], task.bias.numpy() - strength * log_prior, rtol=1e-5)
    assert fitted.choices["chosen_on"] == "val"


def test_kernels_on_their_own() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), [20, 10, 5, 2])
    x = (rng.standard_normal((37, 6)) + 3 * np.eye(4, 6)[labels]).astype(np.float32)
    weight = (np.eye(4, 6) * np.array([4, 3, 2, 1])[:, None]).astype(np.float32)
    given: dict[str, Any] = {f"{split}_x": x for split in ("train", "val")}
    given |= {f"{split}_labels": labels for split in ("train", "val")}
    given |= {"classes": 4, "weight": weight, "groups": np.array([0, 0, 1, 2], np.int8)}
    known = run("docs/reference/kernels.md", given)
    np.testing.assert_array_equal(known["means"].counts, [20, 10, 5, 2])
    assert 0.2 < known["tau"] < 3 and known["accuracy"] > 80
    assert known["sure"].shape == (3,)
