"""The command `python -m fastlt.predict RUN PATH...`, which predicts the classes of new images or features."""

import argparse
import io
import sys
import warnings
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NoReturn

from fastlt.core.cli import Parser, guard
from fastlt.core.device import pick_device, set_threads, work_on
from fastlt.core.errors import UserError
from fastlt.core.log import say
from fastlt.data.shards.encode import MAX_PIXELS
from fastlt.predict import embeddings
from fastlt.predict.feature_file import FeatureFile
from fastlt.predict.inputs import Images
from fastlt.predict.output import LAYOUTS
from fastlt.predict.parts import check_places
from fastlt.predict.paths import Paths
from fastlt.predict.predictor import Predictor
from fastlt.predict.work import Work

BATCH, ROWS = 64, 4096  # images, or feature vectors, that the model sees at once by default
FAILED = 1  # exit code when an image or a row got no prediction


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m fastlt.predict",
        description="Names the classes of new images by a finished run, the most probable first, with the confidence "
        "and the group (many, medium or few training images) of each. Images are seen as they were when the run was "
        "evaluated. A run on features of another network names the classes of new features. A backbone or classifier "
        "of one's own, package.module:NAME, is imported. With --out or --features, the same command goes on after an "
        "interruption. Exit code 0, or 1 if an image could not be read.",
        examples=(
            "python -m fastlt.predict runs/photos photo.jpg",
            "python -m fastlt.predict runs/photos new/ --classifier tau_norm --format csv --out predictions.csv",
            "find new -name '*.jpg' | python -m fastlt.predict runs/photos - --coverage 0.9",
            "python -m fastlt.predict runs/dino new.npz --format csv --out predictions.csv",
        ),
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a finished run")
    parser.add_argument(
        "paths",
        metavar="PATH",
        nargs="+",
        help="an image, a folder of images, or - for paths on stdin, one a line; for a run on features, one file of "
        "features: .npz, .h5, .parquet or a folder of .npy files, with x [N, D] and perhaps a column path",
    )
    parser.add_argument(
        "--classifier",
        metavar="NAME",
        help="one of the run's (default: crt, else tau_norm, else the first but joint)",
    )
    parser.add_argument("--top", metavar="K", type=int, default=5, help="classes told of an image (5)")
    parser.add_argument(
        "--coverage",
        metavar="P",
        type=float,
        help="tell of each image a set of classes, too, that contains the true one with this probability, such as 0.9",
    )
    parser.add_argument("--format", choices=LAYOUTS, default="table", help="of the output (table)")
    parser.add_argument("--out", metavar="FILE", type=Path, help="write there, not to stdout")
    parser.add_argument(
        "--features",
        metavar="FILE",
        type=Path,
        help="write the features of the backbone to this .parquet, .h5 or .npz file; predictions then need --out",
    )
    parser.add_argument(
        "--batch", metavar="N", type=int, help=f"images that the model sees at once ({BATCH}); of features {ROWS:,}"
    )
    parser.add_argument("--max-pixels", metavar="N", type=int, help=f"larger images are not read ({MAX_PIXELS})")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (auto: a GPU if there is one)")
    parser.add_argument("--threads", metavar="N", type=int, default=0, help="0 for one per core (0)")
    return parser


def _predict(options: argparse.Namespace) -> int:
    for name in ("top", "batch", "max_pixels"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise UserError(f"--{name.replace('_', '-')}={getattr(options, name)}: it must be 1 or more")
    files = {f"--{name}": path for name in ("out", "features") if (path := getattr(options, name)) is not None}
    if options.features is not None:
        embeddings.check_ending(options.features)
    if len({path.absolute() for path in files.values()}) < len(files):
        raise UserError(f"--out={options.out} and --features={options.features} are one file: give two")
    if files:
        check_places(files)
    device, threads = pick_device(options.device), set_threads(options.threads)
    work_on(device)
    predictor = Predictor(options.run, options.classifier, device)
    calibration = None if options.coverage is None else predictor.calibration(options.coverage)
    with _given(options, predictor) as given:
        work = Work(options, predictor, calibration, given, threads)
        if calibration is not None and (shortage := calibration.shortage("the held-out split")):
            say(f"note: --coverage: {shortage}")
        failed = work.into_files(files) if files else work.to_stdout()
    return FAILED if failed else 0


def _given(options: argparse.Namespace, predictor: Predictor) -> AbstractContextManager[Paths | FeatureFile]:
    """Returns what is to be predicted, and gives options their defaults, which depend on that."""
    if isinstance(predictor.inputs, Images):
        options.batch, options.max_pixels = options.batch or BATCH, options.max_pixels or MAX_PIXELS
        predictor.inputs.evaluation = predictor.inputs.evaluation.reading(options.max_pixels)
        # sys.stdin is None if the parent process closed it.
        return Paths(options.paths, sys.stdin.buffer if sys.stdin else io.BytesIO())
    options.batch = options.batch or ROWS
    for name in ("features", "max_pixels"):
        if getattr(options, name) is not None:
            option = f"--{name.replace('_', '-')}={getattr(options, name)}"
            raise UserError(f"{option} is for images, and {options.run} was trained on features: leave it out")
    if len(options.paths) > 1:
        raise UserError(
            f"{options.run} was trained on features, so one file of features is predicted, not {len(options.paths)}: "
            "give them one after the other"
        )
    return nullcontext(FeatureFile(Path(options.paths[0]), predictor.inputs.dim))


def main(arguments: list[str] | None = None) -> None:
    """Runs the command and exits with 0, with 1 if an image got no prediction, or with 2 for wrong input."""

    def command() -> NoReturn:
        options = _parser().parse_args(arguments)
        # Silences Pillow's warnings of odd metadata, for the whole process: filters are global, so threads that set
        # and restored them would interfere with each other.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sys.exit(_predict(options))

    guard(command)


if __name__ == "__main__":
    main()
