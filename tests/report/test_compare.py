"""The report across runs: what stands beside them, what is missing, and that nothing is hidden."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_results import made

from fastlt.experiment.results import from_json
from fastlt.report.__main__ import main
from fastlt.report.compare import kinds, write_across
from fastlt.report.compare.compare import cell, kept_apart, published_row
from fastlt.report.compare.gaps import gaps, read_planned
from fastlt.report.compare.model import Cell, Table
from fastlt.report.compare.runs import RunGroup, gather, name
from fastlt.report.compare.tables import build_tables, without_runs

SAMPLERS = ("instance", "class", "sqrt", "progressive")
PAPER = ("joint", "ncm_l2", "crt", "tau_norm", "lws")
SIZES = {  # classes, largest, smallest, training images of the datasets that the paper's numbers are of
    "imagenet_lt": (1000, 1280, 5, 115_846),
    "places_lt": (365, 4980, 5, 62_500),
    "inaturalist2018": (8142, 1000, 2, 437_513),
    "cifar100_lt": (100, 500, 5, 10_847),
}
SCORES = ("many", "medium", "few", "all", "mean_class", "top5", "ece")


def counts(dataset: str) -> list[int]:
    """Training images per class with the published total: a geometric curve whose steepness is searched."""
    classes, largest, smallest, total = SIZES[dataset]
    low, high = 0.05, 20.0
    for _ in range(60):
        power = (low + high) / 2
        curve = smallest * (largest / smallest) ** (np.linspace(1, 0, classes) ** power)
        low, high = (power, high) if curve.sum() > total else (low, power)
    found = np.floor(curve).astype(int)
    found[1 : 1 + total - found.sum()] += 1
    return found.tolist()


def run(dataset: str = "shapes", names: tuple[str, ...] = PAPER, **fields: Any) -> dict[str, Any]:
    """A results.json whose accuracies are those of `made`, moved by what tells the run apart."""
    usual = {"imagenet_lt": ("imagenet_lt_90", 90, "resnext50"), "cifar100_lt": ("cifar_lt_bags", 200, "resnet32")}
    usual |= {"places_lt": ("places_lt", 30, "resnet152"), "inaturalist2018": ("inaturalist_90", 90, "resnet50")}
    protocol, epochs, backbone = usual.get(dataset, ("demo", 10, "resnet32"))
    results = made(train=counts(dataset), names=names) if dataset in SIZES else made(names=names)
    results |= {"dataset": dataset, "protocol": protocol, "epochs": epochs, "backbone": backbone, "hold_out": 0.0}
    results |= {"image_size": 224 if epochs in (30, 90) else 32, "departures": {}, **fields}
    results["key"] = "-".join(str(results[key]) for key in ("dataset", "backbone", "sampler", "seed", "epochs"))
    draw = np.random.default_rng([*results["key"].encode()])
    for row in results["classifiers"].values():
        for score in SCORES:
            if row[score] is not None:
                row[score] = float(row[score] + draw.normal())
    return results


def grid(dataset: str = "shapes", seeds: int = 3, **fields: Any) -> list[dict[str, Any]]:
    return [run(dataset, sampler=sampler, seed=seed, **fields) for sampler in SAMPLERS for seed in range(seeds)]


def imagenet_grid() -> list[dict[str, Any]]:
    names = (*PAPER, "ncm_cosine", "tau_train", "tau_learned", "mlp_1", "cosine", "balanced_softmax", "mine.own:FIT")
    return grid("imagenet_lt", seeds=2, names=names)


def saved(runs: list[dict[str, Any]], folder: Path) -> Path:
    """Each run in a folder of its own."""
    for results in runs:
        place = folder / results["key"]
        place.mkdir(parents=True)
        (place / "results.json").write_text(json.dumps(results))
    return folder


def reported(runs: list[dict[str, Any]], folder: Path) -> Path:
    write_across([saved(runs, folder / "runs")], folder / "out")
    return folder / "out"


def csv_rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without figures, which take most of the time."""
    monkeypatch.setattr("fastlt.report.compare.drawings.save_drawings", lambda settings, folder, base: ())


def gathered(runs: list[dict[str, Any]]) -> list[RunGroup]:
    settings, warnings = gather((f"run{place}", from_json(results)) for place, results in enumerate(runs))
    assert warnings == []
    return settings


def tables_of(runs: list[dict[str, Any]]) -> dict[str, Table]:
    return {table.slug: table for table in build_tables(gathered(runs), [])}


