"""Writes a run's classifier and backbone as a timm folder, as safetensors, as ONNX, or as a torch.export program."""

import importlib
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastlt import __version__
from fastlt.core.errors import UserError, first_line
from fastlt.core.files import replacing, write_file, writing
from fastlt.core.words import counted
from fastlt.models.checkpoint.store import write_safetensors
from fastlt.predict.export.card import about, card
from fastlt.predict.export.head import Head, fold
from fastlt.predict.export.network import ExportedNetwork
from fastlt.predict.inputs import Images
from fastlt.predict.predictor import Predictor
from fastlt.registry import library_of

OPSET = 20
FORMATS = ("timm", "safetensors", "onnx", "torch")
INPUTS = ("uint8", "float32")
NEAR = 1e-4  # largest difference of logits allowed for an exported network, relative to the largest logit
# {backbone of fastlt: timm's name}, for networks whose parameters have the same names in both.
OF_TIMM = {name: name for name in ("resnet18", "resnet50", "resnet101", "resnet152")}
OF_TIMM |= {"resnext50": "resnext50_32x4d", "resnext101": "resnext101_32x4d"}


def export_run(run: Path, name: str | None, kind: str, out: Path, taken: str = "uint8", overwrite: bool = False) -> str:
    """Exports a classifier of a finished run; returns a sentence on what was written.

    run: the folder of the run. name: the classifier; None for the default of `fastlt.predict`, a fixed rule that does
    not depend on accuracies. kind: one of FORMATS. out: the file or folder to write.
    taken: what images an ONNX file or a program takes, one of INPUTS.
    overwrite: whether an exported folder may be replaced.

    A run on features of another network has no network itself: safetensors then holds the classifier alone, fc.weight
    and fc.bias of a linear layer on features as they were given to the run.

    Raises UserError if the run has no such classifier, or if it cannot be written in that format; `out` is then
    unchanged.
    """
    predictor = Predictor(run, name, torch.device("cpu"))
    images = predictor.inputs if isinstance(predictor.inputs, Images) else None
    if images is None and kind != "safetensors":
        raise UserError(
            f"--format={kind} needs a network, and {run} was trained on features of another: choose --format "
            "safetensors, which then holds the classifier alone"
        )
    head = fold(predictor.name, predictor.tensors, predictor.temperature, predictor.inputs.scale)
    if kind in ("timm", "safetensors") and not head.plain:
        others = "" if images is None else "--format onnx or torch, or "
        raise UserError(
            f"--classifier={predictor.name} looks at directions of features, which a network's last layer does not: "
            f"choose {others}another classifier"
        )
    if images is None or kind == "safetensors":
        facts = {key: json.dumps(value) for key, value in about(predictor.results, predictor.name).items()}
        metadata = {"format": "pt", "fastlt": __version__, "backbone": predictor.results.backbone, **facts}
        metadata |= {"classifier": predictor.name, "classes": str(len(head.weight)), "key": facts["key"].strip('"')}
        write_safetensors({**_named(predictor, "fc"), "fc.weight": head.weight, "fc.bias": head.bias}, metadata, out)
        names = "under torchvision's names, the classifier is fc" if images else "the linear layer fc on features"
        return _told(predictor, out, names)
    if kind == "timm":
        return _write_timm(predictor, images, head, out, overwrite)
    network = ExportedNetwork(images.backbone, head, images.evaluation, taken == "uint8")
    write = _write_onnx if kind == "onnx" else _write_program
    return write(predictor, network, out)


def _packages(kind: str, *names: str) -> list[Any]:
    """Imports the extra packages that a format needs. Raises UserError if one is not installed."""
    try:
        return [importlib.import_module(name) for name in names]
    except ImportError as error:
        raise UserError(
            f"--format={kind} needs the packages {', '.join(names)} ({first_line(error)}): pip install 'fastlt[{kind}]'"
        ) from None


def _told(predictor: Predictor, out: Path, what: str) -> str:
    return (
        f"{out}: {predictor.name} on {predictor.results.backbone}, {counted(len(predictor.class_names), 'class')}, "
        f"{what}"
    )


def _named(predictor: Predictor, head: str) -> dict[str, Tensor]:
    tensors = {name: value.detach().clone().contiguous() for name, value in predictor.inputs.weights().items()}
    taken = [name for name in tensors if name in (f"{head}.weight", f"{head}.bias")]
    if taken:
        raise UserError(f"the backbone has a {taken[0]} of its own, the classifier's name: rename it there")
    return tensors


