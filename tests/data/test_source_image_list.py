"""Lists of images: what a line may say, what is refused and how, names of classes, the real lists of Places-LT."""

import gzip
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from fastlt.core.errors import UserError
from fastlt.data.sources.image_list import ImageList

SHARED = Path(os.environ.get("FASTLT_SHARED") or Path(__file__).parents[3] / "shared")
REAL = SHARED / "data" / "lists"


def write(root: Path, **lists: str | bytes) -> dict[str, Path]:
    """Writes the lists beside the root."""
    paths = {}
    for split, content in lists.items():
        path = root.parent / f"{split}.txt"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        paths[split] = path
    return paths


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    touch(folder, "a.jpg", "b.jpg", "c.jpg")
    return folder


def refusal(root: Path, lists: dict[str, Path], classes: Path | None = None) -> str:
    with pytest.raises(UserError) as caught:
        ImageList(root, lists, classes)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_lists_and_files(root: Path) -> None:
    lists = write(root, train="a.jpg 0\nb.jpg 1\n", val="c.jpg 1", test="c.jpg 0\nmissing.jpg 1\n")
    source = ImageList(root, lists)
    assert list(source.splits) == ["train", "val", "test"]
    assert source.splits["train"].keys == ["a.jpg", "b.jpg"]
    assert source.splits["train"].labels.tolist() == [0, 1] and source.splits["train"].labels.dtype == np.int64
    assert source.load("val", 0) == b"c.jpg" and source.where("val", 0) == root / "c.jpg"
    assert source.name == "pictures" and source.class_names == ["0", "1"]
    with pytest.raises(OSError):
        source.load("test", 1)
    copy = pickle.loads(pickle.dumps(source))
    assert copy == source and hash(copy) == hash(source) and copy.load("train", 1) == b"b.jpg"


def test_what_a_line_may_look_like(root: Path) -> None:
    names = [
        "with some  spaces 7.jpg",
        "Zürich/große Straße.png",
        "日本/写真　一.jpg",
        "dots...jpg",
        "x/.hidden.jpg",
        "7",
    ]
    touch(root, *names)
    text = "\ufeff\r\n" + "".join(f"{name} \t {k % 2}  \r\n\n  \n" for k, name in enumerate(names))
    content = (text + "  ./x//y/../a.jpg 001").encode()  # no line break at the end
    source = ImageList(root, write(root, train=content))
    assert source.splits["train"].keys == [*names, "x/a.jpg"]
    assert source.splits["train"].labels.tolist() == [0, 1, 0, 1, 0, 1, 1]
    assert source.load("train", 1).decode() == names[1]
    packed = ImageList(root, write(root, train=gzip.compress(content)))
    assert packed.splits["train"].keys == source.splits["train"].keys


