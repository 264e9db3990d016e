"""Writes the end of report.md: how the run was made, and the command that repeats it."""

from __future__ import annotations

import shlex
from typing import Any

from fastlt.core.groups import GROUPS
from fastlt.core.log import duration, printed, speed
from fastlt.experiment.embedded import SHAPES_DIGEST
from fastlt.experiment.results import FROZEN, GIVEN, Results
from fastlt.report.departures import departures
from fastlt.report.names import PAPER, escaped, label

_TOLD = ("backbone", "sampler", "protocol", "seed", "epochs", "image_size", "precision")  # keys in results.json


def how_it_was_run(results: Results) -> str:
    """Returns Markdown with a table of facts about the run, and its command."""
    counts = results.class_counts
    given = results.backbone == GIVEN
    rows = ", ".join(f"{sum(counts[split]):,} {split}" for split in ("train", "val", "test") if split in counts)
    facts = {
        "dataset": escaped(results.dataset) + ("" if "val" in counts else " (no val split)"),
        "dataset digest": _code(results.dataset_digest),
        "rows" if given else "images": rows,
        "held out of train": f"{100 * results.hold_out:g} %" if results.hold_out else "",
        "classes": f"{len(counts['train']):,}: " + ", ".join(f"{results.groups[g]:,} {g}" for g in GROUPS),
        "backbone": "" if given else escaped(results.backbone) + _brackets(results.parameters, "{:,} parameters"),
        "image size": _optional(results.image_size, "{} px"),
        "sampler": escaped(results.sampler) + _brackets(results.drawing, "{} drawing"),
        "protocol": _optional(results.protocol, "{}"),
        "departs from it": escaped("; ".join(one.words for one in departures(results) if one.key != "backbone")),
        "epochs": _optional(results.epochs, "{}"),
        "seed": str(results.seed),
        "precision": _optional(results.precision, "{}"),
        "checkpoint": f"epoch {results.checkpoint.epoch}" + _brackets(results.checkpoint.chosen, "{}"),
        "representation": _code(results.key),
        "stage 1": _speed(results),
        "stage 2": _fitting(results),
        "device": _optional(results.device, "{}"),
        "versions": ", ".join(f"{escaped(k)} {escaped(v)}" for k, v in results.versions.items()),
    }
    lines = ["## How this was run", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in facts.items() if value]
    again = command(results)
    lines += ["", "Run it again with", "", "```", printed(again), "```"]
    if results.backbone == GIVEN:
        lines += ["", "where FILE holds the features."]
    elif " data=DIR " in again:
        lines += ["", "where DIR is the converted dataset."]
    return "\n".join(lines)


def command(results: Results) -> str:
    """Returns the command line that repeats the run.

    It says features=FILE for features that were given, and data=DIR unless the dataset is the embedded one. A protocol
    that epochs=0 brings is not named: sizes that suit the number of images come with it only where it is not.
    """
    features = results.backbone == GIVEN
    words = ["features=FILE"] if features else [] if results.dataset_digest == SHAPES_DIGEST else ["data=DIR"]
    usual = ("sampler", "seed") if results.protocol == GIVEN else ("sampler", "protocol", "seed")
    for key in usual if features else _TOLD:
        brought = key == "protocol" and (results.protocol, results.epochs) == (FROZEN, 0)
        if (value := getattr(results, key)) is not None and not brought:
            words.append(f"{key}={value}")
    start, _, path = results.checkpoint.chosen.partition("given: ")
    if path and not start:
        words.append(f"representation={path}")
    names = list(results.classifiers)
    if set(names) != set(PAPER):
        words.append(f"classifiers=[{','.join(names)}]")
    given = [one.given for one in departures(results) if one.key not in _TOLD]
    # Quoted where needed, because some shells take [ ] as a pattern.
    return " ".join(["python -m fastlt.train", *map(shlex.quote, [*words, *given])])


def _fitting(results: Results) -> str:
    """Returns the time that each classifier took. Short times have a decimal, as classifiers of features are fast."""
    times = {name: row.seconds for name, row in results.classifiers.items()}
    told = [
        f"{escaped(label(name))} {f'{seconds:.1f}s' if seconds < 9.95 else duration(seconds)}"
        for name, seconds in times.items()
        if seconds is not None
    ]
    return "; ".join(told)


def _speed(results: Results) -> str:
    seconds, rate = results.seconds, results.images_per_second
    parts = [] if seconds is None else [duration(seconds)]
    unit = "training rows" if results.backbone == GIVEN else "training images"
    where = [] if results.trained_on in (None, results.device) else [f"on {escaped(str(results.trained_on))}"]
    return ", ".join(parts + ([] if rate is None else [speed(rate, unit)]) + where)


def _optional(value: Any, form: str) -> str:
    return "" if value is None else escaped(form.format(value))


def _brackets(value: Any, form: str) -> str:
    return "" if value is None else f" ({escaped(form.format(value))})"


def _code(value: Any) -> str:
    return "" if value is None else f"`{escaped(value)}`"
