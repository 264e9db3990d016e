"""The console script `fastlt COMMAND ...`, which `python -m fastlt COMMAND ...` runs as well."""

import runpy
import sys

from fastlt import __version__

COMMANDS = {
    "convert": "turn images and labels into a dataset that training reads",
    "train": "train a representation, fit classifiers on it, evaluate, report",
    "grid": "run many trainings, on this node or by SLURM, and report on all of them",
    "report": "write the report of a run anew, or one page across many runs",
    "predict": "name the classes of new images",
    "shards": "verify or describe a converted dataset",
    "checkpoint": "import, export and describe weights",
    "bench": "measure this machine, beside other libraries",
    "doctor": "tell what this machine has, whether fastlt works on it, and what would be slow",
    "completion": "print a script by which bash or zsh completes these commands",
}


def usage() -> str:
    """Returns the text that `fastlt --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {does}" for name, does in COMMANDS.items()]
    return "\n".join(
        ["usage: fastlt COMMAND ...", "", *lines, "", "fastlt COMMAND --help tells the keys of a command.", ""]
    )


def main() -> None:
    """Runs a command in this process, as `python -m fastlt.COMMAND` does; exits with code 2 for an unknown command."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help", "help"):
        sys.stdout.write(usage())
    elif name == "--version":
        sys.stdout.write(f"fastlt {__version__}\n")
    elif name in COMMANDS:
        sys.argv = [f"fastlt {name}", *sys.argv[2:]]
        runpy.run_module(f"fastlt.{name}", run_name="__main__", alter_sys=True)
    else:
        sys.stderr.write(f"error: command {name} is unknown: allowed are {', '.join(COMMANDS)}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
