"""Predicts the images or features of a command, batch by batch, and writes predictions to stdout or into files."""

import argparse
import contextlib
from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from fastlt.core.files import writing
from fastlt.core.interrupts import Interrupts
from fastlt.core.lock import locked
from fastlt.core.log import Progress, duration, say
from fastlt.core.words import counted
from fastlt.predict import embeddings
from fastlt.predict.feature_file import FeatureFile
from fastlt.predict.images import ahead
from fastlt.predict.inputs import Images
from fastlt.predict.output import ENCODING, ERRORS, NUMBER, PATH, Layout, Row, layout, on_stdout
from fastlt.predict.parts import Parts
from fastlt.predict.paths import Paths
from fastlt.predict.predictor import NOT_FINITE, Predictor
from fastlt.stage2.conformal import Calibration

AHEAD = 2  # batches of images that are decoded while the model works


class Batch(NamedTuple):
    """What is told of consecutive images, or rows of features.

    rows: of all. seen: the places among them of those with a prediction, [n]. features: of these, float32 [n, D].
    """

    rows: list[Row]
    seen: list[int]
    features: np.ndarray


class Work:
    """The predictions of one command, and where they go.

    options: of the command. calibration: of prediction sets; None if none were asked for. given: what is predicted, the
    paths of images or the rows of a file of features. threads: that read images.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        predictor: Predictor,
        calibration: Calibration | None,
        given: Paths | FeatureFile,
        threads: int,
    ):
        self.options, self.predictor, self.calibration = options, predictor, calibration
        self.given, self.threads, self.one = given, threads, predictor.inputs.one
        self.top = min(options.top, len(predictor.class_names))
        self.told = f"classifier {predictor.name} of {options.run}"
        names, sets = predictor.class_names, calibration is not None
        named = NUMBER if isinstance(given, FeatureFile) and not given.named else PATH
        self.text: Layout = layout(options.format, self.top, names, given.longest, sets, named)

    def to_stdout(self) -> int:
        """Prints all predictions; returns the number of images or rows without one."""
        failed = 0
        with on_stdout() as write, self._progress(0) as progress, closing(self._batches(0)) as batches:
            write(self.text.head)
            for batch in batches:
                write("".join(map(self.text.line, batch.rows)))
                failed += _count(batch, progress, failed)
        return self._end(progress, failed)

    def into_files(self, files: dict[str, Path]) -> int:
        """Writes predictions and features into files, or goes on with it; returns the number of those without any."""
        with contextlib.ExitStack() as stack:
            for option, path in files.items():
                with writing(path, f"{option}={path}"):
                    path.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(path.with_name(f"{path.name}.lock"), f"{option}={path}"))
            parts = stack.enter_context(Parts(files, self._about(files)))
            interrupts = stack.enter_context(Interrupts())
            if parts.done:
                places = ", ".join(str(parts.part(one)) for one in files)
                say(f"going on after {counted(parts.done, self.one)} in {places}")
            progress = stack.enter_context(self._progress(parts.done))
            for batch in stack.enter_context(closing(self._batches(parts.done))):
                self._write(parts, files, batch)
                parts.advance(len(batch.rows), _count(batch, progress, parts.failed))
                if interrupts.signal is not None:
                    parts.save()
                    interrupts.stop(
                        f"{parts.done:,} of {counted(self.given.count, self.one)} are done, the same command goes on"
                    )
            parts.save()
            self._finish(parts, files)
            return self._end(progress, parts.failed, files)

    def _write(self, parts: Parts, files: dict[str, Path], batch: Batch) -> None:
        if "--out" in files:
            head = "" if parts.done else self.text.head
            text = head + "".join(map(self.text.line, batch.rows))
            parts.write("--out", text.encode(ENCODING, ERRORS))
        else:
            for row in batch.rows:
                if row.error is not None:
                    say(f"{row.name}: {row.error}")
        if "--features" in files:
            parts.write("--features", embeddings.raw(parts.done, batch.seen, batch.features))

    def _finish(self, parts: Parts, files: dict[str, Path]) -> None:
        if "--features" in files and parts.part("--features").exists():
            source = embeddings.Source(parts.part("--features"), self.predictor.inputs.dim, self.given)
            embeddings.write(source, files["--features"])
            parts.part("--features").unlink()
        if "--out" in files:
            parts.publish("--out")
        parts.forget()

    def _about(self, files: dict[str, Path]) -> dict[str, Any]:
        """Returns all that determines the contents of the files, for `Parts`."""
        named = ("top", "coverage", "format", "batch", "max_pixels")
        about = {f"--{name.replace('_', '-')}": getattr(self.options, name) for name in named}
        about |= {option: str(path.absolute()) for option, path in files.items()}
        about |= {"--classifier": self.predictor.name, "the model": self.predictor.digest}
        return about | {"the run's path": str(self.options.run), f"the list of {self.one}s": self.given.digest}

    def _progress(self, done: int) -> Progress:
        say(f"{self.told}, {counted(self.given.count, self.one)}")
        return Progress("predicting", self.given.count, f"{self.one}s", done=done)

    def _end(self, progress: Progress, failed: int, files: dict[str, Path] | None = None) -> int:
        where = f": {', '.join(map(str, files.values()))}" if files else ""
        say(f"{counted(self.given.count, self.one)} in {duration(progress.seconds)}, {failed:,} failed{where}")
        return failed

    def _batches(self, done: int) -> Generator[Batch, None, None]:
        """Yields the predictions after the first `done`, in the order in which they were given."""
        size, loaded = self.options.batch, self._loaded(done)
        while part := list(islice(loaded, size)):
            yield self._batch([name for name, _ in part], [one for _, one in part])

    def _loaded(self, done: int) -> Iterator[tuple[str, torch.Tensor | str]]:
        """Yields of each image or row after the first `done` its name and it as a tensor, or why it cannot be read."""
        if isinstance(self.given, FeatureFile):
            return self.given.loaded(done)
        assert isinstance(self.predictor.inputs, Images)
        load, paths = self.predictor.inputs.evaluation.load, islice(self.given, done, None)
        return ahead(lambda path: (path, load(path)), paths, self.threads, AHEAD * self.options.batch)

    def _batch(self, names: list[str], loaded: list[torch.Tensor | str]) -> Batch:
        """Returns what is told of images or rows. loaded: each as a tensor, or why it cannot be read."""
        rows = [Row(name, error=one if isinstance(one, str) else None) for name, one in zip(names, loaded, strict=True)]
        read = {place: one for place, one in enumerate(loaded) if isinstance(one, torch.Tensor)}
        if not read:
            return Batch(rows, [], np.empty((0, self.predictor.inputs.dim), np.float32))
        features, scores = self.predictor.forward(torch.stack(list(read.values())))
        for place, row in zip(read, self._rows([names[place] for place in read], scores), strict=True):
            rows[place] = row
        finite = [rows[place].error is None for place in read]
        return Batch(rows, [place for place in read if rows[place].error is None], features.cpu().numpy()[finite])

    def _rows(self, names: list[str], scores: torch.Tensor) -> Iterator[Row]:
        """Yields what is told of images or rows with these scores [n, C]."""
        calibration, predictor, classes = self.calibration, self.predictor, self.predictor.class_names
        sets = None if calibration is None else calibration.members(predictor.probabilities(scores)).cpu().numpy()
        for place, (name, *best) in enumerate(zip(names, *predictor.most_probable(scores, self.top), strict=True)):
            if best[0][0].isnan():
                yield Row(name, error=NOT_FINITE)
                continue
            members = None if sets is None else [classes[number] for number in np.flatnonzero(sets[place])]
            yield Row(name, predictor.told(*best), members=members)


def _count(batch: Batch, progress: Progress, before: int) -> int:
    """Shows the progress and returns how many of a batch have no prediction. before: how many had none."""
    failed = sum(row.error is not None for row in batch.rows)
    progress.advance(len(batch.rows), f"{before + failed:,} failed" if before + failed else "")
    return failed
