"""Writes the text of report.md: results, choices, further measurements, and how to repeat the run."""

from __future__ import annotations

from fastlt.experiment.results import Results
from fastlt.report.calibration import calibration_table, fitted_on
from fastlt.report.captions import figure
from fastlt.report.choices import (
    DAGGER,
    DAGGER_NOTE,
    NOTHING_CHOSEN,
    chosen_in_words,
    chosen_on_test,
    how_chosen,
    marked,
    not_fitted,
    settings,
)
from fastlt.report.confusion import most_confused
from fastlt.report.figures import OVER_TAU
from fastlt.report.names import escaped, label, long_name, sampling, split_name
from fastlt.report.repeat import how_it_was_run
from fastlt.report.shifted import shifted_table
from fastlt.report.summary import summary
from fastlt.report.table import SPREAD, cells, columns, seeds_note

# Figures that belong to a section; all others follow at the end.
_PLACED = ("accuracy_by_group", "decision_regions", "shifted_priors", "reliability")


# How the images on which hyperparameters are chosen are related to the training images.
_SEEN = {
    "train": ", the images that the classifiers were fitted to",
    "folds": ": by classifiers that were trained on the other four{backbone}; no temperature is fitted",
}


def page(results: Results, drawn: list[str]) -> str:
    """Returns the text of report.md. drawn: the names of the figures that were drawn."""
    representation = f"{escaped(results.backbone)}, {escaped(sampling(results))}, seed {results.seed}"
    parts = [f"# {escaped(results.dataset)}: {representation}", summary(results), _table(results)]
    parts += [*_drawn(results, drawn, "accuracy_by_group"), *_drawn(results, drawn, "decision_regions")]
    parts += [_choices(results)]
    parts += [figure(results, name) for name in drawn if name.startswith(OVER_TAU)]
    parts += [_shifted(results), *_drawn(results, drawn, "shifted_priors")]
    parts += [_calibration(results, drawn), *_drawn(results, drawn, "reliability"), _confused(results)]
    others = [name for name in drawn if name not in _PLACED and not name.startswith(OVER_TAU)]
    parts += ["## Classes" if others else "", *(figure(results, name) for name in others)]
    parts += ["[per_class.csv](per_class.csv) holds the accuracy of every classifier on every class."]
    return "\n\n".join(part for part in [*parts, how_it_was_run(results)] if part) + "\n"


def _drawn(results: Results, drawn: list[str], name: str) -> list[str]:
    return [figure(results, name)] if name in drawn else []


def _table(results: Results) -> str:
    names = list(results.classifiers)
    heads = columns(results)
    body = [cells(results, column) for column in heads]
    lines = ["| classifier | " + " | ".join(column.heading for column in heads) + " |"]
    lines.append("|---|" + "---:|" * len(heads))
    for row, name in enumerate(names):
        found = [column[row] for column in body]
        texts = [(f"**{cell.text}**" if cell.best else cell.text) + f" {cell.spread}".rstrip() for cell in found]
        lines.append(f"| {escaped(marked(results, name))} | " + " | ".join(texts) + " |")
    lines += [f"| {escaped(label(name))} |" + " - |" * len(heads) for name in results.failed]
    bold = "; the best of a column is bold" if any(cell.best for column in body for cell in column) else ""
    about = (
        "Accuracy on test in %, in brackets the number of classes. many, medium, few: mean of the accuracies of their "
        "classes; all: over all test images; ECE: expected calibration error in %, lower is better"
    )
    if any(column.key == "mean_class" for column in heads):
        about += "; mean class: mean of the accuracies of all classes"
    if any(column.key == "macro_f1" for column in heads):
        about += "; F1: mean over the classes of 2 TP / (2 TP + FP + FN) in %"
    if seeds := seeds_note(results):
        about += f"; {', '.join(SPREAD)}: {escaped(seeds)}"
    keys = ", ".join(f"`{name}`" for name in names)
    lines += ["", f"{about}{bold}. `classifiers=` and `--classifier` call them {keys}."]
    lines += [line for failed in not_fitted(results) for line in ("", escaped(failed))]
    if any(chosen_on_test(results, name) for name in names):
        lines += ["", f"{DAGGER} {DAGGER_NOTE}."]
    return "\n".join(["## Results", "", *lines])


def _choices(results: Results) -> str:
    lines = ["## Choices", ""]
    if results.choose_on == "none":
        lines += [f"{NOTHING_CHOSEN}.{'' if 'val' in results.class_counts else ' There is no val split.'}", ""]
    else:
        text = f"What is chosen by looking at accuracies is chosen on **{escaped(split_name(results.choose_on))}**"
        trained = "" if results.epochs == 0 else ", on features of a backbone that was trained on all"
        seen = _SEEN.get(results.choose_on, "").replace("{backbone}", trained)
        lines += [f"{text}{seen}.", ""]
    lines += ["| what | setting | chosen on | how |", "|---|---|---|---|"]
    of = f" of {results.epochs}" if results.epochs is not None else ""
    lines.append(f"| checkpoint | epoch {results.checkpoint.epoch}{of} | | {escaped(results.checkpoint.chosen)} |")
    for name, row in results.classifiers.items():
        if row.choices:
            split = chosen_in_words(results, name) or "not chosen, set"
            cell = [marked(results, name), settings(row.choices), split, how_chosen(row.choices)]
            lines.append("| " + " | ".join(map(escaped, cell)) + " |")
    return "\n".join(lines)


def _shifted(results: Results) -> str:
    table = shifted_table(results)
    if not table:
        return ""
    about = (
        "Accuracy in % on test sets with long-tailed class priors, exact from the accuracies of the classes. "
        "forward N: classes frequent in training are frequent in test, the first N times as frequent as the last; "
        "backward N: the other way round."
    )
    return f"## Other priors in test\n\n{table}\n\n{about}"


def _calibration(results: Results, drawn: list[str]) -> str:
    table = calibration_table(results)
    if not table:
        return "## Calibration" if "reliability" in drawn else ""
    where = f",{fitted}" if (fitted := fitted_on(results)) else ""
    about = (
        f"ECE in %; the temperature T of softmax(scores / T) is one number for each classifier{where}. It changes "
        "confidences, not predictions."
    )
    if results.temperature_on == "test":
        about += f"\n\n{DAGGER} fitted to the test images themselves, so the ECE with temperature is flattering."
    return f"## Calibration\n\n{table}\n\n{about}"


def _confused(results: Results) -> str:
    name, table = most_confused(results)
    if not table:
        return ""
    seeds = results.classifiers[name].seeds
    several = f", all {seeds} seeds together" if seeds > 1 else ""
    about = f"The most frequent errors of {long_name(name)} on test{several}; it has the highest mean class accuracy."
    return f"## Most confused\n\n{table}\n\n{about}"
