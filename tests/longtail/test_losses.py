"""Losses: each against its formula in float64, sample by sample; what they do to a long tail."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fastlt.core.errors import UserError
from fastlt.longtail.losses import LOSSES, classifier_of, make_loss

COUNTS = (500, 120, 33, 7, 1)


pytestmark = pytest.mark.usefixtures("one_thread")


def probabilities(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max())
    return e / e.sum()


def cross_entropy(z: np.ndarray, y: int, n: np.ndarray, progress: float, smoothing: float = 0.0) -> float:
    target = np.full(len(z), smoothing / len(z))
    target[y] += 1 - smoothing
    return -float((target * np.log(probabilities(z))).sum())


def focal(z: np.ndarray, y: int, n: np.ndarray, progress: float, gamma: float = 2.0, sigmoid: float = 0.0) -> float:
    ps = [1 / (1 + np.exp(-v if c == y else v)) for c, v in enumerate(z)] if sigmoid else [probabilities(z)[y]]
    return sum(-((1 - p) ** gamma) * math.log(p) for p in ps)


def weight(y: int, n: np.ndarray, beta: float) -> float:
    """Inverse effective number, summing to the number of classes; the effective number as the sum of a series."""
    effective = np.array([sum(beta**k for k in range(size)) for size in n])
    return len(n) / effective[y] / (1 / effective).sum()


def class_balanced(
    z: np.ndarray,
    y: int,
    n: np.ndarray,
    progress: float,
    beta: float = 0.9999,
    gamma: float = 0.0,
    sigmoid: float = 0.0,
) -> float:
    return weight(y, n, beta) * focal(z, y, n, progress, gamma, sigmoid)


def ldam(z: np.ndarray, y: int, n: np.ndarray, progress: float, max_margin: float = 0.5, scale: float = 30.0) -> float:
    reduced = z.copy()
    reduced[y] -= max_margin * (n.min() / n[y]) ** (1 / 4)
    return cross_entropy(scale * reduced, y, n, progress)


def ldam_drw(
    z: np.ndarray,
    y: int,
    n: np.ndarray,
    progress: float,
    max_margin: float = 0.5,
    scale: float = 30.0,
    beta: float = 0.9999,
    drw_from: float = 0.8,
) -> float:
    factor = weight(y, n, beta) if progress >= drw_from else 1.0
    return factor * ldam(z, y, n, progress, max_margin, scale)


def balanced_softmax(z: np.ndarray, y: int, n: np.ndarray, progress: float) -> float:
    mass = n * np.exp(z)
    return -math.log(mass[y] / mass.sum())


def logit_adjusted(z: np.ndarray, y: int, n: np.ndarray, progress: float, tau: float = 1.0) -> float:
    mass = (n / n.sum()) ** tau * np.exp(z)
    return -math.log(mass[y] / mass.sum())


def label_aware_smoothing(
    z: np.ndarray,
    y: int,
    n: np.ndarray,
    progress: float,
    smoothing_head: float = 0.3,
    smoothing_tail: float = 0.0,
) -> float:
    eps = smoothing_tail
    if n.max() > n.min():
        angle = (n[y] - n.min()) * math.pi / (2 * (n.max() - n.min()))
        eps += (smoothing_head - smoothing_tail) * math.sin(angle)
    log_p = np.log(probabilities(z))
    return -sum((1 - eps if c == y else eps / (len(z) - 1)) * log_p[c] for c in range(len(z)))


DEFINITIONS: dict[str, Callable[..., float]] = {
    "cross_entropy": cross_entropy,
    "focal": focal,
    "class_balanced": class_balanced,
    "ldam": ldam,
    "ldam_drw": ldam_drw,
    "balanced_softmax": balanced_softmax,
    "logit_adjusted": logit_adjusted,
    "label_aware_smoothing": label_aware_smoothing,
}
OTHERS: dict[str, list[dict[str, float]]] = {
    "cross_entropy": [{"smoothing": 0.1}],
    "focal": [{"gamma": 0.0}, {"gamma": 0.5}, {"sigmoid": 1.0}, {"gamma": 0.5, "sigmoid": 1.0}],
    "class_balanced": [{"beta": 0.9}, {"beta": 0.0}, {"beta": 0.99, "gamma": 1.5}, {"gamma": 2.0, "sigmoid": 1.0}],
    "ldam": [],
    "ldam_drw": [{"max_margin": 0.2, "scale": 10.0, "drw_from": 0.0, "beta": 0.99}],
    "balanced_softmax": [],
    "logit_adjusted": [{"tau": 0.0}, {"tau": 2.5}],
    "label_aware_smoothing": [{"smoothing_head": 0.4, "smoothing_tail": 0.1}],
}
CASES = [(name, options) for name in DEFINITIONS for options in ({}, *OTHERS[name])]


def drawn(name: str, classes: int, *shape: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Logits (or cosines) [*shape, classes] and labels of every class."""
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randn(*shape, classes, generator=generator, dtype=dtype) * 3
    labels = (torch.arange(math.prod(shape)) % classes).reshape(shape)
    return (logits.tanh() if classifier_of(name) == "cosine" else logits), labels


