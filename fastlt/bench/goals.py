"""Compares the rows that benchmarks wrote to a file with the goals: python -m fastlt.bench.goals ROWS."""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastlt.core.cli import guard
from fastlt.core.errors import UserError

MET, MISSED = "met", "MISSED"


@dataclass(frozen=True)
class Goal:
    """A bound for the median of a case.

    bench: the name of the benchmark. device: `cpu` or `gpu`. case: the name of the case or ratio.
    least, most: the allowed range, in the unit of the row.
    backbone: the only network the goal is for; None if the benchmark has none, or for all.
    """

    bench: str
    device: str
    case: str
    least: float = float("-inf")
    most: float = float("inf")
    backbone: str | None = None

    def fits(self, line: dict[str, Any]) -> bool:
        """Whether the goal is about a row. line: as a benchmark writes it."""
        device = "cpu" if line["device"].startswith("cpu") else "gpu"
        same = (self.bench, self.device, self.case) == (line["bench"], device, line["case"])
        return same and self.backbone in (None, line.get("settings", {}).get("backbone"))

    @property
    def bound(self) -> str:
        """The bound as it is printed, such as `>= 1.5`."""
        return f">= {self.least:g}" if self.most == float("inf") else f"<= {self.most:g}"


STAGE2_GOAL = 60 / 4  # seconds for all classifiers on one representation: four representations take a minute

GOALS = [
    Goal("loader", "cpu", "fastlt_jpeg / ffcv_jpg", least=1.5),
    Goal("loader", "cpu", "fastlt_jpeg / torch", least=3),
    Goal("loader", "cpu", "fastlt_jpeg / decode_ceiling", least=0.85),
    Goal("loader", "cpu", "fastlt_raw / ffcv_raw", least=2.5),
    Goal("loader", "cpu", "fastlt_auto_class / fastlt_auto_jpeg_class", least=1.6),
    Goal("loader", "cpu", "fastlt_jpeg_randaugment / fastlt_jpeg", least=0.85),
    Goal("loader", "cpu", "fastlt_jpeg_randaugment / torch_randaugment", least=2.5),
    Goal("loader", "cpu", "fastlt_small_augmented / torch_small_augmented", least=3),
    Goal("loader", "cpu", "first_batch_warm", most=3),
    Goal("loader", "gpu", "fastlt_jpeg / decode_ceiling", least=0.95),
    Goal("loader", "gpu", "fastlt_jpeg", least=8000),  # torchvision's decoder on an A100
    *(
        Goal("loader", device, f"fastlt_jpeg_{law} / fastlt_jpeg", least=0.97)
        for device in ("cpu", "gpu")
        for law in ("class", "sqrt", "progressive")
    ),
    *(
        goal
        for device in ("cpu", "gpu")
        for goal in (
            Goal("kernels", device, "class_mean_all / memory_read", most=3),
            Goal("kernels", device, "tau_all / matmul", most=1.2),
            Goal("kernels", device, "curve_difference", most=1e-6),
        )
    ),
    Goal("train", "gpu", "real / synthetic", least=0.98),
    Goal("train", "gpu", "real", least=3040, backbone="resnet50"),  # FFCV on an A100
    Goal("stage2", "gpu", "every_classifier", most=STAGE2_GOAL),
]


def judge(lines: list[dict[str, Any]]) -> list[list[str]]:
    """Returns (bench, settings, case, value, goal, verdict) for every row that has a goal.

    lines: rows as the benchmarks write them with rows=FILE.
    """
    table = []
    for line in lines:
        for goal in GOALS:
            if goal.fits(line):
                settings = ", ".join(f"{key}={value}" for key, value in line.get("settings", {}).items())
                value = f"{line['median']:.3g} ({line['p20']:.3g}..{line['p80']:.3g}) {line['unit']}"
                met = goal.least <= line["median"] <= goal.most
                table.append([goal.bench, settings, goal.case, value, goal.bound, MET if met else MISSED])
    return table


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert all(line.keys() >= {"bench", "device", "case", "median", "p20", "p80", "unit"} for line in lines)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give a file that a benchmark wrote with rows=FILE") from None
    except (ValueError, AttributeError, AssertionError):
        raise UserError(f"{path} holds no rows of a benchmark: give a file that one wrote with rows=FILE") from None
    return lines


def _command() -> None:
    parser = argparse.ArgumentParser(prog="python -m fastlt.bench.goals", description=__doc__)
    parser.add_argument("rows", type=Path)
    table = [["bench", "settings", "case", "median (p20..p80)", "goal", ""], *judge(_read(parser.parse_args().rows))]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    for row in table:
        padded = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write(f"{padded.rstrip()}\n")


if __name__ == "__main__":
    guard(_command)
