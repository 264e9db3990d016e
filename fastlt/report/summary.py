"""Writes the first paragraph of report.md, the results in words. Every judgement follows from the numbers."""

from __future__ import annotations

import math

import numpy as np

from fastlt.core.groups import FEW, GROUPS, class_groups
from fastlt.core.words import agree, counted
from fastlt.experiment.results import GIVEN, Results
from fastlt.report.choices import DAGGER, chosen_on_test
from fastlt.report.departures import departures
from fastlt.report.names import SCOPES, escaped, listed, long_name, sampling

SAME = 0.05  # percentage points; smaller differences do not show in one decimal


def summary(results: Results) -> str:
    """Returns the paragraph: what was trained, the most important comparisons, and the limits of the evidence."""
    return " ".join([_trained(results), *_found(results), _limits(results)])


def _trained(results: Results) -> str:
    train, test = results.class_counts["train"], results.class_counts["test"]
    epochs = f" for {counted(results.epochs, 'epoch')}" if results.epochs is not None else ""
    usual = next((one.usual for one in departures(results) if one.shortens), "")
    epochs += f" (shortened: its protocol has {usual})" if usual else ""
    rows = len(results.classifiers)
    what, how, joint = escaped(results.backbone), "was trained on", f"with {escaped(sampling(results))}{epochs}"
    seen = "image"
    if results.backbone == GIVEN:
        what, how, seen = "A linear joint classifier", "was trained on the features of", "row"
    elif results.epochs == 0:
        how = "gives, as it came, features of"
        joint = f"; its joint classifier is trained with {escaped(sampling(results))}"
    return (
        f"{what} {how} {escaped(results.dataset)} ({counted(len(train), 'class')}, "
        f"{counted(sum(train), f'training {seen}')}, from {max(train):,} in the largest class to {min(train):,} in the "
        f"smallest){'' if results.epochs == 0 else ' '}{joint}; {counted(rows, 'classifier')} "
        f"{agree(rows, 'is', 'are')} measured on {counted(sum(test), f'test {seen}')}."
    )


def _found(results: Results) -> list[str]:
    rarest = [group for group in reversed(GROUPS) if _scores(results, group)][:1]
    sentences = []
    if min(results.class_counts["train"]) >= FEW:
        sentences.append(f"No class has fewer than {FEW} training images.")
    sentences += [_compared(results, key) for key in (*rarest, headline(results)) if _scores(results, key)]
    if rarest != ["many"]:
        sentences += _price(results)
    return sentences


def _compared(results: Results, key: str) -> str:
    """Returns a sentence that compares joint with the best other classifier on a group or on all images."""
    scores = _scores(results, key)
    over = f"{'Over' if key in ('all', 'mean_class') else 'On'} {SCOPES[key]}"
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


def _price(results: Results) -> list[str]:
    """Returns a sentence on how the best classifier other than joint (over all classes) does on many-shot classes."""
    many, whole = _scores(results, "many"), _scores(results, headline(results))
    others = {name: score for name, score in whole.items() if name != "joint" and name in many}
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


def _maybe_chance(results: Results, key: str, first: float, second: float) -> str:
    """Returns a clause that calls a difference below twice its standard error possible chance; "" for a larger one."""
    images = sum(_tested(results, key))
    if not images or abs(first - second) < SAME or abs(first - second) >= 2 * _chance(results, key, first, second):
        return ""
    return f", a difference that {counted(images, 'test image')} cannot tell from chance"


def _limits(results: Results) -> str:
    flattered = [name for name in results.classifiers if chosen_on_test(results, name)]
    text = "This is one run with one seed: another seed may move each of these numbers."
    if any(row.seeds > 1 for row in results.classifiers.values()):
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


def headline(results: Results) -> str:
    """Returns the score that tells how good a classifier is over all classes: `all` or `mean_class`.

    `all` is a mean over test images. Where some classes have more of them than others, it says mostly how good the
    classifier is on those, so the mean over the classes takes its place.
    """
    return "all" if len({count for count in results.class_counts["test"] if count}) <= 1 else "mean_class"


def _scores(results: Results, key: str) -> dict[str, float]:
    """Returns {classifier: accuracy} for a group, `all` or `mean_class`; without classifiers that have no number."""
    pairs = {name: getattr(row, key) for name, row in results.classifiers.items()}
    return {name: score for name, score in pairs.items() if score is not None}


def _tested(results: Results, key: str) -> list[int]:
    """Returns the numbers of test images of the classes of a group, without classes that have none."""
    train, test = (np.asarray(results.class_counts[split]) for split in ("train", "test"))
    inside = test > 0
    if key in GROUPS:
        inside &= class_groups(train) == GROUPS.index(key)
    return test[inside].tolist()


def _chance(results: Results, key: str, first: float, second: float) -> float:
    """Returns the standard error, in percentage points, of the difference of two accuracies on a group's test images.

    The two accuracies are treated as independent. As they share their test images, the true error is mostly smaller, so
    fewer differences are called findings than could be. One hit and one miss are added (Agresti and Coull), because
    otherwise 0 % would count as certain.
    """
    tested = _tested(results, key)
    images = sum(tested)
    # `all` is a mean over images. Other accuracies are means over classes, in which an image of a class with few test
    # images weighs more.
    spread = 1 / images if key == "all" else sum(1 / count for count in tested) / len(tested) ** 2
    shares = [(score / 100 * images + 1) / (images + 2) for score in (first, second)]
    return 100 * math.sqrt(sum(share * (1 - share) for share in shares) * spread)


def _long(results: Results, name: str) -> str:
    return f"{long_name(name)} {DAGGER}" if chosen_on_test(results, name) else long_name(name)
