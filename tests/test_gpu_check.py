"""tools/gpu_check.sh, as far as a machine without a GPU can tell."""

import contextlib
import os
import re
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
from fastlt.bench.peers import ON_GPU

SCRIPT = ROOT / "tools" / "gpu_check.sh"


def check(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([SCRIPT, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "sees no CUDA device: this check is for a machine with a GPU"),
        (("--images", "nowhere"), "nowhere: no such folder"),
        (("training",), "training is unknown: allowed are --images FOLDER, --out FOLDER, tests, kernels, loader"),
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
    listed = [names.split(",") for names in re.findall(r"cases=\[(.*?)\]", SCRIPT.read_text())]
    assert len(listed) == 3
    for names, known in zip(listed, (kernels, [*loader, *ON_GPU], loader), strict=True):
        assert set(names) <= set(known)
