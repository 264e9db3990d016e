"""CSV tables: what a table may look like, what is refused and how, how classes are numbered."""

import gzip
import pickle
import re
from pathlib import Path

import numpy as np
import pytest

from fastlt.core.errors import UserError
from fastlt.data.sources.csv_rows import Columns
from fastlt.data.sources.csv_table import CsvTable

HEADER = "path,label\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    touch(folder, "a.jpg", "b.jpg", "c.jpg")
    return folder


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


def write(root: Path, content: str | bytes, name: str = "table.csv") -> Path:
    path = root.parent / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refusal(root: Path, table: Path, val: Path | None = None, test: Path | None = None) -> str:
    with pytest.raises(UserError) as caught:
        CsvTable(root, table, val, test)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_one_table_with_splits(root: Path) -> None:
    table = write(
        root, "split,path,width,label\ntest,c.jpg,7,owl\ntrain,b.jpg,,owl\nval,c.jpg,,fox\ntrain,a.jpg,,fox\n"
    )
    source = CsvTable(root, table)
    assert list(source.splits) == ["train", "val", "test"]
    assert source.class_names == ["fox", "owl"]
    assert source.splits["train"].keys == ["b.jpg", "a.jpg"]
    assert source.splits["train"].labels.tolist() == [1, 0] and source.splits["train"].labels.dtype == np.int64
    assert source.splits["val"].labels.tolist() == [0] and source.splits["test"].labels.tolist() == [1]
    assert source.load("test", 0) == b"c.jpg" and source.where("val", 0) == root / "c.jpg"
    assert source.name == "pictures"
    copy = pickle.loads(pickle.dumps(source))
    assert copy == source and hash(copy) == hash(source) and copy.load("train", 1) == b"a.jpg"


def test_a_table_per_split(root: Path) -> None:
    table = write(root, HEADER + "a.jpg,x\nb.jpg,y\n")
    val = write(root, "label,path,split\ny,missing.jpg,val\nx,c.jpg,val\n", "val.csv")
    source = CsvTable(root, table, val, test=write(root, HEADER + "c.jpg,y", "test.csv"))
    assert [listing.labels.tolist() for listing in source.splits.values()] == [[0, 1], [1, 0], [1]]
    assert list(CsvTable(root, table).splits) == ["train"]
    with pytest.raises(OSError):
        source.load("val", 0)


def test_what_a_table_may_look_like(root: Path) -> None:
    names = [
        "with some  spaces 7.jpg",
        "Zürich/große Straße.png",
        "日本/写真　一.jpg",
        'a "quoted", name.jpg',
        "x/.hidden.jpg",
    ]
    touch(root, *names)
    text = "\ufeffpath , label\r\n" + "".join(
        '"{}","Käuzchen, klein"\r\n\r\n  \r\n'.format(name.replace('"', '""')) for name in names
    )
    content = (text + " ./x//y/../a.jpg , fox").encode()  # no line break at the end
    source = CsvTable(root, write(root, content))
    assert source.splits["train"].keys == [*names, "x/a.jpg"]
    assert source.class_names == ["Käuzchen, klein", "fox"]
    assert source.splits["train"].labels.tolist() == [0] * len(names) + [1]
    assert source.load("train", 1).decode() == names[1]
    packed = CsvTable(root, write(root, gzip.compress(content), "table.csv.gz"))
    assert packed.splits["train"].keys == source.splits["train"].keys


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ("b a", ["a", "b"]),
        ("10 9 0", ["0", "9", "10"]),  # numbers by value; a gap closes
        ("10 9 x", ["10", "9", "x"]),
        ("07 7", ["07", "7"]),  # two names
        ("١ ٢", ["١", "٢"]),
        ("-1 -2", ["-2", "-1"]),
        ("10.0 2.0 1.0", ["1", "2", "10"]),  # as pandas writes whole numbers where a value is missing
        ("1e1 2.0 1.50", ["1.50", "1e1", "2.0"]),  # no number as a label is written: names
        ("2.5 10 1.5e+00", ["1.5e+00", "2.5", "10"]),
    ],
)
def test_classes_in_the_order_of_their_names(root: Path, labels: str, names: list[str]) -> None:
    files = ["a.jpg", "b.jpg", "c.jpg"]
    rows = [f"{file},{label}" for file, label in zip(files, labels.split(), strict=False)]
    source = CsvTable(root, write(root, HEADER + "\n".join(rows)))
    assert source.class_names == names
    read = [names[label] for label in source.splits["train"].labels]
    assert [text.removesuffix(".0") if "1.0" in labels else text for text in labels.split()] == read


