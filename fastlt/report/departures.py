"""What a run does otherwise than its protocol says: as its command spells it, and in plain words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# Where the key alone would not be understood.
_WORDS = {
    "lr": "learning rate",
    "protocol.keep": "share of the short side that evaluation sees",
    "stage2.keep": "epoch kept",
    "stepped": "learning rate moves with every",
    "jitter": "colour jitter",
    "ema": "decay of averaged weights",
    "mode": "classifiers trained on",
    "bn": "BatchNorm of the frozen backbone in stage 2",
    "views": "augmented passes over the training images",
    "feature_dtype": "stored features",
    "hold_out": "share of train held out",
    "choose_on": "choices made on",
    "accumulate": "parts of a batch",
    "drawing": "drawing of images",
}
_SECTIONS = {"protocol": "", "sampler": "stage 1: ", "stage2": "stage 2: ", "crt": "cRT: ", "lws": "LWS: "}


@dataclass(frozen=True)
class Departure:
    """key: of the configuration. usual, used: the protocol's value and the run's, as Hydra reads them."""

    key: str
    usual: str
    used: str

    @property
    def given(self) -> str:
        """What the command says: `protocol.lr=0.3`."""
        return f"{self.key}={self.used}"

    @property
    def words(self) -> str:
        """`learning rate 0.3 in place of 0.1`; of fewer epochs `shortened: 2 of 200 epochs`."""
        usual, used = ("none" if value in ("null", "[]", "{}") else value for value in (self.usual, self.used))
        if self.key == "representation":
            return "a given representation, whose training is not recorded"
        if self.key == "epochs":
            return f"shortened: {used} of {usual} epochs" if self.shortens else f"{used} epochs in place of {usual}"
        *sections, last = self.key.split(".")
        what = _WORDS.get(self.key) or _WORDS.get(last, last.replace("_", " "))
        where = "".join(_SECTIONS.get(section, f"{section}: ") for section in sections)
        return f"{where}{what} {used} in place of {usual}"

    @property
    def shortens(self) -> bool:
        """Whether there are fewer epochs than the protocol has."""
        return self.key == "epochs" and float(self.used) < float(self.usual)


def departures(results: dict[str, Any]) -> list[Departure]:
    """Every one, in the order of results.json; what is held out of train and where choices are made first."""
    found = {}
    if results.get("hold_out"):
        found["hold_out"] = Departure("hold_out", "0", as_hydra(results["hold_out"]))
    # What training takes when it is not told: held-out images, else val, else none.
    untold = "held_out" if results.get("hold_out") else "val" if "val" in results["class_counts"] else "none"
    if results.get("choose_on", untold) != untold:
        found["choose_on"] = Departure("choose_on", untold, results["choose_on"])
    told = (results.get("departures") or {}).items()
    return list({**found, **{key: Departure(key, as_hydra(a), as_hydra(b)) for key, (a, b) in told}}.values())


def as_hydra(value: Any) -> str:
    """A value as Hydra reads it."""
    if isinstance(value, list):
        return f"[{','.join(map(as_hydra, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{as_hydra(one)}" for key, one in value.items()) + "}"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
