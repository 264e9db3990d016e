"""python -m fastlt.predict: files as they come, what is told of them, and wrong input."""

import io
import json
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from commands import ROOT, refusal
from finished_run import CLASSES, SIZE, change, linear, make_run, pictures, predict, rows
from pictures import jpeg, picture
from PIL import Image

from fastlt.core.errors import UserError
from fastlt.core.log import printed
from fastlt.predict.__main__ import main
from fastlt.predict.images import ahead
from fastlt.predict.output import Csv, JsonLines, Prediction, Row, Table
from fastlt.predict.paths import Paths
from fastlt.predict.predictor import Predictor

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("pictures") / "root")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", {"joint": linear(1), "crt": linear(2), "lws": linear(3)})


# --- files as they come ---


def bad_files(folder: Path, good: bytes) -> dict[str, str]:
    """Files without prediction, among them `good.jpg`, and what is said of each."""
    folder.mkdir()
    (folder / "good.jpg").write_bytes(good)
    (folder / "cut off.jpg").write_bytes(good[: len(good) // 2])
    (folder / "text.jpg").write_text("no image")
    (folder / "empty.png").write_bytes(b"")
    (folder / "bomb.png").write_bytes(_claims(60_000, 60_000))
    (folder / "large.png").write_bytes(_claims(12_000, 10_000))
    (folder / "nowhere.jpg").symlink_to(folder / "gone.jpg")
    return {
        "good.jpg": "",
        "cut off.jpg": "the file is truncated",
        "text.jpg": "no image format known to Pillow",
        "empty.png": "the file is empty",
        "bomb.png": "more than twice the 100000000 pixels that max_pixels allows",
        "large.png": "12000 x 10000 pixels, max_pixels=100000000 allows fewer",
        "nowhere.jpg": "No such file or directory",
    }


def _claims(width: int, height: int) -> bytes:
    """A PNG of one pixel whose header claims another size."""
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1)).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[16:24] = width.to_bytes(4) + height.to_bytes(4)

    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4)
    return bytes(data)


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_bad_files_have_a_row_and_the_others_go_on(batch: int, run: Path, tmp_path: Path) -> None:
    reasons = bad_files(tmp_path / "new", jpeg(picture(1, 50, 60)))
    given = [tmp_path / "new" / name for name in reasons] * 2
    code, out, err = predict(run, *given, "--format", "csv", "--batch", batch)
    assert code == 1
    found = rows(out)
    assert [row["path"] for row in found] == [str(path) for path in given]
    assert [row["error"] for row in found] == list(reasons.values()) * 2
    assert [row["class_1"] != "" for row in found] == [not reason for reason in reasons.values()] * 2
    assert err.splitlines()[-1].endswith(", 12 failed")


