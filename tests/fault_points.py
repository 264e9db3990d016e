"""Kills a process before a chosen one of its system calls that change what is on the disk."""

import io
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from fastlt.core.log import silence

# Whatever changes what is on the disk, or brings it there; before each of them a kill leaves another state.
CALLS = {"open", "write", "flush", "rename", "replace", "unlink", "remove", "rmdir", "mkdir", "write_text", "sync"}


def reaches_the_disk(called: Any) -> bool:
    """Whether a built-in function is one of CALLS of the system or of a file: str and deque have some of these names,
    and how often a lock's deque removes something depends on the time."""
    owner = getattr(called, "__self__", None)
    of_system = getattr(owner, "__name__", "") in ("posix", "io", "_io")
    of_file = isinstance(owner, io.RawIOBase | io.BufferedIOBase | io.TextIOWrapper)
    return called.__name__ in CALLS and (of_system or of_file)


def fault_point(number: int, start: str) -> Callable[[Any, str, Any], None]:
    """For sys.setprofile: kills this process before the system call of that number since the function `start` began."""
    passed = 0
    active = False

    def profile(frame: Any, event: str, called: Any) -> None:
        nonlocal passed, active
        active = active or (event == "call" and frame.f_code.co_name == start)
        own = event == "call" and frame.f_code.co_name in ("exchange", "sync")
        if active and (own or (event == "c_call" and reaches_the_disk(called))):
            passed += 1
            if passed == number:
                os.kill(os.getpid(), signal.SIGKILL)

    return profile


def ended_before(work: Callable[[], object], number: int, start: str) -> bool:
    """Runs `work` in a child process that is killed at this fault point; whether it ended before it came there."""
    child = os.fork()
    if not child:
        code = 1
        try:
            silence()  # a lock of the terminal that is shared with this process must not be held by a killed one
            sys.setprofile(fault_point(number, start))
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL)
    return status == 0
