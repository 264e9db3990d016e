"""Networks of timm from images to an exported classifier: as they come, and fine-tuned for an epoch."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import train
from pictures import Pictures, conversion
from PIL import Image

from fastlt.data.convert import convert
from fastlt.predict.export.formats import export_run

timm = pytest.importorskip("timm", reason="timm is not installed: pip install 'fastlt[timm]'")

# Small, with random weights; 32 pixels a side.
NETWORKS = {
    "vit": ("timm:vit_tiny_patch16_224", "{patch_size: 8, embed_dim: 48, depth: 2, num_heads: 3}"),
    "convnext": ("timm:convnext_atto", "{depths: [1, 1, 1, 1], dims: [16, 24, 32, 40]}"),
}
STAGES = {
    "frozen": ("epochs=0",),
    "tuned": ("protocol=finetune", "protocol.pretrained=null", "protocol.batch=16", "epochs=1"),
}
COUNTS = (120, 60, 25, 8)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("timm")
    convert(Pictures(COUNTS), conversion(), folder / "data", workers=1)
    return folder


@pytest.mark.parametrize("stage", list(STAGES))
@pytest.mark.parametrize("network", list(NETWORKS))
def test_from_images_to_an_exported_classifier(network: str, stage: str, place: Path) -> None:
    """An exported network has, in timm's hands, the accuracy that results.json tells."""
    backbone, options = NETWORKS[network]
    name = f"{network}_{stage}"
    done = train(
        "data=data", f"backbone={backbone}", f"backbone.options={options}", *STAGES[stage], "image_size=32",
        "classifiers=[joint,ncm_l2,crt,tau_norm]", "threads=1", f"run={name}", cwd=place,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = json.loads((place / name / "results.json").read_text())
    assert list(results["classifiers"]) == ["joint", "ncm_l2", "crt", "tau_norm"]
    for classifier in ("joint", "crt", "tau_norm"):
        out = place / f"{name}_{classifier}"
        export_run(place / name, classifier, "timm", out)
        found, labels = _classified(out)
        accuracy = 100 * (found == labels).float().mean().item()
        assert accuracy == pytest.approx(results["classifiers"][classifier]["all"], abs=1e-4), classifier


@torch.no_grad()
def _classified(exported: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the classes that timm's own code gives the test images, and their labels."""
    model = timm.create_model(f"local-dir:{exported}", pretrained=True).eval()
    transform: Any = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
    source: Any = Pictures(COUNTS)
    labels = torch.from_numpy(np.asarray(source.splits["test"].labels)).long()
    images = [Image.open(io.BytesIO(source.load("test", i))) for i in range(len(labels))]
    return model(torch.stack([transform(image) for image in images])).argmax(1), labels