def test_what_is_no_file(run: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with (tmp_path / "huge.jpg").open("wb") as file:
        file.truncate(3 << 30)
    code, out, _ = predict(run, tmp_path / "pipe.jpg", tmp_path / "huge.jpg", tmp_path / "gone", "", "--format", "csv")
    assert code == 1
    missing = "No such file or directory"
    assert [row["error"] for row in rows(out)] == ["not a file", "3,072 MB, the limit is 1,024", missing, missing]


def test_folders_are_read_below_and_in_order(run: Path, tmp_path: Path) -> None:
    new, image = tmp_path / "new", jpeg(picture(1, 40, 40))
    names = ["B/x.JPG", "a/b/c.png", "a/b.jpeg", "a.jpg", "z.webp", "z.jfif", "z.pgm"]
    for name in [*names, "a/notes.txt", ".hidden/x.jpg", ".x.jpg", "folder.jpg/in it.jpg"]:
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        (new / name).write_bytes(image)
    (new / "a" / "loop").symlink_to(new, target_is_directory=True)
    (new / "self").symlink_to(new / "self")
    os.mkfifo(new / "pipe.jpg")
    with Paths([str(new), str(new / "a.jpg")], io.BytesIO()) as paths:
        expected = ["B/x.JPG", "a/b/c.png", "a/b.jpeg", "a.jpg", "folder.jpg/in it.jpg", "z.jfif", "z.pgm", "z.webp"]
        assert list(paths) == list(paths) == [str(new / name) for name in [*expected, "a.jpg"]]
        assert (paths.count, paths.longest) == (9, len(str(new / "folder.jpg/in it.jpg")))
    code, out, err = predict(run, new, "--format", "csv")
    assert (code, len(rows(out))) == (0, 8)
    assert (
        f"note: left out of {new}: 1 .txt file (a/notes.txt), 1 file without an extension (self), 1 link to a folder "
        "that is read elsewhere (a/loop), 2 names with a leading dot (.hidden), 1 pipe or device (pipe.jpg)"
    ) in err


def test_paths_on_stdin(run: Path, tmp_path: Path) -> None:
    image = jpeg(picture(1, 40, 40))
    odd = [" blank at both ends .jpg", "größe.jpg", 'comma, "quoted".jpg', os.fsdecode(b"not utf-8 \xff.jpg")]
    for name in odd:
        (tmp_path / name).write_bytes(image)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "line\nbreak.jpg").write_bytes(image)
    given = [*(str(tmp_path / name) for name in odd), str(tmp_path / "folder"), str(tmp_path / "nul\0.jpg")]
    stdin = b"\n" + b"\n\n".join(map(os.fsencode, given))
    expected = [*given[:4], str(tmp_path / "folder" / "line\nbreak.jpg"), given[5]]
    for layout in ("csv", "jsonl", "table"):
        code, out, _ = predict(run, "-", given[0], "--format", layout, stdin=stdin)
        assert code == 1
        if layout == "csv":
            found = [row["path"] for row in rows(out.replace("\0", "NUL"))]
            assert found == [path.replace("\0", "NUL") for path in [*expected, given[0]]]
        elif layout == "jsonl":
            assert "größe" in out
            told = [json.loads(line) for line in out.splitlines()]
            assert [row["path"] for row in told] == [*expected, given[0]]
            assert [row["error"] for row in told] == [None] * 5 + ["embedded null byte", None]
        else:
            lines = out.splitlines()
            assert len(lines) == 1 + 7
            assert "not utf-8 \\udcff.jpg" in lines[4]
            assert "line\\nbreak.jpg" in lines[5]


def test_nothing_that_a_terminal_obeys_is_printed() -> None:
    assert printed("plain größe 写真") == "plain größe 写真"
    assert printed("a\x1b[2Jb\tc\udcff\U000e0001") == "a\\x1b[2Jb\\tc\\udcff\\U000e0001"
    table = Table(1, ["\x1b[31mred"], 1)
    assert "\x1b" not in table.line(Row("\x1b", [Prediction("\x1b[31mred", 0.5, "few")])) + table.line(
        Row("a", error="bad \x1b")
    )


# --- how it is told ---


CAT, DOG = Prediction("cat, tabby", 0.87654321, "many"), Prediction("dog", 1e-7, "medium")


def test_layouts() -> None:
    good, bad = Row("a b.jpg", [CAT, DOG]), Row("c.jpg", error='is "damaged"')
    table, commas, lines = Table(2, ["cat, tabby", "dog", "x" * 30], 9), Csv(2), JsonLines()
    assert table.head + table.line(good) + table.line(bad) == (
        "image      class 1                                 class 2\n"
        "a b.jpg    cat, tabby               0.8765 many    dog                      0.0000 medium\n"
        'c.jpg      error: is "damaged"\n'
    )
    long = Row("a", [Prediction("x" * 30, 1.0, "few")])
    assert Table(1, ["x" * 30], 1).line(long) == f"a      {'x' * 12}…{'x' * 11} 1.0000 few\n"
    assert commas.head + commas.line(good) + commas.line(bad) == (
        "path,class_1,confidence_1,group_1,class_2,confidence_2,group_2,error\n"
        'a b.jpg,"cat, tabby",0.8765,many,dog,0.0000,medium,\n'
        'c.jpg,,,,,,,"is ""damaged"""\n'
    )
    assert lines.head == ""
    best = [
        {"class": "cat, tabby", "confidence": 0.8765, "group": "many"},
        {"class": "dog", "confidence": 0.0, "group": "medium"},
    ]
    assert [json.loads(lines.line(row)) for row in (good, bad)] == [
        {"path": "a b.jpg", "predictions": best, "error": None},
        {"path": "c.jpg", "predictions": [], "error": 'is "damaged"'},
    ]


