"""CIFAR-LT: the law, the official layout in every packing, hostile and broken input, and the real archive."""

import contextlib
import gzip
import io
import multiprocessing
import os
import pickle
import resource
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastlt.core.errors import UserError
from fastlt.data.sources.base import Source
from fastlt.data.sources.cifar import Cifar
from fastlt.data.sources.cifar_pickle import read_cifar_pickle
from fastlt.data.sources.guess import guessed
from fastlt.data.sources.long_tail import long_tail_counts, long_tail_rows

SHARED = Path(os.environ.get("FASTLT_SHARED") or Path(__file__).parents[3] / "shared")
REAL = SHARED / "data" / "cifar-100-python.tar.xz"
PER_CLASS = {"train": 3, "test": 1}


def rows(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), np.uint8)


def mixed_labels(classes: int, per_class: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(classes), per_class)).tolist()


def cifar100() -> dict[str, Any]:
    files: dict[str, Any] = {"meta": {b"fine_label_names": [b"class %d" % k for k in range(100)]}}
    for seed, (split, per_class) in enumerate(PER_CLASS.items()):
        labels = mixed_labels(100, per_class, seed)
        files[split] = {b"fine_labels": labels, b"coarse_labels": labels, b"data": rows(len(labels), seed)}
    return files


def cifar10() -> dict[str, Any]:
    files: dict[str, Any] = {"batches.meta": {b"label_names": [b"class %d" % k for k in range(10)], b"num_vis": 3072}}
    labels = mixed_labels(10, 20, 0)
    for i in range(5):
        part = labels[i * 40 : i * 40 + 40]
        files[f"data_batch_{i + 1}"] = {b"labels": part, b"data": rows(40, i), b"filenames": [b"x.png"] * 40}
    files["test_batch"] = {b"labels": mixed_labels(10, 2, 9), b"data": rows(20, 9)}
    return files


def packed(files: dict[str, Any]) -> dict[str, bytes]:
    return {
        name: content if isinstance(content, bytes) else pickle.dumps(content, 4) for name, content in files.items()
    }


def write_folder(folder: Path, files: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    for name, content in packed(files).items():
        (folder / name).write_bytes(content)
    return folder


def write_tar(path: Path, folder: str, files: dict[str, Any], mode: str) -> Path:
    with tarfile.open(path, mode) as archive:  # pyright: ignore[reportCallIssue, reportArgumentType]
        for name, content in packed(files).items():
            member = tarfile.TarInfo(f"{folder}/{name}" if folder else name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def same(a: Cifar, b: Cifar) -> None:
    assert a.class_names == b.class_names
    for split in ("train", "test"):
        assert a.splits[split].keys == b.splits[split].keys
        assert np.array_equal(a.splits[split].labels, b.splits[split].labels)
        for index in range(0, len(a.splits[split].keys), 17):
            assert np.array_equal(a.load(split, index), b.load(split, index))


# The law


@pytest.mark.parametrize(
    "classes, largest, imbalance, total, last",
    [
        (100, 500, 100, 10_847, 5),
        (100, 500, 50, 12_608, 10),
        (100, 500, 10, 19_573, 50),
        (10, 5000, 100, 12_406, 50),
        (100, 500, 1, 50_000, 500),
    ],
)
def test_counts_are_the_published_ones(classes: int, largest: int, imbalance: float, total: int, last: int) -> None:
    counts = long_tail_counts(classes, largest, imbalance)
    assert (counts.sum(), counts[0], counts[-1]) == (total, largest, last)
    assert np.all(np.diff(counts) <= 0)
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(classes), largest))
    chosen = long_tail_rows(labels, classes, imbalance, seed=3)
    assert np.array_equal(np.bincount(labels[chosen]), counts)
    assert len(np.unique(chosen)) == len(chosen)


