"""Groups the images of a source: those of one patient, camera or product are to stay together."""

import re
from dataclasses import dataclass, field, replace

from fastlt.core.errors import UserError
from fastlt.core.log import say
from fastlt.core.words import agree, counted
from fastlt.data.sources.base import Listing, Rearranged, Source
from fastlt.data.sources.listed import shown
from fastlt.longtail.whole_groups import group_name

LONGEST = 1000  # most bytes of the name of a group, as the index keeps one of equal length for every image


@dataclass(frozen=True)
class Grouped(Rearranged):
    """A source whose listings have groups. Its images, keys and splits remain unchanged.

    group_by: a regular expression over the keys (paths). Images are of one group if its first group matches the same
        text in their keys (or the whole expression, if it has no group). A source that has groups, such as those of a
        column, needs no expression.

    An image without a group, whose value is empty or as programs write a missing one, is a group alone; a line says how
    many there are. So is an image outside train that the expression does not match.

    Raises UserError for a key of train that the expression does not match, and for a group whose name is very long or
    no text.

    Example: Grouped(source, group_by=r"patient(\\d+)")
    """

    source: Source
    group_by: str = ""
    splits: dict[str, Listing] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        given = self.source.splits
        if all(listing.groups is None for listing in given.values()):
            names = {split: groups_by(self.group_by, listing.keys) for split, listing in given.items()}
            if "train" in given:
                self._check(names["train"])
        else:
            names = {split: listing.groups or [None] * len(listing.keys) for split, listing in given.items()}
        groups = {split: [group_name(one) for one in own] for split, own in names.items()}
        if alone := sum(own.count("") for own in groups.values()):
            say(
                f"note: {counted(alone, 'image')} {agree(alone, 'has', 'have')} no group (an empty or missing value): "
                f"{agree(alone, 'it is', 'each is')} a group alone"
            )
        for name in sorted({name for own in groups.values() for name in own}):
            if (size := len(name.encode("utf-8", "surrogatepass"))) > LONGEST:
                raise UserError(
                    f"group_by={self.group_by}: the group {shown(name)} has {size:,} bytes, allowed are {LONGEST:,}"
                )
            if "\0" in name or any("\ud800" <= letter <= "\udfff" for letter in name):
                raise UserError(
                    f"group_by={self.group_by}: the group {shown(name)} has a letter that is no text, which the index "
                    "cannot hold: give it another name"
                )
        splits = {split: replace(listing, groups=groups[split]) for split, listing in given.items()}
        object.__setattr__(self, "splits", splits)

    def _check(self, found: list[str | None]) -> None:
        """Raises UserError if the expression is none, or does not match every key of train. found: what it matches."""
        try:
            re.compile(self.group_by)
        except re.error as error:
            raise UserError(f"group_by={self.group_by}: no regular expression ({error}), and no column") from None
        if lost := found.count(None):
            keys = self.source.splits["train"].keys
            raise UserError(
                f"group_by={self.group_by} is no column, and as a regular expression it does not match {lost:,} of "
                f"{len(keys):,} paths, such as {shown(keys[found.index(None)])}; it must match each"
            )


def groups_by(expression: str, keys: list[str]) -> list[str | None]:
    """Returns the text that the expression matches in every key, as in `Grouped`; None where it matches nothing."""
    try:
        search = re.compile(expression).search
    except re.error:
        return [None] * len(keys)
    return [match and ((match[1] if match.re.groups else match[0]) or "") for match in map(search, keys)]
