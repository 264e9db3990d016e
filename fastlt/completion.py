"""The command `python -m fastlt.completion`: prints a script by which bash or zsh completes `fastlt COMMAND ...`.

Hydra's own completion knows neither `python -m MODULE` nor a program with commands, and starts Python at each Tab. This
one holds the words that --help tells, so a Tab takes no time.
"""

import argparse
import contextlib
import importlib
import io
import re
import sys
from unittest.mock import patch

from fastlt.__main__ import COMMANDS
from fastlt.core.cli import Parser, guard

ABOUT = """Prints a script that completes the commands, keys, named values and flags of fastlt.

bash, with the package bash-completion:
  mkdir -p ~/.local/share/bash-completion/completions
  fastlt completion > ~/.local/share/bash-completion/completions/fastlt

zsh:
  fastlt completion > ~/.fastlt-completion
  echo 'autoload -U compinit bashcompinit && compinit && bashcompinit && source ~/.fastlt-completion' >> ~/.zshrc

Write it again after an update of fastlt."""

# Bash replaces only what is after the last "=" of a word, zsh all of it. Keys are offered step by step: "protocol="
# and "protocol." first, then the values of the one or what is in the other.
SCRIPT = """\
_fastlt() {
    local typed=${COMP_LINE:0:$COMP_POINT} offered= word reply rest replies=
    word=${typed##*[[:space:]]}
    case "$typed" in
        fastlt[[:space:]]*[[:space:]]*)
            case "${COMP_WORDS[1]}" in
CASES
            esac ;;
        *) offered="COMMANDS" ;;
    esac
    for reply in $(compgen -W "$offered" -- "$word"); do
        case "$word" in *=*) rest= ;; *) rest=${reply#"$word"} ;; esac
        case "$rest" in *[.=]*) rest=${rest%%[.=]*} reply=${reply:0:$((${#word} + ${#rest} + 1))} ;; esac
        case " $replies " in *" $reply "*) ;; *) replies="$replies $reply" ;; esac
    done
    COMPREPLY=($(compgen -W "$replies" -- "$word"))
    case "${COMPREPLY[*]}" in *[=.]) [ -n "$BASH_VERSION" ] && compopt -o nospace ;; esac
    case "$word" in
        *=*) [ -n "$BASH_VERSION" ] && COMPREPLY=("${COMPREPLY[@]#"${word%%=*}="}") ;;
    esac
}
complete -o default -F _fastlt fastlt
"""


def words_of(text: str) -> list[str]:
    """Returns what may stand after a command: the keys, named values, flags and subcommands that its --help tells.

    text: what `fastlt COMMAND --help` prints.

    >>> words_of("named values:\\n  grid=demo, strong\\n\\nkeys, with defaults in brackets:\\n  seed    any [0]")
    ['grid=demo', 'grid=strong', 'seed=']
    >>> words_of("options:\\n  -h, --help  show this\\n  --out DIR   where it goes, see --each")
    ['--help', '--out']
    """
    named, _, keys = text.partition("keys, with defaults in brackets:")
    values = re.sub(r",\s+", ",", named.partition("named values:")[2])  # a long list goes on in the next line
    found = [f"{key}={value}" for key, line in re.findall(r"^  (\w+)=(.+)$", values, re.M) for value in line.split(",")]
    found += [f"{key}=" for key in re.findall(r"^  ([a-z][\w.]*)(?:\s|$)", keys, re.M)]
    found += re.findall(r"^  (?:-\w, )?(--[\w-]+)", text, re.M)
    return found + re.findall(r"^    ([a-z]+)  ", text.partition("positional arguments:\n  COMMAND\n")[2], re.M)


def script() -> str:
    """Returns the script for bash and zsh."""
    words = {command: words_of(_help(command)) for command in COMMANDS}
    words["grid"] += [word for word in words["train"] if word not in words["grid"]]  # a grid passes them on
    cases = "\n".join(f'                {command}) offered="{" ".join(found)}" ;;' for command, found in words.items())
    return SCRIPT.replace("CASES", cases).replace("COMMANDS", " ".join(words))


def _help(command: str) -> str:
    """Returns what `fastlt COMMAND --help` prints."""
    module = importlib.import_module(f"fastlt.{command}")
    if hasattr(module, "__path__"):  # a package
        module = importlib.import_module(f"fastlt.{command}.__main__")
    out = io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.suppress(SystemExit),
        patch.object(sys, "argv", ["fastlt", "--help"]),
    ):
        module.main()
    return out.getvalue()


def main() -> None:
    """Runs the command."""

    def command() -> None:
        shown = argparse.RawDescriptionHelpFormatter
        parser = Parser(prog="python -m fastlt.completion", description=ABOUT, formatter_class=shown)
        parser.parse_args()
        sys.stdout.write(script())

    guard(command)


if __name__ == "__main__":
    main()
