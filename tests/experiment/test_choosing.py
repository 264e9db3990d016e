"""What settings are chosen on, and what is done where there is nothing to choose on."""

import json
from dataclasses import replace
from pathlib import Path

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
from fastlt.stage2.classifiers import find_classifier
from fastlt.stage2.classifiers.base import Features, Stage2, Task, Training
from fastlt.stage2.classifiers.choice import choose

SMALL = ("protocol=cifar_lt_200", "protocol.batch=16", "epochs=1", "threads=1", "protocol.crt.epochs=1")
COUNTS = np.array([120, 30, 6])


@pytest.fixture(scope="module")
def task() -> Task:
    """Nothing to choose on."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.from_numpy(np.repeat(np.arange(3), COUNTS))
    features = Features(torch.randn(len(labels), 8, generator=rng) + 2 * functional.one_hot(labels, 8), labels)
    joint = torch.nn.Linear(8, 3)
    stage2 = Stage2(Training(2, 16, (0.1,), (0.0,)), Training(2, 16, (0.1,), (0.0,)))
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
    most = np.bincount(classes[hold_out(start, members, 0.99, seed=0)[0]], minlength=6)
    assert most.tolist() == [1, 1, 1, 1, 1, 1]
    assert set(hold_out(start, members, 0.1, seed=1)[1]) != set(held)


def test_tau_is_1_where_there_is_nothing_to_choose_on(task: Task) -> None:
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


def test_what_must_choose_says_what_it_needs(task: Task) -> None:
    with pytest.raises(UserError, match=r"no images to choose on: hold_out=0\.1 keeps some"):
        choose([[lambda x: x], [lambda x: -x]], task.choose, 0)
    several = replace(task, stage2=replace(task.stage2, crt=replace(task.stage2.crt, lr=(0.1, 0.2))))
    with pytest.raises(UserError, match=r"its settings are to be chosen"):
        find_classifier("crt").fit(several)


def test_it_is_said_before_the_training(place: Path) -> None:
    done = train("data=data", "run=diverged", "protocol.lr=1e30", "protocol.warmup_epochs=0", *SMALL, cwd=place)
    assert "error: the loss is" in done.stderr and not (place / "diverged" / "checkpoint.pt").exists()
    assert (
        done.stderr.startswith("no val split: nothing is chosen (tau is 1 where none is given)")
        and "hold_out=0.1" in done.stderr
    )


def test_without_val_nothing_is_chosen(place: Path) -> None:
    done = train("data=data", "run=first", "classifiers=[joint,tau_norm,logit_adjust]", *SMALL, cwd=place)
    assert done.returncode == 0, done.stderr
    results = json.loads((place / "first" / "results.json").read_text())
    assert results["choose_on"] == "none" and "temperature_on" not in results and results["hold_out"] == 0
    for name in ("tau_norm", "logit_adjust"):
        row = results["classifiers"][name]
        assert row["choices"] == {"tau": 1.0} and list(row["curves"]) == ["test"] and "calibrated" not in row
    told = "Nothing is chosen by looking at accuracies (tau is 1 where none is given)"
    report = (place / "first" / "report.md").read_text()
    assert told in done.stdout and told in report and "There is no val split." in report
    assert "| tau-norm | tau 1 | not chosen, set |" in report
    assert "choose_on" not in report.split("Run it again with")[1]
    # All alternatives are a key away, and need no other representation unless images are held out.
    for given, expected in (("choose_on=train", "train"), ("choose_on=test", "test")):
        again = train("data=data", "run=first", "classifiers=[joint,tau_norm]", given, *SMALL, cwd=place)
        assert "reusing the representation" in again.stderr, again.stderr
        choices = json.loads((place / "first" / "results.json").read_text())["classifiers"]["tau_norm"]["choices"]
        assert choices["chosen_on"] == expected
        assert given in (place / "first" / "report.md").read_text().split("Run it again with")[1]


def test_several_settings_need_images_to_choose_on(place: Path) -> None:
    done = train("data=data", "run=several", "stage2.lr=[0.1,0.2]", *SMALL, cwd=place)
    assert refused(done).startswith("stage2.lr=[0.1, 0.2]: there are no images to choose one of them on")
    assert not (place / "several").exists()
