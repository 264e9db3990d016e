"""What settings are chosen on, and what is done where there is nothing to choose on."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import refused, train
from pictures import Pictures, conversion
from torch.nn import functional

from fastlt.core.errors import UserError
from fastlt.core.groups import class_groups
from fastlt.data.convert import convert
from fastlt.data.hold_out import hold_out
from fastlt.longtail.losses.reweighting import Reweighting
from fastlt.stage2.classifiers import find_classifier
from fastlt.stage2.classifiers import folds as folds_module
from fastlt.stage2.classifiers.base import Features, Stage2, Task, Training
from fastlt.stage2.classifiers.folds import fold_draws, folds_of
from fastlt.stage2.classifiers.selection import select

SMALL = (
    "protocol=cifar_lt_200", "protocol.batch=16", "epochs=1", "threads=1", "protocol.crt.epochs=1", "image_size=16"
)  # fmt: skip
COUNTS = np.array([120, 30, 6])


@pytest.fixture(scope="module")
def task() -> Task:
    """Nothing to choose on."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.from_numpy(np.repeat(np.arange(3), COUNTS))
    features = Features(torch.randn(len(labels), 8, generator=rng) + 2 * functional.one_hot(labels, 8), labels)
    joint = torch.nn.Linear(8, 3)
    stage2 = Stage2(Training(2, 16, 0.1, 0.0), Training(2, 16, 0.1, 0.0))
    return Task(features, features, None, "none", joint, COUNTS, class_groups(COUNTS), stage2, seed=0)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset without a val split, and a run on it."""
    folder = tmp_path_factory.mktemp("choosing")
    source = Pictures(counts=(40, 20, 5), pixels=True)
    del source.splits["val"]
    convert(source, conversion(), folder / "data", workers=1)
    return folder


def test_images_are_held_out_of_every_class_that_has_three() -> None:
    sizes = np.array([100, 17, 5, 3, 2, 1])
    start, members = np.concatenate([[0], np.cumsum(sizes)]), np.random.default_rng(0).permutation(sizes.sum())
    kept, held = hold_out(start, members, 0.1, seed=0)
    assert sorted([*kept, *held]) == list(range(sizes.sum()))
    classes = np.empty(sizes.sum(), int)
    classes[members] = np.repeat(np.arange(len(sizes)), sizes)
    assert np.bincount(classes[held], minlength=6).tolist() == [10, 2, 1, 1, 0, 0]
    assert (np.diff(classes[held]) >= 0).all() and (np.diff(classes[kept]) >= 0).all()
    assert len(hold_out(start, members, 0.0, seed=0)[1]) == 0
    with pytest.raises(UserError, match=r"hold_out=0\.1: no class has enough training images to spare one"):
        hold_out(np.array([0, 2, 4]), np.arange(4), 0.1, seed=0)
    most = np.bincount(classes[hold_out(start, members, 0.99, seed=0)[0]], minlength=6)
    assert most.tolist() == [1, 1, 1, 1, 1, 1]
    assert set(hold_out(start, members, 0.1, seed=1)[1]) != set(held)


def test_where_nothing_is_to_be_chosen_tau_is_1(task: Task) -> None:
    weight, bias = task.weight, task.bias
    normalized = find_classifier("tau_norm").fit(task)
    assert normalized.choices == {"tau": 1.0}
    torch.testing.assert_close(normalized.tensors["weight"], functional.normalize(weight, dim=1))
    adjusted = find_classifier("logit_adjust").fit(task)
    assert adjusted.choices == {"tau": 1.0}
    prior = torch.from_numpy(COUNTS / COUNTS.sum()).float()
    torch.testing.assert_close(adjusted.tensors["bias"], bias - prior.log())
    trained = find_classifier("logit_adjusted_loss").fit(task)
    assert trained.choices["tau"] == 1.0 and "grid" not in trained.choices
    # The loss of balanced softmax differs by a constant in the logits.
    torch.testing.assert_close(
        trained.tensors["weight"], find_classifier("balanced_softmax").fit(task).tensors["weight"]
    )
    # Where it is asked for, the training images choose.
    assert find_classifier("tau_train").fit(task).choices["chosen_on"] == "train"
    assert find_classifier("tau_norm").fit(replace(task, choose=task.train, choose_on="train")).choices["tau"] != 1.0


def test_folds_share_out_every_class() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(4), [103, 50, 5, 2]))
    folds = folds_of(labels, 3)
    assert np.bincount(folds).tolist() == [32, 32, 32, 32, 32]
    for label in range(4):
        sizes = np.bincount(folds[labels == label], minlength=5)
        assert sizes.max() - sizes.min() <= 1
    assert (folds == folds_of(labels, 3)).all() and (folds != folds_of(labels, 4)).any()


def test_whole_groups_are_held_out_and_whole_groups_are_folds() -> None:
    sizes = np.array([100, 17, 5, 3, 2, 1])
    labels = np.repeat(np.arange(6), sizes)
    groups = np.random.default_rng(0).permutation(len(labels)) // 3
    start, members = np.concatenate([[0], np.cumsum(sizes)]), np.argsort(labels, kind="stable")
    kept, held = hold_out(start, members, 0.25, 0, groups)
    assert sorted([*kept, *held]) == members.tolist() and not set(groups[kept]) & set(groups[held])
    found = np.bincount(labels[held], minlength=6)
    assert abs(found.sum() - 32) <= 3 and abs(found[0] - 25) <= 3 and (np.bincount(labels[kept]) > 0).all()
    for ids in (kept, held):
        assert (np.diff(labels[ids]) >= 0).all() and all(
            (np.diff(ids[labels[ids] == one]) > 0).all() for one in range(6)
        )
    assert set(hold_out(start, members, 0.25, 1, groups)[1]) != set(held)
    with pytest.raises(UserError, match="no group of training images can be spared"):
        hold_out(start, members, 0.25, 0, np.zeros(len(labels), int))
    folds = folds_of(labels, 3, groups)
    assert all(len(set(folds[groups == group])) == 1 for group in set(groups.tolist()))
    assert np.bincount(folds, minlength=5).max() <= 29 and (folds != folds_of(labels, 4, groups)).any()


@pytest.mark.parametrize("law", ["instance", "class", "progressive"])
def test_a_training_sees_no_image_of_its_fold(task: Task, law: str) -> None:
    draws = fold_draws(task, law)
    both = torch.cat([task.train.labels, task.train.labels])  # an augmented pass after the images
    for labels in (task.train.labels, both):
        rows = draws.epochs(labels, 3, 2)
        for epoch in (0, 1):
            ids = rows(epoch).numpy()
            assert ids.shape == (5, draws.length) and draws.length == 156 - 32
            for fold, seen in enumerate(ids):
                assert not (draws.folds[seen % 156] == fold).any()
        if law == "class":  # together: with two passes an epoch is half of one of all rows
            drawn = labels.numpy()[torch.cat([rows(0), rows(1)], dim=1)[0]]
            assert np.abs(np.bincount(drawn, minlength=3) / len(drawn) - 1 / 3).max() < 0.02


def test_tau_on_folds_is_that_of_classifiers_that_have_not_seen_the_images(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels that mean nothing can be learned by heart, and only images seen before are then classified right."""
    labels = task.train.labels[torch.randperm(156, generator=torch.Generator().manual_seed(1))]
    x = torch.randn(156, 400, generator=torch.Generator().manual_seed(2))
    order = labels.argsort(stable=True)
    features = Features(x[order], labels[order])
    learned = torch.nn.Linear(400, 3)
    optimizer = torch.optim.SGD(learned.parameters(), 0.1)
    for _ in range(200):
        optimizer.zero_grad()
        functional.cross_entropy(learned(features.x), features.labels).backward()
        optimizer.step()
    known = replace(task, train=features, augmented=features, joint=learned, choose_on="folds")
    on_train = find_classifier("tau_train").fit(known)
    assert on_train.choices["accuracy"] == 100
    for name in ("tau_norm", "logit_adjust"):
        fitted = find_classifier(name).fit(known)
        assert fitted.choices["chosen_on"] == "folds" and fitted.choices["accuracy"] < 60
        assert fitted.choices == find_classifier(name).fit(known).choices
    # The law and the loss of stage 1 are taken again, where they are known here.
    seen = []
    monkeypatch.setattr(folds_module, "train", lambda *given: seen.append((given[3].law, given[6])))
    monkeypatch.setattr(folds_module, "make_loss", lambda *given: given)
    for law, loss, taken in (
        ("sqrt", "focal", ("sqrt", "focal")),
        ("root_3", "cross_entropy", ("root_3", "cross_entropy")),
        ("mine:law", "mine:loss", ("instance", "cross_entropy")),
        ("class", "ldam_drw", ("class", "cross_entropy")),
    ):
        find_classifier("logit_adjust").fit(replace(known, law=law, loss=loss))
        assert (seen[-1][0], seen[-1][1][0]) == taken


