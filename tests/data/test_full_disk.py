"""A disk without space, at whatever byte it ends: one line that names file and remedy, no signal, nothing lost."""

import multiprocessing
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from pictures import Pictures, conversion
from test_features import Images, arrays, model

from fastlt.core.errors import UserError
from fastlt.data.convert import convert
from fastlt.data.shards.reader import Dataset
from fastlt.stage2.features import FeatureStore

SOURCE = Pictures(counts=(3, 1), pixels=True)


def outcome(work: Callable[[], object]) -> str:
    """What a UserError said, nothing where the work was done; in a process of its own, as a signal would end it."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)

    def child() -> None:
        try:
            work()
            theirs.send("")
        except UserError as error:
            theirs.send(str(error))

    process = context.Process(target=child)
    process.start()
    theirs.close()
    told = ours.recv() if ours.poll(60) else "nothing"
    process.join()
    assert process.exitcode == 0
    assert "\n" not in told
    return told


def test_a_conversion_says_so_and_goes_on_when_there_is_room(disk: Callable[[int], Path], tmp_path: Path) -> None:
    expected = Dataset(convert(SOURCE, conversion(), tmp_path / "data", workers=1)).digest
    failed, size = 0, 8192
    while told := outcome(partial(convert, SOURCE, conversion(), disk(size) / "data", workers=1)):
        assert told == (
            f"no space left for {tmp_path}/disk/data.partial: make room and give the same command again, it goes on "
            "after the last complete shard"
        )
        failed, size = failed + 1, size + 4096
    assert failed > 20
    assert Dataset(tmp_path / "disk" / "data").digest == expected


@pytest.mark.parametrize("kept", [False, True])
def test_features_say_so_and_go_on_when_there_is_room(disk: Callable[[int], Path], tmp_path: Path, kept: bool) -> None:
    network, loaders = model(), {"train": Images(900), "val": Images(40)}

    def write(path: Path, *splits: str) -> None:
        FeatureStore(path, "key").write({split: loaders[split] for split in splits}, network)

    write(tmp_path / "features.h5", "train", "val")
    if kept:
        write(disk(1 << 14) / "features.h5", "val")
    before = arrays(tmp_path / "disk" / "features.h5") if kept else {}
    failed, size = 0, 1 << 14
    while told := outcome(partial(write, disk(size) / "features.h5", "train", "val")):
        assert told.startswith(f"{tmp_path}/disk/features.h5.part cannot be written (No space left on device): make ")
        assert not kept or arrays(tmp_path / "disk" / "features.h5").keys() == before.keys()
        failed, size = failed + 1, size + 4096
    assert failed > 3
    found, expected = arrays(tmp_path / "disk" / "features.h5"), arrays(tmp_path / "features.h5")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
