"""Loggers are told every epoch; what fails in them is a line at the end, and costs no result."""

import importlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_representation import SETTINGS, Recipe, fit

from fastlt.core.errors import UserError
from fastlt.core.log import regrets
from fastlt.training import loggers as module
from fastlt.training.loggers import LOGGERS, Loggers, check_loggers
from fastlt.training.loggers.base import Place
from fastlt.training.representation import CheckpointPolicy, train_representation

MINE, FAILING = f"{__name__}:Mine", f"{__name__}:Failing"
CONFIG = {"sampler": "class", "protocol.lr": 0.1, "text": "x" * 600}
calls: list[tuple[Any, ...]] = []


@pytest.fixture(autouse=True)
def nothing_yet() -> Iterator[None]:
    calls.clear()
    regrets()
    yield
    for name in LOGGERS:  # imported with a stand-in
        sys.modules.pop(f"fastlt.training.loggers.{name}", None)


class Mine:
    """A logger as a user writes it."""

    def __init__(self, place: Place, tag: str = ""):
        calls.append(("made", place.name, place.epoch, tag))

    def start(self, config: Mapping[str, Any]) -> None:
        calls.append(("start", config["seed"]))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        calls.append(("log", step, values["loss"]))

    def close(self) -> None:
        calls.append(("close",))


class Failing:
    def __init__(self, place: Place, where: str):
        self.where = where

    def start(self, config: Mapping[str, Any]) -> None:
        self._fail("start")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        calls.append(("log", step))
        self._fail("log" if step == 2 else "")

    def close(self) -> None:
        self._fail("close")

    def _fail(self, where: str) -> None:
        if where == self.where:
            raise ConnectionError("no route to the server")


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_ones_own_logger_is_told_of_a_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = CheckpointPolicy(logger=("jsonl", MINE), logger_options={"Mine": {"tag": "a"}})
    train_representation(SETTINGS, fit(Recipe()), tmp_path / "run", policy)
    rows = lines(tmp_path / "run")
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    told = [("log", row["epoch"], row["loss"]) for row in rows]
    assert calls == [("made", "run", 0, "a"), ("start", SETTINGS.about["seed"]), *told, ("close",)]
    train_representation(SETTINGS, fit(Recipe()), tmp_path / "run", policy)
    assert len(calls) == 6  # a finished training is reused, and there is nothing to tell


@pytest.mark.parametrize(
    ("where", "before", "told"), [("start", "epoch 1", 0), ("log", "epoch 2", 2), ("close", "its end", 3)]
)
def test_one_that_fails_costs_nothing_but_a_line(where: str, before: str, told: int, tmp_path: Path) -> None:
    options = {"Failing": {"where": where}}
    policy = CheckpointPolicy(logger=(FAILING, MINE), logger_options=options)
    done = train_representation(SETTINGS, fit(Recipe()), tmp_path, policy)
    reason = "ConnectionError: no route to the server"
    assert regrets() == [f"logger {FAILING} ends before {before} ({reason}); metrics.jsonl has everything"]
    assert done.epoch == 3 and [row["epoch"] for row in lines(tmp_path)] == [1, 2, 3]
    assert [one[1] for one in calls if len(one) == 2 and one[0] == "log"] == [1, 2, 3][:told]
    assert calls[-1] == ("close",) and sum(len(one) == 3 and one[0] == "log" for one in calls) == 3


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (
            ["tensorbord"],
            {},
            "logger=tensorbord is unknown: allowed are jsonl, tensorboard, wandb, mlflow, trackio, or ",
        ),
        (["nowhere:Log"], {}, "logger=nowhere:Log: importing nowhere fails"),
        ([MINE], {"Mine": {"tags": 1}}, f"logger_options.Mine.tags=1 is unknown to logger={MINE}: allowed are tag"),
        ([FAILING], {}, f"logger={FAILING} needs logger_options.Failing.where=VALUE"),
        ([MINE], {"wand": {}}, "logger_options.wand: allowed are logger_options.NAME of tensorboard, wandb, mlflow, "),
        (["mlflow"], {}, "logger=mlflow needs the package mlflow: pip install mlflow"),
    ],
)
def test_wrong_loggers_are_told_before_any_work(
    names: list[str], options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_installed", lambda package: False)
    with pytest.raises(UserError) as error:
        check_loggers(names, options)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_folder_of_that_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "left_by_a_tool").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not module._installed("left_by_a_tool") and module._installed("json")


# --- the tools: their own calls, and what these leave ---


def tell(name: str, folder: Path, epoch: int = 0, **options: Any) -> None:
    """Two epochs after `epoch`."""
    folder.mkdir(exist_ok=True)
    with Loggers([name], {name: options}, Place(folder, epoch, bool(epoch)), CONFIG) as loggers:
        for step in (epoch + 1, epoch + 2):
            loggers.write(epoch=step, loss=1 / (step + 1))
    assert regrets() == []


class Recorder(SimpleNamespace):
    """A stand-in for a module or an object of one: it notes its calls by their path and returns further ones."""

    def __init__(self, path: str = "", **given: Any):
        super().__init__(path=path, **given)

    def __getattr__(self, name: str) -> "Recorder":
        if name.startswith("__"):
            raise AttributeError(name)
        return Recorder(f"{self.path}.{name}".lstrip("."))

    def __call__(self, *given: Any, **named: Any) -> "Recorder":
        calls.append((self.path, given, named))
        return Recorder(f"{self.path}()")


