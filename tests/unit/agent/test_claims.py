"""Which task may have which device."""

from __future__ import annotations

from typing import Any

import pytest

from teeth_agent.errors import AgentError
from teeth_agent.tasks.context import Claims, Scope, TaskContext, scope_of

ERASE, PREPARE, RUN = "decom.disk_erase", "standbye.prepare_image", "standbye.run_image"


@pytest.mark.parametrize(
    ("method", "params", "scope"),
    [
        (ERASE, {}, Scope.MACHINE),
        (ERASE, {"allow": []}, Scope.MACHINE),
        (ERASE, {"allow": ["S1"]}, Scope.SOME),
        (ERASE, {"exclude": ["S1"]}, Scope.SOME),
        (ERASE, {"plan": True}, Scope.NOTHING),
        (ERASE, {"plan": "yes"}, Scope.MACHINE),
        (PREPARE, {}, Scope.SOME),
        (RUN, {}, Scope.MACHINE),
        (RUN, {"plan": True}, Scope.MACHINE),
        ("of.another_time", {}, Scope.MACHINE),
    ],
)
def test_what_a_command_is_after(method: str, params: dict[str, Any], scope: Scope) -> None:
    assert scope_of(method, params) is scope


def refused(claims: Claims, task_id: str, scope: Scope) -> str:
    with pytest.raises(AgentError) as error:
        claims.enter(task_id, "m", scope)
    assert error.value.code == "device_busy"
    return str(error.value)


def test_the_whole_machine_is_one_tasks() -> None:
    claims = Claims()
    claims.enter("t1", RUN, Scope.MACHINE)
    assert "task t1 (standbye.run_image)" in refused(claims, "t2", Scope.MACHINE)
    refused(claims, "t2", Scope.SOME)
    claims.enter("t3", ERASE, Scope.NOTHING)
    claims.leave("t1")
    claims.enter("t2", ERASE, Scope.MACHINE)


def test_looking_hinders_nobody() -> None:
    claims = Claims()
    claims.enter("t1", ERASE, Scope.NOTHING)
    claims.enter("t2", RUN, Scope.MACHINE)


def test_two_tasks_at_different_devices_run_side_by_side() -> None:
    claims = Claims()
    claims.enter("t1", ERASE, Scope.SOME)
    claims.enter("t2", PREPARE, Scope.SOME)
    refused(claims, "t3", Scope.MACHINE)
    claims.claim("t1", ["S1", "S2"])
    claims.claim("t2", ["S3"])
    claims.claim("t1", ["S1"])
    with pytest.raises(AgentError, match=r"task t1 \(decom.disk_erase\) is using S2") as error:
        claims.claim("t2", ["S4", "S2"])
    assert error.value.code == "device_busy"
    claims.claim("t1", ["S4"])  # of a refused claim nothing was kept
    claims.leave("t1")
    claims.claim("t2", ["S4", "S2"])


def test_a_task_that_runs_alone_claims_into_the_air() -> None:
    TaskContext(boot_id="b").claim(["S1"])
