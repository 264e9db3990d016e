"""Where a conversion goes on until it is finished: out.partial, with a lock, and a record of what it was begun with.

out.partial/conversion.json   input and options
out.partial/lock              held while a process works here
out.partial/journal/          a page per complete shard
out.partial/dataset/          what becomes `out`, by one rename
"""

import fcntl
import json
import shutil
from pathlib import Path
from typing import Any

from fastlt.errors import UserError
from fastlt.log import say
from fastlt.shards.format import DATASET_FILE
from fastlt.shards.writer import publish


class WorkFolder:
    """The folder of one conversion. A context manager: the lock is held inside.

    about: what the conversion was begun with; work done under another record is not taken up. Raises UserError if
    another process converts to the same place.
    """

    def __init__(self, out: Path, about: dict[str, Any]):
        self.out = out
        self.root = out.with_name(out.name + ".partial")
        self.dataset, self.journal = self.root / "dataset", self.root / "journal"
        self._record = self.root / "conversion.json"
        self._text = json.dumps(about, sort_keys=True, ensure_ascii=False)

    def __enter__(self) -> "WorkFolder":
        self.root.mkdir(parents=True, exist_ok=True)
        self._lock = (self.root / "lock").open("w")
        try:
            # A lock of this process alone: worker processes that outlive it for a moment do not hold it.
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise UserError(
                f"another process is converting to {self.out}: wait for it, or choose another out=DIR"
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def finished_before(self) -> bool:
        """Whether this very conversion was killed between its last rename and the end of its cleaning up."""
        return self._begun() and not self.dataset.exists() and (self.out / DATASET_FILE).exists()

    def _begun(self) -> bool:
        return self._record.exists() and self._record.read_text() == self._text

    def prepare(self) -> None:
        """Makes the folders, or takes up those of an unfinished conversion with the same input and options."""
        if self._begun():
            say(f"resuming the conversion in {self.root}")
        else:
            if self._record.exists():
                say(f"{self.root} was begun with other input or options: starting again")
            self._record.unlink(missing_ok=True)
            shutil.rmtree(self.dataset, ignore_errors=True)
            shutil.rmtree(self.journal, ignore_errors=True)
        self.dataset.mkdir(exist_ok=True)
        self.journal.mkdir(exist_ok=True)
        temporary = self._record.with_suffix(".tmp")
        temporary.write_text(self._text)
        temporary.replace(self._record)

    def publish(self) -> None:
        """Puts the finished dataset in its place and cleans up."""
        publish(self.dataset, self.out)
        self.remove()

    def remove(self) -> None:
        """Removes all of it."""
        shutil.rmtree(self.root)
