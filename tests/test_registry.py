"""Parts with a name: those of a table, and the user's own with their options and the digest of their source."""

import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_classifiers import made

from fastlt.core.cli import own_parts
from fastlt.core.errors import UserError
from fastlt.core.schedule import Schedule
from fastlt.data.pipeline.loader import Loader
from fastlt.data.plan import Augment
from fastlt.data.shards.reader import Dataset
from fastlt.longtail.losses import classifier_of, make_loss
from fastlt.longtail.sampler import InOrder, Sampler, SamplerConfig, class_probabilities, make_sampler
from fastlt.models.backbones import build_model
from fastlt.registry import call_part, find_part, own_sources
from fastlt.stage2.classifiers import find_classifier
from fastlt.stage2.classifiers.base import Fitted, Stage2, Task, Training
from fastlt.training.batch_hooks import make_batch_hook
from fastlt.training.optimizers import factors_of, make_optimizer
from fastlt.training.recipe import Recipe

SOURCE = """
from dataclasses import dataclass

import torch

from fastlt.longtail.sampler import Sampler

NUMBER = 3


def effective(counts, progress, q=-1.0):
    return counts**q


def negative(counts, progress):
    return -counts


@dataclass(frozen=True)
class Backwards(Sampler):
    step: int = -1

    def order(self, epoch):
        return super().order(epoch)[:: self.step]


class Poly:
    on_cosines = True

    def __init__(self, counts, progress, eps):
        self.eps = eps

    def __call__(self, logits, labels):
        each = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        return each + self.eps * (1 - (-each).exp())


def halves(images, labels, key, soft=False):
    assert key == (1, 2)
    mixed = 0.5 * images + 0.5 * images.flip(0)
    if soft:
        return mixed, sum(torch.nn.functional.one_hot(part, 3) for part in (labels, labels.flip(0))) / 2
    return mixed, [(0.5, labels), (0.5, labels.flip(0))]


def shift(image, key, by):
    seed, epoch, position = key
    return image + by * position + seed + epoch


def half(image, key, by):
    return image[:, ::2]


def first_only(image, key, by):
    return image if key[2] == 0 else None


def net(width):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, width))


def broken(groups, lr):
    raise RuntimeError("no such\\nluck")


def deep(groups, lr):
    return torch.nn.functional.cross_entropy('logits', groups)
"""
COUNTS = np.array([40, 10, 4])
START = np.array([0, 40, 50, 54])


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Writes the module own_parts_here, to be imported anew."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(source: str = SOURCE) -> None:
        (tmp_path / "own_parts_here.py").write_text(source)
        monkeypatch.delitem(sys.modules, "own_parts_here", raising=False)
        importlib.invalidate_caches()

    write()
    return write


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("foo", "sampler=foo is unknown: allowed are a, b, or package.module:NAME of your own"),
        ("own_parts_here:none", "sampler=own_parts_here:none: own_parts_here has no none"),
        ("no_such:x", "sampler=no_such:x: importing no_such fails (ModuleNotFoundError: No module named 'no_such'): "),
    ],
)
@pytest.mark.usefixtures("write")
def test_one_message_for_what_is_not_there(name: str, told: str) -> None:
    with pytest.raises(UserError) as refused:
        find_part("sampler", name, {"a": 1, "b": 2})
    assert str(refused.value).startswith(told) and "\n" not in str(refused.value)


@pytest.mark.usefixtures("write")
def test_options_are_checked_before_anything_is_called() -> None:
    poly = find_part("loss", "own_parts_here:Poly", {})
    with pytest.raises(UserError, match=r"^loss_options.e=1 is unknown to loss=Poly: allowed are eps$"):
        call_part("loss", "Poly", poly, {"e": 1}, COUNTS, 0.0)
    with pytest.raises(UserError, match=r"^loss=Poly needs loss_options.eps=VALUE$"):
        call_part("loss", "Poly", poly, {}, COUNTS, 0.0)


def line_of(code: str) -> int:
    return next(number for number, line in enumerate(SOURCE.splitlines(), 1) if line == code)


