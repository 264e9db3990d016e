"""Stage 2 on images: what is trained and what stays, resumption, checkpoints; on a model of 32 x 32 pixels."""

import copy
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import ROOT
from torch import nn
from torch.nn import functional

from fastlt.core.errors import UserError
from fastlt.core.interrupts import Stopped
from fastlt.core.ranks import ALONE, Ranks, join, leave, ranks_here
from fastlt.data.pipeline.loader import Loader
from fastlt.data.plan import Augment
from fastlt.data.shards.reader import Dataset
from fastlt.experiment.retrain import Choose, Retraining, ScaledLinear, retrain
from fastlt.longtail.sampler import InOrder, Order, Sampler
from fastlt.models.backbones import build_model, freeze_before, last_block, thaw
from fastlt.models.checkpoint.store import load_model
from fastlt.models.heads import CosineClassifier
from fastlt.stage2.classifiers import IMAGE_CLASSIFIERS
from fastlt.stage2.classifiers.base import Stage2, Training
from fastlt.training.representation import CheckpointPolicy, Representation
from fastlt.training.trainer import Trainer, evaluate_classes

CRT = Training(2, 16, 0.1, 5e-4)
STAGE2 = Stage2(CRT, Training(2, 16, 0.2, 1e-3))


pytestmark = pytest.mark.usefixtures("one_thread")


class Images:
    """The loaders of an experiment, as far as it goes here. orders: those that were asked for."""

    def __init__(self, dataset: Dataset, augment: Augment | None = None, ranks: Ranks = ALONE):
        self.dataset, self.augment = dataset, augment or Augment(32, crop="pad", flip=True)
        self.ranks = ranks
        self.orders: list[Order] = []

    def train(self, order: Order, batch: int) -> Loader:
        self.orders.append(order)
        share: dict[str, Any] = {"drop_last": True, "rank": self.ranks.rank, "world": self.ranks.world}
        return Loader(self.dataset, "train", order, self.augment, batch, 3, threads=1, channels_last=True, **share)

    def evaluation(self, split: str, ids: np.ndarray) -> Loader:
        return Loader(self.dataset, split, InOrder(ids), Augment(32), 32, threads=1, channels_last=True)


def some_network() -> nn.Module:
    return SomeNetwork()


class SomeNetwork(nn.Module):
    """Two blocks with BatchNorm, one without parameters, and a parameter of no block."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.full((1, 3, 1, 1), 0.5))
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(self.body(self.stem(x + self.shift)))


OWN = "test_retrain:some_network"


def finished(backbone: str = OWN, classifier: str = "linear") -> Representation:
    """A representation whose BatchNorm has seen something."""
    model = build_model(backbone, 4, 1, 32, classifier)
    with torch.no_grad():
        model(torch.from_numpy(np.random.default_rng(0).standard_normal((16, 3, 32, 32), np.float32)))
    return Representation(model.eval(), "key of the representation", {"backbone": backbone}, 1, "last epoch", 1.0, 16)


def run(
    dataset: Dataset,
    folder: Path,
    name: str = "crt_images",
    representation: Representation | None = None,
    augment: Augment | None = None,
    overwrite: bool = False,
    ranks: Ranks = ALONE,
    **options: Any,
) -> Representation:
    val = Choose("val", "val", dataset.split("val").class_members)
    train = dataset.split("train")
    retraining = Retraining(name, **{"stage2": STAGE2, **options})
    images, policy = Images(dataset, augment, ranks), CheckpointPolicy(overwrite=overwrite)
    begin = representation or finished()
    return retrain(retraining, begin, images, train.class_members, train.class_start, folder, policy, ranks, val)


def equal(a: nn.Module, b: nn.Module) -> bool:
    mine, theirs = a.state_dict(), b.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def changed(before: nn.Module, after: nn.Module) -> tuple[set[str], set[str]]:
    """Names of the backbone's parameters, and of its statistics, that differ."""
    old, new = before.state_dict(), after.state_dict()
    assert old.keys() == new.keys()
    names = {name for name in old if not torch.equal(old[name], new[name])}
    parameters = {name for name, _ in before.named_parameters()}
    return names & parameters, names - parameters


def linear(done: Representation) -> nn.Linear:
    assert type(done.model.classifier) is nn.Linear
    return done.model.classifier


