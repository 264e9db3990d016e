"""What features come from."""

from typing import Protocol

from torch import nn


class Network(Protocol):
    """A network whose `backbone` turns images [n, 3, S, S] into features [n, D], which its `classifier` takes."""

    @property
    def backbone(self) -> nn.Module: ...

    @property
    def classifier(self) -> nn.Module: ...

    def eval(self) -> object:
        """Puts it into evaluation mode, as of torch.nn.Module."""
        ...
