"""The product on a simulated machine: plan and execute as decom.disk_erase does, and what a new life does."""

from __future__ import annotations

from fakes.reporting import ToldReporter
from fakes.simulated_drives import SimulatedMachine
from teeth_agent.erase.execute import World, execute
from teeth_agent.erase.hidden import Hidden, State
from teeth_agent.erase.methods.carry import Tools
from teeth_agent.erase.plan import Probes, plan_erase
from teeth_agent.erase.policy import Policy
from teeth_agent.erase.record import UnitRecord

# The one that every tool which finds a locked drive may know of.
PASSWORD = b"teeth".ljust(32, b"\0")


def erase(machine: SimulatedMachine, policy: Policy) -> list[UnitRecord]:
    """Every drive's record, as the task would send it home."""
    plan = plan_erase(machine.look(), policy, Probes())
    return execute(plan, world(machine), machine.kernel_log(), ToldReporter())


def world(machine: SimulatedMachine) -> World:
    return World(
        tools=Tools(open=machine.open),
        look_hidden=lambda unit: Hidden(state=State.NOT_APPLICABLE, reason="not looked for"),
        **machine.parts(),
    )


def recover(machine: SimulatedMachine) -> None:
    """What the agent does at every start before anything else: see to what an interrupted erase left."""
