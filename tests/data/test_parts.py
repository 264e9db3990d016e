"""part=K/N: many processes convert one dataset to the same bytes as one process, whatever ends them."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import run
from fault_points import ended_before
from pictures import Pictures, conversion, files, jpeg, picture

from fastlt.core.errors import UserError
from fastlt.data.convert import convert
from fastlt.data.convert.parts import Part, Share, convert_part
from fastlt.data.convert.work_folder import WorkFolder
from fastlt.data.shards.encode import Encoding
from fastlt.data.shards.verify import verify
from fastlt.data.sources.image_folder import ImageFolder

pytestmark = pytest.mark.usefixtures("small_shards")

SOURCE = Pictures(counts=(30, 12, 5), broken=(("train", 10), ("train", 46), ("test", 0)))
OPTIONS = conversion(shard_mb=20, max_bad=3)  # kilobytes: the unit is made small below


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, bytes]:
    return files(convert(SOURCE, OPTIONS, tmp_path / "whole" / "out", workers=1))


def part(out: Path, number: int, of: int, source: Pictures = SOURCE, workers: int = 1) -> Path | None:
    return convert_part(source, OPTIONS, out, Part(number, of), workers)


@pytest.mark.parametrize(("of", "order"), [(1, [1]), (2, [2, 1]), (5, [3, 1, 5, 2, 4]), (60, range(1, 61))])
def test_parts_give_the_bytes_of_one_process(
    of: int, order: list[int], whole: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out, left = tmp_path / "out", set(range(1, of + 1))
    for number in order:
        left.remove(number)
        done = part(out, number, of, workers=1 + number % 2 if of == 5 else 1)
        assert (done is None) == bool(left) and out.exists() == (not left)
        told = capsys.readouterr().err
        if left:
            named = ", ".join(map(str, sorted(left)[:10]))
            assert f"part {number}/{of} is done; " in told and f" {named}" in told
    assert files(out) == whole and verify(out).findings == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def test_raw_images_are_chosen_among_all(tmp_path: Path) -> None:
    """encode=auto stores the rarest images raw: a part alone would choose others."""
    source = Pictures(counts=(30, 12, 5))
    options = conversion(shard_mb=20, raw_fraction=0.2)
    one = files(convert(source, options, tmp_path / "one" / "out", workers=1))
    for number in (1, 2, 3):
        convert_part(source, options, tmp_path / "out", Part(number, 3), 1)
    assert files(tmp_path / "out") == one


def test_every_sample_is_in_one_part() -> None:
    for of in (1, 3, 16, 100):
        shares = [Share(SOURCE, Part(number, of)) for number in range(1, of + 1)]
        for split, listing in SOURCE.splits.items():
            own = [share.splits[split] for share in shares if split in share.splits]
            assert [key for one in own for key in one.keys] == listing.keys
            assert np.array_equal(np.concatenate([one.labels for one in own]), listing.labels)
            assert max(len(one.keys) for one in own) <= -(-len(listing.keys) // of)


def test_a_finished_part_is_not_converted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, loads = tmp_path / "out", []
    part(out, 1, 2)
    load = Pictures.load
    monkeypatch.setattr(Pictures, "load", lambda self, split, i: (loads.append(i), load(self, split, i))[1])
    part(out, 1, 2)
    assert loads == [10, 0]  # its bad images: they might decode by now


def test_a_mended_image_is_taken_up(tmp_path: Path) -> None:
    mended = Pictures(counts=(30, 12, 5))
    one = files(convert(mended, OPTIONS, tmp_path / "one" / "out", workers=1))
    for number in (1, 2):
        part(tmp_path / "out", number, 3)
    for number in (1, 2, 3):
        part(tmp_path / "out", number, 3, mended)
    assert files(tmp_path / "out") == one


def test_bad_images_are_counted_over_all_parts(tmp_path: Path) -> None:
    out, strict = tmp_path / "out", conversion(shard_mb=20, max_bad=1)
    with pytest.raises(UserError, match=r"größe 10.jpg does not decode .* and 1 more: 1 bad image is allowed"):
        convert_part(SOURCE, strict, out, Part(1, 2), 1)
    assert (tmp_path / "out.parts" / "001-of-002.partial").exists()
    assert part(out, 1, 2) is None  # with more allowed
    strict = conversion(shard_mb=20, max_bad=2)
    with pytest.raises(UserError, match=r"and 2 more: 2 bad images are allowed; .*max_bad=3"):
        convert_part(SOURCE, strict, out, Part(2, 2), 1)
    assert part(out, 2, 2) == out


def test_parts_of_other_input_and_damaged_parts_are_missing(
    whole: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    part(out, 1, 2, Pictures(counts=(30, 12, 6)))
    assert part(out, 2, 2) is None
    assert "part 2/2 is done; part 1 of 2 is missing" in capsys.readouterr().err
    note = tmp_path / "out.parts" / "002-of-002" / "dataset.json.part"
    note.write_bytes(note.read_bytes()[:-1])
    assert part(out, 1, 2) is None
    assert "part 2 of 2 is missing" in capsys.readouterr().err
    assert part(out, 2, 2) == out and files(out) == whole


@pytest.mark.parametrize("name", ["train-000000.tar", "train-000001.tar.page"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_part_is_named_and_done_again_alone(
    name: str, damage: str, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    part(out, 1, 2)
    path = tmp_path / "out.parts" / "001-of-002" / name
    data = bytearray(path.read_bytes())
    data[1000 if len(data) > 1000 else 100] ^= 4
    path.unlink() if damage == "remove" else path.write_bytes(data if damage == "flip" else data[:-7])
    with pytest.raises(UserError, match=r"part 1/2 is damaged: remove .*001-of-002 and give .* part=1/2 again"):
        part(out, 2, 2)
    assert not out.exists()
    for one in path.parent.iterdir():
        one.unlink()
    path.parent.rmdir()
    assert part(out, 1, 2) == out and files(out) == whole


def test_one_process_joins(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "out"
    part(out, 1, 2)
    with WorkFolder(out, {}, overwrite=False):  # another process, which has come first
        assert part(out, 2, 2) is None
        assert "all 2 parts are done; another process joins them" in capsys.readouterr().err
    assert part(out, 2, 2) == out
    capsys.readouterr()
    assert part(out, 1, 2) == out
    assert capsys.readouterr().err == f"{out} is complete, its parts were joined\n"
    with pytest.raises(UserError, match="is a finished dataset: choose another folder or add overwrite=true"):
        part(out, 1, 2, Pictures(counts=(30, 12, 6)))
    assert not (tmp_path / "out.parts").exists()


def test_wrong_parts() -> None:
    for text in ("0/4", "5/4", "1", "a/b", "-1/4", "1/0", "1.5/2"):
        with pytest.raises(UserError, match=f"part={text}: write part=K/N with K from 1 to N"):
            Part.parsed(text)
    assert Part.parsed("3/16") == Part(3, 16)
    with pytest.raises(UserError, match="encode=link copies nothing"):
        convert_part(SOURCE, conversion("link"), Path("out"), Part(1, 2))


def killed(out: Path, number: int) -> bool:
    """The second of two parts and the join in a child process, killed at a fault point; whether it ended before."""
    return ended_before(lambda: part(out, 2, 2, SMALL), number, "convert_part")


SMALL = Pictures(counts=(3, 2))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_at_any_moment_the_same_command_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    whole = files(convert(SMALL, OPTIONS, tmp_path / "whole" / "out", workers=1))
    number, ended, rounds = 1, False, 0
    while not ended:
        out = tmp_path / str(number) / "out"
        part(out, 1, 2, SMALL)
        ended = killed(out, number)
        assert not out.exists() or files(out) == whole
        assert part(out, 2, 2, SMALL) == out
        assert files(out) == whole and sorted(path.name for path in out.parent.iterdir()) == ["out"]
        number, rounds = number + 7, rounds + 1
    assert rounds > 15


def command(*arguments: str, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = run("-m", "fastlt.convert", "photos", "workers=1", *arguments, cwd=cwd)
    assert done.returncode == code, done.stderr
    return done


def test_the_command(tmp_path: Path) -> None:
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(12):
            (tmp_path / "photos" / name / f"{i}.jpg").write_bytes(jpeg(picture(i + 100 * label, 50, 60)))
    command("out=one", "name=photos", cwd=tmp_path)
    done = command("out=two", "name=photos", "part=2/2", cwd=tmp_path)
    assert "part 2/2 is done; part 1 of 2 is missing" in done.stderr and done.stdout == ""
    done = command("out=two", "name=photos", "part=1/2", cwd=tmp_path)
    assert "all 2 parts are done: joining them" in done.stderr and "two" in done.stdout
    assert files(tmp_path / "one") == files(tmp_path / "two")
    done = command("out=one", "append=true", "part=1/2", cwd=tmp_path, code=2)
    assert "part=1/2: append=true is done by one process, leave part= out" in done.stderr


def test_other_options_do_not_cost_the_shards_of_an_interrupted_part(
    whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, png = tmp_path / "out", replace(OPTIONS, encoding=Encoding("png"))
    part(out, 2, 2)
    with monkeypatch.context() as patch:
        patch.setattr("fastlt.data.convert.parts.refuse_bad", None)  # what comes after the shards
        with pytest.raises(TypeError):
            part(out, 1, 2)
    with pytest.raises(UserError, match=r"holds \d+ shards? of an unfinished conversion .*now png.*: give its command"):
        convert_part(SOURCE, png, out, Part(1, 2), 1)
    assert part(out, 1, 2) == out and files(out) == whole
    assert convert_part(SOURCE, png, out, Part(1, 2), 1, overwrite=True) is None


def test_a_part_that_is_left_from_other_images_is_neither_kept_nor_joined(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    def written(first: int) -> ImageFolder:
        for number in range(8):
            (tmp_path / "photos" / "cat").mkdir(parents=True, exist_ok=True)
            (tmp_path / "photos" / "cat" / f"{number}.jpg").write_bytes(jpeg(picture(first + number, 40, 40)))
        return ImageFolder(tmp_path / "photos")

    out = tmp_path / "out"
    convert_part(written(0), OPTIONS, out, Part(1, 2), 1)
    new = written(100)
    assert convert_part(new, OPTIONS, out, Part(2, 2), 1) is None
    assert "part 1/2 was made of other images than these: give the command with part=1/2" in capsys.readouterr().err
    assert convert_part(new, OPTIONS, out, Part(1, 2), 1) == out
    assert files(out) == files(convert(new, OPTIONS, tmp_path / "whole", workers=1))
