"""The settings of label-aware smoothing."""

from dataclasses import dataclass, field

from fastlt.core.config import STAGE_2
from fastlt.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class SmoothingConfig:
    """Label smoothing for the classifier crt_las and for loss=label_aware_smoothing, unless its options say otherwise.

    smoothing_head: label smoothing of the largest class, a share in [0, 1).
    smoothing_tail: label smoothing of the smallest class, from 0 to smoothing_head.
    """

    smoothing_head: float = field(default=0.3, metadata=STAGE_2)
    smoothing_tail: float = field(default=0.0, metadata=STAGE_2)

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing_tail <= self.smoothing_head < 1:
            raise UserError(
                f"smoothing_head={self.smoothing_head}, smoothing_tail={self.smoothing_tail}: the second must be from "
                "0 to the first, and the first below 1"
            )
