"""Answers in sentences which classifier on which representation is best, by how much, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fastlt.core.words import counted
from fastlt.report.compare.model import Measured
from fastlt.report.compare.runs import (
    RunGroup,
    bare,
    classifiers,
    data_name,
    measured,
    name,
    on_test,
    sampling,
    with_sampler,
)
from fastlt.report.names import label
from fastlt.report.summary import headline

GROUP_NAMES = {"few": "few-shot", "medium": "medium-shot", "many": "many-shot"}


def answers(run_groups: Sequence[RunGroup]) -> tuple[tuple[str, ...], ...]:
    """Returns the sentences of the answer for each dataset, two or three.

    The first tells the best classifier over all classes, the second that of each group of classes, and the last over
    how many seeds. Classifiers with choices made on test are left out, as they have an advantage. What each gains is
    told against the joint classifier with instance-balanced sampling, if it was run, else against that on the same
    representation.
    """
    datasets = dict.fromkeys((one.dataset, one.imbalance, one.digest) for one in run_groups)
    found = [[one for one in run_groups if (one.dataset, one.imbalance, one.digest) == data] for data in datasets]
    names = [data_name(same[0]) for same in found]
    told = (_answer(same, names.count(data_name(same[0])) > 1) for same in found)
    return tuple(sentences for sentences in told if sentences)


def _answer(run_groups: list[RunGroup], another: bool) -> tuple[str, ...]:
    """Returns the sentences for a dataset. another: whether another dataset has the same name."""
    results = next((run for one in run_groups for run in one.runs), None)
    if results is None:
        return ()
    whole = headline(results)
    best = {scope: found for scope in (whole, *GROUP_NAMES) if (found := _best(run_groups, scope))}
    if whole not in best:
        return ()
    run_group, classifier, reached = best[whole]
    base = _base(run_groups, run_group)
    told = "over all test images" if whole == "all" else "by mean class accuracy"
    data = data_name(run_group) + (f", dataset digest {(run_group.digest or 'unknown')[:8]}" if another else "")
    text = f"{data}: {told}, {label(classifier)} on {_representation(run_groups, run_group)} is best"
    text += f" with {_number(reached)} %{_gain(base, run_group, classifier, whole, reached)}."
    groups = [
        f"{GROUP_NAMES[scope]} {label(one)} on {_representation(run_groups, of)}, {number.mean:.1f} %"
        f"{_change(base, scope, number)}"
        for scope, (of, one, number) in best.items()
        if scope != whole
    ]
    by_group = []
    if len(groups) > 1:
        against = "" if base is None else ", against that joint classifier"
        by_group = [f"Best on classes by their number of training images{against}: {'; '.join(groups)}."]
    return (text, *by_group, _seeds([number.runs for _, _, number in best.values()]))


def _best(run_groups: list[RunGroup], scope: str) -> tuple[RunGroup, str, Measured] | None:
    """Returns the group of runs and the classifier with the highest mean, and that mean; None if none has a number."""
    fair = [(one, known) for one in run_groups for known in classifiers(one) if not on_test(one, known)]
    numbers = [(one, known, number) for one, known in fair if (number := measured(one, known, scope))]
    return max(numbers, key=lambda found: found[2].mean, default=None)


def _base(run_groups: list[RunGroup], best: RunGroup) -> RunGroup | None:
    """Returns the group whose joint classifier others are compared with."""
    usual = with_sampler(best, "instance")
    found = next((one for one in run_groups if bare(one) == usual), best)
    return found if "joint" in classifiers(found) else None


def _gain(base: RunGroup | None, run_group: RunGroup, classifier: str, scope: str, reached: Measured) -> str:
    number = None if base is None else measured(base, "joint", scope)
    if base is None or number is None or (base is run_group and classifier == "joint"):
        return ""
    where = "the same representation" if base is run_group else f"the {sampling(base)} one"
    change = reached.mean - number.mean
    text = f", {change:.1f} points above the joint classifier on {where} ({_number(number)} %)"
    return f"{text}, a difference that the seeds cannot tell from chance" if _chance(reached, number) else text


def _change(base: RunGroup | None, scope: str, reached: Measured) -> str:
    number = None if base is None else measured(base, "joint", scope)
    return "" if number is None else f" ({reached.mean - number.mean:+.1f})"


def _chance(first: Measured, second: Measured) -> bool:
    """Returns whether two means differ by less than twice the standard error of their difference over seeds."""
    if first.sd is None or second.sd is None:
        return False
    error = math.sqrt(first.sd**2 / first.runs + second.sd**2 / second.runs)
    return abs(first.mean - second.mean) < 2 * error


def _representation(run_groups: list[RunGroup], run_group: RunGroup) -> str:
    """Returns the name of a representation: its sampler, and whatever else differs among these groups."""
    fields = ("backbone", "protocol", "drawing", "epochs", "precision", "departures")
    same = [field for field in fields if len({getattr(one, field) for one in run_groups}) == 1]
    further = name(run_group, ("dataset", "sampler", *same))
    return f"the {sampling(run_group)} representation" + (f" ({further})" if further else "")


def _number(number: Measured) -> str:
    return f"{number.mean:.1f}" + ("" if number.sd is None else f" ± {number.sd:.1f}")


def _seeds(runs: list[int]) -> str:
    fewest, most = min(runs), max(runs)
    if most == 1:
        return "Each number is of one seed, which says little about differences of a few points."
    return f"Means ± standard deviations are over {f'{fewest} to ' * (fewest < most)}{counted(most, 'seed')}."
