"""Files in the layouts of LDAM-DRW, MiSLAS, BagofTricks-LT and BALMS: imported to the same logits, nothing in them run;
files that do not fit are told what they seem to be, and by a command that then works."""

import re
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from test_checkpoint import Evil, State, command, images, imported, logits, prefixed, refused, used
from torch import Tensor, nn
from torch.nn import functional

from fastlt.models.backbones import build_model
from fastlt.models.checkpoint.pretrained import load_pretrained
from fastlt.models.checkpoint.read import read_weights
from fastlt.models.checkpoint.store import load_model

pytestmark = pytest.mark.usefixtures("one_thread")
CLASSES = 6


class Block(nn.Module):
    """A block of their ResNet-32: the shortcut has no parameters (option A)."""

    def __init__(self, before: int, width: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.stride, self.pad = stride, (width - before) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        x = x[:, :, :: self.stride, :: self.stride]
        none = x.new_zeros(len(x), self.pad, *x.shape[2:])
        return (y + torch.cat([none, x, none], dim=1)).relu()


class Resnet(nn.Module):
    """Their ResNet-32: blocks are layer1.0, ..., the classifier `linear`."""

    def __init__(self, blocks: int = 5):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        for stage, (before, width) in enumerate(((16, 16), (16, 32), (32, 64)), 1):
            first = Block(before, width, 1 if before == width else 2)
            setattr(self, f"layer{stage}", nn.Sequential(first, *(Block(width, width, 1) for _ in range(blocks - 1))))
        self.linear = nn.Linear(64, CLASSES)

    def features(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        for stage in (1, 2, 3):
            x = self.get_submodule(f"layer{stage}")(x)
        return functional.avg_pool2d(x, x.shape[-1]).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.features(x))


@pytest.fixture(scope="module")
def theirs() -> Resnet:
    torch.manual_seed(0)
    network = Resnet()
    used(network)
    return network


def parts(network: nn.Module) -> tuple[State, State]:
    """(the backbone, the linear layer) of a network."""
    state = network.state_dict()
    head = {name: state.pop(f"linear.{name}") for name in ("weight", "bias")}
    return state, head


def sgd() -> State:
    return {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 1e-5, "params": [0]}]}


def ldam(network: nn.Module) -> State:
    state = prefixed(network.state_dict(), "module.")
    about = {"epoch": 200, "arch": "resnet32", "best_acc1": torch.tensor(42.0), "optimizer": sgd()}
    return {"state_dict": state, **about}


def mislas(network: nn.Module, prefix: str = "module.") -> State:
    backbone, head = parts(network)
    return {
        "epoch": 10,
        "state_dict_model": prefixed(backbone, prefix),
        "state_dict_classifier": prefixed(head, f"{prefix}fc."),
        "state_dict_lws_model": {f"{prefix}learned_norm": torch.ones(1, CLASSES)},
        "best_acc1": torch.tensor(47.0),
        "its_ece": np.float64(4.83),
    }


def bags(network: nn.Module, head: State | None = None) -> State:
    backbone, linear = parts(network)
    tensors = prefixed(backbone, "backbone.") | prefixed(head or linear, "classifier.")
    return {
        "state_dict": prefixed(tensors, "module."),
        "epoch": 200,
        "best_result": np.float64(0.41),
        "best_epoch": 195,
        "scheduler": {"milestones": Counter([160, 180]), "gamma": 0.01, "base_lrs": [0.1], "last_epoch": 200},
        "optimizer": sgd(),
        "amp": {},
    }


def bags_lws(network: nn.Module) -> State:
    _, head = parts(network)
    return bags(network, prefixed(head, "fc.") | {"scales": torch.ones(CLASSES)})


def balms(network: nn.Module) -> State:
    backbone, head = parts(network)
    best = {"feat_model": prefixed(backbone, "module."), "classifier": prefixed(head, "module.fc.")}
    return {"epoch": 90, "best_epoch": 88, "state_dict_best": best, "best_acc": np.float64(0.5), "centroids": None}


