"""Kills a process before a chosen one of its system calls that change what is on the disk."""

import io
import os
import signal
from collections.abc import Callable
from typing import Any

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
