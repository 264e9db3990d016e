"""Schemas of the configuration: every key, its type and what it means. Values stand in conf/."""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from fastlt.training.recipe import RecipeConfig


@dataclass
class SamplerConfig:
    name: str = MISSING  # instance, class, sqrt, progressive, or root_N: classes by the N-th root of their size
    drawing: str = "quota"  # quota, iid, dataloader or reference
    options: dict[str, Any] = field(default_factory=dict)  # keywords of an own one, package.module:NAME


@dataclass
class BackboneConfig:
    name: str = MISSING
    options: dict[str, Any] = field(default_factory=dict)  # keywords of an own one, package.module:NAME


@dataclass
class TrainingConfig:
    """Training of a stage-2 classifier; what has a default here means the same as in ProtocolConfig."""

    epochs: int = MISSING
    batch: int = MISSING
    lr: float = MISSING
    weight_decay: float = MISSING
    warmup_epochs: int = 0
    warmup_from: float = 0.0
    milestones: list[int] = field(default_factory=list)
    factor: float = 0.1
    nesterov: bool = False


@dataclass
class ProtocolConfig(RecipeConfig):
    """How a data set is trained on: the settings of a paper under one name."""

    name: str = MISSING
    backbone: str = MISSING  # where none is asked for
    epochs: int = MISSING
    batch: int = MISSING
    lr: float = MISSING
    momentum: float = MISSING
    weight_decay: float = MISSING
    warmup_epochs: int = MISSING
    warmup_from: float = 0.0  # share of lr that the warm-up rises from
    image_size: int = MISSING  # pixels
    crop: str = MISSING  # of training images: resized or pad
    scale: list[float] = MISSING  # share of the area, crop=resized
    pad: int = MISSING  # pixels, crop=pad
    jitter: float = MISSING  # strength of colour jitter, 0 for none
    image_hook: str = ""  # what is done to each training image after all this, package.module:NAME of your own
    image_hook_options: dict[str, Any] = field(default_factory=dict)
    keep: float = MISSING  # share of the short side that evaluation sees
    stepped: str = "batch"  # the learning rate moves with every batch, or once an epoch
    last_lr: float = 0.0  # that the cosine ends at
    milestones: list[int] = field(default_factory=list)  # epochs after which lr is multiplied by factor; none: a cosine
    factor: float = 0.1  # of milestones
    nesterov: bool = False  # momentum in Nesterov's form
    head_lr: float | None = None  # of the joint classifier; default: lr
    head_start: str = "uniform"  # of the joint classifier's weights: PyTorch's uniform, or kaiming_normal
    mean: list[float] | None = None  # of RGB in 0..1, that images are normalized by; default: the dataset's
    std: list[float] | None = None
    lr_batch: int = 0  # batch that lr is meant for: another one scales it linearly; 0: lr is taken as it is
    smoothing_head: float = 0.3  # of the largest class, for crt_las and loss=label_aware_smoothing
    smoothing_tail: float = 0.0  # and of the smallest
    pretrained: str | None = None  # weights the backbone starts with: torchvision, or a file
    train_from: str | None = None  # layer of the backbone, such as layer4: those before it keep their weights
    crt: TrainingConfig = field(default_factory=TrainingConfig)
    lws: TrainingConfig = field(default_factory=TrainingConfig)


@dataclass
class Stage2Config:
    """How classifiers are trained on a representation."""

    lr: list[float] | None = None  # top learning rates to choose from; default: the protocol's
    weight_decay: list[float] | None = None  # weight decays to choose from; default: the protocol's
    seeds: int = 1  # trainings of each classifier, with starts and orders of their own
    drawing: str = "quota"  # of class-balanced batches: quota, iid, dataloader or reference
    stepped: str = "batch"  # the learning rate moves with every batch, or once an epoch (a cosine's last is at rate 0)
    keep: str = "last"  # epoch of each training: last, or best on the split that choices are made on
    tau: float | None = None  # of tau_norm; default: chosen
    tau_bias: bool = False  # with a given tau the joint classifier's bias stays, as BagofTricks-LT has it
    scale_bias: bool = True  # lws scales W x + b, as the authors' code does, or W x alone
    hidden: int = 512  # units of an MLP's hidden layers
    options: dict[str, Any] = field(default_factory=dict)  # keywords of own classifiers, by the NAME behind the colon