def test_classes_are_weighted_on_folds_as_late_in_stage_1(task: Task) -> None:
    known = replace(task, choose_on="folds")

    def chosen(**fields: Any) -> dict[str, Any]:
        return find_classifier("logit_adjust").fit(replace(known, **fields)).choices

    weighted = chosen(loss="class_balanced")
    assert chosen(drw=Reweighting(weights="effective_number", after=0.8)) == weighted
    assert chosen() == chosen(drw=Reweighting(weights="effective_number", after=1.0)) != weighted


@pytest.mark.parametrize("counts", [(1, 1), (2, 1), (3, 1, 1), (1, 6)])
@pytest.mark.parametrize("name", ["tau_norm", "logit_adjust"])
def test_as_few_images_as_there_may_be(task: Task, counts: tuple[int, ...], name: str) -> None:
    known = np.array(counts)
    labels = torch.from_numpy(np.repeat(np.arange(len(known)), known))
    features = Features(torch.randn(len(labels), 8, generator=torch.Generator().manual_seed(0)), labels)
    few = replace(task, train=features, augmented=features, counts=known, groups=class_groups(known), choose_on="folds")
    few = replace(few, joint=torch.nn.Linear(8, len(known)))
    fitted = find_classifier(name).fit(few)
    assert all(tensor.isfinite().all() for tensor in fitted.tensors.values())


