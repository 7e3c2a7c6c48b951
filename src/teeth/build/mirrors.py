"""Which Debian mirrors the build uses: those of the build host's own apt configuration.

No mirror is named in the project. A host that has none says so in one line and is told which variables
to set.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from teeth.errors import TeethError, UsageError
from teeth.proc import run

MIRROR_VARIABLE = "TEETH_DEBIAN_MIRROR"
SECURITY_VARIABLE = "TEETH_DEBIAN_SECURITY_MIRROR"
_FORMAT = "$(LABEL)|$(REPO_URI)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirrors:
    """Base addresses without a trailing slash; ``proxy`` is apt's HTTP proxy, or ""."""

    debian: str
    security: str
    proxy: str = ""

    def environment(self) -> dict[str, str]:
        """The variables by which diskimage-builder's elements learn of the mirrors."""
        env = {
            "DIB_DISTRIBUTION_MIRROR": self.debian,
            "DIB_DEBIAN_SECURITY_MIRROR": self.security,
        }
        if self.proxy:
            env["http_proxy"] = self.proxy
        return env


def find_mirrors(
    env: Mapping[str, str] | None = None, read: Callable[[], Iterable[str]] | None = None
) -> Mirrors:
    """The mirrors named by the environment, else those that apt on this host uses.

    ``read`` returns lines ``LABEL|REPO_URI``, as ``apt-get indextargets`` prints them. Raises TeethError
    when there is no Debian source, UsageError when a variable holds no http address.
    """
    variables = os.environ if env is None else env
    debian, security = _named(variables, MIRROR_VARIABLE), _named(variables, SECURITY_VARIABLE)
    if debian and not security:
        security = f"{debian}-security"  # where mirrors of both archives keep the second
    proxy = variables.get("http_proxy", "")
    if not (debian and security):
        found = choose(read() if read is not None else _index_targets())
        debian, security = debian or found[0], security or found[1]
        proxy = proxy or (_apt_proxy() if read is None else "")
    if not debian:
        raise TeethError(
            "this machine's apt configuration names no Debian mirror",
            hint=f"set {MIRROR_VARIABLE} to one, like http://HOST/debian",
        )
    if not security:
        raise TeethError(
            "this machine's apt configuration names no Debian security mirror",
            hint=f"set {SECURITY_VARIABLE} to one, like http://HOST/debian-security",
        )
    return Mirrors(debian=debian, security=security, proxy=proxy)


def choose(lines: Iterable[str]) -> tuple[str, str]:
    """The first main and the first security archive among ``LABEL|REPO_URI`` lines ("" where none).

    A repository whose index was never fetched has no label: then its address decides.
    """
    debian = security = ""
    for line in lines:
        label, _, uri = line.strip().partition("|")
        uri = uri.rstrip("/")
        if urlsplit(uri).scheme not in ("http", "https"):
            continue
        folder = uri.rsplit("/", 1)[-1]
        if label == "Debian" or (not label and folder == "debian"):
            debian = debian or uri
        elif label == "Debian-Security" or (not label and folder == "debian-security"):
            security = security or _security_path(uri)
    return debian, security


def _security_path(uri: str) -> str:
    """The archive answers below its host's root too, but only there where apt has no path to append:
    the suite ``trixie-security`` needs the folder by name."""
    return uri if uri.endswith("/debian-security") else f"{uri}/debian-security"


def _named(variables: Mapping[str, str], name: str) -> str:
    value = variables.get(name, "").rstrip("/")
    if value and urlsplit(value).scheme not in ("http", "https"):
        raise UsageError(f"{name} is {value!r}", hint="it must be an http or https address")
    return value


def _index_targets() -> list[str]:
    return run(["apt-get", "indextargets", "--format", _FORMAT, "Created-By: Packages"]).splitlines()


def _apt_proxy() -> str:
    words = run(["apt-config", "shell", "P", "Acquire::http::Proxy"]).strip()
    return words.partition("=")[2].strip("'\"") if words else ""
