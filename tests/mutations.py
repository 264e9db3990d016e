"""Damages files that fastlt wrote and looks at what becomes of it: one clear line, a named substitution, or the same.

    python tests/mutations.py [--each 1000] [--seed 0] [ARTEFACT ...]

prints a table: artefact x outcome. Every artefact is used by a process of its own with a limit on time and memory, so
that a crash and a hang are outcomes, too.
"""

import argparse
import contextlib
import io
import json
import os
import random
import resource
import selectors
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

TESTS = Path(__file__).parent
KINDS = ("bits", "cut", "zeros", "swap", "foreign", "edit")
NAMES = (
    *("index.h5", "dataset.json", "shards, raw", "shards, JPEG", ".idx, by verify", "conversion's journal"),
    *("partial shards", "checkpoint, unfinished", "checkpoint before", "checkpoint, finished", "metrics.jsonl"),
    *("representation=", "features.h5", "features.h5.part", "classifiers", "a run read by predict", "results.json"),
    *("config.yaml", "grid: a cell's file", "grid.json, failed.json", "features=FILE"),
)
ALLOWED = ("clear", "substituted", "equal")
OUTCOMES = (*ALLOWED, "traceback", "crash", "hang", "silent")
SECONDS = 60.0  # that one use may take before it counts as hanging
MEMORY = 2 << 30  # bytes that one use may take beside what the process holds


@dataclass(frozen=True)
class Artefact:
    """Files that fastlt wrote, and what is done with them.

    make: writes them, and all that is needed beside, into an empty folder. use: what comes out of them, as anything
    that has a repr. files: which of those in the folder are damaged, as a pattern. differs: other results are no lie if
    a line says what was left out, as with an image that is replaced by another one.
    """

    make: Callable[[Path], None]
    use: Callable[[Path], Any]
    files: str
    differs: bool = False


class Outcome(NamedTuple):
    """One of OUTCOMES, and what was said."""

    kind: str
    told: str


# --- damage ---


