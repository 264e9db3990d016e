"""The report: every number of results.json in its place, nothing claimed that the numbers do not show."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from made_results import ALL, PRIORS, flat, made, measured

from fastlt import report as reports
from fastlt.experiment.embedded import SHAPES_DIGEST
from fastlt.experiment.results import from_json
from fastlt.report import draw_accuracy, draw_classes, draw_regions, figures, repeat, shifted
from fastlt.report import page as pages
from fastlt.report import summary as summaries
from fastlt.report.__main__ import main
from fastlt.report.canvas import MOST_LINES, line_styles
from fastlt.report.names import LABELS, PAPER, escaped

Returned = TypeVar("Returned")


def of_json(function: Callable[..., Returned]) -> Callable[..., Returned]:
    """A function of results for those that are still what results.json holds: tests change them."""
    return lambda results, *others: function(from_json(results), *others)


results_table, write_report = of_json(reports.results_table), of_json(reports.write_report)
page, summary = of_json(pages.page), of_json(summaries.summary)
command, how_it_was_run = of_json(repeat.command), of_json(repeat.how_it_was_run)
accuracy_by_group, accuracy_over_tau = (
    of_json(draw_accuracy.accuracy_by_group),
    of_json(draw_accuracy.accuracy_over_tau),
)
decision_regions, few_share = of_json(draw_regions.decision_regions), of_json(draw_regions.few_share)
drawn_norms, drawn_over_priors = of_json(draw_classes.drawn_norms), of_json(shifted.drawn_over_priors)
over_tau = of_json(figures.over_tau)


def without(results: dict[str, Any], *names: str) -> dict[str, Any]:
    kept = {name: row for name, row in results["classifiers"].items() if name not in names}
    return {**results, "classifiers": kept}


def numbers_of(results: dict[str, Any]) -> list[str]:
    keys = ("many", "medium", "few", "all", "top5", "ece")
    return [f"{row[key]:.1f}" for row in results["classifiers"].values() for key in keys if row[key] is not None]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One full report, shared by the tests that only read it."""
    return write_report(measured(made()), tmp_path_factory.mktemp("report"))


