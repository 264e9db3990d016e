"""python -m fastlt.grid: all cells of a grid that are not finished, then the report."""

import os
import sys
from pathlib import Path
from typing import Any

import torch

from fastlt.core.cli import guard, hydra_command
from fastlt.core.device import pick_device
from fastlt.core.errors import UserError
from fastlt.core.lock import locked
from fastlt.core.log import say
from fastlt.experiment.config import GridConfig
from fastlt.grid.arguments import combinations, split_arguments
from fastlt.grid.cells import Cell, settle, write_plan
from fastlt.grid.estimate import print_estimate
from fastlt.grid.local import Slot, run_local, slots_here
from fastlt.grid.slurm import submit
from fastlt.grid.view import View
from fastlt.report.compare import write_across

LAUNCHERS = ("local", "slurm")
FAILED = 1  # exit code where a cell failed
REPORT_PATIENCE = 600.0  # seconds; another command may be writing it


def main() -> None:
    """The command: the grid's own keys are Hydra's here, all others go to the cells."""
    arguments: list[str] = []

    def split() -> None:
        own, cells = split_arguments(sys.argv[1:])
        sys.argv[1:] = own
        arguments.extend(cells)

    @hydra_command("grid", GridConfig)
    def command(cfg: Any) -> None:
        sys.exit(run_grid(cfg, arguments))

    guard(split)
    command()


def run_grid(cfg: Any, arguments: list[str]) -> int:
    """Computes what is missing of a grid and writes its report, whose path is the last line of stdout; the exit code,
    1 if a cell failed."""
    if cfg.launcher not in LAUNCHERS:
        raise UserError(f"launcher={cfg.launcher} is unknown: allowed are {', '.join(LAUNCHERS)}")
    slurm = cfg.launcher == "slurm"
    out = Path(cfg.out or f"runs/{cfg.grid.name}")
    device = ("cuda" if cfg.slurm.gpus else "cpu") if slurm else _device(arguments)
    cells = settle(combinations(cfg.grid.parts, arguments), out, device, here=not slurm)
    missing = [cell for cell in cells if not cell.finished]
    slots = _slots(cfg, cells, missing, device)
    if cfg.dry_run:
        # Cells that share a GPU share its speed: they count as if they came one after the other.
        print_estimate(cells, len({slot.gpu for slot in slots} - {None}) or len(slots), slots[0].threads, out)
        return 0
    write_plan(cfg.grid.name, cells, out)
    say(f"{len(cells)} cells in {out}, {len(cells) - len(missing)} of them finished")
    if slurm:
        return _submit(cfg, missing, out)
    failed = run_local(cells, slots, out, View(len(slots))) if missing else {}
    with locked(out / "report.lock", f"the report in {out}", REPORT_PATIENCE):
        say("writing the report")
        sys.stdout.write(f"{write_across([out], out)}\n")
    for name, reason in failed.items():
        sys.stderr.write(f"failed: {name}: {reason}\n")
    return FAILED if failed else 0


def _device(arguments: list[str]) -> str:
    """cpu or cuda, as asked for or as there is."""
    asked = [argument.partition("=")[2] for argument in arguments if argument.startswith("device=")]
    if asked and ":" in asked[-1]:
        which = "CUDA_VISIBLE_DEVICES=0,2 says which GPUs"
        raise UserError(f"device={asked[-1]}: a grid takes device=cpu or device=cuda; {which}")
    return pick_device(asked[-1] if asked else "auto").type


def _slots(cfg: Any, cells: list[Cell], missing: list[Cell], device: str) -> list[Slot]:
    """What cells run on: this node, or as many of the cluster's as the array may have at once."""
    if cfg.launcher == "slurm":
        many = max(1, min(len(missing), cfg.slurm.at_once))
        return [Slot(None, cfg.slurm.cpus, number) for number in range(many)]
    threads = max(cell.config.threads for cell in cells)
    cores = len(os.sched_getaffinity(0))
    return slots_here(device, torch.cuda.device_count(), cores, max(1, len(missing)), cfg.at_once, threads)


def _submit(cfg: Any, missing: list[Cell], out: Path) -> int:
    if missing:
        job = submit([cell.frozen for cell in missing], out / "jobs", cfg.slurm)
        say(f"{len(missing)} cells submitted as array {job}; later: python -m fastlt.report {out} --out {out}")
    sys.stdout.write(f"{out}\n")
    return 0


if __name__ == "__main__":
    main()
