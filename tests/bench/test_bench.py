"""Benchmarks: rows of what they say, and the last line of stdout is one JSON object."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import refusal, refused, run
from pictures import jpeg, picture

from fastlt.bench import kernel_rivals as rivals
from fastlt.bench.__main__ import main
from fastlt.bench.kernel_data import SIZES, KernelData
from fastlt.bench.kernels import AUTHORS_TAUS, every_tau
from fastlt.bench.rows import Row, append, markdown, measure
from fastlt.bench.stage2 import task_of
from fastlt.bench.stage2_rivals import DECAY, LR, TorchLoop
from fastlt.kernels.class_mean import class_mean
from fastlt.longtail.losses import make_loss
from fastlt.stage2.classifiers.heads import Linear
from fastlt.stage2.classifiers.sgd import Step


def test_cases_are_measured_in_turn_and_the_first_round_does_not_count(capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[str] = []
    values = {"a": iter([100.0, 1.0, 2.0, 9.0]), "b": iter([100.0, 4.0, 4.0, 4.0])}

    def case(name: str) -> float:
        calls.append(name)
        return next(values[name])

    rows = measure({name: lambda name=name: case(name) for name in values}, 3, "s")
    assert calls == ["a", "b"] * 4
    assert rows[0] == Row("a", 2.0, pytest.approx(1.4), pytest.approx(6.2), "s")  # type: ignore[arg-type]
    assert rows[1].median == 4
    assert "warm-up: a 100 s" in capsys.readouterr().err


def test_rows_as_table_and_lines(tmp_path: Path) -> None:
    rows = [Row("a", 1234.5, 1.0, 2000.0, "images/s")]
    assert markdown(rows).splitlines()[-1] == "| a | 1,234 | 1 | 2,000 | images/s |"
    for _ in range(2):
        append(rows, {"device": "cpu"}, tmp_path / "docs" / "rows.jsonl")
    lines = (tmp_path / "docs" / "rows.jsonl").read_text().splitlines()
    assert [json.loads(line)["device"] for line in lines] == ["cpu", "cpu"]


def test_goals_are_judged_by_the_device_they_are_set_for(tmp_path: Path) -> None:
    about = {"bench": "loader", "device": "NVIDIA H200", "settings": {"batch": 256}}
    case = "fastlt_jpeg / decode_ceiling"
    append([Row(case, 0.94, 0.9, 0.96, "x"), Row("fastlt_jpeg", 9e3, 9e3, 9e3, "images/s")], about, tmp_path / "rows")
    append([Row(case, 0.94, 0.9, 0.96, "x")], {**about, "device": "cpu, 2 threads"}, tmp_path / "rows")
    append([Row("tau_all / matmul", 1.21, 1, 2, "x")], {**about, "bench": "kernels"}, tmp_path / "rows")
    append([Row("every_classifier", 15.0, 15, 15, "s")], {**about, "bench": "stage2"}, tmp_path / "rows")
    for network in ("resnet50", "resnext50"):  # the goal is for one of them
        settings = {"backbone": network, "batch": 256}
        append(
            [Row("real", 3e3, 3e3, 3e3, "images/s")],
            {**about, "bench": "train", "settings": settings},
            tmp_path / "rows",
        )
    done = run("-m", "fastlt.bench.goals", "rows", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, *table = (line.split("  ") for line in done.stdout.splitlines())
    assert [[line[0], *(cell.strip() for cell in line if cell)][-2:] for line in table] == [
        *([">= 0.95", "MISSED"], [">= 8000", "met"], [">= 0.85", "met"], ["<= 1.2", "MISSED"], ["<= 15", "met"]),
        [">= 3040", "MISSED"],
    ]
    assert first[0] == "bench" and "batch=256" in done.stdout and "0.94 (0.9..0.96) x" in done.stdout
    (tmp_path / "wrong").write_text("{}\n")
    for name, message in (("wrong", "wrong holds no rows of a benchmark"), ("none", "none: No such file")):
        assert message in refused(run("-m", "fastlt.bench.goals", name, cwd=tmp_path))


def test_convert(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes(jpeg(picture(i, 60, 80)))
    done = run("-m", "fastlt.bench", "convert", "images=.", "rounds=1", "copies=2", "rows=rows.jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["bench"] == "convert" and result["settings"] == {"copies": 2}
    cases = [row["case"] for row in result["rows"]]
    assert cases == ["fastlt_keep", "fastlt_keep_seek", "fastlt_jpeg", "fastlt_jpeg_256", "fastlt_raw", "copy"]
    assert all(row["median"] > 0 and row["unit"] == "images/s" for row in result["rows"])
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == len(cases)


def test_index(tmp_path: Path) -> None:
    done = run("-m", "fastlt.bench", "index", "samples=100000", "rounds=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    cases = [row["case"] for row in json.loads(done.stdout.splitlines()[-1])["rows"]]
    assert cases == ["open", "order_instance", "order_class", "order_sqrt", "order_progressive", "plan", "peak_memory"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["foo"], "benchmark 'foo' is unknown: allowed are convert, index"),
        (["convert"], "images=None: no .jpg, .jpeg or .png file there"),
        (["convert", "scratch=/proc/none"], "scratch=/proc/none: no files can be written there; choose another folder"),
        (["index", "samples=5"], "samples=5: at least 90000"),
        (["stage2", "size=huge"], "size=huge is unknown: allowed are tiny, standard, imagenet_lt, inaturalist2018, "),
        (["stage2", "size=tiny", "share=0"], "share=0.0: it must be greater than 0, and 1 at most"),
        (["stage2", "size=tiny", "cases=[knn]"], "cases: knn is unknown, allowed are joint, ncm_l2"),
        (["kernels", "size=huge"], "size=huge is unknown: allowed are tiny, standard, imagenet_lt, inaturalist2018, "),
        (["kernels", "size=tiny", "cases=[matmu]"], "cases: matmu is unknown, allowed are memory_read"),
        (["convert", "copies=0"], "copies=0: it must be at least 1"),
        (["index", "rounds=0"], "rounds=0: it must be at least 1"),
        (["index", "rows=."], "rows=. is a folder: give a file, as in rows=rows.jsonl"),
        (["index", "rows=/dev/null/x.jsonl"], "rows=/dev/null/x.jsonl is below something that is no folder"),
        (["convert", "foo=1"], "unknown key foo: allowed are images, copies, peers"),
    ],
)
def test_wrong_input(arguments: list[str], message: str, tmp_path: Path) -> None:
    assert message in refusal(main, *arguments, cwd=tmp_path)


def test_stage2(tmp_path: Path) -> None:
    cases = "cases=[joint,crt,lws,tau_norm]"
    done = run("-m", "fastlt.bench", "stage2", "size=tiny", "rounds=1", cases, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {row["case"]: row for row in json.loads(done.stdout.splitlines()[-1])["rows"]}
    assert list(rows)[:7] == ["joint", "crt", "lws", "tau_norm", "every_classifier", "joint_cpu", "crt_cpu"]
    total = sum(rows[name]["median"] for name in ("joint", "crt", "lws", "tau_norm"))
    assert rows["every_classifier"]["median"] == pytest.approx(total)
    assert rows["step_torch_9"]["median"] == pytest.approx(9 * rows["step_torch"]["median"])
    assert all(rows[f"{name}_cpu"]["median"] > 0 for name in ("joint", "crt", "lws", "tau_norm"))
    assert {
        "peak_memory",
        "features",
        "products",
        "step_crt",
        "step_crt_9",
        "crt_torch",
        "lws_torch",
        "tau_authors",
    } <= rows.keys()


def test_steps_of_rivals_learn_the_same_thing() -> None:
    """Ours and PyTorch's modules, on the same batches from the same start, end at the same weights."""
    task, _ = task_of(KernelData(SIZES["tiny"], torch.device("cpu")))
    rival = TorchLoop(task, 32)
    head = Linear(16, 12, [0], 1, torch.device("cpu"))
    with torch.no_grad():
        head.weight[0, 0].copy_(rival.linear.weight)
        head.bias[0, 0].copy_(rival.linear.bias)
    loss = make_loss("cross_entropy", torch.from_numpy(task.counts))
    step = Step(head, task.train, 1, 32, [{"lr": LR, "weight_decay": DECAY}], loss)
    ids = torch.randint(len(task.train), (6, 1, 32), generator=torch.Generator().manual_seed(0))
    rival.batches = iter([(task.train.x[batch[0]], task.train.labels[batch[0]]) for batch in ids])
    for batch in ids:
        step(batch, 1.0)
        rival.crt_step()
    torch.testing.assert_close(head.weight[0, 0].detach(), rival.linear.weight.detach(), rtol=1e-4, atol=1e-5)


