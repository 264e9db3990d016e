"""Published numbers: those of the collected tables, all of them, and no other."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_across import csv_rows, imagenet_grid, reported

from fastlt.report.across.published import PUBLISHED, PublishedRow

Fact = tuple[Any, ...]  # dataset, imbalance, series, backbone, epochs, sampler, classifier, tau, scope, value
SCOPES = ("many", "medium", "few", "all")
OURS = {"ncm": "ncm_l2"}


@pytest.fixture(scope="module")
def tables() -> dict[str, Any]:
    path = Path(os.environ.get("FASTLT_SHARED", Path(__file__).parents[2] / "shared")) / "paper" / "tables.yaml"
    if not path.is_file():
        pytest.skip(f"no {path} (FASTLT_SHARED names another folder)")
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def flat(tables: dict[str, Any]) -> Iterator[Fact]:
    """Every number of the tables with where it stands, written out by its section."""

    def scores(value: Any, *before: Any) -> Iterator[Fact]:
        for scope, one in zip(SCOPES, value, strict=True) if isinstance(value, list) else [("all", value)]:
            yield (*before, scope, one)

    for backbone, sections in tables["imagenet_lt"].items():
        for section, rows in sections.items():
            start = ("imagenet_lt", None)
            if section in ("joint_by_sampler", "crt_by_sampler_rerun"):
                series, classifier = ("main", "joint") if section.startswith("joint") else ("re-run", "crt")
                for sampler, value in rows.items():
                    yield from scores(value, *start, series, backbone, (90,), sampler, classifier, None)
            elif section == "instance":
                for classifier, value in rows.items():
                    known = OURS.get(classifier, classifier)
                    yield from scores(value, *start, "main", backbone, (90,), "instance", known, None)
            elif section.startswith("tau_curve"):
                for tau, value in rows.items():
                    yield from scores(value, *start, "figure 2", backbone, (90,), "instance", "tau_norm", tau)
            else:
                yield from scores(rows, *start, "main", backbone, (90,), "instance", section, None)
    for backbone, rows in tables["places_lt"].items():
        for classifier, value in rows.items():
            known = OURS.get(classifier, classifier)
            yield from scores(value, "places_lt", None, "main", backbone, (30, 90), "instance", known, None)
    for place, rows in tables["inaturalist2018"].items():
        backbone, epochs, _ = place.split("_")
        for classifier, value in rows.items():
            start = ("inaturalist2018", None, "main", backbone, (int(epochs),))
            yield from scores(value, *start, "instance", classifier, None)
    for dataset in ("cifar100_lt", "cifar10_lt"):
        for place, rows in tables[dataset].items():
            _, imbalance, *ride = place.split("_")
            for classifier, value in rows.items():
                if classifier != "source":
                    start = (dataset, int(imbalance), "RIDE" if ride else "main", "resnet32", (200,))
                    yield from scores(value, *start, "instance", classifier, None)


def facts(row: PublishedRow) -> Iterator[Fact]:
    place = (row.dataset, row.imbalance, row.series, row.backbone, row.epochs, row.sampler, row.classifier, row.tau)
    return ((*place, scope, getattr(row, scope)) for scope in SCOPES if getattr(row, scope) is not None)


def test_published_are_the_collected_tables(tables: dict[str, Any]) -> None:
    ours = [fact for row in PUBLISHED for fact in facts(row)]
    theirs = set(flat(tables))
    assert len(theirs) > 120 and set(ours) - theirs == set() and theirs - set(ours) == set()
    assert len(ours) == len(set(ours))  # none twice


def test_no_section_of_the_tables_is_overlooked(tables: dict[str, Any]) -> None:
    def numbers(value: Any) -> int:
        if isinstance(value, dict | list):
            return sum(map(numbers, value.values() if isinstance(value, dict) else value))
        return isinstance(value, int | float)

    # The joint classifier after instance-balanced sampling stands in two sections.
    assert numbers(tables) == len(set(flat(tables))) + 4


def test_every_row_has_a_source() -> None:
    for row in PUBLISHED:
        assert len(row.source) > 3 and row.source == " ".join(row.source.split())
        assert 0 < row.all < 100 and row.epochs


def test_nothing_else_is_printed_as_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastlt.report.across.drawings.save_drawings", lambda settings, folder: ())
    out = reported(imagenet_grid(), tmp_path)
    names = {"instance-balanced": "instance", "class-balanced": "class", "square-root": "sqrt"}
    names |= {"progressively-balanced": "progressive"}
    labels = {"joint": "joint", "NCM (L2)": "ncm_l2", "cRT": "crt", "tau-norm": "tau_norm", "LWS": "lws"}
    series = {"samplers": "main", "ncm": "main", "rerun": "re-run"}
    allowed = {fact[2:] for row in PUBLISHED if row.dataset == "imagenet_lt" for fact in facts(row)}
    markdown = (out / "report.md").read_text(encoding="utf-8")
    seen: dict[str, int] = {}
    for path in sorted((out / "tables").glob("*.csv")):
        kind = path.stem.split("_")[0]
        found = []
        for row in csv_rows(path):
            if row["published"]:
                classifier, sampler = labels[row["classifier"].removesuffix(" †")], names[row["sampler"]]
                place = (series[kind], "resnext50", (90,), sampler, classifier, None, row["column"])
                assert (*place, float(row["published"])) in allowed
                assert row["source"] in {one.source for one in PUBLISHED if one.series == series[kind]}
                found.append(float(row["published"]))
        seen[kind] = len(found)
        # The same numbers in the same order stand in brackets in LaTeX and in Markdown.
        body = path.with_suffix(".tex").read_text(encoding="utf-8").split(r"\midrule")[1].split(r"\bottomrule")[0]
        assert [float(text) for text in re.findall(r"\((\d+\.\d)\)", body)] == found
        section = markdown.split(f"(tables/{path.name})")[0].split("### ")[-1]
        assert [float(text) for text in re.findall(r"\((\d+\.\d)[,)]", section)] == found
    assert seen == {"samplers": 4 * 5 + 3 * 4, "ncm": 4, "rerun": 16, "tau": 0, "heads": 0, "others": 0}
