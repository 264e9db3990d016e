"""One estimator for every classifier of stage 2; docs/reference/classifiers.md has their equations.

Example: features of two classes with 120 and 10 images.

>>> import numpy as np
>>> from fastlt.classifiers import CRT
>>> y = np.repeat(["cat", "lynx"], [120, 10])
>>> x = np.random.default_rng(0).normal(np.where(y == "cat", 3, -3)[:, None], size=(130, 8))
>>> crt = CRT().fit(x, y)
>>> crt.predict(np.full((1, 8), -3.0)).tolist()
['lynx']
>>> crt.report(x, y)["few"]
100.0
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fastlt.core.errors import UserError
from fastlt.stage2.classifiers import CLASSIFIERS
from fastlt.stage2.classifiers.base import Classifier, Stage2
from fastlt.stage2.estimators.base import LongTailClassifier
from fastlt.stage2.estimators.trained import OnJointClassifier, TrainedClassifier, number_of

NCM_NAMES = {  # (features, distance) -> name in the table of stage 2
    ("cl2n", "l2"): "ncm_l2",
    ("cl2n", "cosine"): "ncm_cosine",
    ("cl2n", "authors_cos"): "ncm_authors_cos",
    **{(kind, distance): f"ncm_{kind}_{distance}" for kind in ("un", "l2n") for distance in ("l2", "cosine")},
}


@dataclass(eq=False, kw_only=True)
class NCM(LongTailClassifier):
    """Nearest class mean: predicts the class whose mean training feature is nearest. Nothing is trained.

    features: `un` takes features as they are; `l2n` divides them by their L2 norm; `cl2n` first subtracts the mean of
        all training features, then divides by the norm.
    distance: `l2`, `cosine`, or (for cl2n) `authors_cos`, which is what the paper's code calls cosine.
    """

    features: str = "cl2n"
    distance: str = "l2"

    def _classifier(self) -> Classifier:
        name = NCM_NAMES.get((self.features, self.distance))
        if name is None:
            allowed = ", ".join(f"{kind} with {distance}" for kind, distance in NCM_NAMES)
            raise UserError(f"features={self.features}, distance={self.distance} is unknown: allowed are {allowed}")
        return CLASSIFIERS[name]


@dataclass(eq=False, kw_only=True)
class Joint(OnJointClassifier):
    """A linear classifier trained on instance-balanced batches with cross-entropy: the baseline of all others."""

    def _classifier(self) -> Classifier:
        return CLASSIFIERS["joint"]


@dataclass(eq=False, kw_only=True)
class CRT(TrainedClassifier):
    """Classifier re-training (cRT): a linear classifier trained on class-balanced batches."""

    def _classifier(self) -> Classifier:
        return CLASSIFIERS["crt"]


@dataclass(eq=False, kw_only=True)
class SmoothedCRT(TrainedClassifier):
    """cRT with label-aware smoothing (`crt_las`).

    smoothing_head: label smoothing of the largest class, a share in [0, 1).
    smoothing_tail: label smoothing of the smallest class, from 0 to smoothing_head.
    """

    smoothing_head: float = 0.3
    smoothing_tail: float = 0.0

    def _classifier(self) -> Classifier:
        return CLASSIFIERS["crt_las"]

    def _stage2(self, rows: int) -> Stage2:
        names = ("smoothing_head", "smoothing_tail")
        return super()._stage2(rows, **{name: number_of(name, getattr(self, name)) for name in names})


@dataclass(eq=False, kw_only=True)
class LWS(OnJointClassifier):
    """Learnable weight scaling: the joint classifier with one factor per class, trained on class-balanced batches.

    scale_bias: scale w x + b, as the paper's code does; False scales only w x, as its text says.
    """

    scale_bias: bool = True

    def _classifier(self) -> Classifier:
        return CLASSIFIERS["lws"]

    def _stage2(self, rows: int) -> Stage2:
        return super()._stage2(rows, scale_bias=self.scale_bias)


@dataclass(eq=False, kw_only=True)
class TauNorm(OnJointClassifier):
    """tau-normalization: the weights of the joint classifier divided by the tau-th power of their norm, without bias.

    tau: None chooses the best of all values exactly. tau_bias: keep the bias; needs a given tau.
    """

    tau: float | None = None
    tau_bias: bool = False

    def _classifier(self) -> Classifier:
        return CLASSIFIERS["tau_norm"]

    def _stage2(self, rows: int) -> Stage2:
        tau = None if self.tau is None else number_of("tau", self.tau)
        return super()._stage2(rows, tau=tau, tau_bias=self.tau_bias)


@dataclass(eq=False, kw_only=True)
class TauLearned(OnJointClassifier):
    """tau-normalization with tau learned by SGD on class-balanced batches."""

    def _classifier(self) -> Classifier:
        return CLASSIFIERS["tau_learned"]


@dataclass(eq=False, kw_only=True)
class LogitAdjust(OnJointClassifier):
    """Logit adjustment after training: subtracts tau log p_c from the joint classifier's scores, tau chosen exactly.

    p_c is the share of class c among the training images.
    """

    def _classifier(self) -> Classifier:
        return CLASSIFIERS["logit_adjust"]


@dataclass(eq=False, kw_only=True)
class LogitAdjustedLoss(TrainedClassifier):
    """A linear classifier trained with tau log p_c added to its scores, on instance-balanced batches.

    p_c is the share of class c among the training images. tau is chosen from 0.5, 1, 1.5 and 2.
    """

    def _classifier(self) -> Classifier:
        return CLASSIFIERS["logit_adjusted_loss"]


@dataclass(eq=False, kw_only=True)
class BalancedSoftmax(TrainedClassifier):
    """A linear classifier trained with log n_c added to its scores, on instance-balanced batches.

    n_c is the number of training images of class c. It is LogitAdjustedLoss with tau = 1.
    """

    def _classifier(self) -> Classifier:
        return CLASSIFIERS["balanced_softmax"]


@dataclass(eq=False, kw_only=True)
class Cosine(TrainedClassifier):
    """A cosine classifier with a learned scale, trained on class-balanced batches."""

    def _classifier(self) -> Classifier:
        return CLASSIFIERS["cosine"]


@dataclass(eq=False, kw_only=True)
class MLP(TrainedClassifier):
    """A multi-layer perceptron, trained on class-balanced batches with a tenth of the learning rate `lr`.

    layers: hidden layers, 1 to 3. hidden: ReLU units of each.
    """

    layers: int = 1
    hidden: int = 512

    def _classifier(self) -> Classifier:
        if self.layers not in (1, 2, 3):
            raise UserError(f"layers={self.layers}: allowed are 1, 2, 3")
        return CLASSIFIERS[f"mlp_{int(self.layers)}"]

    def _stage2(self, rows: int) -> Stage2:
        return super()._stage2(rows, hidden=number_of("hidden", self.hidden, whole=True))


@dataclass(eq=False, kw_only=True)
class LogitAdjustMult(OnJointClassifier):
    """Multiplicative logit adjustment: the joint classifier's scores over p_c^tau, no bias, tau chosen exactly."""

    def _classifier(self) -> Classifier:
        return CLASSIFIERS["logit_adjust_mult"]


@dataclass(eq=False, kw_only=True)
class MaxNorm(OnJointClassifier):
    """Weight balancing: the joint classifier trained on with the class-balanced loss, its weights cut back to a longest
    length; length and weight decay are chosen.

    weight_decay: None chooses from 5e-4, 5e-3 and 5e-2, with choose_on="none" it is 5e-4. Or one value, or several.
    """

    weight_decay: float | Sequence[float] | None = None

    def _classifier(self) -> Classifier:
        return CLASSIFIERS["max_norm"]


@dataclass(eq=False, kw_only=True)
class LOS(OnJointClassifier):
    """Label over-smoothing: the joint classifier trained on with labels that are nearly even."""

    def _classifier(self) -> Classifier:
        return CLASSIFIERS["los"]


@dataclass(eq=False, kw_only=True)
class CosineMeans(TrainedClassifier):
    """A classifier of cosines that begins with the class means and learns with the logit-adjusted loss."""

    def _classifier(self) -> Classifier:
        return CLASSIFIERS["cosine_means"]
