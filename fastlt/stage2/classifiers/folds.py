"""Cross-validation of classifiers on the training images, for datasets without other images to choose on.

The backbone was trained on all of these images, but a classifier is measured only on the fold that it was not trained
on. Those that start from the joint classifier of stage 1 (lws, max_norm, los) start from one that has seen all folds.
docs/findings/cifar100-lt.md compares this with other ways to choose.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastlt.core.errors import UserError
from fastlt.longtail.losses import LOSSES, classifier_of, make_loss
from fastlt.longtail.sampler import LAWS, Sampler
from fastlt.longtail.whole_groups import divide_groups
from fastlt.stage2.classifiers.base import FOLDS, Features, Task
from fastlt.stage2.classifiers.heads import Linear
from fastlt.stage2.classifiers.sgd import Draws, train

# From (features, weight [C, D], bias [C]) to the ends (lo, hi), [N] each, of the interval of tau in which each sample
# is classified right.
Intervals = Callable[[Features, Tensor, Tensor], tuple[Tensor, Tensor]]

ONE_GROUP = "all training images are of one group, which no fold can leave out: use a val split, or choose_on=none"
_LAST = 1 - 1e-9  # share of the epochs of stage 1 that are done in its last steps


def folds_of(labels: np.ndarray, seed: int, groups: np.ndarray | None = None) -> np.ndarray:
    """Returns the fold of every image, int64 [N] in 0..4.

    The images of each class are shuffled and dealt out to the folds in turn. labels: int64 [N].
    groups: int64 [N], as `Task.image_groups`. With them, images of one group are in one fold, and the folds have as
    equal shares of every class as groups allow.
    """
    if groups is not None:
        if not groups.any():
            raise UserError(ONE_GROUP)
        draws = np.random.default_rng([seed, len(labels)]).random(groups.max() + 1)
        return divide_groups(labels, groups, [1 / FOLDS] * FOLDS, draws, _dealt_out(labels, groups, draws))
    order = np.random.default_rng([seed, len(labels)]).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    found = np.empty(len(labels), np.int64)
    found[order] = np.arange(len(labels)) % FOLDS
    return found


def _dealt_out(labels: np.ndarray, groups: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Returns the folds of groups whose classes have no other group, int64 [G]; -1 for all others.

    They are dealt out in turn, the largest first, as the shares of their classes fit every fold equally badly.
    """
    cells = np.unique(np.stack([groups, labels]), axis=1)
    shared = cells[0, np.bincount(cells[1])[cells[1]] > 1]
    alone = np.setdiff1d(np.arange(len(draws)), shared)
    alone = alone[np.lexsort((draws[alone], -np.bincount(groups)[alone]))]
    found = np.full(len(draws), -1)
    found[alone] = np.arange(len(alone)) % FOLDS
    return found


@dataclass(frozen=True)
class FoldDraws(Draws):
    """Draws for one training per fold, which leaves the images of that fold out.

    folds: the fold of each image, int64 [N]. Rows after the first N are augmented passes over the same images, in the
    same order. `seeds` holds one seed for each fold. The rest as in Draws.
    """

    folds: np.ndarray

    def epochs(self, labels: Tensor, classes: int, epochs: int) -> Callable[[int], Tensor]:
        """Returns a function from the epoch to row numbers, int64 [folds, length], as `Draws.epochs` does."""
        known = labels.cpu().numpy()
        folds = np.resize(self.folds, len(known))
        samplers = []
        for fold, seed in enumerate(self.seeds):
            seen = np.flatnonzero(folds != fold)
            members = seen[np.argsort(known[seen], kind="stable")]
            start = np.concatenate([[0], np.cumsum(np.bincount(known[seen], minlength=classes))])
            samplers.append(Sampler(members, start, self.law, seed, epochs, self.drawing))

        parts = len(known) // len(self.folds)

        def rows(epoch: int) -> Tensor:
            whole, part = divmod(epoch, parts)
            here = slice(part * self.length, (part + 1) * self.length)
            return torch.from_numpy(np.stack([sampler.order(whole)[here] for sampler in samplers]))

        return rows

    def fold(self, features: Features, number: int) -> Features:
        """Returns the features of the images of a fold. features: of the N images."""
        ids = torch.from_numpy(np.flatnonzero(self.folds == number)).to(features.x.device)
        return Features(features.x[ids], features.labels[ids])


def fold_draws(task: Task, law: str, drawing: str = "quota") -> FoldDraws:
    """Returns the draws for a cross-validation on the training images of a task.

    law, drawing: as in Sampler. An epoch has a fifth fewer images than one of all training images.
    """
    folds = folds_of(task.train.labels.cpu().numpy(), task.seed, task.image_groups)
    seeds = [FOLDS * task.seed + fold for fold in range(FOLDS)]
    return FoldDraws(law, drawing, seeds, len(folds) - int(np.bincount(folds).max()), folds)


def intervals_on_folds(task: Task, intervals: Intervals) -> tuple[Tensor, Tensor, Tensor]:
    """Returns (lo, hi, labels), each [N]: for every training image the interval of tau in which it is classified right.

    The classifier is a joint classifier that was not trained on the image's fold.

    The five joint classifiers are trained on features with the law and the loss of the joint classifier of stage 1. If
    those are a user's own, or a loss on cosines, instance-balanced batches and cross-entropy are used instead. Classes
    are weighted as in the last epochs of stage 1 (`protocol.drw`). Epochs and learning rate are those of `stage2.crt`.
    """
    crt = task.stage2.crt
    law = task.law if task.law in LAWS or task.law.startswith("root_") else "instance"
    known = task.loss in LOSSES and classifier_of(task.loss) == "linear"
    name, options = (task.loss, task.loss_options) if known else ("cross_entropy", {})
    counts = task.train.labels.new_tensor(task.counts)
    loss = task.drw.of_loss(make_loss(name, counts, 0.0, options), counts, _LAST)
    draws = fold_draws(task, law)
    head = Linear(task.weight.shape[1], task.classes, draws.seeds, 1, task.weight.device)
    settings = [{"lr": task.stage2.rates(crt)[0], "weight_decay": task.stage2.decays(crt)[0]}]
    train(head, task.train, task.classes, draws, crt, settings, loss, task.stage2.stepped)
    parts = []
    for number in np.unique(draws.folds).tolist():  # with fewer than five images, some folds are empty
        features, fitted = draws.fold(task.train, number), head.tensors(number, 0)
        parts.append((*intervals(features, fitted["weight"], fitted["bias"]), features.labels))
    lo, hi, labels = (torch.cat(columns) for columns in zip(*parts, strict=True))
    return lo, hi, labels
