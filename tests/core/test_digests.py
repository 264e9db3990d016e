"""JSON and YAML files that carry a digest: damage is told in one line, and whatever else may lie in their place."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastlt.core.errors import UserError
from fastlt.core.typed import read_json, signed, unsigned, write_json
from fastlt.core.yaml_file import read_yaml, write_yaml

VALUE = {"name": "größe", "share": 0.1, "counts": [3, 2, 1], "inner": {"none": None, "some": True}}


def test_what_was_written_is_read(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", VALUE)
    write_yaml(tmp_path / "a.yaml", VALUE)
    assert read_json(tmp_path / "a.json") == read_yaml(tmp_path / "a.yaml", "") == VALUE
    assert unsigned(signed(VALUE)) == VALUE
    # Nobody has to have a digest: results are written by other programs, too.
    (tmp_path / "b.json").write_text(json.dumps(VALUE))
    assert read_json(tmp_path / "b.json") == VALUE


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    writers: dict[str, tuple[Callable[..., None], Callable[[Path], Any]]] = {
        "a.json": (write_json, read_json),
        "a.yaml": (write_yaml, lambda path: read_yaml(path, "write it again", always=True)),
    }
    for name, (write, read) in writers.items():
        path = tmp_path / name
        write(path, VALUE)
        whole, found = path.read_bytes(), 0
        for place in range(8 * len(whole)):
            data = bytearray(whole)
            data[place // 8] ^= 1 << place % 8
            path.write_bytes(data)
            try:
                same = {key: one for key, one in dict(read(path)).items() if key in VALUE} == VALUE
            except UserError as error:
                assert str(error).startswith(f"{path}") and "\n" not in str(error)
                found += 1
            else:  # a blank, or the name of the digest in a file that need not have one
                assert same
        assert found > 0.9 * 8 * len(whole)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "holds no keys; again"),
        ("- 1", "holds no keys; again"),
        ("a: ${oc.env:HOME}", "holds ${...} or an alias; again"),
        ("a: &x [1]\nb: *x", "holds ${...} or an alias; again"),
        ("[" * 5000, "is nested too deeply; again"),
        ("a: 1\na: 2", "cannot be read (ConstructorError: while constructing a mapping): again"),
        ("digest: abc\na: 1", "is damaged or was edited: it does not match its digest; again"),
        ("a: " + "x" * (1 << 20), "is larger than 1,048,576 bytes; again"),
    ],
)
def test_other_texts_are_refused(text: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_yaml(path, "again")
    assert str(error.value) == f"{path} {line}"


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", ".", "none"):
        with pytest.raises(UserError, match="is no file; again"):
            read_yaml(tmp_path / name, "again")
