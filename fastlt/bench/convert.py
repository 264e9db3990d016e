"""python -m fastlt.bench convert images=FOLDER [peers=true]: images per second of conversion, by encoding."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastlt.bench.images import Files, find_images
from fastlt.bench.peers import PEERS, PeerError, write_ffcv
from fastlt.bench.rows import Row, measure
from fastlt.core.errors import UserError
from fastlt.data.convert import Conversion, convert
from fastlt.data.shards.encode import Encoding


def bench_convert(cfg: Any) -> list[Row]:
    """Images per second of a whole conversion: start of workers, decoding, checks, hashes and writing included.

    Cases: fastlt_keep, fastlt_jpeg (quality 90, size as found), fastlt_jpeg_256 (short side 256), fastlt_raw; with
    peers, FFCV's DatasetWriter on the same files with the same number of processes: ffcv_jpg (quality 90, size as
    found), ffcv_raw; and copy, the files read and written into one file, which is flushed to the disk.
    """
    source = Files(find_images(cfg.images) * cfg.copies)
    if cfg.peers and not PEERS.exists():
        raise UserError(f"peers=true needs {PEERS}: make bench-peers")
    with tempfile.TemporaryDirectory(dir=cfg.scratch) as scratch:
        out = Path(scratch) / "out"

        def fastlt(encoding: Encoding) -> Callable[[], float]:
            def case() -> float:
                start = time.monotonic()
                options = Conversion("bench", (0.5,) * 3, (0.2,) * 3, "demo", encoding)  # type: ignore[arg-type]
                convert(source, options, out, cfg.threads)
                return _rate(source, start, out)

            return case

        def copy() -> float:
            start = time.monotonic()
            with out.open("wb") as file:
                for path in source.paths:
                    file.write(path.read_bytes())
                file.flush()
                os.fsync(file.fileno())  # as conversions do: what is said to be done is on the disk
            return _rate(source, start, out)

        def ffcv(mode: str) -> Callable[[], float]:
            def case() -> float:
                try:
                    seconds = write_ffcv(source.paths, out, mode, cfg.threads)
                except PeerError as error:
                    raise UserError(f"FFCV failed in {PEERS}: {error}") from None
                out.unlink()
                return len(source.paths) / seconds

            return case

        cases = {
            "fastlt_keep": fastlt(Encoding("keep")),
            "fastlt_jpeg": fastlt(Encoding("jpeg", 90)),
            "fastlt_jpeg_256": fastlt(Encoding("jpeg", 90, 256)),
            "fastlt_raw": fastlt(Encoding("raw")),
            "copy": copy,
        }
        if cfg.peers:
            cases |= {"ffcv_jpg": ffcv("jpg"), "ffcv_raw": ffcv("raw")}
        return measure(cases, cfg.rounds, "images/s")


def _rate(source: Files, start: float, out: Path) -> float:
    seconds = time.monotonic() - start
    shutil.rmtree(out) if out.is_dir() else out.unlink()
    return len(source.paths) / seconds
