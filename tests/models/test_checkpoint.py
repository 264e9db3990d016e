"""Weights of others: read without being run, imported to the same logits, exported, described, refused in one line."""

import argparse
import contextlib
import io
import json
import os
import pickle
import urllib.error
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from commands import refusal, train
from pictures import Pictures, conversion
from safetensors import safe_open
from safetensors.torch import save_file
from test_backbones import OWN
from torch import Tensor, nn

from fastlt import __version__
from fastlt.checkpoint import main
from fastlt.core.checkpoint import SCHEMA, read_checkpoint, save_checkpoint
from fastlt.core.errors import UserError
from fastlt.core.identity import Identity
from fastlt.data.convert import convert
from fastlt.models.backbones import BACKBONES, CifarResNet, Model, build_model
from fastlt.models.checkpoint import sources
from fastlt.models.checkpoint.pretrained import (
    COUNTER,
    closest,
    file_digest,
    identify,
    load_pretrained,
    pretrained_identity,
)
from fastlt.models.checkpoint.read import read_weights
from fastlt.models.checkpoint.store import load_model

State = dict[str, Any]
CLASSES = 5


pytestmark = pytest.mark.usefixtures("one_thread")


class Small(CifarResNet):
    """A small network with a classifier named as torchvision names it."""

    def __init__(self) -> None:
        super().__init__(5)
        self.fc = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(super().forward(x))


def used(network: nn.Module) -> nn.Module:
    """With statistics of batch norm as after a training."""
    network(torch.randn(8, 3, 32, 32))
    return network.eval()


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    """Somebody's network; small, because what is tested is how files are laid out."""
    torch.manual_seed(0)
    return used(Small())


@pytest.fixture(scope="module")
def resnet18() -> nn.Module:
    """torchvision's ResNet-18 with five classes."""
    torch.manual_seed(0)
    return used(torchvision.models.resnet18(num_classes=CLASSES))


def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def logits(network: nn.Module) -> Tensor:
    return network.eval()(images())


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: value for name, value in state.items()}


def authors(network: nn.Module, **classifier: Tensor) -> State:
    """Their final_model_checkpoint.pth: two networks under DataParallel. classifier: further tensors in it."""
    state = network.state_dict()
    head = {name: state.pop(name) for name in ("fc.weight", "fc.bias")} | classifier
    best = {"feat_model": prefixed(state, "module."), "classifier": prefixed(head, "module.")}
    return {"epoch": 90, "best_epoch": 88, "state_dict_best": best, "best_acc": 0.444, "centroids": None}


