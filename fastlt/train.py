"""python -m fastlt.train: one experiment, from a converted dataset to a table of classifiers and a report."""

import sys
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from fastlt.cli import hydra_command, recompose
from fastlt.config import TrainConfig
from fastlt.convert import convert_configured
from fastlt.device import pick_device, set_threads
from fastlt.errors import UserError
from fastlt.experiment import run_experiment
from fastlt.log import say
from fastlt.options import Options
from fastlt.ranks import join, ranks_here
from fastlt.report import write_report
from fastlt.report.table import results_table
from fastlt.results import write_results
from fastlt.shards.reader import Dataset

FURTHER = ("protocol.", "+protocol.", "precision=", "accumulate=")  # told in results.json as they were given
EMBEDDED = "data/shapes"  # made when it is missing; every other dataset is converted by its owner


@hydra_command("train", TrainConfig)
def main(cfg: Any) -> None:
    """Trains, classifies, evaluates, reports. The last line of stdout is the report's path."""
    ranks = ranks_here()
    device = pick_device(cfg.device, ranks.local)
    if cfg.data == EMBEDDED and not Path(EMBEDDED).exists():
        if ranks.world > 1:
            raise UserError(f"{EMBEDDED} is not there yet: let one process draw it with python -m fastlt.train")
        say("drawing the embedded data set")
        convert_configured(recompose("convert", ["dataset=shapes", f"out={EMBEDDED}"], own=False))
    threads = set_threads(cfg.threads, ranks.neighbours)
    dataset = Dataset(cfg.data)
    cfg = _resolved(cfg, dataset)
    options = _options(cfg, device)
    folder = Path(cfg.run or f"runs/{options.run_name(dataset)}")
    join(ranks, device)
    results = run_experiment(dataset, options, folder, device, threads, ranks)
    if results is None:
        return
    results["overrides"] = [given for given in HydraConfig.get().overrides.task if given.startswith(FURTHER)]
    write_results(results, folder)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(cfg))
    sys.stdout.write(results_table(results) + "\n")
    sys.stdout.write(f"{write_report(results, folder)}\n")


def _resolved(cfg: Any, dataset: Dataset) -> Any:
    """The configuration with protocol and backbone named: the dataset's and the protocol's where none was asked for."""
    choices = []
    if cfg.protocol.name == "auto":
        choices.append(f"protocol={dataset.about['protocol']}")
        cfg = recompose("train", choices)
    if cfg.backbone.name == "auto":
        choices.append(f"backbone={cfg.protocol.backbone}")
        cfg = recompose("train", choices)
    cfg.epochs = cfg.protocol.epochs if cfg.epochs is None else cfg.epochs
    cfg.image_size = cfg.protocol.image_size if cfg.image_size is None else cfg.image_size
    return cfg


def _options(cfg: Any, device: torch.device) -> Options:
    precision = ("bf16" if device.type == "cuda" else "fp32") if cfg.precision == "auto" else cfg.precision
    protocol: Any = OmegaConf.to_container(cfg.protocol, resolve=True, throw_on_missing=True)
    stage2: Any = OmegaConf.to_container(cfg.stage2, resolve=True)
    return Options(
        backbone=cfg.backbone.name,
        sampler=cfg.sampler.name,
        drawing=cfg.sampler.drawing,
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
        precision=precision,
        accumulate=cfg.accumulate,
        compile=cfg.compile,
        save_epochs=cfg.save_epochs,
        save_minutes=cfg.save_minutes,
        tensorboard=cfg.tensorboard,
        overwrite=cfg.overwrite,
        max_damaged=cfg.max_damaged,
    )


if __name__ == "__main__":
    main()