def test_symbolic_links_may_lead_out_of_the_root(root: Path, tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/d.jpg")
    (root / "link").symlink_to(tmp_path / "elsewhere")
    source = ImageList(root, write(root, train="link/d.jpg 0"))
    assert source.load("train", 0) == b"elsewhere/d.jpg"


@pytest.mark.parametrize(
    "line, problem",
    [
        ("c.jpg", "no label; expected `relative/path label`"),
        ("   1", "no label; expected"),
        ("c.jpg one", "the last field 'one' is no label; expected `relative/path label`, a label is a whole number"),
        ("c.jpg 1.50", "the last field '1.50' is no label"),
        ("c.jpg 1_0", "the last field '1_0' is no label"),
        ("c.jpg +1", "the last field '+1' is no label"),
        ("c.jpg ١", "is no label"),
        ("c.jpg,1", "no label"),
        ("c.jpg -1", "negative label -1; a label is a whole number from 0 to 2147483647"),
        ("c.jpg 2147483648", "label 2147483648 is too large"),
        ("c.jpg " + "9" * 5000, "is too large"),
        ("/data/c.jpg 1", "absolute path; allowed are paths relative to the root"),
        ("../c.jpg 1", "this path leaves the root; allowed are paths to files below it"),
        ("x/../../c.jpg 1", "this path leaves the root"),
        ("x/.. 1", "this path leaves the root"),
        ("c\0.jpg 1", "NUL byte"),
        ("a.jpg 1", "already listed in line 2; list every image once per split"),
        ("./a.jpg 0", "already listed in line 2"),
    ],
)
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_wrong_line_is_named(root: Path, line: str, problem: str, split: str) -> None:
    text = f"\na.jpg 0\nb.jpg 1\n\n{line}\nnever.jpg reached\n" if "already" not in problem else f"\na.jpg 0\n\n{line}"
    lists = {**write(root, train="a.jpg 0\nb.jpg 1"), **write(root, **{split: text})}
    message = refusal(root, lists)
    number = 5 if "already" not in problem else 4
    assert message.startswith(f"{lists[split]} line {number}: ") and problem in message
    assert repr(line.strip()[:200])[:-1] in message and len(message) < 600


def test_not_utf8(root: Path) -> None:
    lists = write(root, train="a.jpg 0\nGr\xfc\xdfe.jpg 0\n".encode("latin1"))
    assert refusal(root, lists) == (
        f"{lists['train']} line 2: 'Gr\\\\xfc\\\\xdfe.jpg 0': not UTF-8; save the list as UTF-8"
    )


def test_gaps_and_unknown_classes(root: Path) -> None:
    lists = write(root, train="a.jpg 0\n\nb.jpg 3\nc.jpg 1")
    assert "line 3: 'b.jpg 3': with this label there are classes 0 to 3, but class 2 has no training image" in refusal(
        root, lists
    )
    gap = "class 0 has no training image; labels count from 0 without gaps; those of a CSV table (dataset=csv, "
    assert gap in refusal(root, write(root, train="a.jpg 1\nb.jpg 2"))
    # A label far out must not ask for memory in proportion.
    assert "class 1 has no training image" in refusal(root, write(root, train="a.jpg 0\nb.jpg 2147483647"))
    lists = write(root, train="a.jpg 0\nb.jpg 1", test="\nb.jpg 1\nc.jpg 2\n")
    assert refusal(root, lists) == (
        f"{lists['test']} line 3: 'c.jpg 2': class 2 has no training image; allowed are the labels 0 to 1 of "
        f"{lists['train']}"
    )


def test_missing_and_empty_lists(root: Path) -> None:
    train = write(root, train="a.jpg 0")["train"]
    missing = root.parent / "nowhere.txt"
    assert f"{missing}: cannot read this file (No such file or directory)" in refusal(root, {"train": missing})
    assert "cannot read this file" in refusal(root, {"train": root})
    assert "this list is empty" in refusal(root, {"train": train, **write(root, val=" \n\n")})
    assert "this list is empty" in refusal(root, {"train": train, **write(root, val=gzip.compress(b""))})
    damaged = write(root, val=gzip.compress(b"a.jpg 0\n" * 1000)[:-9])
    assert "cannot read this file (" in refusal(root, {"train": train, **damaged})
    assert "no train list: give train=LIST" in refusal(root, {"val": train})
    assert "unknown split 'dev': give train=LIST" in refusal(root, {"train": train, "dev": train})


def test_a_wrong_root_fails_at_once(root: Path, tmp_path: Path) -> None:
    lists = write(root, train="a.jpg 0\nb.jpg 0", test="sub/c.jpg 0")
    wrong = tmp_path / "nowhere"
    assert f"root={wrong}: no such folder" in refusal(wrong, lists)
    assert refusal(root, lists).startswith(
        f"root={root}: none of the first images in {lists['test']} is there, tried {root / 'sub/c.jpg'}; give the "
    )
    # One image that is missing is left to the conversion, which reports it.
    ImageList(root, write(root, train="missing.jpg 0\nb.jpg 0"))


def names_of(root: Path, *paths_and_labels: str) -> list[str]:
    touch(root, *(line.rsplit(" ", 1)[0] for line in paths_and_labels))
    return ImageList(root, write(root, train="\n".join(paths_and_labels))).class_names


def test_class_names_from_folders(root: Path) -> None:
    assert names_of(root, "t/fox/1 0", "t/owl/1 1", "t/fox/2 0") == ["fox", "owl"]
    assert names_of(root, "fox/1 1", "owl/1 0") == ["owl", "fox"]
    assert names_of(root, "inn/outdoor/1 0", "bar/outdoor/1 1", "bar/3 2") == ["inn/outdoor", "bar/outdoor", "bar"]
    assert names_of(root, "t/fox/1 0", "t/owl/1 1", "t/cub/1 0") == ["0", "1"]  # class 0 in two folders
    assert names_of(root, "t/1 0", "t/2 1") == ["0", "1"]  # one folder for all
    assert names_of(root, "a.jpg 0") == ["0"]  # no folder


def test_labels_that_are_whole_floats_and_backslashes(root: Path) -> None:
    source = ImageList(
        root, write(root, train="a.jpg 10.0\n.\\b.jpg 0.00\n" + "".join(f"{k}.jpg {k}\n" for k in range(10)))
    )
    assert source.splits["train"].labels.tolist() == [10, *[0], *range(10)]
    assert source.splits["train"].keys[:2] == ["a.jpg", "b.jpg"]


def test_class_names_from_a_file(root: Path) -> None:
    lists = write(root, train="a.jpg 0\nb.jpg 1")
    classes = root.parent / "names.txt"
    classes.write_text("\ufeffred fox\nEule\n\n", encoding="utf-8")
    assert ImageList(root, lists, classes).class_names == ["red fox", "Eule"]
    classes.write_text("one")
    assert refusal(root, lists, classes) == (f"class_names={classes}: 1 name, expected 2: the labels go from 0 to 1")
    classes.write_text("owl\nowl\n")
    assert "'owl' is the name of class 0 and of class 1" in refusal(root, lists, classes)
    classes.write_bytes(b"\xff\nb")
    assert "cannot read (not UTF-8)" in refusal(root, lists, classes)
    assert "cannot read (No such file or directory)" in refusal(root, lists, root / "none")


def test_equal_hashes_are_no_duplicates(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastlt.data.sources.listed.hash", lambda key: len(key), raising=False)
    touch(root, "dd.jpg")
    source = ImageList(root, write(root, train="a.jpg 0\nb.jpg 0\ndd.jpg 0\nc.jpg 0"))
    assert source.splits["train"].keys == ["a.jpg", "b.jpg", "dd.jpg", "c.jpg"]
    lists = write(root, train="a.jpg 0\nb.jpg 0\ndd.jpg 0\nb.jpg 0\na.jpg 0")
    assert "line 4: 'b.jpg 0': already listed in line 2" in refusal(root, lists)


@pytest.mark.skipif(not REAL.exists(), reason=f"the real lists are not there: {REAL}")
def test_real_places_lt(tmp_path: Path) -> None:
    lists = {split: REAL / f"Places_LT_{split}.txt.gz" for split in ("train", "val", "test")}
    for path in lists.values():
        with gzip.open(path, "rt") as file:
            touch(tmp_path, file.readline().split()[0])
    source = ImageList(tmp_path, lists)
    assert [len(listing.keys) for listing in source.splits.values()] == [62_500, 7_300, 36_500]
    counts = np.bincount(source.splits["train"].labels)
    assert (len(counts), counts.max(), counts.min()) == (365, 4980, 5)
    assert source.class_names[0] == "airfield" and len(set(source.class_names)) == 365