def command(*arguments: str | Path) -> str:
    """What `python -m fastlt.checkpoint ARGUMENTS` prints; it must succeed."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    assert stop.value.code == 0
    return out.getvalue()


def refused(*arguments: str | Path, cwd: Path) -> str:
    return refusal(main, *map(str, arguments), cwd=cwd)


def imported(state: Any, folder: Path, *options: str, name: str = "theirs.pth") -> Model:
    torch.save(state, folder / name)
    command("import", folder / name, "--out", folder / "ours.pt", *options)
    return load_model(folder / "ours.pt")[0]


@pytest.mark.parametrize("legacy", [False, True])
def test_the_authors_checkpoint_gives_the_same_logits(resnet18: nn.Module, tmp_path: Path, legacy: bool) -> None:
    file, out = tmp_path / "final_model_checkpoint.pth", tmp_path / "new" / "ours.pt"
    # Theirs are of 2019: torch wrote no zip files then.
    torch.save(authors(resnet18), file, _use_new_zipfile_serialization=not legacy)
    said = command("import", file, "--out", out)
    assert said == f"{out}: checkpoint of the paper's authors or of BALMS, resnet18, 11,179,077 parameters, 5 classes\n"
    model, state = load_model(out)
    assert torch.equal(logits(model), logits(resnet18))
    assert {name: state[name] for name in state if name not in ("model", "settings", "key")} == {
        "schema": SCHEMA,
        "finished": True,
        "epoch": 0,
        "classifier": "linear",
        "chosen_on_val": False,
        "seconds": 0.0,
        "images": 0,
    }
    assert state["settings"].keys() == {"imported", "sha256", "backbone", "classes"}
    assert state["settings"]["imported"] == file.name
    assert read_checkpoint(out)["key"] == Identity(state["settings"]).key == state["key"]
    assert [path.name for path in out.parent.iterdir()] == ["ours.pt"]


def wrapped_authors(state: State) -> State:
    return {"state_dict_model": state["state_dict_best"]}


def latest(state: State) -> State:
    return {"epoch": 3, "state_dict": state["state_dict_best"]}


def unused_fc(state: State) -> State:
    state["state_dict_best"]["feat_model"]["module.fc.weight"] = torch.ones(2, 64)
    return state


def old_batch_norm(state: State) -> State:
    features = state["state_dict_best"]["feat_model"]
    for name in [name for name in features if name.endswith("num_batches_tracked")]:
        del features[name]
    return state


def miscellany(state: State) -> State:
    best = state["state_dict_best"]
    return {"epoch": 1, "state_dict_model": best["feat_model"], "state_dict_classifier": best["classifier"]}


@pytest.mark.parametrize("change", [wrapped_authors, latest, unused_fc, old_batch_norm, miscellany])
def test_variants_of_the_authors_layout(theirs: nn.Module, tmp_path: Path, change: Callable[[State], State]) -> None:
    assert torch.equal(logits(imported(change(authors(theirs)), tmp_path)), logits(theirs))


@pytest.mark.parametrize("mislas", [False, True])
def test_scales_of_lws_multiply_the_logits(
    theirs: nn.Module, tmp_path: Path, mislas: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    scales = torch.tensor([0.5, 2.0, -1.0, 3.0, 1.5])
    if mislas:
        state = miscellany(authors(theirs)) | {"state_dict_lws_model": {"module.learned_norm": scales[None]}}
    else:
        state = authors(theirs, scales=scales)
    model = imported(state, tmp_path)
    torch.testing.assert_close(logits(model), scales * logits(theirs))
    assert "scales of LWS are folded into the classifier" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: prefixed(state, "module."),
        lambda state: prefixed(state, "module._orig_mod.model."),
        lambda state: {"state_dict": prefixed(state, "module."), "optimizer": {"state": {}}, "epoch": 3},
        lambda state: {"model": state, "args": argparse.Namespace(lr=0.1)},
        lambda state: {name.replace("fc.", "head.fc."): value for name, value in state.items()},
        lambda state: {name.replace("fc.", "classifier."): value for name, value in state.items()},
        lambda state: {("" if name.startswith("fc.") else "backbone.") + name: value for name, value in state.items()},
        lambda state: {name: value.double() if value.is_floating_point() else value for name, value in state.items()},
    ],
    ids=["bare", "module", "nested", "state_dict", "model", "timm", "classifier", "backbone", "double"],
)
def test_state_dicts_of_torchvision_and_timm(theirs: nn.Module, tmp_path: Path, wrap: Callable[[State], State]) -> None:
    assert torch.equal(logits(imported(wrap(theirs.state_dict()), tmp_path)), logits(theirs))


def test_a_classifier_without_bias_gets_zeros(
    theirs: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = theirs.state_dict()
    bias = state.pop("fc.bias")
    torch.testing.assert_close(logits(imported(state, tmp_path)) + bias, logits(theirs))
    assert "has no bias: 0 is taken" in capsys.readouterr().err


@pytest.mark.parametrize("name", list(BACKBONES))
def test_the_backbone_is_found_from_the_shapes(name: str) -> None:
    with torch.device("meta"):
        tensors = Model(name, 4).backbone.state_dict()
    assert identify(tensors) == name
    assert identify({key: value for key, value in tensors.items() if not key.endswith(COUNTER)}) == name
    del tensors["bn1.weight"]
    assert identify(tensors) is None
    assert closest(tensors) == name


class Evil:
    """Creates a file when it is unpickled by a loader that runs what it reads."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("where", ["pickle", "legacy", "beside", "inside"])
