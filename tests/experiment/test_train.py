"""python -m fastlt.train, end to end on a small dataset: results, determinism, reuse, resumption, refusals."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import refusal, refused, run, train
from made_results import made
from pictures import Pictures, conversion
from test_configs import options

from fastlt.data.convert import convert
from fastlt.data.shards.reader import Dataset
from fastlt.experiment.identity import run_name
from fastlt.experiment.kept import keep_rows
from fastlt.experiment.results import from_json, write_results
from fastlt.stage2.classifiers import CLASSIFIERS, PAPER
from fastlt.train import main
from fastlt.training import loggers

SMALL = ("protocol=cifar_lt_200", "protocol.batch=16", "epochs=2", "threads=1", "image_size=16")
TIMES = ("seconds", "images_per_second", "digest")  # and what follows from them


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a converted dataset `data` in it."""
    folder = tmp_path_factory.mktemp("train")
    convert(Pictures(counts=(120, 60, 25, 8), pixels=True), conversion(), folder / "data", workers=1)
    return folder


@pytest.fixture(scope="module")
def first(place: Path) -> dict[str, Any]:
    """Results of a run in `first`."""
    done = train("data=data", "run=first", *SMALL, cwd=place)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "first/report.md"
    return read(place / "first")


def read(run: Path) -> dict[str, Any]:
    return json.loads((run / "results.json").read_text())


def test_the_report_repeats_what_was_given(place: Path, first: dict[str, Any]) -> None:
    report = (place / "first" / "report.md").read_text()
    assert "python -m fastlt.train data=DIR backbone=resnet32 sampler=instance protocol=cifar_lt_200" in report
    assert "protocol.batch=16" in report
    assert first["departures"] == {"protocol.batch": [128, 16], "epochs": [200, 2], "image_size": [32, 16]}


def untimed(results: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in results.items() if key not in TIMES}
    return kept | {"classifiers": {name: {**row, "seconds": 0} for name, row in kept["classifiers"].items()}}


