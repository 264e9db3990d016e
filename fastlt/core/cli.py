"""What all commands share: configuration by Hydra, and wrong input reported as one line with exit code 2."""

import argparse
import contextlib
import errno
import functools
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

import hydra
from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException, UnsupportedInterpolationType

from fastlt.core.errors import DEBUG, UserError
from fastlt.core.files import refused
from fastlt.core.help import Help
from fastlt.core.interrupts import Stopped, impatience
from fastlt.core.log import printed, regrets
from fastlt.core.overrides import declared, quoted_strings
from fastlt.core.structured import register

FAILED, WRONG_INPUT = 1, 2
# {key: what other libraries call it}, for the message about an unknown key.
_OTHER_NAMES = {
    "lr": ("learning_rate", "learn_rate", "base_lr", "lr0"),
    "batch": ("batch_size", "batchsize", "bs"),
    "weight_decay": ("wd", "decay", "l2"),
    "backbone": ("model", "arch", "architecture", "network", "net", "encoder"),
    "epochs": ("num_epochs", "max_epochs", "n_epochs"),
    "threads": ("workers", "num_workers", "num_threads", "n_jobs", "jobs", "cpus"),
    "workers": ("threads", "num_workers", "num_threads", "n_jobs", "jobs", "cpus"),
    "device": ("gpu", "gpus", "cuda", "accelerator"),
    "run": ("out", "output", "output_dir", "out_dir", "save_dir", "log_dir", "checkpoint"),
    "out": ("run", "output", "output_dir", "out_dir", "save_dir"),
    "data": ("data_dir", "data_root", "data_path", "dataset", "root", "input"),
    "root": ("data", "data_dir", "data_root", "data_path", "input"),
    "seed": ("random_seed", "random_state"),
    "loss": ("criterion", "loss_fn"),
    "optimizer": ("optim", "opt"),
    "image_size": ("img_size", "imgsz", "input_size", "resolution", "size"),
    "precision": ("amp", "fp16", "bf16", "dtype"),
}


def hydra_command(
    name: str, schema: type, about: Help, values: Callable[[DictConfig], dict[str, Any]] | None = None
) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Decorator that makes a function a command configured by conf/`name`.yaml and key=value arguments.

    schema: the dataclass that declares the keys. about: what --help says beside them.
    values: returns what `--cfg job` prints of the composed DictConfig; by default it is printed itself.
    The decorated function takes the composed DictConfig.

    Wrong input ends the command with one line on stderr and exit code 2; --debug or HYDRA_FULL_ERROR=1 adds the
    traceback.

    Example:

        @hydra_command("train", TrainConfig, Help("python -m fastlt.train KEY=VALUE ...", "Trains ...", ["..."]))
        def main(config): ...
    """

    register(name, schema)

    def decorate(main: Callable[[DictConfig], Any]) -> Callable[[], None]:
        asked = False  # for the values, by --cfg job

        def run_or_show(config: DictConfig) -> None:
            if values and asked:
                sys.stdout.write(OmegaConf.to_yaml(OmegaConf.create(values(config))))
            else:
                main(config)

        @functools.wraps(main)
        def job(config: DictConfig) -> None:
            # The guard stands inside the job, because Hydra would print lines of its own about an error that leaves it.
            guard(lambda: run_or_show(config), schema)

        command = hydra.main(config_path="pkg://fastlt.conf", config_name=name, version_base="1.3")(job)

        def understood() -> None:
            nonlocal asked
            if values:
                sys.argv[1:], asked = without_cfg_job(sys.argv[1:])
            sweeps = any(argument in ("-m", "--multirun") for argument in sys.argv)
            sys.argv[1:] = quoted_strings(own_parts(sys.argv[1:]), schema, sweeps)
            _check_flags(sys.argv[1:])
            command()

        def run() -> None:
            if {"-h", "--help"} & set(sys.argv[1:]):
                sys.stdout.write(about.text(schema))
                return
            if "--debug" in sys.argv:
                sys.argv.remove("--debug")
                os.environ[DEBUG] = "1"
            elif os.environ.get("HYDRA_FULL_ERROR") == "1":
                os.environ[DEBUG] = "1"
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing and exiting with 1
            guard(understood, schema)
            tell_regrets()

        return run

    return decorate


def without_cfg_job(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """Returns the arguments without Hydra's `--cfg job`, and whether it was among them.

    >>> without_cfg_job(["seed=1", "--cfg", "job"])
    (['seed=1'], True)
    """
    rest = list(arguments)
    for given in (["--cfg", "job"], ["-c", "job"], ["--cfg=job"]):
        for place in range(len(rest)):
            if rest[place : place + len(given)] == given:
                others = rest[:place] + rest[place + len(given) :]
                return [one for one in others if one != "--resolve"], True  # all values are resolved
    return rest, False


def own_parts(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments with sampler= and backbone= of a user's own part rewritten to sampler.name= and so on.

    Hydra reads sampler=NAME as the file conf/sampler/NAME.yaml, and there is no such file for package.module:NAME.

    >>> own_parts(["sampler=mymodule:effective", "seed=1"])
    ['sampler.name=mymodule:effective', 'seed=1']
    """
    return [re.sub(r"^(sampler|backbone)=(?=['\"]?[\w.,]*\w:\w)", r"\1.name=", argument) for argument in arguments]