def by_definition(name: str, logits: Tensor, labels: Tensor, counts: np.ndarray, progress: float, options: dict):
    rows = logits.reshape(-1, logits.shape[-1]).double().numpy()
    values = [
        DEFINITIONS[name](z, int(y), counts, progress, **options)
        for z, y in zip(rows, labels.flatten().tolist(), strict=True)
    ]
    return torch.tensor(values, dtype=torch.float64).reshape(labels.shape)


@pytest.mark.parametrize("progress", [0.0, 0.79, 0.8])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_loss_is_its_formula(name: str, options: dict[str, float], progress: float) -> None:
    logits, labels = drawn(name, len(COUNTS), 40)
    losses = make_loss(name, torch.tensor(COUNTS), progress, options)(logits, labels)
    assert losses.dtype == torch.float32 and losses.shape == (40,)
    expected = by_definition(name, logits, labels, np.array(COUNTS), progress, options)
    torch.testing.assert_close(losses.double(), expected, rtol=2e-5, atol=2e-6)


def test_every_loss_is_tested_against_a_formula() -> None:
    assert LOSSES.keys() == DEFINITIONS.keys() == OTHERS.keys()


@pytest.mark.parametrize("shape", [(), (3, 10), (2, 3, 5)])
@pytest.mark.parametrize("name", LOSSES)
def test_any_leading_dimensions(name: str, shape: tuple[int, ...]) -> None:
    loss = make_loss(name, torch.tensor(COUNTS), 0.9)
    logits, labels = drawn(name, len(COUNTS), *shape)
    losses = loss(logits, labels)
    assert losses.shape == shape
    torch.testing.assert_close(losses.flatten(), loss(logits.reshape(-1, len(COUNTS)), labels.flatten()))


@pytest.mark.parametrize("counts", [(60, 3), (1, 1), (7, 7)])
@pytest.mark.parametrize("name", LOSSES)
def test_two_classes_and_classes_of_one_size(name: str, counts: tuple[int, int]) -> None:
    logits, labels = drawn(name, 2, 20)
    losses = make_loss(name, torch.tensor(counts), 0.9)(logits, labels)
    expected = by_definition(name, logits, labels, np.array(counts), 0.9, {})
    torch.testing.assert_close(losses.double(), expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("counts", [(40, 0, 9, 0), (0, 0, 5, 0), (0, 0, 0, 0)])
@pytest.mark.parametrize("name", LOSSES)
def test_a_class_without_images_counts_as_the_smallest_one_that_has_some(name: str, counts: tuple[int, ...]) -> None:
    logits, labels = drawn(name, 4, 24)
    logits.requires_grad_()
    losses = make_loss(name, torch.tensor(counts), 0.9)(logits, labels)
    smallest = min((size for size in counts if size), default=1)
    filled = np.array([size or smallest for size in counts])
    expected = by_definition(name, logits.detach(), labels, filled, 0.9, {})
    torch.testing.assert_close(losses.detach().double(), expected, rtol=2e-5, atol=2e-6)
    losses.sum().backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


@pytest.mark.parametrize(("name", "options"), CASES)
def test_gradients(name: str, options: dict[str, float]) -> None:
    loss = make_loss(name, torch.tensor(COUNTS), 0.9, options)
    logits, labels = drawn(name, len(COUNTS), 2, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: loss(z, labels), logits.requires_grad_())


@pytest.mark.parametrize(("name", "options"), CASES)
def test_samples_far_right_and_far_wrong_are_finite(name: str, options: dict[str, float]) -> None:
    """p is 1 or 0 in float32: where a power or a logarithm has no gradient."""
    far = 1.0 if classifier_of(name) == "cosine" else 200.0
    logits = torch.tensor([[far, -far, -far, -far, -far]] * 2, requires_grad=True)
    losses = make_loss(name, torch.tensor(COUNTS), 0.9, options)(logits, torch.tensor([0, 4]))
    losses.sum().backward()
    assert losses.isfinite().all() and logits.grad is not None and logits.grad.isfinite().all()
    assert losses[1] > losses[0] >= 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LOSSES)
