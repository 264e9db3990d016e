"""Settings of how the steps of a training are computed: precision, accumulation, compilation."""

from dataclasses import dataclass, field

from fastlt.core.config import RUN
from fastlt.core.errors import UserError

COMPILE = ("off", "default", "reduce-overhead", "max-autotune")
REPLAYED = ("reduce-overhead", "max-autotune")  # modes that use CUDA graphs
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """How the steps of a training are computed.

    precision: fp32, bf16 (autocast), or auto, which fastlt.experiment.precision replaces by one of these two.
    accumulate: number of parts that a batch is split into if it does not fit into memory. Gradients are accumulated
        over the parts; each part has its own BatchNorm statistics.
    compile: mode of torch.compile (default, max-autotune, or reduce-overhead, which replays CUDA graphs), or off.
    """

    precision: str = "fp32"
    accumulate: int = 1
    compile: str = field(default="off", metadata=RUN)

    def __post_init__(self) -> None:
        if self.precision not in ("auto", *PRECISIONS):
            raise UserError(f"precision={self.precision} is unknown: allowed are auto, {', '.join(PRECISIONS)}")
        if self.accumulate < 1:
            raise UserError(f"accumulate={self.accumulate}: it must be at least 1")
        if self.compile not in COMPILE:
            raise UserError(f"compile={self.compile} is unknown: allowed are {', '.join(COMPILE)}")
        if self.accumulate > 1 and self.compile in REPLAYED:
            raise UserError(
                f"compile={self.compile} replays CUDA graphs, which overwrite the gradients that accumulate="
                f"{self.accumulate} adds up: take compile=default"
            )
