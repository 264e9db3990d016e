"""Imports matplotlib even if the environment variable MPLBACKEND names a backend that is not installed."""

import contextlib
import logging
import os
from collections.abc import Iterator

VARIABLE = "MPLBACKEND"


@contextlib.contextmanager
def own_backend() -> Iterator[None]:
    """Context manager that hides MPLBACKEND while matplotlib is imported, and restores it afterwards.

    Matplotlib's own warnings, such as that of a home that cannot be written, are not shown.

    A notebook that starts this process may set the variable to a backend that this environment lacks, with which the
    import would fail. fastlt's own figures need no backend: Agg draws them into files. Code that uses pyplot afterwards
    gets the backend that the variable names, if it exists.
    """
    # Where the home cannot be written, matplotlib would warn in two long lines that it keeps its fonts elsewhere.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    backend = os.environ.pop(VARIABLE, None)
    try:
        yield
    finally:
        if backend is not None:
            os.environ[VARIABLE] = backend
            import matplotlib

            with contextlib.suppress(ValueError):
                matplotlib.rcParams["backend"] = backend
