"""The command `python -m fastlt.train`: one experiment, from a converted dataset to a report.

It trains a representation (stage 1), extracts its features, fits classifiers on them (stage 2), evaluates them on the
test split, and writes results.json and the report into the run folder.
"""

import sys
from collections.abc import Callable, Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from fastlt.core.cli import hydra_command
from fastlt.core.device import pick_device, set_threads, work_on
from fastlt.core.errors import UserError
from fastlt.core.help import Help
from fastlt.core.lock import locked
from fastlt.core.log import regretted, say
from fastlt.core.overrides import quoted
from fastlt.core.ranks import ALONE, Ranks, join, ranks_here
from fastlt.core.structured import from_node
from fastlt.core.yaml_file import read_yaml, write_yaml
from fastlt.data.augmentations import AUGMENTATIONS
from fastlt.data.convert.engine import PROTOCOLS
from fastlt.data.hold_out import hold_out
from fastlt.data.shards.reader import Dataset
from fastlt.experiment.choosing import choose_split
from fastlt.experiment.config import TrainConfig
from fastlt.experiment.departures import find_departures
from fastlt.experiment.embedded import EMBEDDED, draw_embedded
from fastlt.experiment.given import GivenDataset, open_dataset, usual_trainings
from fastlt.experiment.identity import run_folder
from fastlt.experiment.kept import CONFIG_FILE, keep_rows, take_from_run
from fastlt.experiment.loaders import check_batch
from fastlt.experiment.memory import memory_told
from fastlt.experiment.precision import take_precision
from fastlt.experiment.results import FROZEN, write_results
from fastlt.experiment.retrain import retrainings
from fastlt.experiment.run import run_experiment
from fastlt.longtail.losses import LOSSES
from fastlt.models.checkpoint.pretrained import pretrained_identity
from fastlt.models.libraries import inputs_of
from fastlt.registry import is_own
from fastlt.report import write_report
from fastlt.report.table import results_table
from fastlt.stage2.classifiers import CLASSIFIERS, IMAGE_CLASSIFIERS, SETS
from fastlt.stage2.estimators.trained import STEPS

SEEN_BY = ("backbone.name", "protocol.name", "protocol.pretrained")  # keys that determine how images are preprocessed
LOCK = "run.lock"  # lock file in the run folder, held while a process writes into the folder


HELP = Help(
    "python -m fastlt.train [KEY=VALUE ...]",
    "Trains a representation on a converted dataset (stage 1), fits classifiers on its features (stage 2), evaluates "
    "them on the test split, and writes results.json and a report into the run folder. Without arguments it does so on "
    "the embedded dataset. The same command goes on where it was stopped, and computes nothing twice.",
    [
        "python -m fastlt.train data=data/c100",
        "python -m fastlt.train data=data/photos backbone=resnet50 sampler=class epochs=30 run=runs/photos",
        "python -m fastlt.train run=runs/photos 'classifiers=[crt,lws,cosine]'    # further classifiers on that run",
        "python -m fastlt.train features=features.npz                             # stage 2 on features of your own",
    ],
    ["protocol", "backbone", "sampler"],
    {
        "classifiers": (*SETS, *CLASSIFIERS, *IMAGE_CLASSIFIERS),
        "protocol.loss": LOSSES,
        "protocol.augment": AUGMENTATIONS,
    },
)


def _values(composed: Any) -> dict[str, Any]:
    """Returns the values that a training would take, for --cfg job."""
    overrides = list(HydraConfig.get().overrides.task)
    composed = take_from_run(composed, overrides)
    if composed.data in EMBEDDED and not composed.features and not Path(composed.data).exists():
        named = ["protocol=demo"] if composed.protocol.name == "auto" else []
        return asdict(from_node(hydra.compose("train", [*overrides, *named]), TrainConfig))
    return asdict(resolve(composed, overrides, open_dataset(composed)))


@hydra_command("train", TrainConfig, HELP, _values)
def main(config: Any) -> None:
    """Runs the command. The last line of stdout is the path of the report."""
    run_configured(config, list(HydraConfig.get().overrides.task), sys.stdout.write)


