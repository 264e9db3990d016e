"""The end of report.md: how a run was made, and the command that repeats it."""

from __future__ import annotations

import shlex
from typing import Any

from fastlt.groups import GROUPS
from fastlt.log import duration
from fastlt.report.names import PAPER, escaped, label, number

# Keys of training that results.json holds under their own names, and the values they have when nobody sets them.
_UNSET = {"mode": "features", "bn": "frozen", "views": 0, "feature_dtype": "float32"}


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
    for key in ("backbone", "sampler", "protocol", "seed", "epochs", "image_size"):
        if results.get(key) is not None:
            words.append(f"{key}={results[key]}")
    if results.get("drawing", "quota") != "quota":
        words.append(f"sampler.drawing={results['drawing']}")
    if results.get("precision") == "fp32" and _on_cpu(results):  # where auto may take bf16
        words.append("precision=fp32")
    names = list(results["classifiers"])
    if set(names) != set(PAPER):
        words.append(f"classifiers=[{','.join(names)}]")
    # In quotes where needed: some shells read [ ] as a pattern.
    return " ".join(["python -m fastlt.train", *map(shlex.quote, [*words, *changes(results)])])


def changes(results: dict[str, Any]) -> list[str]:
    """key=value of what was given besides backbone, sampler, protocol, seed, epochs, image size and classifiers."""
    words = [f"hold_out={results['hold_out']:g}"] if results.get("hold_out") else []
    # What training takes when it is not told: held-out images, else val, else train.
    untold = "held_out" if results.get("hold_out") else "val" if "val" in results["class_counts"] else "train"
    if results.get("choose_on", untold) != untold:
        words.append(f"choose_on={results['choose_on']}")
    words += [f"{key}={results[key]}" for key, unset in _UNSET.items() if results.get(key, unset) != unset]
    usual = "fp32" if _on_cpu(results) else "bf16"
    if results.get("precision", usual) != usual:
        words.append(f"precision={results['precision']}")
    words += [f"stage2.{key}={_value(value)}" for key, value in (results.get("stage2") or {}).items()]
    told = (results.get("departures") or {}).items()
    words += [f"{key}={_value(used)}" for key, (_, used) in told if key.startswith(("protocol.", "accumulate"))]
    return words + (results.get("overrides") or [])


def _on_cpu(results: dict[str, Any]) -> bool:
    return str(results.get("device")).startswith("cpu")


def _value(value: Any) -> str:
    """A value as Hydra reads it."""
    if isinstance(value, list):
        return f"[{','.join(map(_value, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_value(one)}" for key, one in value.items()) + "}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


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