def test_kernels(tmp_path: Path) -> None:
    done = run("-m", "fastlt.bench", "kernels", "size=tiny", "rounds=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {row["case"]: row for row in json.loads(done.stdout.splitlines()[-1])["rows"]}
    named = {"class_mean_all", "class_mean_authors", "memory_read", "tau_all", "tau_loop_21", "matmul"}
    assert named <= rows.keys() and all(rows[name]["median"] > 0 and rows[name]["unit"] == "s" for name in named)
    assert rows["tau_all / matmul"]["unit"] == "x" and rows["bandwidth"]["unit"] == "GB/s"
    assert rows["curve_difference"]["median"] < 1e-6
    assert 0.1 < rows["peak_memory"]["median"] < 2


def test_rivals_do_the_same_work() -> None:
    data = KernelData(SIZES["tiny"], torch.device("cpu"))
    classes = data.size.classes
    means = class_mean(data.train, data.train_labels, classes)
    kinds = means.un, means.l2n, means.cl2n
    there = means.counts > 0
    authors = rivals.authors_class_means(*data.on_host())
    theirs = rivals.torch_class_means(data.train, data.train_labels, classes)
    for ours, other, plain in zip(kinds, authors, theirs, strict=True):
        np.testing.assert_allclose(ours[there], other, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)
    best = rivals.authors_tau_loop(data.test, data.weight, data.test_labels, AUTHORS_TAUS)
    assert every_tau(data).best("all")[2] >= 100 * best - 1e-6