def plan(folder: Path, cells: list[dict[str, Any]]) -> None:
    fields = ("dataset", "backbone", "sampler", "seed", "protocol", "epochs")
    told = [{"name": one["key"], "run": one["key"], **{field: one[field] for field in fields}} for one in cells]
    folder.mkdir(exist_ok=True)
    (folder / "grid.json").write_text(json.dumps({"grid": "mine", "cells": told}))


# --- what stands beside it ---


def beside_main(setting: RunGroup, classifier: str, scope: str) -> Cell:
    return cell(setting, classifier, scope, published_row(setting, classifier))


def test_published_cells_of_a_setting() -> None:
    by_sampler = {setting.sampler: setting for setting in gathered(grid("imagenet_lt", seeds=1))}
    beside = beside_main(by_sampler["class"], "joint", "few")
    assert beside.published is not None and (beside.published.value, beside.comparable) == (15.5, True)
    assert beside.ours is not None and beside.difference == beside.ours.mean - 15.5
    assert beside_main(by_sampler["class"], "crt", "all").published is None  # only a re-run of it is published
    rerun = published_row(by_sampler["class"], "crt", "re-run")
    assert rerun is not None and rerun.all == 44.9
    own = published_row(by_sampler["instance"], "crt")
    assert own is not None and own.all == 49.6
    assert published_row(by_sampler["instance"], "ncm_cosine") is None
    assert published_row(by_sampler["instance"], "tau_train") is None


@pytest.mark.parametrize(
    ("backbone", "epochs", "classifier", "value"),
    [
        ("resnet50", 90, "tau_norm", 65.6), ("resnet50", 200, "tau_norm", 69.3), ("resnet50", 7, "tau_norm", 65.6),
        ("resnet50", 200, "joint", None), ("resnet152", 200, "crt", 71.2), ("resnet152", 90, "crt", None),
        ("resnet101", 90, "joint", None),
    ],
)  # fmt: skip
def test_epochs_of_inaturalist(backbone: str, epochs: int, classifier: str, value: float | None) -> None:
    protocol = f"inaturalist_{epochs if epochs == 200 else 90}"
    fields = {"backbone": backbone, "epochs": epochs, "protocol": protocol, "image_size": 224}
    (setting,) = gathered([run("inaturalist2018", names=("joint", "crt", "tau_norm"), **fields)])
    row = published_row(setting, classifier)
    assert (row and row.all) == value
    assert bool(kept_apart(setting)) == (epochs == 7)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, ""),
        ({"precision": "bf16", "departures": {"accumulate": [1, 2], "stage2.seeds": [1, 3]}}, ""),
        ({"departures": {"epochs": [200, 5]}, "epochs": 5}, "shortened: 5 of 200 epochs"),
        ({"epochs": 5}, "shortened: 5 of 200 epochs"),
        ({"epochs": 300}, "300 epochs in place of 200"),
        ({"epochs": None}, "an unknown number of epochs"),
        ({"departures": {"protocol.loss": ["cross_entropy", "ldam_drw"]}}, "loss ldam_drw in place of cross_entropy"),
        ({"departures": {"protocol.milestones": [[159, 179], []]}}, "milestones none in place of [159,179]"),
        ({"departures": {"stage2.drawing": ["quota", "iid"]}}, "stage 2: drawing of images iid in place of quota"),
        ({"departures": {"protocol.crt.lr": [0.1, 0.2]}}, "cRT: learning rate 0.2 in place of 0.1"),
        ({"departures": {"stage2.keep": ["best", "last"]}}, "stage 2: epoch kept last in place of best"),
        ({"departures": {"mode": ["images", "features"]}}, "classifiers trained on features in place of images"),
        ({"hold_out": 0.1}, "share of train held out 0.1 in place of 0"),
        ({"image_size": 64}, "images of 64 px in place of 32"),
        ({"checkpoint": {"epoch": 3, "chosen": "given: x.pt"}}, "a given representation"),
    ],
)
def test_what_keeps_numbers_from_being_compared(change: dict[str, Any], told: str) -> None:
    (setting,) = gathered([run("cifar100_lt", **change)])
    assert told in "; ".join(kept_apart(setting)) and bool(kept_apart(setting)) == bool(told)
    shown = beside_main(setting, "joint", "all")
    assert shown.published is not None and shown.published.value == 37.7
    assert (shown.difference is None) == bool(told)


