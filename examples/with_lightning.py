"""Trains with PyTorch Lightning on fastlt's loader.

Lightning's own checkpoint holds the position of the loader, so a training that was stopped in the middle of an epoch
resumes at the next batch.

    pip install lightning
    python examples/with_lightning.py data/c100 runs/lightning
"""

# pyright: reportMissingImports=false
# (Lightning is not a dependency of fastlt.)

import argparse
from collections.abc import Sequence
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

import fastlt
from fastlt.core.batches import Batch


class Classifier(lightning.LightningModule):
    """A small network. `seen` holds the image ids of every step, so that two trainings can be compared."""

    def __init__(self, classes: int):
        super().__init__()
        convolutions = nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()
        self.network = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, classes))
        self.seen: list[list[int]] = []

    def on_train_epoch_start(self) -> None:
        # Lightning restores the loader only within an epoch. This call sets its epoch, and changes nothing within one.
        self.trainer.train_dataloader.set_epoch(self.current_epoch)

    def training_step(self, batch: Batch) -> torch.Tensor:
        self.seen.append(batch.ids.tolist())
        return nn.functional.cross_entropy(self.network(batch.images), batch.labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def main(arguments: Sequence[str] | None = None) -> Classifier:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path, help="folder of a converted dataset")
    parser.add_argument("out", type=Path, help="folder of the checkpoint")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--max-steps", type=int, default=-1, help="steps of the whole training; default: all epochs")
    args = parser.parse_args(arguments)

    dataset = fastlt.Dataset(args.data)
    train = dataset.split("train")
    order = fastlt.Sampler(train.class_members, train.class_start, law="class", epochs=args.epochs)
    augment = fastlt.Augment(args.image_size, crop="resized", flip=True, jitter=0.4)

    torch.manual_seed(0)
    model = Classifier(len(train.counts))
    trainer = lightning.Trainer(
        max_epochs=args.epochs,
        max_steps=args.max_steps,
        accelerator="cpu",
        callbacks=[ModelCheckpoint(args.out, filename="last", every_n_train_steps=1, enable_version_counter=False)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    saved = args.out / "last.ckpt"
    with fastlt.Loader(dataset, "train", order, augment, batch=args.batch, drop_last=True) as loader:
        trainer.fit(model, loader, ckpt_path=saved if saved.exists() else None)
    return model


if __name__ == "__main__":
    main()