def test_a_malicious_file_is_refused_and_not_run(theirs: nn.Module, tmp_path: Path, where: str) -> None:
    trap, file = tmp_path / "it ran", tmp_path / "evil.pth"
    state = authors(theirs)
    if where == "inside":
        state["state_dict_best"]["feat_model"]["module.conv1.weight"] = Evil(trap)
    else:
        state["best_acc"] = Evil(trap)
    if where == "pickle":
        file.write_bytes(pickle.dumps(Evil(trap), protocol=2))
    else:
        torch.save(state, file, _use_new_zipfile_serialization=where != "legacy")
    for name, *options in (("import", "--out", "ours.pt"), ("describe",), ("export", "--out", "o.safetensors")):
        told = refused(name, file, *options, cwd=tmp_path)
        assert told.startswith(f"{file} ")
        if where != "pickle":
            assert "asks to run posix.mkdir when it is read, and was not read" in told
    with pytest.raises(UserError, match=r"evil\.pth "):
        load_pretrained(build_model("resnet32", 2, 0), str(file))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.pth"]
    # The trap works: this test would notice.
    with contextlib.suppress(Exception):
        torch.load(file, weights_only=False)
    assert trap.exists()


def damaged(state: State, folder: Path) -> Path:
    file = folder / "damaged.pth"
    torch.save(state, file)
    file.write_bytes(file.read_bytes()[:50_000])
    return file


def test_files_that_are_no_weights_are_refused(theirs: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("not weights\n")
    (tmp_path / "text.safetensors").write_text("not weights\n")
    (tmp_path / "empty.pth").write_bytes(b"")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "numbers.pth")
    damaged(authors(theirs), tmp_path)
    for name, told in {
        "text.pth": "is damaged, or no plain file of torch.save: ",
        "text.safetensors": "is damaged, or no file of safetensors: ",
        "empty.pth": "is damaged, or no plain file of torch.save: ",
        "damaged.pth": "is damaged: ",
        "list.pth": "holds a list: allowed are tensors by name",
        "numbers.pth": "holds no tensors by name: its keys are epoch",
        "missing.pth": "does not exist: give a file of weights",
        ".": "is a folder: give a file of weights",
    }.items():
        assert refused("import", name, "--out", "ours.pt", cwd=tmp_path).startswith(f"{name} {told}")
    assert not (tmp_path / "ours.pt").exists()


def test_a_flipped_bit_of_a_weight_is_found_in_every_file_of_weights(theirs: nn.Module, tmp_path: Path) -> None:
    imported(authors(theirs), tmp_path)
    weight = next(theirs.parameters()).detach().numpy().tobytes()
    for name in ("theirs.pth", "ours.pt"):
        data = bytearray((tmp_path / name).read_bytes())
        data[data.index(weight) + 5] ^= 1
        (tmp_path / name).write_bytes(data)
        told = rf"{name} is damaged: Bad CRC-32 for file .*: give another copy of it"
        for load in (load_model, read_weights, lambda path: load_pretrained(build_model("resnet32", 2, 0), str(path))):
            with pytest.raises(UserError, match=told):
                load(tmp_path / name)


def lost(state: State) -> None:
    features = state["state_dict_best"]["feat_model"]
    del features["module.layers.0.bn2.weight"], features["module.layers.3.bn2.weight"]
    features["module.attention.weight"] = torch.ones(2)
    features["module.bn1.bias"] = torch.ones(3)


MISFIT = (
    "2 tensors missing, first layers.0.bn2.weight; 1 tensor unexpected, first attention.weight; "
    "1 tensor of another shape, first bn1.bias with [3] in place of [16]"
)


def test_weights_that_do_not_fit_are_refused(theirs: nn.Module, tmp_path: Path) -> None:
    state = authors(theirs)
    lost(state)
    torch.save(state, tmp_path / "odd.pth")
    told = refused("import", "odd.pth", "--out", "ours.pt", cwd=tmp_path)
    assert told == (
        "odd.pth seems to be a ResNet-32 for CIFAR with 16 channels in its first stage, and fits no backbone of "
        f"fastlt, resnet32 least badly: {MISFIT}: give --backbone package.module:factory, a function of yours that "
        "builds that network without its classifier"
    )
    told = refused("import", "odd.pth", "--out", "ours.pt", "--backbone", "resnet32", cwd=tmp_path)
    assert told == f"odd.pth does not fit backbone=resnet32: {MISFIT}: choose another of the two"
    told = refused("import", "odd.pth", "--out", "ours.pt", "--backbone", "resnet10", cwd=tmp_path)
    assert told.startswith("odd.pth does not fit backbone=resnet10: ")
    assert "tensors missing, first layer1.0.conv1.weight; " in told
    told = refused("import", "odd.pth", "--out", "ours.pt", "--backbone", "foo", cwd=tmp_path)
    assert told.startswith("backbone=foo is unknown: allowed are resnet32")


