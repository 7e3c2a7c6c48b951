"""What is signed cannot be changed, and what is missing from a chain is missed."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from fakes.erase_records import failed, purged
from teeth.certificate.body import FIRST_PREVIOUS, Origin, Place, make_body
from teeth.certificate.chain import verify_chain
from teeth.certificate.page import render
from teeth.certificate.seal import SIZE_LIMIT, BadCertificate, key_digest, open_sealed, seal

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key()
ORIGIN = Origin(
    ca="sha256:" + "c" * 64, version="1", node_id="n1", macs=("52:54:00:00:00:01",),
    machine={"sys_vendor": "Acme", "product_serial": "X1"}, boot_id="b1", agent="0.1", ramdisk=None,
    task_id="t-1", asked=1.0, finished=2.5, params={}, required_grade="clear", plan_digest=None,
    task_state="complete", task_code="", task_msg="",
)  # fmt: skip


def chain(*records: dict[str, Any] | None) -> list[bytes]:
    lines: list[bytes] = []
    previous = FIRST_PREVIOUS
    for number, record in enumerate(records, 1):
        place = Place(sequence=number, previous=previous, issued=1_800_000_000.0)
        line = seal(make_body(ORIGIN, record, place), KEY).encode()
        previous = open_sealed(line, PUBLIC).digest
        lines.append(line)
    return lines


def test_what_was_sealed_is_read_again() -> None:
    (line,) = chain(purged())
    opened = open_sealed(line, PUBLIC)
    assert (opened.sequence, opened.body["outcome"], opened.body["grade"]) == (1, "purged", "purge")
    assert opened.body["record"] == purged()
    assert opened.body["issued"] == "2027-01-15T08:00:00Z"
    # The order of members and white space are not part of what is signed.
    again = json.dumps(json.loads(line), indent=1, sort_keys=False).encode()
    assert open_sealed(again, PUBLIC).digest == opened.digest


def test_the_signature_is_ed25519_over_the_canonical_body() -> None:
    (line,) = chain(purged())
    whole = json.loads(line)
    body = json.dumps(whole["certificate"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    # For this body the canonical form is what json writes with sorted members: anybody can check it.
    PUBLIC.verify(base64.b64decode(whole["signature"]["value"]), body.encode())


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = [place for name, part in inner for place in leaves(part, (*path, name))]
    return found or [path]


def test_no_member_can_be_changed() -> None:
    (line,) = chain(failed())
    places = leaves(json.loads(line)["certificate"])
    assert len(places) > 50
    for place in places:
        whole = json.loads(line)
        at = whole["certificate"]
        for name in place[:-1]:
            at = at[name]
        at[place[-1]] = "changed" if at[place[-1]] != "changed" else 0
        with pytest.raises(BadCertificate):
            open_sealed(json.dumps(whole).encode(), PUBLIC)


@given(st.data())
def test_no_byte_can_be_changed_without_notice(data: st.DataObject) -> None:
    (line,) = chain(purged())
    at = data.draw(st.integers(0, len(line) - 1))
    changed = line[:at] + bytes([line[at] ^ data.draw(st.integers(1, 255))]) + line[at + 1 :]
    try:
        opened = open_sealed(changed, PUBLIC)
    except BadCertificate:
        return
    assert opened.body == open_sealed(line, PUBLIC).body


def test_another_key_is_told() -> None:
    (line,) = chain(purged())
    with pytest.raises(BadCertificate, match="signed by another key"):
        open_sealed(line, Ed25519PrivateKey.generate().public_key())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "not a certificate"), (b"[]", "not a certificate"), (b"{}", "members certificate and"),
        (b'{"certificate":1,"signature":2}', "not objects"), (b"\xff", "not a certificate"),
        (b'{"certificate":{},"signature":{}}', "not signed with Ed25519"),
        (b'{"certificate":{},"certificate":{},"signature":{}}', "not a certificate"),
        (b"[" * 1000, "not a certificate"), (b" " * (SIZE_LIMIT + 1), "has at most"),
    ],
)  # fmt: skip
def test_what_is_no_certificate_is_refused_in_a_line(text: bytes, words: str) -> None:
    with pytest.raises(BadCertificate, match=words):
        open_sealed(text, PUBLIC)


def test_a_whole_chain_and_its_middle_are_good() -> None:
    lines = chain(purged("A"), failed("B"), None, purged("D"))
    assert [one.sequence for one in verify_chain(lines, PUBLIC)] == [1, 2, 3, 4]
    assert [one.sequence for one in verify_chain(lines[1:3], PUBLIC)] == [2, 3]


@pytest.mark.parametrize("order", [(0, 2), (1, 0), (0, 0), (0, 1, 3), (3, 2)])
def test_what_is_missing_or_out_of_order_is_found(order: tuple[int, ...]) -> None:
    lines = chain(purged("A"), failed("B"), purged("C"), purged("D"))
    with pytest.raises(BadCertificate, match=r"line \d: .*(missing or out of order)"):
        list(verify_chain([lines[at] for at in order], PUBLIC))


def test_one_that_was_issued_in_place_of_another_is_found() -> None:
    lines, others = chain(purged("A"), purged("B")), chain(failed("X"), purged("B"))
    with pytest.raises(BadCertificate, match="line 2: it does not follow number 1"):
        list(verify_chain([lines[0], others[1]], PUBLIC))
    place = Place(sequence=1, previous="sha256:" + "1" * 64, issued=0)
    with pytest.raises(BadCertificate, match="that it is the first"):
        list(verify_chain([seal(make_body(ORIGIN, None, place), KEY).encode()], PUBLIC))


def test_a_page_shows_the_verdict_and_escapes_what_drives_say() -> None:
    good, bad, none = (open_sealed(line, PUBLIC) for line in chain(purged("<b>"), failed(), None))
    page = render(good, key=key_digest(PUBLIC))
    assert "<b>" not in page
    assert "&lt;b&gt;" in page
    assert "Purged (grade purge)" in " ".join(page.split())
    assert good.digest in page
    assert "NOT erased" in render(bad, key="k")
    assert "64 of 66 canaries can be read" in render(bad, key="k")
    assert "no drive's record came home" in render(none, key="k")
    assert "<script" not in page
