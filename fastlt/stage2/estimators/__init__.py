"""The classifiers of stage 2 as estimators with scikit-learn's interface, for features of any network."""

from fastlt.stage2.conformal import PredictionSets
from fastlt.stage2.estimators.base import LongTailClassifier
from fastlt.stage2.estimators.table import (
    CRT,
    LOS,
    LWS,
    MLP,
    NCM,
    BalancedSoftmax,
    Cosine,
    CosineMeans,
    Joint,
    LogitAdjust,
    LogitAdjustedLoss,
    LogitAdjustMult,
    MaxNorm,
    SmoothedCRT,
    TauLearned,
    TauNorm,
)

__all__ = [
    "CRT",
    "LOS",
    "LWS",
    "MLP",
    "NCM",
    "BalancedSoftmax",
    "Cosine",
    "CosineMeans",
    "Joint",
    "LogitAdjust",
    "LogitAdjustMult",
    "LogitAdjustedLoss",
    "LongTailClassifier",
    "MaxNorm",
    "PredictionSets",
    "SmoothedCRT",
    "TauLearned",
    "TauNorm",
]
