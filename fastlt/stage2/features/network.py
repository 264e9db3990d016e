"""The interface of a network that features are extracted with."""

from typing import Protocol

from torch import nn


class Network(Protocol):
    """A network whose `backbone` turns images [n, 3, S, S] into features [n, D], which its `classifier` takes."""

    @property
    def backbone(self) -> nn.Module: ...

    @property
    def classifier(self) -> nn.Module: ...

    def eval(self) -> object:
        """Sets evaluation mode, as torch.nn.Module.eval does."""
        ...
