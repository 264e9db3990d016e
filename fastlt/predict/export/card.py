"""Describes an exported classifier, as a model card for people and as facts for programs."""

from typing import Any

from fastlt.core.words import counted
from fastlt.experiment.results import Evaluation, Results
from fastlt.report.names import escaped

GROUPS = {"all": "all images", "many": "many (more than 100 training images)"}
GROUPS |= {"medium": "medium (20 to 100)", "few": "few (below 20)"}


def about(results: Results, name: str) -> dict[str, Any]:
    """Returns the facts about an exported classifier for programs: classes, preprocessing, results, choices."""
    row, seen, size = results.classifiers[name], results.evaluation, results.image_size
    preprocessing = {}
    if seen is not None and size is not None:  # a run on features of another network has seen no images
        preprocessing = {
            "image_size": size,
            "resized_to": round(size / seen.crop_pct),
            "interpolation": seen.interpolation,
            "mean": seen.mean,
            "std": seen.std,
            "before": _before(seen),
        }
    return {
        "classifier": name,
        "class_names": results.class_names,
        "train_images": results.class_counts["train"],
        **preprocessing,
        "dataset": results.dataset,
        "backbone": results.backbone,
        "test_accuracy": {group: getattr(row, group) for group in GROUPS},
        "ece": row.calibrated.ece if row.calibrated else row.ece,
        "choices": row.choices,
        "chosen_on": results.choose_on,
        "key": row.key,
    }


def _before(seen: Evaluation) -> list[str]:
    """Returns, in words, what the conversion did to images, in its order; an exported network does none of that."""
    steps = {
        f"put transparent pixels on {seen.background}": seen.background,
        f"scale a short side of more than {seen.max_short_side} pixels down to that": seen.max_short_side,
        "turn it upright by its EXIF orientation (PIL.ImageOps.exif_transpose)": seen.orientation == "apply",
        f"save it as JPEG of quality {seen.quality} and open that": seen.kind == "jpeg",
    }
    return [step for step, done in steps.items() if done]


def card(results: Results, name: str, use: str, tags: tuple[str, ...] = ()) -> str:
    """Returns a model card in Markdown, with the front matter of the Hugging Face Hub.

    use: code that shows how to use the file. tags: further tags for the front matter.
    """
    facts = about(results, name)
    row, train, steps = results.classifiers[name], results.class_counts["train"], facts["before"]
    front = ["---", "tags:", *(f"- {tag}" for tag in ("image-classification", "long-tail", *tags)), "---"]
    table = ["| test images of | accuracy in % |", "|---|---:|"]
    table += [
        f"| {words} | {'' if (value := getattr(row, group)) is None else f'{value:.1f}'} |"
        for group, words in GROUPS.items()
    ]
    first = f"First do to each image what was done to those of training: {'; '.join(steps)}. " if steps else ""
    seen = (
        f"{first}"
        f"Images are resized to a short side of {facts['resized_to']} pixels ({facts['interpolation']}, Pillow's), "
        f"their central {results.image_size} x {results.image_size} pixels are taken, divided by 255 and normalized "
        f"by mean {_plain(facts['mean'])} and standard deviation {_plain(facts['std'])} of RGB. Values of 16-bit grey "
        'images are divided by 257 before; Pillow\'s convert("RGB") would cut them off at 255.'
    )
    calibrated = (
        f" Expected calibration error of the confidences: {facts['ece']:.1f} %." if facts["ece"] is not None else ""
    )
    text = [
        *front,
        "",
        f"# {escaped(results.dataset)}, {escaped(results.backbone)}, {escaped(name)}",
        "",
        f"A classifier of {counted(len(train), 'class')} for long-tailed data "
        f"({counted(sum(train), 'training image')}, from "
        f"{max(train):,} in the largest class to {min(train):,} in the smallest), trained with fastlt by decoupling "
        "representation and classifier (Kang et al., ICLR 2020). What the method does to weights and biases, and the "
        "temperature of the confidences, is folded into the last layer: softmax of the logits gives the confidences.",
        "",
        "## Results",
        "",
        *table,
        "",
        f"Settings were chosen on: {escaped(results.choose_on)}.{calibrated}",
        "",
        "## Images",
        "",
        seen,
        "",
        "## Use",
        "",
        "```python",
        use.rstrip(),
        "```",
        "",
        "## Classes",
        "",
        "| number | name | training images |",
        "|---:|---|---:|",
        *(
            f"| {place} | {escaped(one)} | {count} |"
            for place, (one, count) in enumerate(zip(results.class_names, train, strict=True))
        ),
    ]
    return "\n".join(text) + "\n"


def _plain(values: list[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