@pytest.mark.usefixtures("write")
def test_an_error_in_an_own_part_tells_the_line() -> None:
    """The innermost one in the user's file: not one of a library that the part calls."""
    lines = {"broken": ("RuntimeError: no such", '    raise RuntimeError("no such\\nluck")')}
    lines["deep"] = "TypeError: .*", "    return torch.nn.functional.cross_entropy('logits', groups)"
    for part, (error, code) in lines.items():
        name = f"own_parts_here:{part}"
        with pytest.raises(UserError) as refused:
            call_part("part", name, find_part("part", name, {}), {"lr": 1}, [])
        told = (
            rf"part={name} with part_options={{'lr': 1}} fails \({error}, line {line_of(code)} of own_parts_here.py\); "
        )
        assert re.fullmatch(rf"{told}--debug shows the traceback", str(refused.value))


def test_an_error_of_an_import_tells_the_line(write: Callable[[str], None]) -> None:
    write("import torch\n\ntorch.nn.Linear(in_features=3)\n")
    with pytest.raises(
        UserError, match=r"importing own_parts_here fails \(TypeError: .*, line 3 of own_parts_here.py\)"
    ):
        find_part("loss", "own_parts_here:Poly", {})


def test_an_edited_part_has_another_digest(write: Callable[[str], None]) -> None:
    name = "own_parts_here:effective"
    first = own_sources(sampler=name, loss="focal")
    assert set(first) == {"sampler.source"} and own_sources(sampler=name) == first
    write(SOURCE.replace("q=-1.0", "q=-2.0"))
    assert own_sources(sampler=name) != first
    write(SOURCE)
    assert own_sources(sampler=name) == first


@pytest.mark.usefixtures("write")
def test_a_sampler_of_ones_own() -> None:
    for q in (-1.0, -0.5):
        p = class_probabilities(np.array([40, 0, 4]), "own_parts_here:effective", options={"q": q})
        np.testing.assert_allclose(p, [40**q / (40**q + 4**q), 0, 4**q / (40**q + 4**q)])
    members = np.arange(54)
    rare = make_sampler(members, START, SamplerConfig("own_parts_here:effective"), 0, 1)
    drawn = np.bincount(np.searchsorted(START, rare.order(0), "right") - 1)
    weight = 1 / COUNTS
    assert np.abs(drawn - 54 * weight / weight.sum()).max() < 1
    assert rare.described()["law.source"]
    back = make_sampler(members, START, SamplerConfig("own_parts_here:Backwards", options={"step": -1}), 3, 2)
    np.testing.assert_array_equal(back.order(1), Sampler(members, START, "instance", 3, 2).order(1)[::-1])
    with pytest.raises(UserError, match="it must give a finite weight of at least 0"):
        make_sampler(members, START, SamplerConfig("own_parts_here:negative"), 0, 1)
    with pytest.raises(UserError, match=r"sampler.options=\{'q': 1\}: sampler=class takes none"):
        SamplerConfig("class", options={"q": 1})


@pytest.mark.parametrize("key", ["sampler", "loss", "optimizer"])
def test_what_cannot_be_called_is_no_part(key: str) -> None:
    with pytest.raises(UserError, match=rf"^{key}=math:pi is a float: it must be something that can be called$"):
        call_part(key, "math:pi", find_part(key, "math:pi", {}), {})