def test_logits_of_half_precision_are_worked_on_in_float32(name: str, dtype: torch.dtype) -> None:
    loss = make_loss(name, torch.tensor(COUNTS), 0.9)
    logits, labels = drawn(name, len(COUNTS), 12)
    half = logits.to(dtype)
    assert torch.equal(loss(half, labels), loss(half.float(), labels))


@pytest.mark.parametrize("name", ["class_balanced", "ldam_drw"])
def test_the_weighted_mean_is_that_of_torch(name: str) -> None:
    counts = torch.tensor(COUNTS)
    logits, labels = drawn(name, 5, 3, 30)
    labels = labels.roll(1, 0) % 4  # other weights in every batch
    found = make_loss(name, counts, 0.9, {"weighted_mean": 1.0})(logits, labels)
    for batch, (z, y) in enumerate(zip(logits, labels, strict=True)):
        each = make_loss(name, counts, 0.9, {"beta": 0.0})(z, y)
        weights = torch.tensor([weight(int(label), np.array(COUNTS), 0.9999) for label in y])
        torch.testing.assert_close(found[batch].mean(), ((weights * each).sum() / weights.sum()).float())
    early = make_loss("ldam_drw", counts, 0.0, {"weighted_mean": 1.0})(logits.tanh(), labels)
    torch.testing.assert_close(early, make_loss("ldam_drw", counts, 0.0)(logits.tanh(), labels))


def test_cross_entropy_and_its_smoothing_are_torchs() -> None:
    logits, labels = drawn("cross_entropy", 5, 30)
    ours = make_loss("cross_entropy", torch.tensor(COUNTS), options={"smoothing": 0.2})(logits, labels)
    assert torch.equal(ours, functional.cross_entropy(logits, labels, reduction="none", label_smoothing=0.2))


def test_balanced_softmax_is_the_logit_adjusted_loss_at_1() -> None:
    logits, labels = drawn("balanced_softmax", 5, 30)
    balanced, adjusted = (make_loss(name, torch.tensor(COUNTS)) for name in ("balanced_softmax", "logit_adjusted"))
    assert torch.equal(balanced(logits, labels), adjusted(logits, labels))


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("softmax", {}, "loss=softmax is unknown: allowed are cross_entropy, focal, class_balanced, ldam, "),
        ("focal", {"beta": 0.9}, "loss_options.beta=0.9 is unknown to loss=focal: allowed are gamma, sigmoid"),
        ("focal", {"sigmoid": 0.5}, "loss_options.sigmoid=0.5: it must be 0 or 1"),
        ("ldam_drw", {"weighted_mean": 2.0}, "loss_options.weighted_mean=2.0: it must be 0 or 1"),
        ("balanced_softmax", {"tau": 1.0}, "unknown to loss=balanced_softmax: allowed are none"),
        ("focal", {"counts": 1.0}, "loss_options.counts=1.0 is unknown"),
        ("focal", {"gamma": -0.5}, "loss_options.gamma=-0.5: it must be 0 or more"),
        ("focal", {"gamma": math.nan}, "loss_options.gamma=nan: it must be 0 or more"),
        ("class_balanced", {"beta": 1.0}, "loss_options.beta=1.0: it must be in"),
        ("class_balanced", {"gamma": math.inf}, "loss_options.gamma=inf: it must be 0 or more"),
        ("cross_entropy", {"smoothing": 1.0}, "loss_options.smoothing=1.0: it must be in"),
        ("ldam_drw", {"scale": 0.0}, "loss_options.scale=0.0: it must be greater than 0"),
        ("ldam_drw", {"max_margin": -1.0}, "loss_options.max_margin=-1.0: it must be 0 or more"),
        ("ldam_drw", {"drw_from": 1.5}, "loss_options.drw_from=1.5: it must be in"),
        ("ldam_drw", {"beta": -0.1}, "loss_options.beta=-0.1: it must be in"),
        ("logit_adjusted", {"tau": -1.0}, "loss_options.tau=-1.0: it must be 0 or more"),
        ("label_aware_smoothing", {"smoothing_head": 1.0}, "loss_options.smoothing_head=1.0: it must be in"),
        ("label_aware_smoothing", {"smoothing_tail": 0.4}, "smoothing_tail=0.4: it must be from 0 to smoothing_head=0"),
    ],
)
def test_what_is_not_allowed_is_refused(name: str, options: dict[str, float], told: str) -> None:
    with pytest.raises(UserError) as error:
        make_loss(name, torch.tensor(COUNTS), 0.0, options)
    assert told in str(error.value) and "\n" not in str(error.value)


