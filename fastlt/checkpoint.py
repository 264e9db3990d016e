"""The command `python -m fastlt.checkpoint import|export|describe`.

It imports weights of other projects as fastlt checkpoints, exports fastlt's weights, and describes files of weights.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from fastlt.core.cli import Parser, guard
from fastlt.core.errors import UserError
from fastlt.core.log import printed
from fastlt.core.words import counted
from fastlt.experiment.results import NAME as RESULTS
from fastlt.models.backbones import BACKBONES, IMAGE_SIZE
from fastlt.models.checkpoint.networks import seems
from fastlt.models.checkpoint.pretrained import identify
from fastlt.models.checkpoint.read import checkpoint_path, classifier_kind, is_ours, load_state, read_weights
from fastlt.models.checkpoint.store import check_place, count_parameters, export, import_weights, save_imported
from fastlt.predict.export.formats import FORMATS, INPUTS, export_run


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m fastlt.checkpoint",
        description="Weights of others for fastlt, and the reverse.",
        examples=(
            "python -m fastlt.checkpoint import theirs.pth --out theirs.pt",
            "python -m fastlt.checkpoint export runs/photos --out photos.safetensors",
            "python -m fastlt.checkpoint describe theirs.pth",
        ),
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], str], file: str, help: str, more: str) -> Parser:
        one = commands.add_parser(name, help=help, description=more)
        one.add_argument("file", metavar=file, type=Path)
        one.set_defaults(command=run)
        return one

    reading = command(
        "import",
        _import,
        "FILE",
        "make a checkpoint of somebody's weights",
        "Makes a checkpoint of fastlt of a file of the paper's authors, LDAM-DRW, MiSLAS, BagofTricks-LT or BALMS, of "
        "torchvision's or timm's state dicts, or of a .safetensors file. Nothing that the file contains is run.",
    )
    reading.add_argument("--out", metavar="OUT.pt", type=Path, required=True, help="the checkpoint")
    reading.add_argument(
        "--backbone",
        metavar="NAME",
        help=f"{', '.join(BACKBONES)}, or package.module:factory (default: found from the shapes)",
    )
    reading.add_argument(
        "--image-size", metavar="PX", type=int, default=IMAGE_SIZE, help=f"that an own backbone takes ({IMAGE_SIZE})"
    )
    reading.add_argument(
        "--classifier",
        choices=("linear", "cosine"),
        help="what the classifier is, where it has no bias and the file does not tell",
    )
    writing = command(
        "export",
        _export,
        "RUN_OR_CHECKPOINT",
        "write a network with one of a run's classifiers",
        "Writes the backbone of a run with one of its classifiers, folded into a single linear layer with its "
        "temperature: the softmax of its logits is the confidence of fastlt.predict. Of a checkpoint alone it is stage "
        "1's own classifier, as .safetensors. A backbone or classifier of one's own, package.module:NAME, is imported.",
    )
    writing.add_argument(
        "--out", metavar="OUT", type=Path, required=True, help="the file, or the folder of timm's format"
    )
    writing.add_argument(
        "--classifier",
        metavar="NAME",
        help="one of the run's (default: crt, else tau_norm, else the first but joint, as in fastlt.predict)",
    )
    writing.add_argument(
        "--format",
        choices=FORMATS,
        default="safetensors",
        help="timm: a folder for timm.create_model; safetensors: torchvision's names, the classifier is fc; onnx, "
        "torch: the whole way from pixels to logits (safetensors)",
    )
    writing.add_argument("--input", choices=INPUTS, default="uint8", help="images that onnx and torch take (uint8)")
    for one in (reading, writing):
        one.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    command(
        "describe",
        _describe,
        "FILE",
        "tell what a file of weights holds",
        "Tells what a checkpoint of fastlt, a run folder or somebody's file of weights holds, and changes nothing.",
    )
    return parser


def _import(options: argparse.Namespace) -> str:
    if options.image_size < 1:
        raise UserError(f"--image-size={options.image_size}: it must be 1 or more")
    check_place(options.out, options.file, options.overwrite)
    state, kind = import_weights(options.file, options.backbone, options.image_size, options.classifier)
    save_imported(state, options.out)
    about = state["settings"]
    size = count_parameters(state["model"])
    model = _model(about["backbone"], size, about["classes"], classifier_kind(state))
    return f"{printed(f'{options.out}: {kind}, {model}')}\n"


def _export(options: argparse.Namespace) -> str:
    if (options.file / RESULTS).exists():
        if options.format == "safetensors" and options.out.suffix != ".safetensors":
            raise UserError(f"--out={options.out}: the name must end in .safetensors")
        if options.format != "timm":
            check_place(options.out, options.file, options.overwrite)
        named = options.file, options.classifier, options.format, options.out, options.input, options.overwrite
        return f"{printed(export_run(*named))}\n"
    if options.classifier not in (None, "joint") or options.format != "safetensors":
        asked = "classifier" if options.classifier not in (None, "joint") else "format"
        raise UserError(
            f"--{asked}={getattr(options, asked)}: {options.file} has no {RESULTS}, as the folder of a finished run "
            "has: its own classifier alone can be exported, as .safetensors"
        )
    about = export(options.file, options.out, options.overwrite)
    told = f"{options.out}: {about['backbone']}, {counted(int(about['classes']), 'class')}, key {about['key']}"
    return f"{printed(told)}\n"


def _describe(options: argparse.Namespace) -> str:
    path = checkpoint_path(options.file)
    state, _ = load_state(path)
    if not is_ours(state):
        return _describe_foreign(path)
    about = state["settings"]
    classes = len(state["model"]["classifier.weight"])
    chosen = "the best on val" if state.get("chosen_on_val") else "the last one"
    if not state.get("finished"):
        chosen = "training goes on"
    seen = f"{counted(state.get('images', 0), 'image')} seen in {state.get('seconds', 0.0):.0f} s of training"
    history = ["imported, not trained here"] if "imported" in about else [f"epoch {state['epoch']}, {chosen}", seen]
    lines = [
        f"{path}: checkpoint of fastlt, {'finished' if state.get('finished') else 'not finished'}",
        _model(about.get("backbone"), count_parameters(state["model"]), classes, classifier_kind(state)),
        *history,
        f"key {state['key']}",
        *(f"  {name}: {value}" for name, value in about.items()),
    ]
    return "".join(f"{printed(line)}\n" for line in lines)


def _describe_foreign(path: Path) -> str:
    weights = read_weights(path)
    name = (
        identify(weights.backbone) or weights.backbone_name or f"{seems(weights.backbone)}, which fastlt does not have"
    )
    head = [tensor for tensor in weights.classifier or () if tensor is not None]
    count = count_parameters({**weights.backbone, **dict(zip(("fc.weight", "fc.bias"), head, strict=False))})
    kind = "cosine" if len(head) == 1 else "linear"
    lines = [f"{path}: {weights.kind}", _model(name, count, len(head[0]) if head else 0, kind), *weights.notes]
    return "".join(f"{printed(line)}\n" for line in lines)


def _model(backbone: str | None, parameters: int, classes: int, classifier: str) -> str:
    head = counted(classes, "class") if classes else "no classifier"
    head += {"cosine": ", compared by cosine", "etf": ", compared by cosine with a fixed frame"}.get(classifier, "")
    return f"{backbone}, {parameters:,} parameters, {head}"


def main(arguments: list[str] | None = None) -> None:
    """Runs the command and exits with code 0, or with 2 after a line on stderr about wrong input.

    arguments: command-line arguments; None takes those of the process.
    """

    def command() -> NoReturn:
        options = _parser().parse_args(arguments)
        sys.stdout.write(options.command(options))
        sys.exit(0)

    guard(command)


if __name__ == "__main__":
    main()
