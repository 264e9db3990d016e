"""The command `python -m fastlt.grid`: computes all cells of a grid that are not finished, then writes the report."""

import os
import sys
from pathlib import Path
from typing import Any

import torch

from fastlt.core.cli import guard, hydra_command
from fastlt.core.device import pick_device
from fastlt.core.errors import UserError
from fastlt.core.help import Help
from fastlt.core.log import printed, say
from fastlt.core.structured import from_node
from fastlt.core.words import counted
from fastlt.grid.arguments import combinations, split_arguments
from fastlt.grid.cells import Cell, settle, write_plan
from fastlt.grid.config import GridConfig
from fastlt.grid.estimate import print_estimate
from fastlt.grid.job import failed_beside
from fastlt.grid.local import Slot, run_local, slots_here
from fastlt.grid.slurm import submit, time_limit
from fastlt.grid.view import View
from fastlt.report.compare import write_across

LAUNCHERS = ("local", "slurm")
FAILED = 1  # exit code if a cell, or something beside its results, failed


HELP = Help(
    "python -m fastlt.grid [grid=NAME] [KEY=VALUE ...] [--dry-run]",
    "Runs many trainings and writes one report across all of them. Keys of fastlt.train go to every training, and "
    "KEY=A,B makes trainings of both. --dry-run lists them, with time and disk from rates that are measured here. The "
    "same command skips what is finished and goes on with what is not.",
    [
        "python -m fastlt.grid grid=cifar100_lt data=data/c100 --dry-run",
        "python -m fastlt.grid grid=samplers data=data/mine protocol.loss=cross_entropy,focal out=runs/mine",
        "python -m fastlt.grid grid=imagenet_lt data=data/imagenet_lt launcher=slurm slurm.partition=gpu",
    ],
    ["grid"],
)


def main() -> None:
    """Runs the command. The grid's own keys are read by Hydra here; all others are passed to the cells."""
    arguments: list[str] = []

    def split() -> None:
        own, cells = split_arguments(sys.argv[1:])
        sys.argv[1:] = own
        arguments.extend(cells)

    @hydra_command("grid", GridConfig, HELP)
    def command(node: Any) -> None:
        sys.exit(run_grid(from_node(node, GridConfig), arguments))

    guard(split)
    command()


def run_grid(config: GridConfig, arguments: list[str]) -> int:
    """Computes the missing cells of a grid and writes its report. The last line of stdout is the path of the report.

    config: a GridConfig. arguments: those for the cells. Returns the exit code: 1 if a cell failed, or
    something beside its results, else 0.
    Raises UserError for wrong arguments before anything is computed.
    """
    if config.launcher not in LAUNCHERS:
        raise UserError(f"launcher={config.launcher} is unknown: allowed are {', '.join(LAUNCHERS)}")
    if not config.grid.parts:
        raise UserError("grid.parts=[]: a grid has at least one list of arguments, as in '[[seed=0,1]]'")
    slurm = config.launcher == "slurm"
    if slurm:
        time_limit(config.slurm)  # raises an error, if any, before anything is measured
    out = Path(config.out or f"runs/{config.grid.name}")
    device = ("cuda" if config.slurm.gpus else "cpu") if slurm else _device(arguments)
    cells = settle(combinations(config.grid.parts, arguments), out, device, here=not slurm)
    missing = [cell for cell in cells if not cell.finished]
    slots = _slots(config, cells, missing, device)
    if config.dry_run:
        # Cells that share a GPU also share its speed, so they count as if they ran one after the other.
        print_estimate(cells, len({slot.gpu for slot in slots} - {None}) or len(slots), slots[0].threads, out)
        return 0
    write_plan(config.grid.name, cells, out)
    say(f"{counted(len(cells), 'cell')} in {out}, {len(cells) - len(missing)} of them finished")
    if slurm:
        return _submit(config, missing, out)
    failed = run_local(cells, slots, out, View(len(slots))) if missing else {}
    say("writing the report")
    sys.stdout.write(f"{write_across([out], out)}\n")
    for name, reason in failed.items():
        sys.stderr.write(f"failed: {name}: {printed(reason)}\n")
    beside = [(cell.name, line) for cell in missing for line in failed_beside(cell.run) if cell.name not in failed]
    for name, line in beside:
        sys.stderr.write(f"failed beside the results: {name}: {printed(line)}\n")
    return FAILED if failed or beside else 0


def _device(arguments: list[str]) -> str:
    """Returns `cpu` or `cuda`, from the last `device=` argument or by what this machine has."""
    asked = [argument.partition("=")[2] for argument in arguments if argument.startswith("device=")]
    if asked and ":" in asked[-1]:
        which = "CUDA_VISIBLE_DEVICES=0,2 says which GPUs"
        raise UserError(f"device={asked[-1]}: a grid takes device=cpu or device=cuda; {which}")
    return pick_device(asked[-1] if asked else "auto").type


def _slots(config: GridConfig, cells: list[Cell], missing: list[Cell], device: str) -> list[Slot]:
    """Returns the slots that cells run on: those of this node, or as many as the SLURM array may use at once."""
    if config.launcher == "slurm":
        many = max(1, min(len(missing), config.slurm.at_once))
        return [Slot(None, config.slurm.cpus, number) for number in range(many)]
    threads = max(cell.config.threads for cell in cells)
    cores = len(os.sched_getaffinity(0))
    return slots_here(device, torch.cuda.device_count(), cores, max(1, len(missing)), config.at_once, threads)


def _submit(config: GridConfig, missing: list[Cell], out: Path) -> int:
    if missing:
        job = submit([cell.frozen for cell in missing], out / "jobs", config.slurm)
        say(
            f"{counted(len(missing), 'cell')} submitted as array {job}; later: python -m fastlt.report {out} --out "
            f"{out}"
        )
    sys.stdout.write(f"{out}\n")
    return 0


if __name__ == "__main__":
    main()
