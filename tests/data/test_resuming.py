"""Resuming a conversion: whatever lies in its folder is checked before it is trusted, and told in one line if not."""

import io
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pictures import Pictures, conversion, files, picture
from PIL import Image

import fastlt
from fastlt.core.errors import UserError
from fastlt.data.convert import convert
from fastlt.data.convert import engine as engine_module
from fastlt.data.shards.reader import Dataset
from fastlt.data.shards.verify import verify
from fastlt.data.sources.base import Source
from fastlt.data.sources.examples import Examples
from fastlt.data.sources.image_folder import ImageFolder

SOURCE = Pictures(counts=(12, 6))
OPTIONS = conversion("png", shard_mb=40)  # kilobytes: the unit is made small below


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """The work folder of a conversion that was killed when its last shard was complete; the files it ends with."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "SHARD_UNIT", 1000)
        whole = files(convert(SOURCE, OPTIONS, folder / "whole", workers=1))

        def kill(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(engine_module, "write_dataset", kill)
        with pytest.raises(KeyboardInterrupt):
            convert(SOURCE, OPTIONS, folder / "out", workers=1)
    assert sum(name.startswith("train") for name in whole) >= 8  # four shards and what lies beside them
    return folder / "out.partial", whole


@pytest.fixture
def partial(made: tuple[Path, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(engine_module, "SHARD_UNIT", 1000)
    return Path(shutil.copytree(made[0], tmp_path / "out.partial"))


def resumed(partial: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Gives the command again; how many images were loaded."""
    loads = []
    load = Pictures.load
    monkeypatch.setattr(Pictures, "load", lambda self, split, i: (loads.append(i), load(self, split, i))[1])
    # It loads a few images again to compare their pixels, whatever was converted before.
    monkeypatch.setattr(engine_module, "near_duplicates", lambda *_: {})
    convert(SOURCE, OPTIONS, partial.with_name("out"), workers=1)
    assert not partial.exists()
    assert verify(partial.with_name("out")).findings == 0
    return len(loads)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garble(path: Path) -> None:
    path.write_bytes(os.urandom(path.stat().st_size))


