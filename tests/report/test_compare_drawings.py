"""Figures across runs: the means and deviations of the runs in their places, and only what the runs allow."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_results import made

from fastlt.core.metrics import METRICS_FILE, MetricsFile, read_metrics
from fastlt.experiment.results import from_json
from fastlt.report.compare.draw_curves import learning_curves
from fastlt.report.compare.draw_means import over_backbones, over_samplers
from fastlt.report.compare.draw_tau import over_tau
from fastlt.report.compare.drawings import save_drawings
from fastlt.report.compare.runs import RunGroup, gather
from fastlt.stage2.decision_regions import region_frame, write_regions

SMALL = [300, 50, 5]
NAMES = ("joint", "ncm_l2", "tau_norm")
SAMPLERS = ("instance", "class", "sqrt", "progressive")


def run(sampler: str = "instance", seed: int = 0, names: tuple[str, ...] = NAMES, **fields: Any) -> dict[str, Any]:
    """Results whose accuracies differ from seed to seed and from sampler to sampler."""
    results = made(train=fields.pop("train", SMALL), names=names)
    results |= {"sampler": sampler, "seed": seed, "key": f"{sampler} {seed}", **fields}
    for place, row in enumerate(results["classifiers"].values()):
        for scope in ("many", "medium", "few", "all"):
            row[scope] = 30.0 + 5 * place + len(sampler) + [0.0, 1.0, 5.0][seed]
    return results


def gathered(*runs: dict[str, Any]) -> list[RunGroup]:
    return gather((f"run{place}", from_json(results)) for place, results in enumerate(runs))[0]


def points_of(axes: Any) -> list[tuple[list[float], list[float]]]:
    """Places and heights of every classifier's points."""
    marked = [line for line in axes.lines if line.get_marker() not in ("None", "", None) and line.get_label()[0] != "_"]
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in marked]


def bars_of(axes: Any) -> list[list[tuple[float, float]]]:
    """Ends of every classifier's deviations."""
    return [
        [(segment[0][1], segment[1][1]) for segment in bars.get_segments()]
        for bars in axes.collections
        if len(bars.get_segments())
    ]


