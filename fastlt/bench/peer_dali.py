"""DALI with its own operators, as in NVIDIA's examples: random crop in the decoder; on a CPU or a GPU."""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# (DALI creates most of its names at import, so type checkers do not know them)

from collections.abc import Callable, Iterator
from typing import Any

import torch
from nvidia.dali import fn, pipeline_def, types
from peer_protocol import serve

PREFETCH = 2


@pipeline_def
def _graph(paths: list[str], size: int, mean: list[float], std: list[float], gpu: bool) -> Any:
    data, _ = fn.readers.file(files=paths, random_shuffle=True)
    image = fn.decoders.image_random_crop(
        data,
        device="mixed" if gpu else "cpu",
        output_type=types.RGB,
        random_aspect_ratio=[3 / 4, 4 / 3],
        random_area=[0.08, 1.0],
    )
    image = fn.resize(image, size=[size, size], interp_type=types.INTERP_LINEAR, antialias=True)
    return fn.crop_mirror_normalize(
        image,
        dtype=types.FLOAT16 if gpu else types.FLOAT,
        output_layout="HWC" if gpu else "CHW",
        mean=[value * 255 for value in mean],
        std=[value * 255 for value in std],
        mirror=fn.random.coin_flip(),
    )


def build(request: dict[str, Any]) -> Callable[[], Iterator[torch.Tensor]]:
    """Builds the loader. Batches are prefetched as in DALI's own loop, but not beyond the end of an epoch, because that
    work would be done while another case is measured."""
    gpu = request["device"] == "cuda"
    pipeline = _graph(
        request["paths"], request["size"], request["mean"], request["std"], gpu,
        batch_size=request["batch"], num_threads=request["threads"], device_id=0 if gpu else None,
        prefetch_queue_depth=PREFETCH,
    )  # fmt: skip
    pipeline.schedule_run()  # the first call fills the whole queue, later calls add one batch: done before measuring
    while not pipeline.empty():
        pipeline.outputs()
    batches = len(request["paths"]) // request["batch"]

    def epoch() -> Iterator[torch.Tensor]:
        for _ in range(min(PREFETCH, batches)):
            pipeline.schedule_run()
        for number in range(batches):
            batch = torch.from_dlpack(pipeline.outputs()[0].as_tensor())
            if number + PREFETCH < batches:
                pipeline.schedule_run()
            yield batch.permute(0, 3, 1, 2) if gpu else batch

    return epoch


if __name__ == "__main__":
    serve(build)
