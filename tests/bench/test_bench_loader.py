"""python -m fastlt.bench loader: its cases, its data, its rows and what it says about wrong input."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import refusal, run
from pictures import jpeg, picture

from fastlt.bench import __main__ as command
from fastlt.bench import peers
from fastlt.bench.config import BenchConfig
from fastlt.bench.cores import counting_cores
from fastlt.bench.images import take_images
from fastlt.bench.loader import bench_loader
from fastlt.bench.loader_data import equal_mix, long_tail
from fastlt.bench.loader_stages import Stages, bottleneck, stage_rows
from fastlt.bench.peers import Peer, PeerError, Script
from fastlt.bench.plot import plot
from fastlt.bench.rows import Row, append, last_run, ratio
from fastlt.data.convert.storage import draws_served, raw_choice
from fastlt.data.plan import Augment
from fastlt.data.shards.reader import Dataset
from fastlt.longtail.sampler import LAWS, Sampler
from fastlt.models.backbones import BackboneConfig

RATES = [
    *(
        "fastlt_jpeg",
        "decode_ceiling",
        "fastlt_jpeg_class",
        "fastlt_jpeg_sqrt",
        "fastlt_jpeg_progressive",
        "fastlt_jpeg_1thread",
    ),
    *("fastlt_seek", "fastlt_q90_seek"),
    *("fastlt_jpeg_q90", "fastlt_raw", "fastlt_jpeg_randaugment", "fastlt_small", "fastlt_small_augmented"),
    *("fastlt_jpeg_cold", "fastlt_seek_cold", "fastlt_raw_cold"),
    *("fastlt_auto_class", "fastlt_auto_jpeg_class", "index_1000", "index_3000"),
]
RATIOS = [
    *("fastlt_seek / fastlt_jpeg", "fastlt_seek / decode_ceiling", "fastlt_seek_cold / fastlt_jpeg_cold"),
    "fastlt_q90_seek / fastlt_jpeg_q90",
    *("fastlt_jpeg / decode_ceiling", "fastlt_auto_class / fastlt_auto_jpeg_class", "fastlt_jpeg_class / fastlt_jpeg"),
    *("fastlt_jpeg_sqrt / fastlt_jpeg", "fastlt_jpeg_progressive / fastlt_jpeg", "fastlt_jpeg / fastlt_jpeg_1thread"),
    *("fastlt_jpeg_randaugment / fastlt_jpeg", "fastlt_small_augmented / fastlt_small"),
    "index_3000 / index_1000",
]
STAGES = ["stage_plan", "stage_read", "stage_decode", "stage_augment", "stage_whole"]


def config(images: Path, **keys: Any) -> Any:
    """The command's configuration, small."""
    return BenchConfig(
        backbone=BackboneConfig("resnet10"), images=str(images), rounds=1, copies=4, batch=4, samples=3000, **keys
    )


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    for i in range(5):
        (folder / f"{i}.jpg").write_bytes(jpeg(picture(i, 60 + 10 * i, 80)))
    return folder


def test_command(photographs: Path, tmp_path: Path) -> None:
    keys = ["images=" + str(photographs), "rounds=1", "copies=4", "batch=4", "samples=3000"]
    cases = [*RATES, "stage_plan", "stage_read", "stage_augment", "index_order_1000", "index_order_3000"]
    options = ["rows=rows.jsonl", "plot=picture.png", f"cases=[{','.join(cases)}]"]
    done = run("-m", "fastlt.bench", "loader", *keys, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])["rows"]
    named = {unit: [row["case"] for row in rows if row["unit"] == unit] for unit in ("images/s", "x", "µs", "s")}
    assert named == {
        "images/s": RATES,
        "x": RATIOS,
        "µs": STAGES,
        "s": ["index_order_1000", "index_order_3000"],
    }
    assert all(row["median"] > 0 for row in rows)
    assert "\nbottleneck: " in done.stderr
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    table = run("-m", "fastlt.bench.plot", "rows.jsonl", cwd=tmp_path)
    assert len(table.stdout.splitlines()) == 2 + len(rows)


