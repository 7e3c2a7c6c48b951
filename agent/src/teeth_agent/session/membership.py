"""This boot's standing with its endpoints: how it gets a certificate, and how it keeps one."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

from teeth_agent.errors import AgentError
from teeth_agent.session.enrol import Credential, Keys
from teeth_protocol import methods
from teeth_protocol.fields import FieldError, Fields
from teeth_stream import Peer, RemoteError

_log = logging.getLogger(__name__)

_RENEW_AT = 2 / 3  # of its life: what is left is time for an endpoint to come back
_RENEW_SPREAD = 0.1
_RENEW_RETRY = 1 / 24  # of its life: an hour of a day
# A suspended machine's timers stand still, its certificate's life does not: look at the clock now and then.
_LOOK = 300.0
_LONGEST = 10 * 365 * 86400.0
_MAX_CERTIFICATE = 16 << 10
# Connections in a row that ended before their handshake was answered. Then the certificate may be the reason:
# TLS 1.3 tells a client of a refused certificate only after the connection is made, if at all.
_DOUBTS = 2
_MOST_DOUBTS = 64

ADVICE: Mapping[str, str] = {
    "no_token": "give this machine a boot grant and start it again",
    "token_unknown": "give this machine a boot grant of this endpoint and start it again",
    "token_expired": "give this machine a new boot grant and start it again",
    "token_burnt": "if that was not an earlier start of this machine, somebody else has the token; "
    "give this machine a new boot grant and start it again",
    "token_other_node": "give this machine a boot grant of its own and start it again",
    "node_claimed": "if that machine is gone, `teeth node forget` makes the id free",
    "stale_boot": "start this machine again, unless it was the other one that should not be there",
    "not_enrolled": "a certificate is asked for anew",
    "wrong_identity": "a certificate is asked for anew",
    "certificate_expired": "a certificate is asked for anew",
    "no_common_version": "agent and endpoint are of different times: build the ramdisk anew",
}
# Last words after which the certificate is the reason, and not the network.
_ABOUT_CERTIFICATE = frozenset({"not_enrolled", "wrong_identity", "certificate_expired"})
_LAST_WORDS = re.compile(r"([a-z_]{3,32}): (.+)", re.DOTALL)


def last_words(text: str) -> tuple[str, str]:
    """A fatal error's code and words: "CODE: words" with a code that we know, else ("refused", all)."""
    match = _LAST_WORDS.fullmatch(text)
    return (match[1], match[2]) if match is not None and match[1] in ADVICE else ("refused", text)


class EnrolError(AgentError):
    """The endpoint has said no, or what it sent is no certificate; ``code`` is its own where it gave one."""

    code = "not_enrolled"


class Membership:
    """The credential of this boot. ``token`` reads the join token anew each time; it is kept nowhere."""

    def __init__(
        self,
        keys: Keys,
        token: Callable[[], str],
        machine: Mapping[str, Any],
        *,
        jitter: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        self._keys = keys
        self._token = token
        self._machine = dict(machine)
        self._jitter = jitter
        self._clock = clock
        self._credential: Credential | None = None
        self._loaded = False
        self._doubts = 0
        self._patience = _DOUBTS
        self._spread = jitter()
        self.clock_offset: float | None = None

    async def credential(self) -> Credential | None:
        """What to show, None when there is nothing or when it is time to ask for another one."""
        if not self._loaded:
            self._credential, self._loaded = await self._keys.load(), True
        if self._credential is None or self._age(self._credential) >= self._credential.lasts:
            return None
        if self._doubts >= self._patience:
            # Asked for once, and the old one is not thrown away: it may have been something else.
            self._doubts, self._patience = 0, min(_MOST_DOUBTS, 2 * self._patience)
            return None
        return self._credential

    def trusted(self) -> None:
        """A handshake was accepted."""
        self._doubts, self._patience = 0, _DOUBTS

    def doubted(self, code: str = "") -> None:
        """A connection with the certificate came to its end before its handshake was answered.

        ``code``: what the endpoint gave as its reason.
        """
        if code == "stale_boot":
            return  # the certificate is good, and so would be another
        self._doubts = self._patience if code in _ABOUT_CERTIFICATE else self._doubts + 1

    async def request(self) -> dict[str, Any]:
        """The params of the first ``enroll``. To be made before dialling: a stranger has five seconds.

        Raises EnrolError without a token, AgentError without a key.
        """
        token = self._token()
        if not token:
            raise EnrolError("the kernel command line has no teeth.token=", code="no_token")
        return {**self._machine, "token": token, "csr": await self._keys.csr()}

    async def enrol(self, peer: Peer, params: dict[str, Any]) -> None:
        """Ask for a certificate with what ``request`` gave, and keep it. Raises RemoteError, AgentError."""
        await self._keep(await peer.call(methods.ENROLL, params))

    async def stay(self, peer: Peer) -> None:
        """Renew the certificate over this session whenever it is time. Returns when the session is over."""
        retry = 0.0
        while (credential := self._credential) is not None:
            wait = max(self._renewal(credential), retry) - self._keys.now()
            if wait > 0:
                await asyncio.sleep(min(wait, _LOOK))
                continue
            try:
                await self._keep(await peer.call(methods.ENROLL, {"csr": await self._keys.csr()}))
                _log.info("the certificate was renewed")
            except RemoteError as error:
                if error.problem.code == "connection_lost":
                    return
                _log.warning("the certificate was not renewed: %s", error)
            except AgentError as error:
                _log.warning("the certificate was not renewed: %s", error)
            retry = self._keys.now() + credential.lasts * _RENEW_RETRY
        await asyncio.Event().wait()  # nothing to renew, and no reason to end the session

    def heard_time(self, answer: Mapping[str, Any]) -> None:
        """Note how far our clock is from the endpoint's, where its answer says the time."""
        told = answer.get("time")
        if isinstance(told, int | float) and not isinstance(told, bool):
            self.clock_offset = round(told - self._clock(), 3)

    async def _keep(self, answer: Mapping[str, Any]) -> None:
        try:
            fields = Fields(answer, "the endpoint's answer")
            certificate = fields.text("certificate", max_length=_MAX_CERTIFICATE)
            # By the endpoint's clock, not by ours, which nobody has set: only the difference counts.
            lasts = float(fields.number("not_after")) - float(fields.number("time"))
        except (FieldError, OverflowError) as error:
            raise EnrolError(str(error), code="bad_certificate") from None
        if not 0 < lasts <= _LONGEST:
            raise EnrolError(f"the certificate would last for {lasts:g} s", code="bad_certificate")
        self.heard_time(answer)
        self._credential = await self._keys.keep(certificate, lasts)
        self._spread = self._jitter()

    def _renewal(self, credential: Credential) -> float:
        share = _RENEW_AT + _RENEW_SPREAD * (self._spread - 0.5)
        return credential.issued + share * credential.lasts

    def _age(self, credential: Credential) -> float:
        return self._keys.now() - credential.issued
