"""Fifty epochs of a loader take no more memory than ten, on the device and on the host.

The device's memory is that of all processes on it: nothing else may run there meanwhile. DALI's own is no part of what
PyTorch counts.
"""

import gc
import os
from pathlib import Path

import pytest
import torch
from loaders import class_order, gpu_graph

from fastlt.data.plan import Augment
from fastlt.data.shards.reader import Dataset

pytestmark = pytest.mark.gpu

AUGMENT = Augment(224, "resized", scale=(0.3, 1.0), flip=True, jitter=0.4)
ALLOWED = 200e6  # bytes; a batch of 71 images in float32 has 43e6, and there are 40 epochs between the two looks


def used(device: torch.device) -> tuple[int, int]:
    """Bytes of host and device that are taken."""
    gc.collect()
    host = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    if device.type == "cpu":
        return host, 0
    torch.cuda.synchronize(device)
    free, total = torch.cuda.mem_get_info(device)
    return host, total - free


@pytest.mark.parametrize("kind", ["jpeg", "mixed"])
def test_fifty_epochs_of_a_loader(kind: str, device: torch.device, request: pytest.FixtureRequest) -> None:
    dataset: Dataset = request.getfixturevalue(f"{kind}_dataset")
    looks = []
    with gpu_graph(dataset, device, AUGMENT, 71, dtype=torch.float32, threads=os.cpu_count() or 1) as loader:
        for epoch in range(50):
            for batch in loader.epoch(epoch % 4):
                # The step of a training: what is read from a batch is still queued when the next one is asked for.
                total = batch.images.sum()
            assert torch.isfinite(total)
            looks.append(used(device))
    # The least of ten epochs: on a CPU buffers come and go.
    for memory in zip(*looks, strict=True):
        assert min(memory[40:]) - min(memory[5:15]) < ALLOWED


def test_a_dozen_loaders_made_and_closed(device: torch.device, jpeg_dataset: Dataset) -> None:
    def made_and_closed() -> None:
        with gpu_graph(jpeg_dataset, device, AUGMENT, 71, order=class_order(jpeg_dataset)) as loader:
            next(loader.epoch(0))

    for _ in range(3):
        made_and_closed()  # what DALI keeps for the whole process
    before = used(device)
    for _ in range(12):
        made_and_closed()
    after = used(device)
    assert after[0] - before[0] < ALLOWED
    assert after[1] - before[1] < ALLOWED
