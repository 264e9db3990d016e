"""The end of report.md: how a run was made, and the command that repeats it."""

from __future__ import annotations

import shlex
from typing import Any

from fastlt.core.groups import GROUPS
from fastlt.core.log import duration
from fastlt.report.departures import departures
from fastlt.report.names import PAPER, escaped, label, number

_TOLD = ("backbone", "sampler", "protocol", "seed", "epochs", "image_size", "precision")  # in fields of results.json


def how_it_was_run(results: dict[str, Any]) -> str:
    """The facts of the run as a table, and its command."""
    counts = results["class_counts"]
    images = ", ".join(f"{sum(counts[split]):,} {split}" for split in ("train", "val", "test") if split in counts)
    facts = {
        "dataset": escaped(results["dataset"]) + ("" if "val" in counts else " (no val split)"),
        "dataset digest": _code(results.get("dataset_digest")),
        "images": images,
        "held out of train": f"{100 * results['hold_out']:g} %" if results.get("hold_out") else "",
        "classes": f"{len(counts['train']):,}: " + ", ".join(f"{results['groups'][g]:,} {g}" for g in GROUPS),
        "backbone": escaped(results["backbone"]) + _brackets(results.get("parameters"), "{:,} parameters"),
        "image size": _optional(results.get("image_size"), "{} px"),
        "sampler": escaped(results["sampler"]) + _brackets(results.get("drawing"), "{} drawing"),
        "protocol": _optional(results.get("protocol"), "{}"),
        "departs from it": escaped("; ".join(one.words for one in departures(results) if one.key != "backbone")),
        "epochs": _optional(results.get("epochs"), "{}"),
        "seed": str(results["seed"]),
        "precision": _optional(results.get("precision"), "{}"),
        "checkpoint": _checkpoint(results.get("checkpoint")),
        "representation": _code(results.get("key")),
        "stage 1": _speed(results),
        "stage 2": _fitting(results),
        "device": _optional(results.get("device"), "{}"),
        "versions": ", ".join(f"{escaped(k)} {escaped(v)}" for k, v in (results.get("versions") or {}).items()),
    }
    lines = ["## How this was run", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in facts.items() if value]
    lines += ["", "Run it again with", "", "```", command(results), "```"]
    if results["dataset"] != "shapes":
        lines += ["", "where DIR is the converted dataset."]
    return "\n".join(lines)


def command(results: dict[str, Any]) -> str:
    """The command line that repeats the run; DIR stands for a data set that lies on somebody's disk."""
    words = [] if results["dataset"] == "shapes" else ["data=DIR"]
    for key in _TOLD:
        if results.get(key) is not None:
            words.append(f"{key}={results[key]}")
    names = list(results["classifiers"])
    if set(names) != set(PAPER):
        words.append(f"classifiers=[{','.join(names)}]")
    given = [one.given for one in departures(results) if one.key not in _TOLD]
    # In quotes where needed: some shells read [ ] as a pattern.
    return " ".join(["python -m fastlt.train", *map(shlex.quote, [*words, *given])])


def _fitting(results: dict[str, Any]) -> str:
    """Time that each classifier took; below a second with a decimal, for features are fitted to fast."""
    times = {name: number(row.get("seconds")) for name, row in results["classifiers"].items()}
    told = [
        f"{escaped(label(name))} {f'{seconds:.1f}s' if seconds < 9.95 else duration(seconds)}"
        for name, seconds in times.items()
        if seconds is not None
    ]
    return "; ".join(told)


def _checkpoint(checkpoint: dict[str, Any] | None) -> str:
    if not checkpoint or "epoch" not in checkpoint:
        return ""
    return f"epoch {checkpoint['epoch']}" + _brackets(checkpoint.get("chosen"), "{}")


def _speed(results: dict[str, Any]) -> str:
    seconds, rate = number(results.get("seconds")), number(results.get("images_per_second"))
    parts = [] if seconds is None else [duration(seconds)]
    return ", ".join(parts + ([] if rate is None else [f"{rate:,.0f} training images per second"]))


def _optional(value: Any, form: str) -> str:
    return "" if value is None else escaped(form.format(value))


def _brackets(value: Any, form: str) -> str:
    return "" if value is None else f" ({escaped(form.format(value))})"


def _code(value: Any) -> str:
    return "" if value is None else f"`{escaped(value)}`"
