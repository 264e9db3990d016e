"""The examples run, and do what they say."""

import json
import re
import runpy
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import run

from fastlt.data.shards.reader import Dataset

EXAMPLES = Path(__file__).parents[1] / "examples"


def commands(example: str) -> list[list[str]]:
    """The commands in the docstring of an example, without what comes before their arguments."""
    text = (EXAMPLES / example).read_text().split('"""')[1].replace("\\\n", " ")
    lines = [line.strip().partition("#")[0] for line in text.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("python ")]


def test_own_parts(tmp_path: Path) -> None:
    (tmp_path / "own_parts.py").write_text((EXAMPLES / "own_parts.py").read_text())
    for arguments in commands("own_parts.py"):
        done = run(*arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "runs" / "own" / "results.json").read_text())
    assert (results["sampler"], results["backbone"]) == ("own_parts:effective", "own_parts:network")
    assert list(results["classifiers"]) == ["joint", "tau_norm", "own_parts:centred"]
    assert results["classifiers"]["own_parts:centred"]["choices"]["power"] == 0.5
    report = (tmp_path / "runs" / "own" / "report.md").read_text()
    assert "sampler=own_parts:effective" in report and "protocol.image_hook=own_parts:erase" in report
    contrastive = json.loads((tmp_path / "runs" / "contrastive" / "results.json").read_text())
    assert contrastive["departures"]["protocol.views_per_image"] == [1, 2]
    assert contrastive["classifiers"]["joint"]["all"] > 25


@pytest.mark.parametrize("part", ["effective", "Poly", "contrastive", "network", "cutmix", "erase", "centred"])
def test_a_part_is_at_most_20_lines(part: str) -> None:
    source = (EXAMPLES / "own_parts.py").read_text()
    (body,) = re.findall(rf"^((?:def|class) {part}\b.*?)\n\n\n", source, re.DOTALL | re.MULTILINE)
    assert len(body.splitlines()) <= 20


def example(name: str) -> Callable[[list[str]], Any]:
    """`main` of an example: what its command does with these arguments."""
    return runpy.run_path(str(EXAMPLES / name))["main"]


def test_an_own_loop_goes_on_with_the_same_batches(
    jpeg_dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main, options = example("own_loop.py"), ["--epochs=2", "--batch=16"]
    main([str(jpeg_dataset.root), str(tmp_path / "straight.pt"), *options])
    straight = capsys.readouterr().out
    assert straight.count("loss") == 8
    for steps in (3, 1, 2, -1):  # stopped in the first epoch of four batches, at its end, and in the second
        main([str(jpeg_dataset.root), str(tmp_path / "stopped.pt"), *options, f"--stop-after={steps}"])
    assert capsys.readouterr().out == straight
    weights = [torch.load(tmp_path / f"{name}.pt")["model"] for name in ("straight", "stopped")]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


@pytest.mark.filterwarnings("ignore")  # Lightning's own, such as that a loader has few workers
def test_lightning_resumes_the_loader_from_its_own_checkpoint(jpeg_dataset: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("lightning", reason="Lightning is not installed: pip install lightning")
    main, options = example("with_lightning.py"), ["--epochs=2", "--batch=16"]
    straight = main([str(jpeg_dataset.root), str(tmp_path / "straight"), *options])
    assert [len(batch) for batch in straight.seen] == [16] * 8 and straight.seen[:4] != straight.seen[4:]
    for steps in (3, 4, 6):  # stopped in the first epoch, at its end, and in the second
        out = str(tmp_path / f"stopped{steps}")
        first = main([str(jpeg_dataset.root), out, *options, f"--max-steps={steps}"])
        second = main([str(jpeg_dataset.root), out, *options])
        assert len(first.seen) == steps and first.seen + second.seen == straight.seen
        weights = second.state_dict()
        assert all(torch.equal(value, weights[name]) for name, value in straight.state_dict().items())


def test_own_features(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = (EXAMPLES / "own_features.py").read_text()
    assert len(source.splitlines()) <= 60
    names = runpy.run_path(str(EXAMPLES / "own_features.py"))
    np.savez(tmp_path / "features.npz", **names["drawn"](classes=6, dim=16))
    reports = names["main"]([str(tmp_path / "features.npz")])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["many", "medium", "few", "all", "seconds"] and len(printed) == 8
    assert reports["cRT"]["few"] > reports["joint"]["few"] + 5


def test_the_notebook_runs(capsys: pytest.CaptureFixture[str]) -> None:
    notebook = json.loads((EXAMPLES / "quickstart.ipynb").read_text())
    space: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), space)
    printed = capsys.readouterr().out
    assert "tau" in printed and "covered" in printed
    assert space["fitted"]["cRT"].report(space["X_test"], space["y_test"])["few"] > 60
    assert 0.85 < np.mean(space["covered"]) < 0.97
