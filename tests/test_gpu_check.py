"""tools/gpu_check.sh, as far as a machine without a GPU can tell."""

import contextlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import ROOT, refused

from fastlt.bench.kernel_data import SIZES, KernelData
from fastlt.bench.kernels import cases as kernel_cases
from fastlt.bench.loader_cases import Cases as LoaderCases
from fastlt.bench.peers import LOADERS

SCRIPT = ROOT / "tools" / "gpu_check.sh"


def check(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([SCRIPT, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "sees no CUDA device: this check is for a machine with a GPU"),
        (("--images", "nowhere"), "nowhere: no such folder"),
        (("--cifar", "none"), "none: no such folder"),
        (
            ("training",),
            "training is unknown: allowed are --images FOLDER, --cifar DATASET, --out FOLDER, smoke loader",
        ),
    ],
)
def test_what_it_cannot_do_is_said_in_a_line(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    assert message in refused(check("--out", "out", *arguments, cwd=tmp_path))
    assert not (tmp_path / "out").exists()


def test_its_cases_are_known() -> None:
    kernels = kernel_cases(KernelData(SIZES["tiny"], torch.device("cpu")))
    with contextlib.ExitStack() as stack:
        data: Any = None  # is read by what makes a case, not by what names it
        loader = LoaderCases(data, 64, 2, 3000, 1, stack, torch.device("cuda")).rates()
    peers = [name for name, script in LOADERS.items() if "cuda" in script.devices]
    known = {"loader": [*loader, *peers], "kernels": list(kernels), "train": ["real", "synthetic"]}
    listed = re.findall(r"bench .*? (loader|kernels|train) [^\n]*?(?:\\\n\s+)?'cases=\[(.*?)\]'", SCRIPT.read_text())
    assert [bench for bench, _ in listed] == ["loader"] * 5 + ["kernels", "train"]
    for bench, names in listed:
        assert set(names.split(",")) <= set(known[bench])


def test_its_smoke_tests_are_there() -> None:
    (block,) = re.findall(r"^readonly SMOKE=\(\n(.*?)^\)$", SCRIPT.read_text(), re.MULTILINE | re.DOTALL)
    names = shlex.split(block)
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider", *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert {name.partition("[")[0] for name in names} == {
        line.partition("[")[0] for line in done.stdout.splitlines() if "::" in line
    }
