"""Wrong types in every field: the code's own readers agree with the published schemas, and do no more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from protocol.corpus.fields import SAMPLES, STRICTER, SUBSTITUTES, cases
from teeth.endpoint.hello import parse_hello
from teeth.endpoint.taskstate import parse_status
from teeth_agent.erase.policy import read_policy
from teeth_agent.errors import AgentError
from teeth_agent.image.params import read_prepare, read_run
from teeth_protocol.connection import Role
from teeth_protocol.errors import ProblemError
from teeth_protocol.fields import FieldError
from teeth_protocol.shape import read
from teeth_protocol.wire.session import ENROLL
from teeth_protocol.wire.tasks import CancelTask


def task(reader: Callable[[Mapping[str, Any]], object]) -> Callable[[Mapping[str, Any]], object]:
    """As a task is read: its id first, of which the task itself knows nothing."""

    def both(params: Mapping[str, Any]) -> None:
        read(CancelTask, params)
        reader(params)

    return both


READERS: Mapping[str, Callable[[Mapping[str, Any]], object]] = {
    "handshake": lambda params: parse_hello(params, plain=True),
    "task_status": parse_status,
    "enroll": lambda params: read(ENROLL, params),
    "cancel_task": lambda params: read(CancelTask, params),
    "decom.disk_erase": task(read_policy),
    "standbye.prepare_image": task(read_prepare),
    "standbye.run_image": task(read_run),
}
# Refused for what they mean, not for their kind.
_MEANING = {"no_common_version", "image_format"}


@pytest.mark.parametrize("sample", SAMPLES)
def test_each_substitution_is_taken_or_refused_as_its_schema_says(sample: str) -> None:
    wrong: dict[str, str] = {}
    method, reader, _ = SAMPLES[sample]
    for case in cases(reader):
        if case.name.startswith(f"field.{sample}:"):
            said = outcome(READERS[method], case.params)
            expected = case.good and case.name not in STRICTER
            if said not in _MEANING and (said == "") != expected:
                wrong[case.name] = f"schema: {'good' if case.good else 'bad'}, reader: {said or 'good'}"
    assert wrong == {}


def outcome(reader: Callable[[Mapping[str, Any]], object], params: Mapping[str, Any]) -> str:
    """The code of the refusal, "" when there is none. Whatever else is raised is a bug."""
    try:
        reader(params)
    except ProblemError as error:
        return error.problem.code
    except AgentError as error:
        return error.code
    except FieldError:
        return "bad_params"
    return ""


def test_there_are_substitutions_enough() -> None:
    count = sum(1 for reader in Role for _ in cases(reader))
    assert count > 1500
    assert len(SUBSTITUTES) >= 20
