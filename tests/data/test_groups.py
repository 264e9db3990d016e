"""Groups of images, such as those of one patient: a dataset keeps them, and a training divides no group."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from commands import convert
from pictures import jpeg, picture

import fastlt
from fastlt.core.errors import UserError
from fastlt.data.convert.remove import remove
from fastlt.data.shards.describe import describe, page
from fastlt.data.shards.reader import Dataset
from fastlt.data.shards.verify import verify
from fastlt.stage2.classifiers import folds
from fastlt.stage2.classifiers.folds import folds_of

PATIENTS, IMAGES = 24, 6  # each with as many images, of two classes


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of photos; images of two patients are of no group."""
    folder = tmp_path_factory.mktemp("groups")
    lines = ["path,label,patient"]
    for number in range(PATIENTS * IMAGES):
        patient = number // IMAGES
        name = f"p{patient}_{number}.jpg"
        (folder / name).write_bytes(jpeg(picture(number, 32, 32)))
        lines.append(f"{name},{'ab'[number % 2]},{f'P{patient}' if patient > 1 else ''}")
    (folder / "all.csv").write_text("\n".join(lines))
    return folder / "all.csv"


@pytest.fixture(scope="module")
def data(table: Path) -> Path:
    fastlt.write_dataset(table, table.parent / "data", root=table.parent, group_by="patient", test=0.25, workers=1)
    return table.parent / "data"


def patients(dataset: Dataset, split: str, ids: Any = slice(None)) -> list[str]:
    """The patient of every image, by its key."""
    found = [key.decode().partition("_")[0][1:] for key in dataset.keys(split)[ids].tolist()]
    return [f"P{one}" if int(one) > 1 else "" for one in found]


def test_a_dataset_keeps_the_groups_of_its_images(data: Path, table: Path) -> None:
    dataset = fastlt.Dataset(data)
    for split in dataset.splits:
        names, numbers = dataset.group_names(split), dataset.image_groups(split)
        assert names is not None and numbers is not None
        assert [name.decode() for name in names.tolist()] == patients(dataset, split)
        alone = names == b""
        assert len(np.unique(numbers)) == numbers.max() + 1 == len(set(names[~alone].tolist())) + alone.sum()
    with h5py.File(data / "index.h5") as file:
        assert file["train/group"][0] == dataset.group_names("train")[0]  # type: ignore[index]
    assert not set(patients(dataset, "train")) & set(patients(dataset, "test")) - {""}
    facts = describe(dataset)
    count = facts["splits"]["train"]["image_groups"]
    assert count == int(dataset.image_groups("train").max()) + 1  # type: ignore[union-attr]
    assert f"kept together    train: {count} groups of images" in page(facts) and verify(data).findings == 0
    without = fastlt.write_dataset(table, table.parent / "without", root=table.parent, test=0.25, workers=1)
    assert without.group_names("train") is None and without.image_groups("train") is None
    assert describe(without)["splits"]["train"]["image_groups"] is None
    assert "kept together" not in page(describe(without))


