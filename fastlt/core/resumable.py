"""What is gone through in epochs and can be resumed: where it stands, as torchdata's StatefulDataLoader tells it."""

import operator
from collections.abc import Mapping
from typing import Any

from fastlt.core.errors import UserError

MOST = 2**31 - 1  # of epochs, ranks and other counts


def whole_number(name: str, value: Any, least: int, most: int = MOST) -> int:
    """The value as an int. Raises UserError if it is not a whole number from `least` to `most`."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or not least <= number <= most:
        raise UserError(f"{name}={value!r}: it must be a whole number from {least} to {most}")
    return number


class Resumable:
    """Base of what gives the positions of an epoch one after the other, and draws anew in every epoch.

    about: what determines every position, as plain values: two that share a state agree in it. positions: of an epoch,
    on all ranks together. world: number of ranks.
    """

    def __init__(self, about: Mapping[str, Any], positions: int, world: int):
        # A state may have been through JSON, which knows no tuples.
        self._about = {name: list(value) if isinstance(value, tuple) else value for name, value in about.items()}
        self._positions, self.world = positions, world
        self._at = self._next = 0, 0  # (epoch, position): behind what was given last, and where the next loop begins
        self._complete: tuple[int, int] | None = None  # the place that was loaded, if it left nothing of its epoch

    def set_epoch(self, epoch: int) -> None:
        """Names the epoch of the next loop. The epoch of a state that was just loaded goes on where it was left."""
        epoch = whole_number("epoch", epoch, 0)
        if self._complete is not None and epoch == self._complete[0]:
            self._at = self._next = self._complete
        elif epoch != self._next[0]:
            self._at = self._next = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """Where it stands behind what it gave last, as plain values: for `load_state_dict`.

        At the end of a loop that is the beginning of the next epoch. `position` counts all ranks together.
        """
        epoch, position = self._at
        return {**self._about, "epoch": epoch, "position": position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The next loop gives the rest of the epoch in which `state_dict` returned this state.

        If nothing is left of it, that is the next epoch, as in Lightning, which saves itself behind the last batch and
        then begins an epoch; only `set_epoch` of the complete one gives a loop without batches. The number of ranks is
        free. Raises UserError if it is the state of something else, naming what differs, or no
        state at all; nothing has changed then.
        """
        kind = type(self).__name__
        if not isinstance(state, Mapping):
            raise UserError(f"a {type(state).__name__} is no state of a {kind}: give what state_dict() returned")
        for name in sorted(self._about.keys() | state.keys() - {"epoch", "position"}):
            theirs, ours = state.get(name), self._about.get(name)
            if theirs != ours:
                raise UserError(f"state has {name}={theirs}, this {kind} {ours}: make it as the first one was made")
        epoch, position = self._place(state.get("epoch"), state.get("position"))
        over = not self._left(position)
        self._complete = (epoch, position) if over else None
        self._at = self._next = (epoch + 1, 0) if over else (epoch, position)

    def _left(self, position: int) -> int:
        """What this rank still gives of an epoch behind a position."""
        return (self._positions - position) // self.world

    def _place(self, epoch: Any, position: Any) -> tuple[int, int]:
        epoch, position = whole_number("epoch", epoch, 0), whole_number("position", position, 0, self._positions)
        if position % self.world:
            raise UserError(f"position={position}: it must be a multiple of {self.world}, the number of ranks")
        return epoch, position

    def _begin(self, epoch: int, position: int) -> None:
        """A loop begins there; the one after it is the next epoch."""
        self._at, self._next, self._complete = (epoch, position), (epoch + 1, 0), None