@pytest.mark.parametrize("shift", [-1, 1])
def test_an_order_of_samples_that_are_not_there_is_refused(shift: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Beside(Sampler):
        def order(self, epoch: int) -> np.ndarray:
            return super().order(epoch) + shift

    monkeypatch.setattr(sys.modules[__name__], "Beside", Beside, raising=False)
    with pytest.raises(UserError, match=rf"gives the sample id {-1 if shift < 0 else 54}, which is none of `members`"):
        make_sampler(np.arange(54), START, SamplerConfig(f"{__name__}:Beside"), 0, 1)


def test_a_loss_with_parameters_is_refused_as_they_would_not_be_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = torch.nn.Linear(2, 2)
    monkeypatch.setattr(sys.modules[__name__], "learned", lambda counts, progress: loss, raising=False)
    with pytest.raises(UserError, match="has parameters, and only those of the network are trained"):
        make_loss(f"{__name__}:learned", torch.tensor([2, 1]))
    loss.requires_grad_(False)
    assert make_loss(f"{__name__}:learned", torch.tensor([2, 1])) is loss


def in_place(counts: Any, progress: float) -> Any:
    counts += 1
    return counts if isinstance(counts, np.ndarray) else lambda logits, labels: logits.sum(1) * counts.sum()


def changes_counts(images: Any, labels: Any, key: Any, *, counts: Any) -> Any:
    counts -= 1
    return images * counts.sum(), labels


def changes_the_joint_one(task: Task) -> Fitted:
    task.weight.zero_()
    task.counts[:] = 1
    return Fitted({"weight": task.weight, "bias": task.bias})


def test_parts_of_ones_own_may_change_what_they_are_given() -> None:
    """In place: others, and the same part in a later epoch, get what was there before."""
    counts = np.array([40.0, 0.0, 4.0])
    np.testing.assert_allclose(class_probabilities(counts, f"{__name__}:in_place"), [41 / 46, 0, 5 / 46])
    assert counts.tolist() == [40, 0, 4]
    given, ones = torch.tensor([2, 1]), torch.ones(1, 2)
    assert [float(make_loss(f"{__name__}:in_place", given)(ones, given)) for _ in range(2)] == [10, 10]
    assert float(make_batch_hook(f"{__name__}:changes_counts", {}, given)(ones, given, (0,))[0][0, 0]) == 1
    assert given.tolist() == [2, 1]
    settings = Training(1, 64, 0.1, 0.0)
    task = made(np.array([30, 10, 5]), Stage2(settings, settings))
    weight = task.weight.clone()
    fitted = find_classifier(f"{__name__}:changes_the_joint_one", {}).fit(task)
    assert not fitted.tensors["weight"].any()
    assert torch.equal(task.weight, weight) and task.counts.tolist() == [30, 10, 5]


def test_weights_of_classes_without_a_finite_sum_are_refused() -> None:
    with pytest.raises(UserError, match=r"gives \[1.e\+308 1.e\+308\] for 2 classes: it must give a finite weight"):
        class_probabilities(np.array([3, 1]), f"{__name__}:huge")


def huge(counts: np.ndarray, progress: float) -> np.ndarray:
    return np.full(len(counts), 1e308)


@pytest.mark.usefixtures("write")
def test_a_loss_of_ones_own() -> None:
    logits, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    found = make_loss("own_parts_here:Poly", torch.from_numpy(COUNTS), 0.0, {"eps": 2.0})(logits, labels)
    each = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(found, each + 2 * (1 - torch.softmax(logits, 1)[range(5), labels]))
    assert classifier_of("own_parts_here:Poly") == "cosine" and classifier_of("focal") == "linear"


@pytest.mark.parametrize(
    ("name", "options", "theirs"),
    [
        ("sgd", {}, lambda p: torch.optim.SGD(p, 0.1, 0.9, weight_decay=0.01, nesterov=True)),
        ("adamw", {"betas": [0.8, 0.9]}, lambda p: torch.optim.AdamW(p, 0.1, (0.8, 0.9), weight_decay=0.01)),
        ("torch.optim:RMSprop", {"alpha": 0.9, "momentum": 0}, lambda p: torch.optim.RMSprop(p, 0.1, 0.9, 1e-8, 0.01)),
    ],
)
def test_optimizers_are_pytorchs(name: str, options: dict, theirs: Callable) -> None:
    moved = []
    for make in (lambda p: make_optimizer(name, p, Schedule(1, 0.1, 0.9, 0.01, nesterov=True), options, False), theirs):
        weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        optimizer = make([{"params": [weight]}])
        for _ in range(3):
            optimizer.zero_grad()
            weight.pow(2).sum().backward()
            optimizer.step()
        moved.append(weight.detach())
    assert torch.equal(*moved)


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("adam", {}, "protocol.optimizer=adam is unknown: allowed are sgd, adamw, or package.module:NAME"),
        ("adamw", {"beta": 1}, r"protocol.optimizer_options.beta=1 is unknown to protocol.optimizer=adamw"),
        ("adamw", {"betas": [2, 0]}, r"fails \(ValueError: Invalid beta parameter"),
        ("builtins:list", {}, "gives a list: it must give a torch.optim.Optimizer"),
        ("math:pi", {}, "protocol.optimizer=math:pi is a float: it must be something that can be called"),
        (f"{__name__}:closing", {}, "needs a closure for its steps"),
    ],
)
def test_what_is_no_optimizer_is_refused(name: str, options: dict, told: str) -> None:
    with pytest.raises(UserError, match=told):
        make_optimizer(name, [{"params": [torch.zeros(1)]}], Schedule(1, 0.1, 0.9, 0.0), options, False)