@pytest.mark.parametrize(
    ("classifier", "told"),
    [
        (
            {"module.weight": torch.ones(5, 64)},
            "odd.pth holds a backbone without a classifier that can be imported (checkpoint of the paper's authors or "
            "of BALMS; resnet32; its classifier of weight is not linear, and is left out): train one on it with "
            "python -m fastlt.train data=DIR backbone=resnet32 protocol.pretrained=odd.pth",
        ),
        ({}, "holds a backbone without a classifier that can be imported (state dict; resnet32): train one on it"),
        ({"fc.weight": torch.ones(5, 9), "fc.bias": torch.ones(5)}, "first weight with [5, 9] in place of [5, 64]"),
        ({"fc.weight": torch.ones(5, 64), "fc.bias": torch.ones(4)}, "first bias with [4] in place of [5]"),
        (
            {"fc.weight": torch.ones(5, 64), "fc.bias": torch.ones(5), "scales": torch.ones(4)},
            "4 scales for 5 classes",
        ),
        ({"fc.weight": torch.full((5, 64), torch.nan)}, "fc.weight holds values that are not finite"),
    ],
)
def test_classifiers_that_are_not_linear_are_refused(
    theirs: nn.Module, tmp_path: Path, classifier: State, told: str
) -> None:
    state = authors(theirs)
    state["state_dict_best"]["classifier"] = classifier
    torch.save(state, tmp_path / "odd.pth")
    assert told in refused("import", "odd.pth", "--out", "ours.pt", cwd=tmp_path)
    assert not (tmp_path / "ours.pt").exists()


def test_a_backbone_alone_is_pointed_to_pretrained(tmp_path: Path) -> None:
    torch.save(build_model("resnet10", 2, 0).backbone.state_dict(), tmp_path / "alone.pth")
    told = refused("import", "alone.pth", "--out", "ours.pt", cwd=tmp_path)
    assert told == (
        "alone.pth holds a backbone without a classifier that can be imported (state dict; resnet10): train one on it "
        "with python -m fastlt.train data=DIR backbone=resnet10 protocol.pretrained=alone.pth"
    )


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    model = build_model("resnet32", 3, 0)
    torch.save(model.state_dict(), tmp_path / "theirs.pth")
    (tmp_path / "ours.pt").write_text("mine")
    (tmp_path / "ours.safetensors").write_text("mine")
    told = refused("import", "theirs.pth", "--out", "ours.pt", cwd=tmp_path)
    assert told == "--out=ours.pt exists: choose another name, or add --overwrite"
    told = refused("import", "theirs.pth", "--out", "theirs.pth", "--overwrite", cwd=tmp_path)
    assert told == "--out=theirs.pth is the file that is read: choose another name"
    assert "is a folder" in refused("import", "theirs.pth", "--out", ".", cwd=tmp_path)
    assert "cannot be written" in refused("import", "theirs.pth", "--out", "theirs.pth/x.pt", cwd=tmp_path)
    assert (tmp_path / "ours.pt").read_text() == "mine"
    command("import", tmp_path / "theirs.pth", "--out", tmp_path / "ours.pt", "--overwrite")
    assert torch.equal(logits(load_model(tmp_path / "ours.pt")[0]), logits(model))
    told = refused("export", "ours.pt", "--out", "ours.safetensors", cwd=tmp_path)
    assert told == "--out=ours.safetensors exists: choose another name, or add --overwrite"
    assert refused("export", "ours.pt", "--out", "ours.pth", cwd=tmp_path) == (
        "--out=ours.pth: the name must end in .safetensors"
    )
    assert "already: use it as it is" in refused("import", "ours.pt", "--out", "again.pt", cwd=tmp_path)
    assert "unrecognized arguments: --backbone" in refused(
        "export", "ours.pt", "--out", "o.safetensors", "--backbone", "resnet18", cwd=tmp_path
    )


