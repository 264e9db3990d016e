"""What goes wrong beside the results: each is one line, and no result is lost. And names of others stay names."""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_results import made, measured

from fastlt import report as reports
from fastlt.core.lock import Busy, locked
from fastlt.core.typed import unsigned
from fastlt.experiment.results import Results, from_json, read_results, to_json, write_results
from fastlt.report import figures, results_table, write_report
from fastlt.report.__main__ import main
from fastlt.report.compare import write_across
from fastlt.report.compare.latex import _escaped as latex
from fastlt.report.names import escaped
from fastlt.report.page import page

NASTY = "=1+1|`<b>\x1b[2J\u202e$x$ ![a](b) https://evil www.evil a@b &lt; _c_ ~~d~~\n# e"


def small(**fields: Any) -> dict[str, Any]:
    return {**made(train=[300, 50, 5], names=("joint", "ncm_l2")), **fields}


def saved(folder: Path, results: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def test_one_process_at_a_time_writes_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "PATIENCE", 0.1)
    run = saved(tmp_path / "run", small())
    for out in (run, tmp_path / "across"):
        with locked(out / "report.lock", "it"), pytest.raises(Busy, match=f"the report in {out} is in use by process"):
            write_report(read_results(run), out) if out == run else write_across([run], out)
    assert [path.name for path in tmp_path.rglob("*")] == ["run", "results.json"]


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """One figure, which cannot be drawn."""

    def broken(results: Results) -> None:
        raise ZeroDivisionError("no\nfigure")

    monkeypatch.setattr(figures, "DRAWINGS", {"class_counts": broken})


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    value = measured(made(), seeds=3)
    value["classifiers"]["mlp_1"] = {"error": "its training diverged"}
    assert to_json(from_json(value)) == value
    write_results(from_json(value), tmp_path)
    assert read_results(tmp_path) == from_json(value)
    assert unsigned(json.loads((tmp_path / "results.json").read_text())) == value


def test_a_classifier_that_failed_has_its_own_line() -> None:
    value = small()
    value["classifiers"]["crt"] = {"error": "its training diverged: lower its learning rate"}
    results = from_json(value)
    lines = results_table(results).splitlines()
    row = next(line.split() for line in lines if line.startswith("cRT "))
    assert row[1:] == ["-"] * 5
    assert "cRT could not be fitted: its training diverged: lower its learning rate." in lines
    text = page(results, [])
    assert "| cRT | - | - | - | - | - |\n" in text and "cRT could not be fitted: its training diverged" in text
    assert "2 classifiers are measured" in text


def test_only_classifiers_that_failed(tmp_path: Path) -> None:
    value = small(classifiers={"crt": {"error": "its training diverged"}, "lws": {"error": "tau leaves float32"}})
    run = saved(tmp_path / "run", value)
    assert main([str(run)]) == 0
    text = (run / "report.md").read_text()
    assert "tau leaves float32" in text and "None" not in text and "nan" not in text


@pytest.mark.usefixtures("undrawn")
def test_a_figure_that_cannot_be_drawn_is_a_line_at_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = saved(tmp_path / "run", small())
    assert main([str(run)]) == 1
    out, error = capsys.readouterr()
    assert out == f"{run}/report.md\n" and error == "failed: figure class_counts: ZeroDivisionError: no\n"
    assert (run / "per_class.csv").is_file() and "class_counts" not in (run / "report.md").read_text()


@pytest.mark.usefixtures("undrawn")
def test_a_page_and_figures_that_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no page")

    monkeypatch.setattr("fastlt.report.compare.html.write_page", broken)
    monkeypatch.setattr("fastlt.report.compare.drawings.save_figure", broken)
    run, out = saved(tmp_path / "run", small()), tmp_path / "out"
    assert main([str(run), "--out", str(out)]) == 1
    told, error = capsys.readouterr()
    assert told == f"{out}/report.md\n"
    assert error.splitlines()[-2:] == ["failed: figures: RuntimeError: no page", "failed: page: RuntimeError: no page"]
    assert "Traceback" not in error
    assert (out / "results.csv").is_file() and (out / "tables").is_dir()


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("across", [False, True])
def test_full_and_read_only_disks(
    disk: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], across: bool
) -> None:
    place = saved(disk(1 << 20) / "run", small())
    before = (place / "results.json").read_bytes()
    arguments = [str(place), "--out", str(place / "out")] if across else [str(place)]
    with (place / "filler").open("wb", 0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(4096))
    for remedy, read_only in (("make room", False), ("allow writing there", True)):
        disk(1 << 20, read_only)
        assert main(arguments) == 2
        told, error = capsys.readouterr()
        assert told == "" and error.startswith(f"error: {place}/") and error.count("\n") == 1 and remedy in error
    disk(1 << 20)
    assert (place / "results.json").read_bytes() == before and not list(place.rglob("*.tmp"))


def test_names_of_others_are_text_in_markdown_and_on_a_terminal(tmp_path: Path) -> None:
    results = from_json(small(dataset=NASTY, backbone=NASTY, class_names=[NASTY, "cup & mug", "a_b"], device=NASTY))
    text = page(results, [])
    assert "\x1b" not in text and "\u202e" not in text and "\n# e" not in text
    line = text.splitlines()[0]
    for mark in ("|", "`", "<", "[", "&", "$", "~", "@", "://", "_c"):
        assert f" {mark}" not in line.replace(f"\\{mark}", "")
    table = results_table(results)
    assert "\x1b" not in table and "\u202e" not in table and "\\x1b[2J\\u202e" in table
    assert escaped("a_b aquarium_fish (x)") == "a_b aquarium_fish (x)"


def test_names_of_others_are_text_in_csv_and_latex(tmp_path: Path) -> None:
    run = saved(tmp_path / "run", small(class_names=[NASTY, "@SUM(A1)", "-5"]))
    assert main([str(run), "--out", str(tmp_path / "out")]) == 0
    from fastlt.report.per_class import write_per_class

    write_per_class(read_results(run), run / "per_class.csv")
    with (run / "per_class.csv").open(newline="", encoding="utf-8") as file:
        assert [row[1] for row in csv.reader(file)] == ["name", f"'{NASTY}", "'@SUM(A1)", "-5"]
    assert latex("[2pt] a*") == "{}[2pt] a*" and latex("*") == "{}*" and latex("\x1b&") == r"\textbackslash{}x1b\&"
