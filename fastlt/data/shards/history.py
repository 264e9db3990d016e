"""The history of a dataset: what it was before images were added (append) or withdrawn (remove).

dataset.json lists a step for each such change. Every step records the state before it: `from` (the digest), `classes`
(their number) and `numbers` (how many sample numbers of each split were given out). `append` also has `added`, the
number of new images of each split, and the `source`; `remove` has `removed`, the sample numbers of each split, and
`keys`, the SHA-256 of each removed key, by which such an image is recognized if it is offered again.

A sample keeps its number, by which its members in the shard are named, for ever. Its id, the row in index.h5, is its
place among the numbers that are still there. Without a removal both are equal.
"""

import hashlib
from typing import Any

import numpy as np

APPEND, REMOVE = "append", "remove"
_STEP = {"step": str, "from": str, "classes": int, "numbers": dict}
_OF_REMOVE = {"removed": dict, "keys": list}


def step(kind: str, about: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Returns the step that leads from a dataset, given by its dataset.json, to the next one.

    more: the fields of this kind of step.
    """
    numbers = {split: given_out(about, split) for split in about["splits"]}
    return {"step": kind, "from": about["digest"], "classes": len(about["class_names"]), "numbers": numbers, **more}


def steps(about: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the steps of a dataset, the first one first. about: the content of dataset.json."""
    return about.get("history", [])


def given_out(about: dict[str, Any], split: str) -> int:
    """Returns how many sample numbers of a split were given out, those of removed samples included."""
    samples = about["splits"][split]["samples"] if split in about["splits"] else 0
    return samples + len(_removed(steps(about), split))


def numbers(about: dict[str, Any], split: str) -> np.ndarray:
    """Returns the number of each sample of a split, int64 [N], ascending."""
    return _left(given_out(about, split), _removed(steps(about), split))


def removed_keys(about: dict[str, Any]) -> set[str]:
    """Returns the SHA-256 of every key that was removed from a dataset."""
    return {key for one in steps(about) if one["step"] == REMOVE for key in one["keys"]}


def hashed(key: str) -> str:
    """Returns the SHA-256 of a key as it is recorded for a removed image."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def ancestors(about: dict[str, Any]) -> list[str]:
    """Returns the digests of the datasets that this one grew from, the latest first."""
    return [one["from"] for one in reversed(steps(about))]


def ids_since(about: dict[str, Any], digest: str, split: str) -> np.ndarray:
    """Returns the present sample id of every sample that a split had in an earlier state of the dataset, int64 [M].

    digest: of that state, one of `ancestors`. Samples that were removed since have -1.
    """
    past = [one["from"] for one in steps(about)].index(digest)
    then = _left(steps(about)[past]["numbers"].get(split, 0), _removed(steps(about)[:past], split))
    now = numbers(about, split)
    place = np.searchsorted(now, then)
    found = place < len(now)
    found[found] = now[place[found]] == then[found]
    return np.where(found, place, -1)


def _removed(of: list[dict[str, Any]], split: str) -> list[int]:
    return [number for one in of if one["step"] == REMOVE for number in one["removed"].get(split, ())]


def _left(count: int, removed: list[int]) -> np.ndarray:
    return np.delete(np.arange(count), removed) if removed else np.arange(count)


def damage_of_history(about: dict[str, Any]) -> str:
    """Returns a message if the history in dataset.json is impossible, else ""."""
    history = about.get("history", [])
    if type(history) is not list:
        return "history is no list"
    for place, one in enumerate(history):
        fields = _STEP | (_OF_REMOVE if isinstance(one, dict) and one.get("step") == REMOVE else {})
        if not isinstance(one, dict) or any(type(one.get(name)) is not kind for name, kind in fields.items()):
            return f"step {place} of history lacks a field"
        counts = [*one["numbers"].values(), one["classes"]]
        lists = list(one.get("removed", {}).values())
        if any(type(values) is not list for values in lists):
            return f"step {place} of history removes no lists of numbers"
        if any(type(count) is not int or count < 0 for count in (*counts, *(n for values in lists for n in values))):
            return f"step {place} of history has an impossible number"
    for split in about["splits"]:
        removed = _removed(history, split)
        if len(set(removed)) < len(removed) or max(removed, default=-1) >= given_out(about, split):
            return f"history removes samples of {split} that cannot be"
    return ""
