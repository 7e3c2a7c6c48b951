"""Telling served drives what is to happen to them: JSON lines over a Unix socket, one request, one answer."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from teeth.errors import TeethError, UsageError
from teeth.lab.drives.media import FileMedia
from teeth.lab.drives.nvme.served import ServedNvme
from teeth.lab.drives.sata import SataDrive
from teeth.lab.drives.served import Served, ServedDrive
from teeth.lab.unixpath import short

_LINE_MAX = 64 << 10
_SECONDS = 30.0


class Control:
    """What a request does. ``answer`` is pure but for the drives."""

    def __init__(self, drives: Sequence[ServedDrive]) -> None:
        self._drives = {served.name: served for served in drives}

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Carry one request out. UsageError for one that cannot be."""
        do, name = request.get("do"), request.get("drive")
        if do == "list":
            return {"drives": [describe(served) for served in self._drives.values()]}
        served = self._find(name)
        match do:
            case "add":
                served.add(_text(request, "what"))
            case "remove":
                if not served.device.disk.remove(_text(request, "what")):
                    raise UsageError(f"drive {served.name} has no {request['what']} on")
            case "power-cut":
                served.power_off()
                served.power_on()
            case "power-off":
                served.power_off()
            case "power-on":
                served.power_on()
            case "reset":
                served.reset()
            case _:
                raise UsageError(f"there is no request {do!r}")
        return {"drive": describe(served)}

    def _find(self, name: object) -> ServedDrive:
        if name is None and len(self._drives) == 1:
            return next(iter(self._drives.values()))
        served = self._drives.get(name) if isinstance(name, str) else None
        if served is None:
            raise UsageError(
                f"there is no drive {name}" if name else "several drives are served: which one?",
                hint=f"one of {', '.join(self._drives)}",
            )
        return served


def _text(request: Mapping[str, Any], name: str) -> str:
    value = request.get(name)
    if not isinstance(value, str):
        raise UsageError(f"the request has no {name}")
    return value


def describe(served: ServedDrive) -> dict[str, Any]:
    """A drive as a person may want to see it."""
    disk = served.device.disk
    disk.tick()
    facts: dict[str, Any] = {
        "name": served.name,
        "kind": served.kind,
        "nqn" if isinstance(served, ServedNvme) else "iqn": served.address,
        "serial": disk.spec.serial,
        "sector": disk.spec.sector,
        "file": str(disk.media.path.resolve()) if isinstance(disk.media, FileMedia) else None,
        "powered": disk.powered,
        "power_cycles": disk.state.power_cycles,
        "blocks": disk.accessible,
        "firmware": disk.state.firmware,
        "sanitize": disk.state.sanitize.state,
        "format": disk.state.format,
        "under_way": disk.job.method.value if disk.job else None,
        "fraction": round(disk.fraction(), 4),
        "bad_blocks": len(disk.state.bad),
        "remapped": len(disk.state.remapped),
        "behaviours": [
            f"{behaviour.name}:{behaviour.argument}" if behaviour.argument else behaviour.name
            for behaviour in disk.behaviours
        ],
    }
    if isinstance(served, ServedNvme):
        facts |= {"url": served.url, **served.facts()}
    if isinstance(served, Served) and isinstance(served.unit, SataDrive):
        facts["security"] = served.unit.ata.security.state.value
    return facts


@asynccontextmanager
async def listen(control: Control, path: Path) -> AsyncIterator[None]:
    """Answer requests while the block runs. Raises TeethError when the socket cannot be made."""
    under_way: dict[asyncio.Task[None], None] = {}

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        under_way[task] = None
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(_SECONDS):
                line = await reader.readuntil(b"\n")
                writer.write(json.dumps(_served(control, line)).encode() + b"\n")
                await writer.drain()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        del under_way[task]

    _clear_way(path)
    try:
        server = await asyncio.start_unix_server(connected, sock=_socket(path), limit=_LINE_MAX)
    except OSError as error:
        raise TeethError(f"control socket {path}: {error.strerror or error}") from error
    try:
        yield
    finally:
        server.close()
        _remove(path)
        if under_way:
            await asyncio.wait(under_way, timeout=_SECONDS)


def _served(control: Control, line: bytes) -> dict[str, Any]:
    try:
        request = json.loads(line)
        if not isinstance(request, dict):
            raise UsageError("a request is a JSON object")
        return {"ok": True, **control.answer(request)}
    except TeethError as error:
        return {"ok": False, "error": str(error)}
    except ValueError:
        return {"ok": False, "error": "a request is a line of JSON"}


def _socket(path: Path) -> socket.socket:
    """Bound, and only the owner's."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with short(path) as address:
            made.bind(address)
        path.chmod(0o600)
    except OSError:
        made.close()
        raise
    return made


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _clear_way(path: Path) -> None:
    """Remove a socket that a killed server left; refuse one that lives, and anything else."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if not stat.S_ISSOCK(mode):
        raise TeethError(f"control socket {path}: there is a file of that name")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, short(path) as address:
        if probe.connect_ex(address) == 0:
            raise TeethError(f"control socket {path}: another server listens there")
    path.unlink(missing_ok=True)


async def ask(path: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    """Send one request and return the answer. Raises TeethError for a refusal and when nobody answers."""
    try:
        async with asyncio.timeout(_SECONDS):
            with short(path) as address:
                reader, writer = await asyncio.open_unix_connection(address, limit=1 << 20)
            writer.write(json.dumps(dict(request)).encode() + b"\n")
            line = await reader.readline()
            writer.close()
            await writer.wait_closed()
    except OSError as error:
        raise TeethError(
            f"no drives are served at {path}: {error.strerror or error}",
            hint="give the control= path that teeth lab drive serve printed",
        ) from error
    except TimeoutError:
        raise TeethError(f"{path} does not answer") from None
    answer = json.loads(line or b"{}")
    if not answer.get("ok"):
        raise TeethError(str(answer.get("error", "no answer")))
    return dict(answer)