def test_settings_are_cross_validated(task: Task) -> None:
    """A rate at which nothing is learned loses; the one that wins is trained on all images."""
    four = replace(task.stage2, crt=replace(task.stage2.crt, epochs=4), seeds=2)
    asked = replace(task, choose_on="folds", stage2=replace(four, lr=(1e-6, 0.1)))
    fitted = find_classifier("crt").fit(asked)
    assert fitted.choices["lr"] == 0.1 and fitted.choices["chosen_on"] == "folds"
    assert [entry["lr"] for entry in fitted.choices["grid"]] == [1e-6, 0.1]
    alone = find_classifier("crt").fit(replace(asked, stage2=four))
    for mine, other in zip((fitted.tensors, *fitted.others), (alone.tensors, *alone.others), strict=True):
        torch.testing.assert_close(mine["weight"], other["weight"])
    assert find_classifier("logit_adjusted_loss").fit(asked).choices["chosen_on"] == "folds"


def test_what_must_choose_says_what_it_needs(task: Task) -> None:
    with pytest.raises(UserError, match=r"no images to choose on: hold_out=0\.1 keeps some"):
        select([[lambda x: x], [lambda x: -x]], task.choose, 0)
    several = replace(task, stage2=replace(task.stage2, lr=(0.1, 0.2)))
    with pytest.raises(UserError, match=r"its settings are to be chosen"):
        find_classifier("crt").fit(several)


def test_it_is_said_before_the_training(place: Path) -> None:
    done = train("data=data", "run=diverged", "protocol.lr=1e30", "protocol.warmup_epochs=0", *SMALL, cwd=place)
    assert "error: the loss is" in done.stderr and not (place / "diverged" / "checkpoint.pt").exists()
    first = ["data: pictures, 3 classes", "stage 1: resnet32, images of 16 px, ", "stage 2: ", "run folder: diverged"]
    *others, choice = done.stderr.splitlines()[: len(first) + 1]
    assert all(line.startswith(start) for line, start in zip(others, first, strict=True)), others
    assert choice.startswith("no val split: tau and other settings are chosen by a 5-fold cross-validation")
    assert "hold_out=0.1" in choice


def test_without_val_settings_are_cross_validated(place: Path) -> None:
    done = train("data=data", "run=first", "classifiers=[joint,tau_norm,logit_adjust]", *SMALL, cwd=place)
    assert done.returncode == 0, done.stderr
    results = json.loads((place / "first" / "results.json").read_text())
    assert results["choose_on"] == "folds" and "temperature_on" not in results and results["hold_out"] == 0
    for name in ("tau_norm", "logit_adjust"):
        row = results["classifiers"][name]
        assert row["choices"]["chosen_on"] == "folds" and list(row["curves"]) == ["test"] and "calibrated" not in row
    report = (place / "first" / "report.md").read_text()
    assert "chosen on 5 folds of train" in done.stdout
    assert "is chosen on **5 folds of train**: by classifiers that were trained on the other four" in report
    assert "choose_on" not in report.split("Run it again with")[1]
    # All alternatives are a key away, and need no other representation unless images are held out.
    for expected in ("none", "train", "test"):
        given = f"choose_on={expected}"
        again = train("data=data", "run=first", "classifiers=[joint,tau_norm]", given, *SMALL, cwd=place)
        assert "reusing the representation" in again.stderr, again.stderr
        choices = json.loads((place / "first" / "results.json").read_text())["classifiers"]["tau_norm"]["choices"]
        assert choices == {"tau": 1.0} if expected == "none" else choices["chosen_on"] == expected
        report = (place / "first" / "report.md").read_text()
        assert given in report.split("Run it again with")[1]
        assert ("Nothing is chosen by looking at accuracies" in report) == (expected == "none")


def test_several_settings_need_something_to_choose_on(place: Path) -> None:
    done = train("data=data", "run=several", "stage2.lr=[0.1,0.2]", "choose_on=none", *SMALL, cwd=place)
    assert refused(done) == "stage2.lr=[0.1, 0.2] and choose_on=none: give one value, or another choose_on"
    assert not (place / "several").exists()