def test_a_run_leaves_all_its_artefacts(place: Path, first: dict[str, Any]) -> None:
    names = {path.name for path in (place / "first").iterdir()}
    assert names == {
        "config.yaml", "checkpoint.pt", "metrics.jsonl", "features.h5", "results.json", "report.md", "figures",
        "classifiers", "per_class.csv",
    }  # fmt: skip
    rows = [json.loads(line) for line in (place / "first" / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert {"loss", "lr", "images_per_second", "train_accuracy", "val_accuracy"} <= rows[0].keys()
    assert {"val_many", "val_medium", "val_few"} <= rows[0].keys()
    assert list(first["classifiers"]) == list(PAPER)
    for result in first["classifiers"].values():
        assert {"many", "medium", "few", "all", "mean_class", "macro_f1", "top5", "ece", "choices"} <= result.keys()
    assert first["groups"] == {"many": 1, "medium": 2, "few": 1}
    assert first["class_counts"]["train"] == [120, 60, 25, 8]
    assert first["classifiers"]["tau_norm"]["choices"]["chosen_on"] == "val"
    assert first["checkpoint"]["chosen"] == "best epoch on val"


def test_the_checkpoint_holds_no_code(place: Path, first: dict[str, Any]) -> None:
    state = torch.load(place / "first" / "checkpoint.pt", weights_only=True)
    assert state["finished"]
    assert state["key"] == first["key"]
    assert "optimizer" not in state


def test_the_same_command_gives_the_same_results(place: Path, first: dict[str, Any]) -> None:
    assert train("data=data", "run=second", *SMALL, cwd=place).returncode == 0
    assert untimed(read(place / "second")) == untimed(first)
    weights = [torch.load(place / run / "checkpoint.pt", weights_only=True)["model"] for run in ("first", "second")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_finished_representation_is_reused(place: Path, first: dict[str, Any]) -> None:
    before = (place / "first" / "checkpoint.pt").read_bytes()
    done = train("data=data", "run=first", *SMALL, cwd=place)
    assert "reusing the representation" in done.stderr
    assert (place / "first" / "checkpoint.pt").read_bytes() == before
    assert read(place / "first") == first


def test_what_stage_1_ran_on_is_told_whatever_classified(place: Path, first: dict[str, Any]) -> None:
    assert first["trained_on"] == first["device"] == "cpu, 1 thread"
    shutil.copytree(place / "first", place / "elsewhere")
    assert train("run=elsewhere", "threads=2", cwd=place).returncode == 0
    results = read(place / "elsewhere")
    assert (results["trained_on"], results["device"]) == ("cpu, 1 thread", "cpu, 2 threads")
    assert results["images_per_second"] == first["images_per_second"]
    assert "images/s, on cpu, 1 thread" in (place / "elsewhere" / "report.md").read_text()
    state = torch.load(place / "first" / "checkpoint.pt", weights_only=True)
    assert state["devices"] == ["cpu, 1 thread"]


def test_a_training_that_was_cut_off_goes_on(place: Path, first: dict[str, Any]) -> None:
    code = (
        "import sys, fastlt.training.representation as r\n"
        "save = r.save_checkpoint\n"
        "def cut(state, path, keep):\n"
        "    save(state, path, keep)\n"
        "    sys.exit(9)\n"
        "r.save_checkpoint = cut\n"
        "from fastlt.train import main\n"
        "main()\n"
    )
    (place / "cut.py").write_text(code)
    assert run("cut.py", "data=data", "run=cut", *SMALL, cwd=place).returncode == 9
    assert not (place / "cut" / "results.json").exists()
    done = train("run=cut", cwd=place)  # all other keys are in config.yaml
    assert "resuming cut/checkpoint.pt after epoch 1" in done.stderr
    assert untimed(read(place / "cut")) == untimed(first)
    lines = (place / "cut" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]


def test_hydras_own_sweep_makes_a_run_of_each(place: Path) -> None:
    small = ("data=data", *SMALL, "epochs=1", "classifiers=[joint]")
    done = run("-m", "fastlt.train", "-m", *small, "sampler=class,sqrt", cwd=place)
    assert done.returncode == 0, done.stderr
    results = [json.loads(path.read_text()) for path in (place / "runs").glob("*/results.json")]
    assert sorted(one["sampler"] for one in results) == ["class", "sqrt"]


def test_held_out_images_choose_tau_and_are_not_trained_on(place: Path) -> None:
    done = train("data=data", "run=held", "hold_out=0.2", "classifiers=[joint,tau_norm]", *SMALL, cwd=place)
    assert done.returncode == 0, done.stderr
    results = read(place / "held")
    assert list(results["classifiers"]) == ["joint", "tau_norm"]
    assert results["choose_on"] == results["classifiers"]["tau_norm"]["choices"]["chosen_on"] == "held_out"


def test_empty_groups_are_null(tmp_path: Path) -> None:
    convert(Pictures(counts=(60, 30), pixels=True), conversion(), tmp_path / "data", workers=1)
    done = train("data=data", "run=run", *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = read(tmp_path / "run")["classifiers"]["tau_norm"]
    assert result["many"] is result["few"] is None
    assert set(result["curves"]["test"]["few"]) == {None}
    assert result["medium"] == pytest.approx(result["all"])


def test_a_choice_made_on_test_is_marked(place: Path, first: dict[str, Any]) -> None:
    shutil.copytree(place / "first", place / "on_test")  # what is asked for stays with a run
    done = train("data=data", "run=on_test", "choose_on=test", *SMALL, cwd=place)
    assert "no fair test" in done.stderr
    assert "†" in done.stdout
    assert "†" in (place / "on_test" / "report.md").read_text()


@pytest.mark.usefixtures("first")
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data=nowhere"], "data=nowhere: no such folder"),
        (["foo=1"], "unknown key foo: allowed are "),
        (["epoch=1"], "unknown key epoch (did you mean epochs?)"),
        (["protocol.lrr=1"], "unknown key protocol.lrr (did you mean protocol.lr?)"),
        (["sampler=foo"], "sampler=foo is unknown: allowed are class, instance, progressive, sqrt"),
        (["backbone=foo"], "backbone=foo is unknown: allowed are resnet10"),
        (["epochs=many"], "epochs: Value 'many' of type 'str' could not be converted to Integer"),
        (["epochs=-1", "run=new"], "epochs=-1: it must be 0 (nothing is trained) or more"),
        (["protocol.mean=[0.5,0.5,0.5]"], "protocol.mean=[0.5, 0.5, 0.5], protocol.std=None: give both or neither"),
        (
            ["protocol.mean=[123.7,116.3,103.5]", "protocol.std=[58.4,57.1,57.4]"],
            "protocol.mean=[123.7, 116.3, 103.5], not three numbers from 0 to 1: they are of pixel values",
        ),
        (["protocol.head_start=zero"], "protocol.head_start=zero is unknown: allowed are uniform, kaiming_normal"),
        (["protocol.head_lr=0"], "protocol.head_lr=0.0: it must be greater than 0"),
        (["sampler.drawing=foo", "run=new"], "sampler.drawing=foo is unknown: allowed are quota, iid, dataloader"),
        (["classifiers=[joint,foo]"], "classifier=foo is unknown: allowed are paper, all, joint, ncm_l2"),
        (["classifiers=[joint,no:where]"], "classifier=no:where: importing no fails"),
        (["classifiers=[]"], "classifiers=[]: name one or more of paper, all, joint"),
        (["mode=videos"], "mode=videos is unknown: allowed are features, images"),
        (["bn=drift"], "bn=drift is unknown: allowed are frozen, train"),
        (["augmented_passes=-1"], "augmented_passes=-1: it must be 0 or more"),
        (["feature_dtype=int8"], "feature_dtype=int8 is unknown: allowed are float32, float16"),
        (["stage2.lr=0.1"], "stage2.lr takes a list: write 'stage2.lr=[A,B]', in quotes, also for a single one"),
        (["classifiers=all"], "classifiers takes a list: write 'classifiers=[A,B]'"),
        (["stage2.seeds=0"], "stage2.seeds=0: it must be at least 1"),
        (["stage2.lr=[0.1,-1]"], "stage2.lr=[0.1, -1.0]: one or more numbers greater than 0"),
        (["stage2.drawing=once"], "stage2.drawing=once is unknown: allowed are quota, iid, dataloader, reference"),
        (["mode=images", "stage2.lr=[0.1,0.2]"], "image mode trains one setting"),
        (["choose_on=held_out"], "choose_on=held_out: there is no such split here"),
        (["hold_out=1.0", "run=new"], "hold_out=1.0: it must be in [0, 1)"),
        (["protocol.batch=1000", "run=new"], "=1000 is larger than the number of training images (213): choose"),
        (["device=tpu"], "device=tpu is unknown"),
        (["device=cuda:7"], "device=cuda:7: this machine has"),
        (["precision=fp8"], "precision=fp8 is unknown: allowed are auto, fp32, bf16"),
        (["threads=-1"], "threads=-1"),
        (["seed=-1"], "seed=-1: it must be 0 or more"),
        (["backbone=resnet10"], "holds a representation with backbone=resnet32, asked for is backbone=resnet10"),
        (["seed=5"], "first/checkpoint.pt holds a representation with seed at its default, asked for is seed=5"),
        (["data"], "data"),
    ],
)  # fmt: skip
def test_wrong_input_is_refused_in_one_line(place: Path, overrides: list[str], message: str) -> None:
    named = {override.split("=")[0] for override in overrides}
    given = [override for override in ("data=data", "run=first", *SMALL) if override.split("=")[0] not in named]
    assert message in refusal(main, *given, *overrides, cwd=place)
    assert not (place / "new").exists()


def test_debug_shows_the_traceback(place: Path) -> None:
    done = train("--debug", "data=nowhere", cwd=place)
    assert done.returncode != 0
    assert "Traceback" in done.stderr


def test_a_checkpoint_that_is_none_is_refused(place: Path) -> None:
    (place / "broken").mkdir()
    (place / "broken" / "checkpoint.pt").write_bytes(b"junk")
    message = refused(train("data=data", "run=broken", *SMALL, cwd=place))
    assert "broken/checkpoint.pt is damaged, or no plain file of torch.save" in message


def test_damaged_images_end_a_training_only_beyond_the_budget(tmp_path: Path) -> None:
    convert(Pictures(counts=(30, 10, 5)), conversion("png"), tmp_path / "data", workers=1)
    index = Dataset(tmp_path / "data").split("train")
    with (tmp_path / "data" / "train-000000.tar").open("r+b") as shard:
        for sample in (4, 31):
            shard.seek(index.offset[sample])
            shard.write(bytes(100))
    arguments = ("data=data", "classifiers=[joint]", *SMALL)
    done = train(*arguments, "run=spared", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    for sample in (4, 31):
        assert any(
            line == f"damaged image: train-000000.tar, offset {index.offset[sample]}, key train/größe {sample}.jpg"
            for line in said
        )
    assert any(line.startswith("positions of this epoch given to other images of the class: 2, for ") for line in said)
    strict = train(*arguments, "max_damaged=1", "run=strict", cwd=tmp_path)
    assert strict.returncode == 2
    told = "error: 2 images of the train split are damaged, max_damaged=1 allows fewer: train-000000.tar, offset "
    assert strict.stderr.splitlines()[-1].startswith(told)


def test_a_representation_takes_the_place_of_stage_1(place: Path, first: dict[str, Any]) -> None:
    done = train("data=data", "representation=first", "run=given", *SMALL, cwd=place)
    assert done.returncode == 0, done.stderr
    given = read(place / "given")
    assert not (place / "given" / "checkpoint.pt").exists()
    assert given["key"] != first["key"]  # of features: they may be of another dataset or size
    assert (given["sampler"], given["epochs"], given["backbone"]) == ("instance", 2, "resnet32")
    assert given["checkpoint"]["chosen"] == "given: first"
    for name, result in first["classifiers"].items():
        assert given["classifiers"][name]["per_class"] == result["per_class"], name
    line = refusal(main, "representation=given.pt", "run=first", cwd=place)
    assert line.startswith("given.pt does not exist")
    shutil.copy(place / "first" / "checkpoint.pt", place / "given.pt")
    line = refusal(main, "representation=given.pt", "run=first", cwd=place)
    assert line.startswith(
        "run=first holds results of another network (resnet32 on pictures) or of other features of it"
    )
    assert read(place / "first") == first


@pytest.mark.usefixtures("first")
def test_folders_of_given_representations_are_told_apart(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are the checkpoint.pt of a run."""
    monkeypatch.chdir(place)
    state = torch.load("first/checkpoint.pt", weights_only=True)
    (place / "another").mkdir()
    torch.save({**state, "key": "another"}, "another/checkpoint.pt")
    asked = options("protocol=cifar_lt_bags", "representation=first/checkpoint.pt")
    data: Any = Dataset(Path("data"))
    names = {run_name(replace(asked, representation=f"{run}/checkpoint.pt"), data) for run in ("first", "another")}
    assert len(names) == 2 and all(re.fullmatch("pictures_checkpoint_seed0_[0-9a-f]{8}", name) for name in names)


def test_a_representation_of_other_classes_is_refused(place: Path, first: dict[str, Any], tmp_path: Path) -> None:
    convert(Pictures(counts=(20, 9), pixels=True), conversion(), tmp_path / "two", workers=1)
    line = refusal(main, f"data={tmp_path}/two", "representation=first", *SMALL, cwd=place)
    assert line == f"first has 4 classes, {tmp_path}/two 2: choose another of the two"


def test_imported_weights_get_every_classifier(place: Path, tmp_path: Path) -> None:
    from torchvision.models import resnet18

    torch.manual_seed(0)
    torch.save(resnet18(num_classes=4).state_dict(), tmp_path / "theirs.pth")
    done = run("-m", "fastlt.checkpoint", "import", "theirs.pth", "--out", "ours.pt", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = train(f"data={place}/data", "representation=ours.pt", "run=run", *SMALL[:-1], "image_size=64", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = read(tmp_path / "run")
    assert (results["backbone"], results["sampler"], results["images_per_second"]) == ("resnet18", "unknown", None)
    assert list(results["classifiers"]) == list(PAPER)
    assert "unknown sampling" in done.stdout


def test_options_that_change_the_training_change_its_key(place: Path, first: dict[str, Any]) -> None:
    line = refusal(main, "data=data", "run=first", *SMALL, "protocol.ema=0.9", cwd=place)
    assert "holds a representation with protocol.ema at its default, asked for is protocol.ema=0.9" in line


def test_a_protocol_may_bring_its_normalization_and_steps(place: Path, first: dict[str, Any]) -> None:
    stage_2 = [f"protocol.{part}={{epochs: 3, batch: 16}}" for part in ("crt", "lws")]
    bags = ("protocol=cifar_lt_bags", *SMALL[1:-1], "epochs=4", *stage_2, "classifiers=[joint,tau_norm,lws]")
    done = train("data=data", "run=bags", *bags, cwd=place)
    assert done.returncode == 0, done.stderr
    results = read(place / "bags")
    assert results["evaluation"]["std"] == [0.2023, 0.1994, 0.2010] != first["evaluation"]["std"]
    rates = [json.loads(line)["lr"] for line in (place / "bags" / "metrics.jsonl").read_text().splitlines()]
    assert rates == pytest.approx([0.1, 0.1, 0.1, 0.001])  # steps after 159 and 179 of 200 epochs
    state = torch.load(place / "bags" / "checkpoint.pt", weights_only=True)
    assert state["settings"]["protocol.milestones"] == [3, 4]
    assert state["settings"]["protocol.nesterov"] is True
    assert "sampler.drawing" not in state["settings"]  # a permutation, as `dataloader` has it for this sampler
    assert results["classifiers"]["tau_norm"]["choices"] == {"tau": 1.0, "bias": "kept"}
    state = torch.load(place / "bags" / "lws_images" / "checkpoint.pt", weights_only=True)
    assert (state["settings"]["milestones"], state["settings"]["nesterov"]) == ([9, 19], True)
    assert (state["settings"]["bn"], state["settings"]["stage2.drawing"]) == ("train", "iid")


def test_the_authors_habits_in_one_word(place: Path) -> None:
    small = ("protocol.batch=16", "protocol.crt.batch=16", "protocol.lws.batch=16", "protocol.crt.epochs=2", "epochs=1")
    some = ("backbone=resnet32", "image_size=32", "classifiers=[joint,crt,lws,mlp_1]", "threads=1")
    done = train("data=data", "run=authors", "protocol=authors", *small, *some, cwd=place)
    assert done.returncode == 0, done.stderr
    results = read(place / "authors")
    given = {given.partition("=")[0] for given in (*small, "image_size")}
    assert results["protocol"] == "authors" and set(results["departures"]) == given
    assert list(results["classifiers"]) == ["joint", "crt_images", "lws_images", "mlp_1"]
    for name, epochs in (("crt_images", 2), ("lws_images", 5)):
        choices = results["classifiers"][name]["choices"]
        assert choices["epochs"] == epochs and choices["chosen_on"] == "val" and 1 <= choices["epoch"] <= epochs
    assert len(results["classifiers"]["mlp_1"]["choices"]["epoch"]) == 1
    state = torch.load(place / "authors" / "crt_images" / "checkpoint.pt", weights_only=True)
    asked = {"bn": "train", "stage2.drawing": "reference", "stage2.stepped": "epoch", "stage2.keep": "best on val"}
    assert {name: state["settings"][name] for name in asked} == asked


def test_keeping_the_best_epoch_needs_images_to_choose_on(place: Path, tmp_path: Path) -> None:
    line = refusal(
        main, "data=data", "protocol=authors", "protocol.batch=16", "choose_on=train", "run=never", cwd=place
    )
    assert line.startswith("stage2.keep=best needs images to choose the epoch on") and "hold_out=0.1" in line
    assert not (place / "never" / "checkpoint.pt").exists()


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.pt")}


def test_one_more_classifier_is_all_that_a_second_run_computes(place: Path) -> None:
    assert train("data=data", "run=more", "classifiers=[joint,crt]", *SMALL, cwd=place).returncode == 0
    one, before, features = read(place / "more"), times(place / "more/classifiers"), (place / "more/features.h5").stat()
    done = train("data=data", "run=more", "classifiers=[joint,crt,cosine]", *SMALL, cwd=place)
    assert done.returncode == 0, done.stderr
    two, after = read(place / "more"), times(place / "more/classifiers")
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"cosine.pt"}
    assert (place / "more/features.h5").stat().st_mtime_ns == features.st_mtime_ns
    assert {name: two["classifiers"][name] for name in one["classifiers"]} == one["classifiers"]


def test_a_cell_stays_finished_with_one_more_classifier(tmp_path: Path) -> None:
    whole = from_json(made(names=("joint", "crt", "lws")))
    rows = dict(whole.classifiers)
    added = replace(whole, classifiers={"lws": rows.pop("lws")})
    write_results(replace(whole, classifiers=rows, cell="key of a cell"), tmp_path)
    kept = keep_rows(added, tmp_path)
    assert kept.cell == "key of a cell" and set(kept.classifiers) == {"joint", "crt", "lws"}
    assert keep_rows(replace(added, cell="another"), tmp_path).cell == "another"
    assert keep_rows(replace(added, failed={"crt": "it diverged"}), tmp_path).cell is None
    assert keep_rows(replace(added, hold_out=0.5), tmp_path).cell is None


def test_damaged_results_are_told_with_the_classifiers_that_they_lose(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = from_json(made(names=("joint",)))
    assert keep_rows(results, tmp_path) == results and not capsys.readouterr().err
    write_results(results, tmp_path).write_text("{")
    (tmp_path / "classifiers").mkdir()
    for name in ("joint", "crt"):
        (tmp_path / "classifiers" / f"{name}.pt").touch()
    assert keep_rows(results, tmp_path) == results
    told = capsys.readouterr().err
    assert "results.json: is not valid JSON" in told and "; crt are left out: name them again" in told
    assert told.count("\n") == 1


def test_every_classifier_from_augmented_passes_in_float16_with_seeds_and_settings(place: Path) -> None:
    more = ("augmented_passes=2", "feature_dtype=float16", "stage2.seeds=2", "stage2.lr=[0.05,0.2]", "stage2.hidden=16")
    done = train("data=data", "run=first", "classifiers=[all]", *more, *SMALL, cwd=place)
    assert done.returncode == 0, done.stderr
    results = read(place / "first")
    assert list(results["classifiers"]) == list(CLASSIFIERS)
    crt = results["classifiers"]["crt"]
    assert crt["seeds"] == 2
    assert crt["choices"]["lr"] in (0.05, 0.2)
    assert crt["choices"]["chosen_on"] == "val"
    changed = {"stage2.seeds": [1, 2], "stage2.lr": [None, [0.05, 0.2]], "stage2.hidden": [512, 16]}
    assert changed.items() <= results["departures"].items()
    assert (results["augmented_passes"], results["feature_dtype"]) == (2, "float16")


def test_image_mode_trains_on_the_same_representation(place: Path) -> None:
    names = "classifiers=[joint,crt,lws,retrain_last]"
    for bn in ("frozen", "train"):
        done = train("data=data", "run=images", "mode=images", f"bn={bn}", names, *SMALL, "protocol.crt.batch=16",
                     "protocol.lws.batch=16", "protocol.crt.epochs=1", "protocol.lws.epochs=1", "overwrite=true",
                     cwd=place)  # fmt: skip
        assert done.returncode == 0, done.stderr
        results = read(place / "images")
        assert list(results["classifiers"]) == ["joint", "crt_images", "lws_images", "retrain_last"]
        assert (place / "images/crt_images/features.h5").exists() == (bn == "train")
        assert (place / "images/retrain_last/features.h5").exists()
        assert results["bn"] == bn


def test_a_missing_logger_is_said_before_training(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers, "_installed", lambda package: False)
    line = refusal(main, "data=data", "run=board", *SMALL, "logger=[jsonl,wandb]", cwd=place)
    assert line == "logger=wandb needs the package wandb: pip install wandb"
    assert not (place / "board").exists()
