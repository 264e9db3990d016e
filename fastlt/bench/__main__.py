"""python -m fastlt.bench convert|index|kernels|loader|stage2|train [key=value ...]: table on stderr, JSON on stdout."""

import datetime
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastlt.bench.convert import bench_convert
from fastlt.bench.index import bench_index
from fastlt.bench.kernels import bench_kernels
from fastlt.bench.loader import bench_loader
from fastlt.bench.loader_stages import bottleneck
from fastlt.bench.plot import plot
from fastlt.bench.rows import append, last_run, markdown
from fastlt.bench.stage2 import bench_stage2
from fastlt.bench.train import bench_train
from fastlt.core import device as machine
from fastlt.core.cli import guard, hydra_command
from fastlt.core.errors import UserError
from fastlt.core.log import say
from fastlt.experiment.config import BenchConfig

BENCHES = {
    "convert": bench_convert,
    "index": bench_index,
    "kernels": bench_kernels,
    "loader": bench_loader,
    "stage2": bench_stage2,
    "train": bench_train,
}
# The keys that say what was measured, written down with the rows.
SETTINGS = {
    "convert": ("copies",),
    "index": ("samples",),
    "kernels": ("size",),
    "loader": ("files", "copies", "batch", "threads"),
    "stage2": ("size",),
    "train": ("backbone", "batch", "image_size", "compile", "threads"),
}


@hydra_command("bench", BenchConfig)
def measure(cfg: Any) -> None:
    """Runs the benchmark that the command line names first."""
    if cfg.plot and not cfg.rows:
        raise UserError(f"plot={cfg.plot} is drawn from rows: add rows=FILE.jsonl")
    device = machine.pick_device("cpu" if _name in ("convert", "index") else cfg.device)
    machine.work_on(device)
    threads = machine.set_threads(cfg.threads)
    rows = BENCHES[_name](cfg)
    about = {
        "bench": _name,
        "settings": {key: cfg.backbone.name if key == "backbone" else cfg[key] for key in SETTINGS[_name]},
        "device": machine.describe(device, threads),
        "versions": machine.versions(),
    }
    if cfg.rows:
        date = datetime.datetime.now(tz=datetime.UTC).isoformat(timespec="seconds")
        append(rows, {**about, "date": date}, Path(cfg.rows))
        if cfg.plot:
            plot(last_run(Path(cfg.rows)), Path(cfg.plot))
    say(markdown(rows))
    if line := bottleneck(rows):
        say(line)
    sys.stdout.write(json.dumps({**about, "rows": [asdict(row) for row in rows]}) + "\n")


def _first_argument() -> str:
    name = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if name not in BENCHES:
        raise UserError(f"benchmark {name!r} is unknown: allowed are {', '.join(BENCHES)}")
    return name


_name = ""

if __name__ == "__main__":

    def _main() -> None:
        global _name
        _name = _first_argument()
        measure()

    guard(_main)
