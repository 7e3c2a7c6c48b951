"""Mirrors come from apt's configuration or from the environment, and from nowhere else."""

from __future__ import annotations

import pytest

from teeth.build.mirrors import Mirrors, choose, find_mirrors
from teeth.errors import TeethError, UsageError

DEBIAN = ["Debian|http://mirror.test/debian/", "Debian-Security|http://mirror.test/debian-security/"]
UBUNTU = ["Ubuntu|http://archive.test/ubuntu/"]


def test_labels_decide() -> None:
    found = find_mirrors({}, lambda: [*UBUNTU, *DEBIAN])
    assert found == Mirrors(debian="http://mirror.test/debian", security="http://mirror.test/debian-security")
    assert found.environment() == {
        "DIB_DISTRIBUTION_MIRROR": "http://mirror.test/debian",
        "DIB_DEBIAN_SECURITY_MIRROR": "http://mirror.test/debian-security",
    }


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (["|https://a.test/debian/", "|https://a.test/debian-security/"],
         ("https://a.test/debian", "https://a.test/debian-security")),
        (["Debian-Security|http://security.test/"], ("", "http://security.test/debian-security")),
        (["Debian|file:///srv/debian/", "Debian|cdrom:[x]/"], ("", "")),
        (["|http://a.test/other/"], ("", "")),
        (["", "nonsense"], ("", "")),
        ([*DEBIAN, "Debian|http://second.test/debian/"],
         ("http://mirror.test/debian", "http://mirror.test/debian-security")),
    ],
)  # fmt: skip
def test_choice(lines: list[str], found: tuple[str, str]) -> None:
    assert choose(lines) == found


def test_a_host_without_debian_is_told_what_to_set() -> None:
    with pytest.raises(TeethError, match=r"no Debian mirror \(set TEETH_DEBIAN_MIRROR"):
        find_mirrors({}, lambda: UBUNTU)
    with pytest.raises(TeethError, match=r"no Debian security mirror \(set TEETH_DEBIAN_SECURITY_MIRROR"):
        find_mirrors({}, lambda: DEBIAN[:1])


def test_the_environment_comes_first_and_needs_no_apt() -> None:
    def unread() -> list[str]:
        raise AssertionError("apt was asked")

    found = find_mirrors({"TEETH_DEBIAN_MIRROR": "http://own.test/debian/"}, unread)
    assert found.security == "http://own.test/debian-security"
    with pytest.raises(UsageError, match=r"TEETH_DEBIAN_MIRROR is 'own.test'"):
        find_mirrors({"TEETH_DEBIAN_MIRROR": "own.test"}, unread)


def test_a_proxy_is_passed_on() -> None:
    found = find_mirrors({"http_proxy": "http://proxy.test:3128"}, lambda: DEBIAN)
    assert found.environment()["http_proxy"] == "http://proxy.test:3128"
