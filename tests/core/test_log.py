"""Lines of progress in a log."""

import pytest

from fastlt.core import log
from fastlt.core.log import Progress


@pytest.mark.parametrize(("every", "shown"), [(0.0, ["50/100", "100/100"]), (1e9, [])])
def test_work_that_was_shown_is_shown_to_its_end(
    every: float, shown: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(log, "FIRST_LINE", every)
    monkeypatch.setattr(log, "LINE_EVERY", 0.0)
    with Progress("work", 100) as progress:
        progress.advance(50)
        monkeypatch.setattr(log, "LINE_EVERY", 1e9)  # nothing is due any more
        progress.advance(50)
    assert [line.split()[1] for line in capsys.readouterr().err.splitlines()] == shown


def test_an_estimate_is_never_negative(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(log, "FIRST_LINE", 0.0)
    monkeypatch.setattr(log, "LINE_EVERY", 0.0)
    with Progress("measuring", 64) as progress:
        progress.advance(96)
    assert ", 0s left" in capsys.readouterr().err


def test_work_that_failed_is_not_shown_to_its_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(log, "FIRST_LINE", 0.0)
    monkeypatch.setattr(log, "LINE_EVERY", 0.0)
    with pytest.raises(ZeroDivisionError), Progress("work", 100) as progress:
        progress.advance(50)
        raise ZeroDivisionError
    assert len(capsys.readouterr().err.splitlines()) == 1