def state(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def of_last(name: str, backbone: str) -> bool:
    if backbone == OWN:
        return name.startswith("body.")
    return name.startswith(tuple(f"layers.{number}." for number in range(10, 15)))


@pytest.mark.parametrize("backbone", [OWN, "resnet32"])
@pytest.mark.parametrize("bn", ["frozen", "train"])
@pytest.mark.parametrize("name", IMAGE_CLASSIFIERS)
def test_it_trains_what_it_says_and_nothing_else(
    raw_dataset: Dataset, tmp_path: Path, name: str, bn: str, backbone: str
) -> None:
    representation = finished(backbone)
    start = copy.deepcopy(representation.model)
    done = run(raw_dataset, tmp_path, name, representation, bn=bn, stage2=replace(STAGE2, crt=replace(CRT, epochs=1)))
    assert equal(representation.model, start)
    assert not representation.model.training and representation.model.frozen == ()
    parameters, statistics = changed(start.backbone, done.model.backbone)
    names = {name for name, _ in start.backbone.named_parameters()}
    buffers = {name for name, _ in start.backbone.named_buffers()}
    everything, last = name.startswith("retrain_all"), name == "retrain_last"
    assert parameters == {each for each in names if everything or (last and of_last(each, backbone))}
    drifts = everything or bn == "train"
    assert statistics == {each for each in buffers if drifts or (last and of_last(each, backbone))}
    assert not torch.equal(linear(done).weight, start.classifier.weight)
    assert Retraining(name, STAGE2, bn).keeps_backbone == (not parameters | statistics)


def test_a_frozen_backbone_gives_the_features_of_the_representation(raw_dataset: Dataset, tmp_path: Path) -> None:
    representation = finished("resnet32")
    images = torch.randn(3, 3, 32, 32)
    for name in ("crt_images", "lws_images"):
        done = run(raw_dataset, tmp_path / name, name, representation)
        assert not done.model.training
        with torch.no_grad():
            assert torch.equal(done.model.backbone(images), representation.model.backbone(images))


def test_the_new_classifier_is_the_one_that_a_plain_loop_learns(raw_dataset: Dataset, tmp_path: Path) -> None:
    representation = finished()
    done = run(raw_dataset, tmp_path, "crt_images", representation, seed=5)
    train = raw_dataset.split("train")
    order = Sampler(train.class_members, train.class_start, "class", 5, 2)
    torch.manual_seed(5)
    plain = nn.Linear(12, 4).double()
    velocity = [torch.zeros_like(parameter) for parameter in plain.parameters()]
    backbone = representation.model.backbone.double()
    steps = len(order) // 16
    with Images(raw_dataset).train(order, 16) as loader:
        for epoch in range(2):
            for step, batch in enumerate(loader.epoch(epoch)):
                with torch.no_grad():
                    features = backbone(batch.images.double())
                loss = functional.cross_entropy(plain(features), batch.labels)
                gradients = torch.autograd.grad(loss, list(plain.parameters()))
                rate = 0.05 * (1 + np.cos(np.pi * (epoch * steps + step) / (2 * steps)))
                with torch.no_grad():
                    for parameter, gradient, moving in zip(plain.parameters(), gradients, velocity, strict=True):
                        moving.mul_(0.9).add_(gradient + 5e-4 * parameter)
                        parameter -= rate * moving
    learned = linear(done)
    torch.testing.assert_close(learned.weight.double(), plain.weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(learned.bias.double(), plain.bias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("joint", ["linear", "cosine"])
@pytest.mark.parametrize("scale_bias", [True, False])
def test_lws_learns_one_scale_per_class(raw_dataset: Dataset, tmp_path: Path, scale_bias: bool, joint: str) -> None:
    representation = finished(classifier=joint)
    old = representation.model.classifier
    done = run(raw_dataset, tmp_path, "lws_images", representation, stage2=replace(STAGE2, scale_bias=scale_bias))
    new = linear(done)
    scale = (new.weight / old.weight).detach()
    torch.testing.assert_close(scale, scale[:, :1].expand_as(scale), rtol=1e-4, atol=1e-4)
    assert ((scale[:, 0] - 1).abs() > 1e-3).all()
    if isinstance(old, CosineClassifier):
        assert new.bias.count_nonzero() == 0
    elif scale_bias:
        torch.testing.assert_close(new.bias / old.bias, scale[:, 0], rtol=1e-4, atol=1e-4)
    else:
        assert torch.equal(new.bias, old.bias)


@pytest.mark.parametrize("scale_bias", [True, False])
def test_folded_scales_give_the_same_scores_and_load_again(scale_bias: bool) -> None:
    torch.manual_seed(0)
    scaled, x = ScaledLinear(torch.randn(3, 5), torch.randn(3), scale_bias), torch.randn(7, 5)
    with torch.no_grad():
        scaled.scale.copy_(torch.tensor([0.5, 2.0, -1.0]))
    weight, bias, scale = (value.detach().double() for value in (scaled.weight, scaled.bias, scaled.scale))
    expected = (x.double() @ weight.T + bias) * scale if scale_bias else (x.double() @ weight.T) * scale + bias
    folded = scaled.folded()
    torch.testing.assert_close(scaled(x).double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(folded(x).double(), expected, rtol=1e-5, atol=1e-5)
    scaled.load_state_dict(folded.state_dict())
    assert equal(scaled.folded(), folded)
    assert [name for name, each in scaled.named_parameters() if each.requires_grad] == ["scale"]


def test_the_slow_backbone_moves_at_a_tenth_of_the_rate(raw_dataset: Dataset, tmp_path: Path) -> None:
    one_step = replace(STAGE2, crt=Training(1, 64, 0.01, 0.0))
    representation = finished()
    start = representation.model
    whole, slow = (
        run(raw_dataset, tmp_path / name, name, representation, stage2=one_step).model
        for name in ("retrain_all", "retrain_all_slow")
    )
    assert equal(whole.classifier, slow.classifier)
    for (name, old), a, b in zip(
        start.backbone.named_parameters(), whole.backbone.parameters(), slow.backbone.parameters(), strict=True
    ):
        assert (a - old).abs().max() > 0, name
        torch.testing.assert_close(b - old, 0.1 * (a - old), rtol=1e-2, atol=1e-7)


def stop_behind(monkeypatch: pytest.MonkeyPatch, epoch: int, step: int) -> None:
    """Asks a training to stop after this step, once."""
    whole = Trainer._step

    def stepped(fit: Trainer, parts: list) -> None:
        whole(fit, parts)
        if (fit.epoch, fit.step) == (epoch, step):
            os.kill(os.getpid(), signal.SIGTERM)
            monkeypatch.setattr(Trainer, "_step", whole)

    monkeypatch.setattr(Trainer, "_step", stepped)


@pytest.mark.parametrize("name", IMAGE_CLASSIFIERS)
def test_stopped_in_the_middle_it_ends_with_the_same_bits(
    raw_dataset: Dataset, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(raw_dataset, tmp_path / "whole", name, bn="train")
    stop_behind(monkeypatch, 1, 2)
    with pytest.raises(Stopped, match=r"checkpoint\.pt holds the training after step 2 of epoch 2"):
        run(raw_dataset, tmp_path / "cut", name, bn="train")
    middle = state(tmp_path / "cut")
    assert not middle["finished"] and ("classifier.scale" in middle["model"]) == (name == "lws_images")
    again = run(raw_dataset, tmp_path / "cut", name, bn="train")
    assert equal(whole.model, again.model)
    kept, cut = state(tmp_path / "whole"), state(tmp_path / "cut")
    assert kept["model"].keys() == cut["model"].keys()
    assert all(torch.equal(kept["model"][each], cut["model"][each]) for each in kept["model"])
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / folder / "metrics.jsonl").read_text().splitlines()]
        for folder in ("whole", "cut")
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 2


def test_one_that_replaces_another_goes_on_where_it_was_stopped(
    raw_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(raw_dataset, tmp_path, "crt_images", seed=1)
    with monkeypatch.context() as once:
        stop_behind(once, 1, 2)
        with pytest.raises(Stopped, match="after step 2 of epoch 2, the same command goes on there"):
            run(raw_dataset, tmp_path, "crt_images", overwrite=True)
    run(raw_dataset, tmp_path, "crt_images", overwrite=True)
    assert "after step 2 of epoch 2" in capsys.readouterr().err and state(tmp_path)["finished"]
    run(raw_dataset, tmp_path, "crt_images", overwrite=True)
    assert "resuming" not in (told := capsys.readouterr().err) and "reusing" not in told


@pytest.mark.parametrize("name", ["retrain_last", "lws_images"])
def test_its_checkpoint_is_one_of_a_representation(raw_dataset: Dataset, tmp_path: Path, name: str) -> None:
    done = run(raw_dataset, tmp_path, name, finished("resnet32", "cosine"))
    model, kept = load_model(tmp_path)
    assert equal(model, done.model)
    assert model.classifier_kind == done.model.classifier_kind == "linear"
    assert kept["key"] == done.key and kept["settings"]["retrained"] == name
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(images), done.model(images))


def test_a_finished_one_is_reused_and_another_one_refused(
    raw_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(raw_dataset, tmp_path, "lws_images")
    with monkeypatch.context() as never:
        never.setattr(Trainer, "_step", lambda *_: pytest.fail("trained again"))
        again = run(raw_dataset, tmp_path, "lws_images")
    assert equal(first.model, again.model) and again.key == first.key
    for change, told in [
        ({"bn": "train"}, "bn at its default, asked for is bn=train"),
        ({"seed": 1}, "seed=0, asked for is seed=1"),
        ({"precision": "bf16"}, "precision=fp32, asked for is precision=bf16"),
        ({"accumulate": 2}, "accumulate at its default, asked for is accumulate=2"),
        ({"augment": Augment(32, crop="pad", pad=2)}, "pad at its default, asked for is pad=2"),
        (
            {"stage2": replace(STAGE2, scale_bias=False)},
            "scale_bias at its default, asked for is stage2.scale_bias=False",
        ),
        (
            {"stage2": replace(STAGE2, stepped="epoch")},
            "stepped at its default, asked for is stage2.stepped=epoch",
        ),
        ({"stage2": replace(STAGE2, drawing="iid")}, "stage2.drawing at its default, asked for is stage2.drawing=iid"),
        ({"stage2": replace(STAGE2, keep="best")}, "stage2.keep at its default, asked for is stage2.keep=best on val"),
        ({"stage2": replace(STAGE2, lws=replace(STAGE2.lws, milestones=(1,)))}, "asked for is milestones=.1."),
        ({"stage2": replace(STAGE2, lws=replace(STAGE2.lws, lr=0.3))}, "lr=0.2, asked for is lr=0.3"),
        ({"representation": replace(finished(), key="other")}, "asked for is representation=other"),
        ({"name": "crt_images"}, "retrained=lws_images, asked for is retrained=crt_images"),
    ]:
        with pytest.raises(UserError, match=told):
            run(raw_dataset, tmp_path, **{"name": "lws_images", **change})
    anew = run(raw_dataset, tmp_path, "lws_images", seed=1, overwrite=True)
    assert anew.key != first.key and not equal(anew.model, first.model)


@pytest.mark.parametrize("name", ["crt_images", "lws_images"])
def test_the_epoch_that_is_best_on_val_is_kept(raw_dataset: Dataset, tmp_path: Path, name: str) -> None:
    """Rates that do not fall: a shorter training is the beginning of a longer one."""
    wild = Training(4, 16, 2.0, 0.0, milestones=(50,), nesterov=True)

    def trained(keep: str, epochs: int) -> Representation:
        law = replace(wild, epochs=epochs)
        return run(raw_dataset, tmp_path / f"{keep}{epochs}", name, stage2=Stage2(law, law, keep=keep), bn="train")

    best, each = trained("best", 4), [trained("last", epochs) for epochs in range(1, 5)]
    val = Images(raw_dataset).evaluation("val", raw_dataset.split("val").class_members)
    reached = [evaluate_classes(done.model, val)[0].sum() for done in each]
    assert best.epoch == 1 + reached.index(max(reached)) and best.chosen == "best epoch on val"
    assert equal(best.model, each[best.epoch - 1].model)
    assert each[3].chosen == "last epoch"


def test_what_does_not_count_is_not_in_the_key(raw_dataset: Dataset, tmp_path: Path) -> None:
    first = run(raw_dataset, tmp_path / "all", "retrain_all")
    again = run(
        raw_dataset, tmp_path / "all", "retrain_all", bn="train", stage2=replace(STAGE2, scale_bias=False, seeds=3)
    )
    assert first.key == again.key


def test_seeds_differ_in_start_and_order_and_repeat_themselves(raw_dataset: Dataset, tmp_path: Path) -> None:
    torch.manual_seed(9)
    expected = torch.rand(1)
    torch.manual_seed(9)
    runs = [run(raw_dataset, tmp_path / f"{place}", seed=seed).model for place, seed in enumerate((0, 0, 1))]
    assert torch.equal(torch.rand(1), expected)
    assert equal(runs[0], runs[1])
    assert not torch.equal(runs[0].classifier.weight, runs[2].classifier.weight)
    orders = []
    for seed in (0, 1):
        images, train = Images(raw_dataset), raw_dataset.split("train")
        retraining = Retraining("lws_images", STAGE2, seed=seed)
        kept = tmp_path / f"lws{seed}"
        retrain(retraining, finished(), images, train.class_members, train.class_start, kept)
        orders.append(images.orders[0].order(0))
    assert not np.array_equal(*orders)


def test_in_the_last_epoch_stepped_by_the_epoch_no_weight_moves(raw_dataset: Dataset, tmp_path: Path) -> None:
    stage2 = replace(STAGE2, stepped="epoch", crt=replace(CRT, epochs=3))
    weights = {}
    whole = Trainer.finish_epoch

    def noted(fit: Trainer, *arguments: Any) -> dict[str, Any]:
        row = whole(fit, *arguments)
        weights[fit.epoch] = copy.deepcopy(dict(fit.model.named_parameters()))
        return row

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "finish_epoch", noted)
        run(raw_dataset, tmp_path, "retrain_all", stage2=stage2)
    assert not torch.equal(weights[1]["classifier.weight"], weights[2]["classifier.weight"])
    assert all(torch.equal(weights[2][name], weights[3][name]) for name in weights[2])
    rates = [json.loads(line)["lr"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rates == pytest.approx([0.075, 0.025, 0.0])


def test_reference_drawing_visits_four_images_of_a_class(raw_dataset: Dataset, tmp_path: Path) -> None:
    images, train = Images(raw_dataset), raw_dataset.split("train")
    retraining = Retraining("crt_images", replace(STAGE2, drawing="reference"))
    retrain(retraining, finished(), images, train.class_members, train.class_start, tmp_path)
    labels = train.label[images.orders[0].order(0)]
    visits = labels[: len(labels) // 4 * 4].reshape(-1, 4)
    assert (visits == visits[:, :1]).all()
    assert (np.sort(visits[:4, 0]) == np.arange(4)).all()  # and all classes before one comes again


def test_batches_are_balanced_and_augmented(raw_dataset: Dataset, tmp_path: Path, monkeypatch: Any) -> None:
    seen = []
    whole = Trainer._step

    def noted(fit: Trainer, parts: list) -> None:
        seen.extend(parts)
        whole(fit, parts)

    monkeypatch.setattr(Trainer, "_step", noted)
    run(raw_dataset, tmp_path)
    labels = np.concatenate([batch.labels.numpy() for batch in seen])
    assert len(labels) == 2 * 64 and (np.bincount(labels) >= 2 * 14).all()
    rare = [(batch.images[row]) for batch in seen for row in np.flatnonzero(batch.ids == batch.ids.max())]
    assert any(not torch.equal(rare[0], other) for other in rare[1:])


def test_a_frozen_backbone_learns_the_same_in_parts(raw_dataset: Dataset, tmp_path: Path) -> None:
    whole, parts = (run(raw_dataset, tmp_path / f"{n}", accumulate=n).model for n in (1, 2))
    torch.testing.assert_close(whole.classifier.weight, parts.classifier.weight, rtol=1e-4, atol=1e-5)


def of_a_rank(data: str, folder: str) -> None:
    """What torchrun runs in each of two processes."""
    torch.set_num_threads(1)
    ranks = ranks_here()
    join(ranks, torch.device("cpu"))
    for name in IMAGE_CLASSIFIERS[:2]:
        run(Dataset(data), Path(folder) / name, name, ranks=ranks)
    leave(ranks)


def test_two_ranks_train_as_one_process_does(raw_dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "rank.py").write_text("import sys\nfrom test_retrain import of_a_rank\nof_a_rank(*sys.argv[1:])\n")
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent), str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(tmp_path / "rank.py"), str(raw_dataset.root), str(tmp_path / "two")],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    for name in IMAGE_CLASSIFIERS[:2]:
        alone = run(raw_dataset, tmp_path / "one" / name, name).model
        both, _ = load_model(tmp_path / "two" / name, OWN)
        for each, value in alone.state_dict().items():
            torch.testing.assert_close(both.state_dict()[each], value, rtol=1e-4, atol=1e-5)


def test_wrong_settings_are_refused(raw_dataset: Dataset, tmp_path: Path) -> None:
    several = replace(STAGE2, lr=(0.1, 0.2))
    with pytest.raises(UserError, match=r"^stage2.lr=\[0.1, 0.2\]: image mode trains one setting, give one value$"):
        Retraining("crt_images", several)
    with pytest.raises(UserError, match=r"^stage2.weight_decay=\[0.0, 0.1\]: image mode trains one setting"):
        Retraining("lws_images", replace(STAGE2, weight_decay=(0.0, 0.1)))
    with pytest.raises(UserError, match="bn=eval is unknown: allowed are frozen, train"):
        Retraining("crt_images", STAGE2, bn="eval")
    with pytest.raises(UserError, match="crt is not trained on images: allowed are crt_images, lws_images"):
        Retraining("crt", STAGE2)
    large = replace(STAGE2, crt=replace(CRT, batch=72))
    told = r"^protocol.crt.batch=72 is larger than the number of training images \(71\): choose a smaller one$"
    with pytest.raises(UserError, match=told):
        run(raw_dataset, tmp_path, stage2=large)
    with pytest.raises(UserError, match=r"protocol\.crt\.batch=16 cannot be shared out to 1 ranks in 3 parts"):
        run(raw_dataset, tmp_path, accumulate=3)
    assert not list(tmp_path.iterdir())


def test_an_endless_loss_names_the_key_of_stage_2(raw_dataset: Dataset, tmp_path: Path) -> None:
    wild = replace(STAGE2, crt=replace(CRT, lr=1e30))
    with pytest.raises(UserError, match=r"the loss is (nan|inf) .*: lower stage2.lr=1e\+30"):
        run(raw_dataset, tmp_path, "retrain_all", stage2=wild)


def test_a_representation_with_frozen_layers_is_trained_whole(raw_dataset: Dataset, tmp_path: Path) -> None:
    representation = finished()
    freeze_before(representation.model, "body")
    done = run(raw_dataset, tmp_path, "retrain_all", representation)
    parameters, _ = changed(representation.model.backbone, done.model.backbone)
    assert parameters == {name for name, _ in representation.model.backbone.named_parameters()}
    assert representation.model.frozen == ("stem",)


def test_parts_are_frozen_by_dotted_names_and_thawed() -> None:
    model = build_model("resnet32", 4, 0)
    assert last_block(model) == "layers.10"
    freeze_before(model, "layers.10")
    model.train()
    assert model.frozen == ("conv1", "bn1", *(f"layers.{number}" for number in range(10)))
    learns = {name for name, parameter in model.backbone.named_parameters() if parameter.requires_grad}
    assert learns == {name for name, _ in model.backbone.named_parameters() if of_last(name, "resnet32")}
    layers: Any = model.backbone.layers
    assert [block.bn1.training for block in layers] == [False] * 10 + [True] * 5
    thaw(model)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())
    told = r"train_from=layers.15 is no part of backbone=resnet32: allowed are layers.0, .*, layers.14$"
    with pytest.raises(UserError, match=told):
        freeze_before(model, "layers.15")


def no_block() -> nn.Module:
    return nn.Flatten()


def test_last_blocks() -> None:
    assert last_block(build_model("resnet10", 4, 0)) == "layer4"
    assert last_block(build_model(OWN, 4, 0, 32)) == "body"
    with pytest.raises(UserError, match="has no last block: no part of it has parameters"):
        last_block(build_model(f"{__name__}:no_block", 4, 0, 2))