def test_first_batch(jpeg_dataset: Dataset, tmp_path: Path) -> None:
    done = run("-m", "fastlt.bench.first_batch", str(jpeg_dataset.root), "4", "1", "cpu", cwd=tmp_path)
    assert float(done.stdout) > 0


def test_dataset_instead_of_a_folder(jpeg_dataset: Dataset) -> None:
    rows = bench_loader(config(jpeg_dataset.root, files=6, cases=["fastlt_jpeg", "fastlt_raw"]))
    assert [row.case for row in rows] == ["fastlt_jpeg", "fastlt_raw", "stage_whole"]
    assert all(row.median > 0 for row in rows)


def test_images_of_a_dataset_are_spread_and_unchanged(mixed_dataset: Dataset, tmp_path: Path) -> None:
    paths = take_images(str(mixed_dataset.root), 5, tmp_path / "files")
    samples = [int(path.stem) for path in paths]
    encoded = np.flatnonzero(mixed_dataset.split("train").encoding != 2)
    assert len(samples) == 5 and samples[0] == encoded[0] and samples[-1] == encoded[-1]
    assert paths[2].read_bytes() == mixed_dataset.data("train", samples[2]).tobytes()


@pytest.mark.parametrize("law", LAWS)
def test_every_law_draws_the_same_images(law: str) -> None:
    files, copies = 7, 10
    labels = equal_mix(files, copies)
    counts = np.bincount(labels)
    assert counts.tolist() == [42, 7, 7, 7, 7]
    start = np.concatenate([[0], np.cumsum(counts)])
    order = Sampler(np.argsort(labels, kind="stable"), start, law, epochs=3).order(0)
    drawn = np.bincount(order % files, minlength=files)
    assert drawn.min() >= 7 and drawn.max() <= 13  # 10 each, but for what is drawn of the largest class


def test_long_tail_has_the_shape_of_places_lt() -> None:
    labels = long_tail(3200)
    counts = np.bincount(labels)
    assert len(labels) == 3200 and len(counts) == 64 and counts.min() >= 1 and counts.max() > 40 * counts.min()
    assert draws_served(labels, raw_choice(labels, 0.2), "class") == pytest.approx(0.71, abs=0.04)
    assert long_tail(3).tolist() == [0, 0, 0]


def test_stages_and_bottleneck() -> None:
    rates = [Row("decode_ceiling", 1000.0, 800.0, 1250.0, "images/s"), Row("stage_read", 1e5, 1e5, 1e5, "images/s")]
    rows = stage_rows(rates, 2)
    assert rows == [Row("stage_read", 10, 10, 10, "µs"), Row("stage_decode", 2000, 1600, 2500, "µs")]
    assert bottleneck(rows).startswith("bottleneck: decode. Of 2,010 µs an image and thread, all that were measured: ")
    assert "read 10 µs (0%)" in bottleneck([*rows, *stage_rows([Row("fastlt_jpeg", 1000, 1000, 1000, "")], 2)])
    assert bottleneck(rates) == ""


@pytest.mark.usefixtures("one_thread")
def test_windows_or_whole_images_are_decoded(jpeg_dataset: Dataset) -> None:
    """With the decoder's options of a GPU left alone."""
    stages = Stages(jpeg_dataset, Augment(24, "resized"), 8, 1, torch.device("cpu"))
    columns, sizes = stages._windows(stages._plan("decode")[:8]), []
    for whole in (False, True):
        (batch,) = stages._run(stages._decoder(whole), [columns[: 1 if whole else 3]])
        sizes.append([int(np.prod(image.shape())) for image in batch])
        assert stages.decode(whole) > 0
    assert all(window <= image for window, image in zip(*sizes, strict=True)) and sizes[0] != sizes[1]


def test_last_run_of_a_file_of_rows(tmp_path: Path) -> None:
    old, new = Row("a", 1.0, 1.0, 1.0, "s"), Row("a", 2.0, 1.0, 3.0, "s")
    append([old], {"date": "2026-01-01T00:00:00"}, tmp_path / "rows.jsonl")
    append([new], {"date": "2026-01-01T00:00:01"}, tmp_path / "rows.jsonl")
    assert last_run(tmp_path / "rows.jsonl") == [new]
    first, second = tmp_path / "1.png", tmp_path / "2.png"
    for path in (first, second):
        plot([new, Row("torch", 5.0, 4.0, 6.0, "images/s")], path)
    assert first.read_bytes() == second.read_bytes()


