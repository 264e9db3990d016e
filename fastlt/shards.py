"""The command `python -m fastlt.shards verify|describe DIR`: checks a converted dataset, or prints what it holds."""

import argparse
import json
import sys
from pathlib import Path
from typing import NoReturn

from fastlt.core.cli import Parser, guard, tell_regrets
from fastlt.core.errors import UserError
from fastlt.core.log import printed, regretted
from fastlt.core.own_backend import own_backend
from fastlt.data.shards.verify import LINES, verify

DAMAGED = 1  # exit code of verify if it found damage


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m fastlt.shards",
        description="Looks into a converted dataset and changes nothing.",
        examples=(
            "python -m fastlt.shards describe data/photos",
            "python -m fastlt.shards describe data/photos --picture classes.png",
            "python -m fastlt.shards verify data/photos",
        ),
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    check = commands.add_parser(
        "verify",
        help="check every byte of a dataset",
        description="Checks every byte of a dataset: what its description, its index and its shards say of each other. "
        "Every finding is a line that names the file, the place, and the image's key and label. "
        "Exit code 0 if all is well, 1 if anything is wrong.",
    )
    check.add_argument(
        "--lines", metavar="N", type=int, default=LINES, help=f"findings in full before they are counted ({LINES})"
    )
    check.set_defaults(command=_verify)
    tell = commands.add_parser(
        "describe",
        help="tell what a dataset holds, and draw it",
        description="Tells what a dataset holds: classes, groups, sizes, encodings; and draws its class counts and "
        "some of its images.",
    )
    tell.add_argument("--picture", metavar="FILE", type=Path, help="the PNG (default: DIR.png, beside DIR)")
    tell.add_argument("--no-picture", action="store_true", help="draw nothing")
    tell.add_argument("--json", action="store_true", help="the same facts as one JSON object")
    tell.set_defaults(command=_describe)
    for command in (check, tell):
        command.add_argument("dir", metavar="DIR", type=Path, help="a converted dataset")
    return parser


def _verify(options: argparse.Namespace) -> int:
    if options.lines < 0:
        raise UserError(f"--lines={options.lines}: it must be 0 or more")
    verdict = verify(options.dir, options.lines)
    sys.stdout.write("".join(f"{printed(line)}\n" for line in (*verdict.lines, f"{options.dir}: {verdict.summary}")))
    return DAMAGED if verdict.findings else 0


def _describe(options: argparse.Namespace) -> int:
    # Imported only here because verify needs neither of them.
    from fastlt.data.shards.describe import describe, page
    from fastlt.data.shards.reader import Dataset

    dataset = Dataset(options.dir)
    facts = describe(dataset)
    if not options.no_picture:
        with own_backend():
            from fastlt.data.shards.picture import picture_path, save_picture

        path = picture_path(dataset.root, options.picture)
        with regretted("picture"):  # the facts are printed even if the picture cannot be drawn
            save_picture(dataset, path)
            facts["picture"] = str(path)
    sys.stdout.write(json.dumps(facts, indent=1, ensure_ascii=False) + "\n" if options.json else page(facts))
    return 0


def main(arguments: list[str] | None = None) -> None:
    """Runs the command and exits with code 0, with 1 if verify found damage, or with 2 after a line about wrong input.

    arguments: command-line arguments; None takes those of the process.
    """

    def command() -> NoReturn:
        options = _parser().parse_args(arguments)
        code = options.command(options)
        tell_regrets()
        sys.exit(code)

    guard(command)


if __name__ == "__main__":
    main()
