"""Names and order of classes: files that fix it, maps, and everything that would change a label's meaning."""

from pathlib import Path

import numpy as np
import pytest

from fastlt.core.errors import UserError
from fastlt.data.sources.classes import Renumbered, check_names, read_class_names, say_text_order
from fastlt.data.sources.divided import Divided
from fastlt.data.sources.examples import Examples
from fastlt.data.sources.labels import numbered


def file_of(folder: Path, content: str, name: str = "names.txt") -> Path:
    path = folder / name
    path.write_text(content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        "red fox\nowl\nant 7\n",
        "\ufeffred fox\r\n\r\n owl \r\nant 7",
        "owl 1\nred fox 0\nant 7 2\n",
        "ant 7;2\nowl; 1\nred fox;0\n",
        "2: ant 7\n0: red fox\n1: owl\n",
        "1\towl\n2\tant 7\n0\tred fox\n",
        '["red fox", "owl", "ant 7"]',
        '{"owl": 1, "red fox": 0, "ant 7": 2}',
        '{"1": "owl", "2": "ant 7", "0": "red fox"}',
    ],
)
def test_files_of_class_names(tmp_path: Path, content: str) -> None:
    path = file_of(tmp_path, content, "names.json" if content[0] in "[{" else "names.txt")
    assert read_class_names(path) == ["red fox", "owl", "ant 7"]


def test_names_that_end_in_numbers_are_no_map(tmp_path: Path) -> None:
    assert read_class_names(file_of(tmp_path, "class 1\nclass 0\n")) == ["class 1", "class 0"]
    assert read_class_names(file_of(tmp_path, "boeing 707\nboeing 737\n")) == ["boeing 707", "boeing 737"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "a\nmissile\nb\nmissile\n",
            "'missile' is the name of class 1 and of class 3; every class needs a name of its",
        ),
        ("\n", "there is no name in it"),
        ("a\nb\x1b[2J\n", "holds a line break or another control character"),
        ('{"a": 0, "b": 2}', "the numbers must be 0 to 1, each once"),
        ('{"a": 0, "b": 0}', 'expected ["name", ...]'),
        ('{"a": "x"}', 'expected ["name", ...]'),
        ('["a", 1]', 'expected ["name", ...]'),
        ('["a"', "not JSON"),
        ('["a", "a"]', "'a' is the name of class 0 and of class 1"),
    ],
)
def test_refused_files(tmp_path: Path, content: str, message: str) -> None:
    path = file_of(tmp_path, content, "names.json" if content[0] in "[{" else "names.txt")
    with pytest.raises(UserError) as caught:
        read_class_names(path)
    assert str(caught.value).startswith(f"class_names={path}: ") and message in str(caught.value)


def test_names_of_every_script_are_taken_and_control_characters_are_not() -> None:
    """Persian needs a joiner that is no printable character, and some languages their own spaces."""
    names = ["\u06af\u0644\u200c\u0633\u0631\u062e", "\u6771\u4eac\u3000\u99c5", "Bloc\u00a0note"]
    check_names(names, "here")
    assert numbered({"train": names}, lambda *_: "", "here")[0] == sorted(names)
    for strange in ("a\nb", "a\x1b[0m", "a\u2028b", "a\u2029b", "a\x85b", "a\ud800"):
        with pytest.raises(UserError, match="line break or another control character"):
            check_names([strange], "here")
        with pytest.raises(UserError, match="holds a control character"):
            numbered({"train": [strange]}, lambda *_: "", "here")


def pets(*labels: str) -> Examples:
    pairs = [(np.full((2, 2, 3), value, np.uint8), label) for value, label in enumerate(labels)]
    return Examples({"train": pairs, "test": pairs[:1]}, "pets")


def test_another_order_of_classes() -> None:
    source = pets("owl", "fox", "ant", "fox")
    other = Renumbered(source, ["fox", "owl", "ant"])
    for split, listing in other.splits.items():
        before = source.splits[split]
        named = [source.class_names[label] for label in before.labels]
        assert [other.class_names[label] for label in listing.labels] == named and listing.keys == before.keys
        assert np.array_equal(np.asarray(other.load(split, 0)), np.asarray(source.load(split, 0)))
    numbers = Renumbered(pets("1", "0", "2"), ["zero", "one", "two"])
    assert [numbers.class_names[label] for label in numbers.splits["train"].labels] == ["zero", "one", "two"]
    assert numbers.splits["test"].labels.tolist() == [1]


def test_groups_stay_when_classes_are_renumbered() -> None:
    triples = [(np.zeros((2, 2, 3), np.uint8), "ab"[k % 2], f"patient {k // 4}") for k in range(16)]
    source = Renumbered(Examples({"train": triples}, "pets"), ["b", "a"])
    divided = Divided(source, test=0.25)
    place = {split: [int(key.split("/")[1]) // 4 for key in own.keys] for split, own in divided.splits.items()}
    assert len(set(place["test"])) == 1 and not set(place["test"]) & set(place["train"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["owl", "fox", "cat"], "lacks 'ant': it must name each of the 3 classes once"),
        (["owl", "fox", "ant", "cat"], "has 'cat', of which there is no training image"),
        (["owl", "fox"], "lacks 'ant'"),
    ],
)
def test_names_of_other_classes_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Renumbered(pets("owl", "fox", "ant"), names)


def test_numbers_in_the_order_of_their_text_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    say_text_order(["0", "1", "2", "10"])
    say_text_order(["b", "a", "1.5", "2.5"])
    assert capsys.readouterr().err == ""
    say_text_order(["0.0", "1.0", "10.0", "2.0", "x"])
    assert capsys.readouterr().err == (
        "note: class 2 is '10.0' and class 3 is '2.0': the order of their text; class_names=FILE sets another one\n"
    )