def damage(path: Path, kind: str, chance: random.Random) -> None:
    """Changes a file in one of KINDS' ways."""
    data = bytearray(path.read_bytes())
    size = max(1, len(data))
    if kind == "foreign":
        _replace(path, data, chance)
        return
    if kind == "edit" and path.suffix in (".json", ".jsonl", ".yaml"):
        path.write_bytes(_edited(data.decode("latin-1"), chance).encode("latin-1"))  # some begin with a digest in bytes
        return
    if kind == "cut":
        del data[chance.randrange(size) :]
    elif kind == "zeros":
        begin, length = chance.randrange(size), 2 ** chance.randrange(13)
        data[begin : begin + length] = bytes(len(data[begin : begin + length]))
    elif kind == "swap":
        length = 2 ** chance.randrange(max(1, min(10, (size // 2).bit_length())))
        one, other = (chance.randrange(max(1, size - length)) for _ in range(2))
        data[one : one + length], data[other : other + length] = data[other : other + length], data[one : one + length]
    else:
        for _ in range(2 ** chance.randrange(4)):
            data[chance.randrange(size)] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def _replace(path: Path, data: bytearray, chance: random.Random) -> None:
    """Something else is in the place of the file, or of a part of it."""
    what = chance.randrange(12)
    if what == 0:
        path.unlink()
    elif what == 1:
        path.unlink()
        path.mkdir()
    elif what == 2:
        path.unlink()
        os.mkfifo(path)
    elif what == 3:
        path.unlink()
        path.symlink_to(path.name)
    elif what == 4:
        path.write_bytes(chance.choice([b"[]", b"null", b"{}", b"[" * 100_000, b'{"a":' * 5000 + b"1" + b"}" * 5000]))
    elif what == 5:
        path.write_bytes(chance.choice([b"\x89HDF\r\n\x1a\n", b"PK\x03\x04", b"\x80\x02", b"\x00"]) + bytes(500))
    elif what == 6:
        path.write_bytes(chance.randbytes(len(data)))
    elif what == 7:
        path.write_bytes(data + chance.randbytes(1 + chance.randrange(5000)))
    else:
        begin = chance.randrange(max(1, len(data)))
        piece = chance.randbytes(2 ** chance.randrange(12))
        path.write_bytes(data[:begin] + piece + data[begin + len(piece) * chance.randrange(2) :])


def _edited(text: str, chance: random.Random) -> str:
    """Another value in the place of one of a text's: still valid JSON or YAML, most often."""
    value = chance.choice(["null", "[]", "{}", "-1", "1e308", "true", '"x"', "99999999999999999999", '"\\u001b[2J"'])
    places = [place for place, letter in enumerate(text) if letter == ":"]
    if not places:
        return text + value
    begin = chance.choice(places) + 1
    end = min((end for end in (text.find(mark, begin) for mark in ",\n}") if end >= 0), default=len(text))
    return f"{text[:begin]} {value}{text[end:]}"


# --- use, in a process of its own ---


class Uses:
    """The artefacts of this process, each made once."""

    def __init__(self, artefacts: dict[str, Artefact], folder: Path):
        self._artefacts, self._folder = artefacts, folder
        self._expected: dict[str, tuple[str, str]] = {}

    def try_one(self, name: str, kind: str, seed: int) -> Outcome:
        """What becomes of an artefact that is damaged."""
        artefact, pristine = self._artefacts[name], self._folder / name
        if name not in self._expected:
            shutil.rmtree(pristine, ignore_errors=True)
            pristine.mkdir(parents=True)
            artefact.make(pristine)
            self._use(name)  # whatever is compiled or imported at first use is there now
            self._expected[name] = self._use(name)
            again = self._use(name)
            assert again == self._expected[name], (name, again, self._expected[name])
        chance = random.Random(f"{name} {kind} {seed}")
        try:
            result, said = self._use(name, lambda path: damage(path, kind, chance), chance)
        except BaseException as error:
            return _raised(error)
        expected, usual = self._expected[name]
        told = "; ".join(line for line in said.splitlines() if line not in usual.splitlines())
        if result == expected:
            return Outcome("substituted" if told else "equal", told)
        return Outcome("substituted" if told and artefact.differs else "silent", told)

    def _use(
        self, name: str, harm: Callable[[Path], None] | None = None, chance: random.Random | None = None
    ) -> tuple[str, str]:
        """(what comes out of an artefact, what is said) in a copy of its folder."""
        artefact, work = self._artefacts[name], self._folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(self._folder / name, work, symlinks=True)
        if harm is not None and chance is not None:
            harm(chance.choice(sorted(path for path in work.glob(artefact.files) if path.is_file())))
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()), _limited():
            result = repr(artefact.use(work))
        return result, said.getvalue()


def _raised(error: BaseException) -> Outcome:
    from fastlt.core.errors import UserError

    told = str(error)
    if isinstance(error, UserError) and told and "\n" not in told and len(told) < 2000:
        return Outcome("clear", told)
    return Outcome("traceback", "".join(traceback.format_exception(error))[-3000:])


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """No use may ask for more memory than MEMORY."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    held = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (int(held.split()[1]) * 1024 + MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _serve(folder: Path) -> None:
    import torch
    from mutated import ARTEFACTS

    assert tuple(ARTEFACTS) == NAMES
    torch.set_num_threads(1)
    uses, answers = Uses(ARTEFACTS, folder), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever is printed is no answer
    for line in sys.stdin:
        outcome = uses.try_one(*json.loads(line))
        answers.write(json.dumps(outcome) + "\n")
        answers.flush()


class Process:
    """A process that tries damaged artefacts, and is started again when it ends or hangs."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._child: subprocess.Popen[bytes] | None = None

    def try_one(self, name: str, kind: str, seed: int) -> Outcome:
        """As Uses.try_one; a crash and a hang are told."""
        if self._child is None:
            self._begun = set[str]()
            command = [sys.executable, __file__, "--serve", str(self._folder)]
            rooms = [str(path) for path in sorted(TESTS.iterdir()) if path.is_dir()]
            path = os.pathsep.join([str(TESTS.parent), str(TESTS), *rooms])
            self._child = subprocess.Popen(
                command, env={**os.environ, "PYTHONPATH": path}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        child = self._child
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(json.dumps([name, kind, seed]).encode() + b"\n")
        child.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            # The first time it is made, and whatever that needs is compiled.
            answered = selector.select(SECONDS * (1 if name in self._begun else 5))
        self._begun.add(name)
        line = child.stdout.readline() if answered else b""
        if line:
            return Outcome(*json.loads(line))
        self.close()
        return Outcome("crash", f"exit code {child.returncode}") if answered else Outcome("hang", "")

    def close(self) -> None:
        """Ends the process."""
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None


# --- the table ---


def main() -> None:
    """Prints the table and whatever was not allowed; exit code 1 if anything was not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("artefacts", nargs="*", help="which ones (all)")
    parser.add_argument("--each", type=int, default=1000, help="mutations of each artefact (1000)")
    parser.add_argument("--seed", type=int, default=0, help="first one (0)")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        _serve(given.serve)
        return
    names = given.artefacts or NAMES
    wrong = 0
    sys.stdout.write(f"| artefact | {' | '.join(OUTCOMES)} |\n|---|{'---:|' * len(OUTCOMES)}\n")
    with tempfile.TemporaryDirectory() as folder:
        process = Process(Path(folder))
        for name in names:
            counts: Counter[str] = Counter()
            for number in range(given.each):
                kind, seed = KINDS[number % len(KINDS)], given.seed + number
                outcome = process.try_one(name, kind, seed)
                counts[outcome.kind] += 1
                if outcome.kind not in ALLOWED:
                    wrong += 1
                    sys.stderr.write(f"{name} {kind} {seed}: {outcome.kind}: {outcome.told}\n")
            sys.stdout.write(f"| {name} | {' | '.join(str(counts[kind]) for kind in OUTCOMES)} |\n")
            sys.stdout.flush()
        process.close()
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
