"""The report: every number of results.json in its place, nothing claimed that the numbers do not show."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastlt.errors import UserError
from fastlt.groups import GROUPS, group_sizes
from fastlt.report import figures, results_table, write_report
from fastlt.report.__main__ import main
from fastlt.report.page import command, page, summary

ALL = ("joint", "ncm_l2", "ncm_cosine", "crt", "tau_norm", "lws")
# many, medium, few, all: the shape of the paper's results on ImageNet-LT
SCORES = {
    "joint": (65.9, 37.5, 7.7, 44.4),
    "ncm_l2": (56.6, 45.3, 28.1, 47.3),
    "ncm_cosine": (56.1, 45.0, 28.4, 47.1),
    "crt": (61.8, 46.2, 27.4, 49.6),
    "tau_norm": (59.1, 46.9, 30.7, 49.4),
    "lws": (60.2, 47.2, 30.3, 49.9),
}
TRAIN: list[int] = np.geomspace(400, 5, 36).astype(int).tolist()
SETTINGS = {"crt": {"epochs": 10, "lr": 0.2}, "lws": {"epochs": 5, "lr": 0.2}}


def made(
    train: list[int] = TRAIN,
    names: tuple[str, ...] = ALL,
    per_class: int = 20,
    val: bool = True,
    choose_on: str = "val",
) -> dict[str, Any]:
    """A results.json as fastlt.train writes it, for classes with these training counts."""
    groups = group_sizes(np.asarray(train))
    draw = np.random.default_rng(0)
    results = {
        "schema": 1, "dataset": "shapes", "dataset_digest": "0123456789abcdef", "backbone": "resnet32",
        "sampler": "instance", "drawing": "quota", "seed": 0, "protocol": "demo", "key": "fedcba98", "epochs": 20,
        "image_size": 32, "parameters": 464154, "checkpoint": {"epoch": 18, "chosen": "best epoch on val"},
        "seconds": 101.2, "images_per_second": 340.1, "class_names": [f"class {j}" for j in range(len(train))],
        "class_counts": {"train": train, "val": [10] * len(train), "test": [per_class] * len(train)},
        "groups": groups, "choose_on": choose_on, "classifiers": {},
        "versions": {"python": "3.11.7", "torch": "2.8.0"}, "device": "cpu, 2 threads",
    }  # fmt: skip
    if not val:
        del results["class_counts"]["val"]
        results["checkpoint"] = {"epoch": 20, "chosen": "last epoch"}
    for place, name in enumerate(names):
        many, medium, few, over = SCORES.get(name, (50.0, 40.0, 30.0, 42.0))
        row: dict[str, Any] = {"many": many, "medium": medium, "few": few, "all": over, "mean_class": over}
        row |= {group: None for group in GROUPS if not groups[group]}
        row |= {"top5": 80.0 + place, "ece": 12.5 - place, "per_class": [over] * len(train)}
        row["choices"] = dict(SETTINGS.get(name, {}))
        if not name.startswith("ncm"):
            tilt = {"joint": 0.35, "tau_norm": 0.1, "lws": 0.05}.get(name, -0.05)
            norms = np.asarray(train, dtype=float) ** tilt * draw.uniform(0.9, 1.1, len(train))
            row["weight_norms"] = norms.tolist()
        if name == "tau_norm":
            row["choices"] = {"tau": 0.71, "interval": [0.69, 0.74], "accuracy": 48.1, "criterion": "mean_class"}
            row["choices"]["chosen_on"] = choose_on
            row["curves"] = {choose_on: curve(groups, shift=-0.1), "test": curve(groups)}
        results["classifiers"][name] = row
    return results


def curve(groups: dict[str, int], shift: float = 0.0) -> dict[str, list[float | None]]:
    """Accuracies over tau that rise and fall as those of Figure 2."""
    grid = np.linspace(-0.5, 2.5, 301)
    tau = grid - shift
    shapes = {
        "many": 66 / (1 + np.exp(3.2 * (tau - 1.35))),
        "medium": 48 * np.exp(-(((tau - 0.75) / 1.1) ** 2)),
        "few": 52 / (1 + np.exp(-4 * (tau - 0.6))),
    }
    shapes["all"] = shapes["mean_class"] = sum(shapes.values()) / 3
    result: dict[str, list[float | None]] = {"tau": grid.tolist()}
    for key, values in shapes.items():
        result[key] = [None] * len(grid) if groups.get(key) == 0 else np.round(values, 2).tolist()
    return result


def without(results: dict[str, Any], *names: str) -> dict[str, Any]:
    kept = {name: row for name, row in results["classifiers"].items() if name not in names}
    return {**results, "classifiers": kept}


def numbers_of(results: dict[str, Any]) -> list[str]:
    keys = ("many", "medium", "few", "all", "top5", "ece")
    return [f"{row[key]:.1f}" for row in results["classifiers"].values() for key in keys if row[key] is not None]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One full report, shared by the tests that only read it."""
    return write_report(made(), tmp_path_factory.mktemp("report"))