def run_configured(composed: Any, overrides: list[str], tell: Callable[[str], object] | None = None) -> Path | None:
    """Runs the experiment that a configuration describes and returns its folder; returns None on ranks other than 0.

    composed: the configuration (a DictConfig) that Hydra composed from `overrides`.
    overrides: the key=value arguments of the user. They are composed again if they leave the protocol to the dataset,
        so Hydra must be initialized.
    tell: as in `train`.
    """
    composed = take_from_run(composed, overrides)
    ranks = ranks_here()
    device = pick_device(composed.device, ranks.local)
    if not composed.features:
        if ranks.world > 1 and composed.data in EMBEDDED and not Path(composed.data).exists():
            raise UserError(f"{composed.data} is not there yet: let one process draw it with python -m fastlt.train")
        draw_embedded(composed.data)
    elif ranks.world > 1:
        raise UserError(f"features={composed.features}: one process trains on features, start it without torchrun")
    dataset = open_dataset(composed)
    config = resolve(composed, overrides, dataset)
    departures = find_departures(config, dataset)
    alone = ranks.world == 1
    config, line = settle_precision(config, dataset, device.type, lambda config: run_folder(config, dataset), alone)
    choose_split(config, dataset)  # raises an error, if any, before anything is written
    folder = run_folder(config, dataset)
    threads = set_threads(config.threads, ranks.neighbours)
    work_on(device)
    join(ranks, device)
    if line:
        say(line)
    if not ranks.main:
        train(config, dataset, folder, device, threads, departures, ranks)
        return None
    with locked(folder / LOCK, f"run={folder}"):
        train(config, dataset, folder, device, threads, departures, ranks, tell=tell)
    return folder


def resolve(composed: Any, overrides: list[str], dataset: Dataset) -> TrainConfig:
    """Returns the checked configuration; with protocol=auto, the dataset's own protocol is taken.

    Raises UserError for a value that is not allowed.
    """
    if isinstance(dataset, GivenDataset):
        overrides = [*dataset.overrides(overrides), *overrides]
    if composed.protocol.name == "auto":
        frozen = any(one.replace(" ", "") in ("epochs=0", "protocol.epochs=0") for one in overrides)
        protocol = FROZEN if frozen else dataset.about["protocol"]
        named = f"protocol={quoted(protocol)}"  # quoted: no null, no true
        images = len(dataset.split("train"))
        composed = hydra.compose("train", [*overrides, named])
        usual = usual_trainings(images) if frozen else _for_few(composed.protocol, images, _keys(overrides))
        if usual:
            overrides = [*(f"{key}={value}" for key, value in usual.items() if key not in _keys(overrides)), *overrides]
            composed = hydra.compose("train", [*overrides, named])
    if not isinstance(dataset, GivenDataset):
        see_as_backbone(composed, overrides)
    config = from_node(composed, TrainConfig)
    _check_options(config, overrides)
    retrainings(config)  # raises an error, if any, before anything is written
    if config.epochs and not config.representation and not isinstance(dataset, GivenDataset):
        train = dataset.split("train")
        groups = dataset.image_groups("train") if config.hold_out else None
        kept, _ = hold_out(train.class_start, train.class_members, config.hold_out, config.seed, groups)
        check_batch(config.protocol.batch, len(kept))
    return config


def _check_options(config: TrainConfig, overrides: list[str]) -> None:
    """Raises UserError for stage2.options.NAME among the overrides where no classifier that is asked for has this NAME.

    Options of a run folder's config.yaml may be of classifiers that are not asked for this time.
    """
    own = [name.rpartition(":")[2] for name in config.classifier_names if is_own(name)]
    for override in OverridesParser.create().parse_overrides(overrides):
        section, _, name = override.key_or_group.partition("stage2.options")
        value = override.value()
        named = [name.split(".")[1]] if name else list(value) if isinstance(value, dict) else []
        if not section and (unknown := [one for one in map(str, named) if one not in own]):
            allowed = (
                f"allowed are {', '.join(own)}" if own else "only those of your own, module:NAME, have options here"
            )
            raise UserError(f"stage2.options.{unknown[0]}: no classifier of this name is asked for; {allowed}")