def test_ratio_is_taken_within_rounds() -> None:
    assert ratio("a", "b", {"a": [1, 20, 300], "b": [1, 10, 100]}) == Row("a / b", 2, pytest.approx(1.4), 2.6, "x")  # type: ignore[arg-type]


PEER = """
import torch
from peer_protocol import serve
def build(request):
    print("a library's word")
    return lambda: iter([torch.zeros(request["batch"], 3, 8, request["wide"])] * 2)
serve(build)
"""


def test_peers_serve_epochs_and_name_their_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "peer_protocol.py").write_text(Path(peers.__file__).with_name("peer_protocol.py").read_text())
    (tmp_path / "peer.py").write_text(PEER)
    monkeypatch.setattr(peers, "__file__", str(tmp_path / "peers.py"))
    request = {"batch": 4, "size": 8, "wide": 8, "device": "cpu"}
    peer = Peer(Script("peer.py", Path(sys.executable), {}), request)
    assert peer.rate() > 0 and peer.rate() > 0
    peer.close()
    wrong = Peer(Script("peer.py", Path(sys.executable), {}), {**request, "wide": 9})
    with pytest.raises(PeerError, match=r"float32 \[4, 3, 8, 9\], not float32 \[4, 3, 8, 8\]"):
        wrong.rate()
    wrong.close()
    (tmp_path / "peer.py").write_text("import no_such_library")
    with pytest.raises(PeerError, match="No module named 'no_such_library'"):
        Peer(Script("peer.py", Path(sys.executable), {}), request)
    with pytest.raises(PeerError, match="no missing/python: make bench-peers"):
        Peer(Script("peer.py", Path("missing/python"), {}), request)


def test_torchvisions_decoder_of_batches(photographs: Path) -> None:
    paths = [str(path) for path in sorted(photographs.iterdir())]
    request = {
        "paths": paths,
        "batch": 2,
        "threads": 1,
        "device": "cpu",
        "size": 32,
        "mean": [0.5] * 3,
        "std": [0.2] * 3,
    }
    peer = Peer(peers.LOADERS["torch_gpu"], request)
    assert peer.rate() > 0
    peer.close()


def test_cores_count_the_work_of_child_processes() -> None:
    def case() -> float:
        work = "import time\nwhile time.process_time() < 0.5: pass"
        subprocess.run([sys.executable, "-c", work], check=True)
        return 3.0

    used: list[float] = []
    before = time.monotonic()
    assert counting_cores(case, used)() == 3.0
    assert len(used) == 1 and used[0] * (time.monotonic() - before) >= 0.4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["images=empty"], "images=empty: no .jpg, .jpeg or .png file there"),
        (["images=raw"], "a dataset of raw pixels; give one that holds JPEG or PNG"),
        (["images=photographs", "cases=[foo]"], "cases: foo is unknown, allowed are fastlt_jpeg, decode_ceiling, "),
        (["images=photographs", "cases=[torch]"], "cases: torch is another library, add peers=true"),
        (["images=photographs", "batch=1000"], "batch=1000 is larger than the 50 images"),
        (["images=photographs", "copies=0"], "copies=0: it must be at least 1"),
        (["images=photographs", "files=0"], "files=0: it must be at least 1"),
        (["images=photographs", "plot=a.png"], "plot=a.png is drawn from rows: add rows=FILE.jsonl"),
        (["images=photographs", "threads=-1"], "threads=-1"),
    ],
)
def test_wrong_input(
    arguments: list[str],
    message: str,
    photographs: Path,
    raw_dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "photographs").symlink_to(photographs)
    (tmp_path / "raw").symlink_to(raw_dataset.root)
    monkeypatch.setattr(command, "_name", "loader")
    assert message in refusal(command.measure, *arguments, cwd=tmp_path)
