"""Files are whole or not there, and a place that takes none is one line that names file, reason and remedy."""

import ast
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fastlt.core.checkpoint import before, save_checkpoint
from fastlt.core.files import NotWritten, replacing, write_file
from fastlt.core.spreadsheet import csv_row, write_csv
from fastlt.core.torch_file import write_torch_file

PACKAGE = Path(__file__).parents[2] / "fastlt"
BIG = "x" * 100_000
# Where files are opened for writing by anything but core/files.py, and why.
BY_THEMSELVES = {
    "core/files.py": "the one writer",
    "core/hdf5.py": "writes the temporary file of its caller",
    "core/torch_file.py": "writes the temporary file of `replacing`",
    "core/cli.py": "the null device, in the place of closed streams",
    "core/lock.py": "a lock file holds no work",
    "core/log.py": "progress for another process: read at once or never",
    "core/metrics.py": "appends lines to a file that core/files.py began",
    "data/convert/parts.py": "pages of a part, sealed and published as a whole folder",
    "data/convert/publish.py": "publishes a whole folder",
    "data/convert/remove.py": "shards of a dataset that is published as a whole folder",
    "data/shards/content.py": "dataset.json of a dataset that is published as a whole folder",
    "data/convert/work_folder.py": "publishes a whole folder",
    "data/shards/writer.py": "shards, sealed and published as a whole folder",
    "data/shards/durable.py": "the journal of a conversion",
    "models/checkpoint/store.py": "sorts the header of the temporary file of `replacing`",
    "predict/export/formats.py": "writes the temporary file of `replacing`",
    "predict/embeddings.py": "writes the temporary file of `replacing`",
    "predict/parts.py": "files that grow, with a state that core/files.py writes",
    "predict/paths.py": "a temporary file without a name",
    "stage2/features/given/given.py": "rows go to their places in a file that core/files.py made",
    "stage2/features/part.py": "rows go to their places in a file that core/files.py made",
}  # fmt: skip


def refused(write: Callable[[], object]) -> str:
    with pytest.raises(NotWritten) as error:
        write()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_file_is_replaced_and_its_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.txt"
    write_file(path, "größe\r\n")
    assert path.read_bytes() == "größe\r\n".encode()
    write_file(path, b"two")
    assert [each.name for each in path.parent.iterdir()] == ["a.txt"] and path.read_bytes() == b"two"


def test_what_fails_inside_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_file(path, "one")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "one" and list(tmp_path.iterdir()) == [path]


def test_bytes_and_names_are_on_the_disk_before_anyone_relies_on_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    real = os.fsync

    def synced(descriptor: int) -> None:
        calls.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    write_file(tmp_path / "a.txt", "one")
    assert calls == ["a.txt.tmp", tmp_path.name]


def test_a_folder_in_the_place_of_a_file_and_a_file_in_that_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()
    assert refused(lambda: write_file(tmp_path / "a.txt", "one")) == (
        f"{tmp_path}/a.txt cannot be written (Is a directory): move that folder away and give the same command again"
    )
    (tmp_path / "file").touch()
    for below in ("file/a.txt", "file/b/a.txt"):
        assert "move the file away that stands where a folder is needed" in refused(
            lambda below=below: write_file(tmp_path / below, "one")
        )
    (tmp_path / "b.txt.tmp").mkdir()
    assert f"(Is a directory, {tmp_path}/b.txt.tmp)" in refused(lambda: write_file(tmp_path / "b.txt", "one"))


@pytest.mark.parametrize("kind", ["text", "tensors", "table"])
def test_a_full_and_a_read_only_disk(disk: Callable[..., Path], kind: str) -> None:
    write: Callable[[Path], object] = {
        "text": lambda path: write_file(path, BIG),
        "tensors": lambda path: write_torch_file({"weight": torch.zeros(50_000)}, path),
        "table": lambda path: write_csv(path, [[BIG]]),
    }[kind]
    path = disk(1 << 16) / "runs" / "a"
    write_file(path, "one")
    told = refused(lambda: write(path))
    assert told == f"{path} cannot be written (No space left on device): make room and give the same command again"
    assert path.read_text() == "one" and list(path.parent.iterdir()) == [path]
    disk(1 << 20, read_only=True)
    assert refused(lambda: write(path)) == (
        f"{path} cannot be written (Read-only file system): allow writing there, or choose another place"
    )
    disk(1 << 20)
    write(path)
    assert path.stat().st_size > 50_000


def test_the_checkpoint_before_is_kept_and_the_message_says_how_to_go_on(disk: Callable[..., Path]) -> None:
    path = disk(1 << 20) / "checkpoint.pt"
    for epoch in (1, 2):
        save_checkpoint({"epoch": epoch}, path, keep=True)
    assert before(path).exists()
    told = refused(lambda: save_checkpoint({"weight": torch.zeros(1 << 20)}, path, keep=True))
    assert told.endswith("make room and give the same command again: it goes on from the checkpoint before")
    assert sorted(each.name for each in path.parent.iterdir()) == ["checkpoint.before.pt", "checkpoint.pt"]


def test_other_errors_of_the_system_are_told_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Path, target: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(self))

    monkeypatch.setattr(Path, "replace", broken)
    told = refused(lambda: write_file(tmp_path / "a.txt", "one", "--out=a.txt"))
    assert told.startswith("--out=a.txt cannot be written (Input/output error") and list(tmp_path.iterdir()) == []


def test_whatever_writes_a_file_writes_it_this_way() -> None:
    found = set()
    for path in PACKAGE.rglob("*.py"):
        name = str(path.relative_to(PACKAGE))
        if name.split("/")[0] in ("bench", "kernels", "conf"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                texts = [one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
                opened = node.func.attr in ("open", "TemporaryFile") and any(set(text) & set("wax+") for text in texts)
                if opened or node.func.attr in ("write_text", "write_bytes", "rename"):
                    found.add(name)
    assert found - BY_THEMSELVES.keys() == set()


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_spreadsheet_runs_nothing(text: str) -> None:
    (cell,) = csv_row([text]).splitlines(keepends=False)[:1]
    assert cell.lstrip('"').startswith("'")


def test_numbers_and_plain_texts_are_cells_as_they_are(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [["a=b", -1.5, "-1.5", "+3e2", None, "two\nlines", 'a "b", c']])
    assert (tmp_path / "a.csv").read_bytes() == b'a=b,-1.5,-1.5,+3e2,,"two\nlines","a ""b"", c"\r\n'
