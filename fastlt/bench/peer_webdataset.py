"""The webdataset package on fastlt's shards, in a torch DataLoader, with torchvision's transforms."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from collections.abc import Callable, Iterator
from typing import Any

import torch
import webdataset as wds
from peer_protocol import serve
from peer_transforms import augmentation

SHUFFLE = 1000  # encoded samples in the shuffle buffer


def build(request: dict[str, Any]) -> Callable[[], Iterator[torch.Tensor]]:
    """Builds the loader. Whole shards are distributed to `threads` worker processes, which persist over all epochs."""
    shards = request["shards"]
    load = augmentation(request)
    samples = wds.WebDataset(shards, shardshuffle=len(shards)).shuffle(SHUFFLE).to_tuple("jpg;png").map_tuple(load)
    loader = wds.WebLoader(
        samples.batched(request["batch"], partial=False),
        batch_size=None,
        num_workers=request["threads"],
        persistent_workers=True,
    )
    return lambda: (batch[0] for batch in loader)


if __name__ == "__main__":
    serve(build)