def closing(groups: list) -> torch.optim.Optimizer:
    return torch.optim.LBFGS(groups[0]["params"])


def test_an_optimizer_may_divide_the_groups_that_it_is_given() -> None:
    backbone, head = [torch.zeros(2, 2), torch.zeros(2)], [torch.zeros(3, 2), torch.zeros(3)]
    groups: dict[float, Any] = {1.0: backbone, 0.1: head}
    plain = [{"params": one, "weight_decay": 0.0} for one in (backbone[1:], head[1:])]
    decayed = [{"params": one, "weight_decay": 0.1} for one in (head[:1], backbone[:1])]
    assert factors_of(torch.optim.SGD([*plain, *decayed], 0.1), groups) == [1.0, 0.1, 0.1, 1.0]
    with pytest.raises(UserError, match="several learning rates into one group: keep the groups apart"):
        factors_of(torch.optim.SGD([*backbone, *head], 0.1), groups)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"loss": "own_parts_here:Pola"}, r"^protocol.loss=own_parts_here:Pola: own_parts_here has no Pola"),
        (
            {"loss": "own_parts_here:Poly", "loss_options": {"epps": 1}},
            r"^protocol.loss_options.epps=1 is unknown to protocol.loss=own_parts_here:Poly: allowed are eps$",
        ),
        ({"batch_hook": "own_parts_here:NUMBER"}, "batch_hook=own_parts_here:NUMBER is a int: it must be something"),
        ({"batch_hook": "own_parts_here:Backwards"}, "needs protocol.batch_hook_options.members=VALUE"),
        ({"batch_hook": "builtins:object"}, "gives a object: it must be something that can be called"),
    ],
)
@pytest.mark.usefixtures("write")
def test_what_a_recipe_names_is_checked_as_it_is_made(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        Recipe(**wrong)


@pytest.mark.parametrize(
    ("each", "told"),
    [
        (None, "gives a NoneType: it must give a function of logits and labels"),
        (lambda logits, labels: None, "protocol.loss gives a NoneType: it must give a tensor with a value for each"),
        (lambda logits, labels: -logits.log_softmax(1), r"protocol.loss gives \[4, 3\]: it must give a tensor with"),
    ],
)
def test_what_is_no_loss_of_images_is_refused(each: Any, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "made", lambda counts, progress: each, raising=False)
    with pytest.raises(UserError, match=told):
        Recipe(loss=f"{__name__}:made").make_criterion(0.0, torch.from_numpy(COUNTS))(
            torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)
        )


@pytest.mark.usefixtures("write")
def test_options_of_a_backbone() -> None:
    for width in (3, 5):
        assert build_model("own_parts_here:net", 2, 0, 4, options={"width": width}).classifier.in_features == width
    with pytest.raises(UserError, match=r"backbone.options.width=2 is unknown to backbone=resnet32: allowed are none"):
        build_model("resnet32", 2, 0, options={"width": 2})


@pytest.mark.parametrize(
    ("given", "understood"),
    [
        ("sampler=mymod:X", "sampler.name=mymod:X"),
        ("sampler=class,my.mod:X", "sampler.name=class,my.mod:X"),
        ("backbone=my.mod:net", "backbone.name=my.mod:net"),
        ("sampler='my.mod:X'", "sampler.name='my.mod:X'"),
        ("sampler=class", "sampler=class"),
        ("sampler.name=mymod:X", "sampler.name=mymod:X"),
        ("device=cuda:1", "device=cuda:1"),
    ],
)
def test_hydra_looks_for_no_file_of_an_own_part(given: str, understood: str) -> None:
    assert own_parts([given]) == [understood]


