"""What precision=auto takes, why, and that a run is found again whatever is measured later."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands import refusal, run
from hydra import compose, initialize_config_module
from pictures import Pictures, conversion

from fastlt.core.checkpoint import save_checkpoint
from fastlt.core.errors import UserError
from fastlt.core.structured import from_node
from fastlt.data.convert import convert
from fastlt.data.shards.reader import Dataset
from fastlt.experiment import precision
from fastlt.experiment.config import TrainConfig
from fastlt.experiment.identity import determined_by, run_name
from fastlt.experiment.precision import VARIABLE, Taken, measure, take_precision
from fastlt.train import main

CPUINFO = "model name\t: Some CPU\nflags\t\t: fpu avx512_bf16 amx_tile\n\nmodel name\t: Some CPU\nflags\t\t: fpu\n"

with initialize_config_module("fastlt.conf", version_base="1.3"):
    USUAL = from_node(compose("train", ["protocol=cifar_lt_200"]), TrainConfig)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("precision")
    convert(Pictures(counts=(12, 6), pixels=True), conversion(), folder / "data", workers=1)
    return folder


@pytest.fixture(scope="module")
def dataset(place: Path) -> Dataset:
    return Dataset(place / "data")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, float]:
    """A processor that computes in bf16, `times` as fast; what was measured is counted."""
    told = {"times": 1.5, "measured": 0}

    def measured(*_: object) -> float:
        told["measured"] += 1
        return told["times"]

    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(precision, "_processor", lambda: ("Some CPU", frozenset({"avx512_bf16"})))
    monkeypatch.setattr(precision, "measure", measured)
    precision._times_as_fast.cache_clear()
    return told


def options(**changed: object) -> TrainConfig:
    """Those of the protocol, some of them changed."""
    return replace(USUAL, **changed)  # type: ignore[arg-type]


def taken(dataset: Dataset, folder: Path, precision: str = "auto", device: str = "cpu", **changed: object) -> Taken:
    alone = bool(changed.pop("alone", True))
    config = options(precision=precision, **changed)
    return take_precision(config, dataset, device, lambda settled: folder / run_name(settled, dataset), alone)


def forget() -> None:
    """As another process begins."""
    precision._times_as_fast.cache_clear()


@pytest.mark.parametrize(("times", "expected"), [(1.2, "bf16"), (3.0, "bf16"), (1.19, "fp32"), (0.3, "fp32")])
def test_bf16_must_be_a_fifth_faster(
    dataset: Dataset, machine: dict[str, float], tmp_path: Path, times: float, expected: str
) -> None:
    machine["times"] = times
    found = taken(dataset, tmp_path)
    assert found.precision == expected
    assert found.line.startswith(f"precision={expected}: training resnet32 in bf16 is {times:.2f} times as fast here")


def test_what_was_measured_once_stays(dataset: Dataset, machine: dict[str, float], tmp_path: Path) -> None:
    assert taken(dataset, tmp_path).precision == "bf16"
    machine["times"] = 1.0
    for seed in range(3):
        forget()
        again = taken(dataset, tmp_path, seed=seed)
        assert again.precision == "bf16" and "measured before" in again.reason
    assert machine["measured"] == 1
    assert taken(dataset, tmp_path, image_size=64).precision == "fp32"
    assert machine["measured"] == 2


@pytest.mark.parametrize("text", ["", "{", "[]", '{"times_as_fast": "x"}'])
def test_a_damaged_cache_is_measured_again(
    dataset: Dataset, machine: dict[str, float], tmp_path: Path, text: str
) -> None:
    taken(dataset, tmp_path)
    (file,) = (tmp_path / "cache" / "fastlt" / "precision").iterdir()
    about = json.loads(file.read_text())
    assert about["processor"] == "Some CPU" and about["backbone"] == "resnet32" and about["times_as_fast"] == 1.5
    file.write_text(text)
    forget()
    assert taken(dataset, tmp_path).precision == "bf16" and machine["measured"] == 2
    assert json.loads(file.read_text()) == about


def test_a_cache_that_cannot_be_written_stops_nothing(
    dataset: Dataset, machine: dict[str, float], tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert "cannot be written" in taken(dataset, tmp_path).reason


@pytest.mark.parametrize("began", ["fp32", "bf16"])
@pytest.mark.parametrize("named", [False, True], ids=["default folder", "run=DIR"])
def test_a_run_keeps_what_it_began_with(
    dataset: Dataset, machine: dict[str, float], tmp_path: Path, began: str, named: bool
) -> None:
    mine = options(precision=began)
    folder = tmp_path / ("mine" if named else run_name(mine, dataset))
    folder.mkdir()
    settings = determined_by(mine, dataset)
    save_checkpoint({"key": settings.key, "settings": settings.about, "model": {}}, folder / "checkpoint.pt")
    machine["times"] = 1.0 if began == "bf16" else 2.0

    def lies(settled: TrainConfig) -> Path:
        return folder if named else tmp_path / run_name(settled, dataset)

    found = take_precision(options(), dataset, "cpu", lies)
    assert found == Taken(began, f"as {folder / 'checkpoint.pt'} began with") and not machine["measured"]
    # Another seed has another representation, which was not begun.
    assert take_precision(options(seed=1), dataset, "cpu", lies).precision != began


def test_nothing_is_measured_where_nothing_is_to_be_decided(
    dataset: Dataset, machine: dict[str, float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert taken(dataset, tmp_path, "fp32") == Taken("fp32") and taken(dataset, tmp_path, "bf16").line == ""
    assert taken(dataset, tmp_path, device="cuda").precision == "bf16"
    assert taken(dataset, tmp_path, representation="some.pt").precision == "fp32"
    assert taken(dataset, tmp_path, alone=False).precision == "fp32"
    monkeypatch.setattr(precision, "_processor", lambda: ("Old CPU", frozenset({"avx512f"})))
    assert taken(dataset, tmp_path).reason == "this processor does not compute in bf16"
    for chosen in ("bf16", "fp32"):
        monkeypatch.setenv(VARIABLE, chosen)
        assert taken(dataset, tmp_path) == Taken(chosen)
    monkeypatch.setenv(VARIABLE, "fp8")
    with pytest.raises(UserError, match=f"{VARIABLE}=fp8 is unknown: allowed are fp32, bf16"):
        taken(dataset, tmp_path)
    assert not machine["measured"]


def test_the_processor_is_read_as_linux_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    read = precision._processor.__wrapped__
    monkeypatch.setattr(Path, "read_text", lambda self: CPUINFO)
    assert read() == ("Some CPU", frozenset({"fpu", "avx512_bf16", "amx_tile"}))
    monkeypatch.setattr(Path, "read_text", lambda self: "processor\t: 0\n")
    assert read() == ("unknown", frozenset())


@pytest.mark.parametrize(
    ("backbone", "train_from", "batch"), [("resnet32", None, 1), ("resnet10", "layer4", 8)], ids=["all", "last block"]
)
def test_measuring_leaves_no_trace(
    monkeypatch: pytest.MonkeyPatch, backbone: str, train_from: str | None, batch: int
) -> None:
    monkeypatch.setattr(precision, "SECONDS", 0.0)
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    assert measure(backbone, train_from, 32, batch) > 0
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), state)


def test_wrong_input_is_refused_before_anything_is_measured(place: Path, machine: dict[str, float]) -> None:
    assert "epochs=-1" in refusal(main, "data=data", "protocol=cifar_lt_200", "epochs=-1", cwd=place)
    small = ("data=data", "backbone=resnet32", "image_size=32", "epochs=0", "run=r")
    assert "none.pth" in refusal(main, *small, "protocol.pretrained=none.pth", cwd=place)
    assert not machine["measured"]


def test_a_backbone_that_is_unknown_is_refused() -> None:
    with pytest.raises(UserError, match="backbone=vgg is unknown"):
        measure("vgg", None, 32, 8)


def test_command_and_grid_take_the_same_and_find_it_again(place: Path, tmp_path: Path) -> None:
    """Two real commands on what this machine measures, or on what its processor rules out."""
    environment = {VARIABLE: "", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    small = (
        f"data={place / 'data'}", "protocol=cifar_lt_200", "protocol.batch=8", "epochs=1", "threads=1", "seed=0",
        "sampler=instance", "classifiers=[joint]",
    )  # fmt: skip
    grid = run("-m", "fastlt.grid", "grid=samplers", "out=runs", "at_once=1", *small, cwd=tmp_path, **environment)
    assert grid.returncode == 0, grid.stderr
    assert grid.stderr.count("precision=") == 1
    first = json.loads(next((tmp_path / "runs").glob("*/results.json")).read_text())
    # Forget what was measured: the run folder remembers.
    for file in tmp_path.glob("cache/fastlt/precision/*"):
        file.write_text(json.dumps({"times_as_fast": 1.0 if first["precision"] == "bf16" else 9.0}))
    again = run("-m", "fastlt.train", *small, cwd=tmp_path, **environment)
    assert again.returncode == 0, again.stderr
    assert "reusing the representation" in again.stderr and "began with" in again.stderr
    names = [path.name for path in (tmp_path / "runs").iterdir() if (path / "checkpoint.pt").exists()]
    assert len(names) == 1
    state = torch.load(tmp_path / "runs" / names[0] / "checkpoint.pt", weights_only=True)
    assert state["settings"]["precision"] == first["precision"]
