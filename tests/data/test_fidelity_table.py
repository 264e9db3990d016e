"""The table of docs/explanation/fidelity.md, operation by operation: what the field's codes compute, from its published
definition in a few lines, beside what fastlt computes."""

import ast
import math
import random
import re
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from test_classifiers import COUNTS as CLASS_SIZES
from test_classifiers import made
from test_configs import composed, options
from torch import Tensor, nn
from torch.nn import functional

from fastlt.core.groups import class_groups, group_sizes
from fastlt.data.sources.long_tail import long_tail_counts, long_tail_rows
from fastlt.kernels.class_mean import class_mean
from fastlt.longtail.losses import make_loss
from fastlt.longtail.sampler import Sampler
from fastlt.models.backbones import build_model
from fastlt.stage2.classifiers import find_classifier
from fastlt.stage2.classifiers.base import Features, Stage2, Task, Training
from fastlt.stage2.classifiers.heads import Linear
from fastlt.stage2.classifiers.sgd import Step
from fastlt.stage2.classifiers.tau_norm import normalized

ROOT = Path(__file__).parents[2]
CIFAR_100 = long_tail_counts(100, 500, 100)  # sizes of CIFAR-100-LT's classes at imbalance 100
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def task() -> Task:
    """Features with means that are not 0, as those after a ReLU are."""
    training = Training(2, 64, 0.1, 5e-4)
    task = made(CLASS_SIZES, Stage2(training, training))
    x = task.train.x.abs()
    seen = Features(x, task.train.labels)
    return Task(seen, seen, seen, "train", task.joint, task.counts, task.groups, task.stage2, 0)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Logits [64, 100] and labels as an instance-balanced batch of CIFAR-100-LT has them."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.multinomial(torch.from_numpy(CIFAR_100).double(), 64, replacement=True, generator=generator)
    return torch.randn(64, 100, generator=generator), labels


def mean_loss(name: str, batch: tuple[Tensor, Tensor], progress: float = 0.0, **chosen: float) -> Tensor:
    return make_loss(name, torch.from_numpy(CIFAR_100), progress, chosen)(*batch).mean()


def close(found: object, theirs: object, tolerance: float = 1e-5) -> None:
    found, theirs = (torch.as_tensor(value).double() for value in (found, theirs))
    torch.testing.assert_close(found, theirs, rtol=tolerance, atol=tolerance)


