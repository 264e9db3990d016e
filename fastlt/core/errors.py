"""Errors that a user can correct. Their message is one line: the value, what is allowed, and what to do."""

DEBUG = "FASTLT_DEBUG"  # environment variable; with the value 1, commands show the traceback of an error


class UserError(ValueError):
    """Raised for wrong input or a wrong setting. Commands print its message as one line and exit with code 2."""


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, with the type of the error before it unless it is a UserError.

    >>> first_line(KeyError("crt"))
    "KeyError: 'crt'"
    """
    lines = str(error).strip().splitlines()
    line = lines[0] if lines else "no reason given"
    return line if isinstance(error, UserError) else f"{type(error).__name__}: {line}"