def trained(folder: Path, finished: bool = True, classifier: str | None = None) -> Model:
    """A run folder with a checkpoint as a training leaves it; without `classifier` as one of an older version."""
    model = build_model("resnet32", 7, 3, classifier=classifier or "linear")
    about = {"dataset": "d" * 64, "backbone": "resnet32", "image_size": 32, "seed": 3}
    state: State = {"schema": SCHEMA, "key": Identity(about).key, "settings": about, "finished": finished, "epoch": 2}
    state |= {"model": model.state_dict(), "chosen_on_val": True, "seconds": 61.4, "images": 12_000}
    if classifier is not None:
        state["classifier"] = classifier
    folder.mkdir()
    save_checkpoint(state, folder / "checkpoint.pt")
    return model


def test_an_exported_model_comes_back(tmp_path: Path) -> None:
    model, out = trained(tmp_path / "run"), tmp_path / "model.safetensors"
    key = load_model(tmp_path / "run")[1]["key"]
    assert command("export", tmp_path / "run", "--out", out) == f"{out}: resnet32, 7 classes, key {key}\n"
    with safe_open(out, framework="pt") as file:
        assert file.metadata() == {
            "format": "pt",
            "fastlt": __version__,
            "key": key,
            "backbone": "resnet32",
            "classes": "7",
        }
        assert set(file.keys()) == {*model.backbone.state_dict(), "fc.weight", "fc.bias"}
    said = command("import", out, "--out", tmp_path / "again.pt")
    assert said == f"{tmp_path / 'again.pt'}: safetensors file, resnet32, 463,959 parameters, 7 classes\n"
    assert torch.equal(logits(load_model(tmp_path / "again.pt")[0]), logits(model))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.pt", "model.safetensors", "run"]


def test_the_same_model_exports_to_the_same_bytes(tmp_path: Path) -> None:
    trained(tmp_path / "run")
    files = [tmp_path / f"{i}.safetensors" for i in range(5)]
    for file in files:
        command("export", tmp_path / "run", "--out", file)
    assert len({file.read_bytes() for file in files}) == 1


def test_torchvision_takes_an_exported_model(resnet18: nn.Module, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    imported(authors(resnet18), tmp_path)
    command("export", tmp_path / "ours.pt", "--out", tmp_path / "o.safetensors")
    other = torchvision.models.resnet18(num_classes=CLASSES)
    other.load_state_dict(load_file(tmp_path / "o.safetensors"))
    assert torch.equal(logits(other), logits(resnet18))


def test_describe(theirs: nn.Module, tmp_path: Path) -> None:
    trained(tmp_path / "run")
    trained(tmp_path / "cut", finished=False)
    key = load_model(tmp_path / "run")[1]["key"]
    told = command("describe", tmp_path / "run").splitlines()
    assert told == [
        f"{tmp_path / 'run' / 'checkpoint.pt'}: checkpoint of fastlt, finished",
        "resnet32, 463,959 parameters, 7 classes",
        "epoch 2, the best on val",
        "12,000 images seen in 61 s of training",
        f"key {key}",
        f"  dataset: {'d' * 64}",
        "  backbone: resnet32",
        "  image_size: 32",
        "  seed: 3",
    ]
    told = command("describe", tmp_path / "cut" / "checkpoint.pt").splitlines()
    assert told[0].endswith("checkpoint of fastlt, not finished")
    assert told[2] == "epoch 2, training goes on"
    with pytest.raises(UserError, match="is not finished, it stands after epoch 2"):
        load_model(tmp_path / "cut")
    imported(authors(theirs), tmp_path)
    assert "imported, not trained here" in command("describe", tmp_path / "ours.pt").splitlines()
    assert command("describe", tmp_path / "theirs.pth").splitlines() == [
        f"{tmp_path / 'theirs.pth'}: checkpoint of the paper's authors or of BALMS",
        "resnet32, 463,829 parameters, 5 classes",
    ]
    assert refused("describe", tmp_path, cwd=tmp_path).startswith(f"{tmp_path / 'checkpoint.pt'} does not exist")


def test_a_cosine_classifier_travels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, run, out = trained(tmp_path / "run", classifier="cosine"), tmp_path / "run", tmp_path / "model.safetensors"
    assert torch.equal(logits(load_model(run)[0]), logits(model))
    about = "resnet32, 463,952 parameters, 7 classes, compared by cosine"
    assert command("describe", run).splitlines()[1] == about
    key = load_model(run)[1]["key"]
    command("export", run, "--out", out)
    with safe_open(out, framework="pt") as file:
        assert file.metadata()["classifier"] == "cosine"
        assert set(file.keys()) == {*model.backbone.state_dict(), "fc.weight"}
        assert torch.equal(file.get_tensor("fc.weight"), model.classifier.weight)
    assert command("describe", out).splitlines() == [f"{out}: safetensors file", about]
    assert (
        command("import", out, "--out", tmp_path / "again.pt")
        == f"{tmp_path / 'again.pt'}: safetensors file, {about}\n"
    )
    again, state = load_model(tmp_path / "again.pt")
    assert torch.equal(logits(again), logits(model))
    assert state["classifier"] == "cosine" and state["key"] != key
    assert capsys.readouterr().err == ""  # no word of a bias that were taken as 0
    load_pretrained(build_model("resnet32", 9, 0), str(run / "checkpoint.pt"))
    assert "its classifier of 7 classes is ignored" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "told"), [("linear", "1 tensor missing, first classifier.bias"), ("round", "no check")]
)
def test_a_classifier_of_another_kind_than_the_checkpoint_says_is_refused(tmp_path: Path, kind: str, told: str) -> None:
    trained(tmp_path / "run", classifier="cosine")
    state = read_checkpoint(tmp_path / "run" / "checkpoint.pt")
    save_checkpoint({**state, "classifier": kind}, tmp_path / "odd.pt")
    with pytest.raises(UserError, match=told):
        load_model(tmp_path / "odd.pt")


