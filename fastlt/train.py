"""python -m fastlt.train: one experiment, from a converted dataset to a table of classifiers and a report."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from fastlt.core.cli import hydra_command
from fastlt.core.device import pick_device, set_threads, work_on
from fastlt.core.errors import UserError
from fastlt.core.lock import locked
from fastlt.core.log import say
from fastlt.core.ranks import ALONE, Ranks, join, ranks_here
from fastlt.data.shards.reader import Dataset
from fastlt.experiment.config import TrainConfig
from fastlt.experiment.departures import find_departures
from fastlt.experiment.embedded import EMBEDDED, draw_embedded
from fastlt.experiment.options import Options
from fastlt.experiment.precision import take_precision
from fastlt.experiment.results import write_results
from fastlt.experiment.run import run_experiment
from fastlt.report import write_report
from fastlt.report.table import results_table

LOCK = "run.lock"  # in a run folder, held while it is written


@hydra_command("train", TrainConfig)
def main(cfg: Any) -> None:
    """Trains, classifies, evaluates, reports. The last line of stdout is the report's path."""
    run_configured(cfg, list(HydraConfig.get().overrides.task))


def run_configured(cfg: Any, overrides: list[str]) -> Path | None:
    """Runs the experiment of a configuration composed of `overrides`; its folder, on the first rank. Needs Hydra to be
    initialized, as a command and `fastlt.run_experiment` have it."""
    ranks = ranks_here()
    device = pick_device(cfg.device, ranks.local)
    if ranks.world > 1 and cfg.data in EMBEDDED and not Path(cfg.data).exists():
        raise UserError(f"{cfg.data} is not there yet: let one process draw it with python -m fastlt.train")
    draw_embedded(cfg.data)
    dataset = Dataset(cfg.data)
    cfg = resolve(cfg, overrides, dataset)
    departures = find_departures(cfg, overrides, dataset.about["protocol"])
    line = settle_precision(cfg, dataset, device.type, lambda options: _folder(cfg, options, dataset), ranks.world == 1)
    options = options_of(cfg)
    options.choose_split(dataset)  # said before anything else is
    folder = _folder(cfg, options, dataset)
    threads = set_threads(cfg.threads, ranks.neighbours)
    work_on(device)
    join(ranks, device)
    if line:
        say(line)
    if not ranks.main:
        train(cfg, dataset, folder, device, threads, departures, ranks)
        return None
    with locked(folder / LOCK, f"run={folder}"):
        train(cfg, dataset, folder, device, threads, departures, ranks)
    return folder


def resolve(cfg: Any, overrides: list[str], dataset: Dataset) -> Any:
    """The configuration with protocol and backbone named: the dataset's and the protocol's where none was asked for.

    cfg: as composed of the overrides.
    """
    if cfg.protocol.name == "auto":
        cfg = hydra.compose("train", [*overrides, f"protocol={dataset.about['protocol']}"])
    if cfg.backbone.name == "auto":
        cfg.backbone.name = cfg.protocol.backbone
    cfg.epochs = cfg.protocol.epochs if cfg.epochs is None else cfg.epochs
    cfg.image_size = cfg.protocol.image_size if cfg.image_size is None else cfg.image_size
    return cfg


def settle_precision(cfg: Any, dataset: Dataset, device: str, folder: Callable[[Options], Path], alone: bool) -> str:
    """Puts fp32 or bf16 in the place of precision=auto of a resolved configuration; why, as a line for the log.

    device, folder, alone: as in `take_precision`.
    """
    asked = cfg.precision
    if asked == "auto":
        cfg.precision = "fp32"  # so that all else is checked before anything is measured
    taken = take_precision(asked, options_of(cfg), dataset, device, folder, alone)
    cfg.precision = taken.precision
    return taken.line


def _folder(cfg: Any, options: Options, dataset: Dataset) -> Path:
    """Where a run with these options lies."""
    return Path(cfg.run or f"runs/{options.run_name(dataset)}")


def options_of(cfg: Any) -> Options:
    """The options that a resolved configuration, precision settled, stands for."""
    protocol: Any = OmegaConf.to_container(cfg.protocol, resolve=True, throw_on_missing=True)
    stage2: Any = OmegaConf.to_container(cfg.stage2, resolve=True)
    return Options(
        backbone=cfg.backbone.name,
        sampler=cfg.sampler.name,
        drawing=cfg.sampler.drawing,
        sampler_options=OmegaConf.to_container(cfg.sampler.options, resolve=True),  # type: ignore[arg-type]
        backbone_options=OmegaConf.to_container(cfg.backbone.options, resolve=True),  # type: ignore[arg-type]
        protocol=protocol,
        seed=cfg.seed,
        epochs=cfg.epochs,
        image_size=cfg.image_size,
        representation=cfg.representation,
        classifiers=list(cfg.classifiers),
        stage2=stage2,
        mode=cfg.mode,
        bn=cfg.bn,
        views=cfg.views,
        feature_dtype=cfg.feature_dtype,
        hold_out=cfg.hold_out,
        choose_on=cfg.choose_on,
        precision=cfg.precision,
        accumulate=cfg.accumulate,
        compile=cfg.compile,
        save_epochs=cfg.save_epochs,
        save_minutes=cfg.save_minutes,
        tensorboard=cfg.tensorboard,
        overwrite=cfg.overwrite,
        max_damaged=cfg.max_damaged,
    )


def train(
    cfg: Any,
    dataset: Dataset,
    folder: Path,
    device: torch.device,
    threads: int,
    departures: dict[str, list[Any]],
    ranks: Ranks = ALONE,
    further: dict[str, Any] | None = None,
) -> None:
    """Runs the experiment of a resolved configuration in `folder`, whose lock the caller holds, and writes results and
    report; the first rank prints the table and the report's path.

    departures: as in `find_departures`. further: entries added to results.json.
    """
    results = run_experiment(dataset, options_of(cfg), folder, device, threads, ranks)
    if results is None:
        return
    results |= {"departures": departures, **(further or {})}
    write_results(results, folder)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(cfg))
    sys.stdout.write(results_table(results) + "\n")
    sys.stdout.write(f"{write_report(results, folder)}\n")


if __name__ == "__main__":
    main()