def test_a_part_of_a_data_set_has_no_published_numbers() -> None:
    small = made(train=np.geomspace(500, 5, 100).astype(int).tolist()[:50] + [5] * 50, names=PAPER)
    small |= {"dataset": "cifar100_lt", "protocol": "cifar_lt_bags", "epochs": 200, "hold_out": 0.0}
    (setting,) = gathered([small])
    assert setting.imbalance == 100 and published_row(setting, "joint") is None
    (table, *_) = build_tables([setting], [])
    assert any("10,847 in the papers" in warning for warning in table.warnings)


def test_imbalance_decides() -> None:
    tall = run("cifar100_lt")
    tall["class_counts"]["train"] = np.geomspace(500, 10, 100).astype(int).tolist()
    (setting,) = gathered([tall])
    assert setting.imbalance == 50
    row = published_row(setting, "crt")
    assert row is not None and row.all == 45.4


@pytest.mark.usefixtures("undrawn")
def test_a_shortened_protocol_is_told_in_every_format(tmp_path: Path) -> None:
    out = reported(grid("cifar100_lt", seeds=1, epochs=5, departures={"epochs": [200, 5]}), tmp_path)
    told = "shortened: 5 of 200 epochs; not comparable with published numbers, so no difference is shown"
    path = out / "tables" / "samplers_cifar100_lt_100_resnet32_5_epochs.csv"
    rows = csv_rows(path)
    assert all(told in row["warnings"] and row["difference"] == "" for row in rows)
    assert sum(row["published"] == "37.7" for row in rows) == 1
    tex = path.with_suffix(".tex").read_text(encoding="utf-8")
    assert f"% WARNING: {told}" in tex and tex.count(told) == 2
    markdown = (out / "report.md").read_text(encoding="utf-8")
    assert f"> **Warning: {told}" in markdown and "(37.7)" in markdown and "(37.7, " not in markdown
    assert markdown.index("shortened: 5") < markdown.index("## Tables")
    assert told in (out / "index.html").read_text(encoding="utf-8")


# --- the tables ---


def test_samplers_table_stands_in_the_papers_order() -> None:
    table = tables_of(grid("imagenet_lt"))["samplers_imagenet_lt_resnext50_90_epochs"]
    assert table.columns == ("many", "medium", "few", "all") and table.warnings == ()
    assert [row.labels for row in table.rows[:6]] == [
        *(("instance-balanced", shown) for shown in ("joint", "NCM (L2)", "cRT", "tau-norm", "LWS")),
        ("class-balanced", "joint"),
    ]
    samplers = list(dict.fromkeys(row.labels[0] for row in table.rows))
    assert samplers == ["instance-balanced", "class-balanced", "square-root", "progressively-balanced"]
    published = [cell.published.value if cell.published else None for cell in table.rows[0].cells]
    assert published == [65.9, 37.5, 7.7, 44.4]
    assert all(row.note == "" for row in table.rows) and "seeds 0, 1, 2" in table.about


def test_no_classifier_is_hidden() -> None:
    names = (
        *PAPER,
        "ncm_cosine",
        "ncm_un_l2",
        "tau_train",
        "tau_learned",
        "cosine",
        "mlp_1",
        "crt_images",
        "lws_images",
    )
    names += ("retrain_all", "retrain_last", "balanced_softmax", "logit_adjust", "crt_las", "mine.own:FIT")
    runs = [run(names=names, sampler=sampler) for sampler in ("instance", "class")]
    tables = tables_of(runs).values()
    shown = {cell.ours.mean for table in tables for row in table.rows for cell in row.cells if cell.ours}
    for results in runs:
        for classifier, row in results["classifiers"].items():
            assert row["all"] in shown, classifier
    assert without_runs(tables) == [
        "samplers and classifiers on ImageNet-LT", "backbones on ImageNet-LT", "iNaturalist 2018", "Places-LT",
    ]  # fmt: skip


def test_nothing_is_published_of_re_training_parts() -> None:
    runs = [run("imagenet_lt", names=("crt", "retrain_all", "retrain_all_slow", "retrain_last"))]
    table = tables_of(runs)["parts_imagenet_lt_resnext50_90_epochs"]
    assert [row.labels[1] for row in table.rows] == ["B + C", "B + C (B at 0.1 lr)", "LB + C", "C (cRT, on features)"]
    assert not any(cell.published for row in table.rows for cell in row.cells)


