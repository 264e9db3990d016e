"""python -m fastlt.predict: the predictions of the run's own evaluation, for files as they come."""

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import train
from finished_run import (
    CLASSES,
    KEEP,
    SIZE,
    change,
    linear,
    make_run,
    model_state,
    options_of,
    pictures,
    predict,
    rows,
    seen,
)
from pictures import conversion
from PIL import Image

from fastlt.core.checkpoint import save_checkpoint
from fastlt.data.convert import convert
from fastlt.data.pipeline.loader import Loader
from fastlt.data.plan import Augment
from fastlt.data.shards.encode import BadImage, Encoding, decode, encode
from fastlt.data.shards.format import RAW
from fastlt.data.shards.reader import Dataset
from fastlt.data.sources.image_folder import ImageFolder
from fastlt.longtail.sampler import InOrder
from fastlt.models.checkpoint.store import load_model
from fastlt.predict.predictor import Predictor, default_classifier
from fastlt.stage2.classifiers.base import Classifier, Fitted

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("pictures") / "root")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", {"joint": linear(1), "crt": linear(2), "lws": linear(3)})


def of_test(dataset: Dataset) -> Iterator[torch.Tensor]:
    """The images of the test split as the pipeline gives them to an evaluation."""
    ids = np.arange(len(dataset.split("test")))
    augment = Augment(SIZE, crop_pct=KEEP)
    with Loader(dataset, "test", InOrder(ids), augment, 8, threads=1, channels_last=True) as loader:
        for batch in loader.epoch():
            yield batch.images


# --- what is seen ---

STORED = {
    "keep": Encoding(),
    "keep, upright": Encoding(orientation="apply"),
    "png": Encoding("png"),
    "png, smaller": Encoding("png", max_short_side=36),
    "raw": Encoding("raw", max_short_side=50, orientation="apply"),
    "jpeg": Encoding("jpeg", quality=60, max_short_side=40),
}


@pytest.mark.parametrize("name", STORED)
def test_images_are_bit_for_bit_those_of_the_pipeline(name: str, root: Path, tmp_path: Path) -> None:
    dataset = Dataset(convert(ImageFolder(root), options_of(STORED[name]), tmp_path / "data", workers=1))
    keys = ImageFolder(root).splits["test"].keys
    assert len(keys) == 27
    evaluation = seen(STORED[name])
    ours = [evaluation.load(str(root / key)) for key in keys]
    for key, image, expected in zip(keys, ours, torch.cat(list(of_test(dataset))), strict=True):
        assert isinstance(image, torch.Tensor), image
        assert torch.equal(image.permute(2, 0, 1), expected), key


def test_photographs_are_those_of_the_pipeline(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "root" / "train" / "all").mkdir(parents=True)
    (tmp_path / "root" / "test" / "all").mkdir(parents=True)
    with tarfile.open(shared / "data" / "imagenet-samples.tar") as tar:
        files = [member for member in tar if member.isfile() and member.name.endswith(".JPEG")][:40]
        for i, member in enumerate(files):
            split = "test" if i else "train"
            (tmp_path / "root" / split / "all" / f"{i:03d}.jpg").write_bytes(tar.extractfile(member).read())  # type: ignore[union-attr]
    source = ImageFolder(tmp_path / "root")
    dataset = Dataset(convert(source, options_of(Encoding()), tmp_path / "data", workers=1))
    ours = [seen(Encoding()).load(str(source.where("test", i))) for i in range(39)]
    assert torch.equal(torch.stack(ours).permute(0, 3, 1, 2), torch.cat(list(of_test(dataset))))  # type: ignore[arg-type]