def _check_flags(arguments: Sequence[str]) -> None:
    """Raises UserError for a flag that Hydra does not know, about which it would print its usage in eight lines."""

    def wrong(message: str) -> NoReturn:
        raise UserError(f"{message}; see --help")

    parser = get_args_parser()  # Hydra's own, as no public function has its flags
    parser.error = wrong
    parser.parse_args(arguments)


_EXAMPLES = "examples:\n"


class _Help(argparse.HelpFormatter):
    """Leaves the lines of examples as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith(_EXAMPLES) else super()._fill_text(text, width, indent)


class _Debug(argparse.Action):
    def __call__(self, *given: Any) -> None:
        os.environ[DEBUG] = "1"


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UserError, so that an error is one line without the usage that argparse prints.

    It has the flag --debug. examples: commands that the help ends with.
    """

    def __init__(self, *given: Any, examples: Sequence[str] = (), **options: Any):
        told = _EXAMPLES + "".join(f"  {one}\n" for one in examples) if examples else None
        super().__init__(*given, **{"formatter_class": _Help, "epilog": told, **options})
        help = "show the traceback of an error"
        self.add_argument("--debug", action=_Debug, nargs=0, default=argparse.SUPPRESS, help=help)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def guard(command: Callable[[], Any], schema: type | None = None) -> None:
    """Runs a command and ends the process with one line on stderr for an error that the user can correct.

    Exit codes: 2 for wrong input and for files that the system refuses, 130 for Ctrl-C, 128 + the signal's number if
    work was saved on a signal, 141 if whoever reads stdout has enough, such as `head`. Other exceptions pass through,
    and with FASTLT_DEBUG=1 all errors do.

    schema: the dataclass that declares the command's keys, for the message about an unknown key.
    """
    open_streams()
    try:
        with impatience(), _flushed():
            command()
    except BrokenPipeError:
        sys.exit(128 + signal.SIGPIPE)
    except (UserError, HydraException, OmegaConfBaseException) as error:
        if os.environ.get(DEBUG) == "1":
            raise
        if any(isinstance(one, KeyboardInterrupt) for one in _chain(error)):  # Hydra makes another error of Ctrl-C
            _end_interrupted()
        sys.stderr.write(f"error: {printed(one_line(error, schema))}\n")
        sys.exit(WRONG_INPUT)
    except OSError as error:
        if os.environ.get(DEBUG) == "1" or not (told := refused(error)):
            raise
        sys.stderr.write(f"error: {printed(told)}\n")
        sys.exit(WRONG_INPUT)
    except Stopped as stopped:
        sys.stderr.write(f"stopped by {signal.Signals(stopped.signal).name}: {stopped}\n")
        sys.exit(128 + stopped.signal)
    except KeyboardInterrupt:
        _end_interrupted()


def _end_interrupted() -> NoReturn:
    # After a Ctrl-C, further ones are ignored: the process is about to end.
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stderr.write("interrupted\n")
    sys.exit(130)


def _chain(error: BaseException | None) -> list[BaseException]:
    """Returns an error with all those that it followed from, the last one first."""
    return [error, *_chain(error.__cause__ or error.__context__)] if error else []


def open_streams() -> None:
    """Opens standard streams that are closed, as by `>&-`: a file of the work would get their number otherwise.

    Letters that stdout's encoding lacks are escaped, as they are on stderr. What stderr cannot take is dropped.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the smallest number that is free
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # a dagger in Latin-1 is no reason to write no report
    if sys.stderr is sys.__stderr__:
        lines = io.BufferedWriter(_Messages(2, "wb", closefd=False))
        sys.stderr = io.TextIOWrapper(lines, sys.stderr.encoding, sys.stderr.errors, line_buffering=True)


class _Messages(io.FileIO):
    """stderr. A log on a full disk, a terminal that was closed, or a `tee` that has ended does not end the work."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data) or len(data)
        except OSError:
            return len(data)