def test_tau_is_told_with_how_it_was_chosen() -> None:
    runs = [run(seed=seed, names=("tau_norm", "tau_train", "tau_learned")) for seed in (0, 1)]
    for results, tau in zip(runs, (0.6, 0.8), strict=True):
        results["classifiers"]["tau_norm"]["choices"] |= {"tau": tau, "chosen_on": "val"}
        results["classifiers"]["tau_learned"]["choices"] = {"tau": 0.5, "chosen_on": "train"}
    (table,) = [table for slug, table in tables_of(runs).items() if slug.startswith("tau_")]
    assert [row.labels for row in table.rows] == [
        ("instance-balanced", "on val", "0.70 ± 0.14"),
        ("instance-balanced", "on train", ""),
        ("instance-balanced", "learned on train", "0.50 ± 0.00"),
    ]
    set_by_hand = run(names=("tau_norm",))
    set_by_hand["classifiers"]["tau_norm"]["choices"] = {"tau": 1.0}
    (fixed,) = gathered([set_by_hand])
    assert kinds.TAU_KIND.labels(fixed, "tau_norm") == ("instance-balanced", "not chosen", "1.00")


def test_backbones_stand_side_by_side() -> None:
    backbones = ("resnext50", "resnet10", "resnext152")
    tables = tables_of([run("imagenet_lt", backbone=backbone, seed=seed) for backbone in backbones for seed in (0, 1)])
    table = tables["backbones_imagenet_lt_90_epochs"]
    assert table.columns == ("resnet10", "resnext50", "resnext152")
    published = {row.labels[1]: [one.published and one.published.value for one in row.cells] for row in table.rows}
    assert published == {
        "joint": [34.8, 44.4, None], "NCM (L2)": [None, 47.3, None], "cRT": [41.8, 49.6, None],
        "tau-norm": [None, 49.4, None], "LWS": [41.4, 49.9, 53.3],
    }  # fmt: skip
    splits = tables["splits_imagenet_lt_90_epochs"]
    assert [row.labels for row in splits.rows][4:6] == [("resnet10", "LWS"), ("resnext50", "joint")]
    assert not any(slug.startswith("samplers_") for slug in tables)  # the same rows stand in `splits`
    ncm = tables["ncm_imagenet_lt_90_epochs"]
    assert [row.labels for row in ncm.rows] == [(one, "instance-balanced", "NCM (L2)") for one in table.columns]


@pytest.mark.parametrize(
    "given",
    [
        [(90, "inaturalist_90", {}), (200, "inaturalist_200", {})],
        [(90, "inaturalist_90", {}), (200, "inaturalist_90", {"epochs": [90, 200]})],
        [(90, "authors_inaturalist", {}), (200, "authors_inaturalist", {"epochs": [90, 200]})],
    ],
)
def test_inaturalist_by_backbone_and_epochs(given: list[Any]) -> None:
    runs = [
        run("inaturalist2018", epochs=epochs, protocol=protocol, image_size=224, departures=departures)
        for epochs, protocol, departures in given
    ]
    table = tables_of(runs)["epochs_inaturalist2018"]
    assert [row.labels[:2] for row in table.rows][4:6] == [("resnet50", "90"), ("resnet50", "200")]
    tau = [row.cells[-1].published for row in table.rows if row.labels[2] == "tau-norm"]
    assert [one.value if one else None for one in tau] == [65.6, 69.3]
    assert table.warnings == ()


def test_cifar_by_imbalance_and_rides_numbers_apart() -> None:
    flat = run("cifar100_lt", dataset_digest="flatter")
    flat["class_counts"]["train"] = np.geomspace(500, 10, 100).astype(int).tolist()
    tables = tables_of([run("cifar100_lt"), flat])
    table = next(table for slug, table in tables.items() if slug.startswith("imbalances_"))
    assert table.columns == ("cifar100_lt (imbalance 50)", "cifar100_lt (imbalance 100)")
    assert [one.published and one.published.value for one in table.rows[0].cells] == [43.8, 37.7]
    elsewhere = tables["elsewhere_cifar100_lt_100"]
    assert all(one.ours is None and one.difference is None for row in elsewhere.rows for one in row.cells)
    shown = {row.labels: [one.published and one.published.value for one in row.cells] for row in elsewhere.rows}
    assert shown["softmax", "true ResNet-32; RIDE's own run", "200"] == [66.1, 37.3, 10.6, 39.1]
    softmax = [values[-1] for labels, values in shown.items() if labels[0] == "softmax"]
    assert softmax == [38.3, 39.1, 41.4, 39.1]
    others = [table for slug, table in tables.items() if not slug.startswith("elsewhere")]
    beside = {c.published.value for t in others for row in t.rows for c in row.cells if c.published}
    assert beside == {37.7, 41.0, 40.3, 40.2, 43.8, 45.7, 45.4, 45.2}


