"""hdparm's output, judged without its exit status."""

from __future__ import annotations

import pytest

from teeth_agent.tools.hdparm import parse_identity, parse_max_sectors

LOCKED = """
/dev/sda:

ATA device, with non-removable media
\tModel Number:       ACME 1000
Commands/features:
\tEnabled\tSupported:
\t   *\tSMART feature set
\t   *\tHost Protected Area feature set
Security:
\tMaster password revision code = 65534
\t\tsupported
\t\tenabled
\t\tlocked
\tnot\tfrozen
\tnot\texpired: security count
\t\tsupported: enhanced erase
\tSecurity level high
Checksum: correct
"""
FREE = LOCKED.replace("\t\tenabled", "\tnot\tenabled").replace("\t\tlocked", "\tnot\tlocked")


def test_a_locked_drive():
    found = parse_identity(LOCKED)
    assert found.answered
    assert found.has_hpa
    assert (found.security_supported, found.enabled, found.locked, found.frozen) == (True, True, True, False)


def test_a_free_drive():
    found = parse_identity(FREE)
    assert (found.security_supported, found.enabled, found.locked) == (True, False, False)


def test_what_replaced_the_host_protected_area_counts_as_one():
    text = LOCKED.replace("Host Protected Area feature set", "unknown 119[8]")
    assert parse_identity(text).has_hpa
    assert not parse_identity(text.replace("119[8]", "119[7]")).has_hpa


def test_no_answer():
    found = parse_identity("/dev/sda:\nSG_IO: bad/missing sense data, sb[]:  70 00 05")
    assert not found.answered
    assert not found.locked


@pytest.mark.parametrize(
    ("text", "accessible", "native"),
    [
        ("/dev/sda:\n max sectors   = 2097152/2097152, HPA is disabled\n", 2097152, 2097152),
        ("/dev/sda:\n max sectors   = 1000/2097152, HPA is enabled\n", 1000, 2097152),
        (
            "/dev/sda:\n max sectors   = 586070255/5860533168(1165565?), HPA setting seems invalid\n",
            586070255,
            5860533168,
        ),
        ("/dev/sda:\n", None, None),
    ],
)
def test_the_native_maximum(text, accessible, native):
    found = parse_max_sectors(text)
    assert (found.accessible, found.native) == (accessible, native)
