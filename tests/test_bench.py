"""Benchmarks: rows of what they say, and the last line of stdout is one JSON object."""

import json
from pathlib import Path

import pytest
from commands import run
from conftest import jpeg, picture

from fastlt.bench.rows import Row, append, markdown, measure


def test_cases_are_measured_in_turn_and_the_first_round_does_not_count(capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[str] = []
    values = {"a": iter([100.0, 1.0, 2.0, 9.0]), "b": iter([100.0, 4.0, 4.0, 4.0])}

    def case(name: str) -> float:
        calls.append(name)
        return next(values[name])

    rows = measure({name: lambda name=name: case(name) for name in values}, 3, "s")
    assert calls == ["a", "b"] * 4
    assert rows[0] == Row("a", 2.0, pytest.approx(1.4), pytest.approx(6.2), "s")  # type: ignore[arg-type]
    assert rows[1].median == 4
    assert "warm-up: a 100 s" in capsys.readouterr().err


def test_rows_as_table_and_lines(tmp_path: Path) -> None:
    rows = [Row("a", 1234.5, 1.0, 2000.0, "images/s")]
    assert markdown(rows).splitlines()[-1] == "| a | 1,234 | 1 | 2,000 | images/s |"
    for _ in range(2):
        append(rows, {"device": "cpu"}, tmp_path / "docs" / "rows.jsonl")
    lines = (tmp_path / "docs" / "rows.jsonl").read_text().splitlines()
    assert [json.loads(line)["device"] for line in lines] == ["cpu", "cpu"]


def test_convert(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes(jpeg(picture(i, 60, 80)))
    done = run("-m", "fastlt.bench", "convert", "images=.", "rounds=1", "copies=2", "rows=rows.jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["bench"] == "convert"
    cases = [row["case"] for row in result["rows"]]
    assert cases == ["fastlt_keep", "fastlt_jpeg", "fastlt_jpeg_256", "fastlt_raw", "copy"]
    assert all(row["median"] > 0 and row["unit"] == "images/s" for row in result["rows"])
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 5


def test_index(tmp_path: Path) -> None:
    done = run("-m", "fastlt.bench", "index", "samples=100000", "rounds=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    cases = [row["case"] for row in json.loads(done.stdout.splitlines()[-1])["rows"]]
    assert cases == ["open", "order_instance", "order_class", "order_sqrt", "order_progressive", "plan", "peak_memory"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["foo"], "benchmark 'foo' is unknown: allowed are convert, index"),
        (["convert"], "images=None: no .jpg, .jpeg or .png file there"),
        (["index", "samples=5"], "samples=5: at least 90000"),
        (["convert", "foo=1"], "unknown key foo: allowed are images, copies, peers"),
    ],
)
def test_wrong_input(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = run("-m", "fastlt.bench", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
