"""The product on a simulated machine: plan and execute as decom.disk_erase does, and what a new life does."""

from __future__ import annotations

from fakes.reporting import ToldReporter
from fakes.simulated_drives import SimulatedMachine
from teeth_agent.erase.execute import World, execute
from teeth_agent.erase.leftovers import look_over
from teeth_agent.erase.methods import Ports
from teeth_agent.erase.methods.ata_leftovers import Tries
from teeth_agent.erase.plan import newcomers, plan_erase
from teeth_agent.erase.policy import Policy
from teeth_agent.erase.record import UnitRecord, late
from teeth_agent.tasks.disk_erase import probe_units

# The one that every tool which finds a locked drive may know of.
PASSWORD = b"TEETHERASE".ljust(32, b"\0")


def erase(machine: SimulatedMachine, policy: Policy) -> list[UnitRecord]:
    """Every drive's record, as the task would send it home."""
    reporter = ToldReporter()
    media = machine.look()
    plan = plan_erase(media, policy, probe_units(media, ports(machine), reporter, lambda devnode: None))
    records = execute(plan, world(machine), machine.kernel_log(), reporter)
    erased = [record.unit for record in records if record.unit is not None]
    return records + [late(unit) for unit in newcomers(plan, machine.look(), erased)]


def ports(machine: SimulatedMachine) -> Ports:
    return Ports(open_scsi=machine.open_scsi, open_nvme=machine.open_nvme)


def world(machine: SimulatedMachine) -> World:
    return World(
        open=machine.open,
        ports=ports(machine),
        tries=Tries(),
        rescan=machine.rescan,
        **machine.parts(),
    )


def recover(machine: SimulatedMachine) -> None:
    """What the agent does at every start before anything else: see to what an interrupted erase left."""
    look_over(machine.look(), ports(machine), Tries())