@pytest.mark.usefixtures("write")
def test_a_batch_hook_of_ones_own() -> None:
    images, labels = torch.randn(6, 3, 4, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))

    def loss(**recipe) -> torch.Tensor:
        made = Recipe(batch_hook="own_parts_here:halves", **recipe)
        criterion = made.make_criterion(0.0, torch.from_numpy(COUNTS))
        return made.batch_loss(model, images, labels, (1, 2), criterion, made.batch_function())[0]

    both = (0.5 * images + 0.5 * images.flip(0), labels, labels.flip(0))
    logits = model(both[0])
    theirs = sum(torch.nn.functional.cross_entropy(logits, part) for part in both[1:]) / 2
    torch.testing.assert_close(loss(), theirs)
    torch.testing.assert_close(loss(batch_hook_options={"soft": True}), theirs)
    focal = make_loss("focal", torch.from_numpy(COUNTS))
    theirs = sum(focal(logits, part).mean() for part in both[1:]) / 2
    torch.testing.assert_close(loss(loss="focal"), theirs)
    with pytest.raises(UserError, match=r"gives shares of classes, \[6, 3\], which protocol.loss=focal does not take"):
        loss(loss="focal", batch_hook_options={"soft": True})
    with pytest.raises(UserError, match=r"protocol.batch_hook_options.hard=1 is unknown to protocol.batch_hook=own"):
        loss(batch_hook_options={"hard": 1})


class Counting:
    def __init__(self, gives: Any = None, *, counts: torch.Tensor):
        self.shares = counts / counts.sum()
        self.gives = gives

    def __call__(self, images: torch.Tensor, labels: torch.Tensor, key: tuple[int, ...]) -> Any:
        return self.gives or (images * self.shares[labels], labels)


def test_a_batch_hook_that_is_a_class_gets_the_class_counts() -> None:
    recipe = Recipe(batch_hook=f"{__name__}:Counting")  # not made before the counts are known
    labels, seen = torch.tensor([0, 2]), []
    model: Any = lambda x: seen.append(x) or torch.zeros(2, 3)  # noqa: E731

    def loss(hook: Any) -> None:
        criterion = recipe.make_criterion(0.0, torch.from_numpy(COUNTS))
        recipe.batch_loss(model, torch.ones(2), labels, (1,), criterion, hook)

    loss(recipe.batch_function(torch.from_numpy(COUNTS)))
    torch.testing.assert_close(seen[0], torch.tensor([40 / 54, 4 / 54]))
    for wrong, told in (
        (5, r"Counting gives a int: it must give \(images, labels\), with as many images as it gets, 2$"),
        ((torch.ones(2), labels, 1), "Counting gives a tuple"),
        ((torch.ones(4), labels), "Counting gives 4 images"),
    ):
        with pytest.raises(UserError, match=told):
            loss(Counting(wrong, counts=torch.ones(3)))


@pytest.mark.usefixtures("write")
def test_an_augmentation_of_ones_own(raw_dataset: Dataset) -> None:
    """It sees every image after ours, with a key that does not depend on batches and ranks."""
    ids = np.arange(11)

    def images(batch: int, hook: str = "own_parts_here:shift", **given) -> torch.Tensor:
        augment = Augment(8, "resized", image_hook=hook, image_hook_options={"by": 2.0} if hook else {})
        with Loader(raw_dataset, "train", InOrder(ids), augment, batch, 5, threads=1, **given) as loader:
            return torch.cat([batch.images for batch in loader.epoch(3)])

    plain, shifted = images(4, hook=""), images(4)
    by = torch.arange(11.0)[:, None, None, None]
    torch.testing.assert_close(shifted - plain, (2.0 * by + 5 + 3).expand_as(plain), atol=1e-5, rtol=0)
    assert torch.equal(images(7), shifted)
    assert torch.equal(images(5, rank=1, world=2), shifted[1:11:2])
    with pytest.raises(UserError, match=r"own_parts_here:half gives float32 \[3, 4, 8\] for float32 \[3, 8, 8\]"):
        images(4, hook="own_parts_here:half")
    with pytest.raises(UserError, match=r"own_parts_here:first_only gives a NoneType for float32 \[3, 8, 8\]: it must"):
        images(4, hook="own_parts_here:first_only")
    with pytest.raises(
        UserError, match=r"protocol.image_hook=blur is unknown: allowed are package.module:NAME of your"
    ):
        images(4, hook="blur")