def test_report_holds_the_numbers(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    for number in numbers_of(made()):
        assert number in text
    assert "| classifier | many (11) | medium (13) | few (12) | all | top-5 | ECE |" in text
    assert "| LWS | 60.2 | **47.2** | 30.3 | **49.9** | **85.0** | **7.5** |" in text
    for fact in ("0123456789abcdef", "464,154 parameters", "1m41s", "340 training images per second", "2.8.0"):
        assert fact in text
    assert "python -m fastlt.train backbone=resnet32 sampler=instance protocol=demo seed=0 epochs=20" in text
    assert "†" not in text


def test_every_link_of_the_report_exists(report: Path) -> None:
    links = re.findall(r"\]\(([^)]+)\)", report.read_text(encoding="utf-8"))
    assert sorted(links) == sorted(f"figures/{name}.{kind}" for name in figures.DRAWINGS for kind in ("png", "svg"))
    assert all((report.parent / link).stat().st_size > 1000 for link in links)
    assert len(list((report.parent / "figures").iterdir())) == len(links)


def test_same_results_same_bytes(report: Path, tmp_path: Path) -> None:
    again = write_report(json.loads(json.dumps(made())), tmp_path)
    for path in sorted(report.parent.rglob("*.*")):
        assert path.read_bytes() == (again.parent / path.relative_to(report.parent)).read_bytes(), path.name


def test_figures_of_an_older_report_do_not_stay(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "accuracy_over_tau.png").write_bytes(b"old")
    text = write_report(made(names=("ncm_l2", "ncm_cosine")), tmp_path).read_text(encoding="utf-8")
    left = {path.name for path in (tmp_path / "figures").glob("*.png")}
    assert left == {"accuracy_by_group.png", "class_counts.png", "sampling_weights.png"}
    assert "accuracy_over_tau" not in text and "weight_norms" not in text


def test_a_choice_on_test_is_marked_everywhere() -> None:
    results = made(val=False, choose_on="test")
    text = page(results, list(figures.DRAWINGS))
    assert "| tau-norm † | 59.1 |" in text and "| test † |" in text and "(no val split)" in text
    assert "† chosen on the test images themselves" in text
    assert "The settings of tau-norm were chosen on the test images themselves" in summary(results)
    assert "cRT †" not in text  # its settings were set, not chosen
    table = results_table(results)
    assert "tau-norm †" in table and "\n† chosen on the test images themselves" in table
    assert "tau 0.71, chosen on test" in table


def test_a_checkpoint_chosen_on_test_marks_every_row() -> None:
    results = made()
    results["checkpoint"]["chosen"] = "best epoch on test"
    assert results_table(results).count(" †") == len(ALL)


def test_terminal_table_is_aligned() -> None:
    lines = results_table(made()).split("\n")
    assert lines[0].startswith("shapes, resnet32, instance-balanced sampling, seed 0")
    head, *rows = lines[2 : 3 + len(ALL)]
    assert head.split("  ")[0] == "classifier" and "many (11)" in head and "mean class" not in head
    ends = [match.end() for match in re.finditer(r"\S+( \(\d+\))?", head)][1:]
    for row in rows:
        assert [match.end() for match in re.finditer(r"\d+\.\d+", row)] == ends
    assert lines[-1] == (
        "tau-norm: tau 0.71, chosen on val (equally good from 0.69 to 0.74; by mean class accuracy, 48.1 %)."
    )
    assert results_table(made()).isascii()


def test_mean_class_column_only_where_it_differs() -> None:
    results = made()
    results["classifiers"]["crt"]["mean_class"] = 46.0
    assert "mean class" in results_table(results) and "| mean class |" in page(results, [])


def test_summary_says_what_the_numbers_show() -> None:
    text = summary(made(per_class=100))
    assert "On the few-shot classes (fewer than 20 training images) the joint classifier reaches 7.7 %; " in text
    assert "the highest of the 5 others, tau-normalization, reaches 30.7 % (+23.0)." in text
    assert "learnable weight scaling (LWS), reaches 49.9 % (+5.5)." in text
    assert "(LWS) reaches 5.7 points less than the joint classifier (60.2 % against 65.9 %)." in text


def test_summary_does_not_sell_a_worse_classifier() -> None:
    results = made(names=("joint", "crt"), per_class=100)
    results["classifiers"]["crt"] |= {"few": 2.0, "all": 44.4}
    text = summary(results)
    assert "classifier re-training (cRT) reaches 2.0 % (-5.7), so it is not better here." in text
    assert "classifier re-training (cRT) reaches 44.4 % (the same), so it is not better here." in text


def test_summary_calls_a_small_difference_chance() -> None:
    results = made(names=("joint", "crt"), per_class=10)
    results["classifiers"]["crt"]["few"] = 9.5
    assert "(+1.8), a difference that 120 test images cannot tell from chance." in summary(results)


def test_empty_few_group(tmp_path: Path) -> None:
    results = made(train=[500, 300, 200, 80, 40, 25])
    assert results["classifiers"]["crt"]["few"] is None
    text = write_report(results, tmp_path).read_text(encoding="utf-8")
    assert "No class has fewer than 20 training images. On the medium-shot classes" in text
    assert "few (0)" in text and "None" not in text and "nan" not in text


def test_two_classes_and_only_many() -> None:
    results = made(train=[900, 300], names=("joint", "tau_norm"), val=False, choose_on="held_out")
    assert "many-shot classes" in page(results, []) and "held-out train" in results_table(results)
    for draw in figures.DRAWINGS.values():
        assert draw(results) is not None


def test_8142_classes(tmp_path: Path) -> None:
    train = np.round(1000 * np.geomspace(1, 0.002, 8142)).astype(int)
    np.random.default_rng(1).shuffle(train)
    report = write_report(made(train=train.tolist(), per_class=3), tmp_path)
    assert "averaged over 41 neighbouring classes" in report.read_text(encoding="utf-8")
    assert max(path.stat().st_size for path in (tmp_path / "figures").iterdir()) < 500_000


def test_classifiers_nobody_has_heard_of() -> None:
    results = made(names=("joint", "my|new\nclassifier", "another"))
    assert r"| my\|new classifier |" in page(results, [])
    assert "another" in results_table(results)
    colours = figures.classifier_colours(results["classifiers"])
    assert len(set(colours.values())) == 3 and colours["joint"] == figures.CLASSIFIER_COLOURS["joint"]
    assert figures.accuracy_by_group(results) is not None


def test_only_ncm_and_no_joint() -> None:
    text = summary(without(made(), "joint", "crt", "tau_norm", "lws"))
    assert "the nearest class mean (cosine) reaches 28.4 %, the highest of 2 classifiers." in text


def test_least_a_results_json_may_hold(tmp_path: Path) -> None:
    keys = ("schema", "dataset", "backbone", "sampler", "seed", "class_counts", "groups")
    results: dict[str, Any] = {key: made()[key] for key in keys}
    results["classifiers"] = {"joint": {"many": 60.0, "medium": 40.0, "few": 10.0, "all": 37.0}}
    text = write_report(results, tmp_path).read_text(encoding="utf-8")
    assert "None" not in text and "1 classifier on its features is measured" in text


def test_interval_without_end() -> None:
    results = made(names=("joint", "tau_norm"))
    results["classifiers"]["tau_norm"]["choices"]["interval"] = [0.69, None]
    assert "equally good from 0.69 up" in results_table(results)
    assert figures.accuracy_over_tau(results) is not None


def test_command_of_another_dataset() -> None:
    results = {**made(names=("joint", "crt")), "dataset": "cifar100_lt", "sampler": "sqrt", "seed": 3}
    assert command(results) == (
        "python -m fastlt.train data=DIR backbone=resnet32 sampler=sqrt protocol=demo seed=3 epochs=20 image_size=32 "
        "'classifiers=[joint,crt]'"
    )


def test_command_says_what_a_run_would_not_do_by_itself() -> None:
    results = {**made(choose_on="test"), "drawing": "iid"}
    assert command(results).endswith("image_size=32 sampler.drawing=iid choose_on=test")
    held = {**made(choose_on="held_out"), "hold_out": 0.1}
    assert command(held).endswith("image_size=32 hold_out=0.1")
    assert command({**held, "choose_on": "val"}).endswith("hold_out=0.1 choose_on=val")
    assert "choose_on" not in command(made(val=False, choose_on="train"))


def saved(folder: Path, results: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(results if isinstance(results, str) else json.dumps(results))
    return folder


def small(seed: int = 0) -> dict[str, Any]:
    return {**made(train=[300, 50, 5], names=("ncm_l2",)), "seed": seed}


def test_command_line_on_one_run(tmp_path: Path) -> None:
    run = saved(tmp_path / "run", small())
    done = subprocess.run(
        [sys.executable, "-m", "fastlt.report", "run"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == str(Path("run", "report.md"))
    assert (run / "report.md").is_file() and (run / "figures" / "class_counts.png").is_file()


def test_command_line_on_a_tree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (0, 1):
        saved(tmp_path / "grid" / f"seed{seed}", small(seed))
    out = tmp_path / "out"
    assert main([str(tmp_path / "grid"), str(tmp_path / "grid" / "seed1"), "--out", str(out)]) == 0
    assert capsys.readouterr().out.split() == [str(out / f"seed{seed}" / "report.md") for seed in (0, 1)]
    assert "seed 1" in (out / "seed1" / "report.md").read_text(encoding="utf-8")
    assert not (tmp_path / "grid" / "seed0" / "report.md").exists()


def broken(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    results = copy.deepcopy(made(train=[300, 50, 5]))
    place = results
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return results


BROKEN = {
    "not JSON": ("{", "not valid JSON"),
    "no object": ([], "holds a list"),
    "schema": (broken(("schema",), 7), "schema is 7; allowed is 1"),
    "seed": (broken(("seed",), None), "seed is missing"),
    "no classifier": (broken(("classifiers",), {}), "classifiers is empty"),
    "counts": (broken(("class_counts", "test"), [1, 2]), "class_counts.test is [1, 2]; allowed is a list of 3 numbers"),
    "score": (broken(("classifiers", "crt", "few"), "4.2"), "classifiers.crt.few is '4.2'"),
    "row": (broken(("classifiers", "crt"), 4.2), "classifiers.crt is 4.2"),
    "norms": (broken(("classifiers", "crt", "weight_norms"), [1.0]), "classifiers.crt.weight_norms is [1.0]"),
    "curve": (broken(("classifiers", "tau_norm", "curves", "test", "all"), [1.0]), "curves.test.all is [1.0]"),
    "groups": (broken(("groups", "few"), None), "groups.few is missing"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_results_are_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, told = BROKEN[name]
    run = saved(tmp_path / "run", content)
    assert main([str(run)]) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1
    assert error.startswith("error: ") and told in error and "results.json" in error and "allowed is" in error
    assert not (run / "report.md").exists()


@pytest.mark.parametrize("arguments", [["nowhere"], ["."], [], ["--nonsense", "."]])
def test_wrong_arguments_are_one_line(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "allowed is" in error


def test_out_that_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = saved(tmp_path / "run", small())
    (tmp_path / "file").write_text("")
    assert main([str(run), "--out", str(tmp_path / "file")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_write_report_checks_what_it_is_given(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="schema is None"):
        write_report({}, tmp_path)
