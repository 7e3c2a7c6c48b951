"""How each method is carried out. A method returns what the device said; it never judges the result."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from teeth_agent.blockio import Device
from teeth_agent.erase.model import Method, Unit
from teeth_agent.erase.stream import write_zeros
from teeth_agent.run import Completed
from teeth_agent.tools import nvme

Advance = Callable[[int], None]

_SECURE_ERASE = {
    Method.NVME_FORMAT_CRYPTO: nvme.CRYPTO_ERASE,
    Method.NVME_FORMAT_USER_DATA: nvme.USER_DATA_ERASE,
}


class Open(Protocol):
    """blockio.open_device, or what stands for it."""

    def __call__(self, path: str, *, write: bool) -> AbstractContextManager[Device]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What the methods need of the world outside."""

    open: Open
    format_namespace: Callable[[str, int], Completed] = nvme.format_namespace
    identify_controller: Callable[[str], nvme.Controller] = nvme.identify


def work(method: Method, unit: Unit) -> int:
    """The bytes that the method itself moves; 0 where the device works alone and tells no progress."""
    return unit.size if method is Method.OVERWRITE else 0


def step_name(method: Method) -> str:
    return "overwrite" if method is Method.OVERWRITE else "format"


def carry_out(
    method: Method, unit: Unit, tools: Tools, advance: Advance, commands: list[str]
) -> Mapping[str, Any]:
    """Erase the unit; what the device answered. Appends every command line run to ``commands``.

    Raises DeviceError or ToolError when the device or tool refused, Cancelled from ``advance``.
    """
    if method is Method.OVERWRITE:
        return _overwrite(unit, tools, advance)
    return _format(unit, tools, _SECURE_ERASE[method], commands)


def _overwrite(unit: Unit, tools: Tools, advance: Advance) -> Mapping[str, Any]:
    written = 0
    for extent in unit.extents:
        with tools.open(extent.medium.devnode, write=True) as device:
            written += write_zeros(device, advance)
    return {"bytes_written": written, "flushed": True}


def _format(unit: Unit, tools: Tools, secure_erase: int, commands: list[str]) -> Mapping[str, Any]:
    assert unit.first.controller is not None, "only planned for NVMe units"
    controller = tools.identify_controller(unit.first.controller)
    # Where one command reaches all namespaces, sending it for each would erase the drive that many times.
    extents = unit.extents[:1] if controller.erases_all_at_once else unit.extents
    answers = []
    for extent in extents:
        devnode = extent.medium.devnode
        commands.append(shlex.join(nvme.format_argv(devnode, secure_erase)))
        done = tools.format_namespace(devnode, secure_erase)
        answers.append(
            {
                "namespace": extent.medium.namespace,
                "status": done.returncode,
                "said": done.stdout.strip()[-200:],
            }
        )
    return {"formats": answers, "all_namespaces_at_once": controller.erases_all_at_once}