def test_layouts_of_prediction_sets() -> None:
    good, bad = Row("a", [CAT], members=["cat, tabby", "dog"]), Row("b", error="is damaged")
    table, commas = Table(1, ["cat, tabby", "dog"], 1, sets=True), Csv(1, sets=True)
    assert table.line(good) == "a      cat, tabby 0.8765 many    2: cat, tabby, dog\n"
    many = Row("a", [CAT], members=[f"c{i}" for i in range(12)])
    assert table.line(many).endswith("  12: c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, 2 more\n")
    assert commas.head == "path,class_1,confidence_1,group_1,set,error\n"
    found = rows(commas.head + commas.line(good) + commas.line(bad))
    assert json.loads(found[0]["set"]) == ["cat, tabby", "dog"]
    assert (found[1]["set"], found[1]["error"]) == ("", "is damaged")
    assert json.loads(JsonLines().line(good))["set"] == ["cat, tabby", "dog"]


def test_top_is_cut_to_the_classes_there_are(run: Path, root: Path) -> None:
    image = next(iter((root / "test" / CLASSES[0]).iterdir()))
    for top, told in ((1, 1), (2, 2), (3, 3), (5, 3), (1000, 3)):
        _, out, _ = predict(run, image, "--top", top, "--format", "csv")
        (row,) = rows(out)
        assert list(row)[-2:] == [f"group_{told}", "error"]
        confidences = [float(row[f"confidence_{rank}"]) for rank in range(1, told + 1)]
        assert confidences == sorted(confidences, reverse=True)
        assert told < 3 or sum(confidences) == pytest.approx(1, abs=2e-4)


def test_the_classifier_is_told_once(run: Path, root: Path) -> None:
    folder = root / "test" / CLASSES[0]
    _, out, err = predict(run, folder)
    assert out.splitlines()[0].split() == ["image", "class", "1", "class", "2", "class", "3"]
    assert err.splitlines()[0] == f"classifier crt of {run}, 9 images"
    assert err.splitlines()[-1].startswith("9 images in ")
    _, out, err = predict(run, folder, "--format", "csv", "--classifier", "joint")
    assert out.startswith("path,class_1")
    assert err.startswith(f"classifier joint of {run}, 9 images\n")


def test_out(run: Path, root: Path, tmp_path: Path) -> None:
    folder, out = root / "test" / CLASSES[2], tmp_path / "new" / "predictions.csv"
    _, expected, _ = predict(run, folder, "--format", "csv")
    code, stdout, err = predict(run, folder, "--format", "csv", "--out", out)
    assert (code, stdout) == (0, "")
    assert err.splitlines()[-1].endswith(f", 0 failed: {out}")
    assert out.read_text(encoding="utf-8") == expected
    assert [path.name for path in out.parent.iterdir()] == ["predictions.csv"]


def test_few_images_are_worked_on_ahead() -> None:
    taken = []

    def items() -> Iterator[int]:
        for i in range(50):
            taken.append(i)
            yield i

    for done, result in enumerate(ahead(lambda i: i * i, items(), 3, 8)):
        assert result == done * done
        assert len(taken) <= done + 9
    assert len(taken) == 50


def test_nobody_reads_on(run: Path, root: Path) -> None:
    folders = [str(root / "test")] * 40
    command = [sys.executable, "-m", "fastlt.predict", str(run), *folders, "--threads=1", "--batch=1", "--device=cpu"]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline().startswith("image ")
        process.stdout.close()
        err = process.stderr.read()
    assert process.returncode == 141
    assert err == f"classifier crt of {run}, 1,080 images\n"


