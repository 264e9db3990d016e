"""Features of all images under a representation, which are extracted once and stored for stage 2."""

from fastlt.stage2.features.shares import Shares
from fastlt.stage2.features.store import DTYPES, FeatureStore

__all__ = ["DTYPES", "FeatureStore", "Shares"]
