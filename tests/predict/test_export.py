"""Exported classifiers predict as fastlt.predict does, in every format."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finished_run import CLASSES, linear, make_run, seen
from pictures import picture
from PIL import Image

from fastlt.core.checkpoint import save_checkpoint
from fastlt.core.errors import UserError
from fastlt.core.groups import class_groups
from fastlt.data.shards.encode import Encoding
from fastlt.experiment.results import read_results
from fastlt.models.backbones import build_model
from fastlt.predict.export.card import card
from fastlt.predict.export.formats import _use_onnx, export_run
from fastlt.predict.export.head import Head, HeadLayer, fold
from fastlt.predict.export.network import ExportedNetwork, Resize
from fastlt.predict.inputs import Images
from fastlt.predict.predictor import Predictor
from fastlt.stage2.classifiers import CLASSIFIERS
from fastlt.stage2.classifiers.base import Features, Stage2, Task, Training
from fastlt.stage2.classifiers.joint import linear_layer

C, D = 5, 12


@pytest.fixture(scope="module")
def task() -> Task:
    rng = np.random.default_rng(0)
    counts = np.array([120, 40, 30, 10, 3])
    labels = np.repeat(np.arange(C), counts)
    x = rng.normal(size=(C, D))[labels] + rng.normal(size=(len(labels), D)) + 0.7
    rows = Features(torch.from_numpy(x.astype(np.float32)), torch.from_numpy(labels))
    joint = linear_layer(torch.from_numpy(rng.normal(size=(C, D)).astype(np.float32)), torch.arange(C).float())
    training = Training(epochs=2, batch=32, lr=0.2, weight_decay=5e-4)
    return Task(rows, rows, rows, "val", joint, counts, class_groups(counts), Stage2(crt=training, lws=training), 0)


@pytest.mark.parametrize("name", [name for name in CLASSIFIERS if not name.startswith("mlp")])
def test_every_classifier_as_one_layer(name: str, task: Task) -> None:
    """tau, scales, priors, means, temperature and the scale of features: the same confidences from raw features."""
    classifier, temperature, scale = CLASSIFIERS[name], 0.7, 8.0
    tensors = classifier.fit(task).tensors
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(200, D)).astype(np.float32) + 0.7)
    expected = classifier.scores(tensors, x).double() / temperature
    ours = HeadLayer(fold(name, tensors, temperature, scale))(x * scale).detach().double()
    if name.startswith("ncm") and name.endswith("l2"):  # what is the same for all classes is left out
        expected = expected + (ours - expected).mean(1, keepdim=True)
    assert torch.equal(ours.argmax(1), expected.argmax(1))
    # float32 rounds by a share of the largest terms of a sum
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=max(1e-4, 1e-6 * float(expected.abs().max())))
    torch.testing.assert_close(ours.softmax(1), expected.softmax(1), rtol=1e-3, atol=1e-4)


def test_cosines_of_stage_1_as_one_layer() -> None:
    weight, x = torch.randn(C, D), torch.randn(50, D)
    tensors = {"cosine": 16 * torch.nn.functional.normalize(weight, dim=1)}
    ours = HeadLayer(fold("joint", tensors, 2.0, 4.0))(4 * x).detach()
    expected = 16 * torch.nn.functional.cosine_similarity(x[:, None], weight[None], dim=2) / 2
    torch.testing.assert_close(ours, expected)


def test_what_is_no_linear_layer_is_refused(task: Task) -> None:
    with pytest.raises(UserError, match=r"--classifier=mlp_1 is no linear layer .* allowed are joint, ncm_l2"):
        fold("mlp_1", CLASSIFIERS["mlp_1"].fit(task).tensors)


SIZES = ((40, 50), (32, 32), (37, 37), (300, 231), (33, 90), (500, 37), (20, 17), (64, 64), (7, 200))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", SIZES)
def test_pixels_are_those_of_the_evaluation(size: tuple[int, int], interpolation: str) -> None:
    pixels = np.stack([picture(seed, *size) for seed in (1, 2)])
    plain = {"mean": (0.0,) * 3, "std": (1 / 255,) * 3, "interpolation": interpolation}
    for keep in (0.875, 1.0):
        evaluation = replace(seen(Encoding()), crop_pct=keep, **plain)
        ours = Resize(evaluation)(torch.from_numpy(pixels).double())
        for one, image in zip(ours, pixels, strict=True):
            assert torch.equal(one.float(), evaluation.input(image)), keep


def folder(place: Path, backbone: str = "resnet32", options: dict[str, Any] | None = None) -> Path:
    """A finished run of this backbone with classifiers of several kinds."""
    torch.manual_seed(0)
    run = make_run(place / "run", {name: linear(number) for number, name in enumerate(("crt", "joint", "tau_norm"))})
    results = json.loads((run / "results.json").read_text())
    length, names = 64, list(results["classifiers"])
    if backbone != "resnet32":
        model = build_model(backbone, len(CLASSES), 0, 32, options=options)
        for value in model.backbone.buffers():  # statistics that are not those of a fresh batch norm
            if value.is_floating_point():
                value.add_(0.1 * torch.rand_like(value))
        state = torch.load(run / "checkpoint.pt", weights_only=True)
        settings = {"backbone": backbone, "image_size": 32, **({"backbone.options": options} if options else {})}
        save_checkpoint({**state, "settings": settings, "model": model.state_dict()}, run / "checkpoint.pt")
        length = model.classifier.in_features
        for name in names:
            kept = torch.load(run / "classifiers" / f"{name}.pt", weights_only=True)
            kept["tensors"] = {"weight": torch.randn(len(CLASSES), length), "bias": torch.randn(len(CLASSES))}
            torch.save(kept, run / "classifiers" / f"{name}.pt")
    results |= {"backbone": backbone, "feature_scale": 4.0}
    results["evaluation"] |= {"interpolation": "bicubic"}
    (run / "results.json").write_text(json.dumps(results))
    return run


def images(count: int = 6, size: tuple[int, int] = (45, 61)) -> np.ndarray:
    return np.stack([picture(seed, *size) for seed in range(count)])


@torch.no_grad()
def expected(run: Path, name: str, pixels: np.ndarray) -> torch.Tensor:
    """Confidences of fastlt.predict, [n, C]."""
    predictor = Predictor(run, name, torch.device("cpu"))
    inputs = torch.stack([predictor.inputs.input(image, 0) for image in pixels])
    values, classes = predictor.most_probable(predictor.forward(inputs)[1], len(CLASSES))
    return torch.zeros_like(values).scatter_(1, classes, values)


@pytest.mark.parametrize(
    ("backbone", "options"),
    [
        ("resnet18", None),
        ("timm:vit_tiny_patch16_224", {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}),
        ("timm:convnext_atto", None),
    ],
)
def test_a_folder_for_timm(backbone: str, options: dict[str, Any] | None, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed: pip install 'fastlt[timm]'")
    run = folder(tmp_path, backbone, options)
    told = export_run(run, "tau_norm", "timm", tmp_path / "out")
    assert told == (
        f'{tmp_path}/out: tau_norm on {backbone}, 3 classes, for timm.create_model("local-dir:{tmp_path}/out", '
        "pretrained=True)"
    )
    model = timm.create_model(f"local-dir:{tmp_path}/out", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
    pixels = images()
    with torch.no_grad():
        ours = model(torch.stack([transform(Image.fromarray(image)) for image in pixels])).softmax(1)
    torch.testing.assert_close(ours, expected(run, "tau_norm", pixels), rtol=1e-3, atol=1e-4)
    assert model.pretrained_cfg["label_names"] == CLASSES
    text = (tmp_path / "out" / "README.md").read_text()
    assert "| few (below 20) |" in text and "short side of 37 pixels (bicubic" in text and "| 2 | größe | 5 |" in text
    with pytest.raises(UserError, match="exists: choose another name, or add --overwrite"):
        export_run(run, None, "timm", tmp_path / "out")
    assert export_run(run, None, "timm", tmp_path / "out", overwrite=True).startswith(f"{tmp_path}/out: crt on")
    (tmp_path / "new.tmp").mkdir()
    (tmp_path / "new.tmp" / "config.json.tmp").touch()  # of an export that was killed
    (tmp_path / "new.tmp" / "notes.txt").touch()
    with pytest.raises(UserError, match=r"new.tmp is no exported folder, and --out=.*new is written there first"):
        export_run(run, None, "timm", tmp_path / "new")
    (tmp_path / "new.tmp" / "notes.txt").unlink()
    export_run(run, None, "timm", tmp_path / "new")
    assert (tmp_path / "new").is_dir() and not (tmp_path / "new.tmp").exists()


def test_arrays_pil_images_and_files_from_python(tmp_path: Path) -> None:
    run, pixels = folder(tmp_path), images(5)
    Image.fromarray(pixels[2]).save(tmp_path / "2.png")
    given = [pixels[0], Image.fromarray(pixels[1]), tmp_path / "2.png", str(tmp_path / "2.png"), pixels[4, :, ::-1]]
    found = Predictor(run, "crt", torch.device("cpu")).predict(given, top=2, batch=2)
    seen_as = np.stack([*pixels[:3], pixels[2], pixels[4, :, ::-1]])
    for best, row in zip(found, expected(run, "crt", seen_as), strict=True):
        order = row.argsort(descending=True)[:2].tolist()
        assert [one.name for one in best] == [CLASSES[number] for number in order]
        assert [one.group for one in best] == [("many", "medium", "few")[number] for number in order]  # 300, 50, 5
        assert [one.confidence for one in best] == pytest.approx(row[order].tolist(), abs=1e-5)


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (np.zeros((4, 4), np.uint8), r"image 1 is uint8 \[4, 4\]: allowed are uint8 arrays"),
        (np.zeros((4, 4, 3), np.float32), r"image 1 is float32 \[4, 4, 3\]"),
        (np.zeros((0, 4, 3), np.uint8), "image 1 is empty"),
        ("nowhere.png", "image 1, nowhere.png: No such file"),
        (3, "image 1 is int: allowed"),
    ],
)
def test_what_is_no_image(image: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=told):
        Predictor(folder(tmp_path), "crt", torch.device("cpu")).predict([images(1)[0], image])


def test_pil_images_of_every_mode_are_seen_as_their_files_are(tmp_path: Path) -> None:
    steps = np.linspace(0, 65535, 40 * 40).reshape(40, 40)
    clear = np.zeros((40, 40, 4), np.uint8)
    clear[10:30, 10:30] = 200, 30, 30, 255
    given = {
        "deep.png": Image.fromarray(steps.astype(np.uint16)),
        "float.tif": Image.fromarray((steps / 65535).astype(np.float32)),
        "clear.png": Image.fromarray(clear),
        "grey.png": Image.fromarray((steps / 257).astype(np.uint8)),
    }
    predictor = Predictor(folder(tmp_path), "crt", torch.device("cpu"))
    assert isinstance(predictor.inputs, Images)
    predictor.inputs.evaluation = replace(predictor.inputs.evaluation, encoding=Encoding(background="white"))
    for number, (name, image) in enumerate(given.items()):
        image.save(tmp_path / name)
        with Image.open(tmp_path / name) as opened:
            opened.info["comment"] = "mine"
            seen_as = predictor.inputs.input(opened, number)
            assert opened.info["comment"] == "mine"
        assert torch.equal(seen_as, predictor.inputs.input(tmp_path / name, number)), name
    Image.fromarray(images(1, (200, 200))[0]).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:2000])
    with Image.open(tmp_path / "cut.jpg") as cut, pytest.raises(UserError, match=r"^image 1: the file is truncated$"):
        predictor.predict([images(1)[0], cut])


def test_networks_that_timm_does_not_have(tmp_path: Path) -> None:
    pytest.importorskip("timm", reason="timm is not installed: pip install 'fastlt[timm]'")
    with pytest.raises(UserError, match="backbone=resnet32 is no network of timm's: choose --format safetensors"):
        export_run(folder(tmp_path), "crt", "timm", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("taken", ["uint8", "float32"])
@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_the_whole_way_from_pixels(kind: str, taken: str, tmp_path: Path) -> None:
    run, out = folder(tmp_path), tmp_path / "network"
    if kind == "onnx":
        for package in ("onnx", "onnxruntime", "onnxscript"):
            pytest.importorskip(package, reason=f"{package} is not installed: pip install 'fastlt[onnx]'")
    told = export_run(run, "crt", kind, out, taken)
    assert "3 classes" in told and f"images {taken}" in told
    if kind == "onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
        run_it: Any = lambda x: torch.from_numpy(session.run(None, {"images": x.numpy()})[0])  # noqa: E731
        facts = session.get_modelmeta().custom_metadata_map
        assert json.loads(facts["class_names"]) == CLASSES and json.loads(facts["classifier"]) == "crt"
        assert session.get_inputs()[0].shape == ["batch", "height", "width", 3]
    else:
        run_it = torch.export.load(out).module()
    for count, size in ((1, (45, 61)), (5, (200, 90)), (3, (20, 20))):
        pixels = images(count, size)
        given = torch.from_numpy(pixels) if taken == "uint8" else torch.from_numpy(pixels).float() / 255
        with torch.no_grad():
            logits = run_it(given)
        torch.testing.assert_close(logits.softmax(1), expected(run, "crt", pixels), rtol=1e-3, atol=1e-4)


def test_what_the_conversion_did_is_told(tmp_path: Path) -> None:
    """Else images of a phone would lie on their sides in front of a network that was trained on upright ones."""
    run, out = folder(tmp_path), {"README.md": "", "about.json": ""}
    export_run(run, "crt", "torch", tmp_path / "plain.pt2")
    torch.export.load(tmp_path / "plain.pt2", extra_files=out)
    assert json.loads(out["about.json"])["before"] == [] and "\n\nImages are resized" in out["README.md"]
    results = read_results(run)
    assert results.evaluation is not None
    stored = {"orientation": "apply", "max_short_side": 64, "kind": "jpeg", "quality": 80, "background": "white"}
    results = replace(results, evaluation=replace(results.evaluation, **stored))
    assert (
        "First do to each image what was done to those of training: put transparent pixels on white; scale a short "
        "side of more than 64 pixels down to that; turn it upright by its EXIF orientation "
        "(PIL.ImageOps.exif_transpose); save it as JPEG of quality 80 and open that. Images are resized"
    ) in card(results, "crt", "")


def test_what_the_card_says_of_16_bit_grey_is_what_training_saw(tmp_path: Path) -> None:
    """Pillow's convert("RGB"), which every example uses, makes such an image white."""
    run, steps = folder(tmp_path), np.linspace(0, 65535, 40 * 50).reshape(40, 50).astype(np.uint16)
    Image.fromarray(steps).save(tmp_path / "grey.png")
    with Image.open(tmp_path / "grey.png") as image:
        grey = (np.asarray(image) // 257).astype(np.uint8)
    assert "Values of 16-bit grey images are divided by 257 before" in card(read_results(run), "crt", "")
    predictor = Predictor(run, "crt", torch.device("cpu"))
    as_told = predictor.predict_proba([np.repeat(grey[..., None], 3, axis=2)])
    assert np.array_equal(as_told, predictor.predict_proba([tmp_path / "grey.png"]))


def test_the_example_for_onnx_turns_images_if_training_did() -> None:
    assert 'np.asarray(Image.open("image.jpg").convert("RGB"))' in _use_onnx("x.onnx", False)
    assert 'np.asarray(ImageOps.exif_transpose(Image.open("image.jpg")).convert("RGB"))' in _use_onnx("x.onnx", True)


def test_names_of_torchvision(tmp_path: Path) -> None:
    from safetensors import safe_open

    run, out = folder(tmp_path), tmp_path / "network.safetensors"
    assert "crt on resnet32, 3 classes, under torchvision's names" in export_run(run, None, "safetensors", out)
    model = build_model("resnet32", len(CLASSES), 1)
    with safe_open(out, "pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    model.classifier.load_state_dict({name: tensors.pop(f"fc.{name}") for name in ("weight", "bias")})
    model.backbone.load_state_dict(tensors)
    pixels = images()
    predictor = Predictor(run, "crt", torch.device("cpu"))
    inputs = torch.stack([predictor.inputs.input(image, 0).permute(2, 0, 1) for image in pixels])
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(inputs).softmax(1), expected(run, "crt", pixels), rtol=1e-3, atol=1e-4)
    assert json.loads(metadata["class_names"]) == CLASSES and metadata["classifier"] == "crt"


def test_directions_need_a_whole_network(tmp_path: Path) -> None:
    mean = torch.randn(3, 64)
    run = make_run(tmp_path / "run", {"ncm_l2": {"mean": mean, "none": torch.zeros(3), "centre": torch.randn(64)}})
    with pytest.raises(UserError, match=r"--classifier=ncm_l2 looks at directions .* choose --format onnx or torch"):
        export_run(run, "ncm_l2", "safetensors", tmp_path / "out.safetensors")
    export_run(run, "ncm_l2", "torch", tmp_path / "out.pt2")
    pixels = images()
    with torch.no_grad():
        logits = torch.export.load(tmp_path / "out.pt2").module()(torch.from_numpy(pixels))
    torch.testing.assert_close(logits.softmax(1), expected(run, "ncm_l2", pixels), rtol=1e-3, atol=1e-4)


def test_a_network_that_is_exported_wrongly_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, export = folder(tmp_path), torch.export.export

    def wrong(network: ExportedNetwork, *args: Any, **keys: Any) -> Any:
        head = Head(network.head.linear.weight.detach() * 1.01, network.head.linear.bias.detach())
        other = ExportedNetwork(network.backbone, head, seen(Encoding()), network.uint8)
        return export(other, *args, **keys)

    monkeypatch.setattr(torch.export, "export", wrong)
    with pytest.raises(UserError, match="gives other logits than this one"):
        export_run(run, "crt", "torch", tmp_path / "out.pt2")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
