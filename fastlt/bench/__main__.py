"""The command `python -m fastlt.bench convert|index|kernels|loader|stage2|train [key=value ...]`.

It prints a table on stderr, and one JSON object with the same rows as the last line of stdout.
"""

import datetime
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastlt.bench.config import BenchConfig
from fastlt.bench.convert import bench_convert
from fastlt.bench.index import bench_index
from fastlt.bench.kernels import bench_kernels
from fastlt.bench.loader import bench_loader
from fastlt.bench.loader_stages import bottleneck
from fastlt.bench.plot import plot
from fastlt.bench.rows import append, check_rows, last_run, markdown
from fastlt.bench.stage2 import bench_stage2
from fastlt.bench.train import bench_train
from fastlt.core import device as machine
from fastlt.core.cli import guard, hydra_command
from fastlt.core.errors import UserError
from fastlt.core.help import Help
from fastlt.core.log import say
from fastlt.core.structured import from_node
from fastlt.kernels.cache import writable

BENCHES = {
    "convert": bench_convert,
    "index": bench_index,
    "kernels": bench_kernels,
    "loader": bench_loader,
    "stage2": bench_stage2,
    "train": bench_train,
}
# The keys of each benchmark that are recorded with its rows, because they determine what was measured.
SETTINGS = {
    "convert": ("copies",),
    "index": ("samples",),
    "kernels": ("size",),
    "loader": ("files", "copies", "batch", "threads"),
    "stage2": ("size",),
    "train": ("backbone", "batch", "image_size", "compile", "threads"),
}


HELP = Help(
    f"python -m fastlt.bench {'|'.join(BENCHES)} [KEY=VALUE ...]",
    "Measures this machine, beside other libraries where they are installed. Prints a table on stderr, and the same "
    "rows as one JSON object on the last line of stdout.",
    [
        "python -m fastlt.bench loader images=photos threads=2",
        "python -m fastlt.bench stage2 size=imagenet_lt",
        "python -m fastlt.bench train backbone=resnet32 rows=train.jsonl",
    ],
)


@hydra_command("bench", BenchConfig, HELP)
def measure(node: Any) -> None:
    """Runs the benchmark that is the first argument of the command line."""
    config = from_node(node, BenchConfig)
    if config.plot and not config.rows:
        raise UserError(f"plot={config.plot} is drawn from rows: add rows=FILE.jsonl")
    for key in ("copies", "rounds"):
        if getattr(config, key) < 1:
            raise UserError(f"{key}={getattr(config, key)}: it must be at least 1")
    if config.rows:
        check_rows(Path(config.rows))
    if config.scratch is not None and not writable(Path(config.scratch)):
        raise UserError(f"scratch={config.scratch}: no files can be written there; choose another folder")
    device = machine.pick_device("cpu" if _name in ("convert", "index") else config.device)
    machine.work_on(device)
    threads = machine.set_threads(config.threads)
    rows = BENCHES[_name](config)
    about = {
        "bench": _name,
        "settings": {key: getattr(getattr(config, key), "name", getattr(config, key)) for key in SETTINGS[_name]},
        "device": machine.describe(device, threads),
        "versions": machine.versions(),
    }
    say(markdown(rows))
    if line := bottleneck(rows):
        say(line)
    sys.stdout.write(json.dumps({**about, "rows": [asdict(row) for row in rows]}) + "\n")
    if config.rows:
        date = datetime.datetime.now(tz=datetime.UTC).isoformat(timespec="seconds")
        append(rows, {**about, "date": date}, Path(config.rows))
        if config.plot:
            plot(last_run(Path(config.rows)), Path(config.plot))


def _first_argument() -> str:
    if {"-h", "--help"} & set(sys.argv[1:]):
        return ""
    name = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if name not in BENCHES:
        raise UserError(f"benchmark {name!r} is unknown: allowed are {', '.join(BENCHES)}")
    return name


_name = ""


def main() -> None:
    """Runs the command."""

    def command() -> None:
        global _name
        _name = _first_argument()
        measure()

    guard(command)


if __name__ == "__main__":
    main()