def gaussians(counts: np.ndarray, seed: int) -> tuple[Tensor, Tensor]:
    """Features [N, 6] of overlapping classes around equally distant means."""
    labels = np.repeat(np.arange(len(counts)), counts)
    x = np.random.default_rng(seed).standard_normal((len(labels), 6)) + 1.6 * np.eye(len(counts), 6)[labels]
    return torch.from_numpy(x).float(), torch.from_numpy(labels)


def trained_linear(name: str, x: Tensor, labels: Tensor, counts: np.ndarray) -> tuple[Callable, list[float]]:
    """(features -> scores, the loss before each step) of a linear or cosine classifier trained by full batches."""
    w = torch.randn(len(counts), x.shape[1], generator=torch.Generator().manual_seed(0)).requires_grad_()
    b = torch.zeros(len(counts), requires_grad=True)

    def scores(features: Tensor) -> Tensor:
        if classifier_of(name) == "cosine":
            return functional.normalize(features, dim=1) @ functional.normalize(w, dim=1).T
        return features @ w.T + b

    optimizer = torch.optim.Adam([w, b], 0.05)
    values = []
    for step in range(200):
        loss = make_loss(name, torch.from_numpy(counts), step / 200)(scores(x), labels).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    return scores, values


def test_all_learn_and_those_that_rebalance_raise_the_rarest_classes() -> None:
    counts = np.array([400, 150, 60, 15, 6, 6])
    x, labels = gaussians(counts, 0)
    test_x, test_labels = gaussians(np.full(6, 300), 1)
    rarest = {}
    for name in LOSSES:
        scores, losses = trained_linear(name, x, labels, counts)
        early = losses[:150]  # before LDAM's weights set in, which make it another loss
        assert early[-1] < 0.6 * early[0], name
        with torch.no_grad():
            right = scores(test_x).argmax(1) == test_labels
        rarest[name] = 100 * right[test_labels >= 4].float().mean().item()
    for name in ("class_balanced", "ldam_drw", "balanced_softmax", "logit_adjusted"):
        assert rarest[name] > rarest["cross_entropy"] + 15, rarest


@pytest.mark.gpu
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_replays_in_a_cuda_graph(name: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    loss = make_loss(name, torch.tensor(COUNTS, device="cuda"), 0.9)
    logits, labels = (part.cuda() for part in drawn(name, len(COUNTS), 4, 30))
    logits.requires_grad_()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.autograd.grad(loss(logits, labels).sum(), logits)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        losses = loss(logits, labels)
        (gradient,) = torch.autograd.grad(losses.sum(), logits)
    with torch.no_grad():
        logits.copy_(logits.flip(0))
    graph.replay()
    again = logits.detach().clone().requires_grad_()
    expected = loss(again, labels)
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), again)[0])
