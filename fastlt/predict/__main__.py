"""`python -m fastlt.predict RUN PATH...`: names the classes of new images."""

import argparse
import io
import os
import sys
import warnings
from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import NoReturn

import torch

from fastlt.core.cli import DEBUG, Parser, guard
from fastlt.core.device import pick_device, set_threads, work_on
from fastlt.core.errors import UserError
from fastlt.core.log import Progress, duration, say
from fastlt.predict.images import ahead
from fastlt.predict.output import LAYOUTS, Row, check_place, layout, writer
from fastlt.predict.paths import Paths
from fastlt.predict.predictor import Predictor

FAILED = 1  # exit code when an image got no prediction
AHEAD = 2  # batches of images that are decoded while the model works
NOT_FINITE = "the model gives scores that are not finite"


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m fastlt.predict",
        description="Names the classes of new images by a finished run, the most probable first, with the confidence "
        "of each. Images are seen as they were when the run was evaluated. A backbone or classifier of one's own, "
        "package.module:NAME, is imported. Exit code 0, or 1 if an image could not be read.",
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a finished run")
    parser.add_argument(
        "paths", metavar="PATH", nargs="+", help="an image, a folder of images, or - for paths on stdin, one a line"
    )
    parser.add_argument(
        "--classifier",
        metavar="NAME",
        help="one of the run's (default: crt, else tau_norm, else the first but joint)",
    )
    parser.add_argument("--top", metavar="K", type=int, default=5, help="classes told of an image (5)")
    parser.add_argument("--format", choices=LAYOUTS, default="table", help="of the output (table)")
    parser.add_argument("--out", metavar="FILE", type=Path, help="write there, not to stdout")
    parser.add_argument("--batch", metavar="N", type=int, default=64, help="images that the model sees at once (64)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (auto: a GPU if there is one)")
    parser.add_argument("--threads", metavar="N", type=int, default=0, help="0 for one per core (0)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _predict(options: argparse.Namespace) -> int:
    for name in ("top", "batch"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name}={getattr(options, name)}: it must be 1 or more")
    if options.out is not None:
        check_place(options.out)
    device, threads = pick_device(options.device), set_threads(options.threads)
    work_on(device)
    predictor = Predictor(options.run, options.classifier, device)
    top = min(options.top, len(predictor.class_names))
    failed = 0
    stdin = sys.stdin.buffer if sys.stdin else io.BytesIO()  # None where whoever started this closed it
    with Paths(options.paths, stdin) as paths:
        told = f"classifier {predictor.name} of {options.run}"
        text = layout(options.format, top, predictor.class_names, paths.longest, told)
        with (
            writer(options.out) as write,
            Progress("predicting", paths.count) as progress,
            closing(_rows(paths, predictor, top, options.batch, threads)) as parts,
        ):
            say(f"{told}, {paths.count:,} images")
            write(text.head)
            for rows in parts:
                write("".join(map(text.line, rows)))
                failed += sum(row.error is not None for row in rows)
                progress.advance(len(rows), f"{failed:,} failed" if failed else "")
        say(f"{paths.count:,} images in {duration(progress.seconds)}, {failed:,} failed")
    return FAILED if failed else 0


def _rows(paths: Paths, predictor: Predictor, top: int, batch: int, threads: int) -> Generator[list[Row], None, None]:
    """Rows in the order of the paths, about `batch` at once."""
    loaded = ahead(lambda path: (path, predictor.evaluation.load(path)), paths, threads, AHEAD * batch)
    while part := list(islice(loaded, batch)):
        images = [image for _, image in part if isinstance(image, torch.Tensor)]
        best = iter(_best(images, predictor, top)) if images else iter(())
        yield [Row(path, error=image) if isinstance(image, str) else _row(path, next(best)) for path, image in part]


def _best(images: list[torch.Tensor], predictor: Predictor, top: int) -> Iterator[list[tuple[str, float]]]:
    confidences, classes = predictor.top(torch.stack(images), top)
    for values, numbers in zip(confidences.tolist(), classes.tolist(), strict=True):
        yield [(predictor.class_names[number], value) for number, value in zip(numbers, values, strict=True)]


def _row(path: str, best: list[tuple[str, float]]) -> Row:
    finite = best[0][1] == best[0][1]
    return Row(path, best) if finite else Row(path, error=NOT_FINITE)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command and exits: 0, 1 if an image got no prediction, 2 after one line about wrong input."""

    def command() -> NoReturn:
        options = _parser().parse_args(arguments)
        if options.debug:
            os.environ[DEBUG] = "1"
        # Pillow's remarks on odd metadata. Here, as threads that silence them one by one would undo each other's.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sys.exit(_predict(options))

    guard(command)


if __name__ == "__main__":
    main()