# --- timm ---


def _write_timm(predictor: Predictor, images: Images, head: Head, out: Path, overwrite: bool) -> str:
    results, seen, weight, bias = predictor.results, images.evaluation, head.weight, head.bias
    backbone = results.backbone
    known = library_of(backbone) == "timm" or backbone in OF_TIMM
    if not known:
        raise UserError(
            f"--format=timm: backbone={backbone} is no network of timm's: choose --format safetensors, onnx or torch"
        )
    timm = _packages("timm", "timm")[0]
    wanted = OF_TIMM.get(backbone) or backbone.partition(":")[2]
    resized = round(seen.size / seen.crop_pct)
    model_args = dict(images.backbone_options)
    if library_of(backbone) and timm.get_pretrained_cfg(wanted).fixed_input_size:
        model_args.setdefault("img_size", seen.size)
    made = timm.create_model(wanted, num_classes=len(weight), **model_args)
    place = made.pretrained_cfg.get("classifier")
    own = made.state_dict()
    if not isinstance(place, str) or f"{place}.weight" not in own:
        raise UserError(f"--format=timm: {wanted} has no single classifier: choose --format onnx or torch")
    tensors = {**_named(predictor, place), f"{place}.weight": weight, f"{place}.bias": bias}
    if {key: value.shape for key, value in own.items()} != {key: value.shape for key, value in tensors.items()}:
        raise UserError(f"--format=timm: timm's {wanted} has other parameters than backbone={backbone}")
    config = {
        "architecture": wanted.partition(".")[0],
        "num_classes": len(weight),
        "num_features": weight.shape[1],
        "model_args": model_args,
        "pretrained_cfg": {
            "input_size": [3, seen.size, seen.size],
            "interpolation": seen.interpolation,
            # timm rounds size / crop_pct down, so a quarter of a pixel is added.
            "crop_pct": 1.0 if resized == seen.size else round(seen.size / (resized + 0.25), 6),
            "crop_mode": "center",
            "mean": list(seen.mean),
            "std": list(seen.std),
            "num_classes": len(weight),
            "classifier": place,
            "first_conv": made.pretrained_cfg.get("first_conv"),
            "label_names": predictor.class_names,
        },
        "fastlt": about(results, predictor.name),
    }
    use = (
        "import timm\n\n"
        f'model = timm.create_model("local-dir:{out.name}", pretrained=True).eval()\n'
        "config = timm.data.resolve_data_config({}, model=model)\n"
        "transform = timm.data.create_transform(**config)  # of a PIL image\n"
        "confidences = model(transform(image)[None]).softmax(1)\n"
    )
    _write_folder(
        out,
        {
            "config.json": lambda path: write_file(path, json.dumps(config, indent=1, ensure_ascii=False) + "\n"),
            "README.md": lambda path: write_file(path, card(results, predictor.name, use, ("timm",))),
            "model.safetensors": lambda path: write_safetensors(tensors, {"format": "pt"}, path),
        },
        overwrite,
    )
    return _told(predictor, out, f'for timm.create_model("local-dir:{out}", pretrained=True)')


