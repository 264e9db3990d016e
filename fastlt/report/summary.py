"""The first paragraph of report.md: what was found, in plain words; every judgement follows from the numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastlt.core.groups import FEW, GROUPS, class_groups
from fastlt.report.choices import DAGGER, chosen_on_test
from fastlt.report.departures import departures
from fastlt.report.names import SCOPES, escaped, listed, long_name, number, sampling

SAME = 0.05  # points; less does not show in one decimal


def summary(results: dict[str, Any]) -> str:
    """One paragraph in plain words; every judgement in it follows from the numbers."""
    return " ".join([_trained(results), *_found(results), _limits(results)])


def _trained(results: dict[str, Any]) -> str:
    train, test = results["class_counts"]["train"], results["class_counts"]["test"]
    many = "" if results.get("epochs") == 1 else "s"
    epochs = f" for {results['epochs']} epoch{many}" if "epochs" in results else ""
    usual = next((one.usual for one in departures(results) if one.shortens), "")
    epochs += f" (shortened: its protocol has {usual})" if usual else ""
    rows = len(results["classifiers"])
    return (
        f"{escaped(results['backbone'])} was trained on {escaped(results['dataset'])} ({len(train):,} classes, "
        f"{sum(train):,} training images, from {max(train):,} in the largest class to {min(train):,} in the smallest) "
        f"with {escaped(sampling(results))}{epochs}; {rows} {'classifier is' if rows == 1 else 'classifiers are'} "
        f"measured on {sum(test):,} test images."
    )


def _found(results: dict[str, Any]) -> list[str]:
    rarest = [group for group in reversed(GROUPS) if _scores(results, group)][:1]
    sentences = []
    if min(results["class_counts"]["train"]) >= FEW:
        sentences.append(f"No class has fewer than {FEW} training images.")
    sentences += [_compared(results, key) for key in (*rarest, "all") if _scores(results, key)]
    if rarest != ["many"]:
        sentences += _price(results)
    return sentences


def _compared(results: dict[str, Any], key: str) -> str:
    """Joint against the best of the others on one group (or on all), worded by what the numbers allow."""
    scores = _scores(results, key)
    over = f"Over {SCOPES[key]}" if key == "all" else f"On {SCOPES[key]}"
    others = {name: score for name, score in scores.items() if name != "joint"}
    if "joint" not in scores or not others:
        best = max(scores, key=lambda name: scores[name])
        first = f", the highest of {len(scores)} classifiers" if len(scores) > 1 else ""
        return f"{over} {_long(results, best)} reaches {scores[best]:.1f} %{first}."
    best = max(others, key=lambda name: others[name])
    change = others[best] - scores["joint"]
    who = _long(results, best)
    if len(others) > 1:
        who = f"the highest of the {len(others)} others, {who},"
    start = f"{over} {_long(results, 'joint')} reaches {scores['joint']:.1f} %; {who} reaches {others[best]:.1f} %"
    difference = "the same" if abs(change) < SAME else f"{change:+.1f}"
    verdict = _maybe_chance(results, key, scores["joint"], others[best])
    if not verdict and change < SAME:
        verdict = ", so none is better here" if len(others) > 1 else ", so it is not better here"
    return f"{start} ({difference}){verdict}."


def _price(results: dict[str, Any]) -> list[str]:
    """What the best classifier over all images but joint gives up, or gains, on the many-shot classes."""
    many = _scores(results, "many")
    others = {name: score for name, score in _scores(results, "all").items() if name != "joint" and name in many}
    if "joint" not in many or not others:
        return []
    best = max(others, key=lambda name: others[name])
    change = many[best] - many["joint"]
    start = f"On the many-shot classes {_long(results, best)}"
    if abs(change) < SAME:
        return [f"{start} reaches the same as {_long(results, 'joint')} ({many[best]:.1f} %)."]
    moved = f"{abs(change):.1f} points " + ("less than" if change < 0 else "more than")
    numbers = f"{many[best]:.1f} % against {many['joint']:.1f} %"
    verdict = _maybe_chance(results, "many", many["joint"], many[best])
    return [f"{start} reaches {moved} {_long(results, 'joint')} ({numbers}){verdict}."]


def _maybe_chance(results: dict[str, Any], key: str, first: float, second: float) -> str:
    """The clause behind a difference below twice its standard error; nothing behind a larger one."""
    images = sum(_tested(results, key))
    if not images or abs(first - second) < SAME or abs(first - second) >= 2 * _chance(results, key, first, second):
        return ""
    return f", a difference that {images:,} test images cannot tell from chance"


def _limits(results: dict[str, Any]) -> str:
    flattered = [name for name in results["classifiers"] if chosen_on_test(results, name)]
    text = "This is one run with one seed: another seed may move each of these numbers."
    if any(row.get("seeds", 1) > 1 for row in results["classifiers"].values()):
        text = (
            "This is one representation with one seed, and ± is only what the seeds of its classifiers move: another "
            "representation may move each of these numbers by more."
        )
    if flattered:
        text += (
            f" {DAGGER} The settings of {listed(flattered)} were chosen on the test images themselves, so their "
            "numbers are flattering and must not be compared with results whose choices were made on val."
        )
    return text


def _scores(results: dict[str, Any], key: str) -> dict[str, float]:
    """The classifiers that have a number for this group."""
    pairs = {name: number(row.get(key)) for name, row in results["classifiers"].items()}
    return {name: score for name, score in pairs.items() if score is not None}


def _tested(results: dict[str, Any], key: str) -> list[int]:
    """Test images of every class of a group that has any."""
    train, test = (np.asarray(results["class_counts"][split]) for split in ("train", "test"))
    inside = test > 0
    if key != "all":
        inside &= class_groups(train) == GROUPS.index(key)
    return test[inside].tolist()


def _chance(results: dict[str, Any], key: str, first: float, second: float) -> float:
    """Standard error in points of the difference of two accuracies on the test images of a group.

    Both are taken as independent. They share their test images, so the true error is mostly smaller: this errs on the
    side of calling less a finding. One hit and one miss are added (Agresti and Coull), or 0 % would count as certain.
    """
    tested = _tested(results, key)
    images = sum(tested)
    # `all` is over images; a group is a mean of its classes, in which an image of a small class weighs more.
    spread = 1 / images if key == "all" else sum(1 / count for count in tested) / len(tested) ** 2
    shares = [(score / 100 * images + 1) / (images + 2) for score in (first, second)]
    return 100 * math.sqrt(sum(share * (1 - share) for share in shares) * spread)


def _long(results: dict[str, Any], name: str) -> str:
    return f"{long_name(name)} {DAGGER}" if chosen_on_test(results, name) else long_name(name)
