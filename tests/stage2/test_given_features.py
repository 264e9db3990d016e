"""Features that came from elsewhere: every kind of file gives the same, and what is wrong with one is one line."""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from fastlt.core.errors import UserError
from fastlt.stage2.features import FeatureStore
from fastlt.stage2.features.given import columns
from fastlt.stage2.features.given.given import GivenFeatures

NAMES = np.array(["ant", "bee", "cat"])


def arrays(rows: int = 60) -> dict[str, np.ndarray]:
    """x, y and split of three classes, rows of all splits mixed."""
    rng = np.random.default_rng(0)
    y = np.arange(rows) % 3
    split = np.array(["train", "train", "train", "test", "val"])[np.arange(rows) // 3 % 5]
    return {"x": rng.normal(size=(rows, 4)).astype(np.float32), "y": y, "split": split}


def apart(data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same as x_train, y_train, ..."""
    found = {}
    for name in ("train", "val", "test"):
        here = data["split"] == name
        found |= {f"x_{name}": data["x"][here], f"y_{name}": data["y"][here]}
    return found


def to_npz(data: dict[str, Any], path: Path) -> Path:
    np.savez(path.with_suffix(".npz"), **data)
    return path.with_suffix(".npz")


def to_compressed(data: dict[str, Any], path: Path) -> Path:
    np.savez_compressed(path.with_suffix(".npz"), **data)
    return path.with_suffix(".npz")


def to_folder(data: dict[str, np.ndarray], path: Path) -> Path:
    path.mkdir()
    for name, values in data.items():
        np.save(path / f"{name}.npy", values)
    return path


def to_hdf5(data: dict[str, np.ndarray], path: Path) -> Path:
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        for name, values in data.items():
            chunks = {"chunks": (7, 2), "compression": "gzip"} if name.startswith("x") and len(values) > 7 else {}
            file.create_dataset(name, data=values.astype("S") if values.dtype.kind == "U" else values, **chunks)
    return path.with_suffix(".h5")


def to_parquet(data: dict[str, np.ndarray], path: Path) -> Path:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = {name: values.tolist() for name, values in data.items()}
    types = {"x": pyarrow.list_(pyarrow.float32())}
    columns = {name: pyarrow.array(values, types.get(name)) for name, values in table.items()}
    parquet.write_table(pyarrow.table(columns), path.with_suffix(".parquet"), row_group_size=11)
    return path.with_suffix(".parquet")


KINDS = [to_npz, to_compressed, to_folder, to_hdf5, to_parquet]
Writer = Callable[[dict[str, np.ndarray], Path], Path]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "ROWS", 13)


@pytest.mark.parametrize("write", KINDS)
@pytest.mark.parametrize("labels", ["numbers", "names"])
def test_every_kind_of_file_gives_the_same(write: Writer, labels: str, tmp_path: Path) -> None:
    data = arrays()
    if labels == "names":
        data["y"] = NAMES[data["y"]]
    given = GivenFeatures(write(data, tmp_path / "features"))
    assert given.class_names == (["0", "1", "2"] if labels == "numbers" else NAMES.tolist())
    assert given.labels.tolist() == arrays()["y"].tolist() and given.dim == 4
    assert np.array_equal(np.concatenate([piece for _, piece in given.pieces()]), data["x"])
    train = data["split"] == "train"
    assert np.array_equal(given.rows("train"), np.flatnonzero(train))
    assert given.survey.rms == pytest.approx(np.sqrt(np.square(data["x"][train], dtype=np.float64).mean()))
    assert given.survey.digest == GivenFeatures(to_npz(data, tmp_path / "again")).survey.digest
    store = FeatureStore(tmp_path / "run" / "features.h5", "key")
    orders = {
        split: given.rows(split)[np.argsort(given.labels[given.rows(split)], kind="stable")]
        for split in ("train", "test")
    }
    given.write(store, orders, 2.0)
    for split, rows in orders.items():
        x, y = store.read(split)
        assert np.array_equal(x, data["x"][rows] / 2) and y.tolist() == given.labels[rows].tolist()
    assert not store.has("val") and sorted(path.name for path in store.path.parent.iterdir()) == ["features.h5"]


@pytest.mark.parametrize("write", KINDS)
@pytest.mark.parametrize("names", [np.array(["p", "q", "", "r"]), np.array([7, 9, 8, 7])])
def test_groups_of_training_rows(write: Writer, names: np.ndarray, tmp_path: Path) -> None:
    data = arrays()
    data["group"] = names[np.arange(60) // 3 % 4]
    given = GivenFeatures(write(data, tmp_path / "features"))
    here = data["group"][data["split"] == "train"].tolist()
    assert given.groups is not None and given.groups.dtype == np.int64 and len(given.groups) == 36
    assert len(set(given.groups.tolist())) == len(set(here) - {""}) + here.count("")
    for name in set(here) - {""}:
        assert len({group for group, known in zip(given.groups.tolist(), here, strict=True) if known == name}) == 1
    without = {name: values for name, values in data.items() if name != "group"}
    assert GivenFeatures(to_npz(without, tmp_path / "without")).groups is None
    assert GivenFeatures(to_npz(without, tmp_path / "without")).survey.digest != given.survey.digest
    if write is not to_parquet:
        parts = {**apart(without), "group_train": np.array(here)}
        other = GivenFeatures(write(parts, tmp_path / "apart"))
        assert other.groups is not None and other.groups.tolist() == given.groups.tolist()


def test_groups_by_another_name_are_refused(tmp_path: Path) -> None:
    for name in ("groups", "group_train"):
        with pytest.raises(UserError, match=f"{name} would not be used: groups are in group; rename it"):
            GivenFeatures(to_npz({**arrays(), name: np.arange(60)}, tmp_path / "features"))
    with pytest.raises(UserError, match="groups would not be used: groups are in group_train; rename it"):
        GivenFeatures(to_npz({**apart(arrays()), "groups": np.arange(36)}, tmp_path / "features"))


def test_groups_that_fit_no_rows_are_refused(tmp_path: Path) -> None:
    for count, message in ((59, r"group is \(59,\): one for each of 60 rows is needed"), (0, r"group is \(0,\)")):
        with pytest.raises(UserError, match=message):
            GivenFeatures(to_npz({**arrays(), "group": np.arange(count)}, tmp_path / "features"))
    with pytest.raises(UserError, match=r"group_train is \(60,\): one for each of 36 rows is needed"):
        GivenFeatures(to_npz({**apart(arrays()), "group_train": np.arange(60)}, tmp_path / "features"))
    with pytest.raises(UserError, match="group of row 1 is nan: whole numbers or strings are needed"):
        GivenFeatures(to_npz({**arrays(), "group": np.where(np.arange(60) == 1, np.nan, 2)}, tmp_path / "features"))


@pytest.mark.parametrize("write", [to_npz, to_folder, to_hdf5])
def test_splits_may_lie_apart(write: Writer, tmp_path: Path) -> None:
    data = {**apart(arrays()), "class_names": NAMES}
    given = GivenFeatures(write(data, tmp_path / "features"))
    assert given.class_names == NAMES.tolist()
    assert np.concatenate([data[f"y_{split}"] for split in ("train", "val", "test")]).tolist() == given.labels.tolist()
    x = np.concatenate([piece for _, piece in given.pieces()])
    assert np.array_equal(x[given.rows("test")], data["x_test"])


def test_another_label_split_or_feature_is_another_digest(tmp_path: Path) -> None:
    def digest(**changed: np.ndarray) -> str:
        return GivenFeatures(to_npz({**arrays(), **changed}, tmp_path / "one")).survey.digest

    data = arrays()
    x, y, split = data["x"].copy(), data["y"].copy(), data["split"].copy()
    x[5, 2] += 1
    y[[0, 1]] = y[[1, 0]]
    split[[0, 12]] = split[[12, 0]]
    found = [
        digest(),
        digest(x=x),
        digest(y=y),
        digest(split=split),
        digest(class_names=NAMES),
        digest(y=NAMES[data["y"]]),
    ]
    assert len({*found}) == 5 and found[4] == found[5]


def test_mapped_where_the_file_allows_it(tmp_path: Path) -> None:
    for write in (to_npz, to_folder):
        (column,) = GivenFeatures(write(arrays(), tmp_path / write.__name__)).x
        assert isinstance(column.rows, np.memmap)  # type: ignore[attr-defined]
    (column,) = GivenFeatures(to_compressed(arrays(), tmp_path / "small")).x
    assert isinstance(column, columns.Deflated) and max(len(piece) for piece in column.pieces()) == 13


def without(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda data: data.pop(name)


def put(name: str, value: Any, *place: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        if place:
            data[name] = data[name].astype(type(value)) if isinstance(value, str) else data[name].copy()
            data[name][place] = value
        else:
            data[name] = value

    return change


WRONG = [
    (without("y"), r"there is no y: x \[N, D\], y \[N\] and split \[N\] are needed, or .*; it holds split, x$"),
    (without("split"), "there is no split"),
    (put("x", np.nan, 17, 2), "x holds nan in row 17, column 2: features must be finite in float32"),
    (put("x", -np.inf, 40, 0), "x holds -inf in row 40, column 0"),
    (put("x", np.zeros((60, 4, 2))), r"x is float64 \(60, 4, 2\): numbers \[N, D\] are needed"),
    (put("x", np.full((60, 4), "a")), "x is <U1"),
    (put("x", np.zeros((59, 4))), r"x has 59 rows, y is \(60,\): one label for each row is needed"),
    (put("split", np.full(60, "train")), "no row is of the test split"),
    (put("split", np.full(60, "test")), "no row is of the train split"),
    (put("split", "dev", 8), "split of row 8 is dev: allowed are train, val, test"),
    (put("split", np.full(59, "train")), "x has 60 rows, split 59"),
    (put("y", 3, 9), r"the label of row 9 \(test\) is 3, and the 3 classes of the training images are 0 to 2"),
    (put("y", -1, 4), r"the label of row 4 \(train\) is -1"),
    (put("y", np.arange(60) % 3 + 0.5), r"y of row 0 is 0\.5: whole numbers or strings are needed"),
    (put("y", np.where(np.arange(60) == 7, np.nan, np.arange(60) % 3)), "y of row 7 is nan: whole numbers or strings"),
    (put("y", np.arange(60) % 3 > 1), "y holds values of type bool: whole numbers or strings are needed"),
    (put("y", np.arange(60) % 3 * 2), "of classes 0 to 4, but none is of class 1: number the classes from 0 on"),
    (put("y", np.arange(60) % 3 + 2**40), "but none is of class 0: number the classes from 0 on without gaps"),
    (put("y", np.arange(60) % 3 - 1), r"the label of row 0 \(train\) is -1: classes count from 0 on"),
    (
        put("y", np.eye(3, dtype=int)[np.arange(60) % 3]),
        r"x has 60 rows, y is \(60, 3\): one label for each row",
    ),
    (put("split", np.full(60, b"\xe9tude")), "split holds bytes that are not UTF-8: save strings"),
    (put("y", np.array([b"a", b"\xff", b"c"] * 20)), "y holds bytes that are not UTF-8: save strings"),
    (put("x", np.zeros((60, 0))), r"x is float64 \(60, 0\): numbers \[N, D\] are needed"),
    (put("y", np.zeros(60, int)), "all training images are of one class, 0"),
    (put("class_names", NAMES[:2]), r"the label of row 2 \(train\) is 2, and the 2 classes .* are 0 to 1"),
    (put("class_names", np.array(["a", "b", "a"])), "class_names holds a name twice"),
    (put("class_names", np.array(["a", "b", "c", "d"])), "class d has no training image"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_wrong_files_are_one_line(change: Callable[[dict[str, Any]], None], message: str, tmp_path: Path) -> None:
    data: dict[str, Any] = arrays()
    change(data)
    path = to_npz(data, tmp_path / "wrong")
    with pytest.raises(UserError, match=message) as error:
        _ = GivenFeatures(path).survey
    assert str(error.value).startswith(f"features={path}: ") and "\n" not in str(error.value)


def test_labels_that_training_does_not_know(tmp_path: Path) -> None:
    data = arrays()
    data["y"] = NAMES[data["y"]].astype("<U9")
    data["y"][9] = "dragonfly"
    with pytest.raises(
        UserError, match=r"the label of row 9 \(test\) is dragonfly, and the 3 classes .* are ant to cat"
    ):
        GivenFeatures(to_npz(data, tmp_path / "one"))
    split = {**apart(arrays()), "x_test": np.zeros((12, 5), np.float32)}
    with pytest.raises(UserError, match=r"x_test is float32 \(12, 5\): .* as wide as the \(36, 4\) of x_train"):
        GivenFeatures(to_npz(split, tmp_path / "two"))
    with pytest.raises(UserError, match="numbers here and strings there"):
        GivenFeatures(to_npz({**apart(arrays()), "y_test": NAMES[np.arange(12) % 3]}, tmp_path / "three"))


@pytest.mark.parametrize("name", ["x_valid", "x", "y_val", "group"])
def test_rows_that_would_not_be_used_are_refused(name: str, tmp_path: Path) -> None:
    """A validation split of another name must not be left out without a word."""
    data = {key: values for key, values in apart(arrays()).items() if "val" not in key}
    path = to_npz({**data, name: data["y_test"] if name[0] == "y" else data["x_test"]}, tmp_path / "features")
    with pytest.raises(
        UserError, match=f"{name} would not be used: beside x_train, allowed are x_train, y_train, x_val"
    ):
        GivenFeatures(path)


def test_parquet_tables_may_hold_more_but_not_less(tmp_path: Path) -> None:
    data = arrays()
    same = GivenFeatures(to_npz(data, tmp_path / "same")).survey.digest
    more = {**data, "x_centre": data["x"][:, 0], "y_centre": data["x"][:, 1], "path": NAMES[data["y"]]}
    assert GivenFeatures(to_parquet(more, tmp_path / "more")).survey.digest == same
    wide = {**{f"x_{number}": column for number, column in enumerate(data["x"].T)}, "y": data["y"], "file": data["y"]}
    with pytest.raises(
        UserError, match=r"there is no column x, .*; it holds x_0, x_1, x_2, x_3, y and 1 more: make one"
    ):
        GivenFeatures(to_parquet(wide, tmp_path / "wide"))
    missing = NAMES[data["y"]].astype(object)
    missing[8] = None
    with pytest.raises(UserError, match="y of row 8 is None: whole numbers or strings are needed"):
        GivenFeatures(to_parquet({**data, "y": missing}, tmp_path / "missing"))


def test_lists_of_unequal_length_are_refused_also_where_they_add_up(tmp_path: Path) -> None:
    def of(lengths: list[int]) -> Path:
        rows = [np.zeros(length, np.float32) for length in lengths]
        ragged = np.array([*rows, None], object)[:-1]
        return to_parquet({**arrays(len(lengths)), "x": ragged}, tmp_path / "ragged")

    for lengths, told in (
        ([4] * 20 + [3, 5] + [4] * 20, "such as 4 and 3"),
        ([4] * 13 + [8] * 26, "such as 4 and 8"),
        ([4] * 13 + [2] * 26, "such as 4 and 2"),
    ):
        with pytest.raises(UserError, match=f"column x holds lists that differ in length, {told}: each must be one"):
            _ = GivenFeatures(of(lengths)).survey


def test_files_that_are_none(tmp_path: Path) -> None:
    cut = to_npz(arrays(), tmp_path / "cut")
    cut.write_bytes(cut.read_bytes()[:900])
    objects = tmp_path / "objects.npz"
    np.savez(objects, x=np.array([{}], object), y=np.zeros(1), split=np.array(["train"]))
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.csv").write_text("x,y\n")
    for path, message in (
        (cut, r"cannot be read \(.*\): write it anew"),
        (objects, "it holds Python objects: save numbers and strings"),
        (tmp_path / "empty", "there is no x: .*; it holds nothing"),
        (tmp_path / "a.csv", "allowed are .npz, .h5, .hdf5, .parquet, or a folder"),
        (tmp_path / "none.npz", "there is no such file"),
    ):
        with pytest.raises(UserError, match=message) as error:
            GivenFeatures(path)
        assert str(error.value).startswith(f"features={path}"), error.value


def h5(change: Callable[[h5py.File], Any]) -> Writer:
    """Writes an HDF5 file of the arrays in which `change` puts another x."""

    def write(data: dict[str, np.ndarray], path: Path) -> Path:
        with h5py.File(path.with_name("other.h5"), "w") as other:
            other["x"] = data["x"]
        path = to_hdf5({**data, "x": np.zeros(0)}, path)
        with h5py.File(path, "r+") as file:
            del file["x"]
            change(file)
        return path

    return write


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((60, 4), np.float32)
    layout[:] = h5py.VirtualSource("other.h5", "x", (60, 4))
    file.create_virtual_dataset("x", layout)


def linked(link: Any) -> Callable[[h5py.File], None]:
    return lambda file: file.__setitem__("x", link)


def room(shape: tuple[int, ...], **how: Any) -> Callable[[h5py.File], Any]:
    """A column that claims values and stores none."""
    return lambda file: file.create_dataset("x", shape, np.float32, **how)


FOREIGN = [
    (h5(linked(h5py.ExternalLink("other.h5", "x"))), "x is a link, which may lead to another file: store the values"),
    (h5(linked(h5py.SoftLink("/x"))), "x is a link"),
    (h5(linked(h5py.SoftLink("/nowhere"))), "x is a link"),
    (h5(virtual), "x has its values in another file: store them in this one"),
    (h5(room((60, 4), external=[("other.h5", 0, 960)])), "x has its values in another file"),
    (
        h5(room((2_000_000_000, 16), chunks=(1000, 16))),
        r"x is float32 \(2000000000, 16\), 128,000,000,000 bytes, which a",
    ),
    (h5(room((60, 1_000_000), chunks=(60, 1_000_000))), "x is float32 .60, 1000000., 240,000,000 bytes, which a file"),
    (h5(room((60, 4), maxshape=(None, 4), chunks=(1 << 25, 4))), "x is stored in chunks of .33554432, 4.: a chunk may"),
]


@pytest.mark.parametrize(("write", "message"), FOREIGN)
def test_what_leads_out_of_the_file_or_cannot_be_in_it_is_refused(write: Writer, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as error:
        GivenFeatures(write(arrays(), tmp_path / "given"))
    assert str(error.value).startswith("features=") and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["given.npz", "given.h5", "folder/x.npy"])
def test_a_pipe_is_not_waited_for(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / name)
    given = tmp_path / name.partition("/")[0]
    with pytest.raises(UserError, match=f"features={given}: {Path(name).name} is no file"):
        GivenFeatures(given)


def test_damage_in_the_middle_of_compressed_features_is_one_line(tmp_path: Path) -> None:
    path = to_compressed(arrays(4000), tmp_path / "given")
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 16] ^= 1  # the checksum of x
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"features=.*: it cannot be read \(BadZipFile: Bad CRC-32.*\): write it anew$"):
        _ = GivenFeatures(path).survey


def test_float16_says_what_does_not_fit(tmp_path: Path) -> None:
    data = arrays()
    data["x"][0] = 1e6
    given = GivenFeatures(to_npz(data, tmp_path / "large"))
    store = FeatureStore(tmp_path / "features.h5", "key", "float16")
    with pytest.raises(UserError, match=r"one is beyond float16.*: use feature_dtype=float32"):
        given.write(store, {"train": given.rows("train")}, 1.0)
    assert not list(tmp_path.glob("features.h5*"))
    given.write(store, {"train": given.rows("train")}, given.survey.rms)
    assert store.read("train")[0].dtype == np.float16


def test_an_npz_of_numpy_is_where_it_is_looked_for(tmp_path: Path) -> None:
    """Large files are written with further fields in the zip's headers."""
    path = tmp_path / "zip64.npz"
    data = arrays()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, values in data.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, values)
    assert np.array_equal(np.concatenate([piece for _, piece in GivenFeatures(path).pieces()]), data["x"])
