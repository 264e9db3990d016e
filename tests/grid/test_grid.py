"""python -m fastlt.grid: which cells there are, what they are keyed by, where they run, and how it is shown."""

import io
import itertools
import json
import re
import sys
import time
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from commands import refusal
from pictures import Pictures, conversion

from fastlt.core.errors import UserError
from fastlt.data.convert import convert
from fastlt.grid import local
from fastlt.grid.__main__ import main
from fastlt.grid.arguments import combinations, split_arguments
from fastlt.grid.cells import Cell, failure_in
from fastlt.grid.estimate import START, cost
from fastlt.grid.job import _write_beside, failed_beside, run_cell, write_failure
from fastlt.grid.local import Progress, Slot, _Node, slots_here
from fastlt.grid.measure import Rates
from fastlt.grid.view import View

GRIDS = ("cifar10_lt", "cifar100_lt", "imagenet_lt", "inaturalist2018", "places_lt", "samplers")

MINE = ("grid=samplers", "data=data")


def test_arguments_are_the_grids_or_the_cells() -> None:
    own, cells = split_arguments(
        ["grid=demo", "out=x", "seed=0,1", "slurm.time=60", "--dry-run", "+protocol.loss_options.gamma=1", "hydra.x=1"]
    )
    assert own == ["grid=demo", "out=x", "slurm.time=60", "dry_run=true", "hydra.x=1"]
    assert cells == ["seed=0,1", "+protocol.loss_options.gamma=1"]


def test_the_value_of_a_flag_is_the_grids() -> None:
    given = ["--config-dir", ".", "grid=mine", "--cfg", "job", "epochs=2"]
    assert split_arguments(given) == (["--config-dir", ".", "grid=mine", "--cfg", "job"], ["epochs=2"])


def test_features_of_ones_own_have_a_grid_of_their_own() -> None:
    with pytest.raises(UserError, match="this grid is of data/shapes; for features of your own take grid=features"):
        combinations([["data=data/shapes", "seed=0"]], ["features=f.npz"])


def test_parts_of_ones_own_are_values_of_a_sweep() -> None:
    part = ["backbone=my.mod:net,resnet32", "protocol.loss=my.mod:Poly", "classifiers=[joint,my:fit],[joint]"]
    assert combinations([part], ["protocol.loss=focal,my.mod:Poly"])[3::2] == [
        ["backbone=my.mod:net", "classifiers=[joint]", "protocol.loss=my.mod:Poly"],
        ["backbone=resnet32", "classifiers=[joint,my:fit]", "protocol.loss=my.mod:Poly"],
        ["backbone=resnet32", "classifiers=[joint]", "protocol.loss=my.mod:Poly"],
    ]


def test_every_combination_is_a_cell_seed_after_seed() -> None:
    parts = [["sampler=instance,class", "seed=0,1"], ["sampler=sqrt", "seed=1"]]
    assert combinations(parts, []) == [
        ["sampler=instance", "seed=0"],
        ["sampler=class", "seed=0"],
        ["sampler=instance", "seed=1"],
        ["sampler=class", "seed=1"],
        ["sampler=sqrt", "seed=1"],
    ]


def test_what_is_given_takes_the_place_of_the_grids() -> None:
    parts = [["sampler=instance,class", "seed=0"], ["sampler=sqrt", "seed=0"]]
    cells = combinations(parts, ["sampler=progressive", "stage2.lr=[0.1,0.2]", "epochs=2,3"])
    assert cells == [["seed=0", "sampler=progressive", "stage2.lr=[0.1,0.2]", f"epochs={n}"] for n in (2, 3)]


def test_an_argument_that_cannot_be_read_is_told() -> None:
    with pytest.raises(UserError, match="key=value"):
        combinations([["seed=0"]], ["sampler"])