def test_whole_floats_are_the_same_numbers_in_every_table(root: Path) -> None:
    table = write(root, HEADER + "a.jpg,10\nb.jpg,2\n")
    test = write(root, HEADER + "c.jpg,2.0\na.jpg,1.0e+01\n", "test.csv")
    source = CsvTable(root, table, test=test)
    assert source.class_names == ["2", "10"] and source.splits["test"].labels.tolist() == [0, 1]
    missing = write(root, HEADER + "a.jpg,0.0\nb.jpg,nan\n")
    assert refusal(root, missing).startswith(f"{missing}: the label 'nan' stands among numbers: rows without a class")
    infinite = write(root, HEADER + "a.jpg,0.0\nb.jpg,inf\n")
    assert refusal(root, infinite).startswith(f"{infinite}: the label 'inf' stands among numbers: rows without a class")


def test_separators_header_names_and_backslashes(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    touch(root, "x y/d.jpg", "x y/e\\f.jpg")
    rows = [("x y\\d.jpg", "fox; red"), ("x y/e\\f.jpg", "owl"), ("a.jpg", "owl")]
    for separator in ",;\t":
        lines = [f'"{path}"{separator}2,5{separator}"{label}"' for path, label in rows]
        head = separator.join(("File Name", "size", "Class"))
        if separator == ",":
            lines = [line.replace("2,5", "2.5") for line in lines]
        for first in ("", f"sep={separator}\r\n", "\r\n"):
            table = write(root, "\ufeff" + first + "\r\n".join([head, *lines]) + "\r\n")
            source = CsvTable(root, table)
            # A backslash that is part of a file's name stays.
            assert source.splits["train"].keys == ["x y/d.jpg", "x y/e\\f.jpg", "a.jpg"]
            assert source.class_names == ["fox; red", "owl"]
            assert f"{table}: paths from column 'File Name', labels from 'Class'" in capsys.readouterr().err
    assert "absolute path" in refusal(root, write(root, HEADER + "C:\\a.jpg,x\n"))
    assert "leaves the root" in refusal(root, write(root, HEADER + "..\\a.jpg,x\n"))


def test_columns_that_are_named(root: Path) -> None:
    rows = ["c.jpg,a.jpg,owl,x,1,Valid", "c.jpg,b.jpg,fox,y,2,TRAINING", ",c.jpg,owl,x,3,train"]
    table = write(root, "\n".join(["img,file,kind,label,subset,use", *rows]))
    columns = Columns("file", "kind", "use", "subset")
    source = CsvTable(root, table, columns=columns)
    assert source.splits["train"].keys == ["b.jpg", "c.jpg"] and source.splits["val"].keys == ["a.jpg"]
    assert source.class_names == ["fox", "owl"] and source.splits["train"].groups == ["2", "3"]
    for wrong, message in (
        (Columns(), "more than one column may be meant, img, file: say path_column=NAME"),
        (Columns("nowhere"), "path_column=nowhere is no column: there are img, file, kind, label, subset, use"),
        (Columns("file", "file"), "path and label are the same column, file"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            CsvTable(root, table, columns=wrong)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("c.jpg", "1 field where the header has 2; put a field that holds a separator in double quotes"),
        ("c,c.jpg,x", "3 fields where the header has 2"),
        (",x", "no path; give the path of an image"),
        ("c.jpg, ", "no label; give the name of the class"),
        ('c.jpg,"x\ny"', "holds a line break or another control character"),
        ('"c\n.jpg",x', "the path holds a line break; rename the file"),
        ("c\0.jpg,x", "the path holds a NUL byte"),
        ("/data/c.jpg,x", "absolute path; allowed are paths relative to the root"),
        ("../c.jpg,x", "this path leaves the root; allowed are paths to files below it"),
        ("x/../../c.jpg,x", "this path leaves the root"),
        ("a.jpg,y", "already listed in line 2; list every image once per split"),
        ("./a.jpg,x", "already listed in line 2"),
    ],
)
def test_a_wrong_row_is_named(root: Path, row: str, problem: str) -> None:
    end = "" if "already" in problem else "\nnever,reached,here\n"
    table = write(root, f'{HEADER}a.jpg,x\n"b.jpg","x"\n\n{row}{end}')
    message = refusal(root, table)
    assert message.startswith(f"{table} line 5: ") and problem in message and len(message) < 600


def test_quotes_that_are_not_closed(root: Path) -> None:
    table = write(root, HEADER + 'a.jpg,x\n"b.jpg,x\nc.jpg,x\n')
    assert refusal(root, table) == (
        f"{table} line 3: this row is no CSV (unexpected end of data); look for a quote that is not closed"
    )
    write(root, HEADER + 'a.jpg,x\n"b.jpg,x\n' + "c.jpg,x\n" * 20_000)
    assert f"{table} line 3: this row is no CSV (field larger than field limit" in refusal(root, table)
    write(root, "path,label\ra.jpg,x\r")
    assert refusal(root, table).endswith("(a carriage return in it); save the table with lines that end in a line feed")


def test_headers(root: Path) -> None:
    table = write(root, "a;b\na.jpg;x\n")
    assert refusal(root, table) == (
        f"{table} line 1: 'a,b': the header lacks path and label: say path_column=NAME and label_column=NAME; expected "
        "a CSV file with a header, such as `path,label` or `path,label,split`"
    )
    assert "line 2: 'path,kind': the header lacks label: say" in refusal(root, write(root, "\npath,kind\na.jpg,x\n"))
    assert "the header names label twice" in refusal(root, write(root, "path,label,label\na.jpg,x,x\n"))
    assert "this table is empty; expected a CSV" in refusal(root, write(root, "\n \n"))
    assert "no row under the header" in refusal(root, write(root, HEADER))


def test_files_that_cannot_be_read(root: Path) -> None:
    missing = root.parent / "nowhere.csv"
    assert f"{missing}: cannot read this file (No such file or directory); expected a CSV file" in refusal(
        root, missing
    )
    assert "cannot read this file" in refusal(root, write(root, gzip.compress(HEADER.encode() * 999)[:-9]))
    table = write(root, (HEADER + "a.jpg,x\nb.jpg,Gr\xfc\xdfe\n").encode("latin1"))
    assert refusal(root, table) == f"{table} line 3: not UTF-8; save the table as UTF-8"
    table = write(root, HEADER + "a.jpg,x\n")
    wrong = root / "nowhere"
    assert f"root={wrong}: no such folder" in refusal(wrong, table)
    assert f"none of the first images in {table} is there" in refusal(root.parent, table)


def test_splits(root: Path) -> None:
    table = write(root, "path,label,split\na.jpg,x,train\nb.jpg,x,fold 1\n")
    assert (
        refusal(root, table) == f"{table} line 3: 'b.jpg,x,fold 1': unknown split 'fold 1'; allowed: train, val, test"
    )
    assert "no row for training" in refusal(root, write(root, "path,label,split\na.jpg,x,test\n"))
    table = write(root, "path,label,split\na.jpg,x,train\nb.jpg,x,test\n")
    other = write(root, HEADER + "c.jpg,x\n", "test.csv")
    assert f"test={other}: {table} has rows of this split already" in refusal(root, table, test=other)
    write(root, "path,label,split\nc.jpg,x,test\n", "test.csv")
    assert "unknown split 'test'; allowed: val" in refusal(root, table, val=other)
    # The same image in two splits is allowed, in one split it is not.
    assert len(CsvTable(root, write(root, "path,label,split\na.jpg,x,train\na.jpg,x,test")).splits) == 2
    table = write(root, "path,label,split\na.jpg,x,train\nb.jpg,x,test\na.jpg,x,test\n\nb.jpg,x,test")
    assert f"{table} line 6: 'b.jpg,x,test': already listed in line 3" in refusal(root, table)


def test_a_class_that_train_lacks(root: Path) -> None:
    table = write(root, "path,label,split\na.jpg,x,train\nb.jpg,x,test\nc.jpg,y,test\n")
    assert refusal(root, table) == (
        f"{table} line 4: 'c.jpg,y,test': class 'y' has no training image; allowed: the labels of the training "
        f"rows of {table}"
    )
    table = write(root, "path,label,split\na.jpg,x,train\nb.jpg,y,test\nc.jpg,z,test\n")
    assert "line 3: 'b.jpg,y,test': classes 'y', 'z' have no training image; allowed" in refusal(root, table)
    table = write(root, HEADER + "a.jpg,x\n")
    test = write(root, "label,path\nx,b.jpg\n\nX,c.jpg\n", "test.csv")
    assert f"{test} line 4: 'X,c.jpg': class 'X' has no training image" in refusal(root, table, test=test)
