"""The configuration of benchmarks: every key with its type and meaning."""

from dataclasses import dataclass

from fastlt.models.backbones import BackboneConfig


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """The keys of `python -m fastlt.bench`. A comment that begins with names says which benchmarks use the key."""

    images: str | None = None  # convert, loader, train: folder of photographs; for loader and train also a dataset
    copies: int = 10  # how often each image is listed; a short run would measure little but the start
    peers: bool = False  # measure other libraries on the same files in the same run; needs `make bench-peers`
    files: int = 500  # loader, train: largest number of images to use, spread evenly over all
    cases: tuple[str, ...] = ()  # loader, kernels, stage2, train: run only these cases
    samples: int = 10_000_000  # index, loader: samples of the simulated index
    batch: int = 64  # loader, train: images per batch
    backbone: BackboneConfig  # train: the network
    image_size: int = 224  # train: side of the images in pixels
    compile: str = "off"  # train: mode of torch.compile
    size: str = "standard"  # kernels, stage2: tiny, standard, imagenet_lt, inaturalist2018 or inaturalist2018_768
    share: float = 1.0  # stage2: share of the training rows; the number of training steps shrinks with it
    device: str = "cpu"  # kernels, loader, stage2, train: cpu or cuda
    threads: int = 2  # CPU threads; loader: also the worker processes of the other libraries
    rounds: int = 3  # measured rounds, which follow a warm-up round
    scratch: str | None = None  # folder for temporary files; default: the system's
    rows: str | None = None  # JSONL file to which the rows are appended
    plot: str | None = None  # image file into which the rows are drawn