@contextlib.contextmanager
def _flushed() -> Iterator[None]:
    """Context manager that flushes stdout at its end, where an error can still be told. Raises OSError."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OSError as error:
        if error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EPIPE):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes stdout again when the process ends
            error.filename = "stdout"
        raise


def tell_regrets() -> None:
    """Prints the failures that `regret` noted and ends the process with exit code 1; does nothing if there are none."""
    if told := regrets():
        sys.stderr.write("".join(f"failed: {printed(line)}\n" for line in told))
        sys.exit(FAILED)


def one_line(error: BaseException, schema: type | None) -> str:
    """Returns an error of the user's input as one line that says what is allowed.

    error: a UserError, an OSError, or an exception of Hydra or OmegaConf, which is told in the command's own terms.
    schema: the dataclass that declares the command's keys, for the message about an unknown key.
    """
    if isinstance(error, UserError):
        return " ".join(str(error).splitlines())
    if isinstance(error, OSError) and (told := refused(error)):
        return told
    chain = _chain(error)
    text = "\n".join(str(part) for part in chain)
    if match := re.search(r"Could not override '([^']+)'", text):
        return _unknown_key(match[1], schema)
    if match := re.search(r"Could not find '([^/']+)/([^']+)'", text):
        file = f"a file FOLDER/{match[1]}/NAME.yaml of your own, with --config-dir FOLDER"
        own = "package.module:NAME of your own" if match[1] in ("sampler", "backbone") else file
        return f"{match[1]}={match[2]} is unknown: allowed are {', '.join(_options(match[1]))}, or {own}"
    if match := re.search(r"You must specify '([^']+)', e.g", text):
        return f"{match[1]} is not given: add {match[1]}=NAME with one of {', '.join(_options(match[1]))}"
    if match := re.search(r"Missing mandatory value: (\S+)", text):
        return f"{match[1]} is not given: add {match[1]}=VALUE"
    match = re.search(r"full_key: (\S+)", text)
    if isinstance(error, InterpolationResolutionError | UnsupportedInterpolationType):
        letters = "${KEY} stands for the value of KEY: write \\${...} for the letters themselves"
        return f"{f'{match[1]}: ' if match else ''}{str(error).splitlines()[0]}; {letters}"
    if match:
        told = next((str(part) for part in chain if str(part).startswith("Value")), str(chain[-1]))
        if "is not a ListConfig" in told:
            return f"{match[1]} takes a list: write '{match[1]}=[A,B]', in quotes, also for a single one"
        return f"{match[1]}: {told.splitlines()[0]}"
    if match := re.search(r"Ambiguous value for argument '(.*)'$", text, re.MULTILINE):
        return f"{match[1]}: here it takes one value; add -m for a run with each, or use python -m fastlt.grid"
    if match := re.search(r"Error parsing override '(.*)'$", text, re.MULTILINE):
        return f"{match[1]}: arguments are key=value"
    return next(line.strip() for line in [*str(error).splitlines(), type(error).__name__] if line.strip())


def _unknown_key(key: str, schema: type | None) -> str:
    parent, _, leaf = key.rpartition(".")
    allowed = _keys(schema, parent)
    paths = [path for path, _ in declared(schema)] if schema else []
    ours = [leaf, *(key for key, names in _OTHER_NAMES.items() if leaf in names)]
    elsewhere = [path for path in paths if path.rpartition(".")[2] in ours]
    elsewhere = [path for path in elsewhere if path.rpartition(".")[0] == parent] or elsewhere
    close = elsewhere or [f"{parent}.{near}".lstrip(".") for near in get_close_matches(leaf, allowed, 1)]
    if not close:
        leaves = {path.rpartition(".")[2]: path for path in reversed(paths)}
        close = [leaves[near] for near in get_close_matches(leaf, leaves, 1)]
    hint = f" (did you mean {' or '.join(close)}?)" if close else ""
    return f"unknown key {key}{hint}: allowed are {', '.join(allowed)}"


def _keys(schema: Any, parent: str) -> list[str]:
    """Returns the keys that `schema` declares in its section `parent`, such as "protocol.crt"; "" is the top level."""
    for name in filter(None, parent.split(".")):
        schema = get_type_hints(schema).get(name) if is_dataclass(schema) else None
    return [field.name for field in fields(schema)] if is_dataclass(schema) else []


def _options(group: str) -> list[str]:
    folder = Path(__file__).parents[1] / "conf" / group
    return sorted(path.stem for path in folder.glob("*.yaml") if path.stem != "auto")
