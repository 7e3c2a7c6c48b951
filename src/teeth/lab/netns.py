"""Network namespaces: made, entered by one thread for a moment, removed. All of it needs root."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from teeth.errors import TeethError, UsageError
from teeth.proc import CommandError, run

BRIDGE = "br0"
FOLDER = Path("/run/netns")  # ip-netns(8)
_SECONDS = 30.0
_CLONE_NEWNET = 0x40000000  # linux/sched.h
# linux/if_tun.h
_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
T = TypeVar("T")


def require_root() -> None:
    """Raise UsageError where no namespace can be made."""
    if os.geteuid() != 0:
        raise UsageError(
            "a netns network needs root", hint="run it as root, or use the network user, which needs nothing"
        )
    if not Path("/dev/net/tun").exists():
        raise TeethError("there is no /dev/net/tun here: this kernel has no taps")


def exists(namespace: str) -> bool:
    return (FOLDER / namespace).exists()


def ip(namespace: str, *words: str) -> str:
    """``ip -n NAMESPACE WORDS``; CommandError when it refuses."""
    return run(["ip", "-n", namespace, *words], timeout=_SECONDS)


def create(namespace: str) -> None:
    """A new namespace with its loopback up and the bridge; TeethError when it cannot be had."""
    require_root()
    try:
        run(["ip", "netns", "add", namespace], timeout=_SECONDS)
        ip(namespace, "link", "set", "lo", "up")
        # No spanning tree: what one does is a matter of each cable (LinkQuality.forwarding_delay).
        ip(namespace, "link", "add", BRIDGE, "type", "bridge", "stp_state", "0", "forward_delay", "0")
        ip(namespace, "link", "set", BRIDGE, "up")
    except CommandError as error:
        raise TeethError(f"network namespace {namespace}: {error.tail or error}") from error


def remove(namespace: str) -> None:
    """Take the namespace's name away: it ends with the last process in it. Nothing to do without one."""
    if exists(namespace):
        run(["ip", "netns", "delete", namespace], timeout=_SECONDS)


def inside(namespace: str, function: Callable[[], T]) -> T:
    """``function``'s result, run in a thread of its own that has entered the namespace.

    A thread has a network namespace to itself (setns(2)), and this one ends with the call: nothing else of
    this process ever sees it. What the function opens stays in the namespace. Raises what it raises.
    """
    found: list[T] = []
    raised: list[BaseException] = []

    def work() -> None:
        try:
            enter(namespace)
            found.append(function())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work, name=f"in {namespace}")
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
    return found[0]


def enter(namespace: str) -> None:
    """Bring this thread into the namespace, for good. Raises TeethError when there is none."""
    try:
        descriptor = os.open(FOLDER / namespace, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise TeethError(f"there is no network namespace {namespace}") from error
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:
            reason = os.strerror(ctypes.get_errno())
            raise TeethError(f"network namespace {namespace} cannot be entered: {reason}")
    finally:
        os.close(descriptor)


def open_tap(namespace: str, name: str, *, bridged: bool = True, offload: bool = False) -> int:
    """A descriptor of a new tap, up, and a port of the bridge if ``bridged``. The tap goes with it.

    With ``offload`` every frame has a virtio header in front, as QEMU wants it. Raises TeethError.
    """
    flags = _IFF_TAP | _IFF_NO_PI | (_IFF_VNET_HDR if offload else 0)

    def work() -> int:
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    try:
        descriptor = inside(namespace, work)
    except OSError as error:
        reason = "another card of this address is on" if error.errno == errno.EBUSY else error.strerror
        raise TeethError(f"tap {name} in {namespace}: {reason}") from error
    try:
        if bridged:
            ip(namespace, "link", "set", name, "master", BRIDGE)
        ip(namespace, "link", "set", name, "up")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def connect(namespace: str, address: tuple[str, int], *, timeout: float) -> socket.socket:
    """A TCP connection made inside the namespace. Raises OSError."""
    return inside(namespace, lambda: socket.create_connection(address, timeout))
