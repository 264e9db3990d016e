"""BagofTricks-LT's protocol for CIFAR-100-LT in plain PyTorch, without any code of fastlt, for comparison with it.

    python tools/plain_pytorch.py --data cifar-100-python.tar.gz --out DIR [--seed 0] [--precision bf16]

Trains the ResNet-32 (stage 1: joint), then computes tau-norm from its classifier and trains cRT and LWS on images.
Every setting is that of github.com/zhangyongshun/BagofTricks-LT at commit ce7859a (configs/cao_cifar), including these:
the learning rate of an epoch follows its number counted from 1, an epoch drops its last, incomplete batch, weight decay
applies to every parameter, tau is 1 and keeps the bias, and the frozen backbone of stage 2 still updates its BN
statistics. Their published numbers are those of the epoch that is best on the test set; here `joint` is the last epoch,
and `joint_best_epoch` is chosen as theirs. Writes metrics.jsonl and results.json (accuracies in percent). If it was
stopped, the same command continues. The archive is unpickled, which can run code: use the official file only.
"""

import argparse
import json
import pickle
import sys
import tarfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler
from torchvision import transforms as T

CLASSES = 100
NORMALIZE = [T.ToTensor(), T.Normalize((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))]  # CIFAR-10's, as there
TRAIN = T.Compose([T.ToPILImage(), T.RandomCrop(32, padding=4), T.RandomHorizontalFlip(), *NORMALIZE])


class Images(Dataset):
    """A dataset of pixels uint8 [N, 3, 32, 32] and labels int64 [N] that applies a torchvision transform."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray, transform: T.Compose) -> None:
        self.pixels, self.labels, self.transform = pixels, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.pixels[index].transpose(1, 2, 0)), int(self.labels[index])


class Block(nn.Module):
    """A residual block of two 3x3 convolutions. Where the shape changes, the shortcut subsamples and pads with zeros
    (option A of He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.stride, self.padding = stride, (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(out + shortcut)


class ResNet32(nn.Module):
    """The ResNet-32 for CIFAR: five blocks each of 16, 32 and 64 channels, 0.46 M parameters.

    Logits are scale * (W x + b); `scale` [C] is 1 except where LWS trains it.
    """

    def __init__(self) -> None:
        super().__init__()
        shapes = [(16, 16, 1), *[(16, 16, 1)] * 4, (16, 32, 2), *[(32, 32, 1)] * 4, (32, 64, 2), *[(64, 64, 1)] * 4]
        layers = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), *(Block(*s) for s in shapes)]
        self.backbone = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head, self.scale = nn.Linear(64, CLASSES), nn.Parameter(torch.ones(CLASSES), requires_grad=False)
        for module in self.backbone.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.head(self.backbone(x))