@pytest.mark.parametrize("protocol", ["cifar_lt_200", "cifar_lt_ldam", "demo"])
def test_another_protocol_is_compared_with_nothing(protocol: str) -> None:
    tables = tables_of([run("cifar100_lt", protocol=protocol)])
    table = tables["samplers_cifar100_lt_100_resnet32_200_epochs"]
    assert not any(one.published for row in table.rows for one in row.cells)
    told = f"protocol {protocol} is not that of the published numbers (cifar_lt_bags)"
    assert any(told in warning for warning in table.warnings)
    assert "elsewhere_cifar100_lt_100" in tables


def test_a_published_table_of_bagoftricks_says_whose_baseline_it_is() -> None:
    table = tables_of([run("cifar100_lt")])["samplers_cifar100_lt_100_resnet32_200_epochs"]
    sources = {row.labels[1]: row.cells[-1].published.source for row in table.rows if row.cells[-1].published}
    assert sources["joint"] == "BagofTricks-LT README, baselines using its code"
    assert sources["cRT"] == sources["LWS"] == sources["tau-norm"] == "BagofTricks-LT gallery, epoch best on test"


AUTHORS: dict[str, Any] = {"protocol": "authors", "mode": "images", "bn": "train", "drawing": "reference"}


def test_the_authors_own_settings_are_no_departure() -> None:
    names = ("joint", "ncm_l2", "crt_images", "tau_norm", "lws_images")
    (setting,) = gathered([run("imagenet_lt", names=names, **AUTHORS)])
    assert kept_apart(setting) == ()
    beside = {known: beside_main(setting, known, "all") for known in names}
    values = [one.published and one.published.value for one in beside.values()]
    assert values == [44.4, 47.3, 49.6, 49.4, 49.9] and all(one.comparable for one in beside.values())
    tables = tables_of([run("imagenet_lt", names=names, **AUTHORS)])
    rows = {row.labels[1]: row for row in tables["samplers_imagenet_lt_resnext50_90_epochs"].rows}
    assert rows["cRT (images)"].cells[-1].difference is not None
    assert not any(slug.startswith("parts_") for slug in tables)
    (changed,) = gathered([run("imagenet_lt", departures={"bn": ["train", "frozen"]}, **AUTHORS)])
    assert kept_apart(changed) == ("BatchNorm of the frozen backbone in stage 2 frozen in place of train",)
    assert beside_main(changed, "joint", "all").difference is None


@pytest.mark.usefixtures("undrawn")
def test_authors_on_the_embedded_data_depart_from_nothing(tmp_path: Path) -> None:
    out = reported([run(names=("joint", "crt_images"), **AUTHORS)], tmp_path)
    for text in ((out / "report.md").read_text(), (out / "index.html").read_text()):
        assert "settings of its own" not in text and "departs from" not in text and "Warning" not in text


@pytest.mark.usefixtures("undrawn")
def test_what_departs_is_told_of_each_run(tmp_path: Path) -> None:
    changed = {"protocol.lr": [0.1, 0.3], "epochs": [10, 2], "sampler.drawing": ["quota", "iid"]}
    out = reported([run(seed=0), run(seed=1, epochs=2, drawing="iid", departures=changed)], tmp_path)
    told = (
        "learning rate 0.3 in place of 0.1; shortened: 2 of 10 epochs; stage 1: drawing of images iid in place of quota"
    )
    for text in ((out / "report.md").read_text(), (out / "index.html").read_text()):
        assert "departs from its protocol" in text and text.count(told) == 1


def test_rows_chosen_on_test_carry_a_dagger() -> None:
    runs = [run("cifar100_lt", choose_on="test", seed=seed) for seed in (0, 1)]
    for results in runs:
        results["classifiers"]["tau_norm"]["choices"]["chosen_on"] = "test"
    rows = {row.labels[1]: row for row in tables_of(runs)["samplers_cifar100_lt_100_resnet32_200_epochs"].rows}
    assert "chosen on the test images themselves" in rows["tau-norm †"].note and rows["joint"].note == ""