@pytest.mark.parametrize("given", ["-m", "--multirun"])
def test_hydras_sweep_is_not_needed(given: str) -> None:
    with pytest.raises(UserError, match="leave it out"):
        split_arguments([given])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a converted dataset `data` in it."""
    folder = tmp_path_factory.mktemp("grid")
    convert(Pictures(counts=(40, 20, 8), pixels=True), conversion(), folder / "data", workers=1)
    return folder


def settled(place: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> list[Any]:
    """The cells that a command line stands for; none is computed."""
    cells: list[Any] = []

    def take(found: list[Any], *_: Any) -> dict[str, str]:
        cells.extend(found)
        return {}

    monkeypatch.chdir(place)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")
    monkeypatch.setattr("fastlt.grid.__main__.run_local", take)
    monkeypatch.setattr("sys.argv", ["grid", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    return cells


@pytest.mark.parametrize("grid", GRIDS)
def test_every_grid_can_be_settled(grid: str, place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    arguments = (f"grid={grid}", "data=data", f"out={tmp_path}", "protocol.pretrained=null", "protocol.batch=16")
    cells = settled(place, monkeypatch, *arguments)
    assert {cell.config.sampler.name for cell in cells} == {"instance", "class", "sqrt", "progressive"}
    assert len({cell.name for cell in cells}) == len(cells) == len({cell.key for cell in cells})
    plan = json.loads((tmp_path / "grid.json").read_text())
    assert plan["grid"] == grid
    assert [entry["name"] for entry in plan["cells"]] == [cell.name for cell in cells]


def test_a_plan_is_refused_if_a_cell_could_not_begin(place: Path) -> None:
    told = refusal(main, "grid=samplers", "data=data", "protocol=cifar_lt_200", "out=unbegun", cwd=place)
    assert "protocol.batch=128 is larger than the number of training images (68)" in told
    assert not (place / "unbegun").exists()


def test_the_demos_are_of_the_embedded_data(place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("shapes", "shapes_6"):  # not drawn here
        (tmp_path / "data" / name).symlink_to(place / "data")
    samplers = ("instance", "class", "sqrt", "progressive")
    first, second = ([("data/shapes", sampler, seed) for sampler in samplers] for seed in (0, 1))
    plane = ("data/shapes_6", "instance", 0)
    for arguments, name, expected in (
        ((), "demo", first),
        (("grid=demo_seeds",), "demo_seeds", [*first, plane, *second]),
    ):
        cells = settled(tmp_path, monkeypatch, *arguments)
        assert {cell.run.parent for cell in cells} == {Path("runs", name)}
        assert [(cell.config.data, cell.config.sampler.name, cell.config.seed) for cell in cells] == expected


def test_cells_are_frozen_before_they_run(place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (cell,) = settled(
        place, monkeypatch, *MINE, f"out={tmp_path}", "sampler=sqrt", "seed=3", "epochs=2", "protocol.lr=0.3"
    )
    frozen = yaml.safe_load((tmp_path / "cells" / f"{cell.name}.yaml").read_text())
    assert frozen["key"] == cell.key
    config = frozen["config"]
    assert (config["protocol"]["name"], config["backbone"]["name"], config["precision"]) == ("demo", "resnet32", "fp32")
    assert (config["sampler"]["name"], config["seed"], config["epochs"]) == ("sqrt", 3, 2)
    assert config["protocol"]["lr"] == 0.3
    assert not list(tmp_path.glob("*/results.json"))


@pytest.mark.usefixtures("one_thread")
def test_a_cell_that_is_stopped_while_its_report_is_written_gets_it_later(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    y = np.arange(60) % 2
    x = np.random.default_rng(0).normal(size=(60, 3)) + y[:, None]
    np.savez(tmp_path / "f.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    arguments = ("grid=features", "features=f.npz", "out=out", "seed=0", "sampler=instance", "classifiers=[joint]")
    cell, *_ = settled(tmp_path, monkeypatch, *arguments, "protocol.crt.epochs=1")

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("fastlt.train.write_report", stopped)
        run_cell(cell.frozen, 1)
    assert (cell.run / "results.json").exists() and not cell.finished
    assert run_cell(cell.frozen, 1) == "done"
    assert cell.finished and (cell.run / "report.md").exists()
    assert not {"run.lock", "progress.json"} & {path.name for path in cell.run.iterdir()}


def test_a_cell_is_not_computed_with_another_part_than_it_was_planned_with(
    place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    for source in ("def fit(task): ...\n", "def fit(task): pass  # edited while the cell waits\n"):
        (tmp_path / "edited.py").write_text(source)
        sys.modules.pop("edited", None)
        if "pass" not in source:
            arguments = (*MINE, f"out={tmp_path}", "seed=0", "sampler=sqrt", "classifiers=[joint,edited:fit]")
            (cell,) = settled(place, monkeypatch, *arguments)
    with pytest.raises(UserError, match=r"^classifier edited:fit was changed since this cell was planned: give the"):
        run_cell(cell.frozen, 1)
    failure = failure_in(cell.run)
    assert failure is not None and "edited:fit was changed" in failure.error
    assert not list(cell.run.glob("*.pt"))


def test_a_command_for_fewer_cells_leaves_the_others_planned(
    place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def planned() -> dict[str, str]:
        return {one["name"]: one["key"] for one in json.loads((tmp_path / "grid.json").read_text())["cells"]}

    cells = settled(place, monkeypatch, *MINE, f"out={tmp_path}", "seed=0", "sampler=class,sqrt")
    before = planned()
    (again,) = settled(place, monkeypatch, *MINE, f"out={tmp_path}", "seed=0", "sampler=sqrt", "classifiers=[joint]")
    assert list(before) == [cell.name for cell in cells] and again.key not in before.values()
    assert planned() == {**before, again.name: again.key}
    (tmp_path / "grid.json").write_text("{")
    settled(place, monkeypatch, *MINE, f"out={tmp_path}", "seed=0", "sampler=sqrt")
    assert list(planned()) == [again.name]


def test_the_key_is_of_what_determines_results(place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def key(*arguments: str) -> str:
        (cell,) = settled(place, monkeypatch, *MINE, f"out={tmp_path}", "sampler=sqrt", "seed=0", *arguments)
        return cell.key

    first = key()
    assert key("threads=7", "save_epochs=3", "logger=[]") == first
    others = [("seed=1",), ("epochs=9",), ("classifiers=[joint]",), ("hold_out=0.1",), ("protocol.lr=0.3",)]
    assert len({first, *(key(*arguments) for arguments in others)}) == 1 + len(others)


def test_more_classifiers_are_of_the_same_run(place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    few = settled(place, monkeypatch, *MINE, f"out={tmp_path}", "classifiers=[joint]")
    more = settled(place, monkeypatch, *MINE, f"out={tmp_path}", "classifiers=[joint,crt]")
    assert [cell.run for cell in few] == [cell.run for cell in more]
    assert all(one.key != other.key for one, other in zip(few, more, strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["grid=nothing"], "grid=nothing is unknown: allowed are cifar100_lt, cifar100_lt_bags, cifar10_lt"),
        (["grid=nothing"], "strong, or a file FOLDER/grid/NAME.yaml of your own, with --config-dir FOLDER"),
        (["grid.parts=[['seed=${seed}']]"], "${KEY} stands for the value of KEY: write \\${...} for the letters"),
        (["sample=class"], "unknown key sample (did you mean sampler?)"),
        (["sampler=none"], "sampler=none is unknown: allowed are class, instance"),
        (["seed=x"], "seed: Value 'x'"),
        (["run=here"], "run=... is not for a grid"),
        (["launcher=cloud"], "launcher=cloud is unknown: allowed are local, slurm"),
        (["at_once=-1"], "at_once=-1: it must be 0"),
        (["device=cuda:1"], "device=cuda:1: a grid takes device=cpu or device=cuda"),
        (["data=nowhere"], "nowhere"),
        (["grid=demo_seeds"], "this grid is of data/shapes and data/shapes_6; for data of your own take grid=samplers"),
        (["stage2.seeds=1,2"], "cells that differ in stage2.seeds=1, stage2.seeds=2 would train one representation"),
        (["classifiers=[crt,nothing]"], "classifier=nothing is unknown"),
        (["choose_on=held_out"], "choose_on=held_out: there is no such split here"),
        (["--dryrun"], "unrecognized arguments: --dryrun; see --help"),
        (["grid.parts=[]"], "grid.parts=[]: a grid has at least one list of arguments"),
        (["threads=-1", "--dry-run"], "threads=-1: it must be 0 (one per core) or more"),
        (["launcher=slurm", "slurm.cpus=0", "--dry-run"], "slurm.cpus=0: it must be at least 1"),
        (["slurm.tme=5"], "unknown key slurm.tme (did you mean slurm.time?)"),
    ],
)
def test_wrong_input_is_refused_before_anything_starts(place: Path, arguments: list[str], message: str) -> None:
    missing = [key for key in MINE if not any(given.startswith(key.partition("=")[0]) for given in arguments)]
    given = [*missing, *arguments]
    assert message in refusal(main, "out=refused", *given, cwd=place)
    assert not (place / "refused").exists()


def test_a_dry_run_writes_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("fastlt.grid.measure.SECONDS", 0.2)
    out = tmp_path / "out"
    arguments = (*MINE, f"out={out}", "sampler=instance,class", "seed=0", "protocol.batch=8", "threads=1", "at_once=2")
    settled(place, monkeypatch, *arguments, "epochs=1", "--dry-run")
    once = capsys.readouterr().out
    settled(place, monkeypatch, *arguments, "epochs=5000", "--dry-run")
    often = capsys.readouterr().out
    assert not out.exists()
    assert "2 of 2 cells to compute, 2 side by side: about" in once
    assert re.match(
        r"measured here \(cpu, 1 thread\): resnet32 at 32 pixels trains [\d.]+ images/s and extracts [\d.]+ images/s",
        once,
    )
    rows = [[line.split() for line in text.splitlines()[2:4]] for text in (once, often)]
    assert [row[1] for row in rows[1]] == ["5000", "5000"]
    assert all("m" in row[2] or "h" in row[2] for row in rows[1])  # 340,000 images are minutes at least
    assert all(row[2].endswith("s") and "m" not in row[2] for row in rows[0])


def test_a_dry_run_of_frozen_backbones_measures_no_training(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("fastlt.grid.measure.SECONDS", 0.2)
    arguments = (
        *MINE,
        f"out={tmp_path}",
        "sampler=instance",
        "seed=0",
        "epochs=0",
        "backbone=resnet32",
        "image_size=32",
    )
    settled(place, monkeypatch, *arguments, "threads=1", "--dry-run")
    told = capsys.readouterr().out
    assert "resnet32 at 32 pixels extracts" in told and "trains" not in told and "1 of 1 cell to compute" in told


def test_a_dry_run_without_the_gpu_of_the_cells_lists_them_without_rates(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    arguments = (*MINE, f"out={tmp_path}", "seed=0", "protocol.batch=8", "precision=fp32", "launcher=slurm")
    settled(place, monkeypatch, *arguments, "--dry-run")
    told = capsys.readouterr().out
    assert told.endswith("4 of 4 cells to compute; this machine has no GPU to measure on\n") and "?" in told


def test_what_failed_beside_the_results_of_a_cell_is_told_and_forgotten(tmp_path: Path) -> None:
    _write_beside(tmp_path, ["figure: no room"])
    assert failed_beside(tmp_path) == ["figure: no room"]
    _write_beside(tmp_path, [])
    assert failed_beside(tmp_path) == []


def test_given_features_take_the_time_of_all_trainings_of_classifiers(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("fastlt.grid.measure.SECONDS", 0.2)
    y = np.arange(3).repeat((40, 20, 8))
    x = np.random.default_rng(0).normal(size=(len(y), 4)).astype(np.float32)
    np.savez(place / "mine.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    given = ("grid=features", "features=mine.npz", f"out={tmp_path}/out", "sampler=class", "seed=0")
    settled(place, monkeypatch, *given, "protocol.crt.epochs=7", "--dry-run")
    out, err = capsys.readouterr()
    assert "measuring classifiers on mine" in err
    assert "resnet" not in out + err
    assert re.match(r"measured here \(cpu, \d+ threads?\): classifiers train on [\d,]+ rows/s", out)
    assert out.splitlines()[2].split()[1] == "7"

    def trainings(*names: str) -> float:
        keys = (f"classifiers=[{','.join(names)}]", "protocol.crt.epochs=50", f"out={tmp_path}/{'_'.join(names)}")
        (cell,) = settled(place, monkeypatch, *given, *keys)
        return (cost(cell, Rates(inf, inf, 1000.0, 4, 15)).seconds - START) / (50 * 68 / 1000)

    assert trainings("joint", "ncm_l2", "tau_train") == pytest.approx(1)
    assert trainings("joint", "crt", "logit_adjusted_loss") == pytest.approx(3)
    assert trainings("joint", "crt", "tau_norm", "logit_adjust") == pytest.approx(2 + 5)  # there is no val split


@pytest.mark.parametrize(
    ("arguments", "slots"),
    [
        (("cpu", 0, 8, 4, 0, 0), [Slot(None, 2, n) for n in range(4)]),
        (("cpu", 0, 2, 8, 0, 0), [Slot(None, 1, n) for n in range(2)]),
        (("cpu", 0, 8, 4, 0, 4), [Slot(None, 4, n) for n in range(2)]),
        (("cpu", 0, 2, 8, 1, 0), [Slot(None, 2, 0)]),
        (("cpu", 0, 1, 8, 0, 0), [Slot(None, 1, 0)]),
        (("cuda", 4, 32, 9, 0, 0), [Slot(n, 8, 0) for n in range(4)]),
        (("cuda", 4, 32, 9, 2, 0), [Slot(n, 16, 0) for n in range(2)]),
        (("cuda", 2, 32, 9, 5, 0), [Slot(0, 6, 0), Slot(1, 6, 0), Slot(0, 6, 1), Slot(1, 6, 1), Slot(0, 6, 2)]),
    ],
)
def test_slots_share_the_node(arguments: tuple[Any, ...], slots: list[Slot], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert slots_here(*arguments) == slots
    assert len({slot.lock(Path()) for slot in slots}) == len(slots)


def test_only_visible_gpus_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,2")
    assert slots_here("cuda", 2, 8, 9, 0, 0) == [Slot(5, 4, 0), Slot(2, 4, 0)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-3f2a")
    with pytest.raises(UserError, match="by their numbers"):
        slots_here("cuda", 1, 8, 9, 0, 0)


class Failing(_Node):
    """Its cells fail at once, in this process; counts how often each was tried."""

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.tried: list[str] = []

    def _submit(self, cell: Cell, slot: Slot) -> Any:
        self.tried.append(cell.name)
        assert len(self.tried) < 20
        write_failure(cell.run, "the loss is nan", 1.0)
        return SimpleNamespace(done=lambda: True)


@pytest.mark.parametrize("step", [-3600.0, 0.0, 3600.0])
def test_a_failing_cell_is_tried_once_whatever_the_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    clock = itertools.count(2e9, step)
    for name in ("time", "time_ns"):
        monkeypatch.setattr(time, name, lambda: next(clock))
    monkeypatch.setattr(local, "POLL", 0.0)
    cells = [Cell(tmp_path / name, "key", None, [], {}, None) for name in ("new", "failed before", "damaged")]  # type: ignore[arg-type]
    write_failure(cells[1].run, "an earlier error", 1.0)
    cells[2].run.mkdir()
    (cells[2].run / "failed.json").write_text("")
    for _ in range(2):  # the same command again tries again, once
        node = Failing(cells, [Slot(None, 1, 0)], tmp_path, lambda progress: None)
        assert node.run() == dict.fromkeys((cell.name for cell in cells), "the loss is nan")
        assert sorted(node.tried) == sorted(cell.name for cell in cells)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Stand:
    """A cell as the view sees it."""

    def __init__(self, run: Path, **state: Any):
        self.run, self.name = run, run.name
        run.mkdir()
        if state:
            (run / "progress.json").write_text(json.dumps(state))


def test_the_view_counts_cells_and_images(tmp_path: Path) -> None:
    training = {"label": "stage 1", "total": 1000, "unit": "images", "note": "epoch 1/2, loss 2.0"}
    here: Any = Stand(tmp_path / "here_seed0_1a2b3c4d", done=250, rate=50.0, **training)
    there: Any = Stand(tmp_path / "there", done=500, rate=25.0, **training)
    waiting: list[Any] = [there, *(Stand(tmp_path / name) for name in ("w1", "w2"))]
    done: list[Any] = [Stand(tmp_path / "d")]
    progress = Progress(waiting, {here.name: here}, {"there": there}, done, {"f": "the loss is nan"})
    stream = io.StringIO()
    View(2, stream)(progress)
    text = stream.getvalue()
    # Whole cells take 20 s and 40 s; the running ones need 15 s and 20 s more: (2 * 30 + 35) / 2.
    assert "1 cell done (1 before), 2 running, 2 waiting, 1 failed; 48s left; 75 images/s; 0s so far" in text
    assert "FAILED f: the loss is nan" in text
    assert "here_seed0: stage 1 25 %, 50 images/s, epoch 1/2, loss 2.0" in text
    assert "there (another process): stage 1 50 %" in text


def test_a_terminal_is_redrawn_and_keeps_the_news(tmp_path: Path) -> None:
    cell: Any = Stand(tmp_path / "one")
    stream = Terminal()
    view = View(1, stream)
    view(Progress([], {"one": cell}))
    accuracies = {"joint": {"all": 51.23}, "few_empty": {"all": None}, "crt": {"all": 84.06}}
    (cell.run / "results.json").write_text(json.dumps({"classifiers": accuracies}))
    view(Progress([], done=[cell]))
    first, second = stream.getvalue().split("\033[F" * 2 + "\033[J")
    assert "1 running" in first
    assert second.splitlines()[0] == "finished one after 0s: joint 51.2, cRT 84.1, few_empty - % of all"
    assert "1 cell done, 0 running" in second