def test_a_representation_of_cosines_is_trained_and_given(tmp_path: Path) -> None:
    convert(Pictures(counts=(60, 20, 9), pixels=True), conversion(), tmp_path / "data", workers=1)
    small = "data=data", "protocol=cifar_lt_200", "protocol.batch=16", "epochs=1", "threads=1", "classifiers=[joint]"
    done = train(*small, "protocol.loss=ldam_drw", "protocol.loss_options.drw_from=0", "run=first", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    state = read_checkpoint(tmp_path / "first" / "checkpoint.pt")
    assert state["classifier"] == "cosine" and "classifier.bias" not in state["model"]
    about = state["settings"]
    assert (about["protocol.loss"], about["protocol.loss_options"]) == ("ldam_drw", {"drw_from": 0.0})
    done = train(*small, "representation=first", "run=second", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / run / "results.json").read_text()) for run in ("first", "second"))
    assert first["classifiers"]["joint"]["per_class"] == second["classifiers"]["joint"]["per_class"]


def test_own_backbones_travel_but_are_never_run_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_travelling.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    name, file = "own_travelling:sized", tmp_path / "theirs.safetensors"
    model = build_model(name, 3, 0, image_size=32)
    head = {f"fc.{key}": value for key, value in model.classifier.state_dict().items()}
    save_file({**model.backbone.state_dict(), **head}, file, {"backbone": name})
    told = refused("import", file, "--out", "ours.pt", cwd=tmp_path)
    assert told.endswith(f"give --backbone {name}")
    command("import", file, "--out", tmp_path / "ours.pt", "--backbone", name, "--image-size", "32")
    with pytest.raises(UserError, match="ask for it by name, because its code then runs"):
        load_model(tmp_path / "ours.pt")
    assert torch.equal(logits(load_model(tmp_path / "ours.pt", name)[0]), logits(model))
    with pytest.raises(UserError, match=f"holds backbone={name}, asked for is backbone=resnet18"):
        load_model(tmp_path / "ours.pt", "resnet18")