@pytest.mark.parametrize(("classes", "imbalance"), [(100, 100), (100, 50), (10, 100), (10, 200)])
def test_selection_of_ldam_drw(classes: int, imbalance: int) -> None:
    """Against its own way: the global generator, classes in turn, the whole list shuffled in place, a prefix kept."""
    targets = np.random.default_rng(7).permutation(np.repeat(np.arange(classes), 50_000 // classes))
    state = np.random.get_state()
    np.random.seed(0)
    theirs = []
    for j in np.unique(targets):
        kept = int(len(targets) / classes * ((1 / imbalance) ** (j / (classes - 1.0))))
        rows_of_class = np.where(targets == j)[0]
        np.random.shuffle(rows_of_class)
        theirs += sorted(rows_of_class[:kept].tolist())
    np.random.set_state(state)
    assert long_tail_rows(targets, classes, imbalance, 0, "ldam").tolist() == theirs
    assert long_tail_rows(targets, classes, imbalance, 0).tolist() != theirs
    assert long_tail_rows(targets, classes, imbalance, 1, "ldam").tolist() != theirs


def test_groups_of_cifar100_lt() -> None:
    counts = long_tail_counts(100, 500, 100)
    assert ((counts > 100).sum(), ((counts >= 20) & (counts <= 100)).sum(), (counts < 20).sum()) == (35, 35, 30)


def test_choice_depends_on_the_seed_alone_is_fair_and_nested() -> None:
    labels = np.tile(np.arange(10), 500)
    a, again, b = (long_tail_rows(labels, 10, 100, seed) for seed in (0, 0, 1))
    assert np.array_equal(a, again) and not np.array_equal(a, b)
    assert set(a) <= set(long_tail_rows(labels, 10, 10, 0))
    # Bytes of a converted dataset hang on this choice: it must never change.
    assert a[-5:].tolist() == [279, 1339, 1799, 3779, 4329]
    drawn = np.zeros(5000)
    for seed in range(400):
        drawn[long_tail_rows(labels, 10, 100, seed)] += 1
    last = drawn[labels == 9]  # each of the 500 stays with probability 5 / 500
    assert last.sum() == 400 * 5 and last.max() < 20


# The official layout


def test_cifar100(tmp_path: Path) -> None:
    files = cifar100()
    source: Source = Cifar(write_folder(tmp_path / "cifar-100-python", files), imbalance=3)
    assert (
        source.name == "cifar100_lt" and source.class_names[7] == "class 7" and list(source.splits) == ["train", "test"]
    )
    train, test = source.splits["train"], source.splits["test"]
    assert np.array_equal(np.bincount(train.labels), long_tail_counts(100, 3, 3))
    assert train.labels.dtype == np.int64 and np.all(np.diff(train.labels) >= 0)
    assert len(test.keys) == 100 and set(test.keys) == {f"test/{row}" for row in range(100)}
    for split, listing in source.splits.items():
        for index in (0, 50, len(listing.keys) - 1):
            row = int(listing.keys[index].split("/")[1])
            image = source.load(split, index)
            assert isinstance(image, np.ndarray) and image.shape == (32, 32, 3) and image.dtype == np.uint8
            assert image.flags.c_contiguous
            assert np.array_equal(image, files[split][b"data"][row].reshape(3, 32, 32).transpose(1, 2, 0))
            assert files[split][b"fine_labels"][row] == listing.labels[index]
    assert source.where("test", 3) == f"{tmp_path / 'cifar-100-python'}: {test.keys[3]}"


def test_cifar10_joins_its_batches(tmp_path: Path) -> None:
    files = cifar10()
    source = Cifar(write_folder(tmp_path / "cifar-10-batches-py", files), classes=10, imbalance=1)
    assert source.name == "cifar10" and len(source.splits["train"].keys) == 200
    for index, key in enumerate(source.splits["train"].keys):
        batch, row = divmod(int(key.split("/")[1]), 40)
        content = files[f"data_batch_{batch + 1}"]
        assert content[b"labels"][row] == source.splits["train"].labels[index]
        assert np.array_equal(source.load("train", index).transpose(2, 0, 1).reshape(-1), content[b"data"][row])


def test_every_packing_gives_the_same(tmp_path: Path) -> None:
    files = cifar100()
    folder = Cifar(write_folder(tmp_path / "x" / "cifar-100-python", files), imbalance=3, seed=4)
    others = [
        tmp_path / "x",
        write_tar(tmp_path / "a.tar.gz", "cifar-100-python", files, "w:gz"),
        write_tar(tmp_path / "a.tar.xz", "cifar-100-python", files, "w:xz"),
        write_tar(tmp_path / "a.tar.bz2", "./cifar-100-python", files, "w:bz2"),
        write_tar(tmp_path / "bare.tar", "", files, "w"),
        write_tar(tmp_path / "no_suffix", "data/cifar-100-python", dict(reversed(files.items())), "w:gz"),
    ]
    for other in others:
        same(folder, Cifar(other, imbalance=3, seed=4))


def python2_pickle(labels: list[int], data: np.ndarray) -> bytes:
    """What Python 2 and NumPy 1 wrote: protocol 2, byte strings, numpy.core, dtype('u1', 0, 1)."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    def int4(value: int) -> bytes:
        return b"J" + value.to_bytes(4, "little", signed=True)

    content = data.tobytes()
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R"
    dtype += b"(K\x03" + text(b"|") + b"NNN" + int4(-1) + int4(-1) + b"K\x00tb"
    shape = int4(data.shape[0]) + int4(data.shape[1]) + b"\x86"
    array += b"(K\x01" + shape + dtype + b"\x89T" + len(content).to_bytes(4, "little") + content + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"fine_labels") + numbers + b"u."


def test_reads_what_every_python_and_numpy_wrote() -> None:
    data, labels = rows(4, 0), [3, 1, 4, 1]
    content = {b"data": data, "fine_labels": labels}
    spellings = [python2_pickle(labels, data)]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        new = pickle.dumps(content, protocol)
        spellings.append(new)
        if protocol < 4:  # names are plain lines here, from protocol 4 on they carry their length
            spellings.append(new.replace(b"numpy._core", b"numpy.core"))
    spellings.append(pickle.dumps({**content, "data": np.asfortranarray(data)}, 4))
    for spelling in spellings:
        read = read_cifar_pickle(spelling, "here")
        assert read["fine_labels"] == labels and read["data"].dtype == np.uint8
        assert np.array_equal(read["data"], data)


def test_options_travel_and_load_works_in_a_spawned_worker(tmp_path: Path) -> None:
    source = Cifar(write_folder(tmp_path / "c", cifar100()), imbalance=3, seed=1)
    copy = pickle.loads(pickle.dumps(source))
    assert copy == source and hash(copy) == hash(source)
    same(copy, source)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert np.array_equal(pool.apply(source.load, ("test", 5)), source.load("test", 5))


# Hostile and broken input


class Hostile:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("place", ["whole", "value", "inside"])
def test_runs_nothing(tmp_path: Path, protocol: int, place: str) -> None:
    trap = tmp_path / "trap"
    evil = Hostile(os.system, f"touch {trap}")
    content = {"whole": evil, "value": {b"data": evil}, "inside": {b"fine_labels": [0, [evil]]}}[place]
    files = {**cifar100(), "train": pickle.dumps(content, protocol)}
    for path in (
        write_folder(tmp_path / "c", files),
        write_tar(tmp_path / "c.tar.gz", "cifar-100-python", files, "w:gz"),
    ):
        with pytest.raises(UserError, match=r"train: refused to load 'posix\.system'") as caught:
            Cifar(path)
        assert str(path) in str(caught.value)
    assert not trap.exists()


@pytest.mark.parametrize(
    "evil",
    [
        Hostile(eval, "1"),
        Hostile(getattr, "a", "b"),
        Hostile(np.load, "x"),
        Hostile(np.ndarray, (1 << 40,)),  # the name is admitted, calling it is not
        Hostile(np.zeros(1).dtype.type, 1),
        np.array([Hostile(print, "x")], dtype=object),
        np.zeros((2, 3072), np.float32),
        b"cnumpy\ndtype\n}X\x01\x00\x00\x00aK\x01sb.",  # BUILD on an admitted name itself
        b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR.",
        b"cnumpy.core.multiarray\n_reconstruct\n)R(K\x01J\xff\xff\xff\x7f\x85cnumpy\ndtype\nU\x02u1\x85R\x89U\x01atb.",
        b"\x80\x04\x8c\x02a\n\x8c\x01b\x93.",  # a name with a line break in it
    ],
    ids=lambda evil: "",
)
def test_refuses_everything_else_in_one_line(evil: Any) -> None:
    with pytest.raises(UserError, match=r"^the file: ") as caught:
        read_cifar_pickle(evil if isinstance(evil, bytes) else pickle.dumps({"data": evil}), "the file")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "not a readable CIFAR pickle"),
        (b"<html>\nnot found", "not a readable CIFAR pickle"),
        (pickle.dumps([1, 2]), "holds a list, expected the dict"),
        (pickle.dumps({"data": rows(100, 0)})[:-500], "not a readable CIFAR pickle"),
        ({b"fine_labels": []}, "'data' in train is not uint8 [images, 3072] but no array"),
        ({b"data": rows(100, 0)[:, :3000], b"fine_labels": [0]}, "but shape (100, 3000)"),
        ({b"data": rows(100, 0)}, "'fine_labels' in train is not a list of 100 labels"),
        ({b"data": rows(100, 0), b"fine_labels": list(range(99))}, "is not a list of 100 labels"),
        ({b"data": rows(100, 0), b"fine_labels": list(range(1, 101))}, "holds 100, allowed are 0 to 99"),
        ({b"data": rows(100, 0), b"fine_labels": [-1] * 100}, "holds -1, allowed"),
        ({b"data": rows(100, 0), b"fine_labels": [b"0"] * 100}, "holds a bytes, allowed"),
        ({b"data": rows(100, 0), b"fine_labels": [10**5000] * 100}, "holds a int, allowed"),
        ({b"data": rows(100, 0), b"fine_labels": [0] * 100}, "equally many images of every class, found 0 to 100"),
        ({b"data": rows(0, 0), b"fine_labels": []}, "equally many images of every class, found 0 to 0"),
    ],
)
def test_a_train_file_that_is_not_cifar(tmp_path: Path, content: Any, message: str) -> None:
    path = write_folder(tmp_path / "c", {**cifar100(), "train": content})
    with pytest.raises(UserError) as caught:
        Cifar(path)
    assert message in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "names, message",
    [
        ([b"a"] * 99, "has no list 'fine_label_names' of 100 names"),
        (None, "has no list"),
        ([b"\xff"] * 100, "something that is not a name"),
        ([7] * 100, "something that is not a name"),
    ],
)
def test_wrong_class_names(tmp_path: Path, names: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Cifar(write_folder(tmp_path / "c", {**cifar100(), "meta": {b"fine_label_names": names}}))


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        Cifar(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_path_that_is_not_cifar(tmp_path: Path) -> None:
    assert f"{tmp_path / 'x'}: no such file or folder; expected the python version" in refusal(tmp_path / "x")
    assert f"{tmp_path}: lacks train, test, meta; " in refusal(tmp_path)
    (tmp_path / "page.tar.gz").write_bytes(b"<html>")
    assert "page.tar.gz: not a tar archive, or a damaged one; " in refusal(tmp_path / "page.tar.gz")
    (tmp_path / "empty.tar").write_bytes(b"")
    assert "empty.tar: not a tar archive" in refusal(tmp_path / "empty.tar") or "lacks" in refusal(
        tmp_path / "empty.tar"
    )
    files = {name: content for name, content in cifar100().items() if name != "meta"}
    path = write_tar(tmp_path / "a.tar", "cifar-100-python", files, "w")
    assert "lacks meta; expected" in refusal(path) and "get cifar-100-python.tar.gz from https" in refusal(path)
    # Members of these names in some other folder are someone else's.
    assert "lacks train" in refusal(write_tar(tmp_path / "b.tar", "other", cifar100(), "w"))


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
def test_a_broken_download(tmp_path: Path, mode: str) -> None:
    path = write_tar(tmp_path / "a.tar", "cifar-100-python", cifar100(), mode)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "damaged" in refusal(path)


def test_a_member_larger_than_cifar_is_not_read(tmp_path: Path) -> None:
    member = tarfile.TarInfo("cifar-100-python/train")
    member.size = 1 << 40
    (tmp_path / "a.tar").write_bytes(member.tobuf() + bytes(1024))
    assert "train has 1,099,511,627,776 bytes, more than any file of CIFAR" in refusal(tmp_path / "a.tar")


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """Nothing inside may ask for more than 200 MB."""
    limit = resource.getrlimit(resource.RLIMIT_DATA)
    held = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (int(held.split()[1]) * 1024 + (200 << 20), limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, limit)


@pytest.mark.parametrize("place", ["first", "second"])
@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize("packed", [False, True])
def test_a_header_of_gigabytes_is_not_read(kind: bytes, place: str, packed: bool, tmp_path: Path) -> None:
    header = tarfile.TarInfo("long")
    header.type, header.size = kind, 3 << 30
    start = b"" if place == "first" else tarfile.TarInfo("cifar-100-python").tobuf()
    path = tmp_path / ("a.tar.gz" if packed else "a.tar")
    with gzip.open(path, "wb") if packed else path.open("wb") as file:
        file.write(start + header.tobuf() + bytes(4096))
    if not packed:
        os.truncate(path, 4 << 30)  # sparse: takes no room
    with little_memory():
        if place == "first":
            assert "not a tar archive, or a damaged one" in refusal(path)
            with pytest.raises(UserError, match=r"a\.tar(\.gz)?: no tar archive that can be read"):
                guessed(path)
        else:
            assert "a header of 3,221,225,472 bytes, at most 1,048,576 are read" in refusal(path)


def test_the_other_cifar(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "ten.tar.gz", "cifar-10-batches-py", cifar10(), "w:gz")
    assert refusal(path) == f"{path}: this is CIFAR-10, not CIFAR-100; use dataset=cifar10_lt"
    path = write_folder(tmp_path / "hundred", cifar100())
    assert refusal(path, classes=10) == f"{path}: this is CIFAR-100, not CIFAR-10; use dataset=cifar100_lt"


@pytest.mark.parametrize(
    "options",
    [
        {"classes": 20},
        {"imbalance": 0.5},
        {"imbalance": float("nan")},
        {"imbalance": "x"},
        {"imbalance": True},
        {"imbalance": 4},
        {"seed": -1},
        {"seed": 1.5},
        {"selection": "mine"},
        {"seed": 1 << 32, "selection": "ldam"},
    ],
)
def test_wrong_options(tmp_path: Path, options: dict[str, Any]) -> None:
    name, *_ = options
    path = write_folder(tmp_path / "c", cifar100())
    assert refusal(path, **options).startswith(f"{name}={options[name]!r}: ")


# The real archive


@pytest.mark.skipif(not REAL.exists(), reason=f"the real CIFAR-100 is not there: {REAL}")
def test_real_cifar100() -> None:
    source = Cifar(REAL)
    train, test = source.splits["train"], source.splits["test"]
    counts = np.bincount(train.labels)
    assert (counts.sum(), counts[0], counts[-1], len(test.keys)) == (10_847, 500, 5, 10_000)
    assert np.all(np.bincount(test.labels) == 100)
    assert source.class_names[:2] == ["apple", "aquarium_fish"] and source.class_names[-1] == "worm"
    mean = np.mean([source.load("test", i) for i in range(0, 10_000, 10)], axis=(0, 1, 2)) / 255
    assert np.allclose(
        mean, [0.507, 0.487, 0.441], atol=0.01
    )  # the published mean: planes and colours in the right order
