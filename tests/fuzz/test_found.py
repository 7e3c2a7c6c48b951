"""Every fuzz target on its seeds and on all that fuzzing has found so far."""

from __future__ import annotations

import pytest

from fuzz.targets import TARGETS, inputs
from protocol.corpus.table import FOUND, found_inputs


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_found_stays_fixed(name: str) -> None:
    target = TARGETS[name]
    count = 0
    for data in inputs(target):
        target.run(data)
        count += 1
    assert count >= 5


@pytest.mark.parametrize(
    ("target", "name"), [(target, name) for target in TARGETS for name in found_inputs(target)]
)
def test_each_found_input_by_its_name(target: str, name: str) -> None:
    TARGETS[target].run(found_inputs(target)[name])


def test_every_found_input_has_a_target_and_a_reason() -> None:
    for path in FOUND.rglob("*.bin"):
        assert path.parent.name in TARGETS
        reason = path.with_suffix(".txt").read_text(encoding="utf-8")
        assert len(reason.splitlines()) == 1