@pytest.mark.parametrize("encoding", [Encoding(), Encoding("raw", orientation="apply")])
def test_awkward_files_have_the_outcome_of_a_conversion(encoding: Encoding, shared: Path) -> None:
    good = 0
    with tarfile.open(shared / "data" / "awkward-images.tar.gz") as archive:
        for member in archive:
            if not member.isfile() or member.name.endswith(".tsv"):
                continue
            found = archive.extractfile(member).read()  # type: ignore[union-attr]
            try:
                stored = encode(found, encoding)
            except BadImage as bad:
                with pytest.raises(BadImage) as raised:
                    decode(found, encoding)
                assert str(raised.value) == str(bad), member.name
                continue
            file = io.BytesIO(stored.data)
            expected = np.load(file) if stored.encoding == RAW else np.asarray(Image.open(file).convert("RGB"))
            np.testing.assert_array_equal(decode(found, encoding), expected, err_msg=member.name)
            good += 1
    assert good == 32


# --- what is predicted ---


def expected_rows(dataset: Dataset, run: Path, name: str, temperature: float) -> torch.Tensor:
    """Confidences [n, C] of the test split, from the pipeline's images and the definition."""
    model, _ = load_model(run / "checkpoint.pt")
    held = torch.load(run / "classifiers" / f"{name}.pt", weights_only=True)["tensors"]
    with torch.no_grad():
        features = torch.cat([model.backbone(images) for images in of_test(dataset)]).double()
    scores = (features @ held["weight"].double().T + held["bias"].double()) / temperature
    exponentials = (scores - scores.max(1, keepdim=True).values).exp()
    return exponentials / exponentials.sum(1, keepdim=True)


def check_predictions(found: list[dict[str, str]], expected: torch.Tensor) -> None:
    assert len(found) == len(expected)
    for row, probability in zip(found, expected, strict=True):
        order = probability.argsort(descending=True)
        assert [row[f"class_{rank}"] for rank in (1, 2, 3)] == [CLASSES[i] for i in order]
        told = [float(row[f"confidence_{rank}"]) for rank in (1, 2, 3)]
        np.testing.assert_allclose(told, probability[order], atol=1e-4)
        assert row["error"] == ""


@pytest.mark.parametrize("name", ["keep", "png"])
def test_predictions_are_those_of_the_evaluation(name: str, root: Path, run: Path, tmp_path: Path) -> None:
    dataset = Dataset(convert(ImageFolder(root), options_of(STORED[name]), tmp_path / "data", workers=1))
    expected = expected_rows(dataset, run, "crt", temperature=1.5)
    assert len(set(expected.argmax(1).tolist())) > 1
    assert expected.max(1).values.std() > 0.01
    code, out, err = predict(run, *(root / "test" / label for label in CLASSES), "--format", "csv", "--batch", 5)
    assert code == 0, err
    check_predictions(rows(out), expected)
    assert [row["path"] for row in rows(out)] == [str(root / key) for key in ImageFolder(root).splits["test"].keys]


def test_predictions_for_pixels_that_were_stored_raw(raw_dataset: Dataset, run: Path, tmp_path: Path) -> None:
    options = conversion()
    change(run, evaluation={"mean": options.mean, "std": options.std, "crop_pct": KEEP, **asdict(options.encoding)})
    for i in range(len(raw_dataset.split("test"))):
        Image.fromarray(raw_dataset.pixels("test", i)).save(tmp_path / f"{i:02d}.png")
    code, out, _ = predict(run, *sorted(tmp_path.glob("*.png")), "--format", "csv", "--classifier", "lws")
    assert code == 0
    check_predictions(rows(out), expected_rows(raw_dataset, run, "lws", temperature=2.5))