def test_what_is_whole_is_not_done_again(
    partial: Path, made: tuple[Path, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert resumed(partial, monkeypatch) == 0
    assert files(partial.with_name("out")) == made[1]
    assert capsys.readouterr().err.splitlines() == [f"resuming the conversion in {partial}"]


@pytest.mark.parametrize("damage", [Path.unlink, flip, truncate, lengthen, empty, garble])
@pytest.mark.parametrize(
    "name", ["dataset/train-000001.tar", "dataset/train-000001.idx", "journal/train-000001.tar.page"]
)
def test_a_damaged_shard_is_done_again(
    name: str,
    damage: Callable[[Path], None],
    partial: Path,
    made: tuple[Path, dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    damage(partial / name)
    assert 0 < resumed(partial, monkeypatch) < len(SOURCE.splits["train"].keys)
    assert files(partial.with_name("out")) == made[1]
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"resuming the conversion in {partial}"
    assert second.startswith(f"{partial / name} ")
    assert second.endswith(": train is done again from shard 1 on")


@pytest.mark.parametrize("damage", [Path.unlink, flip, truncate, lengthen, empty, garble])
def test_a_damaged_record_begins_the_conversion_again(
    damage: Callable[[Path], None],
    partial: Path,
    made: tuple[Path, dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    damage(partial / "conversion.json")
    assert resumed(partial, monkeypatch) == 30
    assert files(partial.with_name("out")) == made[1]
    kind = "no" if damage is Path.unlink else "a damaged"
    assert capsys.readouterr().err == f"{partial} has {kind} conversion.json: starting again\n"


def test_shards_of_another_place_or_conversion_are_not_taken_up(
    partial: Path, made: tuple[Path, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for folder in ("dataset", "journal"):  # shard 0 stands in the place of shard 1, with all that belongs to it
        for path in (partial / folder).glob("train-000000*"):
            shutil.copy(path, path.with_name(path.name.replace("000000", "000001")))
    assert resumed(partial, monkeypatch) > 0
    assert files(partial.with_name("out")) == made[1]
    assert "train-000001.tar.page is damaged or of another conversion" in capsys.readouterr().err

    other = Pictures(counts=(12, 6), name="others")
    shutil.copytree(made[0], partial)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "write_dataset", None)
        with pytest.raises(TypeError):
            convert(other, conversion("png", shard_mb=41), partial.with_name("other"), workers=1)
    page = "journal/train-000000.tar.page"
    shutil.copy(partial.with_name("other.partial") / page, partial / page)
    shutil.rmtree(partial.with_name("out"))
    assert resumed(partial, monkeypatch) > 0
    assert files(partial.with_name("out")) == made[1]
    assert f"{partial / page} is damaged or of another conversion: train is done again from shard 0" in (
        capsys.readouterr().err
    )


def test_work_of_other_options_or_software_begins_again(
    partial: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    again = Path(shutil.copytree(partial, partial.with_name("again.partial")))
    saved = Path(shutil.copytree(partial, partial.with_name("saved")))
    convert(SOURCE, replace(OPTIONS, max_bad=3), again.with_name("again"), workers=1)
    assert capsys.readouterr().err == f"resuming the conversion in {again}\n"
    shards = [partial / "dataset", partial / "journal"]
    before = [files(folder) for folder in shards]
    for source, options, told in (
        (SOURCE, conversion("png", shard_mb=50), "shard_mb 40, now 50"),
        (SOURCE, conversion("jpeg", shard_mb=41), "encode png, now jpeg"),
        (Pictures(counts=(12, 7)), OPTIONS, "the images"),
    ):
        with pytest.raises(UserError, match=rf"of an unfinished conversion with other .* \({told}\): give its command"):
            convert(source, options, partial.with_name("out"), workers=1)
        assert [files(folder) for folder in shards] == before and not partial.with_name("out").exists()
    convert(SOURCE, conversion("png", shard_mb=50), partial.with_name("out"), workers=1, overwrite=True)
    assert capsys.readouterr().err == f"{partial} was begun with other input or options: starting again\n"
    shutil.rmtree(partial.with_name("out"))
    saved.rename(partial)
    monkeypatch.setattr("PIL.__version__", "1.0")
    convert(SOURCE, OPTIONS, partial.with_name("out"), workers=1)
    assert capsys.readouterr().err == f"{partial} was begun by another version of fastlt or Pillow: starting again\n"


def test_files_of_earlier_tries_are_not_published(
    partial: Path, made: tuple[Path, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("train-000009.tar", "train-000009.idx", "extra-000000.tar", "index.h5", "dataset.json"):
        (partial / "dataset" / name).write_bytes(b"left over")
    (partial / "journal" / "train-000001.tar.page.tmp").write_bytes(b"cut off")
    assert resumed(partial, monkeypatch) == 0
    assert files(partial.with_name("out")) == made[1]


@pytest.mark.parametrize(
    "name",
    (
        *("notes.txt", "lock", "conversion.json", "finished.json", "dataset", "journal", "journal/notes.txt"),
        *("journal/train-000002.tar.page", "dataset/notes.txt", "dataset/train-000002.tar", "dataset/index.h5"),
    ),
)
@pytest.mark.parametrize("kind", ["folder", "pipe", "link"])
def test_what_no_conversion_wrote_is_neither_removed_nor_published(name: str, kind: str, partial: Path) -> None:
    path = partial / name
    if path.is_dir():
        if kind == "folder":
            pytest.skip("it is one")
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    target = partial.with_name("target")
    {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "link": lambda: path.symlink_to(target)}[kind]()
    if kind == "folder":
        (path / "precious").write_text("mine")
    target.mkdir()
    (target / "precious").write_text("mine")
    with pytest.raises(UserError, match=rf"{path} is .*: move it away") as error:
        convert(SOURCE, OPTIONS, partial.with_name("out"), workers=1)
    assert "\n" not in str(error.value)
    assert (target / "precious").exists() and (kind != "folder" or (path / "precious").exists())
    assert not partial.with_name("out").exists()


def test_overwrite_removes_datasets_only(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "photo.jpg").write_bytes(b"mine")
    for overwrite, message in ((False, "is not empty"), (True, "holds photo.jpg, which no conversion wrote")):
        with pytest.raises(UserError, match=message):
            convert(SOURCE, OPTIONS, out, workers=1, overwrite=overwrite)
    assert (out / "photo.jpg").exists()
    shutil.rmtree(out)
    out.write_text("mine")
    with pytest.raises(UserError, match="is no folder"):
        convert(SOURCE, OPTIONS, out, workers=1, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_damaged_dataset_is_replaced(tmp_path: Path) -> None:
    whole = files(convert(SOURCE, OPTIONS, tmp_path / "out", workers=1))
    flip(tmp_path / "out" / "train-000000.tar")
    (tmp_path / "out" / "dataset.json").unlink()
    assert files(convert(SOURCE, OPTIONS, tmp_path / "out", workers=1, overwrite=True)) == whole


def test_a_link_to_a_dataset_stays_one(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to("disk/data")
    for overwrite in (False, True):
        convert(SOURCE, OPTIONS, tmp_path / "out", workers=1, overwrite=overwrite)
        assert (tmp_path / "out").is_symlink() and verify(tmp_path / "out").findings == 0
        assert [path.name for path in (tmp_path / "disk").iterdir()] == ["data"]


def test_places_that_cannot_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here" / "below").mkdir(parents=True)
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path / "here" / "below")
    for place in (".", "..", tmp_path / "here", "/", tmp_path / "loop", "/proc"):
        with pytest.raises(UserError, match=f"out={place} is .*name a folder in it"):
            convert(SOURCE, OPTIONS, Path(place), workers=1)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Not a directory"):
        convert(SOURCE, OPTIONS, tmp_path / "file" / "out", workers=1)


def test_what_was_to_be_published_is_checked_first(
    partial: Path, made: tuple[Path, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The last moment before the new dataset takes its place; then it is damaged."""

    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastlt.data.convert.work_folder.put_in_place", kill)
        with pytest.raises(KeyboardInterrupt):
            convert(SOURCE, OPTIONS, partial.with_name("out"), workers=1)
    assert (partial / "finished.json").exists()
    flip(partial / "dataset" / "test-000000.tar")
    capsys.readouterr()
    assert 0 < resumed(partial, monkeypatch) <= 6
    assert files(partial.with_name("out")) == made[1]
    said = capsys.readouterr().err.splitlines()
    assert "test-000000.tar is damaged (other bytes than were written): it is not put in the place" in said[0]


def test_a_damaged_note_loses_neither_dataset(
    partial: Path, made: tuple[Path, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two renames, with a note that cannot be read: the old dataset comes back, the new one is made again."""
    old = files(convert(Pictures(counts=(2,)), OPTIONS, partial.with_name("other"), workers=1))
    partial.with_name("other").rename(partial / "old")
    (partial / "finished.json").write_text(json.dumps({"files": {}}))
    out = partial.with_name("out")
    with pytest.raises(UserError, match="is a finished dataset"):
        convert(SOURCE, OPTIONS, out, workers=1)
    assert files(out) == old
    convert(SOURCE, OPTIONS, out, workers=1, overwrite=True)
    assert files(out) == made[1] and not partial.exists()


def photos(root: Path, seed: int) -> Path:
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for number in range(8):
            Image.fromarray(picture(seed + number + len(name), 40, 40)).save(root / name / f"{number}.png")
    return root


def stopped(source: Source, out: Path) -> None:
    """A conversion that is killed when its shards are complete."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "write_dataset", None)
        with pytest.raises(TypeError):
            convert(source, OPTIONS, out, workers=1)


def test_images_of_another_folder_are_not_mixed_with_those_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(engine_module, "SHARD_UNIT", 1000)
    one, other = (ImageFolder(photos(tmp_path / name, seed), "photos") for name, seed in (("a", 0), ("b", 50)))
    whole = files(convert(other, OPTIONS, tmp_path / "whole", workers=1))
    stopped(one, tmp_path / "out")
    assert files(convert(other, OPTIONS, tmp_path / "out", workers=1)) == whole
    assert "images of train have changed since: it is done again from shard 0 on" in capsys.readouterr().err
    keys = {"name": "photos", "encode": "png", "test": 0, "workers": 1}
    fastlt.write_dataset(tmp_path / "b", tmp_path / "finished", **keys)
    fastlt.write_dataset(tmp_path / "b", tmp_path / "finished", **keys)  # the same images: nothing is done
    with pytest.raises(UserError, match="finished is a finished dataset: choose another folder or add overwrite=true"):
        fastlt.write_dataset(tmp_path / "a", tmp_path / "finished", **keys)


def test_a_changed_image_is_done_again_and_a_mended_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(engine_module, "SHARD_UNIT", 1000)
    root = photos(tmp_path / "a", 0)
    good = (root / "dog" / "7.png").read_bytes()
    (root / "dog" / "7.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="does not decode"):
        convert(ImageFolder(root), OPTIONS, tmp_path / "out", workers=1)
    (root / "dog" / "7.png").write_bytes(good)
    stopped(ImageFolder(root), tmp_path / "out")
    assert "have changed" not in capsys.readouterr().err
    Image.fromarray(picture(99, 40, 40)).save(root / "dog" / "3.png")
    out = convert(ImageFolder(root), OPTIONS, tmp_path / "out", workers=1)
    told = re.search(
        r"images of train have changed since: it is done again from shard (\d+) on", capsys.readouterr().err
    )
    assert told and int(told[1]) > 0
    assert files(out) == files(convert(ImageFolder(root), OPTIONS, tmp_path / "whole", workers=1))


def test_arrays_of_another_call_are_not_mixed_with_those_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "SHARD_UNIT", 1000)
    one, other = (
        Examples({"train": [(picture(seed + number, 40, 40), "a") for number in range(6)]}, "arrays")
        for seed in (0, 50)
    )
    stopped(one, tmp_path / "out")
    out = convert(other, OPTIONS, tmp_path / "out", workers=1)
    assert files(out) == files(convert(other, OPTIONS, tmp_path / "whole", workers=1))


def test_files_that_only_have_the_names_of_a_dataset_are_not_replaced(tmp_path: Path) -> None:
    out = convert(SOURCE, OPTIONS, tmp_path / "out", workers=1)
    for name in ("dataset.json.bak", "train-000007.tar", "train-000007.idx"):
        (out / name).write_bytes(b"mine")
        with pytest.raises(UserError, match=f"holds {name}, which no conversion wrote"):
            convert(SOURCE, OPTIONS, out, workers=1, overwrite=True)
        (out / name).unlink()


def test_a_description_is_utf8_in_any_locale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Pictures(counts=(2,))
    object.__setattr__(source, "class_names", ["昆虫"])
    monkeypatch.setattr(io, "text_encoding", lambda encoding, stacklevel=2: encoding or "ascii")
    assert Dataset(convert(source, OPTIONS, tmp_path / "out", workers=1)).class_names == ["昆虫"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mean": (0.5,)}, r"mean=\[0.5\], not three numbers from 0 to 1: correct it"),
        ({"std": (0.2, 0.2, 0.0)}, r"std=\[0.2, 0.2, 0.0\], not three numbers above 0, at most 1: correct it"),
        ({"protocol": "my protocol"}, "protocol is 'my protocol', not a letter and then"),
        ({"name": "a\nb"}, r"name is 'a\\nb', which is empty, or has a line break or other control character"),
    ],
)
def test_what_could_not_be_opened_is_refused_before_the_first_image(
    fields: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pictures, "load", None)
    with pytest.raises(UserError, match=message):
        convert(SOURCE, replace(OPTIONS, **fields), tmp_path / "out", workers=1)


def test_two_classes_of_one_name_are_refused_and_spaces_of_any_script_are_not(tmp_path: Path) -> None:
    source = Pictures(counts=(2, 2))
    name = "写真\u30002024\u00a0b"
    assert Dataset(convert(source, replace(OPTIONS, name=name), tmp_path / "out", workers=1)).name == name
    object.__setattr__(source, "class_names", ["x", "x"])
    with pytest.raises(UserError, match="two classes have the name 'x': correct it"):
        convert(source, OPTIONS, tmp_path / "other", workers=1)
