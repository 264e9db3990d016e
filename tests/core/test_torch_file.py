"""Files of torch.save: damage is found wherever it lies, and a file takes no more memory than its size."""

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastlt.core.errors import UserError
from fastlt.core.torch_file import AsksToRun, Unreadable, read_torch_file, write_torch_file

STATE = {"settings": {"seed": 1}, "key": "k", "model": {"weight": torch.arange(300.0), "bias": torch.ones(3)}}


def saved(state: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer, **options)
    return buffer.getvalue()


def same(state: Any) -> bool:
    model = state["model"]
    known = {name: bool(torch.equal(model[name], value)) for name, value in STATE["model"].items()}
    return known == {"weight": True, "bias": True} and {**state, "model": 0} == {**STATE, "model": 0}


def read(data: bytes, path: Path) -> Any:
    path.write_bytes(data)
    return read_torch_file(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_file_is_read(tmp_path: Path, zipped: bool) -> None:
    assert same(read(saved(STATE, _use_new_zipfile_serialization=zipped), tmp_path / "a.pt"))


def test_what_would_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    write_torch_file(STATE, path)
    with pytest.raises(UserError, match=r"a\.pt would hold numpy\S+, which is not read again: only tensors, numbers"):
        write_torch_file({**STATE, "momentum": np.float64(0.9)}, path)
    assert same(read_torch_file(path)) and list(tmp_path.iterdir()) == [path]


def change(data: bytes, kind: str, at: int, rng: np.random.Generator) -> bytes:
    damaged = bytearray(data)
    if kind == "bit":
        damaged[at] ^= 1 << int(rng.integers(8))
    elif kind == "cut":
        del damaged[at:]
    elif kind == "zeroed":
        damaged[at : at + 64] = bytes(len(damaged[at : at + 64]))
    else:
        other = int(rng.integers(len(data) - 64))
        damaged[at : at + 64], damaged[other : other + 64] = damaged[other : other + 64], damaged[at : at + 64]
    return bytes(damaged)


@pytest.mark.parametrize("kind", ["bit", "cut", "zeroed", "swapped"])
def test_damage_is_found_or_changes_nothing(tmp_path: Path, kind: str) -> None:
    data, rng, refused = saved(STATE), np.random.default_rng(0), 0
    for at in rng.integers(0, len(data) - 64, 400).tolist():
        try:
            assert same(read(change(data, kind, at, rng), tmp_path / "a.pt")), f"{kind} at {at}"
        except Unreadable as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 200


def test_a_record_with_another_checksum_is_named(tmp_path: Path) -> None:
    data = bytearray(saved(STATE))
    data[data.index(np.arange(10, 20, dtype=np.float32).tobytes())] ^= 1
    with pytest.raises(Unreadable, match=r"^is damaged: Bad CRC-32 for file 'archive/data/0'$"):
        read(bytes(data), tmp_path / "a.pt")


def rezipped(data: bytes, compression: int, extra: dict[str, bytes]) -> bytes:
    """The same records in an archive that torch did not write, and more of them."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, extra.get(name, old.read(name)))
    return out.getvalue()


def test_a_compressed_record_is_refused_before_it_is_expanded(tmp_path: Path) -> None:
    data = rezipped(saved(STATE), zipfile.ZIP_DEFLATED, {"archive/data/0": bytes(1 << 24)})
    assert len(data) < 100_000
    with pytest.raises(Unreadable, match=r"record archive/data\.pkl is compressed"):
        read(data, tmp_path / "a.pt")
    assert same(read(rezipped(saved(STATE), zipfile.ZIP_STORED, {}), tmp_path / "a.pt"))


class Call:
    def __init__(self, function: Callable[..., Any], *arguments: Any):
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
def test_bytes_out_of_nothing_are_refused(tmp_path: Path, zipped: bool) -> None:
    data = saved({**STATE, "more": Call(bytearray, 1 << 40)}, _use_new_zipfile_serialization=zipped)
    with pytest.raises(AsksToRun, match=r"asks to run (builtins|__builtin__)\.bytearray when it is read"):
        read(data, tmp_path / "a.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_that_are_larger_than_the_file_are_refused(tmp_path: Path, zipped: bool) -> None:
    state = {"model": [{"w": torch.ones(1).expand(10**9)}]}
    with pytest.raises(Unreadable, match=r"holds tensors of 4,000,000,000 bytes in"):
        read(saved(state, _use_new_zipfile_serialization=zipped), tmp_path / "a.pt")
    allocated = {"model": Call(torch.FloatTensor, 10**10)}
    with pytest.raises(Unreadable):
        read(saved(allocated, _use_new_zipfile_serialization=zipped), tmp_path / "a.pt")


def test_values_that_hold_themselves_are_read(tmp_path: Path) -> None:
    state: list[Any] = [torch.ones(2)]
    for _ in range(60):
        state = [state, state]
    assert len(read(saved(state), tmp_path / "a.pt")) == 2


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: os.mkfifo(path), "is no file"),
        (lambda path: path.write_bytes(b""), "is damaged, or no plain file of torch.save: "),
        (lambda path: path.write_bytes(b"text"), "is damaged, or no plain file of torch.save: "),
        (lambda path: path.write_bytes(pickle.dumps([1, 2])), "is damaged, or no plain file of torch.save: "),
        (lambda path: path.write_bytes(rezipped(saved(STATE), 0, {"archive/data.pkl": b"x"})), "is damaged, or n"),
    ],
)  # fmt: skip
def test_what_is_no_such_file_is_refused(tmp_path: Path, make: Callable[[Path], Any], told: str) -> None:
    make(tmp_path / "a.pt")
    with pytest.raises(Unreadable) as raised:
        read_torch_file(tmp_path / "a.pt")
    assert str(raised.value).startswith(told)
    assert "\n" not in str(raised.value)