def stand_in(name: str, monkeypatch: pytest.MonkeyPatch, **given: Any) -> None:
    monkeypatch.setitem(sys.modules, name, Recorder(**given))  # type: ignore[arg-type]


def test_the_calls_to_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in("wandb", monkeypatch)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    tell("wandb", tmp_path / "run", tags=["a"])
    known = (tmp_path / "run" / "wandb.id").read_text()
    named = {"config": CONFIG, "name": "run", "id": known, "resume": "allow", "dir": str(tmp_path / "run")}
    logs = [("init().log", ({"loss": 1 / (step + 1)},), {"step": step}) for step in (1, 2)]
    began = {**named, "project": "fastlt", "mode": "offline", "tags": ["a"]}
    assert calls == [("init", (), began), *logs, ("init().finish", (), {})]
    calls.clear()
    tell("wandb", tmp_path / "run", 2)
    assert calls[0][2]["id"] == known  # a resumed training goes on in its run
    tell("wandb", tmp_path / "run")
    assert calls[4][2]["id"] != known  # a new one has its own


def test_the_calls_to_trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in("trackio", monkeypatch)
    tell("trackio", tmp_path / "run", project="mine")
    name = (tmp_path / "run" / "trackio.id").read_text()
    named = {"name": name, "config": CONFIG, "resume": "allow", "project": "mine", "embed": False}
    logs = [("init().log", ({"loss": 1 / (step + 1)},), {"step": step}) for step in (1, 2)]
    assert name.startswith("run-") and calls == [("init", (), named), *logs, ("finish", (), {})]


def test_the_calls_to_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = SimpleNamespace(info=SimpleNamespace(run_id="r1"))

    class Client:
        def __init__(self, uri: str | None):
            calls.append(("client", uri))

        def get_experiment_by_name(self, name: str) -> None:
            calls.append(("get", name))

        def create_experiment(self, name: str) -> str:
            return f"number of {name}"

        def create_run(self, experiment_id: str, run_name: str) -> Any:
            calls.append(("create", experiment_id, run_name))
            return info

        def log_batch(self, run_id: str, metrics: Any = (), params: Any = ()) -> None:
            calls.append(("batch", run_id, list(metrics), list(params)))

        def set_terminated(self, run_id: str) -> None:
            calls.append(("end", run_id))

    made = SimpleNamespace(Metric=lambda *given: (given[0], given[1], given[3]), Param=lambda *given: given)
    stand_in("mlflow", monkeypatch, MlflowClient=Client, entities=made)
    tell("mlflow", tmp_path / "run")
    params = [("sampler", "class"), ("protocol.lr", "0.1"), ("text", "x" * 500)]
    begin = [("client", None), ("get", "fastlt"), ("create", "number of fastlt", "run"), ("batch", "r1", [], params)]
    logs = [("batch", "r1", [("loss", 1 / (step + 1), step)], []) for step in (1, 2)]
    assert calls == [*begin, *logs, ("end", "r1")]
    calls.clear()
    tell("mlflow", tmp_path / "run", 2, tracking_uri="sqlite:///x.db")
    assert [one[0] for one in calls] == ["client", "batch", "batch", "end"] and calls[0][1] == "sqlite:///x.db"


def tensorboard_holds(folder: Path) -> list[tuple[int, float]]:
    module: Any = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    events = module.EventAccumulator(str(folder / "tensorboard")).Reload()
    return [(event.step, event.value) for event in events.Scalars("loss")]


def wandb_holds(folder: Path) -> list[tuple[int, float]]:
    """Its files of records have no reader in the package; of each record the text of a number follows the name."""
    files = sorted((folder / "wandb").glob("offline-run-*/*.wandb"))
    found = [value for path in files for value in re.findall(rb"loss\W{1,4}(0\.\d+)", path.read_bytes())]
    values = dict.fromkeys(map(float, found))  # the last value stands in the summary again
    return list(enumerate(values, start=1))


def mlflow_holds(folder: Path) -> list[tuple[int, float]]:
    known = (folder / "mlflow.id").read_text()
    client = importlib.import_module("mlflow").MlflowClient(f"sqlite:///{folder}/mlflow.db")
    assert client.get_run(known).info.status == "FINISHED"
    assert client.get_run(known).data.params["sampler"] == "class"
    return [(one.step, one.value) for one in client.get_metric_history(known, "loss")]


def trackio_holds(folder: Path) -> list[tuple[int, float]]:
    module: Any = importlib.import_module("trackio.sqlite_storage")
    logs = module.SQLiteStorage.get_logs("fastlt", (folder / "trackio.id").read_text())
    return [(one["step"], one["loss"]) for one in logs]


HOLDS: dict[str, Callable[[Path], list[tuple[int, float]]]] = {
    "tensorboard": tensorboard_holds,
    "wandb": wandb_holds,
    "mlflow": mlflow_holds,
    "trackio": trackio_holds,
}


@pytest.mark.filterwarnings("ignore")  # those of the tools
@pytest.mark.parametrize("name", LOGGERS)
def test_the_real_tool_has_every_epoch(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not module._installed(name):
        pytest.skip(f"{name} is not installed")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    folder = tmp_path / "run"
    options: dict[str, Any] = {"tracking_uri": f"sqlite:///{folder}/mlflow.db"} if name == "mlflow" else {}
    tell(name, folder, **options)
    tell(name, folder, 2, **options)
    assert HOLDS[name](folder) == [(step, pytest.approx(1 / (step + 1))) for step in (1, 2, 3, 4)]
