"""Runs other libraries, each in a process of its own that lives for all rounds and runs an epoch on request."""

import contextlib
import json
import queue
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, NamedTuple

from fastlt.core.errors import UserError

PEERS = Path(".venv-peers/bin/python")  # made by `make bench-peers`
OURS = Path(sys.executable)


BOTH = ("cpu", "cuda")


class Script(NamedTuple):
    """A script of this folder (`name`), the Python that runs it, and options that are added to the request.

    devices: where it can deliver batches.
    """

    name: str
    python: Path
    options: dict[str, str]
    devices: tuple[str, ...] = ("cpu",)


LOADERS = {
    "torch": Script("peer_torch.py", OURS, {"decoder": "pillow"}, BOTH),
    "torch_tensor": Script("peer_torch.py", OURS, {"decoder": "torchvision"}, BOTH),
    "torch_gpu": Script("peer_torch.py", OURS, {"decoder": "device"}, ("cuda",)),
    "torch_randaugment": Script("peer_torch.py", OURS, {"decoder": "pillow", "augment": "randaugment"}, BOTH),
    "torch_small": Script("peer_torch.py", OURS, {"decoder": "array"}, BOTH),
    "torch_small_augmented": Script("peer_torch.py", OURS, {"decoder": "array", "augment": "autoaugment_cifar"}, BOTH),
    "dali": Script("peer_dali.py", OURS, {}, BOTH),
    "webdataset": Script("peer_webdataset.py", PEERS, {"decoder": "pillow"}),
    "ffcv_jpg": Script("peer_ffcv_loader.py", PEERS, {"mode": "jpg"}),
    "ffcv_raw": Script("peer_ffcv_loader.py", PEERS, {"mode": "raw"}),
    "spdl": Script("peer_spdl.py", PEERS, {}),
}
LIMIT = 600  # seconds allowed for a start or an epoch; a library whose worker died may wait forever
PATIENCE = 10  # seconds allowed for ending


class PeerError(UserError):
    """Raised if another library does not work here. The text is the last line that it printed."""


class Peer:
    """A process that runs epochs of another library.

    script: what to run. request: as described in peer_protocol.py.

    Raises PeerError if the process cannot start, and later if it ends or does not answer for ten minutes.
    """

    def __init__(self, script: Script, request: dict[str, Any]):
        if not script.python.exists():
            raise PeerError(f"no {script.python}: make bench-peers")
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        command = [script.python, Path(__file__).with_name(script.name)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )
        self._answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            self._ask(json.dumps({**request, **script.options}))
        except PeerError:
            self.close()
            raise

    def rate(self) -> float:
        """Runs an epoch; returns images per second. Raises PeerError."""
        return float(self._ask("epoch"))

    def close(self) -> None:
        """Ends the process: closes its stdin, so that it ends its workers as well, and kills it if that fails."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the process may have ended without reading a line
            self._process.stdin.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def _ask(self, line: str) -> str:
        """Sends a line and waits for the answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            answer = self._answers.get(timeout=LIMIT)
        except queue.Empty:
            raise PeerError(f"no answer for {LIMIT} seconds") from None
        except BrokenPipeError:
            answer = ""
        if not answer:
            self._process.wait()
            raise PeerError(self._last_words())
        return answer

    def _listen(self) -> None:
        """Puts the lines that the process prints into a queue, and "" when it has ended."""
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._answers.put(line)
        self._answers.put("")

    def _last_words(self) -> str:
        self._errors.seek(0)
        return _last_line(self._errors.read()) or f"ended with code {self._process.returncode} and no message"


def write_ffcv(paths: list[Path], out: Path, mode: str, workers: int) -> float:
    """Writes images into a file of FFCV; returns the seconds it took. mode: `jpg` or `raw`. Raises PeerError."""
    if not PEERS.exists():
        raise PeerError(f"no {PEERS}: make bench-peers")
    request = {"paths": [str(path) for path in paths], "out": str(out), "mode": mode, "workers": workers}
    command = [PEERS, Path(__file__).with_name("peer_ffcv_writer.py")]
    try:
        done = subprocess.run(
            command, input=json.dumps(request), capture_output=True, text=True, check=False, timeout=LIMIT
        )
    except subprocess.TimeoutExpired:
        raise PeerError(f"FFCV's writer did not end within {LIMIT} seconds") from None
    if done.returncode:
        raise PeerError(_last_line(done.stderr) or f"FFCV's writer ended with code {done.returncode}")
    return float(done.stdout.splitlines()[-1])


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""
