"""Class names and class indices of sources whose samples have labels as text or as numbers."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from fastlt.core.errors import UserError
from fastlt.core.log import say
from fastlt.core.text import is_one_line
from fastlt.core.words import counted
from fastlt.data.sources.classes import check_names, sorted_names, spelled, without_training
from fastlt.data.sources.listed import shown


def numbered(
    labels: Mapping[str, Sequence[str]], where: Callable[[str, int], str], source: str
) -> tuple[list[str], dict[str, np.ndarray]]:
    """Returns (class names, {split: class indices int64 [N]}) for labels that are names or numbers written as text.

    labels: {split: label of every sample}. where: a function from (split, sample) to the text that names a sample in a
    message. source: names the source in a message.

    Class indices follow the sorted names. If all names are numbers they are sorted by value, and `1.0` is `1`. Raises
    UserError for a label that is empty or has control characters, and for a class that has no training image.
    """
    found: dict[str, np.ndarray] = {}
    texts: dict[str, list[str]] = {}
    for split, own in labels.items():
        unique, found[split] = np.unique(np.array(own, dtype=np.object_), return_inverse=True)
        texts[split] = [text.strip() for text in unique.tolist()]
        for number, text in enumerate(texts[split]):
            if not text or not is_one_line(text):
                problem = f"the label {shown(text)} holds a control character" if text else "the label is empty"
                raise UserError(f"{where(split, int((found[split] == number).argmax()))}: {problem}")
    try:
        names = spelled({text for own in texts.values() for text in own})
    except UserError as problem:
        raise UserError(f"{source}: {problem}") from None
    class_names = sorted_names(names[text] for text in texts["train"])
    check_names(class_names, source)
    place = {name: number for number, name in enumerate(class_names)}
    numbers = {}
    for split, own in texts.items():
        if lost := [number for number, text in enumerate(own) if names[text] not in place]:
            first = where(split, int((found[split] == lost[0]).argmax()))
            raise _without_training(first, [own[number] for number in lost])
        numbers[split] = np.array([place[names[text]] for text in own], np.int64)[found[split]]
    return class_names, numbers


def named(
    labels: Mapping[str, np.ndarray], names: list[str], where: Callable[[str, int], str], source: str
) -> tuple[list[str], dict[str, np.ndarray]]:
    """Returns the same as `numbered` for labels int64 [N] that are positions in `names`.

    Names that no image has are left out, which a line says. Raises UserError for a number that is no position.
    """
    for split, own in labels.items():
        wrong = np.flatnonzero((own < 0) | (own >= len(names)))
        if len(wrong):
            value = int(own[wrong[0]])
            hint = "; -1 often means that labels are withheld: leave such a split out" if value == -1 else ""
            raise UserError(
                f"{where(split, int(wrong[0]))}: label {value} has no name, names are there for 0 to {len(names) - 1}"
                f"{hint}"
            )
    counts = {split: np.bincount(own, minlength=len(names)) for split, own in labels.items()}
    for split, own in labels.items():
        missing = np.flatnonzero((counts[split] > 0) & (counts["train"] == 0))
        if len(missing):
            first = where(split, int((own == missing[0]).argmax()))
            raise _without_training(first, [names[number] for number in missing.tolist()])
    used = np.flatnonzero(counts["train"])
    if len(used) < len(names):
        first = names[int(np.flatnonzero(counts["train"] == 0)[0])]
        say(f"note: {counted(len(names) - len(used), 'class')} without an image left out, such as {first!r}")
    place = np.cumsum(counts["train"] > 0) - 1
    class_names = [names[number] for number in used]
    check_names(class_names, source)
    return class_names, {split: place[own] for split, own in labels.items()}


def _without_training(where: str, names: list[str]) -> UserError:
    return UserError(f"{where}: {without_training(names)}; every class needs one")