# --- wrong input ---


def refused(run: Path, *arguments: object) -> str:
    return refusal(lambda: main([str(run), *map(str, arguments)]), cwd=run.parent)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.jpg", "--classifier", "ncm_l2"], "--classifier=ncm_l2 is not in .*run: allowed are joint, crt, lws$"),
        (["x.jpg", "--top", "0"], "--top=0: it must be 1 or more"),
        (["x.jpg", "--batch", "-1"], "--batch=-1: it must be 1 or more"),
        (["x.jpg", "--threads", "-1"], "threads=-1: it must be 0"),
        (["x.jpg", "--device", "tpu"], "device=tpu is unknown: allowed are auto, cpu, cuda"),
        (["x.jpg", "--format", "xml"], "--format: invalid choice: 'xml'.*see python -m fastlt.predict --help"),
        (["x.jpg", "--top", "five"], "--top: invalid int value: 'five'"),
        ([], "the following arguments are required: PATH"),
        (["none"], "none: no image in this folder; give one that has some"),
        (["x.jpg", "--out", "none"], "--out=none is a folder: give the name of a file in it"),
        (["x.jpg", "--out", "taken"], "--out=taken exists: choose another name"),
        (["x.jpg", "--features", "a.csv"], "--features=a.csv: allowed endings are .parquet, .h5, .npz$"),
        (["x.jpg", "--features", "a.h5", "--out", "a.h5"], "--out=a.h5 and --features=a.h5 are one file: give two"),
        (["x.jpg", "--coverage", "0.9"], "coverage=0.9: crt has no held-out images .*: train with a val split"),
        (["x.jpg", "--out", "taken/x.csv"], "--out=taken/x.csv cannot be written .*: move the file away"),
    ],
)
def test_wrong_input(arguments: list[str], message: str, run: Path) -> None:
    (run.parent / "none").mkdir()
    (run.parent / "taken").touch()
    line = refused(run, *arguments)

    assert re.search(message, line), line


def test_no_path_on_stdin(run: Path) -> None:
    code, out, err = predict(run, "-", stdin=b"\n\r\n")
    assert (code, out) == (2, "")
    assert err == "error: no path on stdin: give one image file or folder a line\n"


def test_a_run_that_is_not_whole(run: Path, tmp_path: Path) -> None:
    assert "no such run: no such folder of a run" in refused(tmp_path / "no such run", "x.jpg")
    kept = run / "classifiers" / "crt.pt"
    whole = torch.load(kept, weights_only=True)
    for state, message in (
        ({**whole, "key": "another"}, "is not the classifier that .*results.json tells of"),
        ({"key": "key of crt"}, "is not the classifier"),
        ({**whole, "checkpoint": "gone.pt"}, "gone.pt does not exist"),
        ({**whole, "tensors": {"weight": torch.zeros(5, 64)}}, "gives 5 scores for 3 classes"),
    ):
        torch.save(state, kept)
        with pytest.raises(UserError, match=message):
            Predictor(run, "crt", CPU).forward(torch.zeros(1, SIZE, SIZE, 3))
    kept.write_bytes(b"damaged")
    with pytest.raises(
        UserError, match=r"is damaged, or no plain file of torch\.save: .*; give its training command again"
    ):
        Predictor(run, "crt", CPU)
    kept.unlink()
    with pytest.raises(UserError, match=r"crt\.pt does not exist.*give its training command again"):
        Predictor(run, "crt", CPU)
    change(run, key="newer")
    with pytest.raises(UserError, match=r"checkpoint\.pt is newer than"):
        Predictor(run, "joint", CPU)
    change(run, classifiers={name: {"error": "its training diverged"} for name in ("crt", "joint")})
    with pytest.raises(UserError, match="no classifier could be fitted"):
        Predictor(run, None, CPU)
    for text, message in (("[]", "allowed is an object"), ("{", "valid JSON")):
        (run / "results.json").write_text(text)
        with pytest.raises(UserError, match=rf"results.json: .*{message}.*; give its training command again"):
            Predictor(run, None, CPU)
