"""Departures of a run from its protocol: the keys that have other values, as overrides and in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastlt.experiment.results import Results

# Names for keys that would not be understood by themselves.
_WORDS = {
    "lr": "learning rate",
    "protocol.crop_pct": "share of the short side that evaluation sees",
    "protocol.interpolation": "interpolation of resized images",
    "stage2.keep": "epoch kept",
    "stepped": "learning rate moves with every",
    "jitter": "colour jitter",
    "ema": "decay of averaged weights",
    "protocol.drw.weights": "weights of classes in the loss",
    "protocol.drw.after": "share of the epochs without them",
    "protocol.swa.after": "share of the epochs that are left out",
    "protocol.head": "joint classifier",
    "mode": "classifiers trained on",
    "source": "source of own parts or settings of an own protocol",
    "bn": "BatchNorm of the frozen backbone in stage 2",
    "augmented_passes": "augmented passes over the training images",
    "feature_dtype": "stored features",
    "hold_out": "share of train held out",
    "choose_on": "choices made on",
    "accumulate": "parts of a batch",
    "drawing": "drawing of images",
}
_SECTIONS = {"protocol": "", "sampler": "stage 1: ", "stage2": "stage 2: ", "crt": "cRT: ", "lws": "LWS: "}
_SECTIONS |= {"drw": "DRW: ", "sam": "SAM: ", "swa": "SWA: "}


@dataclass(frozen=True)
class Departure:
    """A key of the configuration that has another value than in the protocol.

    key: the key. usual, used: the values of the protocol and of the run, as Hydra reads them.
    """

    key: str
    usual: str
    used: str

    @property
    def given(self) -> str:
        """The departure as an override, such as `protocol.lr=0.3`."""
        return f"{self.key}={self.used}"

    @property
    def words(self) -> str:
        """The departure in words: `learning rate 0.3 in place of 0.1`, or `shortened: 2 of 200 epochs`."""
        usual, used = ("none" if value in ("null", "[]", "{}") else value for value in (self.usual, self.used))
        if self.key == "representation":
            return "a given representation, whose training is not recorded"
        if self.key == "epochs":
            if self.shortens:
                return f"shortened: {used} of {usual} epochs"
            return f"{used} {'epoch' if used == '1' else 'epochs'} in place of {usual}"
        *sections, last = self.key.split(".")
        what = _WORDS.get(self.key) or _WORDS.get(last, last.replace("_", " "))
        where = "".join(_SECTIONS.get(section, f"{section}: ") for section in sections)
        return f"{where}{what} {used} in place of {usual}"

    @property
    def shortens(self) -> bool:
        """Whether the run has fewer epochs than the protocol."""
        return self.key == "epochs" and float(self.used) < float(self.usual)


def departures(results: Results) -> list[Departure]:
    """Returns all departures of a run: first what is held out of train and the split for choices, then the others in
    the order of results.json."""
    found = {}
    if results.hold_out:
        found["hold_out"] = Departure("hold_out", "0", as_hydra(results.hold_out))
    # The default of choose_on: held-out images if there are any, else val, else folds of train.
    untold = "held_out" if results.hold_out else "val" if "val" in results.class_counts else "folds"
    if results.choose_on != untold:
        found["choose_on"] = Departure("choose_on", untold, results.choose_on)
    told = results.departures.items()
    return list({**found, **{key: Departure(key, as_hydra(a), as_hydra(b)) for key, (a, b) in told}}.values())


def as_hydra(value: Any) -> str:
    """Returns a value in the form in which Hydra reads it, such as `[0.1,0.2]`, `null` or `true`."""
    if isinstance(value, list):
        return f"[{','.join(map(as_hydra, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{as_hydra(one)}" for key, one in value.items()) + "}"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
