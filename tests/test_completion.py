"""The script by which a shell completes fastlt's commands."""

import shutil
import subprocess
from pathlib import Path

import pytest

from fastlt.completion import script
from fastlt.core.keys import described
from fastlt.experiment.config import TrainConfig

KEYS = sorted({f"{key.path.partition('.')[0]}{'.' if '.' in key.path else '='}" for key in described(TrainConfig)})
LINES = {
    "fastlt tr": ["train"],
    "fastlt train ": [*KEYS, "backbone=", "protocol=", "sampler="],
    "fastlt train proto": ["protocol.", "protocol="],
    "fastlt train seed=1 protocol.crt.l": ["protocol.crt.lr="],
    "fastlt train sampler=": ["class", "instance", "progressive", "sqrt"],
    "fastlt grid grid=demo": ["demo", "demo_seeds"],
    "fastlt grid sampler=c": ["class"],
    "fastlt predict runs/a --cov": ["--coverage"],
    "fastlt shards v": ["verify"],
    "fastlt train data=": [],  # bash goes on with names of files
}
ASK = """
complete() { :; }
source "$0"
for line in "$@"; do
    COMP_LINE=$line COMP_POINT=${#line} COMP_WORDS=($line) COMPREPLY=()
    _fastlt 2> /dev/null  # compopt works in an interactive shell only
    echo "${COMPREPLY[@]}"
done
"""


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash here")
def test_bash_completes(tmp_path: Path) -> None:
    path = tmp_path / "completion"
    path.write_text(script())
    asked = subprocess.run(["bash", "-c", ASK, str(path), *LINES], capture_output=True, text=True, check=True)
    replies = [sorted(line.split()) for line in asked.stdout.splitlines()]
    assert dict(zip(LINES, replies, strict=True)) == {line: sorted(words) for line, words in LINES.items()}
