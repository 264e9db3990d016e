"""Damage of whatever fastlt wrote ends in one clear line, in a named substitution, or in the same results."""

import os
from collections.abc import Iterator

import pytest
from mutations import ALLOWED, KINDS, NAMES, Process

EACH = max(len(KINDS), int(os.environ.get("FASTLT_MUTATIONS", "240")) // len(NAMES))  # of each artefact


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    process = Process(tmp_path_factory.mktemp("mutations"))
    yield process
    process.close()


@pytest.mark.parametrize("name", NAMES)
def test_damage_is_told_or_changes_nothing(name: str, process: Process) -> None:
    wrong, outcomes = [], []
    for number in range(EACH):
        kind = KINDS[number % len(KINDS)]
        outcome = process.try_one(name, kind, number)
        outcomes.append(outcome.kind)
        if outcome.kind not in ALLOWED:
            wrong.append(f"{kind} {number}: {outcome.kind}: {outcome.told}")
    assert not wrong, "\n".join(wrong)
    assert {"clear", "substituted"} & set(outcomes)  # the damage reached what is used