LAYOUTS: dict[str, Callable[[nn.Module], State]] = {
    "LDAM-DRW": ldam,
    "MiSLAS": mislas,
    "MiSLAS, one GPU": lambda network: mislas(network, ""),
    "BagofTricks-LT": bags,
    "BagofTricks-LT, LWS": bags_lws,
    "BALMS": balms,
}
KINDS = {"MiSLAS": "checkpoint of MiSLAS", "BagofTricks-LT": "checkpoint of BagofTricks-LT", "LDAM-DRW": "state dict"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_of_the_field_gives_the_same_logits(
    theirs: Resnet, tmp_path: Path, layout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = imported(LAYOUTS[layout](theirs), tmp_path)
    torch.testing.assert_close(logits(model), logits(theirs))
    assert model.backbone_name == "resnet32" and model.classifier_kind == "linear"
    kind = KINDS.get(layout.partition(",")[0], "checkpoint of the paper's authors or of BALMS")
    described = command("describe", tmp_path / "theirs.pth").splitlines()
    assert described[:2] == [f"{tmp_path / 'theirs.pth'}: {kind}", "resnet32, 463,894 parameters, 6 classes"]
    other = build_model("resnet32", 3, 1)
    load_pretrained(other, str(tmp_path / "theirs.pth"))
    torch.testing.assert_close(other.backbone.eval()(images()), theirs.features(images()))


def test_scales_of_lws_are_folded(theirs: Resnet, tmp_path: Path) -> None:
    scales = torch.tensor([0.5, 2.0, -1.0, 3.0, 1.5, 1.0])
    state = mislas(theirs) | {"state_dict_lws_model": {"module.learned_norm": scales[None]}}
    torch.testing.assert_close(logits(imported(state, tmp_path)), scales * logits(theirs))
    state = bags_lws(theirs)
    state["state_dict"]["module.classifier.scales"] = scales
    torch.testing.assert_close(logits(imported(state, tmp_path, "--overwrite")), scales * logits(theirs))


@pytest.mark.parametrize("classes", [6, 64])
def test_classifiers_of_cosines(theirs: Resnet, tmp_path: Path, classes: int) -> None:
    backbone, _ = parts(theirs)
    weight = torch.randn(classes, 64)
    x = torch.randn(4, 3, 32, 32)
    cosines = functional.normalize(theirs.features(x)) @ functional.normalize(weight).T
    # LDAM-DRW's lies across, [D, C]; that of BagofTricks-LT does not; neither has a bias.
    files = {
        "ldam": ldam(theirs) | {"state_dict": prefixed({**backbone, "linear.weight": weight.T}, "module.")},
        "bags": bags(theirs, {"weight": weight}),
    }
    for name, state in files.items():
        model = imported(state, tmp_path, "--overwrite", name=f"{name}.pth").eval()
        assert model.classifier_kind == "cosine"
        torch.testing.assert_close(model(x), cosines)
    bare = {**backbone, "classifier.weight": weight}
    assert imported(bare, tmp_path, "--overwrite").classifier_kind == "linear"
    model = imported(bare, tmp_path, "--overwrite", "--classifier", "cosine").eval()
    torch.testing.assert_close(model(x), cosines)
    torch.save(theirs.state_dict(), tmp_path / "biased.pth")
    told = refused("import", "biased.pth", "--out", "other.pt", "--classifier", "cosine", cwd=tmp_path)
    assert told == "--classifier=cosine: that of biased.pth is linear, its tensors show it: leave the option out"


def renamed(file: Path, core: str) -> None:
    """Makes a file ask for NumPy's scalars as NumPy 1 (`numpy.core`) or 2 (`numpy._core`) writes them."""

    def rename(pickled: bytes) -> bytes:
        assert re.search(rb"numpy\._?core\.multiarray", pickled)
        return re.sub(rb"numpy\._?core\.multiarray", f"{core}.multiarray".encode(), pickled)

    if not zipfile.is_zipfile(file):
        file.write_bytes(rename(file.read_bytes()))
        return
    with zipfile.ZipFile(file) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(file, "w") as new:
        for name, content in entries.items():
            new.writestr(name, rename(content) if name.endswith("data.pkl") else content)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_values_of_numpy_are_no_hindrance(
    theirs: Resnet, tmp_path: Path, core: str, legacy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, file = mislas(theirs), tmp_path / "model_best.pth.tar"
    state |= {
        "best": np.float32(1),
        "seen": np.int64(5),
        "ok": np.bool_(True),
        "each": np.arange(3.0),
        "odd": np.uint8(2),
    }
    torch.save(state, file, _use_new_zipfile_serialization=not legacy)
    renamed(file, core)
    # Whatever NumPy would run to make a number of what the file says, it is not asked.
    monkeypatch.setattr(np, "dtype", None)
    said = command("import", file, "--out", tmp_path / "ours.pt")
    assert said == f"{tmp_path / 'ours.pt'}: checkpoint of MiSLAS, resnet32, 463,894 parameters, 6 classes\n"
    torch.testing.assert_close(logits(load_model(tmp_path / "ours.pt")[0]), logits(theirs))


class Asks:
    """Asks its reader to call a function."""

    def __init__(self, function: Any, *arguments: Any):
        self.called = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.called


def scalar(trap: Path) -> Any:
    return Asks(type(np.float64(1)).__reduce__(np.float64(1))[0], np.dtype("f8"), Evil(trap))


def kind_of_number(trap: Path) -> Any:
    return Asks(np.dtype, Evil(trap))


def saving(trap: Path) -> Any:
    return Asks(np.savetxt, str(trap), [1.0])


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("layout", ["LDAM-DRW", "MiSLAS", "BagofTricks-LT", "BALMS"])
@pytest.mark.parametrize("evil", [Evil, scalar, kind_of_number, saving])
def test_malicious_files_are_refused(
    theirs: Resnet, tmp_path: Path, layout: str, evil: Callable[[Path], Any], legacy: bool
) -> None:
    trap, file = tmp_path / "it ran", tmp_path / "evil.pth.tar"
    torch.save({**LAYOUTS[layout](theirs), "its_ece": evil(trap)}, file, _use_new_zipfile_serialization=not legacy)
    told = refused("import", file, "--out", "ours.pt", cwd=tmp_path)
    asked = r"numpy\.[\w.]*savetxt" if evil is saving else r"posix\.mkdir"
    assert re.fullmatch(rf"{re.escape(str(file))} asks to run {asked} when it is read, and was not read: .*", told)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.pth.tar"]


def test_a_file_of_another_pickle_protocol_is_refused_in_one_line(theirs: Resnet, tmp_path: Path) -> None:
    torch.save(theirs.state_dict(), tmp_path / "new.pth", pickle_protocol=4)
    told = refused("import", "new.pth", "--out", "ours.pt", cwd=tmp_path)
    assert told.startswith("new.pth is damaged, or no plain file of torch.save: ")


def test_the_last_block_of_mislas_on_places_is_put_in_its_place(tmp_path: Path) -> None:
    backbone = {f"module.layer4.{block}.conv1.weight": torch.full((2, 2, 1, 1), float(block)) for block in (0, 1)}
    state = {
        "state_dict_model": backbone,
        "state_dict_classifier": {"module.fc.weight": torch.ones(3, 2), "module.fc.bias": torch.ones(3)},
        "state_dict_block": {"module.conv1.weight": torch.full((2, 2, 1, 1), 2.0)},
        "its_ece": np.float64(5),
    }
    torch.save(state, tmp_path / "places.pth")
    found = read_weights(tmp_path / "places.pth").backbone
    assert {name: value.mean().item() for name, value in found.items()} == {
        f"layer4.{block}.conv1.weight": block for block in (0, 1, 2)
    }


OWN = """
import torchvision
from torch import nn
from test_checkpoint_field import Resnet
from fastlt.models.backbones import CifarResNet

def without_head(network, head):
    setattr(network, head, nn.Identity())
    return network

resnet34 = lambda: without_head(torchvision.models.resnet34(), "fc")
resnet56 = lambda: without_head(Resnet(9), "linear")
numbered = lambda: CifarResNet(9)
"""
ODD: list[tuple[Callable[[], nn.Module], str, str]] = [
    (
        lambda: torchvision.models.resnet34(num_classes=4),
        "a ResNet-34 with a first convolution of 7 x 7 and 64 channels in its first block",
        "resnet34",
    ),
    (lambda: Resnet(9), "a ResNet-56 for CIFAR with 16 channels in its first stage", "resnet56"),
    (lambda: Resnet(9), "a ResNet-56 for CIFAR with 16 channels in its first stage", "numbered"),
]


@pytest.mark.parametrize(("build", "told", "own"), ODD, ids=["ResNet-34", "ResNet-56", "our ResNet-56"])
def test_what_does_not_fit_is_told_what_it_seems_and_what_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: Callable[[], nn.Module], told: str, own: str
) -> None:
    network = used(build())
    torch.save({"state_dict": prefixed(network.state_dict(), "module.")}, tmp_path / "odd.pth")
    line = refused("import", "odd.pth", "--out", "ours.pt", cwd=tmp_path)
    assert line.startswith(f"odd.pth seems to be {told}, and fits no backbone of fastlt, ")
    assert line.endswith(
        ": give --backbone package.module:factory, a function of yours that builds that network without its classifier"
    )
    assert told in command("describe", tmp_path / "odd.pth")
    (tmp_path / f"own_{own}.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    name = f"own_{own}:{own}"
    command("import", tmp_path / "odd.pth", "--out", tmp_path / "ours.pt", "--backbone", name, "--image-size", "32")
    torch.testing.assert_close(logits(load_model(tmp_path / "ours.pt", name)[0]), logits(network))


def test_other_networks_are_told_what_they_seem_to_be(tmp_path: Path) -> None:
    vit = torchvision.models.VisionTransformer(32, 16, 1, 1, 8, 8, num_classes=3)
    files = {
        "a vision transformer": vit,
        "a network of 2 tensors from 0.weight to 0.bias": nn.Sequential(nn.LayerNorm(3)),
    }
    for told, network in files.items():
        torch.save(network.state_dict(), tmp_path / "odd.pth")
        assert refused("import", "odd.pth", "--out", "ours.pt", cwd=tmp_path).startswith(
            f"odd.pth seems to be {told}, "
        )


def test_advice_can_be_followed(theirs: Resnet, tmp_path: Path) -> None:
    torch.save(ldam(theirs), tmp_path / "theirs.pth")
    told = refused("import", "theirs.pth", "--out", "ours.pt", "--backbone", "resnet18", cwd=tmp_path)
    assert told.endswith(": it fits backbone=resnet32, choose that")
    told = refused("export", "theirs.pth", "--out", "o.safetensors", cwd=tmp_path)
    advised = told.partition("python -m fastlt.checkpoint ")[2].split()
    assert advised == ["import", "theirs.pth", "--out", "NEW.pt"]
    command("import", tmp_path / "theirs.pth", "--out", tmp_path / "NEW.pt", "--backbone", "resnet32")
    torch.testing.assert_close(logits(load_model(tmp_path / "NEW.pt")[0]), logits(theirs))
    torch.save({**parts(theirs)[0], "mlp.0.weight": torch.ones(2, 64, 1)}, tmp_path / "alone.pth")
    assert "1 tensor unexpected, first mlp.0.weight" in refused("import", "alone.pth", "--out", "a.pt", cwd=tmp_path)
    torch.save({**parts(theirs)[0], "last_linear.weight": torch.ones(2, 64)}, tmp_path / "named.pth")
    command("import", tmp_path / "named.pth", "--out", tmp_path / "named.pt")
    torch.save(parts(theirs)[0], tmp_path / "alone.pth")
    told = refused("import", "alone.pth", "--out", "a.pt", cwd=tmp_path)
    assert told.endswith("python -m fastlt.train data=DIR backbone=resnet32 protocol.pretrained=alone.pth")
    model = build_model("resnet32", 3, 1)
    load_pretrained(model, str(tmp_path / "alone.pth"))
    assert torch.equal(model.backbone.conv1.weight, theirs.conv1.weight)  # type: ignore[arg-type]
