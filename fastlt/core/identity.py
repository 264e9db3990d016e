"""The settings that determine a representation, and their hash."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Identity:
    """Everything that determines a representation (or another computed thing), except for the machine.

    about: settings by name, as values that JSON can hold.
    """

    about: dict[str, Any]

    @property
    def key(self) -> str:
        """Returns the SHA-256 of the settings; a representation with the same key is reused, not trained again."""
        return hashlib.sha256(json.dumps(self.about, sort_keys=True).encode()).hexdigest()
