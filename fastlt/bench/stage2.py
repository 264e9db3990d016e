"""Benchmark of the classifiers of stage 2: python -m fastlt.bench stage2 [size=imagenet_lt] [device=cpu]."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastlt.bench.config import BenchConfig
from fastlt.bench.index import peak_memory
from fastlt.bench.kernel_data import SIZES, KernelData, Size
from fastlt.bench.kernel_rivals import authors_class_means, authors_tau_loop
from fastlt.bench.rows import Row, measure_series, ratio, row
from fastlt.bench.stage2_rivals import TorchLoop
from fastlt.core import device as machine
from fastlt.core.errors import UserError
from fastlt.core.log import say
from fastlt.kernels.arrays import host
from fastlt.longtail.losses import make_loss
from fastlt.stage2.classifiers import SETS
from fastlt.stage2.classifiers.base import Features, Stage2, Task, Training
from fastlt.stage2.classifiers.heads import Linear
from fastlt.stage2.classifiers.sgd import Step
from fastlt.stage2.classify import Job, classify

# The hyperparameters of ImageNet-LT, as in conf/protocol/imagenet_lt_90.yaml.
CRT, LWS = Training(10, 512, 0.2, 5e-4), Training(5, 512, 0.2, 5e-4)
SETTINGS = [{"lr": lr, "weight_decay": decay} for lr in (0.05, 0.1, 0.2) for decay in (1e-4, 5e-4, 2e-3)]
STEPS = 20  # training steps that are measured in a round
AUTHORS_TAUS = np.linspace(0, 2, 21)


def bench_stage2(config: BenchConfig) -> list[Row]:
    """Measures stage 2 on random features of a size in kernel_data.SIZES, with the hyperparameters of ImageNet-LT.

    The cases are:

    the name of a classifier (s): fitting it, evaluating it on test and saving it, once. every_classifier: the sum.
    NAME_cpu (s): the CPU time of the same over all threads, which hardly depends on other work on the machine.
    peak_memory (GB): of a process that draws the features and fits all classifiers. features (GB): the features in it.
    step_crt, step_crt_9 (ms): a training step of crt, and of crt with nine settings (3 learning rates x 3 weight
        decays) at once. step_torch, step_torch_lws, step_torch_9: the same steps with PyTorch's Linear, SGD,
        cross-entropy and DataLoader; for nine settings, nine times the time of one.
    products (ms): the two matrix products that every step needs.
    crt_torch, lws_torch (s): the whole training with PyTorch, computed from the time of a step.
    ncm_authors, tau_authors (s): class means and a grid of 21 taus as the paper's authors compute them.
    """
    if config.size not in SIZES:
        raise UserError(f"size={config.size} is unknown: allowed are {', '.join(SIZES)}")
    if not 0 < config.share <= 1:
        raise UserError(f"share={config.share}: it must be greater than 0, and 1 at most")
    if config.rounds < 1:
        raise UserError(f"rounds={config.rounds}: it must be at least 1")
    names = list(config.cases) or list(SETS["all"])
    if unknown := [name for name in names if name not in SETS["all"]]:
        raise UserError(f"cases: {unknown[0]} is unknown, allowed are {', '.join(SETS['all'])}")
    device = machine.pick_device(config.device)
    command = [sys.executable, "-m", "fastlt.bench.stage2", config.size, str(config.share), str(device)]
    command += [str(config.threads), *names]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    alone = json.loads(done.stdout.splitlines()[-1])
    rows = [row(name, [seconds], "s") for name, seconds in alone["seconds"].items()]
    rows.append(row("every_classifier", [sum(alone["seconds"].values())], "s"))
    rows += [row(f"{name}_cpu", [seconds], "s") for name, seconds in alone["cpu_seconds"].items()]
    rows += [row("peak_memory", [alone["peak"]], "GB"), row("features", [alone["features"]], "GB")]
    return rows + _steps(KernelData(_size(config.size, config.share), device), config.rounds)


def _size(name: str, share: float) -> Size:
    """Returns a size of kernel_data.SIZES with this share of its training rows."""
    size = SIZES[name]
    return replace(size, train=max(round(share * size.train), 1))


def task_of(data: KernelData) -> tuple[Task, Features]:
    """Returns (the task that classifiers are fitted to, the test features). Two fifths of the test rows are also used
    to choose hyperparameters."""
    joint = torch.nn.Linear(data.size.dim, data.size.classes).to(data.weight.device)
    with torch.no_grad():
        joint.weight.copy_(data.weight)
        joint.bias.zero_()
    train, test = Features(data.train, data.train_labels), Features(data.test, data.test_labels)
    some = torch.arange(len(test), device=data.test.device) % 5 < 2
    choose = Features(test.x[some], test.labels[some])
    counts = torch.bincount(train.labels, minlength=data.size.classes).cpu().numpy()
    groups = host(data.groups, np.int8)
    return Task(train, train, choose, "val", joint, counts, groups, Stage2(CRT, LWS), seed=0), test


def _steps(data: KernelData, rounds: int) -> list[Row]:
    task, _ = task_of(data)
    device, batch = data.train.device, min(CRT.batch, len(task.train))
    loss = make_loss("cross_entropy", task.train.labels.new_tensor(task.counts))
    torch_loop = TorchLoop(task, batch)

    def ours(settings: list[dict[str, float]]) -> Callable[[], float]:
        head = Linear(data.size.dim, data.size.classes, [0], len(settings), device)
        step = Step(head, task.train, 1, batch, settings, loss)
        ids = torch.randint(len(task.train), (1, batch), generator=torch.Generator().manual_seed(0))
        return _per_step(lambda: step(ids, 1.0), device)

    x, weight = task.train.x[:batch], data.weight
    out = torch.empty(batch, data.size.classes, device=device)
    back = torch.empty_like(weight)

    def products() -> None:
        torch.mm(x, weight.T, out=out)
        torch.mm(out.T, x, out=back)

    cases = {
        "products": _per_step(products, device),
        "step_crt": ours(SETTINGS[:1]),
        "step_crt_9": ours(SETTINGS),
        "step_torch": _per_step(torch_loop.crt_step, device),
        "step_torch_lws": _per_step(torch_loop.lws_step, device),
    }
    series = measure_series(cases, rounds, "ms")
    series["step_torch_9"] = [9 * value for value in series["step_torch"]]
    rows = [row(name, values, "ms") for name, values in series.items()]
    pairs = [("step_crt", "products"), ("step_torch", "step_crt"), ("step_torch_9", "step_crt_9")]
    rows += [ratio(over, under, series) for over, under in pairs]
    steps = len(task.train) // batch
    for name, step, training in (("crt_torch", "step_torch", CRT), ("lws_torch", "step_torch_lws", LWS)):
        rows.append(row(name, [value * steps * training.epochs / 1e3 for value in series[step]], "s"))
    host_rows = data.on_host()
    rows.append(row("ncm_authors", [_seconds(lambda: authors_class_means(*host_rows), device)], "s"))
    assert task.choose is not None
    grid = task.choose.x, data.weight, task.choose.labels, AUTHORS_TAUS
    return [*rows, row("tau_authors", [_seconds(lambda: authors_tau_loop(*grid), device)], "s")]


def _per_step(step: Callable[[], Any], device: torch.device) -> Callable[[], float]:
    def milliseconds() -> float:
        return _seconds(lambda: [step() for _ in range(STEPS)], device) / STEPS * 1e3

    return milliseconds


def _seconds(work: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _alone(size: Size, device: torch.device, names: list[str]) -> dict[str, Any]:
    """Fits all classifiers in this process, so that its peak memory is theirs."""
    data = KernelData(size, device)
    task, test = task_of(data)
    seconds, cpu_seconds = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            job = Job(name, task, test, task.counts, {"representation": str(size)}, "checkpoint.pt")
            begun = time.process_time()
            seconds[name] = _seconds(lambda job=job: classify([job], Path(folder), 1), device)
            cpu_seconds[name] = time.process_time() - begun
            say(f"{name}: {seconds[name]:.1f} s, {cpu_seconds[name]:.1f} s of CPU time")
    assert task.choose is not None
    features = (data.train.nbytes + data.test.nbytes + task.choose.x.nbytes) / 1e9
    peak = peak_memory() if device.type == "cpu" else torch.cuda.max_memory_allocated(device) / 1e9
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak": peak, "features": features}


if __name__ == "__main__":
    name, share, device, threads, *names = sys.argv[1:]
    machine.set_threads(int(threads))
    sys.stdout.write(json.dumps(_alone(_size(name, float(share)), torch.device(device), names)) + "\n")
