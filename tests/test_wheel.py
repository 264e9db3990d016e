"""The wheel holds all that a user needs: built, installed in an empty environment, run from another folder."""

import json
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

from commands import convert
from pictures import jpeg, picture

ROOT = Path(__file__).parents[1]


def call(*command: str, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_wheel_installs_and_runs_elsewhere(tmp_path: Path) -> None:
    build = tmp_path / "build"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    # From a copy: a build leaves files of its own beside the sources.
    for name in ("pyproject.toml", "README.md", "LICENSE", "fastlt", "kernels", "conf"):
        call("cp", "-r", str(ROOT / name), str(tmp_path), cwd=tmp_path)
    call(*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(build), str(tmp_path), cwd=tmp_path)
    (wheel,) = build.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for file in (ROOT / "conf").rglob("*.yaml"):
        assert f"fastlt/conf/{file.relative_to(ROOT / 'conf')}" in names
    for file in (ROOT / "kernels").glob("*.py"):
        assert f"fastlt/kernels/{file.name}" in names
    assert {"fastlt/py.typed", *(f"fastlt/report/compare/page.{kind}" for kind in ("css", "html", "js"))} <= set(names)
    assert not [name for name in names if name.split("/")[0] not in ("fastlt",) and "dist-info" not in name]

    environment = tmp_path / "environment"
    call(sys.executable, "-m", "venv", "--without-pip", str(environment), cwd=tmp_path)
    python = str(environment / "bin" / "python")
    call(*pip, "--python", python, "install", "--quiet", "--no-deps", "--no-index", str(wheel), cwd=tmp_path)
    # The dependencies are those of this environment; a path file's folder is searched after the wheel's.
    (site,) = (environment / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    place = tmp_path / "elsewhere"
    for split, count in (("train", 6), ("test", 2)):
        for name in ("ant", "bee"):
            folder = place / "images" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                (folder / f"{i}.jpg").write_bytes(jpeg(picture(i, 40, 48)))
    where = call(python, "-c", "import fastlt; print(fastlt.__file__)", cwd=place)
    assert where.startswith(str(environment))
    script = str(environment / "bin" / "fastlt")
    call(script, "convert", "images", "out=data", cwd=place)
    call(script, "convert", "images/train", "out=divided", "seed=3", cwd=place)
    assert convert("images/train", "out=again", "name=divided", "seed=3", cwd=place).returncode == 0
    assert json.loads((place / "again" / "dataset.json").read_text()) == json.loads(
        (place / "divided" / "dataset.json").read_text()
    )
    options = ("protocol=demo", "protocol.batch=4", "epochs=1", "run=run", "threads=1", "classifiers=[joint,ncm_l2]")
    table = call(python, "-m", "fastlt.train", "data=data", *options, cwd=place)
    assert table.splitlines()[-1] == "run/report.md"
    assert (place / "run" / "results.json").exists()