@pytest.mark.parametrize("kind", ["authors", "torchvision", "alone", "fastlt", "safetensors"])
def test_pretrained_file_fills_the_backbone_alone(
    theirs: nn.Module, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    state = theirs.state_dict()
    file = tmp_path / "theirs.pth"
    if kind == "safetensors":
        file = file.with_suffix(".safetensors")
        save_file(state, file)
    elif kind == "fastlt":
        imported(authors(theirs), tmp_path)
        file = tmp_path / "ours.pt"
    else:
        alone = {name: value for name, value in state.items() if not name.startswith("fc.")}
        torch.save({"authors": authors(theirs), "torchvision": state, "alone": alone}[kind], file)
    model = build_model("resnet32", 9, 0)
    capsys.readouterr()
    load_pretrained(model, str(file))
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert torch.equal(model.classifier.weight, build_model("resnet32", 9, 0).classifier.weight)
    told = f"protocol.pretrained={file}: its classifier of 5 classes is ignored\n"
    assert capsys.readouterr().err == ("" if kind == "alone" else told)
    assert pretrained_identity("resnet32", str(file)) != pretrained_identity("resnet32", __file__)


def test_pretrained_that_does_not_fit_changes_nothing(theirs: nn.Module, tmp_path: Path) -> None:
    state = authors(theirs)
    lost(state)
    torch.save(state, tmp_path / "odd.pth")
    model, untouched = build_model("resnet32", 2, 0), build_model("resnet32", 2, 0).state_dict()
    with pytest.raises(UserError) as error:
        load_pretrained(model, str(tmp_path / "odd.pth"))
    assert f"odd.pth does not fit backbone=resnet32: {MISFIT}" in str(error.value)
    assert all(torch.equal(value, untouched[name]) for name, value in model.state_dict().items())


def test_pretrained_torchvision_reads_the_published_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As downloaded before: this test needs no network."""
    network = torchvision.models.resnet18()
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(network.state_dict(), folder / "new.pth")
    path = folder / f"resnet18-{file_digest(folder / 'new.pth')[:8]}.pth"
    (folder / "new.pth").rename(path)
    monkeypatch.setattr(torch.hub, "urlopen", no_network)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    published = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    there = replace(published.value, url=f"https://there/{path.name}")
    monkeypatch.setattr(sources, "of_torchvision", lambda *_: there)
    model = build_model("resnet18", 2, 0)
    load_pretrained(model, "torchvision")
    assert torch.equal(model.backbone.layer4[1].conv2.weight, network.layer4[1].conv2.weight)  # type: ignore[index,union-attr]
    assert "protocol.pretrained=torchvision: its classifier of 1,000 classes is ignored" in capsys.readouterr().err
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"{path} is damaged: .* delete it, it is downloaded again"):
        load_pretrained(model, "torchvision")


def no_network(*_: Any, **__: Any) -> None:
    raise urllib.error.URLError("no route to host")


def test_pretrained_torchvision_without_network_or_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.hub, "urlopen", no_network)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    told = r"protocol.pretrained=torchvision: https://.*resnet18.*pth cannot be had \(.*no route to host.*\): check"
    with pytest.raises(UserError, match=told):
        load_pretrained(build_model("resnet18", 2, 0), "torchvision")
    assert capsys.readouterr().out == ""
    told = "torchvision publishes no weights of backbone=resnet10, only of resnet18, resnet50, resnet101, resnet152"
    with pytest.raises(UserError, match=told):
        load_pretrained(build_model("resnet10", 2, 0), "torchvision")
    with pytest.raises(UserError, match="no weights of backbone=resnext152"):
        pretrained_identity("resnext152", "torchvision")
    assert pretrained_identity("resnet18", "torchvision") == "ResNet18_Weights.IMAGENET1K_V1"


@pytest.mark.parametrize("name", ["import", "export"])
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    trained(tmp_path / "run")
    torch.save(build_model("resnet32", 3, 0).state_dict(), tmp_path / "theirs.pth")

    def full(content: Any, file: Any, *_: Any) -> None:
        if hasattr(file, "write"):
            file.write(b"half")
        else:
            Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.save" if name == "import" else "safetensors.torch.save_file", full)
    file, out = ("theirs.pth", "ours.pt") if name == "import" else ("run", "ours.safetensors")
    (tmp_path / out).write_text("mine")
    told = refused(name, file, "--out", out, "--overwrite", cwd=tmp_path)
    assert told == f"--out={out} cannot be written (No space left on device): make room and give the same command again"
    assert (tmp_path / out).read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"run", "theirs.pth", out}
