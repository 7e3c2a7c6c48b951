"""Format NVM with secure erase, on every namespace of an NVMe drive."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from teeth_agent.drives.nvme import NvmeCommand, NvmeDrive, format_command
from teeth_agent.drives.nvmedata import Controller, Namespace, SecureErase
from teeth_agent.erase.methods import Poll, State
from teeth_agent.errors import AgentError, DeviceError

# The command ends when the erase has, and when its time is over the kernel resets the controller: that must
# not happen to a drive that is only slow. Drives do not tell how long a format takes.
_LEAST_SECONDS = 6 * 3600.0
_SLOWEST_RATE = 50e6  # bytes a second
# What the record keeps of each namespace's Identify data: sizes, formats in use, format progress.
_KEPT_BYTES = 64


class NvmeFormat:
    """See DeviceErase. Each namespace keeps its block size, metadata and protection.

    Namespaces that are attached to no controller are attached to this one first, and stay so. Where one
    secure erase reaches all namespaces (FNA bit 1) it is sent once. ``again``: namespaces that say that they
    are being formatted were left so by a format that was cut short.
    """

    def __init__(self, drive: NvmeDrive, ses: SecureErase, *, again: bool = False) -> None:
        self.commands: list[str] = []
        self.estimate: float | None = None
        self._drive = drive
        self._ses = SecureErase(ses)
        self._again = again
        self._before: tuple[Namespace, ...] = ()
        self._done: list[dict[str, Any]] = []
        self._bytes_done = 0
        self._error: AgentError | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """See DeviceErase. A refusal by the drive shows only when polled: the command is its own end."""
        controller = self._drive.identify()
        self.commands += attach_detached(self._drive, controller)
        nsids = self._drive.namespaces()
        if not nsids:
            raise DeviceError(f"{self._drive.device} has no namespace to format", code="no_namespace")
        self._before = tuple(self._drive.identify_namespace(nsid) for nsid in nsids)
        for namespace in self._before:
            self._check(namespace)
        once = controller.erases_all_at_once
        targets = self._before[:1] if once else self._before
        whole = sum(namespace.size for namespace in self._before)
        plan = [
            (format_command(target, self._ses, device=self._drive.device), whole if once else target.size)
            for target in targets
        ]
        self._thread = threading.Thread(target=self._run, args=(plan,), name="nvme-format", daemon=True)
        self._thread.start()

    def adopt(self) -> bool:
        """Never: a drive does not tell whether the format that is under way erases."""
        return False

    def poll(self) -> Poll:
        thread = self._thread
        if thread is not None and thread.is_alive():
            whole = sum(namespace.size for namespace in self._before)
            # A format tells no progress; what is known is how many of them are over.
            fraction = self._bytes_done / whole if self._bytes_done and whole else None
            return Poll(state=State.RUNNING, fraction=fraction, evidence=self._told())
        if thread is None or self._error is not None:
            evidence = self._told() | {"reason": str(self._error or "nothing was begun")}
            return Poll(state=State.FAILED, fraction=None, evidence=evidence)
        return Poll(state=State.DONE, fraction=1.0, evidence=self._told())

    def complete(self) -> Mapping[str, Any]:
        if self.poll().state is not State.DONE:
            raise DeviceError(
                f"{self._drive.device}: {self._error or 'its format goes on'}", code="not_completed"
            )
        after = tuple(self._drive.identify_namespace(nsid) for nsid in self._drive.namespaces())
        if [one.nsid for one in after] != [one.nsid for one in self._before]:
            raise DeviceError(
                f"{self._drive.device} has other namespaces than before its format", code="not_completed"
            )
        for was, now in zip(self._before, after, strict=True):
            if was.shape != now.shape or now.remaining:
                raise DeviceError(
                    f"{self._drive.device}: namespace {now.nsid} is not as it was: {was.shape} became"
                    f" {now.shape}, {now.remaining or 0} % of its format left",
                    code="not_completed",
                )
        kept = {str(one.nsid): one.raw[:_KEPT_BYTES].hex() for one in after}
        return {**self._told(), "identify_namespace": kept}

    def abandon(self) -> None:
        """Raises DeviceError(still_running) while the drive has not answered; else there is nothing to do."""
        if self._thread is not None and self._thread.is_alive():
            raise DeviceError(
                f"{self._drive.device} still formats and cannot be stopped", code="still_running"
            )

    def _check(self, namespace: Namespace) -> None:
        if namespace.write_protected:
            raise DeviceError(
                f"{self._drive.device}: namespace {namespace.nsid} is write protected", code="read_only"
            )
        if namespace.remaining and not self._again:
            raise DeviceError(
                f"{self._drive.device}: namespace {namespace.nsid} is being formatted", code="format_running"
            )

    def _run(self, plan: list[tuple[NvmeCommand, int]]) -> None:
        """In a thread of its own: one format after the other. An error is kept for ``poll``."""
        try:
            for command, size in plan:
                self.commands.append(str(command))
                self._drive.order(command, timeout=max(_LEAST_SECONDS, 2 * size / _SLOWEST_RATE))
                self._done.append({"namespace": command.nsid, "status": 0})
                self._bytes_done += size
        except AgentError as error:
            self._error = error
        except Exception as error:
            self._error = AgentError(f"{type(error).__name__}: {error}", code="internal_error")

    def _told(self) -> dict[str, Any]:
        return {"ses": int(self._ses), "formats": list(self._done)}


def attach_detached(drive: NvmeDrive, controller: Controller) -> list[str]:
    """Attach every namespace that is in the subsystem but not on this controller. What was sent.

    They stay attached: their content must be reachable to be erased, and seen to be. Without namespace
    management there are none. Raises DeviceError for one that cannot be had, as a private one of another
    controller.
    """
    if not controller.manages_namespaces:
        return []
    active = set(drive.namespaces())
    return [
        str(drive.attach(nsid, controller.cntlid))
        for nsid in drive.namespaces(allocated=True)
        if nsid not in active
    ]
