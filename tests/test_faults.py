"""Places that a user may not read or write: every command says so in one line, and loses nothing.

What ends conversions, trainings and reports otherwise is tried beside what writes: full disks in data/test_full_disk.py
and core/test_files.py, killed workers in data/test_conversion_kills.py, missing programs in grid/test_grid_slurm.py, a
home without room for caches in kernels/test_cache.py.
"""

import shutil
from pathlib import Path

import pytest
from commands import ROOT, run
from finished_run import linear, make_run, pictures

from fastlt.data.shards.reader import Dataset


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, raw_dataset: Dataset) -> Path:
    """A folder with a dataset, a finished run, photographs, an empty folder and a file."""
    folder = tmp_path_factory.mktemp("faults")
    shutil.copytree(raw_dataset.root, folder / "data")
    make_run(folder / "run", {"crt": linear(1), "joint": linear(0)})
    pictures(folder / "photos")
    (folder / "shut" / "run").mkdir(parents=True)
    (folder / "file").touch()
    return folder


TRAIN = "threads=1 precision=fp32 epochs=1 protocol=demo protocol.batch=4"
UNREADABLE = [
    (
        "data/dataset.json",
        f"train data=data run=new {TRAIN}",
        "data/dataset.json cannot be read (Permission denied): make",
    ),
    (
        "data/index.h5",
        f"train data=data run=new {TRAIN}",
        "index data/index.h5 cannot be read (Permission denied): make it",
    ),
    (
        "data/train-000000.tar",
        "shards describe data",
        "shard data/train-000000.tar cannot be read (Permission denied): make",
    ),
    ("data/train-000000.tar", "shards verify data", "train-000000.tar, offset 0: cannot be read (Permission denied)"),
    (
        "data",
        f"grid grid=samplers data=data out=new {TRAIN}",
        "data/dataset.json: Permission denied: allow it, or choose another place",
    ),
    ("data", "shards verify data", "data/dataset.json: Permission denied: allow it, or choose another place"),
    ("run/results.json", "predict run photos/test", "run/results.json: cannot be read (Permission denied); give its"),
    ("run/results.json", "report run", "run/results.json: cannot be read (Permission denied); give its training"),
    (
        "run/checkpoint.pt",
        "checkpoint describe run",
        "run/checkpoint.pt cannot be read: Permission denied: give another",
    ),
    (
        "run/classifiers/crt.pt",
        "checkpoint export run --out new.safetensors",
        "run/classifiers/crt.pt cannot be read: Perm",
    ),
    ("run", "checkpoint describe run", "run/checkpoint.pt: Permission denied: allow it, or choose another place"),
    ("photos/test", "predict run photos/test", "photos/test: cannot read this folder (Permission denied); allow it"),
    ("photos/test/apple/image 0.jpg", "predict run photos/test", "1 failed"),
    ("photos/train/apple", "convert photos out=new", "photos/train/apple: cannot read this folder (Permission denied)"),
    ("photos/train/apple/image 0.jpg", "convert photos out=new", "(Permission denied): 0 bad images are allowed; mend"),
]
ALLOW = "(Permission denied): allow writing there, or choose another place"
AWAY = "move the file away that stands where a folder is needed"
UNWRITABLE = [
    (f"train data=data run=shut/new {TRAIN}", f"shut/new/run.lock cannot be written {ALLOW}"),
    (f"train data=data run=shut/run {TRAIN}", f"shut/run/run.lock cannot be written {ALLOW}"),
    (f"train data=data run=file {TRAIN}", AWAY),
    (f"train data=data run=file/new {TRAIN}", AWAY),
    (f"grid grid=samplers data=data out=shut/new {TRAIN}", f".yaml cannot be written {ALLOW}"),
    (f"grid grid=samplers data=data out=file {TRAIN}", AWAY),
    ("convert photos out=shut/new", f"shut/new.partial/lock cannot be written {ALLOW}"),
    ("convert photos out=file", "out=file is no folder: choose another one"),
    ("convert photos out=file/new", "file/new.partial: Not a directory"),
    ("predict run photos/test --out shut/new.csv", f"shut/new.csv.lock cannot be written {ALLOW}"),
    ("predict run photos/test --out file/new.csv", AWAY),
    ("report run --out shut/new", f"cannot be written {ALLOW}"),
    ("report run --out file", AWAY),
    ("shards describe data --picture shut/new.png", f"--picture=shut/new.png cannot be written {ALLOW}"),
    ("checkpoint export run --out shut/new.safetensors", f"--out=shut/new.safetensors cannot be written {ALLOW}"),
    ("checkpoint export run --out file/new.safetensors", AWAY),
]


def refused(command: str, cwd: Path, message: str) -> None:
    name, *arguments = command.split()
    done = run(str(ROOT / "tests" / "unprivileged.py"), "-m", f"fastlt.{name}", *arguments, cwd=cwd)
    code, said = done.returncode, done.stdout + done.stderr
    lines = said.splitlines()
    assert code in (1, 2) and message in said and "Traceback" not in said, (code, said)
    assert sum(line.startswith(("error: ", "failed: ")) for line in lines) <= 1, said
    assert not any(path.name.startswith("new") for path in cwd.rglob("*")), said  # nothing is half-written


@pytest.mark.parametrize(("name", "command", "message"), UNREADABLE)
def test_what_may_not_be_read_is_named(name: str, command: str, message: str, place: Path) -> None:
    mode = (place / name).stat().st_mode
    (place / name).chmod(0)
    try:
        refused(command, place, message)
    finally:
        (place / name).chmod(mode)


@pytest.mark.parametrize(("command", "message"), UNWRITABLE)
def test_what_may_not_be_written_is_named(command: str, message: str, place: Path) -> None:
    for folder in ("shut/run", "shut"):
        (place / folder).chmod(0o555)
    try:
        refused(command, place, message)
    finally:
        for folder in ("shut", "shut/run"):
            (place / folder).chmod(0o755)
