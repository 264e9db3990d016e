"""Your own training loop over fastlt's loader. If it is stopped at any step, the same command resumes it there.

python examples/own_loop.py data/c100 own_loop.pt
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

import fastlt


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path, help="folder of a converted dataset")
    parser.add_argument("checkpoint", type=Path, help="file that the training saves itself to after every step")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--stop-after", type=int, default=-1, help="steps of this call; default: all")
    args = parser.parse_args(arguments)

    dataset = fastlt.Dataset(args.data)
    train = dataset.split("train")
    order = fastlt.Sampler(train.class_members, train.class_start, law="class", epochs=args.epochs)
    augment = fastlt.Augment(args.image_size, crop="resized", flip=True, jitter=0.4)

    torch.manual_seed(0)
    convolutions = nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()
    model = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, len(train.counts)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    with fastlt.Loader(dataset, "train", order, augment, batch=args.batch, drop_last=True) as loader:
        if args.checkpoint.exists():
            saved = torch.load(args.checkpoint)
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            loader.load_state_dict(saved["loader"])
        steps = 0
        for epoch in range(loader.state_dict()["epoch"], args.epochs):
            loader.set_epoch(epoch)
            for images, labels, ids in loader:
                if steps == args.stop_after:
                    return
                loss = nn.functional.cross_entropy(model(images), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                steps += 1
                print(f"epoch {epoch + 1}, images {ids[0]} to {ids[-1]}, loss {loss.item():.6f}")
                states = {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "loader": loader.state_dict(),
                }
                new = args.checkpoint.with_suffix(".new")
                torch.save(states, new)
                new.replace(args.checkpoint)  # atomic, so that a kill leaves the old checkpoint or the new one


if __name__ == "__main__":
    main()