def kinds(x: np.ndarray, labels: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(features, class means) of the kinds un, l2n, cl2n as get_knncentroids has them."""
    centred = x - x.mean(0)
    kinds = {"un": x, "l2n": x / np.linalg.norm(x, axis=1, keepdims=True)}
    kinds["cl2n"] = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    return {name: (z, np.stack([z[labels == c].mean(0) for c in np.unique(labels)])) for name, z in kinds.items()}


def test_class_means(task: Task) -> None:
    x, labels = task.train.x.double().numpy(), task.train.labels.numpy()
    ours = class_mean(task.train.x, task.train.labels, task.classes)
    for kind, (_, means) in kinds(x, labels).items():
        close(getattr(ours, kind), means)
    close(ours.global_mean, x.mean(0))


def scores(name: str, task: Task) -> Tensor:
    classifier = find_classifier(name)
    return classifier.scores(classifier.fit(task).tensors, task.train.x)


def test_ncm_l2(task: Task) -> None:
    for kind, (z, means) in kinds(task.train.x.double().numpy(), task.train.labels.numpy()).items():
        squared = (z**2).sum(1)[:, None] + (means**2).sum(1) - 2 * z @ means.T
        close(scores("ncm_l2" if kind == "cl2n" else f"ncm_{kind}_l2", task), -squared, 1e-4)


def test_ncm_cos(task: Task) -> None:
    z, means = kinds(task.train.x.double().numpy(), task.train.labels.numpy())["cl2n"]
    theirs = z @ means.T / z.shape[1]
    close(scores("ncm_authors_cos", task), theirs)
    cosine = z @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T
    close(scores("ncm_cosine", task), cosine)
    assert (theirs.argmax(1) != cosine.argmax(1)).mean() > 0.01  # they are two classifiers


def test_tau(task: Task) -> None:
    norm = task.weight.double().norm(dim=1, keepdim=True)
    for tau in np.linspace(0, 2, 21).tolist():
        close(normalized(task.weight, tau), task.weight.double() / norm**tau)
    fitted = find_classifier("tau_norm").fit(task)
    assert "bias" not in fitted.tensors  # as in tau_norm.py
    bags = options("protocol=cifar_lt_bags").trainings
    fitted = find_classifier("tau_norm").fit(replace(task, stage2=bags))
    theirs = task.train.x.double() @ (task.weight.double() / norm).T + task.bias
    close(find_classifier("tau_norm").scores(fitted.tensors, task.train.x), theirs)


def test_lws(task: Task) -> None:
    fitted = find_classifier("lws").fit(task)
    scale = (fitted.tensors["weight"] / task.weight).mean(1)
    assert scale.std() > 0.01
    close(find_classifier("lws").scores(fitted.tensors, task.train.x), scale * task.joint(task.train.x), 1e-4)


def test_groups() -> None:
    theirs = [0 if n > 100 else 2 if n < 20 else 1 for n in CIFAR_100]
    assert class_groups(CIFAR_100).tolist() == theirs
    assert group_sizes(CIFAR_100) == {"many": 35, "medium": 35, "few": 30}
    mislas = np.repeat([0, 1, 2], [36, 35, 29])  # its head_class_idx 0-36, med 36-71, tail 71-100
    assert np.flatnonzero(mislas != class_groups(CIFAR_100)).tolist() == [35, 70]
    assert CIFAR_100[[35, 70]].tolist() == [98, 19]


@pytest.mark.parametrize("nesterov", [False, True])
def test_crt_step(nesterov: bool, task: Task) -> None:
    """Two steps of SGD with momentum and weight decay on weights and bias."""
    head = Linear(16, task.classes, [3], 1, torch.device("cpu"))
    theirs = nn.Linear(16, task.classes)
    theirs.load_state_dict(head.tensors(0, 0))
    optimizer = torch.optim.SGD(theirs.parameters(), 0.2, 0.9, weight_decay=5e-4, nesterov=nesterov)
    loss = make_loss("cross_entropy", torch.from_numpy(task.counts))
    step = Step(head, task.train, 1, 32, [{"lr": 0.2, "weight_decay": 5e-4}], loss, nesterov)
    for number in range(2):
        ids = torch.randperm(len(task.train), generator=torch.Generator().manual_seed(number))[:32]
        step(ids[None], 1.0)
        optimizer.zero_grad()
        functional.cross_entropy(theirs(task.train.x[ids]), task.train.labels[ids]).backward()
        optimizer.step()
    for name, value in theirs.state_dict().items():
        close(head.tensors(0, 0)[name], value)


def rates(protocol: str, *overrides: str) -> list[float]:
    """The learning rate at the first step of every epoch."""
    schedule = options(f"protocol={protocol}", *overrides).schedule
    return [schedule.rate(7 * epoch, 7) for epoch in range(schedule.epochs)]


def test_cosine() -> None:
    for protocol, last in (("authors", 0.0), ("authors", 1e-4)):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.2)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 90, eta_min=last)
        theirs = []
        for _ in range(90):  # before each epoch, as in run_networks.py; BagofTricks-LT has 1e-4
            optimizer.step()
            scheduler.step()
            theirs.append(optimizer.param_groups[0]["lr"])
        close(rates(protocol, f"protocol.last_lr={last}", "epochs=90"), theirs)
        assert theirs[-1] == pytest.approx(last, abs=1e-12)
    by_batch = rates("imagenet_lt_90", "epochs=90")
    close(by_batch, [0.1 * (1 + math.cos(math.pi * epoch / 90)) for epoch in range(90)])  # the default, and MiSLAS


def test_steps() -> None:
    def ldam(epoch: int) -> float:
        return 0.1 * ((epoch + 1) / 5 if epoch < 5 else 1e-4 if epoch >= 180 else 1e-2 if epoch >= 160 else 1)

    def bags(last_epoch: int, steps: tuple[int, int] = (160, 180), factor: float = 0.01) -> float:
        warm = (1 - last_epoch / 5) / 3 + last_epoch / 5 if last_epoch < 5 else 1
        return 0.1 * warm * factor ** sum(last_epoch >= step for step in steps)

    close(rates("cifar_lt_ldam", "epochs=200"), [ldam(epoch) for epoch in range(200)])
    # Its scheduler is stepped before an epoch: the first one runs at last_epoch = 1.
    close(rates("cifar_lt_bags", "epochs=200"), [bags(epoch) for epoch in range(1, 201)])
    stage2 = options("protocol=cifar_lt_bags").trainings
    for training in (stage2.crt, stage2.lws):
        schedule = training.schedule(stage2.stepped)
        close([schedule.rate(epoch, 1) for epoch in range(30)], [bags(epoch, (10, 20), 0.1) for epoch in range(1, 31)])
    mislas = rates("cifar_lt_ldam", "epochs=200", "protocol.factor=0.1")
    close(mislas[160], 0.01)
    close(mislas[180], 0.001)


def sampler(law: str, drawing: str = "quota", epochs: int = 90, counts: np.ndarray = CLASS_SIZES) -> Sampler:
    start = np.concatenate([[0], np.cumsum(counts)])
    return Sampler(np.arange(start[-1]), start, law, 0, epochs, drawing)


def test_laws_of_sampling() -> None:
    n = CLASS_SIZES.astype(float)
    instance, even = n / n.sum(), np.full(len(n), 1 / len(n))
    # MixedPrioritizedSampler's weights of images, nroot = 2: (n / N)^(1/2) N / n, all images of a class together.
    root = (n / n.sum()) ** 0.5 * n.sum() / n * n
    for epoch in (0, 1, 44, 89):
        close(sampler("instance").probabilities(epoch), instance)
        close(sampler("class").probabilities(epoch), even)
        close(sampler("sqrt").probabilities(epoch), root / root.sum())
        close(sampler("sqrt").probabilities(epoch), np.sqrt(n) / np.sqrt(n).sum())  # BagofTricks-LT
        share = np.linspace(0, 1, 90)[epoch]
        weights = share * even * n.sum() + (1 - share) * n  # ClassPrioritySampler, balanced ones scaled to N
        close(sampler("progressive").probabilities(epoch), weights / weights.sum())
    # BagofTricks-LT has epoch / epochs, counted from 1: a class-balanced share already in the first epoch.
    theirs = 1 / 90 * even + (1 - 1 / 90) * instance
    assert np.abs(theirs - sampler("progressive").probabilities(0)).max() > 1e-3


def visits(counts: np.ndarray, length: int) -> list[tuple[int, int]]:
    """(class, image) as ClassAwareSampler with 4 images a visit yields them."""
    rng = random.Random(0)

    def forever(values: list[int]):
        while True:
            rng.shuffle(values)
            yield from values

    classes, images = forever(list(range(len(counts)))), [forever(list(range(n))) for n in counts]
    return [(c, next(images[c])) for c in islice(classes, length // 4) for _ in range(4)]


def test_drawing_of_images() -> None:
    """Random numbers differ, so what holds of every draw is compared: visits, passes through classes and images."""
    length = int(CLASS_SIZES.sum()) // 4 * 4
    own = sampler("class", "reference")
    label = np.repeat(np.arange(len(CLASS_SIZES)), CLASS_SIZES)
    ours = [(int(label[i]), int(i)) for epoch in range(4) for i in own.order(epoch)][:length]
    for stream in (visits(CLASS_SIZES, length), ours):
        visited = [stream[place][0] for place in range(0, length, 4)]
        assert [c for c, _ in stream] == [c for c in visited for _ in range(4)]
        for first in range(0, len(visited) - 6, 6):
            assert sorted(visited[first : first + 6]) == list(range(6))
        for c, size in enumerate(CLASS_SIZES.tolist()):
            seen = [image for there, image in stream if there == c]
            whole = len(seen) // size * size
            assert all(len(set(seen[first : first + size])) == size for first in range(0, whole, size))
    # The default: images in passes, too, but the order is shuffled, and classes have their shares exactly.
    shares = Counter(label[sampler("class").order(0)].tolist())
    assert max(shares.values()) - min(shares.values()) <= 1


def test_cifar_lt_counts() -> None:
    for classes, largest, imbalance in (
        (100, 500, 100),
        (100, 500, 50),
        (100, 500, 10),
        (10, 5000, 100),
        (10, 5000, 50),
    ):
        theirs = [int(largest * (1 / imbalance) ** (c / (classes - 1.0))) for c in range(classes)]
        assert long_tail_counts(classes, largest, imbalance).tolist() == theirs
    assert (int(CIFAR_100.sum()), int(long_tail_counts(10, 5000, 100).sum())) == (10847, 12406)


def test_cifar_selection() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 60))
    state, theirs = np.random.get_state(), []
    np.random.seed(0)
    for c, count in enumerate(long_tail_counts(10, 60, 10)):
        rows = np.where(labels == c)[0]
        np.random.shuffle(rows)
        theirs.append(sorted(rows[:count]))
    np.random.set_state(state)
    assert long_tail_rows(labels, 10, 10, 0, "ldam").tolist() == np.concatenate(theirs).tolist()
    assert long_tail_rows(labels, 10, 10, 0).tolist() != np.concatenate(theirs).tolist()


def test_ldam_margins(batch: tuple[Tensor, Tensor]) -> None:
    cosines, labels = batch[0].tanh(), batch[1]
    margins = 1 / np.sqrt(np.sqrt(CIFAR_100))
    margins = torch.from_numpy(margins * 0.5 / margins.max())
    moved = cosines.double() - functional.one_hot(labels, 100) * margins[labels][:, None]
    close(mean_loss("ldam_drw", (cosines, labels)), functional.cross_entropy(30 * moved, labels))


def class_weights(beta: float = 0.9999) -> Tensor:
    weights = (1 - beta) / (1 - np.power(beta, CIFAR_100))
    return torch.from_numpy(weights / weights.sum() * 100)


def gradient(loss: Tensor, logits: Tensor) -> float:
    return torch.autograd.grad(loss, logits, retain_graph=True)[0].norm().item()


def test_drw(batch: tuple[Tensor, Tensor]) -> None:
    cosines, labels = batch[0].tanh().requires_grad_(), batch[1]
    margins = 0.5 * torch.from_numpy((CIFAR_100 / CIFAR_100.min()) ** -0.25)
    z = 30 * (cosines.double() - functional.one_hot(labels, 100) * margins[labels][:, None])
    theirs = functional.cross_entropy(z, labels, weight=class_weights())
    for epoch, weighted in ((159, False), (160, True)):
        expected = theirs if weighted else functional.cross_entropy(z, labels)
        close(mean_loss("ldam_drw", (cosines, labels), epoch / 200, weighted_mean=1), expected)
    plain = mean_loss("ldam_drw", (cosines, labels), 0.8)
    ratio = class_weights()[labels].mean().item()  # the default is the plain mean: smaller by the batch's mean weight
    close(plain, theirs * ratio)
    assert gradient(theirs, cosines) / gradient(plain, cosines) == pytest.approx(1 / ratio, rel=1e-4)
    natural = (class_weights() * torch.from_numpy(CIFAR_100)).sum().item() / CIFAR_100.sum()
    assert 1 / natural == pytest.approx(4.93, abs=0.01)


def test_class_balanced(batch: tuple[Tensor, Tensor]) -> None:
    logits, labels = batch
    weights = class_weights()
    close(
        mean_loss("class_balanced", batch),
        (weights[labels] * functional.cross_entropy(*batch, reduction="none")).mean(),
    )
    theirs = functional.cross_entropy(logits.double(), labels, weight=weights)  # LDAM-DRW, BagofTricks-LT
    close(mean_loss("class_balanced", batch, weighted_mean=1), theirs)


def test_focal(batch: tuple[Tensor, Tensor]) -> None:
    logits, labels = batch[0].double(), batch[1]
    entropy = functional.cross_entropy(logits, labels, reduction="none")
    close(mean_loss("focal", batch, gamma=1), ((1 - torch.exp(-entropy)) * entropy).mean())  # LDAM-DRW
    own = functional.one_hot(labels, 100).double()
    p = logits.sigmoid()
    binary = functional.binary_cross_entropy_with_logits(logits, own, reduction="none")
    each = (((1 - p) * own + p * (1 - own)) ** 2 * binary).sum(1)  # BagofTricks-LT
    close(mean_loss("focal", batch, sigmoid=1), each.mean())
    weighted = (class_weights()[labels] * each).mean()
    close(mean_loss("class_balanced", batch, gamma=2, sigmoid=1), weighted)


def test_balanced_softmax(batch: tuple[Tensor, Tensor]) -> None:
    logits, labels = batch
    theirs = functional.cross_entropy(logits.double() + torch.from_numpy(CIFAR_100).log(), labels)
    close(mean_loss("balanced_softmax", batch), theirs)


def test_logit_adjustment(batch: tuple[Tensor, Tensor], task: Task) -> None:
    logits, labels = batch
    prior = torch.from_numpy(CIFAR_100 / CIFAR_100.sum())
    for tau in (0.5, 1.0):
        theirs = functional.cross_entropy(logits.double() + tau * prior.log(), labels)
        close(mean_loss("logit_adjusted", batch, tau=tau), theirs)
    fitted = find_classifier("logit_adjust").fit(task)
    log_prior = torch.from_numpy(np.log(task.counts / task.counts.sum()))
    theirs = task.joint(task.train.x).double() - fitted.choices["tau"] * log_prior
    close(find_classifier("logit_adjust").scores(fitted.tensors, task.train.x), theirs, 1e-4)


def test_label_aware_smoothing(batch: tuple[Tensor, Tensor]) -> None:
    logits, labels = batch
    stage2 = options("protocol=cifar_lt_200").trainings
    head, tail = stage2.smoothing_head, stage2.smoothing_tail
    assert (head, tail) == (0.4, 0.1)
    n = CIFAR_100.astype(float)
    eps = tail + (head - tail) * np.sin((n - n.min()) * np.pi / (2 * (n.max() - n.min())))
    eps, log_p = torch.from_numpy(eps)[labels], logits.double().log_softmax(1)
    own = -log_p.gather(1, labels[:, None])[:, 0]
    others = (-log_p.sum(1) - own) / 99
    close(
        mean_loss("label_aware_smoothing", batch, smoothing_head=head, smoothing_tail=tail),
        ((1 - eps) * own + eps * others).mean(),
    )
    theirs = ((1 - eps) * own - eps * log_p.mean(1)).mean()  # spread over all classes, the own one included
    less = {"smoothing_head": head * 0.99, "smoothing_tail": tail * 0.99}
    close(mean_loss("label_aware_smoothing", batch, **less), theirs)


def test_normalization() -> None:
    imagenet = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    inaturalist = [0.466, 0.471, 0.380], [0.195, 0.194, 0.192]
    cifar = [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]
    sets = {"imagenet_lt": imagenet, "places_lt": imagenet, "inaturalist2018": inaturalist}
    for name, theirs in sets.items():
        found = composed("convert", f"dataset={name}").dataset
        assert (list(found.mean), list(found.std)) == theirs
    for name in ("cifar_lt_bags", "cifar_lt_ldam"):
        found = composed("train", f"protocol={name}").protocol
        assert (list(found.mean), list(found.std)) == cifar


def test_start_of_the_joint_head() -> None:
    def weights(protocol: str) -> Tensor:
        start = composed("train", f"protocol={protocol}").protocol.head_start
        model = build_model("resnet32", 1000, 0, 32, head_start=start)
        return model.classifier.weight.detach()

    uniform, normal = weights("cifar_lt_bags"), weights("cifar_lt_ldam")
    theirs = [nn.Linear(64, 1000).weight.detach(), nn.init.kaiming_normal_(torch.empty(1000, 64))]
    for ours, their in zip((uniform, normal), theirs, strict=True):
        assert ours.std().item() == pytest.approx(their.std().item(), rel=0.03)
    assert uniform.abs().max() <= 1 / 8 < normal.abs().max()
    assert normal.std().item() == pytest.approx(math.sqrt(2 / 64), rel=0.03)  # 0.177


TABLE = (ROOT / "docs" / "explanation" / "fidelity.md").read_text(encoding="utf-8")


def test_every_row_names_a_test() -> None:
    rows = [line for line in TABLE.splitlines() if re.match(r"\| (?!operation|---)", line)]
    assert len(rows) >= 22
    for row in rows:
        cells = row.strip("| ").split(" | ")
        assert len(cells) == 8, row
        found = re.fullmatch(r"`(\w+)::(test_\w+)`", cells[-1])
        assert found, row
        (file,) = (ROOT / "tests").rglob(f"{found[1]}.py")
        tree = ast.parse(file.read_text(encoding="utf-8"))
        assert found[2] in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, row


def test_every_test_of_an_operation_has_its_row() -> None:
    here = {
        node.name
        for node in ast.parse(Path(__file__).read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }
    tests = {name for name in here if name.startswith("test_") and not name.startswith("test_every")}
    assert tests == set(re.findall(r"`test_fidelity_table::(test_\w+)`", TABLE))