def test_a_classifier_may_have_a_backbone_of_its_own(run: Path, root: Path, tmp_path: Path) -> None:
    (run / "crt_images").mkdir()
    save_checkpoint(model_state(7), run / "crt_images" / "checkpoint.pt")
    kept = torch.load(run / "classifiers" / "crt.pt", weights_only=True)
    image = next(iter((root / "test" / CLASSES[0]).iterdir()))
    before = predict(run, image, "--format", "csv")[1]
    for place in ("crt_images/checkpoint.pt", "crt_images", str(tmp_path / "run" / "crt_images")):
        torch.save({**kept, "checkpoint": place}, run / "classifiers" / "crt.pt")
        code, after, _ = predict(run, image, "--format", "csv")
        assert code == 0
        assert after != before
    other = make_run(tmp_path / "other", {"crt": linear(2)})
    change(other, key=model_state(7)["key"])
    save_checkpoint(model_state(7), other / "checkpoint.pt")
    other_kept = torch.load(other / "classifiers" / "crt.pt", weights_only=True)
    torch.save({**other_kept, "temperature": 1.5}, other / "classifiers" / "crt.pt")
    assert predict(other, image, "--format", "csv")[1] == after


def mine(_: object) -> Fitted:
    raise AssertionError("nothing is fitted here")


MINE = Classifier(mine, lambda tensors, x: x[:, :3] * tensors["factor"])


def test_ones_own_classifier(tmp_path: Path, root: Path) -> None:
    factor = torch.tensor([1.0, 2.0, 3.0])
    run = make_run(tmp_path / "run", {"joint": linear(1), "test_predict:MINE": {"factor": factor}})
    image = next(iter((root / "test" / CLASSES[0]).iterdir()))
    code, out, err = predict(run, image, "--format", "jsonl")
    assert code == 0
    assert f"classifier test_predict:MINE of {run}, 1 image" in err
    (row,) = map(json.loads, out.splitlines())
    seen_by = Predictor(run, "test_predict:MINE", CPU)
    loaded = seen_by.inputs.input(str(image), 0)
    assert isinstance(loaded, torch.Tensor)
    model, _ = load_model(run / "checkpoint.pt")
    with torch.no_grad():
        x = model.backbone(loaded.permute(2, 0, 1)[None])[0, :3]
    expected = (x * factor / 1.5).softmax(0)
    assert [p["class"] for p in row["predictions"]] == [CLASSES[i] for i in expected.argsort(descending=True)]
    assert row["predictions"][0]["confidence"] == pytest.approx(expected.max().item(), abs=1e-4)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["joint", "lws", "tau_norm", "crt"], "crt"),
        (["joint", "lws", "tau_norm"], "tau_norm"),
        (["joint", "ncm_l2", "lws"], "ncm_l2"),
        (["lws", "joint"], "lws"),
        (["joint"], "joint"),
        (["mlp_1"], "mlp_1"),
    ],
)
def test_default_classifier(names: list[str], chosen: str) -> None:
    assert default_classifier(names) == chosen


def test_scores_that_are_not_finite_are_an_error_of_the_row(tmp_path: Path, root: Path) -> None:
    held = linear(1)
    held["bias"][1] = torch.nan
    run = make_run(tmp_path / "run", {"joint": held})
    code, out, _ = predict(run, root / "test" / CLASSES[0], "--format", "jsonl")
    assert code == 1
    for row in map(json.loads, out.splitlines()):
        assert row["predictions"] == []
        assert row["error"] == "the model gives scores that are not finite"


# --- from files to predictions ---


def test_convert_train_predict(tmp_path: Path) -> None:
    root = pictures(tmp_path / "root")
    options = options_of(Encoding(orientation="apply"))
    dataset = Dataset(convert(ImageFolder(root), options, tmp_path / "data", workers=1))
    small = ("protocol=cifar_lt_200", "protocol.batch=2", "epochs=1", "threads=1", "device=cpu")
    done = train("data=data", "run=run", "classifiers=[joint,ncm_l2,crt]", *small, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    for name in ("joint", "ncm_l2", "crt"):
        code, out, err = predict(tmp_path / "run", root / "test", "--format", "csv", "--classifier", name)
        assert code == 0, err
        found = rows(out)
        assert len(found) == len(dataset.split("test"))
        right = [100 * (row["class_1"] == Path(row["path"]).parent.name) for row in found]
        assert np.mean(right) == pytest.approx(results["classifiers"][name]["all"])