def _write_folder(out: Path, files: dict[str, Callable[[Path], Any]], overwrite: bool) -> None:
    """Writes files into a folder, which gets its name when complete. Raises UserError if `out` may not be replaced."""
    if out.exists() and not (overwrite and out.is_dir() and {one.name for one in out.iterdir()} <= files.keys()):
        raise UserError(f"--out={out} exists: choose another name, or add --overwrite for an exported folder")
    temporary = out.with_name(f"{out.name}.tmp")
    # A killed export may have left it, with files that are written under names that end in .tmp at first.
    if temporary.exists() and not (
        temporary.is_dir() and {one.name.removesuffix(".tmp") for one in temporary.iterdir()} <= files.keys()
    ):
        raise UserError(f"{temporary} is no exported folder, and --out={out} is written there first: move it away")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with writing(out, f"--out={out}"):
            temporary.mkdir(parents=True)
        for name, write in files.items():
            write(temporary / name)
        with writing(out, f"--out={out}"):
            if out.exists():
                shutil.rmtree(out)
            temporary.replace(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


# --- whole networks ---


def _examples(network: ExportedNetwork, count: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    coarse = torch.rand(count, 3, 5, 6, generator=generator)
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bilinear").permute(0, 2, 3, 1).contiguous()
    return (smooth * 255).round().to(torch.uint8) if network.uint8 else smooth


def _sizes() -> dict[str, dict[int, Any]]:
    dim = torch.export.Dim
    return {"images": {0: dim("batch", min=1), 1: dim("height", min=2), 2: dim("width", min=2)}}


def _write_onnx(predictor: Predictor, network: ExportedNetwork, out: Path) -> str:
    onnx, onnxruntime, _ = _packages("onnx", "onnx", "onnxruntime", "onnxscript")
    size = network.resize.size
    with replacing(out, f"--out={out}") as temporary:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of PyTorch's exporter about itself
            program = torch.onnx.export(
                network,
                (_examples(network, 2, size + 9, size + 14),),
                dynamo=True,
                dynamic_shapes=_sizes(),
                input_names=["images"],
                output_names=["logits"],
                opset_version=OPSET,
                verbose=False,
            )
        assert program is not None
        model = program.model_proto
        kind = "uint8 0..255" if network.uint8 else "float32 0..1"
        upright = predictor.results.evaluation.orientation == "apply"  # type: ignore[union-attr]
        model.doc_string = card(predictor.results, predictor.name, _use_onnx(out.name, upright))
        facts = about(predictor.results, predictor.name)
        facts |= {
            "input": f"images: {kind}, [batch, height, width, 3], RGB",
            "output": "logits: float32 [batch, classes]",
        }
        onnx.helper.set_model_props(model, {key: json.dumps(value, ensure_ascii=False) for key, value in facts.items()})
        onnx.save(model, temporary)
        session = onnxruntime.InferenceSession(temporary.read_bytes(), providers=["CPUExecutionProvider"])
        _check(network, lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0]))
    return _told(
        predictor,
        out,
        f"opset {OPSET}, images {kind} [batch, height, width, 3], all three of any size, logits [batch, classes]",
    )


def _use_onnx(file: str, upright: bool) -> str:
    opened = 'ImageOps.exif_transpose(Image.open("image.jpg"))' if upright else 'Image.open("image.jpg")'
    return (
        f"import numpy as np, onnxruntime\nfrom PIL import Image{', ImageOps' if upright else ''}\n\n"
        f'session = onnxruntime.InferenceSession("{file}")\n'
        f'image = np.asarray({opened}.convert("RGB"))\n'
        'logits = session.run(None, {"images": image[None]})[0]  # images of one size may be a batch\n'
    )


def _write_program(predictor: Predictor, network: ExportedNetwork, out: Path) -> str:
    size = network.resize.size
    facts = json.dumps(about(predictor.results, predictor.name), ensure_ascii=False)
    use = f'import torch\n\nnetwork = torch.export.load("{out.name}").module()\nlogits = network(images)\n'
    with replacing(out, f"--out={out}") as temporary, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        examples = (_examples(network, 2, size + 9, size + 14),)
        program = torch.export.export(network, examples, dynamic_shapes=_sizes())
        extra = {"README.md": card(predictor.results, predictor.name, use), "about.json": facts}
        with temporary.open("wb") as file:
            torch.export.save(program, file, extra_files=extra)
        with temporary.open("rb") as file:
            loaded = torch.export.load(file).module()
        _check(network, loaded)
    kind = "uint8 0..255" if network.uint8 else "float32 0..1"
    return _told(predictor, out, f"for torch.export.load, images {kind} [batch, height, width, 3] of any size")


@torch.no_grad()
def _check(network: ExportedNetwork, exported: Callable[[Tensor], Tensor]) -> None:
    """Raises UserError if an exported network gives other logits than the original one."""
    size = network.resize.size
    for count, height, width in ((1, size, size), (3, size + 31, 2 * size + 5), (2, max(2, size // 3), size // 2 + 2)):
        images = _examples(network, count, height, width)
        ours, theirs = network(images), exported(images)
        apart = float((ours - theirs).abs().max() / ours.abs().max().clamp_min(1.0))
        if not apart <= NEAR:
            raise UserError(
                f"the exported network gives other logits than this one, by {apart:.2g} of the largest: choose another "
                "--format"
            )
