"""python -m fastlt.bench convert images=FOLDER [peers=true]: images per second of conversion, by encoding."""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastlt.bench.rows import Row, measure
from fastlt.convert import Conversion, convert
from fastlt.errors import UserError
from fastlt.shards.encode import Encoding
from fastlt.sources.base import Listing

FFCV_LIMIT = 300  # seconds; a worker that dies leaves FFCV's writer waiting
PEERS = Path(".venv-peers/bin/python")  # made by `make bench-peers`
EXTENSIONS = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Files:
    """The files of a folder, `copies` times over, as one class."""

    paths: list[Path]
    name: str = "files"

    @property
    def class_names(self) -> list[str]:
        return ["all"]

    @property
    def splits(self) -> dict[str, Listing]:
        return {"train": Listing([str(i) for i in range(len(self.paths))], np.zeros(len(self.paths), np.int64))}

    def load(self, split: str, index: int) -> bytes:
        return self.paths[index].read_bytes()

    def where(self, split: str, index: int) -> Path:
        return self.paths[index]


def bench_convert(cfg: Any) -> list[Row]:
    """Images per second of a whole conversion: start of workers, decoding, checks, hashes and writing included.

    Cases: fastlt_keep, fastlt_jpeg (quality 90, size as found), fastlt_jpeg_256 (short side 256), fastlt_raw; with
    peers, FFCV's DatasetWriter on the same files with the same number of processes: ffcv_jpg (quality 90, size as
    found); and copy, the files read and written into one file, which is flushed to the disk.
    """
    folder = Path(cfg.images or "")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS) if cfg.images else []
    if not paths:
        raise UserError(f"images={cfg.images}: no .jpg, .jpeg or .png file there; give a folder of photographs")
    source = Files(paths * cfg.copies)
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
                request = {
                    "paths": [str(p) for p in source.paths],
                    "out": str(out),
                    "mode": mode,
                    "workers": cfg.threads,
                }
                script = Path(__file__).with_name("peer_ffcv_writer.py")
                done = subprocess.run(
                    [PEERS, script],
                    input=json.dumps(request),
                    capture_output=True,
                    text=True,
                    check=False,
                    timeout=FFCV_LIMIT,
                )
                if done.returncode:
                    raise UserError(f"FFCV failed in {PEERS}: {done.stderr.strip().splitlines()[-1]}")
                out.unlink()
                return len(source.paths) / float(done.stdout.splitlines()[-1])

            return case

        cases = {
            "fastlt_keep": fastlt(Encoding("keep")),
            "fastlt_jpeg": fastlt(Encoding("jpeg", 90)),
            "fastlt_jpeg_256": fastlt(Encoding("jpeg", 90, 256)),
            "fastlt_raw": fastlt(Encoding("raw")),
            "copy": copy,
        }
        if cfg.peers:
            cases["ffcv_jpg"] = ffcv("jpg")
        return measure(cases, cfg.rounds, "images/s")


def _rate(source: Files, start: float, out: Path) -> float:
    seconds = time.monotonic() - start
    shutil.rmtree(out) if out.is_dir() else out.unlink()
    return len(source.paths) / seconds
