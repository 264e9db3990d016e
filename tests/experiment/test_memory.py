"""Running out of memory is one line with the keys that help; every other error stays what it is."""

from types import SimpleNamespace

import pytest
import torch

from fastlt.core.errors import UserError
from fastlt.experiment.memory import memory_told

CONFIG = SimpleNamespace(protocol=SimpleNamespace(batch=512), image_size=224)


def failing(error: BaseException) -> None:
    @memory_told
    def work(config: SimpleNamespace) -> None:
        raise error

    work(CONFIG)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.90 GiB.\nmore"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("std::bad_alloc"),
        MemoryError(),
    ],
)
def test_what_helps_is_named(error: BaseException) -> None:
    with pytest.raises(UserError) as caught:
        failing(error)
    message = str(caught.value)
    assert "\n" not in message and message.startswith("out of memory")
    for key in ("accumulate=N", "protocol.batch= (now 512)", "image_size= (now 224)"):
        assert key in message


def test_other_errors_stay() -> None:
    with pytest.raises(RuntimeError, match=r"^shapes differ$"):
        failing(RuntimeError("shapes differ"))


def test_what_pytorch_says_of_a_request_that_is_too_large() -> None:
    @memory_told
    def work(config: SimpleNamespace) -> torch.Tensor:
        return torch.empty(1 << 60, dtype=torch.uint8)

    with pytest.raises(UserError, match=r"out of memory .*accumulate=N"):
        work(CONFIG)
