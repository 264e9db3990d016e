"""Networks of timm and torchvision as backbones: names, inputs, weights, layers."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pictures import picture
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from fastlt.core.errors import UserError
from fastlt.data.shards.encode import Encoding
from fastlt.models.backbones import (
    BackboneConfig,
    build_backbone,
    build_model,
    freeze_before,
    last_block,
    layer_depths,
    thaw,
)
from fastlt.models.checkpoint.pretrained import load_pretrained, pretrained_identity
from fastlt.models.checkpoint.sources import file_digest
from fastlt.models.libraries import Inputs, inputs_of
from fastlt.predict.images import Evaluation
from fastlt.registry import is_own

VIT = "timm:vit_tiny_patch16_224"
SMALL_VIT = {"patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3}


@pytest.fixture
def timm() -> Any:
    return pytest.importorskip("timm", reason="timm is not installed: pip install 'fastlt[timm]'")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x).mean((2, 3))


def own() -> nn.Module:
    return Net()


# --- names ---


@pytest.mark.parametrize(
    ("name", "length"),
    [("resnet18", 512), ("mobilenet_v3_small", 1024), ("vit_b_32", 768), ("convnext_tiny", 768), ("swin_t", 768)],
)
def test_torchvisions_networks_end_in_their_features(name: str, length: int) -> None:
    network, found = build_backbone(f"torchvision:{name}", 224)
    assert found == length and network.training
    assert not is_own(f"torchvision:{name}")  # nothing of a stranger runs where a file names it


def test_torchvisions_resnet_is_ours() -> None:
    ours, theirs = build_model("resnet18", 4, 3), build_model("torchvision:resnet18", 4, 3)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    x = torch.randn(2, 3, 64, 64)
    theirs.load_state_dict(ours.state_dict())
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "convnext_atto", "resnet18"])
def test_timms_networks_end_in_their_features(name: str, timm: Any) -> None:
    network, length = build_backbone(f"timm:{name}", 64)
    assert length == network.num_features
    assert network.eval()(torch.zeros(2, 3, 64, 64)).shape == (2, length)  # a transformer is made for that size


def test_options_go_to_the_network(timm: Any) -> None:
    network, length = build_backbone(VIT, 32, SMALL_VIT)
    assert length == 48 and len(network.blocks) == 3  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("torchvision:resnet19", {}, r"resnet19 is unknown to torchvision: did you mean .*resnet18"),
        ("torchvision:squeezenet1_0", {}, "does not end in a linear layer"),
        ("torchvision:resnet18", {"weights": "DEFAULT"}, "weights come by protocol.pretrained"),
        ("torchvision:resnet18", {"depth": 3}, r"backbone.options=\{'depth': 3\} fails"),
        ("resnet19", {}, r"resnet19 is unknown: .*timm:NAME, torchvision:NAME, or package.module:NAME"),
    ],
)
def test_wrong_names_and_options(name: str, options: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        build_backbone(name, 64, options)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("timm:resnet181", r"resnet181 is unknown to timm: did you mean .*resnet18"),
        ("timm:resnet18.nobody", r"resnet18.nobody is unknown to timm: did you mean .*resnet"),
        ("timm:hf-hub:somebody/model", "is unknown to timm"),
    ],
)
def test_names_that_timm_does_not_have(name: str, told: str, timm: Any) -> None:
    with pytest.raises(UserError, match=told):
        BackboneConfig(name)
    with pytest.raises(UserError, match=r"weights come by protocol\.pretrained"):
        build_backbone(VIT, 224, {"checkpoint_path": "somewhere.pth"})


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        UserError, match=r"backbone=timm:resnet18 needs the package timm .*pip install 'fastlt\[timm\]'"
    ):
        BackboneConfig("timm:resnet18")


# --- how they see images ---


def test_inputs_of_torchvisions_networks() -> None:
    seen = inputs_of("torchvision:resnet50")
    assert seen == Inputs(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear", 224 / 232)
    assert inputs_of("torchvision:efficientnet_b1").interpolation == "bilinear"  # type: ignore[union-attr]
    assert inputs_of("resnet50") is None


def test_inputs_of_own_factories(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"{__name__}:own"
    assert inputs_of(name) is None
    cfg = {"input_size": (3, 96, 96), "mean": (0.5,) * 3, "std": (0.25,) * 3, "interpolation": "bilinear"}
    monkeypatch.setattr(own, "default_cfg", cfg, raising=False)
    assert inputs_of(name) == Inputs(96, (0.5,) * 3, (0.25,) * 3, "bilinear", 1.0)
    del cfg["mean"]
    with pytest.raises(UserError, match=r"not as timm has it \(KeyError: 'mean'\)"):
        inputs_of(name)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "convnext_atto", "efficientnet_b1", "mobilenetv3_small_100"])
def test_images_are_those_of_timms_own_transforms(name: str, timm: Any) -> None:
    """Resize, crop, interpolation and normalization: to within a level of 255 where Pillow resamples columns first."""
    seen = inputs_of(f"timm:{name}")
    assert seen is not None
    cfg = timm.data.resolve_data_config({}, pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    transform = timm.data.create_transform(**cfg)
    evaluation = Evaluation(seen.image_size, seen.crop_pct, seen.mean, seen.std, Encoding(), seen.interpolation)
    for seed, size in enumerate(((300, 400), (231, 257), (500, 333), (100, 140))):
        pixels = picture(seed, *size)
        theirs = transform(Image.fromarray(pixels)).permute(1, 2, 0)
        apart = (evaluation.input(pixels) - theirs).abs() * torch.tensor(seen.std) * 255
        assert apart.mean() < 0.3 and apart.max() < 12, (name, size)
        # Most sizes are resampled rows first: these pixels are the same ones.
        assert size[0] > size[1] or apart.max() < 1.5, (name, size)


# --- weights ---


def test_pretrained_from_a_folder_of_timms_layout(
    tmp_path: Path, timm: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = timm.create_model("convnext_atto", num_classes=7)
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    cfg = {"input_size": [3, 48, 48], "mean": [0.1, 0.2, 0.3], "crop_pct": 1.0}
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "convnext_atto", "pretrained_cfg": cfg}))
    source, model = f"local-dir:{tmp_path}", build_model("timm:convnext_atto", 3, 0, 64)
    load_pretrained(model, source)
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name]), name
    assert "its classifier of 7 classes is ignored" in capsys.readouterr().err
    assert pretrained_identity("timm:convnext_atto", source) == f"sha256:{file_digest(tmp_path / 'model.safetensors')}"
    seen = inputs_of("timm:convnext_atto", source)
    assert seen == Inputs(48, (0.1, 0.2, 0.3), (0.229, 0.224, 0.225), "bicubic", 1.0)
    with pytest.raises(UserError, match=r"does not fit backbone=timm:convnext_femto"):
        load_pretrained(build_model("timm:convnext_femto", 3, 0, 64), source)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"holds none of model\.safetensors, pytorch_model\.bin"):
        load_pretrained(model, source)


def test_published_weights_of_timm(tmp_path: Path, timm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As downloaded: the test has no network."""
    huggingface_hub = pytest.importorskip("huggingface_hub")
    theirs = timm.create_model("convnext_atto", num_classes=1000)
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    asked = []

    def download(place: str, file: str, revision: str | None = None) -> str:
        asked.append((place, file, revision))
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    model = build_model("timm:convnext_atto.d2_in1k", 3, 0, 64)
    load_pretrained(model, "true")
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name]), name
    load_pretrained(model, "hf-hub:somebody/model@v2")
    assert asked == [
        ("timm/convnext_atto.d2_in1k", "model.safetensors", None),
        ("somebody/model", "model.safetensors", "v2"),
    ]

    def offline(*_: Any, **__: Any) -> str:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    told = r"hf-hub:somebody/model: somebody/model cannot be had .*no route to host.*: check name and network"
    with pytest.raises(UserError, match=told):
        load_pretrained(model, "hf-hub:somebody/model")
    asked.clear()

    def not_found(_place: str, file: str, revision: str | None = None, local_files_only: bool = False) -> str:
        asked.append((file, revision, local_files_only))
        if file == cached:
            return str(tmp_path / "model.safetensors")
        raise huggingface_hub.errors.LocalEntryNotFoundError(f"no network for {file}")

    cached = "pytorch_model.bin"
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", not_found)
    load_pretrained(model, "hf-hub:somebody/model")
    assert asked == [("model.safetensors", None, False), ("pytorch_model.bin", None, True)]
    cached = ""
    with pytest.raises(UserError, match=r"cannot be had .*no network for model\.safetensors"):
        load_pretrained(model, "hf-hub:somebody/model")