@dataclass
class TrainConfig:
    data: str = MISSING  # a converted dataset
    run: str | None = None  # folder of this run; default: runs/ and a name from what determines it
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    seed: int = 0
    epochs: int | None = None  # default: the protocol's
    image_size: int | None = None  # default: the protocol's
    representation: str | None = None  # checkpoint or run folder that takes the place of stage 1
    classifiers: list[str] = field(default_factory=lambda: ["paper"])  # names, or the sets `paper` and `all`
    stage2: Stage2Config = field(default_factory=Stage2Config)
    mode: str = "features"  # crt and lws are trained on cached features, or on images through the pipeline
    bn: str = "frozen"  # BatchNorm of a backbone that is not trained, while it sees images in stage 2: frozen or train
    views: int = 0  # augmented passes over the training images whose features are stored, too, to train on
    feature_dtype: str = "float32"  # of the feature store: float32 or float16
    hold_out: float = 0.0  # share of train kept from training, to choose hyper-parameters on
    choose_on: str = "auto"  # held_out, val, none, train or test; auto: the first of these that there is
    device: str = "auto"  # cpu, cuda, cuda:N
    threads: int = 0  # 0: one per core
    max_damaged: int = 10  # training images damaged after the conversion that others of their class may stand in for
    precision: str = "auto"  # fp32 or bf16; auto: bf16 on a GPU, and on a CPU where it is 1.2 times as fast
    accumulate: int = 1  # parts that a batch is worked through in, where it does not fit into memory
    compile: str = "off"  # mode of torch.compile: default, reduce-overhead (CUDA graphs) or max-autotune
    save_epochs: int = 1  # a checkpoint after so many epochs
    save_minutes: float = 10.0  # and within an epoch after so many minutes; 0: never
    tensorboard: bool = False  # metrics for TensorBoard too, beside metrics.jsonl; needs the package tensorboard
    overwrite: bool = False  # train anew even where the run folder holds another representation


@dataclass
class DatasetConfig:
    """A kind of source and the constants of the data set."""

    name: str = MISSING
    kind: str = MISSING  # shapes, cifar, image_list, image_folder or csv
    protocol: str = MISSING  # for training on it by default
    mean: list[float] = MISSING  # of RGB, in 0..1
    std: list[float] = MISSING
    classes: int | None = None  # of cifar: 10 or 100
    encode: str = "keep"


@dataclass
class ConvertConfig:
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    out: str = MISSING
    source: str | None = None  # archive or folder of cifar
    root: str | None = None  # folder of images
    train: str | None = None  # lists of image_list: text, or iNaturalist's annotations if they end in .json or .json.gz
    val: str | None = None  # lists of image_list, tables of csv
    test: str | None = None
    table: str | None = None  # of csv, with the columns path, label and perhaps split
    class_names: str | None = None  # file of image_list, a name a line
    long_tail: str | None = None  # exponential or pareto thins the train split of image_list, image_folder and csv
    imbalance: float | None = None  # largest over smallest class, of long_tail, cifar and shapes; default: 100
    minimum: int = 1  # images that long_tail leaves every class at least
    alpha: float = 6.0  # exponent of long_tail=pareto: 6 made ImageNet-LT, 1.34 Places-LT
    head: str | None = None  # large classes of long_tail: first or random; default: random for pareto, else first
    classes: int | None = None  # of shapes: the most frequent so many of its 36; default: all
    seed: int = 0  # of what is drawn: shapes, the choice of images in a long tail
    selection: str = "ours"  # of the images of cifar that stay: ours, or ldam, those of LDAM-DRW's code (with seed=0)
    encode: str | None = None  # keep, jpeg, png, raw or auto; default: the dataset's
    raw_fraction: float = 0.2  # of encode=auto: share of the training images stored raw, those drawn most often
    quality: int = 90  # of encode=jpeg
    max_short_side: int = 0  # pixels; 0: as found
    orientation: str = "ignore"  # or apply the EXIF tag
    shard_mb: int = 256
    max_bad: float = 0  # images that may be left out because they do not decode; below 1: as a share of all
    workers: int = 0  # 0: one per core
    overwrite: bool = False