def test_report_holds_the_numbers(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    for number in numbers_of(made()):
        assert number in text
    assert "| classifier | many (11) | medium (13) | few (12) | all | top-5 | ECE |" in text
    assert "| LWS | 60.2 | **47.2** | 30.3 | **49.9** | **85.0** | **7.5** |" in text
    for fact in ("0123456789abcdef", "464,154 parameters", "1m41s", "340 training images/s", "2.8.0"):
        assert fact in text
    assert "fastlt.train data=DIR backbone=resnet32 sampler=instance protocol=demo seed=0 epochs=20" in text
    assert "†" not in text


def test_every_link_of_the_report_exists(report: Path) -> None:
    links = re.findall(r"\]\(([^)]+)\)", report.read_text(encoding="utf-8"))
    names = [*figures.DRAWINGS, "accuracy_over_tau"]
    drawn = [f"figures/{name}.{kind}" for name in names for kind in ("png", "svg")]
    assert sorted(links) == sorted([*drawn, "per_class.csv"])
    assert all((report.parent / link).stat().st_size > 500 for link in links)
    assert len(list((report.parent / "figures").iterdir())) == len(drawn)


def test_same_results_same_bytes(report: Path, tmp_path: Path) -> None:
    again = write_report(json.loads(json.dumps(measured(made()))), tmp_path)
    for path in sorted(report.parent.rglob("*.*")):
        assert path.read_bytes() == (again.parent / path.relative_to(report.parent)).read_bytes(), path.name


def test_figures_of_an_older_report_do_not_stay(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    for name in ("accuracy_over_tau.png", "accuracy_over_tau_logit_adjust.svg", "reliability.png"):
        (tmp_path / "figures" / name).write_bytes(b"old")
    (tmp_path / "figures" / "mine.png").write_bytes(b"the user's own")
    text = write_report(made(names=("ncm_l2", "ncm_cosine")), tmp_path).read_text(encoding="utf-8")
    left = {path.name for path in (tmp_path / "figures").glob("*.png")}
    assert left == {"accuracy_by_group.png", "class_counts.png", "sampling_weights.png", "mine.png"}
    assert not (tmp_path / "figures" / "accuracy_over_tau_logit_adjust.svg").exists()
    assert "accuracy_over_tau" not in text and "weight_norms" not in text


def test_a_choice_on_test_is_marked_everywhere() -> None:
    results = made(val=False, choose_on="test")
    text = page(results, [*over_tau(results)])
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
    results["checkpoint"]["chosen"] = "given: runs/ablation on test/checkpoint.pt"
    assert " †" not in results_table(results)


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
    assert "few (" not in text and "None" not in text and "nan" not in text
    assert "few" not in results_table(results)


def test_two_classes_and_only_many() -> None:
    results = made(train=[900, 300], names=("joint", "tau_norm"), val=False, choose_on="held_out")
    assert "many-shot classes" in page(results, []) and "held-out train" in results_table(results)
    for draw in map(of_json, figures.DRAWINGS.values()):
        assert draw(measured(results)) is not None
    assert accuracy_over_tau(results, "tau_norm") is not None


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
    styles = line_styles(results["classifiers"])
    assert len({style["color"] for style in styles.values()}) == 3
    assert styles["joint"] == line_styles(["joint"])["joint"]
    assert accuracy_by_group(results) is not None


def test_only_ncm_and_no_joint() -> None:
    text = summary(without(made(), "joint", "crt", "tau_norm", "lws"))
    assert "the nearest class mean (cosine) reaches 28.4 %, the highest of 2 classifiers." in text


def test_the_names_that_commands_take_stand_below_the_table() -> None:
    text = page(made(names=("joint", "ncm_l2", "mine.own:FIT")), [])
    assert "`classifiers=` and `--classifier` call them `joint`, `ncm_l2`, `mine.own:FIT`." in text


def test_interval_without_end() -> None:
    results = made(names=("joint", "tau_norm"))
    results["classifiers"]["tau_norm"]["choices"]["interval"] = [0.69, None]
    assert "equally good from 0.69 up" in results_table(results)
    assert accuracy_over_tau(results, "tau_norm") is not None


@pytest.mark.parametrize(
    ("interval", "told"),
    [
        ([-1.0, 1.26], "choose a tau that is equally good"),
        ([None, 0.2], "choose a tau that is equally good"),
        ([0.13, None], "choose a tau that is equally good"),
        ([-1.0, 0.15], "choose 0.13 to 0.20, that accuracy varies by 3.0"),
    ],
)
def test_what_bootstrap_samples_choose_is_said_beside_what_is_equally_good(interval: list[Any], told: str) -> None:
    results = made(names=("joint", "tau_norm"))
    bootstrap = {"draws": 200, "tau": [0.13, 0.15, 0.2], "accuracy_se": 3.0}
    results["classifiers"]["tau_norm"]["choices"] |= {"tau": 0.0, "interval": interval, "bootstrap": bootstrap}
    assert f"9 of 10 bootstrap samples {told}" in results_table(results)


def test_command_of_another_dataset() -> None:
    results = {**made(names=("joint", "crt")), "dataset": "cifar100_lt", "sampler": "sqrt", "seed": 3}
    assert command(results) == (
        "python -m fastlt.train data=DIR backbone=resnet32 sampler=sqrt protocol=demo seed=3 epochs=20 image_size=32 "
        "precision=fp32 'classifiers=[joint,crt]'"
    )


def test_command_says_what_a_run_would_not_do_by_itself() -> None:
    results = {**made(choose_on="test"), "drawing": "iid", "departures": {"sampler.drawing": ["quota", "iid"]}}
    assert command(results).endswith("precision=fp32 choose_on=test sampler.drawing=iid")
    held = {**made(choose_on="held_out"), "hold_out": 0.1}
    assert command(held).endswith("precision=fp32 hold_out=0.1")
    assert command({**held, "choose_on": "val"}).endswith("hold_out=0.1 choose_on=val")
    assert "choose_on" not in command(made(val=False, choose_on="folds"))
    assert command(made(val=False, choose_on="train")).endswith("choose_on=train")


def test_the_command_of_a_frozen_backbone_leaves_the_protocol_and_its_sizes_to_epochs_0() -> None:
    frozen = {**made(), "protocol": "frozen", "epochs": 0, "departures": {"protocol.crt.batch": [25, 512]}}
    assert "protocol=" not in command(frozen) and " epochs=0 " in command(frozen)
    assert command(frozen).endswith(" protocol.crt.batch=512")


def test_the_command_repeats_the_given_representation_and_the_scale_of_features() -> None:
    results = {**made(), "departures": {"feature_scale": ["rms", "none"]}}
    results["checkpoint"] = {"epoch": 1, "chosen": "given: my runs/a/checkpoint.pt"}
    assert command(results).endswith("precision=fp32 'representation=my runs/a/checkpoint.pt' feature_scale=none")


def test_only_the_embedded_dataset_itself_needs_no_data() -> None:
    assert "data=DIR" in command(made()) and "where DIR is" in how_it_was_run(made())
    embedded = {**made(), "dataset_digest": SHAPES_DIGEST}
    assert "data=" not in command(embedded) and "DIR" not in how_it_was_run(embedded)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_command_repeats_the_precision(precision: str) -> None:
    results = {**made(), "precision": precision}
    assert command(results).endswith(f"image_size=32 precision={precision}")
    assert f"| precision | {precision} |" in how_it_was_run(results)


def test_seeds_give_every_cell_its_deviation() -> None:
    results = measured(made(), seeds=3)
    results["classifiers"]["crt"]["std"]["few"] = 11.26
    table = results_table(results)
    assert "61.8 ±3.3" in table and "49.9*±5.3" in table
    assert "30.7* ±4.3" in table and "27.4 ±11.3" in table
    head, *rows = table.split("\n")[2 : 3 + len(ALL)]
    points = {tuple(match.end() for match in re.finditer(r"(?<!±)\b\d+\.\d", row)) for row in rows}
    assert len({at[0] for at in points}) == len({at[2] for at in points}) == 1  # point below point
    assert head.index("few (12)") < head.index("all") and len(max(rows, key=len)) < 90
    assert "mean ± standard deviation over 3 seeds of the classifier; rows without ± are of one." in table
    text = page(results, [])
    assert "| 61.8 ±3.3 |" in text and "| **30.7** ±4.3 |" in text and "over 3 seeds" in text
    assert "This is one representation with one seed" in text and "one run with one seed" not in text
    assert accuracy_by_group(results) is not None


def test_seeds_that_differ_are_told_one_by_one() -> None:
    results = measured(made(names=("joint", "crt", "lws")), seeds=3)
    results["classifiers"]["lws"]["seeds"] = 5
    assert "over several seeds (cRT: 3, LWS: 5) of the classifier" in results_table(results)


@pytest.fixture(scope="module")
def many() -> dict[str, Any]:
    """All classifiers there are and one's own, with several seeds, on 1000 classes without a few group."""
    train: list[int] = np.geomspace(1200, 30, 1000).astype(int).tolist()
    results = measured(made(train=train, names=(*LABELS, "mypackage.mine:METHOD")), seeds=3)
    curves = results["classifiers"]["tau_norm"]["curves"]
    for name in ("logit_adjust", "mypackage.mine:METHOD"):
        results["classifiers"][name]["curves"] = curves
        results["classifiers"][name]["choices"] = {"tau": 0.5, "chosen_on": "val"}
    return results


def test_report_of_many_classifiers(many: dict[str, Any], tmp_path: Path) -> None:
    text = write_report(many, tmp_path).read_text(encoding="utf-8")
    drawn = {path.stem for path in (tmp_path / "figures").glob("*.png")}
    over_tau = {"accuracy_over_tau", "accuracy_over_tau_logit_adjust", "accuracy_over_tau_mypackage.mine-METHOD"}
    assert drawn == set(figures.DRAWINGS) | over_tau
    assert "| mypackage.mine:METHOD |" in text and "None" not in text and "nan" not in text
    assert "drawn are 6 of 24 classifiers, the paper's first" in text
    assert f"drawn are 6 of {len(LABELS) + 1} classifiers, the paper's first" in text
    assert "joint and the 5 classifiers with the highest mean over all these priors" in text
    assert max(path.stat().st_size for path in (tmp_path / "figures").iterdir()) < 500_000


def test_a_long_name_leaves_room_to_draw() -> None:
    name = "a_package_of_mine.with_a_module.and_another:A_CLASSIFIER"
    results = measured(made(names=("joint", name)))
    for draw in map(of_json, figures.DRAWINGS.values()):
        figure = draw(results)
        assert figure is not None
        figure.draw_without_rendering()  # what does not fit warns, and a warning is an error here
    assert f"| {name} |" in page(results, [])


def test_lines_are_of_six_classifiers_the_papers_first(many: dict[str, Any]) -> None:
    assert drawn_norms(many)[:4] == ["joint", "crt", "tau_norm", "lws"] and len(drawn_norms(many)) == MOST_LINES
    for names in (drawn_norms(many), drawn_over_priors(many), [f"mine.own:{place}" for place in range(6)]):
        styles = line_styles(names).values()
        assert len({(style["color"], style["linestyle"]) for style in styles}) == len(names) == 6
        assert len({style["color"] for style in styles}) == 6


def test_priors_are_drawn_for_joint_and_the_highest_means() -> None:
    results = measured(made(names=("joint", *(f"own:{place}" for place in range(9)))))
    for place in range(9):
        results["classifiers"][f"own:{place}"]["shifted"] = dict.fromkeys(PRIORS, 60.0 + place % 5)
    results["classifiers"]["joint"]["shifted"] = dict.fromkeys(PRIORS, 10.0)
    assert drawn_over_priors(results) == ["joint", "own:2", "own:3", "own:4", "own:7", "own:8"]


def test_long_terminal_table_keeps_the_eye_in_its_row(many: dict[str, Any]) -> None:
    lines = results_table(many).split("\n")
    rows = len(LABELS) + 1
    gaps = (rows - 1) // 5
    table = lines[2 : 2 + 1 + rows + gaps]
    assert [place for place, line in enumerate(table) if not line] == [6 * (gap + 1) for gap in range(gaps)]
    assert max(map(len, table)) <= 100
    assert "logit adjustment: tau 0.5, chosen on val." in lines


def test_a_grid_is_told_with_its_values() -> None:
    results = made(names=("joint", "crt"))
    grid = [{"lr": lr, "weight_decay": 5e-4, "accuracy": 40.0 + lr} for lr in (0.05, 0.1, 0.2)]
    choices = {"lr": 0.1, "weight_decay": 5e-4, "epochs": 10, "chosen_on": "val", "criterion": "mean_class"}
    bootstrap = {"draws": 200, "same_choice": 61.5, "accuracy_se": 0.42}
    results["classifiers"]["crt"]["choices"] = {**choices, "accuracy": 40.1, "grid": grid, "bootstrap": bootstrap}
    how = (
        "lr 0.1 of 0.05, 0.1, 0.2; by mean class accuracy, 40.1 %; 62 % of bootstrap samples choose the same, that "
        "accuracy varies by 0.4"
    )
    assert f"| cRT | lr 0.1, weight_decay 0.0005, epochs 10 | val | {how} |" in page(results, [])
    assert f"cRT: lr 0.1, chosen on val ({how})." in results_table(results)


@pytest.mark.parametrize("name", ["crt", "tau_train", "logit_adjust", "mine.own:FIT"])
def test_every_choice_on_test_or_train_is_said(name: str) -> None:
    results = made(names=("joint", name))
    results["classifiers"][name]["choices"] = {"tau": 0.5, "chosen_on": "test"}
    text = page(results, [])
    shown = LABELS.get(name, name)
    assert text.count(f"| {shown} † |") == 2 and f"The settings of {shown} were chosen on the test" in text
    assert "| test † |" in text and "joint †" not in text
    results["classifiers"][name]["choices"]["chosen_on"] = "train"
    text = page(results, [])
    assert "†" not in text and "| train, the images it was fitted to |" in text
    assert "chosen on train, the images it was fitted to" in results_table(results)


def test_calibration_before_and_after() -> None:
    results = measured(made(names=("joint", "crt")))
    text = page(results, [])
    assert "| joint | 12.5 | 1.2 | 1.5 |" in text and "| cRT | 11.5 | 1.2 | 2.5 |" in text
    assert "one number for each classifier, fitted on val." in text
    flattering = page({**results, "temperature_on": "test"}, [])
    assert "| ECE with temperature † |" in flattering and "† fitted to the test images" in flattering


def test_decision_regions_of_two_features(tmp_path: Path) -> None:
    results = flat(made(train=[400, 159, 63, 25, 10, 4]))
    figure = decision_regions(results)
    assert figure is not None
    assert [axes.get_title(loc="left").split("\n")[0] for axes in figure.axes] == [LABELS[name] for name in PAPER]
    assert "all 44.4, few 7.7" in figure.axes[0].get_title(loc="left")
    assert len({(axes.get_xlim(), axes.get_ylim()) for axes in figure.axes}) == 1
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert named[0] == "class 0: 400 (many)" and named[-1] == "class 5: 4 (few)"
    fills = figure.axes[0].get_images()[0].get_array()
    assert fills is not None
    assert len(np.unique(np.asarray(fills).reshape(-1, 3), axis=0)) == 5  # joint has no region of the last class
    text = write_report(results, tmp_path).read_text(encoding="utf-8")
    share = few_share(results, "crt")
    assert 100 / 6 < few_share(results, "joint") + 5 < share < 100 / 2
    assert f"few-shot classes: joint {few_share(results, 'joint'):.0f} %; cRT {share:.0f} %" in text
    assert "points are the test images" not in text and "points are 6 of 120 test images" in text


def test_decision_regions_of_what_there_is(many: dict[str, Any]) -> None:
    assert decision_regions(made()) is None
    without_regions = flat(made(train=[400, 30, 5]))
    for row in without_regions["classifiers"].values():
        del row["regions"]
    assert decision_regions(without_regions) is None
    for results in (flat(made(train=[900, 300], names=("joint",))), flat(many), flat(made(names=("a:b", "crt")))):
        figure = decision_regions(results)
        assert figure is not None
        assert sum(axes.get_visible() for axes in figure.axes) == min(6, len(results["classifiers"]))
    assert len(many["classifiers"]) > 6 and "drawn are 6 of" in page(flat(many), ["decision_regions"])


def test_many_points_leave_the_figure_small(tmp_path: Path) -> None:
    results = flat(made(train=[400, 30, 5]))
    rng = np.random.default_rng(0)
    results["decision_regions"] |= {
        "x": rng.normal(size=(2000, 2)).tolist(),
        "labels": rng.integers(0, 3, 2000).tolist(),
    }
    write_report(results, tmp_path)
    assert (tmp_path / "figures" / "decision_regions.svg").stat().st_size < 600_000


def test_other_priors_in_test() -> None:
    text = page(measured(made(names=("joint", "crt"))), [])
    assert "| classifier | forward 50 | forward 10 | uniform | backward 10 | backward 50 |" in text
    assert "| joint | **90.0** | **74.0** | **50.0** | 26.0 | 10.0 |" in text
    assert "| cRT | 51.0 | 50.6 | **50.0** | **49.4** | **49.0** |" in text


def test_most_confused_classes_of_the_best_classifier() -> None:
    results = measured(made(), seeds=3)
    results["class_names"][0] = "cup | mug"
    results["classifiers"]["crt"]["mean_class"] = 70.0
    results["classifiers"]["crt"]["confusions"][0] = [0, 2, 1234, 61.7]
    text = page(results, [])
    assert r"| cup \| mug | class 2 | 1,234 | 61.7 % |" in text
    assert "errors of classifier re-training (cRT) on test, all 3 seeds together" in text
    for row in results["classifiers"].values():
        row["confusions"] = []
    assert "Most confused" not in page(results, [])


def test_time_of_fitting() -> None:
    text = page(measured(made(names=("joint", "crt"))), [])
    assert "| stage 2 | joint 0.2s; cRT 1m40s |" in text


def test_per_class_csv(tmp_path: Path) -> None:
    results = measured(made(train=[500, 60, 3], names=("joint", "mine.own:FIT")))
    names = ['a "quoted", name', "two\nlines", "plain"]
    results["class_names"] = names
    results["classifiers"]["joint"]["per_class"] = [90.0, 100 / 3, None]
    write_report(results, tmp_path)
    data = (tmp_path / "per_class.csv").read_bytes()
    assert data.startswith(b'class,name,group,train,test,joint,mine.own:FIT\r\n0,"a ""quoted"", name",many,500,20,90,')
    with (tmp_path / "per_class.csv").open(newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    assert [row[:5] for row in rows] == [
        ["0", names[0], "many", "500", "20"],
        ["1", names[1], "medium", "60", "20"],
        ["2", names[2], "few", "3", "20"],
    ]
    assert [row[head.index("joint")] for row in rows] == ["90", "33.3333", ""]


def test_command_gives_every_departure_and_nothing_twice() -> None:
    results = {**made(), "departures": {}}
    assert command(results) == command(made())
    usual_and_used = {
        "stage2.lr": [None, [0.05, 0.1]], "stage2.seeds": [1, 3], "stage2.scale_bias": [True, False],
        "mode": ["images", "features"], "protocol.loss_options": [{}, {"gamma": 1.5}], "epochs": [90, 20],
        "protocol.weight_decay": [1e-4, 2e-5], "image_size": [64, 32], "protocol.pretrained": ["torchvision", None],
    }  # fmt: skip
    results["departures"] = usual_and_used
    assert command(results).removeprefix(command(made())) == (
        " 'stage2.lr=[0.05,0.1]' stage2.seeds=3 stage2.scale_bias=false mode=features "
        "'protocol.loss_options={gamma:1.5}' protocol.weight_decay=2e-05 protocol.pretrained=null"
    )
    assert "for 20 epochs (shortened: its protocol has 90); 6 classifiers" in summary(results)
    told = (
        "stage 2: learning rate [0.05,0.1] in place of none; stage 2: seeds 3 in place of 1; stage 2: scale bias false "
        "in place of true; classifiers trained on features in place of images; loss options {gamma:1.5} in place of "
        "none; shortened: 20 of 90 epochs; weight decay 2e-05 in place of 0.0001; image size 32 in place of 64; "
        "pretrained none in place of torchvision"
    )
    assert f"| departs from it | {escaped(told)} |" in page(results, [])
    assert "departs from it" not in page({**made(), "departures": {}}, [])


def test_command_quotes_what_a_shell_would_read() -> None:
    results = {**made(names=("joint", "mine.own:FIT")), "backbone": "my nets:small"}
    assert "'backbone=my nets:small'" in command(results) and "'classifiers=[joint,mine.own:FIT]'" in command(results)


def saved(folder: Path, results: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(results if isinstance(results, str) else json.dumps(results))
    return folder


def small(seed: int = 0) -> dict[str, Any]:
    return {**made(train=[300, 50, 5], names=("ncm_l2",)), "seed": seed}


def test_command_line_on_one_run_whatever_a_notebook_asked_for_and_without_a_home(tmp_path: Path) -> None:
    run = saved(tmp_path / "run", small())
    done = subprocess.run(
        [sys.executable, "-m", "fastlt.report", "run"],
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": "module://a_notebook.that_is_not_here", "MPLCONFIGDIR": "/proc/none"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == str(Path("run", "report.md"))
    assert (run / "report.md").is_file() and (run / "figures" / "class_counts.png").is_file()


def test_command_line_on_a_tree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (0, 1):
        saved(tmp_path / "grid" / f"seed{seed}", small(seed))
    assert main([str(tmp_path / "grid"), str(tmp_path / "grid" / "seed1")]) == 0
    reports = [tmp_path / "grid" / f"seed{seed}" / "report.md" for seed in (0, 1)]
    assert capsys.readouterr().out.split() == list(map(str, reports))
    assert "seed 1" in reports[1].read_text(encoding="utf-8")


def broken(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    results = measured(made(train=[300, 50, 5]))
    place = results
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return results


CRT = ("classifiers", "crt")
DEEP = '{"a":' * 100_000 + "1" + "}" * 100_000
BROKEN = {
    "not JSON": ("{", "is not valid JSON (Expecting property name"),
    "deep": (DEEP, "is not valid JSON (nested too deeply)"),
    "NaN": ('{"schema": NaN}', "is not valid JSON (NaN is no number)"),
    "no object": ([], "the file is []; allowed is an object"),
    "null": (None, "the file is null; allowed is an object"),
    "foreign": ({"results": 1}, "schema is missing; allowed is a whole number"),
    "schema": (broken(("schema",), 7), "schema is 7; allowed is 1"),
    "seed": (broken(("seed",), None), "seed is missing; allowed is a whole number"),
    "true": (broken(("seed",), True), "seed is True; allowed is a whole number"),
    "large": (broken(("seconds",), 10**400), "seconds is 1000"),
    "no classifier": (broken(("classifiers",), {}), "classifiers is empty; allowed is at least one classifier"),
    "classifiers": (broken(("classifiers",), [1]), "classifiers is [1]; allowed is an object"),
    "failure": (broken((*CRT,), {"error": 3}), "failed.crt is 3; allowed is a string"),
    "counts": (broken(("class_counts", "test"), [1, 2]), "class_counts.test is [1, 2]; allowed is a list of 3 numbers"),
    "no counts": (broken(("class_counts", "train"), []), "class_counts.train is []; allowed is a list of numbers"),
    "below 0": (broken(("class_counts", "val"), [1, 2, -1]), "class_counts.val is [1, 2, -1]; allowed is"),
    "score": (broken((*CRT, "few"), "4.2"), "classifiers.crt.few is '4.2'; allowed is a number or null"),
    "norms": (broken((*CRT, "weight_norms"), [1.0]), "classifiers.crt.weight_norms is [1.0]; allowed is a list of 3"),
    "curve": (broken(("classifiers", "tau_norm", "curves", "test", "all"), [1.0]), "tau_norm.curves.test.all is [1.0]"),
    "tau": (broken(("classifiers", "tau_norm", "curves", "test", "tau"), []), "tau_norm.curves.test.tau is []"),
    "groups": (broken(("groups", "few"), None), "groups.few is missing; allowed is a whole number"),
    "names": (broken(("class_names",), ["a"]), "class_names is ['a']; allowed is a list of 3 names"),
    "per class": (broken((*CRT, "per_class"), [1.0, "x", None]), "crt.per_class[1] is 'x'; allowed is a number or"),
    "bins": (broken((*CRT, "reliability", "accuracy"), [1.0]), "crt.reliability.accuracy is [1.0]"),
    "confusions": (broken((*CRT, "confusions"), [[0, 3, 1, 1.0]]), "crt.confusions is [0, 3, 1, 1.0]; allowed is"),
    "seeds": (broken((*CRT, "seeds"), 0), "crt.seeds is 0; allowed is a number of seeds"),
    "grid": (broken((*CRT, "choices", "grid"), [0.1, 0.2]), "crt.choices.grid[0] is 0.1; allowed is an object"),
    "bootstrap": (broken((*CRT, "choices", "bootstrap"), {"same_choice": "all"}), "bootstrap.same_choice is 'all'"),
    "departure": (broken(("departures",), {"protocol.lr": 0.3}), "departures.protocol.lr is 0.3; allowed is a list"),
    "one value": (broken(("departures",), {"protocol.lr": [0.3]}), "departures.protocol.lr is [0.3]; allowed is ["),
    "crop": (broken(("evaluation", "crop_pct"), 0), "evaluation.crop_pct is 0; allowed is a share above 0"),
    "axis": (broken(("decision_regions", "low"), [0.0]), "decision_regions.low is [0.0]; allowed is a list of 2"),
    "turned": (broken(("decision_regions", "low"), [5, 5]), "allowed is a pair of numbers below decision_regions.high"),
    "point": (broken(("decision_regions", "x"), [[1.0, 2.0], [1.0], [0.0, 0.0]]), "x[1] is [1.0]; allowed is a"),
    "labels": (broken(("decision_regions", "labels"), [0, 1, 3]), "labels is [0, 1, 3]; allowed"),
    "regions": (broken((*CRT, "regions"), ["0*1 1*1", "0*3"]), "crt.regions: '0*3' is no row of 2 cells"),
    "region": (broken((*CRT, "regions"), ["0*1 1*1", "3*2"]), "crt.regions holds class 3; allowed is a number below 3"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_results_are_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, told = BROKEN[name]
    run = saved(tmp_path / "run", content)
    assert main([str(run)]) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1
    assert error.startswith(f"error: {run}/results.json: {told[:9]}" if told.startswith("is not") else "error: ")
    assert told in error and "give its training command again" in error and len(error) < 400
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


def test_five_classes_have_no_top_5() -> None:
    for classes, shown in ((5, False), (6, True)):
        results = measured(made(np.geomspace(200, 5, classes).astype(int).tolist()))
        assert ("top-5" in results_table(results)) == shown


def test_runs_on_given_features_are_repeated_with_them() -> None:
    given = {**made(), "dataset": "mine", "backbone": "features", "protocol": "features", "image_size": None}
    assert command(given).startswith("python -m fastlt.train features=FILE sampler=instance seed=0")
    assert "backbone" not in command(given) and "where FILE holds the features." in how_it_was_run(given)