def test_settings_of_one_name_have_files_of_their_own(tmp_path: Path) -> None:
    changed = [run(departures={"protocol.lr": [0.05, lr]}) for lr in (0.1, 0.2)]
    for results in changed:
        results["key"] += str(results["departures"])
    tables = build_tables(gathered([run(), *changed]), [])
    slugs = [table.slug for table in tables if table.slug.startswith("samplers")]
    assert slugs == [f"samplers_shapes_resnet32_10_epochs{end}" for end in ("", "_v2", "_v3")]
    assert len({table.title for table in tables}) == len(tables)
    other = [run("cifar100_lt", protocol=protocol) for protocol in ("cifar_lt_bags", "cifar_lt_200")]
    tables = build_tables(gathered(other), [])
    assert len({table.title for table in tables}) == len(tables)


# --- what is missing ---


@pytest.mark.usefixtures("undrawn")
def test_a_missing_seed_and_a_missing_sampler_show(tmp_path: Path) -> None:
    runs = grid(seeds=3)
    plan(tmp_path / "runs", runs)
    done = [one for one in runs if one["sampler"] != "sqrt" and (one["sampler"], one["seed"]) != ("class", 1)]
    saved(done, tmp_path / "runs")
    failed = tmp_path / "runs" / next(one["key"] for one in runs if (one["sampler"], one["seed"]) == ("class", 1))
    failed.mkdir()
    (failed / "failed.json").write_text(json.dumps({"error": "its training\ndiverged", "log": "x", "time": "now"}))
    missing = gaps(read_planned([tmp_path / "runs", tmp_path]))
    assert {gap.reason for gap in missing} == {"its training diverged", "not finished"} and len(missing) == 4
    table = build_tables(gathered(done), read_planned([tmp_path]))[0]
    notes = {row.labels: (row.note, row.cells[0].ours is not None) for row in table.rows}
    assert notes["class-balanced", "cRT"] == ("2 of 3 seeds", True)
    assert notes["square-root", "cRT"] == ("missing", False)
    assert notes["instance-balanced", "cRT"] == ("", True) and len(notes) == 4 * 5
    index = write_across([tmp_path / "runs"], tmp_path / "out")
    for written in (index, index.with_name("report.md")):
        text = written.read_text(encoding="utf-8")
        assert "its training diverged" in text and "not finished" in text and "2 of 3 seeds" in text


def test_a_failure_that_was_mended_is_no_gap(tmp_path: Path) -> None:
    runs = [run(seed=0)]
    plan(tmp_path, runs)
    saved(runs, tmp_path)
    (tmp_path / runs[0]["key"] / "failed.json").write_text("{}")
    assert gaps(read_planned([tmp_path])) == ()


def test_fewer_seeds_without_a_plan() -> None:
    runs = [one for one in grid(seeds=3) if (one["sampler"], one["seed"]) != ("sqrt", 2)]
    table = tables_of(runs)["samplers_shapes_resnet32_10_epochs"]
    assert {row.labels[0]: row.note for row in table.rows}["square-root"] == "2 of 3 seeds"


