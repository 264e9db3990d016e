"""Published numbers: those of the collected tables, all of them, and no other."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import ROOT
from test_compare import csv_rows, imagenet_grid, reported

from fastlt.report.compare.published import OTHERS, PUBLISHED, PublishedRow

Fact = tuple[Any, ...]  # dataset, imbalance, series, backbone, epochs, sampler, classifier, tau, scope, value
SCOPES = ("many", "medium", "few", "all")
OURS = {"ncm": "ncm_l2"}


# What the tables lack, by the words of its line in FIELD.md: the values of that line that are shown.
FIELD = {
    "BagofTricks-LT, their code's baseline": {("cifar100_lt", 100, "joint"): 37.7, ("cifar10_lt", 100, "joint"): 72.0},
    "SADE README: softmax / RIDE / SADE": {
        ("cifar100_lt", 100, "softmax"): 41.4, ("cifar100_lt", 100, "RIDE"): 48.0, ("cifar100_lt", 100, "SADE"): 49.8,
    },
    "CE + DRW + SAM, LDAM + DRW + SAM (Saddle-LongTail)": {
        ("cifar100_lt", 100, "CE + DRW + SAM"): 44.6, ("cifar100_lt", 100, "LDAM + DRW + SAM"): 45.4,
        ("cifar10_lt", 100, "CE + DRW + SAM"): 80.6, ("cifar10_lt", 100, "LDAM + DRW + SAM"): 81.9,
    },
    "| ProCo |": {("cifar100_lt", 100, "ProCo"): (52.8, 54.2)},
    "| SHIKE |": {("cifar100_lt", 100, "SHIKE"): 56.34},
    "weight balancing: naive": {
        ("cifar100_lt", 100, "softmax"): 39.1, ("cifar100_lt", 100, "weight decay 5e-3"): 46.8,
        ("cifar100_lt", 100, "weight decay and MaxNorm"): 51.8,
    },
}  # fmt: skip
# Of BagofTricks-LT's README, "Baselines using our codes": top-1 errors, as FACTS.md has them in accuracies.
ERRORS = {
    ("cifar10_lt", 100): 28.05,
    ("cifar10_lt", 50): 23.55,
    ("cifar100_lt", 100): 62.27,
    ("cifar100_lt", 50): 56.22,
}


def paper(name: str) -> str:
    path = Path(os.environ.get("FASTLT_SHARED", ROOT.parent / "shared")) / "paper" / name
    if not path.is_file():
        pytest.skip(f"no {path} (FASTLT_SHARED names another folder)")
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tables() -> dict[str, Any]:
    return yaml.safe_load(paper("tables.yaml"))


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
    # Its `joint` of CIFAR-LT is what BagofTricks-LT quotes from others; RIDE's are of other trainings as well.
    names = {"joint": ("others", "softmax"), "best_decoupled": ("others", "best of cRT, tau-norm and LWS")}
    for dataset in ("cifar100_lt", "cifar10_lt"):
        for place, rows in tables[dataset].items():
            imbalance = int(place.split("_")[1])
            for classifier, value in rows.items():
                if classifier != "source":
                    series, known = names.get(classifier, ("main", classifier))
                    start = (dataset, imbalance, series, "resnet32", (200,), "instance", known, None)
                    yield from scores(value, *start)


def facts(row: PublishedRow) -> Iterator[Fact]:
    place = (row.dataset, row.imbalance, row.series, row.backbone, row.epochs, row.sampler, row.classifier, row.tau)
    return ((*place, scope, getattr(row, scope)) for scope in SCOPES if getattr(row, scope) is not None)


def field_line(words: str) -> str:
    (line,) = [line for line in paper("FIELD.md").splitlines() if words in line]
    return line


def field_facts() -> set[Fact]:
    """The dataset, imbalance, classifier and overall accuracy of what is shown from FIELD.md and of the baselines."""
    shown = {fact: value for line in FIELD.values() for fact, value in line.items()}
    pairs = [(*fact, one) for fact, value in shown.items() for one in (value if isinstance(value, tuple) else (value,))]
    # Half a tenth goes up, as BagofTricks' 76.45 is written 76.5.
    own = {(*place, "joint", int((100 - error) * 10 + 0.5 + 1e-9) / 10) for place, error in ERRORS.items()}
    return {*pairs, *own, ("cifar100_lt", 100, "softmax", 41.4), ("cifar100_lt", 100, "softmax", 39.1)}


def test_published_are_the_collected_tables_and_what_the_field_file_adds(tables: dict[str, Any]) -> None:
    ours = [fact for row in PUBLISHED for fact in facts(row)]
    theirs = set(flat(tables))
    assert len(theirs) > 120 and theirs - set(ours) == set()
    # RIDE's softmax and weight balancing's print the same number.
    added = {(*fact[:2], fact[6], fact[-1]) for fact in set(ours) - theirs}
    assert added == field_facts()
    assert len({(row.source, row.about, *fact) for row in PUBLISHED for fact in facts(row)}) == len(ours)  # none twice


@pytest.mark.parametrize("words", FIELD)
def test_what_the_field_file_adds_was_read_in_a_repository(words: str) -> None:
    line = field_line(words)
    assert "[R]" in line.split("|")[-2] and "[S]" not in line
    numbers = {float(found) for found in re.findall(r"\d+\.\d+", line)}
    for value in FIELD[words].values():
        assert numbers >= (set(value) if isinstance(value, tuple) else {value}), (words, value)


def test_baselines_are_bagoftricks_own_and_the_reference_is_quoted() -> None:
    rows = {(row.dataset, row.imbalance): row for row in PUBLISHED if "baselines" in row.source}
    assert {place: row.all for place, row in rows.items()} == {
        ("cifar100_lt", 100): 37.7, ("cifar100_lt", 50): 43.8, ("cifar10_lt", 100): 72.0, ("cifar10_lt", 50): 76.5,
    }  # fmt: skip
    assert all(row.protocols == ("cifar_lt_bags",) and row.classifier == "joint" for row in rows.values())
    line = field_line("BagofTricks-LT, their code's baseline")
    assert {"62.27", "28.05"} <= set(re.findall(r"\d+\.\d+", line))
    facts_line = next(line for line in paper("FACTS.md").splitlines() if "BOT's own CE runs" in line)
    assert all(f"{100 - error:.2f}" in facts_line for error in ERRORS.values())
    quoted = [row for row in PUBLISHED if "Reference" in row.source]
    assert sorted(row.all for row in quoted) == [38.3, 43.9, 70.4, 74.8]
    assert all(row.series == OTHERS and "quoted" in row.about and not row.protocols for row in quoted)


def test_rows_of_a_protocol_are_compared_and_the_others_say_what_they_are() -> None:
    known = {path.stem for path in (ROOT / "conf" / "protocol").glob("*.yaml")}
    for row in PUBLISHED:
        assert set(row.protocols) <= known
        assert bool(row.protocols) == (row.series != OTHERS) and bool(row.about) == (row.series == OTHERS)


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
    monkeypatch.setattr("fastlt.report.compare.drawings.save_drawings", lambda settings, folder, base: ())
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
