"""report.md: what was trained, what was found, what was chosen where, and how to run it again."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fastlt.groups import FEW, GROUPS, MANY, class_groups
from fastlt.log import duration
from fastlt.report.figures import block_size
from fastlt.report.table import (
    DAGGER,
    DAGGER_NOTE,
    LABELS,
    SAMPLERS,
    cells,
    chosen_on,
    chosen_on_test,
    columns,
    how_chosen,
    label,
    marked,
    number,
    settings,
    split_name,
)

LONG_NAMES = {
    "joint": "the joint classifier",
    "ncm_l2": "the nearest class mean (L2)",
    "ncm_cosine": "the nearest class mean (cosine)",
    "crt": "classifier re-training (cRT)",
    "tau_norm": "tau-normalization",
    "lws": "learnable weight scaling (LWS)",
}
SAME = 0.05  # points; less does not show in one decimal
SCOPES = {
    "many": f"the many-shot classes (more than {MANY} training images)",
    "medium": f"the medium-shot classes ({FEW} to {MANY} training images)",
    "few": f"the few-shot classes (fewer than {FEW} training images)",
    "all": "all test images",
}


def page(results: dict[str, Any], drawn: list[str]) -> str:
    """The text of report.md for the results and the names of the figures that were drawn."""
    title = f"# {_text(results['dataset'])}: {_text(results['backbone'])}, {_sampling(results)}, seed {results['seed']}"
    parts = [title, summary(results), _table(results), _choices(results), _figures(results, drawn), _how(results)]
    return "\n\n".join(parts) + "\n"


def summary(results: dict[str, Any]) -> str:
    """One paragraph in plain words; every judgement in it follows from the numbers."""
    return " ".join([_trained(results), *_found(results), _limits(results)])


def _trained(results: dict[str, Any]) -> str:
    train, test = results["class_counts"]["train"], results["class_counts"]["test"]
    epochs = f" for {results['epochs']} epochs" if "epochs" in results else ""
    rows = len(results["classifiers"])
    return (
        f"{_text(results['backbone'])} was trained on {_text(results['dataset'])} ({len(train):,} classes, "
        f"{sum(train):,} training images, from {max(train):,} in the largest class to {min(train):,} in the smallest) "
        f"with {_sampling(results)}{epochs}; {rows} {'classifier' if rows == 1 else 'classifiers'} on its features "
        f"{'is' if rows == 1 else 'are'} measured on {sum(test):,} test images."
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
    if flattered:
        names = ", ".join(_text(label(name)) for name in flattered)
        text += (
            f" {DAGGER} The settings of {names} were chosen on the test images themselves, so their numbers are "
            "flattering and must not be compared with results whose choices were made on val."
        )
    return text


def _table(results: dict[str, Any]) -> str:
    names = list(results["classifiers"])
    heads = columns(results)
    body = [cells(results, column) for column in heads]
    lines = ["| classifier | " + " | ".join(column.heading for column in heads) + " |"]
    lines.append("|---|" + "---:|" * len(heads))
    for row, name in enumerate(names):
        texts = [f"**{column[row].text}**" if column[row].best else column[row].text for column in body]
        lines.append(f"| {_text(marked(results, name))} | " + " | ".join(texts) + " |")
    bold = "; the best of a column is bold" if any(cell.best for column in body for cell in column) else ""
    about = (
        "Accuracy on test in %, in brackets the number of classes. many, medium, few: mean of the accuracies of their "
        "classes; all: over all test images; ECE: expected calibration error in %, lower is better"
    )
    if any(column.key == "mean_class" for column in heads):
        about += "; mean class: mean of the accuracies of all classes"
    lines += ["", f"{about}{bold}."]
    if any(chosen_on_test(results, name) for name in names):
        lines += ["", f"{DAGGER} {DAGGER_NOTE}."]
    return "\n".join(["## Results", "", *lines])


def _choices(results: dict[str, Any]) -> str:
    lines = ["## Choices", ""]
    if "choose_on" in results:
        text = f"What is chosen by looking at accuracies is chosen on **{_text(split_name(results['choose_on']))}**"
        seen = ", the images that the classifiers were fitted to" if results["choose_on"] == "train" else ""
        lines += [f"{text}{seen}.", ""]
    lines += ["| what | setting | chosen on | how |", "|---|---|---|---|"]
    checkpoint = results.get("checkpoint") or {}
    if "epoch" in checkpoint:
        of = f" of {results['epochs']}" if "epochs" in results else ""
        lines.append(f"| checkpoint | epoch {checkpoint['epoch']}{of} | | {_text(checkpoint.get('chosen', ''))} |")
    for name, row in results["classifiers"].items():
        choices = row.get("choices") or {}
        if choices:
            split = chosen_on(results, name)
            split = "not chosen, set" if split is None else f"{split} {DAGGER}" if split == "test" else split
            cell = [marked(results, name), settings(choices), split, how_chosen(choices)]
            lines.append("| " + " | ".join(map(_text, cell)) + " |")
    return "\n".join(lines)


def _figures(results: dict[str, Any], drawn: list[str]) -> str:
    parts = ["## Figures"]
    for name in drawn:
        alt, caption = (text.replace("\n", " ") for text in _CAPTIONS[name](results))
        alt = alt.replace("[", "(").replace("]", ")")
        parts.append(f"[![{alt}](figures/{name}.png)](figures/{name}.svg)\n\n*{caption}*")
    return "\n\n".join(parts)


def _accuracy_caption(results: dict[str, Any]) -> tuple[str, str]:
    names = ", ".join(_text(label(name)) for name in results["classifiers"])
    caption = "Accuracy on test of every classifier on every group"
    caption += "; the dashed line is joint." if "joint" in results["classifiers"] else "."
    return f"Bars: accuracy on many, medium, few and all classes for {names}; the table holds the numbers.", caption


def _tau_caption(results: dict[str, Any]) -> tuple[str, str]:
    choices = results["classifiers"]["tau_norm"].get("choices", {})
    tau = number(choices.get("tau"))
    at = "" if tau is None else f", with a line at the chosen tau {tau:.3g}"
    caption = "Accuracy of tau-normalization on test over tau: a larger tau favours rare classes"
    if tau is not None:
        caption += "; the line is the chosen tau, the grey band holds all equally good ones"
    return f"Lines: accuracy on many, medium, few and all classes over tau{at}.", f"{caption}."


def _norms_caption(results: dict[str, Any]) -> tuple[str, str]:
    names = [label(name) for name, row in results["classifiers"].items() if "weight_norms" in row]
    block = block_size(len(results["class_counts"]["train"]))
    each = f", averaged over {block} neighbouring classes" if block > 1 else ""
    caption = f"Norm of each class's weight vector divided by the mean norm of its classifier{each}."
    return f"Lines: relative weight norms of {_text(', '.join(names))} over classes sorted by training images.", caption


def _counts_caption(results: dict[str, Any]) -> tuple[str, str]:
    train = results["class_counts"]["train"]
    groups = ", ".join(f"{results['groups'][group]} {group}" for group in GROUPS)
    alt = f"Training images of each class, sorted, falling from {max(train):,} to {min(train):,}; {groups} classes."
    return alt, "Training images of each class on a log scale, most frequent class first."


def _sampling_caption(results: dict[str, Any]) -> tuple[str, str]:
    law = _text(results["sampler"])
    alt = "Lines: probability of each class under instance, class, sqrt and progressive sampling, classes sorted."
    caption = (
        "Probability that a draw is of a given class: the three fixed laws above, and below the progressive law, which "
        f"goes from instance at t/T = 0 to class at t/T = 1; this run used {law}."
    )
    return alt, caption


_CAPTIONS: dict[str, Callable[[dict[str, Any]], tuple[str, str]]] = {
    "accuracy_by_group": _accuracy_caption,
    "accuracy_over_tau": _tau_caption,
    "weight_norms": _norms_caption,
    "class_counts": _counts_caption,
    "sampling_weights": _sampling_caption,
}


def _how(results: dict[str, Any]) -> str:
    counts = results["class_counts"]
    images = ", ".join(f"{sum(counts[split]):,} {split}" for split in ("train", "val", "test") if split in counts)
    facts = {
        "dataset": _text(results["dataset"]) + ("" if "val" in counts else " (no val split)"),
        "dataset digest": _code(results.get("dataset_digest")),
        "images": images,
        "held out of train": f"{100 * results['hold_out']:g} %" if results.get("hold_out") else "",
        "classes": f"{len(counts['train']):,}: " + ", ".join(f"{results['groups'][g]:,} {g}" for g in GROUPS),
        "backbone": _text(results["backbone"]) + _brackets(results.get("parameters"), "{:,} parameters"),
        "image size": _optional(results.get("image_size"), "{} px"),
        "sampler": _text(results["sampler"]) + _brackets(results.get("drawing"), "{} drawing"),
        "protocol": _optional(results.get("protocol"), "{}"),
        "epochs": _optional(results.get("epochs"), "{}"),
        "seed": str(results["seed"]),
        "checkpoint": _checkpoint(results.get("checkpoint")),
        "representation": _code(results.get("key")),
        "stage 1": _speed(results),
        "device": _optional(results.get("device"), "{}"),
        "versions": ", ".join(f"{_text(k)} {_text(v)}" for k, v in (results.get("versions") or {}).items()),
    }
    lines = ["## How this was run", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in facts.items() if value]
    lines += ["", "Run it again with", "", "```", command(results), "```"]
    if results["dataset"] != "shapes":
        lines += ["", "where DIR is the converted dataset."]
    lines += ["", "results.json also holds the accuracy of every class."]
    return "\n".join(lines)


def command(results: dict[str, Any]) -> str:
    """The command line that repeats the run; DIR stands for a data set that lies on somebody's disk."""
    words = ["python -m fastlt.train"]
    if results["dataset"] != "shapes":
        words.append("data=DIR")
    for key in ("backbone", "sampler", "protocol", "seed", "epochs", "image_size"):
        if results.get(key) is not None:
            words.append(f"{key}={results[key]}")
    if results.get("drawing", "quota") != "quota":
        words.append(f"sampler.drawing={results['drawing']}")
    if results.get("hold_out"):
        words.append(f"hold_out={results['hold_out']:g}")
    # What training takes when it is not told: held-out images, else val, else train.
    untold = "held_out" if results.get("hold_out") else "val" if "val" in results["class_counts"] else "train"
    if results.get("choose_on", untold) != untold:
        words.append(f"choose_on={results['choose_on']}")
    names = list(results["classifiers"])
    if set(names) != set(LABELS):
        words.append(f"'classifiers=[{','.join(names)}]'")  # in quotes, because some shells read [ ] as a pattern
    return " ".join(words)


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
    long = LONG_NAMES.get(name, _text(name))
    return f"{long} {DAGGER}" if chosen_on_test(results, name) else long


def _sampling(results: dict[str, Any]) -> str:
    return SAMPLERS.get(results["sampler"], f"{_text(results['sampler'])} sampling")


def _checkpoint(checkpoint: dict[str, Any] | None) -> str:
    if not checkpoint or "epoch" not in checkpoint:
        return ""
    return f"epoch {checkpoint['epoch']}" + _brackets(checkpoint.get("chosen"), "{}")


def _speed(results: dict[str, Any]) -> str:
    seconds, rate = number(results.get("seconds")), number(results.get("images_per_second"))
    parts = [] if seconds is None else [duration(seconds)]
    return ", ".join(parts + ([] if rate is None else [f"{rate:,.0f} training images per second"]))


def _optional(value: Any, form: str) -> str:
    return "" if value is None else _text(form.format(value))


def _brackets(value: Any, form: str) -> str:
    return "" if value is None else f" ({_text(form.format(value))})"


def _code(value: Any) -> str:
    return "" if value is None else f"`{_text(value)}`"


def _text(value: Any) -> str:
    """A name from outside as one line of Markdown that cannot break a table or start markup of its own."""
    text = " ".join(str(value).split()).replace("\\", "\\\\")
    for mark in "|*`<[":
        text = text.replace(mark, f"\\{mark}")
    return text