@pytest.mark.parametrize("text", ["{", "[]", '{"cells": [{"name": "a"}]}', '{"cells": 3}'])
def test_a_broken_plan_is_one_line(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved([run()], tmp_path / "runs")
    (tmp_path / "runs" / "grid.json").write_text(text)
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "grid.json" in error
    assert not (tmp_path / "out").exists()


def test_a_grid_before_its_first_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan(tmp_path / "runs", [run()])
    assert main([str(tmp_path / "runs")]) == 2
    assert "holds no results.json" in capsys.readouterr().err
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    assert "not finished" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    plan(tmp_path / "runs", [])
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 2


# --- the files ---


def test_files_of_the_report(tmp_path: Path) -> None:
    runs = [run(seed=seed, names=("joint", "crt", "mine.own:FIT_50%")) for seed in (0, 1)]
    out = reported(runs, tmp_path)
    assert {path.name for path in out.iterdir()} == {"index.html", "report.md", "results.csv", "figures", "tables"}
    text = (out / "report.md").read_text(encoding="utf-8")
    links = [link.split(")")[0] for link in text.split("](")[1:]]
    assert links and all((out / link).is_file() for link in links)
    lines = csv_rows(out / "results.csv")
    wanted = [
        (one["sampler"], one["seed"], classifier, score, row[score])
        for one in runs
        for classifier, row in one["classifiers"].items()
        for score in SCORES
    ]
    found = [(r["sampler"], int(r["seed"]), r["classifier"], r["score"], float(r["value"])) for r in lines]
    assert sorted(found) == sorted(wanted)
    others = out / "tables" / "others_shapes_resnet32_10_epochs.csv"
    first = csv_rows(others)[0]
    values = [one["classifiers"]["mine.own:FIT_50%"]["many"] for one in runs]
    assert float(first["ours_mean"]) == pytest.approx(sum(values) / 2, abs=1e-12) and first["runs"] == "2"
    assert r"mine.own:FIT\_50\%" in others.with_suffix(".tex").read_text(encoding="utf-8")


def test_same_runs_same_bytes_and_nothing_old_stays(tmp_path: Path) -> None:
    first = reported([run(seed=seed, names=("joint", "tau_norm")) for seed in (0, 1)], tmp_path)
    again = tmp_path / "again"
    write_across([saved([run("cifar100_lt", names=("joint", "cosine"))], tmp_path / "other")], again)
    (again / "tables" / "mine.csv").write_text("the user's own")
    write_across([tmp_path / "runs"], again)
    names = {str(path.relative_to(first)) for path in first.rglob("*.*")}
    assert {str(path.relative_to(again)) for path in again.rglob("*.*")} == names | {"tables/mine.csv"}
    for known in names:
        assert (first / known).read_bytes() == (again / known).read_bytes(), known


@pytest.mark.usefixtures("undrawn")
def test_latex_is_balanced(tmp_path: Path) -> None:
    out = reported([run(dataset="my_{data}\\&$#^~", names=("joint", "a_b%"))], tmp_path)
    tables = list((out / "tables").glob("*.tex"))
    assert tables
    for path in tables:
        lines = path.read_text(encoding="utf-8").splitlines()
        code = [line for line in lines if not line.startswith("%")]
        columns = len(code[0].split("{")[2].rstrip("}"))
        rows = [line for line in code if line.endswith(r"\\") and "multicolumn" not in line]
        assert rows and all(line.replace(r"\&", "").count("&") == columns - 1 for line in rows)
        assert sum(line.startswith((r"\toprule", r"\midrule", r"\bottomrule")) for line in code) == 3
        assert code[-1] == r"\end{tabular}" and all(line.isascii() for line in code)


@pytest.mark.usefixtures("undrawn")
def test_the_command_names_the_page_last(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved([run(seed=seed) for seed in (0, 1)], tmp_path / "runs")
    out = tmp_path / "out"
    assert main([str(tmp_path / "runs"), "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out / "index.html")
    assert not list((tmp_path / "runs").rglob("report.md"))


@pytest.mark.usefixtures("undrawn")
def test_the_page_is_opened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    saved([run(seed=0)], tmp_path / "runs")
    asked = [str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--open"]
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
    assert main(asked) == 0 and opened == [(tmp_path / "out" / "index.html").as_uri()]
    monkeypatch.setattr("webbrowser.open", lambda _: False)
    assert main(asked) == 2 and "there is no browser here; the report is in" in capsys.readouterr().err


@pytest.mark.usefixtures("undrawn")
def test_a_broken_run_leaves_the_earlier_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = reported([run(seed=0)], tmp_path)
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    broken = tmp_path / "runs" / "zz"
    broken.mkdir()
    (broken / "results.json").write_text("{")
    assert main([str(tmp_path / "runs"), "--out", str(out)]) == 2
    assert "results.json" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == before


def test_a_run_is_no_place_for_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved([run(seed=0)], tmp_path)
    place = next(path for path in tmp_path.iterdir())
    assert main([str(tmp_path), "--out", str(place)]) == 2
    assert "is a run" in capsys.readouterr().err and not (place / "report.md").exists()


def test_name_of_a_setting() -> None:
    changed = run("cifar100_lt", sampler="sqrt", epochs=1, departures={"protocol.lr": [0.1, 0.3]}, drawing="iid")
    (setting,) = gathered([changed])
    assert (
        name(setting)
        == "cifar100_lt (imbalance 100), resnet32, square-root, cifar_lt_bags, iid drawing, 1 epoch, protocol.lr=0.3"
    )
