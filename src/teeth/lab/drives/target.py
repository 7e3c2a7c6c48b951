"""An iSCSI target on asyncio: listens, logs initiators in, hands them to their drive."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from teeth.errors import TeethError
from teeth.lab.drives.connection import PduStream, Session
from teeth.lab.drives.negotiate import (
    AUTHENTICATION_FAILURE,
    INITIATOR_ERROR,
    MISSING_PARAMETER,
    NOT_FOUND,
    SEGMENT_MAX,
    TOO_MANY,
    UNSUPPORTED_VERSION,
    Agreed,
    Chap,
    LoginRefusedError,
    negotiate,
)
from teeth.lab.drives.pdu import TEXT_MAX, Op, Pdu, PduError, build, build_keys, parse_keys
from teeth.lab.drives.served import Served

_log = logging.getLogger(__name__)
CONNECTIONS = 64
_LOGIN_SECONDS = 15.0
_LOGIN_STEPS = 16
_SECURITY, _OPERATIONAL, _FULL = 0, 1, 3


class _Login:
    """The login phase of one connection (RFC 7143 6.3)."""

    def __init__(self, target: Target, stream: PduStream) -> None:
        self._target = target
        self._stream = stream
        self._keys: dict[str, str] = {}
        self._chap = Chap(user=target.user, secret=target.secret) if target.user else None
        self._challenged = False
        self.proven = self._chap is None
        self.agreed = Agreed()
        self.served: Served | None = None
        self.discovery = False
        self.initiator = ""
        self.isid = b""
        self.stat_sn = 1
        self.cmd_sn = 0

    async def run(self) -> None:
        """Until the full feature phase. LoginRefusedError when it is refused."""
        text = b""
        for _ in range(_LOGIN_STEPS):
            pdu = await self._stream.receive(TEXT_MAX)
            if pdu.opcode != Op.LOGIN:
                raise PduError("something else than a login comes first")
            text += pdu.data
            if len(text) > TEXT_MAX:
                raise PduError("more login text than is taken")
            self.cmd_sn = pdu.number(24)
            if pdu.flags & 0x40:  # C: the text goes on in the next request
                await self._answer(pdu, pdu.flags & 0x0C, [])
                continue
            try:
                keys, text = parse_keys(text), b""
                if await self._step(pdu, keys):
                    return
            except LoginRefusedError as refused:
                await self._refuse(pdu, refused.status)
                raise
            except PduError:
                await self._refuse(pdu, INITIATOR_ERROR)
                raise
        raise PduError("a login of too many steps")

    async def _step(self, pdu: Pdu, keys: dict[str, str]) -> bool:
        if pdu.header[3] > 0:
            raise LoginRefusedError(UNSUPPORTED_VERSION, "a newer protocol version")
        stage, following, transit = pdu.flags >> 2 & 0x03, pdu.flags & 0x03, pdu.final
        if not self.initiator:
            self._who(pdu, keys)
        answers = self._prove(keys) if stage == _SECURITY else []
        if stage == _OPERATIONAL and not self.proven:
            raise LoginRefusedError(AUTHENTICATION_FAILURE, "no proof of who it is")
        if stage not in (_SECURITY, _OPERATIONAL) or (transit and following <= stage):
            raise LoginRefusedError(INITIATOR_ERROR, "no such stage of login")
        answers += negotiate(self.agreed, keys)
        goes_on = transit and self.proven
        flags = (0x80 | following if goes_on else 0) | stage << 2
        await self._answer(pdu, flags, answers, last=goes_on and following == _FULL)
        return goes_on and following == _FULL

    def _who(self, pdu: Pdu, keys: dict[str, str]) -> None:
        name = keys.get("InitiatorName", "")
        if not 0 < len(name) <= 223:
            raise LoginRefusedError(MISSING_PARAMETER, "no initiator name")
        self.initiator, self.isid = name, pdu.header[8:14]
        self.discovery = keys.get("SessionType", "Normal") == "Discovery"
        if self.discovery:
            return
        if "TargetName" not in keys:
            raise LoginRefusedError(MISSING_PARAMETER, "no target name")
        self.served = self._target.drives.get(keys["TargetName"])
        if self.served is None or not self.served.there:
            raise LoginRefusedError(NOT_FOUND, f"no target {keys['TargetName']}")

    def _prove(self, keys: dict[str, str]) -> list[tuple[str, str]]:
        """One step of the security stage: none, or CHAP in three."""
        if "CHAP_R" in keys and self._chap is not None and self._challenged:
            if not self._chap.verify(keys.get("CHAP_N", ""), keys["CHAP_R"]):
                raise LoginRefusedError(AUTHENTICATION_FAILURE, "wrong name or secret")
            self.proven = True
            return []
        if "CHAP_A" in keys and self._chap is not None:
            if "5" not in keys["CHAP_A"].split(","):
                raise LoginRefusedError(AUTHENTICATION_FAILURE, "no CHAP algorithm in common")
            self._challenged = True
            return self._chap.first()
        if "AuthMethod" not in keys:
            return []
        wanted = "None" if self._chap is None else "CHAP"
        if wanted not in keys["AuthMethod"].split(","):
            raise LoginRefusedError(AUTHENTICATION_FAILURE, f"it does not offer {wanted}")
        return [("AuthMethod", wanted)]

    async def _answer(self, pdu: Pdu, flags: int, keys: list[tuple[str, str]], *, last: bool = False) -> None:
        if self.stat_sn == 1 and self.served is not None and not self.discovery:
            keys = [*keys, ("TargetPortalGroupTag", "1")]
        tsih = self._target.next_tsih() if last else 0
        await self._send(pdu, flags, build_keys(keys), tsih=tsih)

    async def _refuse(self, pdu: Pdu, status: int) -> None:
        await self._send(pdu, 0, b"", status=status)

    async def _send(self, pdu: Pdu, flags: int, data: bytes, *, tsih: int = 0, status: int = 0) -> None:
        lun = pdu.header[8:14] + (tsih or int.from_bytes(pdu.header[14:16], "big")).to_bytes(2, "big")
        fields = {24: self.stat_sn, 28: self.cmd_sn, 32: self.cmd_sn, 36: status << 16}
        self.stat_sn += 1
        await self._stream.send(
            build(Op.LOGIN_RESPONSE, flags, data=data, lun=lun, tag=pdu.tag, fields=fields)
        )


class Target:
    """The drives, by their names, on one address. With ``user`` initiators must prove themselves by CHAP."""

    def __init__(self, drives: Sequence[Served], *, user: str = "", secret: str = "") -> None:
        self.drives = {served.iqn: served for served in drives}
        self.user = user
        self.secret = secret
        self.address = ""
        self._tsih = 0
        self._open: dict[asyncio.Task[None], None] = {}

    def next_tsih(self) -> int:
        self._tsih = self._tsih % 0xFFFF + 1
        return self._tsih

    @asynccontextmanager
    async def listen(self, host: str, port: int) -> AsyncIterator[tuple[str, int]]:
        """Serve while the block runs; yields the address. Raises TeethError when it cannot be had."""
        async with AsyncExitStack() as stack:
            try:
                server = await asyncio.start_server(self._connected, host, port)
            except OSError as error:
                raise TeethError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
            stack.callback(server.close)
            for served in self.drives.values():
                stack.push_async_callback(_stop, asyncio.create_task(served.tick()))
            bound = server.sockets[0].getsockname()
            self.address = f"[{bound[0]}]:{bound[1]}" if ":" in bound[0] else f"{bound[0]}:{bound[1]}"
            stack.push_async_callback(self._end_all)
            yield bound[0], bound[1]

    async def _end_all(self) -> None:
        for task in list(self._open):
            await _stop(task)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = None
        try:
            await self._serve(PduStream(reader, writer))
        except (OSError, asyncio.IncompleteReadError, TimeoutError, PduError, LoginRefusedError) as error:
            _log.info("connection ended: %s", str(error) or type(error).__name__)
        except asyncio.CancelledError:
            pass  # the server ends; nobody waits for this task's outcome
        finally:
            self._open.pop(task, None)
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _serve(self, stream: PduStream) -> None:
        login = _Login(self, stream)
        if len(self._open) > CONNECTIONS:
            raise LoginRefusedError(TOO_MANY, "too many connections")
        async with asyncio.timeout(_LOGIN_SECONDS):
            await login.run()
        session = Session(
            stream,
            login.agreed,
            served=login.served,
            nexus=f"{login.initiator},i,0x{login.isid.hex()}",
            targets=dict.fromkeys(self.drives, self.address),
            stat_sn=login.stat_sn,
            cmd_sn=login.cmd_sn,
            segment=SEGMENT_MAX,
        )
        served = login.served
        if served is not None:
            served.dropped.append(session.drop)
        try:
            await session.serve()
        finally:
            if served is not None:
                served.dropped.remove(session.drop)


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
