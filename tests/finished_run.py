"""Finished runs made by hand, images to predict with them, and the command run in this process."""

import csv
import functools
import io
import json
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from made_results import made
from pictures import picture
from PIL import Image

from fastlt.core.checkpoint import SCHEMA, save_checkpoint
from fastlt.core.identity import Identity
from fastlt.data.convert import Conversion
from fastlt.data.shards.encode import Encoding
from fastlt.models.backbones import build_model
from fastlt.predict.__main__ import main
from fastlt.predict.images import Evaluation

CLASSES = ["apple", "box, with a lid", "größe"]
SIZE, KEEP = 32, 0.875


def predict(*arguments: object, stdin: bytes = b"") -> tuple[Any, str, str]:
    """Exit code, stdout and stderr of the command, in this process."""
    out, err = io.TextIOWrapper(io.BytesIO(), newline=""), io.StringIO()
    with (
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin))),
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as stop,
    ):
        main([*map(str, arguments), "--device", "cpu", "--threads", "1"])
    out.flush()
    return stop.value.code, out.buffer.getvalue().decode("utf-8", "surrogateescape"), err.getvalue()  # type: ignore[attr-defined]


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def pictures(folder: Path) -> Path:
    """Files of many kinds in the layout of image_folder."""
    kinds: list[Callable[[Image.Image, Path], None]] = [
        lambda image, path: image.save(path.with_suffix(".jpg"), quality=92),
        lambda image, path: image.save(path.with_suffix(".JPEG"), progressive=True),
        lambda image, path: image.convert("L").save(path.with_suffix(".jpg")),
        lambda image, path: image.convert("CMYK").save(path.with_suffix(".jpg")),
        lambda image, path: image.save(path.with_suffix(".png")),
        lambda image, path: image.convert("RGBA").save(path.with_suffix(".png")),
        lambda image, path: image.save(
            path.with_suffix(".gif"), save_all=True, append_images=[image.transpose(Image.Transpose.ROTATE_180)]
        ),
        lambda image, path: Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 200).save(
            path.with_suffix(".png")
        ),
        lambda image, path: image.save(path.with_suffix(".jpg"), exif=_turned()),
    ]
    for split, count in (("train", 1), ("test", len(kinds))):
        for label, name in enumerate(CLASSES):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                seed = 100 * label + i
                kinds[i](Image.fromarray(picture(seed, 40 + 9 * i, 90 - 7 * i)), folder / split / name / f"image {i}")
    return folder


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def options_of(encoding: Encoding) -> Conversion:
    return Conversion("folder", (0.48, 0.45, 0.4), (0.23, 0.22, 0.225), "demo", encoding)


def seen(encoding: Encoding) -> Evaluation:
    options = options_of(encoding)
    return Evaluation(SIZE, KEEP, options.mean, options.std, encoding)


# --- a run made by hand ---


def model_state(seed: int) -> dict[str, Any]:
    settings = Identity({"backbone": "resnet32", "classes": len(CLASSES), "seed": seed})
    return {
        "schema": SCHEMA,
        "key": settings.key,
        "settings": settings.about,
        "finished": True,
        "epoch": 1,
        "model": build_model("resnet32", len(CLASSES), seed).state_dict(),
    }


def make_run(folder: Path, tensors: dict[str, dict[str, torch.Tensor]]) -> Path:
    """A finished run with these classifiers; test accuracy speaks for the worst of them."""
    folder.mkdir()
    state = model_state(0)
    save_checkpoint(state, folder / "checkpoint.pt")
    (folder / "classifiers").mkdir()
    results = made(train=[300, 50, 5], names=tuple(tensors))
    for place, (name, held) in enumerate(tensors.items()):
        results["classifiers"][name] |= {"key": f"key of {name}", "mean_class": 10.0 + place}
        kept = {"schema": 1, "key": f"key of {name}", "checkpoint": "checkpoint.pt", "tensors": held}
        kept["temperature"] = 0.5 + place
        torch.save(kept, folder / "classifiers" / f"{name.replace(':', '.')}.pt")
    options = options_of(Encoding())
    results["evaluation"] |= {"mean": options.mean, "std": options.std, "crop_pct": KEEP, **asdict(options.encoding)}
    results |= {"class_names": CLASSES, "image_size": SIZE, "key": state["key"]}
    (folder / "results.json").write_text(json.dumps(results))
    return folder


@functools.cache
def _usual() -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of the features of some pictures."""
    images = [seen(Encoding()).input(picture(i, 40, 50)).permute(2, 0, 1) for i in range(16)]
    with torch.no_grad():
        features = build_model("resnet32", len(CLASSES), 0).eval().backbone(torch.stack(images))
    return features.mean(0), features.std(0) + 1e-6


def linear(seed: int) -> dict[str, torch.Tensor]:
    """A classifier whose scores differ from picture to picture."""
    generator = torch.Generator().manual_seed(seed)
    mean, std = _usual()
    weight = 0.3 * torch.randn(len(CLASSES), 64, generator=generator) / std
    return {"weight": weight, "bias": -weight @ mean}


def hold_out(run: Path, name: str, unfit: list[float], labels: list[int]) -> None:
    """Gives a classifier of a run held-out images with these values of 1 - p_y."""
    path = run / "classifiers" / f"{name}.pt"
    held = {"unfit": torch.tensor(unfit, dtype=torch.float64), "labels": torch.tensor(labels)}
    torch.save({**torch.load(path, weights_only=True), "held_out": held}, path)


def change(run: Path, **values: Any) -> None:
    results = json.loads((run / "results.json").read_text()) | values
    (run / "results.json").write_text(json.dumps(results))
