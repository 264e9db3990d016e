"""Every example runs, as its own text says."""

import json
import re
import shlex
from pathlib import Path

import pytest
from commands import run

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


@pytest.mark.parametrize("part", ["effective", "Poly", "network", "cutmix", "erase", "centred"])
def test_a_part_is_at_most_20_lines(part: str) -> None:
    source = (EXAMPLES / "own_parts.py").read_text()
    (body,) = re.findall(rf"^((?:def|class) {part}\b.*?)\n\n\n", source, re.DOTALL | re.MULTILINE)
    assert len(body.splitlines()) <= 20