def read_archive(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Reads {split: (pixels uint8 [N, 3, 32, 32], fine labels int64 [N])}, in the order of the official file."""
    splits = {}
    with tarfile.open(path) as archive:
        for member in archive:
            if (split := Path(member.name).name) in ("train", "test"):
                content = pickle.load(archive.extractfile(member), encoding="latin1")  # type: ignore[arg-type]
                splits[split] = np.asarray(content["data"]).reshape(-1, 3, 32, 32), np.array(content["fine_labels"])
    return splits


def long_tailed_rows(labels: np.ndarray, imbalance: float) -> np.ndarray:
    """Returns the rows of the official file, int64 [N], that LDAM-DRW and BagofTricks-LT draw with their seed 0."""
    random, rows, largest = np.random.RandomState(0), [], len(labels) / CLASSES
    for j in range(CLASSES):
        of_class = np.flatnonzero(labels == j)
        random.shuffle(of_class)
        rows.append(of_class[: int(largest * (1 / imbalance) ** (j / (CLASSES - 1.0)))])
    return np.concatenate(rows)


def rate(epoch: int, steps: tuple[int, int], factor: float) -> float:
    """Returns the learning rate of an epoch, counted from 1.

    It rises over the first five epochs (0.0467, 0.06, ..., 0.1) and is multiplied by `factor` at each epoch of `steps`.
    """
    return 0.1 * min(1.0, 1 / 3 + 2 / 3 * epoch / 5) * factor ** sum(epoch >= step for step in steps)


@torch.no_grad()
def logits_of(model: ResNet32, test: DataLoader, args: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Returns the features float32 [N, 64] and the logits float32 [N, C] of the test set."""
    model.eval()
    features = []
    for x, _ in test:
        with torch.autocast(args.device, torch.bfloat16, enabled=args.precision == "bf16"):
            features.append(model.backbone(x.to(args.device, memory_format=args.layout)).float())
    together = torch.cat(features)
    return together, model.scale * model.head(together)


def accuracies(logits: Tensor, labels: np.ndarray, counts: np.ndarray) -> dict[str, float]:
    """Returns accuracies in percent: `all` images, and those of the classes with more than 100 (`many`), 20 to 100
    (`medium`) and fewer than 20 (`few`) training images."""
    right = logits.argmax(1).cpu().numpy() == labels
    groups = {"many": counts > 100, "medium": (counts >= 20) & (counts <= 100), "few": counts < 20}
    rows = {"all": right, **{name: right[group[labels]] for name, group in groups.items()}}
    return {name: round(100 * float(row.mean()), 2) for name, row in rows.items() if len(row)}


def train(
    name: str, model: ResNet32, data: DataLoader, test: DataLoader, counts: np.ndarray, args: argparse.Namespace,
    epochs: int, steps: tuple[int, int], factor: float, decay: float,
) -> dict[str, Any]:  # fmt: skip
    """Trains the parameters that require a gradient. `model` then has the weights of the last epoch.

    Returns the accuracies, number and weights of the epoch that is best on the test set.
    """
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1, 0.9, 0, decay, nesterov=True)
    best: dict[str, Any] = {"all": -1.0}
    done, file = 0, args.out / f"{name}.pt"
    if file.exists():
        state = torch.load(file, args.device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        done, best = state["epoch"], state["best"]
    for epoch in range(done + 1, epochs + 1):
        torch.manual_seed(1000 * args.seed + epoch)  # so that a run that was stopped continues with the same draws
        optimizer.param_groups[0]["lr"] = rate(epoch, steps, factor)
        model.train()
        started, right, loss_sum, seen = time.perf_counter(), 0, 0.0, 0
        for x, y in data:
            x, y = x.to(args.device, memory_format=args.layout), y.to(args.device)
            with torch.autocast(args.device, torch.bfloat16, enabled=args.precision == "bf16"):
                logits = model(x)
            loss = F.cross_entropy(logits.float(), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen, loss_sum = seen + len(y), loss_sum + loss.item() * len(y)
            right += int((logits.argmax(1) == y).sum())
        line = {"stage": name, "epoch": epoch, "lr": rate(epoch, steps, factor), "loss": loss_sum / seen}
        line |= {"train": 100 * right / seen, "images_per_second": seen / (time.perf_counter() - started)}
        if epoch % args.every == 0 or epoch == epochs:
            scores = accuracies(logits_of(model, test, args)[1], test.dataset.labels, counts)  # type: ignore[attr-defined]
            if scores["all"] > best["all"]:
                best = {"epoch": epoch, **scores, "weights": {k: v.clone() for k, v in model.state_dict().items()}}
            line["test"] = scores
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch, "best": best}
        torch.save(state, args.out / "unfinished.pt")
        (args.out / "unfinished.pt").replace(file)
        say(json.dumps(line), args.out / "metrics.jsonl")
    return best


def say(line: str, file: Path) -> None:
    """Prints a line and appends it to a file."""
    with file.open("a") as lines:
        lines.write(line + "\n")
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Runs the whole protocol; writes results.json and returns its content."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    splits = read_archive(args.data)
    rows = long_tailed_rows(splits["train"][1], args.imbalance)
    counts = np.bincount(splits["train"][1][rows], minlength=CLASSES)
    pixels, labels = (part[rows][:: args.stride] for part in splits["train"])
    test_pixels, test_labels = (part[:: args.stride] for part in splits["test"])
    tested = Images(test_pixels, test_labels, T.Compose(NORMALIZE))
    del splits
    test = DataLoader(tested, 500, num_workers=args.workers)
    images = Images(pixels, labels, TRAIN)
    loader: dict[str, Any] = {"batch_size": args.batch, "num_workers": args.workers, "drop_last": True}
    common = (test, counts, args)
    model = ResNet32().to(args.device, memory_format=args.layout)  # type: ignore[call-overload]
    steps = (round(0.8 * args.epochs), round(0.9 * args.epochs))  # 160 and 180 of 200
    best = train("joint", model, DataLoader(images, shuffle=True, **loader), *common, args.epochs, steps, 0.01, 2e-4)

    joint = {name: value.clone() for name, value in model.state_dict().items()}
    results: dict[str, Any] = {}
    for name, weights in (("", joint), ("_best_epoch", best.pop("weights"))):
        model.load_state_dict(weights)
        features, logits = logits_of(model, test, args)
        directions = F.normalize(model.head.weight.detach())
        tau = {"tau_norm": features @ directions.T + model.head.bias, "tau_norm_no_bias": features @ directions.T}
        for classifier, values in {"joint": logits, **tau}.items():
            results[classifier + name] = accuracies(values, tested.labels, counts)
    results["joint_best_epoch"]["epoch"] = best["epoch"]

    balanced = WeightedRandomSampler((1 / counts[labels]).tolist(), len(labels))  # every class is equally likely
    for name in ("crt", "lws"):
        torch.manual_seed(args.seed)
        model.load_state_dict(joint)
        model.requires_grad_(False)
        if name == "crt":
            model.head.reset_parameters()
        (model.head if name == "crt" else model.scale).requires_grad_(True)
        steps = (round(args.stage2_epochs / 3), round(args.stage2_epochs * 2 / 3))  # 10 and 20 of 30
        best = train(name, model, DataLoader(images, sampler=balanced, **loader), *common,
                     args.stage2_epochs, steps, 0.1, 5e-4)  # fmt: skip
        results[name] = accuracies(logits_of(model, test, args)[1], tested.labels, counts)
        results[f"{name}_best_epoch"] = {key: value for key, value in best.items() if key != "weights"}
    options = {key: str(value) for key, value in vars(args).items() if key != "layout"}
    found = {"classifiers": results, "options": options, "versions": {"torch": torch.__version__}}
    (args.out / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    return found


def parsed(arguments: Iterable[str] | None = None) -> argparse.Namespace:
    """Parses the command line (`sys.argv` by default)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="cifar-100-python.tar.gz, or of another compression")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0, help="seed of the training; the split is always drawn with 0")
    parser.add_argument("--imbalance", type=float, default=100)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--stage2-epochs", type=int, default=30)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--stride", type=int, default=1, help="take only every N-th image of each split, for a trial")
    parser.add_argument("--every", type=int, default=5, help="epochs between two evaluations on the test set")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0, help="processes of each DataLoader")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(None if arguments is None else list(arguments))
    args.layout = torch.channels_last if args.channels_last else torch.contiguous_format
    return args


if __name__ == "__main__":
    say(json.dumps(run(args := parsed())["classifiers"]), args.out / "metrics.jsonl")