@pytest.mark.usefixtures("timm")
def test_published_position_embeddings_are_resampled_for_images_of_another_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    options, name = {"depth": 1}, f"{VIT}.augreg_in21k_ft_in1k"
    published = build_model(name, 3, 0, 224, options=options).backbone.state_dict()
    save_file({**published, "head.weight": torch.zeros(1000, 192)}, tmp_path / "model.safetensors")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda place, file, **_: str(tmp_path / file))
    model = build_model(name, 3, 1, 160, options=options)
    load_pretrained(model, "true")
    assert model.backbone.state_dict()["pos_embed"].shape == (1, 101, 192)
    assert torch.equal(model.backbone.state_dict()["norm.weight"], published["norm.weight"])
    assert model(torch.zeros(1, 3, 160, 160)).shape == (1, 3)


@pytest.mark.filterwarnings("ignore:The default weight initialization")
def test_a_network_with_further_classifiers_is_made_without_them() -> None:
    with pytest.raises(
        UserError, match=r"^backbone=torchvision:googlenet has .*: give backbone.options.aux_logits=false$"
    ):
        build_backbone("torchvision:googlenet", 64)
    network, length = build_backbone("torchvision:googlenet", 64, {"aux_logits": False})
    assert network(torch.zeros(2, 3, 64, 64)).shape == (2, length)


