"""fastlt doctor tells what works here and what does not."""

import pytest

from fastlt.doctor import BAD, SLOW, _compiler, examine, main
from fastlt.kernels.gpu import SIMULATED


def test_a_machine_that_works(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--device", "cpu"])
    lines = capsys.readouterr().out.splitlines()
    assert end.value.code == 0
    assert not [line for line in lines if line.startswith(BAD)]
    assert any("class means and intervals of tau on cpu are right" in line for line in lines)
    assert any("converts, decodes and augments on cpu" in line for line in lines)


def test_what_is_broken_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError("libturbo.so: cannot open shared object file")

    monkeypatch.setattr("fastlt.data.pipeline.loader.Loader.__init__", broken)
    monkeypatch.setattr("fastlt.kernels.class_mean.reference", lambda x, labels, classes: _Zeros())
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "1")
    monkeypatch.setattr("fastlt.kernels.cache.writable", lambda folder: False)
    monkeypatch.setattr("fastlt.doctor.writable", lambda folder: False)
    with pytest.raises(SystemExit) as end:
        main(["--device=cpu"])
    lines = capsys.readouterr().out.splitlines()
    assert end.value.code == 1
    assert sum(line.startswith(BAD) for line in lines) == 2
    assert any(line.endswith("OSError: libturbo.so: cannot open shared object file") for line in lines)
    assert any("class means on cpu differ" in line for line in lines)
    assert any(line.startswith(SLOW) and "simulator" in line for line in lines)
    assert any(line.startswith(SLOW) and "NUMBA_CACHE_DIR=FOLDER keeps them" in line for line in lines)


class _Zeros:
    un = 0.0


@pytest.mark.skipif(SIMULATED, reason="the simulator compiles nothing")
def test_a_missing_compiler_of_cuda_kernels_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.version.cuda", "13.0")
    monkeypatch.setattr("numba.cuda.cudadrv.nvvm._nvvm", None)
    (found,) = _compiler()
    assert found.verdict == BAD and found.text.endswith("): pip install 'numba-cuda[cu13]'")


def test_a_device_that_is_not_there_is_a_finding() -> None:
    assert any(one.verdict == BAD and "device=cuda:99" in one.text for one in examine("cuda:99"))
