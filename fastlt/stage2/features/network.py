"""What features come from."""

from typing import Protocol

from torch import nn


class Network(Protocol):
    """A network whose `backbone` turns images [n, 3, S, S] into features [n, D]."""

    backbone: nn.Module
    classifier: nn.Module

    def eval(self) -> object:
        """Puts it into evaluation mode, as of torch.nn.Module."""
        ...
