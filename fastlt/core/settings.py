"""What determines a representation, and the key that follows from it."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Settings:
    """Everything that determines a representation, besides the machine. `about`: plain values by name."""

    about: dict[str, Any]

    @property
    def key(self) -> str:
        """Hash of the settings; a representation with the same key is reused, never trained again."""
        return hashlib.sha256(json.dumps(self.about, sort_keys=True).encode()).hexdigest()
