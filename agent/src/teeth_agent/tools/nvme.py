"""nvme-cli: what a controller can do, which namespaces it has, and Format NVM."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from teeth_agent.errors import ToolError
from teeth_agent.run import Completed, run

# A format that erases may take hours on a large drive; the kernel's default for admin commands is a minute.
FORMAT_SECONDS = 6 * 3600
_MAX_NAMESPACES = 1024  # one Identify list

# NVM Express Base Specification 2.0, Figure 275: OACS and FNA.
_OACS_FORMAT = 1 << 1
_OACS_NAMESPACE_MANAGEMENT = 1 << 3
_FNA_FORMAT_ALL = 1 << 0
_FNA_ERASE_ALL = 1 << 1
_FNA_CRYPTO = 1 << 2

USER_DATA_ERASE = 1
CRYPTO_ERASE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Controller:
    """Identify Controller as far as erasing needs it; capacities in bytes, 0 where it does not say."""

    name: str
    oacs: int
    fna: int
    sanicap: int
    total_capacity: int
    unallocated_capacity: int

    @property
    def can_format(self) -> bool:
        return bool(self.oacs & _OACS_FORMAT)

    @property
    def can_crypto_erase(self) -> bool:
        return self.can_format and bool(self.fna & _FNA_CRYPTO)

    @property
    def manages_namespaces(self) -> bool:
        return bool(self.oacs & _OACS_NAMESPACE_MANAGEMENT)

    @property
    def erases_all_at_once(self) -> bool:
        """A format with secure erase reaches every namespace, whichever one it is sent to."""
        return bool(self.fna & (_FNA_FORMAT_ALL | _FNA_ERASE_ALL))


def identify(controller: str) -> Controller:
    """Identify /dev/``controller``. Raises ToolError, also for an answer that is not what was asked for."""
    answer = _json(run(["nvme", "id-ctrl", f"/dev/{controller}", "--output-format=json"]))
    return parse_controller(controller, answer)


def parse_controller(name: str, answer: Mapping[str, Any]) -> Controller:
    """Read nvme-cli's id-ctrl object; capacities are numbers or strings, by its version."""
    return Controller(
        name=name,
        oacs=_number(answer, "oacs"),
        fna=_number(answer, "fna"),
        sanicap=_number(answer, "sanicap", 0),
        total_capacity=_number(answer, "tnvmcap", 0),
        unallocated_capacity=_number(answer, "unvmcap", 0),
    )


def list_namespaces(controller: str, *, allocated: bool) -> tuple[int, ...]:
    """The ids of the controller's active namespaces; with ``allocated`` the subsystem's detached ones too."""
    argv = ["nvme", "list-ns", f"/dev/{controller}", "--output-format=json"]
    answer = _json(run([*argv, "--all"] if allocated else argv))
    return parse_namespaces(answer)


def parse_namespaces(answer: Mapping[str, Any]) -> tuple[int, ...]:
    """Read nvme-cli's list-ns object: its versions write the member's name "nsid" or "NSID"."""
    entries = answer.get("nsid_list")
    if not isinstance(entries, list) or len(entries) > _MAX_NAMESPACES:
        raise ToolError("nvme list-ns: no nsid_list in its answer")
    found = []
    for entry in entries:
        lowered = {str(key).lower(): value for key, value in entry.items()} if isinstance(entry, dict) else {}
        found.append(_number(lowered, "nsid"))
    return tuple(sorted(found))


def format_argv(devnode: str, secure_erase: int) -> list[str]:
    """The Format NVM command for one namespace. Only formats that erase: ValueError for anything else."""
    if secure_erase not in (USER_DATA_ERASE, CRYPTO_ERASE):
        raise ValueError(f"ses={secure_erase} does not erase")
    return [
        "nvme",
        "format",
        devnode,
        f"--ses={secure_erase}",
        "--force",
        f"--timeout={FORMAT_SECONDS * 1000}",
    ]


def format_namespace(devnode: str, secure_erase: int) -> Completed:
    """Format one namespace, keeping its block size. Raises ToolError when the drive or the tool says no."""
    return run(format_argv(devnode, secure_erase), timeout=FORMAT_SECONDS + 60)


def _json(completed: Completed) -> Mapping[str, Any]:
    try:
        answer = json.loads(completed.stdout)
    except (ValueError, RecursionError) as error:
        raise ToolError(f"nvme {completed.argv[1]}: its answer is not JSON") from error
    if not isinstance(answer, dict):
        raise ToolError(f"nvme {completed.argv[1]}: its answer is not an object")
    return answer


def _number(answer: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = answer.get(key, default)
    try:
        if isinstance(value, float | int | str):
            return int(value)
    except (ValueError, OverflowError):
        pass
    raise ToolError(f"nvme: {key} is {value!r}, not a number")