def test_other_groups_are_another_dataset(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Also where they divide nothing, and when parts are joined."""
    rows = table.read_text().splitlines()
    split = [f"{row},{'split' if k == 0 else ('train', 'test')[k % 3 == 0]}" for k, row in enumerate(rows)]
    (tmp_path / "split.csv").write_text("\n".join(split))
    keys = {"root": table.parent, "workers": 1}
    plain = fastlt.write_dataset(tmp_path / "split.csv", tmp_path / "plain", **keys)
    capsys.readouterr()
    dataset = fastlt.write_dataset(tmp_path / "split.csv", tmp_path / "out", group_by="patient", **keys)
    told = capsys.readouterr().err
    assert "note: 22 groups have images in train and in test, such as 'P10'" in told
    assert "note: 12 images have no group (an empty or missing value): each is a group alone" in told
    assert dataset.keys("train").tolist() == plain.keys("train").tolist() and dataset.digest != plain.digest
    (tmp_path / "split.csv").write_text("\n".join(split).replace("P2", "P3"))
    with pytest.raises(UserError, match="out is a finished dataset"):
        fastlt.write_dataset(tmp_path / "split.csv", tmp_path / "out", group_by="patient", **keys)
    (tmp_path / "split.csv").write_text("\n".join(split))
    options = (
        "dataset=csv",
        f"root={table.parent}",
        f"table={tmp_path / 'split.csv'}",
        "group_by=patient",
        "workers=1",
    )
    for part in ("1/2", "2/2"):
        convert(*options, "out=parts", f"part={part}", "name=out", cwd=tmp_path)
    assert fastlt.Dataset(tmp_path / "parts").digest == dataset.digest


def test_removed_images_take_their_groups_along(data: Path, table: Path) -> None:
    out = table.parent / "fewer"
    fastlt.write_dataset(table, out, root=table.parent, group_by="patient", test=0.25, workers=1)
    remove([key.decode() for key in fastlt.Dataset(out).keys("train")[3:30:5].tolist()], out)
    dataset = fastlt.Dataset(out)
    names = dataset.group_names("train")
    assert names is not None and [name.decode() for name in names.tolist()] == patients(dataset, "train")
    assert verify(out).findings == 0


def test_a_damaged_column_of_groups_is_found(data: Path, tmp_path: Path) -> None:
    place = fastlt.Dataset(data).about["index"]["columns"]["train"]["group"]
    for path in data.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with (tmp_path / "index.h5").open("r+b") as file:
        file.seek(place["offset"])
        file.write(b"Q")
    assert verify(tmp_path).findings
    with pytest.raises(UserError, match="column group of train does not match its checksum"):
        fastlt.Dataset(tmp_path).image_groups("train")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("\u3042" * 900, "has 2,700 bytes, allowed are 1,000"),  # not the one with the most letters
        ("a\0", r"the group 'a\\x00' has a letter that is no text"),
        ("a\ud800", r"the group 'a\\ud800' has a letter that is no text"),
    ],
)
def test_names_of_groups_that_no_index_holds_are_refused(name: str, message: str, tmp_path: Path) -> None:
    pairs = [(picture(number, 20, 20), number % 2, name if number % 3 else "b" * 950) for number in range(12)]
    with pytest.raises(UserError, match=message):
        fastlt.write_dataset({"train": pairs}, tmp_path / "out", test=0.2, workers=1)
    assert not list(tmp_path.iterdir())


KEYS: dict[str, Any] = {
    "epochs": 1,
    "threads": 1,
    "classifiers": ["joint", "tau_norm"],
    "protocol": "small_32",
    "protocol.batch": 16,
    "image_size": 16,
}


def test_images_of_a_group_are_held_out_together(data: Path) -> None:
    fastlt.run_experiment(data=data, run=data.parent / "held", hold_out=0.3, **KEYS)
    dataset = fastlt.Dataset(data)
    with h5py.File(data.parent / "held" / "features.h5") as file:
        ids = {split: np.array(file[f"{split}/ids"]) for split in ("train", "held_out")}
    kept, held = (set(patients(dataset, "train", ids[split])) - {""} for split in ids)
    assert kept and held and not kept & held
    assert sorted([*ids["train"], *ids["held_out"]]) == list(range(len(dataset.split("train"))))


def test_images_of_a_group_are_in_one_fold(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []

    def seen(*given: Any) -> np.ndarray:
        found.append(folds_of(*given))
        return found[-1]

    monkeypatch.setattr(folds, "folds_of", seen)
    fastlt.run_experiment(data=data, run=data.parent / "folds", **KEYS)
    dataset = fastlt.Dataset(data)
    order = dataset.split("train").class_members
    of_patient: dict[str, set[int]] = {}
    for patient, fold in zip(patients(dataset, "train", order), found[0].tolist(), strict=True):
        of_patient.setdefault(patient, set()).add(fold)
    assert len(of_patient.pop("", {0, 1})) > 1 and all(len(one) == 1 for one in of_patient.values())
    sizes = np.bincount(found[0], minlength=5)
    assert sizes.min() >= len(order) / 5 - IMAGES


def test_one_group_has_no_folds(table: Path, tmp_path: Path) -> None:
    keys = {"root": table.parent, "workers": 1}
    lines = table.read_text().splitlines()
    rows = [f"{row.rpartition(',')[0]},P0,{('train', 'test')[k // 2 % 2]}" for k, row in enumerate(lines[1:])]
    one = ["path,label,patient,split", *rows]
    (tmp_path / "one.csv").write_text("\n".join(one))
    fastlt.write_dataset(tmp_path / "one.csv", tmp_path / "one", group_by="patient", **keys)
    with pytest.raises(UserError, match="all training images are of one group, which no fold can leave out"):
        fastlt.run_experiment(data=tmp_path / "one", run=tmp_path / "run", **KEYS)
    assert not (tmp_path / "run").exists()
