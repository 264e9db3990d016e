"""Benchmark of conversion: python -m fastlt.bench convert images=FOLDER [peers=true]."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from fastlt.bench.config import BenchConfig
from fastlt.bench.images import Files, find_images
from fastlt.bench.peers import PEERS, PeerError, write_ffcv
from fastlt.bench.rows import Row, measure
from fastlt.core.errors import UserError
from fastlt.data.convert import Conversion, convert
from fastlt.data.shards.encode import Encoding


def bench_convert(config: BenchConfig) -> list[Row]:
    """Measures images per second of complete conversions: start of workers, decoding, checks, hashes and writing.

    The cases are:

    fastlt_keep, fastlt_raw: encode=keep and encode=raw. fastlt_keep_seek: encode=keep with seek_table=true.
    fastlt_jpeg, fastlt_jpeg_256: JPEG of quality 90, at the original size and with a short side of 256 pixels.
    ffcv_jpg, ffcv_raw: with peers, FFCV's DatasetWriter on the same files with as many processes; JPEG of quality 90 at
        the original size, and raw pixels.
    copy: the files are read and written into one file, which is flushed to disk.
    """
    source = Files(find_images(config.images) * config.copies)
    if config.peers and not PEERS.exists():
        raise UserError(f"peers=true needs {PEERS}: make bench-peers")
    with tempfile.TemporaryDirectory(dir=config.scratch) as scratch:
        out = Path(scratch) / "out"

        def fastlt(encoding: Encoding) -> Callable[[], float]:
            def case() -> float:
                start = time.monotonic()
                options = Conversion("bench", (0.5,) * 3, (0.2,) * 3, "demo", encoding)  # type: ignore[arg-type]
                convert(source, options, out, config.threads)
                return _rate(source, start, out)

            return case

        def copy() -> float:
            start = time.monotonic()
            with out.open("wb") as file:
                for path in source.paths:
                    file.write(path.read_bytes())
                file.flush()
                os.fsync(file.fileno())  # conversions flush their files to disk as well
            return _rate(source, start, out)

        def ffcv(mode: str) -> Callable[[], float]:
            def case() -> float:
                try:
                    seconds = write_ffcv(source.paths, out, mode, config.threads)
                except PeerError as error:
                    raise UserError(f"FFCV failed in {PEERS}: {error}") from None
                out.unlink()
                return len(source.paths) / seconds

            return case

        cases = {
            "fastlt_keep": fastlt(Encoding("keep")),
            "fastlt_keep_seek": fastlt(Encoding("keep", seek_table=True)),
            "fastlt_jpeg": fastlt(Encoding("jpeg", 90)),
            "fastlt_jpeg_256": fastlt(Encoding("jpeg", 90, 256)),
            "fastlt_raw": fastlt(Encoding("raw")),
            "copy": copy,
        }
        if config.peers:
            cases |= {"ffcv_jpg": ffcv("jpg"), "ffcv_raw": ffcv("raw")}
        return measure(cases, config.rounds, "images/s")


def _rate(source: Files, start: float, out: Path) -> float:
    seconds = time.monotonic() - start
    shutil.rmtree(out) if out.is_dir() else out.unlink()
    return len(source.paths) / seconds