@dataclass
class BenchConfig:
    images: str | None = None  # folder of photographs, for convert, loader and train; or, but for convert, a dataset
    copies: int = 10  # how often they are listed: a short run measures the start
    peers: bool = False  # other libraries too, on the same files in the same run; needs `make bench-peers`
    files: int = 500  # of loader: at most so many of the images are taken, spread evenly
    cases: list[str] = field(default_factory=list)  # of loader, kernels and stage2, to run only these
    samples: int = 10_000_000  # of the simulated index
    batch: int = 64  # images, of loader and train
    backbone: BackboneConfig = field(default_factory=BackboneConfig)  # of train
    image_size: int = 224  # pixels, of train
    compile: str = "off"  # of train: mode of torch.compile
    size: str = "standard"  # of kernels and stage2: tiny, standard, imagenet_lt or inaturalist2018
    device: str = "cpu"  # of kernels, stage2 and train: also cuda
    threads: int = 2
    rounds: int = 3  # that count, after one that does not
    scratch: str | None = None  # folder for what is written; default: the system's
    rows: str | None = None  # JSONL file that rows are added to
    plot: str | None = None  # picture that is drawn from the rows file


@dataclass
class SlurmConfig:
    """What each cell of a grid asks SLURM for."""

    partition: str | None = None  # default: the cluster's
    time: str = "24:00:00"  # limit of a cell: minutes, or [days-]hours:minutes:seconds
    gpus: int = 1  # 0: on CPUs
    cpus: int = 8
    memory: float | None = None  # GB; default: the cluster's
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    at_once: int = 256  # cells of the array that may run side by side
    requeue: int = 10  # how often a cell may reach its time limit and be queued again
    signal_seconds: int = 120  # before the time limit: a cell then saves itself
    setup: list[str] = field(default_factory=list)  # shell lines before a cell, such as module load
    extra: dict[str, Any] = field(default_factory=dict)  # further flags of sbatch


@dataclass
class CellsConfig:
    """A grid: parts, each a list of arguments of fastlt.train, of which `key=A,B` stands for one cell with A and one
    with B; every combination is a cell."""

    name: str = MISSING
    parts: list[list[str]] = MISSING


@dataclass
class GridConfig:
    grid: CellsConfig = field(default_factory=CellsConfig)
    out: str | None = None  # folder of all runs and the report; default: runs/ and the grid's name
    launcher: str = "local"  # this node, or slurm
    at_once: int = 0  # cells side by side on this node, sharing its GPUs; 0: one on each, or on each core
    dry_run: bool = False  # only list the cells, with an estimate of time and disk
    slurm: SlurmConfig = field(default_factory=SlurmConfig)


def register() -> None:
    """Makes the schemas known to Hydra under the names that conf/ refers to."""
    store: Any = ConfigStore.instance()
    train: Any = OmegaConf.structured(TrainConfig)
    named = [
        train.protocol[name]
        for name in ("loss_options", "optimizer_options", "batch_hook_options", "image_hook_options")
    ]
    for options in (*named, train.sampler.options, train.backbone.options, train.stage2.options):
        OmegaConf.set_struct(options, False)  # the part says which keys there are
    grid: Any = OmegaConf.structured(GridConfig)
    OmegaConf.set_struct(grid.slurm.extra, False)
    store.store("train_schema", train)
    store.store("convert_schema", ConvertConfig)
    store.store("bench_schema", BenchConfig)
    store.store("grid_schema", grid)
    store.store("dataset_schema", DatasetConfig, group="dataset")
    store.store("sampler_schema", SamplerConfig, group="sampler")
    store.store("backbone_schema", BackboneConfig, group="backbone")
    store.store("protocol_schema", ProtocolConfig, group="protocol")


register()