def test_samplers_show_mean_and_deviation() -> None:
    settings = gathered(*(run(sampler, seed) for sampler in SAMPLERS[:2] for seed in range(3)))
    figure = over_samplers(settings)
    assert figure is not None
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["many (1)", "medium (1)", "few (1)", "all (3)"]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["instance", "class"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["joint", "tau-norm", "NCM (L2)"]
    wanted = []
    for place in (0, 2, 1):  # joint, tau-norm, NCM in the order of results.json
        several = np.array([[30 + 5 * place + len(s) + add for add in (0, 1, 5)] for s in ("instance", "class")], float)
        wanted.append((several.mean(1), np.sqrt(((several - several.mean(1, keepdims=True)) ** 2).sum(1) / 2)))
    for axes in figure.axes:
        for (xs, ys), bars, (mean, sd) in zip(points_of(axes), bars_of(axes), wanted, strict=True):
            assert np.allclose(ys, mean)
            assert np.allclose(bars, np.stack([mean - sd, mean + sd], 1))
            assert np.all(np.abs(np.array(xs) - [0, 1]) < 0.5)
    places = [xs[0] for xs, _ in points_of(figure.axes[0])]
    assert len(set(places)) == 3  # no point hides another


def test_single_runs_have_no_bars() -> None:
    figure = over_samplers(gathered(run("instance"), run("class")))
    assert figure is not None and all(len(points_of(axes)) == 3 and not bars_of(axes) for axes in figure.axes)


def test_a_classifier_that_one_sampler_lacks() -> None:
    figure = over_samplers(gathered(run("instance"), run("class", names=("joint",))))
    assert figure is not None
    heights = [ys for _, ys in points_of(figure.axes[3])]
    assert np.array_equal(np.isnan(heights), [[False, False], [False, True], [False, True]])


def test_an_empty_group_has_no_panel() -> None:
    runs = [run(sampler, train=[300, 200, 150]) for sampler in SAMPLERS[:2]]
    for results in runs:
        for row in results["classifiers"].values():
            row["medium"] = row["few"] = None
    figure = over_samplers(gathered(*runs))
    assert figure is not None
    assert [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()] == ["many (3)", "all (3)"]


def test_no_more_classifiers_than_colours() -> None:
    names = (*NAMES, "crt", "lws", "ncm_cosine", "mine.own:A", "mine.own:B")
    figure = over_samplers(gathered(*(run(sampler, names=names) for sampler in SAMPLERS)))
    assert figure is not None and all(len(points_of(axes)) == 6 for axes in figure.axes)
    assert "mine" not in "".join(text.get_text() for text in figure.legends[0].get_texts())


def test_one_sampler_or_backbone_is_nothing_to_compare() -> None:
    settings = gathered(run())
    assert over_samplers(settings) is None and over_backbones(settings) is None


def test_backbones_stand_by_parameters(tmp_path: Path) -> None:
    sizes = {"resnet18": 9_000_000, "resnet50": 5_000_000, "resnet10": 12_340_000}
    runs = [run(backbone=backbone, parameters=count) for backbone, count in sizes.items()]
    drawings = save_drawings(gathered(*runs), tmp_path)
    (drawing,) = [drawing for drawing in drawings if drawing.slug == "backbones_shapes"]
    assert "over the backbones resnet50, resnet18, resnet10" in drawing.alt
    figure = over_backbones(sorted(gathered(*runs), key=lambda setting: sizes[setting.backbone]))
    assert figure is not None
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["resnet50\n5.0 M", "resnet18\n9.0 M", "resnet10\n12.3 M"]


def test_every_figure_that_the_runs_allow(tmp_path: Path) -> None:
    runs = [run(sampler, seed) for sampler in SAMPLERS for seed in range(2)]
    drawings = save_drawings(gathered(*runs), tmp_path)
    slugs = [drawing.slug for drawing in drawings]
    kinds = ["samplers", "weight_norms", "accuracy_over_tau"]
    assert slugs == [*(f"{kind}_shapes_resnet32" for kind in kinds), "sampling_weights_shapes"]
    assert {path.name for path in tmp_path.iterdir()} == {f"{slug}.{kind}" for slug in slugs for kind in ("svg", "png")}
    for drawing in drawings:
        assert drawing.title and drawing.alt and "the paper's Figure" in drawing.caption
    captions = {drawing.slug.split("_shapes")[0]: drawing.caption for drawing in drawings}
    assert "mean ± standard deviation over 2 seeds" in captions["samplers"]
    assert "instance-balanced, square-root, progressively-balanced, class-balanced" in captions["samplers"]
    assert "seed 0; thin lines: seed 1." in captions["accuracy_over_tau"]
    best = 30 + 5 * 2 + len("progressive") + 0.5  # of tau-norm, the third classifier
    assert f"tau-norm, progressively-balanced sampling, {best:.1f} %" in drawings[0].alt
    assert "(this run)" not in (tmp_path / "sampling_weights_shapes.svg").read_text()


def test_little_is_drawn_of_runs_that_hold_little(tmp_path: Path) -> None:
    drawings = save_drawings(gathered(run(names=("ncm_l2",))), tmp_path)
    assert [drawing.slug for drawing in drawings] == ["sampling_weights_shapes"]


def test_figures_of_an_older_report_do_not_stay(tmp_path: Path) -> None:
    save_drawings(gathered(run("instance"), run("class")), tmp_path)
    assert (tmp_path / "samplers_shapes_resnet32.svg").is_file()
    (tmp_path / "mine.png").write_bytes(b"the user's own")
    save_drawings(gathered(run(names=("ncm_l2",))), tmp_path)
    left = {"sampling_weights_shapes.png", "sampling_weights_shapes.svg", "mine.png"}
    assert {path.name for path in tmp_path.iterdir()} == left


def test_same_runs_same_bytes(tmp_path: Path) -> None:
    runs = [run(sampler, seed) for sampler in SAMPLERS[:2] for seed in range(2)]
    first, second = tmp_path / "a", tmp_path / "b"
    assert save_drawings(gathered(*runs), first) == save_drawings(gathered(*copy.deepcopy(runs)[::-1]), second)
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes(), path.name


def test_foreign_names_make_files_of_their_own(tmp_path: Path) -> None:
    runs = [run(dataset="a/b $x$", names=("ncm_l2",), dataset_digest=digest) for digest in ("1", "2")]
    drawings = save_drawings(gathered(*runs), tmp_path)
    assert [drawing.slug for drawing in drawings] == ["sampling_weights_a-b-x-", "sampling_weights_a-b-x-_2"]
    assert len(list(tmp_path.iterdir())) == 4 and drawings[0].title == "Sampling weights: a/b $x$"


def test_a_shortened_protocol_is_said_under_every_figure_of_it(tmp_path: Path) -> None:
    fields = {"dataset": "cifar100_lt", "protocol": "cifar_lt_200", "image_size": 32}
    runs = [run(sampler, epochs=5, departures={"epochs": [200, 5]}, **fields) for sampler in SAMPLERS[:2]]
    for drawing in save_drawings(gathered(*runs), tmp_path / "short"):
        assert ("5 of 200 epochs" in drawing.caption) == (not drawing.slug.startswith("sampling_weights"))
    full = [run(sampler, epochs=200, names=("ncm_l2",), **fields) for sampler in SAMPLERS[:2]]
    assert not any("Not the" in drawing.caption for drawing in save_drawings(gathered(*full), tmp_path / "full"))


def test_a_choice_on_test_is_said(tmp_path: Path) -> None:
    runs = [run(sampler) for sampler in SAMPLERS[:2]]
    for results in runs:
        results["classifiers"]["tau_norm"]["choices"]["chosen_on"] = "test"
    captions = {drawing.slug.split("_")[0]: drawing.caption for drawing in save_drawings(gathered(*runs), tmp_path)}
    assert all("† chosen on the test images" in captions[kind] for kind in ("samplers", "weight", "accuracy"))
    figure = over_samplers(gathered(*runs))
    assert figure is not None and "tau-norm †" in [text.get_text() for text in figure.legends[0].get_texts()]


def imagenet(images: int = 115_846, **fields: Any) -> dict[str, Any]:
    train = [images - 98 * 20, *[20] * 98]
    paper = {"dataset": "imagenet_lt", "backbone": "resnext50", "protocol": "imagenet_lt_90", "epochs": 90}
    return run(train=train, image_size=224, **{**paper, **fields})


def rings_of(figure: Any) -> set[tuple[float, float]]:
    lines = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    return {(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in lines}


def test_published_points_stand_on_the_papers_curve_only() -> None:
    (setting,) = gathered(imagenet())
    figure = over_tau(setting)
    assert figure is not None
    read_off = {0.0: (65.9, 37.5, 7.7, 44.4), 0.7: (59.1, 46.9, 30.7, 49.4), 2.0: (8.5, 18.0, 47.8, 18.4)}
    assert rings_of(figure) == {(tau, value) for tau, values in read_off.items() for value in values}
    (legend,) = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == "published, read off Figure 2, ±0.5"
    others = [imagenet(backbone="resnet50"), imagenet(sampler="class"), imagenet(50_000), imagenet(dataset="mine")]
    for setting in gathered(*others):
        figure = over_tau(setting)
        assert figure is not None and rings_of(figure) == set(), setting


def test_further_seeds_are_thin_and_fit_in() -> None:
    runs = [run(seed=seed) for seed in range(3)]
    high = runs[2]["classifiers"]["tau_norm"]["curves"]["test"]
    high["many"] = [value + 20 for value in high["many"]]
    (setting,) = gathered(*runs)
    figure = over_tau(setting)
    assert figure is not None
    axes = figure.axes[0]
    thin = [line for line in axes.lines if line.get_linewidth() < 1]
    assert len(thin) == 2 * 4 and any(np.array_equal(line.get_ydata(), high["many"]) for line in thin)
    assert axes.get_ylim()[0] == 0 and axes.get_ylim()[1] >= max(high["many"])


def test_no_curve_no_figure() -> None:
    (setting,) = gathered(run(names=("joint",)))
    assert over_tau(setting) is None


@pytest.mark.parametrize("few", [True, False])
def test_decision_regions_where_a_run_holds_them(tmp_path: Path, few: bool) -> None:
    results = run(train=SMALL if few else [300, 200, 150], names=("joint", "ncm_l2"))
    results["decision_regions"] = region_frame(np.random.default_rng(0).normal(size=(30, 2)), np.arange(30) % 3)
    for place, row in enumerate(results["classifiers"].values()):
        row["regions"] = write_regions(np.full((8, 8), 2 * place))
    drawings = {drawing.slug: drawing for drawing in save_drawings(gathered(results), tmp_path)}
    drawing = drawings["decision_regions_shapes_resnet32"]
    assert ("few-shot classes: joint 0 %; NCM (L2) 100 %." in drawing.caption) == few
    assert (tmp_path / "decision_regions_shapes_resnet32.svg").is_file()


def test_learning_curves_show_what_the_runs_wrote(tmp_path: Path) -> None:
    for number, losses in enumerate(([3.0, 2.0, 1.0], [4.0, 3.5, 3.0])):
        (tmp_path / f"run{number}").mkdir()
        with MetricsFile(tmp_path / f"run{number}" / METRICS_FILE) as file:
            for epoch, loss in enumerate(losses, start=1):
                file.write(epoch=epoch, loss=loss, train_accuracy=10.0 * epoch)
    runs = gathered(run("instance"), run("class"))
    assert [one.slug for one in save_drawings(runs, tmp_path / "out", tmp_path) if "curves" in one.slug]
    figure = learning_curves({name: read_metrics(tmp_path / name / METRICS_FILE) for name in ("run0", "run1", "none")})
    assert figure is not None
    loss, accuracy = figure.axes
    assert [list(line.get_ydata()) for line in loss.lines] == [[3.0, 2.0, 1.0], [4.0, 3.5, 3.0]]
    assert [list(line.get_xdata()) for line in accuracy.lines] == [[1, 2, 3]] * 2  # no val
    assert learning_curves({"none": []}) is None
