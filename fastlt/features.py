"""The feature store: pooled features of one representation, one group per split in an HDF5 file."""

from pathlib import Path

import h5py
import numpy as np
import torch

from fastlt.backbones import Model
from fastlt.errors import UserError
from fastlt.log import Progress
from fastlt.pipeline.loader import Loader


class FeatureStore:
    """Features of splits, keyed by the representation they come from.

    Rows lie in class order (labels never fall): class means then need no scattered writes. Layout: attribute `key`; per
    split `features` float32 [N, D], `labels` int64 [N], `ids` int64 [N] (sample ids).
    """

    def __init__(self, path: Path, key: str):
        self.path, self.key = path, key

    def has(self, split: str) -> bool:
        """Whether a split's features of this representation are stored."""
        if not self.path.exists():
            return False
        try:
            with h5py.File(self.path, "r") as file:
                return file.attrs.get("key") == self.key and split in file
        except OSError:
            return False  # cut off while it was written: it is made anew

    def read(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """(features float32 [N, D], labels int64 [N])."""
        with h5py.File(self.path, "r") as file:
            if file.attrs.get("key") != self.key:
                raise UserError(f"{self.path} holds features of another representation: delete it")
            return file[split]["features"][:], file[split]["labels"][:]  # type: ignore[index, return-value]

    def write(self, loaders: dict[str, Loader], model: Model, precision: str = "fp32") -> None:
        """Extracts and stores the splits of these loaders, which are of evaluation form; other content goes."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(self.path.name + ".tmp")
        total = sum(loader.images for loader in loaders.values())
        with h5py.File(temporary, "w", libver="v110") as file, Progress("features", total) as progress:
            file.attrs["key"] = self.key
            for split, loader in loaders.items():
                self._extract(file.create_group(split), loader, model, precision, progress)
        temporary.replace(self.path)

    @torch.no_grad()
    def _extract(self, group: h5py.Group, loader: Loader, model: Model, precision: str, progress: Progress) -> None:
        model.eval()
        length = model.classifier.in_features
        features = group.create_dataset("features", (loader.images, length), np.float32)
        labels, ids = np.empty(loader.images, np.int64), np.empty(loader.images, np.int64)
        done = 0
        for batch in loader.epoch():
            with torch.autocast(loader.device.type, torch.bfloat16, enabled=precision == "bf16"):
                output = model.backbone(batch.images.to(memory_format=torch.channels_last))
            end = done + len(batch.ids)
            features[done:end] = output.float().cpu().numpy()
            labels[done:end], ids[done:end] = batch.labels.cpu().numpy(), batch.ids
            done = end
            progress.advance(len(batch.ids), str(group.name).strip("/"))
        group.create_dataset("labels", data=labels)
        group.create_dataset("ids", data=ids)