def _for_few(protocol: Any, images: int, given: list[str]) -> dict[str, Any]:
    """Returns settings by key that suit few images of one's own, in place of those of a default protocol.

    protocol: the composed protocol. images: number of training images. given: keys that the user has set.

    Stage 1 then has at least four batches an epoch, with the learning rate in proportion, and a training of a
    classifier at least 300 steps, as on features that are given.
    """
    few: dict[str, Any] = {}
    if protocol.name not in PROTOCOLS:
        return few
    if 4 * protocol.batch > images and "protocol.batch" not in given:
        few["protocol.batch"] = batch = 1 << max(images // 4, 1).bit_length() - 1
        few["protocol.lr"] = protocol.lr * batch / protocol.batch
    if protocol.crt.epochs * (images // min(images, protocol.crt.batch)) < STEPS:
        few |= usual_trainings(images)
    return few


def see_as_backbone(composed: Any, overrides: list[str]) -> None:
    """Sets, in place, the preprocessing of images that the backbone asks for, except for keys that the user gave.

    Nothing is changed for an existing run folder with the same backbone, protocol and weights, whose config.yaml has
    these settings already.

    composed: the configuration. overrides: the user's key=value arguments.
    """
    given, path = _keys(overrides), Path(composed.run or "", CONFIG_FILE)
    if composed.run and path.exists():
        before = read_yaml(path, "choose another run=DIR, or delete it to give all keys")
        if all(OmegaConf.select(before, key) == OmegaConf.select(composed, key) for key in SEEN_BY):
            return
    wanted = inputs_of(composed.backbone.name, composed.protocol.pretrained)
    for name, value in asdict(wanted).items() if wanted else ():
        key = name if name == "image_size" else f"protocol.{name}"
        if key not in given and f"protocol.{name}" not in given:
            OmegaConf.update(composed, key, list(value) if isinstance(value, tuple) else value, merge=False)


def _keys(overrides: list[str]) -> list[str]:
    return [one.partition("=")[0].lstrip("+") for one in overrides]


def settle_precision(
    config: TrainConfig, dataset: Dataset, device: str, folder: Callable[[TrainConfig], Path], alone: bool
) -> tuple[TrainConfig, str]:
    """Returns the configuration with precision=auto replaced by fp32 or bf16, and the reason as a line for the log.

    The line is empty if the user chose the precision. device, folder, alone: as in `take_precision`.

    Raises UserError if there are no weights as protocol.pretrained names them.
    """
    if isinstance(dataset, GivenDataset):
        return replace(config, precision="fp32"), ""
    if config.protocol.pretrained and not config.representation:
        # Weights that cannot be had are told now: while precision=auto looks for an earlier training, no error ends it.
        pretrained_identity(config.backbone.name, config.protocol.pretrained)
    taken = take_precision(config, dataset, device, folder, alone)
    return replace(config, precision=taken.precision), taken.line


@memory_told
def train(
    config: TrainConfig,
    dataset: Dataset,
    folder: Path,
    device: torch.device,
    threads: int,
    departures: dict[str, list[Any]],
    ranks: Ranks = ALONE,
    cell: str | None = None,
    tell: Callable[[str], object] | None = None,
) -> None:
    """Runs an experiment in `folder` and writes its results and report.

    The caller holds the lock of the folder. Classifiers that an earlier run in this folder has fitted stay in the
    results.

    threads: CPU threads, for the loaders and for the description of the device in results.json.
    departures: settings that differ from the protocol's, as `find_departures` returns them.
    cell: the key of the grid cell that the experiment belongs to, if any. It is written to results.json only if all
        classifiers could be fitted, and after the report, so that an incomplete cell is computed again.
    tell: takes the table of results and the path of the report, each with a line break at its end.

    Raises UserError at the end, when everything is written, if a classifier of a grid cell could not be fitted.
    """

    def keep(classifiers: Collection[str]) -> None:
        """Writes the configuration into the folder. A later command that takes it from there must not overwrite it.

        classifiers: may name own ones of an earlier command, which are not imported, as that would run their code.
        """
        if ranks.main:
            told = {**asdict(config), "overwrite": False, "classifiers": list(classifiers)}
            write_yaml(folder / CONFIG_FILE, told)

    results = run_experiment(dataset, config, folder, device, threads, ranks, lambda: keep(config.classifiers))
    if results is None:
        return
    results = replace(results, departures=departures, cell=None if results.failed else cell)
    results = keep_rows(results, folder)
    write_results(replace(results, cell=None) if cell else results, folder)
    keep((*results.classifiers, *results.failed))
    tell = tell or (lambda _: None)
    tell(results_table(results) + "\n")
    with regretted("report"):  # a failing report must not turn a finished experiment into a failed one
        tell(f"{write_report(results, folder)}\n")
    if cell and results.failed:
        raise UserError("; ".join(f"{name}: {error}" for name, error in results.failed.items()))
    if cell:
        write_results(results, folder)  # only by this the cell is finished: one that was stopped before gets its report


if __name__ == "__main__":
    main()
