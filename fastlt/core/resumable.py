"""The base of loaders and samplers that can be resumed within an epoch.

`state_dict` and `load_state_dict` have the names and the meaning of torchdata's StatefulDataLoader.
"""

import operator
from collections.abc import Mapping
from typing import Any

from fastlt.core.errors import UserError

MOST = 2**31 - 1  # largest allowed epoch, number of ranks, and other count


def whole_number(name: str, value: Any, least: int, most: int = MOST) -> int:
    """Returns the value as an int.

    name: what it is, for the error message. Raises UserError if it is not a whole number from `least` to `most`.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or not least <= number <= most:
        raise UserError(f"{name}={value!r}: it must be a whole number from {least} to {most}")
    return number


class Resumable:
    """Base class of iterables that go through epochs of samples and can be resumed at any position.

    about: what determines the samples, as plain values by name. A state can only be loaded if all of these agree.
    positions: samples of an epoch, over all ranks together.
    world: number of ranks.
    """

    def __init__(self, about: Mapping[str, Any], positions: int, world: int):
        # A state may have been stored as JSON, which turns tuples into lists.
        self._about = {name: list(value) if isinstance(value, tuple) else value for name, value in about.items()}
        self._positions, self.world = positions, world
        self._at = self._next = 0, 0  # (epoch, position) after the last sample given, and at the next loop's start
        self._complete: tuple[int, int] | None = None  # (epoch, position) of the loaded state if it ended its epoch

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the next loop.

        If a state of this epoch was just loaded, the next loop goes on at its position, else it begins the epoch.
        """
        epoch = whole_number("epoch", epoch, 0)
        if self._complete is not None and epoch == self._complete[0]:
            self._at = self._next = self._complete
        elif epoch != self._next[0]:
            self._at = self._next = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """Returns the position after the last sample given, as plain values for `load_state_dict`.

        After a complete loop this is the beginning of the next epoch. `position` counts the samples of all ranks.
        """
        epoch, position = self._at
        return {**self._about, "epoch": epoch, "position": position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a state that `state_dict` returned: the next loop gives the rest of its epoch.

        If nothing is left of that epoch, the next loop is the next epoch. Lightning needs this: it saves its checkpoint
        after the last batch and, when it resumes, begins an epoch. A loop without batches follows only if `set_epoch`
        names the complete epoch. The number of ranks may differ from that of the state.

        Raises UserError, naming what differs, for a state of other data or settings, or for something that is not a
        state. Nothing is changed then.
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
        """Returns the number of samples that this rank still gives in an epoch after `position`."""
        return (self._positions - position) // self.world

    def _place(self, epoch: Any, position: Any) -> tuple[int, int]:
        epoch, position = whole_number("epoch", epoch, 0), whole_number("position", position, 0, self._positions)
        if position % self.world:
            raise UserError(f"position={position}: it must be a multiple of {self.world}, the number of ranks")
        return epoch, position

    def _begin(self, epoch: int, position: int) -> None:
        """Notes that a loop begins at `position` of `epoch`; the loop after it is the next epoch."""
        self._at, self._next, self._complete = (epoch, position), (epoch + 1, 0), None
