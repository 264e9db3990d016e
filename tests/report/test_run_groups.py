"""Which runs a report averages, and which it keeps apart."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from test_compare import PAPER, SCORES, gathered, grid, run, tables_of

from fastlt.core.structured import from_node
from fastlt.experiment.config import TrainConfig
from fastlt.experiment.departures import find_departures
from fastlt.experiment.results import from_json
from fastlt.report.compare.compare import cell, kept_apart, published_row
from fastlt.report.compare.runs import RunGroup, classifiers, gather, measured, name


def test_mean_and_deviation_of_every_score() -> None:
    runs = grid()
    for setting in gathered(runs):
        mine = [one for one in runs if one["sampler"] == setting.sampler]
        assert [one.seed for one in setting.runs] == [0, 1, 2] and len(mine) == 3
        for classifier in PAPER:
            for score in SCORES:
                values = [one["classifiers"][classifier][score] for one in mine]
                mean = sum(values) / 3
                found = measured(setting, classifier, score)
                assert found is not None and found.sd is not None and found.runs == 3
                assert math.isclose(found.mean, mean, rel_tol=1e-12)
                assert math.isclose(found.sd, math.sqrt(sum((value - mean) ** 2 for value in values) / 2), rel_tol=1e-9)


def test_one_run_has_no_deviation_and_an_empty_group_no_number() -> None:
    one, other = run(seed=0), run(seed=1)
    (alone,) = gathered([one])
    found = measured(alone, "crt", "all")
    assert found is not None and found.sd is None and found.runs == 1
    assert measured(alone, "nobody", "all") is None
    other["classifiers"]["crt"]["few"] = None
    (both,) = gathered([one, other])
    assert measured(both, "crt", "few") is None and measured(both, "crt", "all") is not None


@pytest.mark.parametrize(
    "change",
    [
        {"dataset_digest": "another"}, {"backbone": "resnet18"}, {"sampler": "class"}, {"drawing": "iid"},
        {"protocol": "mine"}, {"epochs": 5}, {"image_size": 64}, {"hold_out": 0.1}, {"choose_on": "test"},
        {"departures": {"protocol.lr": [0.1, 0.3]}}, {"departures": {"stage2.lr": [None, [0.1]]}},
        {"departures": {"mode": ["features", "images"]}}, {"precision": "bf16"},
        {"checkpoint": {"epoch": 3, "chosen": "given: runs/other"}},
    ],
)  # fmt: skip
def test_what_is_not_the_same_experiment_is_not_averaged(change: dict[str, Any]) -> None:
    assert len(gathered([run(seed=0), run(seed=1)])) == 1
    assert len(gathered([run(seed=0), run(seed=1, **change)])) == 2


@pytest.mark.parametrize("given", [{"checkpoint": {"epoch": 3, "chosen": "given: runs/other"}}, {}])
def test_representations_of_other_trainings_or_own_parts_are_not_averaged(given: dict[str, Any]) -> None:
    runs = [run(seed=seed, trained_by=by, **given) for seed, by in enumerate(("ab" * 32, "ab" * 32, "cd" * 32))]
    apart = gathered(runs)
    assert sorted(len(one.runs) for one in apart) == [1, 2] and len({name(one) for one in apart}) == 2
    (alike,) = gathered(runs[:2])
    assert "source=" not in name(alike)


def test_versions_of_an_edited_classifier_are_not_averaged() -> None:
    """Each version is a classifier of its own; the others are averaged over all seeds, one run of two of seed 1."""

    def version(seed: int, source: str | None, few: float) -> dict[str, Any]:
        results = run(seed=seed)
        row = {**results["classifiers"]["joint"], "few": few, "source": source}
        results["classifiers"]["mine:Head"] = row
        return results

    first, second = "ab" * 32, "cd" * 32
    runs = [version(0, first, 10.0), version(1, first, 20.0), version(1, second, 70.0), version(2, None, 90.0)]

    def few(run_group: RunGroup) -> dict[str, tuple[float, int]]:
        found = {known: measured(run_group, known, "few") for known in classifiers(run_group)}
        return {known: (one.mean, one.runs) for known, one in found.items() if one and known.startswith("mine")}

    (alike,) = gathered(runs[:2])
    assert few(alike) == {"mine:Head": (15.0, 2)}
    (edited,) = gathered(runs)
    assert few(edited) == {
        "mine:Head, source abababababab": (15.0, 2),
        "mine:Head, source cdcdcdcdcdcd": (70.0, 1),
        "mine:Head, source unknown": (90.0, 1),
    }
    assert [one.seed for one in edited.runs] == [0, 1, 2]  # of the others, seed 1 counts once


@pytest.mark.parametrize(
    ("others", "joined"),
    [(("dataloader",), True), (("reference",), True), (("iid",), False), (("quota",), True), ((), True),
     (("dataloader", "reference"), False)],
)  # fmt: skip
def test_instance_balanced_runs_are_compared_with_samplers_that_were_drawn_otherwise(
    others: tuple[str, ...], joined: bool
) -> None:
    """`instance` is the same by `dataloader` as by `quota`, and its results name the latter."""
    runs = [run(sampler="instance"), *(run(sampler="class", drawing=drawing) for drawing in others)]
    found = gathered(runs)
    assert len(found) == len(runs)
    by_sampler = [table for slug, table in tables_of(runs).items() if slug.startswith("samplers_")]
    assert len(by_sampler) == (1 if joined else len(runs))
    (instance,) = (one for one in found if one.sampler == "instance")
    assert instance.drawing == (others[0] if joined and others else "quota")


def test_a_key_at_its_protocols_own_value_changes_nothing() -> None:
    given = ["protocol=cifar_lt_bags", "protocol.lr=0.1", "mode=images", "stage2.tau=1.0", "epochs=200"]
    with initialize_config_module("fastlt.conf", version_base="1.3"):
        own, other = (
            find_departures(from_node(compose("train", words), TrainConfig), Any)  # type: ignore[arg-type]
            for words in (given, [*given, "protocol.crt.lr=0.2"])
        )
    (setting,) = gathered([run("cifar100_lt", seed=0), run("cifar100_lt", seed=1, departures=own)])
    shown = cell(setting, "joint", "all", published_row(setting, "joint"))
    assert shown.ours is not None and shown.ours.runs == 2 and shown.difference is not None
    both = gathered([run("cifar100_lt", seed=0), run("cifar100_lt", seed=1, departures=other)])
    assert [kept_apart(one) for one in both] == [(), ("cRT: learning rate 0.2 in place of 0.1",)]


def test_a_seed_that_was_run_twice_counts_once() -> None:
    first, again = run(seed=0), run(seed=0)
    again["seconds"] = 5.0
    (setting,) = gathered([first, again, run(seed=1)])
    assert [one.seed for one in setting.runs] == [0, 1] and setting.folders == ("run0", "run2")
    fuller = run(seed=0, names=(*PAPER, "cosine"))
    fuller["classifiers"] |= {known: first["classifiers"][known] for known in PAPER}
    (setting,) = gathered([first, fuller])
    assert setting.folders == ("run1",)
    again["classifiers"]["crt"]["all"] += 1
    settings, warnings = gather([("a", from_json(first)), ("b", from_json(again))])
    assert len(settings[0].runs) == 1 and settings[0].runs[0] == from_json(first)
    assert len(warnings) == 1 and "a is shown, b is left out" in warnings[0] and "seed 0" in warnings[0]


def test_a_seed_that_was_run_in_two_folders_has_the_classifiers_of_both() -> None:
    whole = run(seed=0)
    parts = [{**whole, "classifiers": {name: whole["classifiers"][name] for name in names}}
             for names in (("joint", "crt"), ("joint", "lws", "tau_norm"), ("ncm_l2",))]  # fmt: skip
    (setting,) = gathered(parts)
    assert setting.folders == ("run1",) and set(setting.runs[0].classifiers) == set(whole["classifiers"])
    assert setting.runs[0].classifiers["crt"] == from_json(whole).classifiers["crt"]
    _, warnings = gather([("a", from_json(parts[0])), ("b", from_json({**parts[2], "key": "another network"}))])
    assert len(warnings) == 1 and "a is shown, b is left out" in warnings[0]


def test_seeds_of_one_representation_are_told() -> None:
    runs = [run(seed=seed, checkpoint={"epoch": 3, "chosen": "given: runs/other"}) for seed in (0, 1)]
    for results in runs:
        results["key"] = "the same"
    _, warnings = gather((str(one["seed"]), from_json(one)) for one in runs)
    assert len(warnings) == 1 and "share a representation" in warnings[0]


def test_seeds_of_different_versions_are_told() -> None:
    runs = [run(seed=seed) for seed in (0, 1, 2)]
    _, warnings = gather((str(one["seed"]), from_json(one)) for one in runs)
    assert warnings == []
    runs[1]["versions"] = {**runs[1]["versions"], "fastlt": "0.0.1", "torch": "9"}
    runs[2]["versions"] = {**runs[2]["versions"], "fastlt": "0.0.1", "torch": "9"}
    _, warnings = gather((str(one["seed"]), from_json(one)) for one in runs)
    assert len(warnings) == 1 and "are of different versions (" in warnings[0]
    assert "torch 2.8.0 and 9; fastlt 0.0.1 and none" in warnings[0]