@pytest.mark.parametrize("ask", [build_backbone, inputs_of])
def test_networks_of_torchvision_that_find_objects_are_no_backbones(ask: Callable[[str], Any]) -> None:
    with pytest.raises(UserError, match=r"^backbone=torchvision:fasterrcnn_resnet50_fpn is unknown to torchvision"):
        ask("torchvision:fasterrcnn_resnet50_fpn")


def test_the_file_that_an_own_factory_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, other = f"{__name__}:own", Net()
    model = build_model(name, 3, 0, 16)
    with pytest.raises(UserError, match="no weights are published for backbone"):
        load_pretrained(model, "true")
    torch.save(other.state_dict(), tmp_path / "weights.pth")
    monkeypatch.setattr(own, "default_cfg", {"file": str(tmp_path / "weights.pth")}, raising=False)
    load_pretrained(model, "true")
    assert torch.equal(model.backbone.state_dict()["body.weight"], other.body.weight)
    assert pretrained_identity(name, "true") == f"sha256:{file_digest(tmp_path / 'weights.pth')}"


# --- layers ---


def test_layers_of_a_transformer(timm: Any) -> None:
    model = build_model(VIT, 4, 0, 32, options=SMALL_VIT)
    depths = layer_depths(model.backbone)
    assert depths["norm.weight"] == 0 and depths["blocks.2.attn.qkv.weight"] == 1 and depths["blocks.0.norm1.bias"] == 3
    assert depths["patch_embed.proj.weight"] == depths["cls_token"] == depths["pos_embed"] == 4
    assert last_block(model) == "blocks.2"
    freeze_before(model, "blocks.2")
    learns = {name for name, value in model.backbone.named_parameters() if value.requires_grad}
    assert learns == {name for name in depths if name.startswith(("blocks.2.", "norm."))}
    thaw(model)
    assert all(value.requires_grad for value in model.parameters())


def test_layers_of_a_convolutional_network(timm: Any) -> None:
    model = build_model("timm:convnext_atto", 4, 0, 32)
    depths = layer_depths(model.backbone)
    behind = [depths[next(name for name in depths if name.startswith(f"stages.{stage}."))] for stage in range(4)]
    assert behind == [4, 3, 2, 1] and depths["head.norm.weight"] == 0 and depths["stem.0.weight"] == 6
    resnet = layer_depths(build_model("resnet18", 2, 0).backbone)
    assert resnet["layer4.1.conv2.weight"] == 0 and resnet["layer4.0.conv1.weight"] == 1 and resnet["conv1.weight"] == 9
    assert sorted(set(resnet.values())) == list(range(10))  # conv1, bn1, eight blocks
