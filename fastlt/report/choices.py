"""Describes in words which hyperparameters were chosen for a classifier, on which split, and how."""

from __future__ import annotations

from typing import Any

from fastlt.experiment.results import Results
from fastlt.report.names import CRITERIA, label, number, split_name

DAGGER = "†"
DAGGER_NOTE = (
    "chosen on the test images themselves, so this row is flattering: do not compare it with results whose choices "
    "were made on val"
)
NOTHING_CHOSEN = (
    "Nothing is chosen by looking at accuracies (tau is 1 where none is given), and no temperature is fitted"
)
# Keys of `choices` that say how a choice was made. All other keys are the hyperparameters themselves.
_CHOICE_FACTS = {"chosen_on", "criterion", "accuracy", "interval", "bootstrap", "grid"}


def chosen_on(results: Results, name: str) -> str | None:
    """Returns the split on which a classifier's hyperparameters were chosen; None if they were set by the user."""
    choices = results.classifiers[name].choices
    searched = any(key in choices for key in ("criterion", "interval", "grid"))
    split = choices.get("chosen_on", results.choose_on if searched else None)
    return None if split is None else split_name(split)


def chosen_in_words(results: Results, name: str) -> str | None:
    """Returns `chosen_on` in words: with a dagger for test, and an explanation for train."""
    split = chosen_on(results, name)
    if split == "test":
        return f"test {DAGGER}"
    return "train, the images it was fitted to" if split == "train" else split


def chosen_on_test(results: Results, name: str) -> bool:
    """Returns whether hyperparameters of a classifier, or the checkpoint, were chosen on the test images."""
    return chosen_on(results, name) == "test" or results.checkpoint.chosen == "best epoch on test"


def marked(results: Results, name: str) -> str:
    """Returns a classifier's label, with a dagger if it was chosen on test."""
    return f"{label(name)} {DAGGER}" if chosen_on_test(results, name) else label(name)


def settings(choices: dict[str, Any]) -> str:
    """Returns the hyperparameters of a classifier in words, such as `epochs 10, lr 0.2`; "" if it has none."""
    return ", ".join(f"{key} {_plain(value)}" for key, value in choices.items() if key not in _CHOICE_FACTS)


def how_chosen(choices: dict[str, Any]) -> str:
    """Returns how a choice was made, such as `equally good from 0.69 to 0.74; by mean class accuracy, 48.1 %`."""
    parts = [_of_grid(choices), _interval(choices.get("interval")), _criterion(choices), _bootstrap(choices)]
    return "; ".join(part for part in parts if part)


def notes(results: Results, short: bool) -> list[str]:
    """Returns the lines below the table in the terminal.

    They say which classifiers could not be fitted, which hyperparameters were chosen, on which split and (unless
    `short`) how, and what the dagger means.
    """
    lines = not_fitted(results)
    for name, row in results.classifiers.items():
        split = chosen_in_words(results, name)
        if split is not None:
            choices = row.choices
            # `choices` has all hyperparameters; only those with several values in the grid were chosen.
            chosen = {key: choices[key] for key in _varied(choices) if key in choices} or choices
            found = "" if short else how_chosen(choices)
            lines.append(f"{label(name)}: {settings(chosen)}, chosen on {split}" + (f" ({found})." if found else "."))
    if results.choose_on == "none":
        lines.append(f"{NOTHING_CHOSEN}.")
    if any(chosen_on_test(results, name) for name in results.classifiers):
        lines.append(f"{DAGGER} {DAGGER_NOTE}.")
    return lines


def not_fitted(results: Results) -> list[str]:
    """Returns a sentence for each classifier that could not be fitted."""
    return [f"{label(name)} could not be fitted: {error}." for name, error in results.failed.items()]


def _varied(choices: dict[str, Any]) -> dict[str, list[str]]:
    """Returns {hyperparameter: its values in the grid} for those with more than one value."""
    grid = choices.get("grid") or []
    keys = dict.fromkeys(key for entry in grid for key in entry if key != "accuracy")
    values = {key: list(dict.fromkeys(_plain(entry.get(key)) for entry in grid)) for key in keys}
    return {key: several for key, several in values.items() if len(several) > 1}


def _of_grid(choices: dict[str, Any]) -> str:
    """Returns the chosen values and those they were chosen from, such as `lr 0.1 of 0.05, 0.1, 0.2`."""
    return "; ".join(
        key + (f" {_plain(choices[key])}" if key in choices else "") + f" of {', '.join(values)}"
        for key, values in _varied(choices).items()
    )


def _interval(interval: Any) -> str:
    if not isinstance(interval, list | tuple) or len(interval) != 2:
        return ""
    low, high = (number(end) for end in interval)
    if low is None:
        return "" if high is None else f"equally good up to {_plain(high)}"
    return f"equally good from {_plain(low)} " + ("up" if high is None else f"to {_plain(high)}")


def _criterion(choices: dict[str, Any]) -> str:
    if "criterion" not in choices:
        return ""
    accuracy = number(choices.get("accuracy"))
    reached = "" if accuracy is None else f", {accuracy:.1f} %"
    return f"by {CRITERIA.get(choices['criterion'], choices['criterion'])}{reached}"


def _bootstrap(choices: dict[str, Any]) -> str:
    bootstrap = choices.get("bootstrap") or {}
    error = f", that accuracy varies by {bootstrap['accuracy_se']:.1f}" if "accuracy_se" in bootstrap else ""
    if "tau" in bootstrap:
        low, _, high = bootstrap["tau"]
        interval = choices.get("interval")
        if isinstance(interval, list | tuple) and len(interval) == 2:
            first, last = (number(end) for end in interval)  # None: without an end on that side
            if (first is None or first <= low) and (last is None or high <= last):
                return f"9 of 10 bootstrap samples choose a tau that is equally good{error}"
        return f"9 of 10 bootstrap samples choose {low:.2f} to {high:.2f}{error}"
    if "same_choice" in bootstrap:
        return f"{bootstrap['same_choice']:.0f} % of bootstrap samples choose the same{error}"
    return ""


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_plain, value)) + "]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
