"""``teeth certificate verify`` and ``page``: offline, with nothing but a file and a key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fakes.erase_records import failed, purged
from teeth.certificate.body import FIRST_PREVIOUS, Origin, Place, make_body
from teeth.certificate.seal import open_sealed, seal
from teeth.cli import main
from teeth.endpoint.certify import signing_key
from teeth.signing import public_pem

ORIGIN = Origin(
    ca="sha256:c", version="1", node_id="n1", macs=(), machine={}, boot_id="b1", agent=None, ramdisk=None,
    task_id="t-1", asked=1.0, finished=2.0, params={}, required_grade="clear", plan_digest=None,
    task_state="error", task_code="erase_incomplete", task_msg="",
)  # fmt: skip


@pytest.fixture
def key(tmp_path: Path) -> Ed25519PrivateKey:
    return signing_key(tmp_path)


@pytest.fixture
def file(tmp_path: Path, key: Ed25519PrivateKey) -> Path:
    previous, lines = FIRST_PREVIOUS, []
    for number, record in enumerate((purged("A"), failed("B"), purged("C\x1b[31m")), 1):
        line = seal(make_body(ORIGIN, record, Place(sequence=number, previous=previous, issued=0)), key)
        previous = open_sealed(line.encode(), key.public_key()).digest
        lines.append(line)
    path = tmp_path / "all.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def run(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_good_ones_are_told_one_a_line(
    capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path
) -> None:
    code, out, err = run(
        capsys, "certificate", "verify", file, "--key", tmp_path / "certificates.pub", "--chain"
    )
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "certificate 1: A purged by nvme_format_crypto, 1970-01-01T00:00:00Z"
    assert lines[1].startswith("certificate 2: B failed, ")
    assert "64 of 66 canaries" in lines[1]
    assert "\x1b" not in lines[2]
    assert lines[3].startswith("3 good signatures of sha256:")
    assert lines[3].endswith("an unbroken chain of 3")
    # The data folder's own key, without --key.
    assert run(capsys, "--data", tmp_path, "certificate", "verify", file)[0] == 0


def test_what_is_not_erased_well_enough_is_refused_when_that_is_asked(
    capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path
) -> None:
    words = ("--data", tmp_path, "certificate", "verify", file, "--require", "purge")
    code, _, err = run(capsys, *words)
    assert code == 1
    assert err == "teeth: certificate 2 does not prove an erase to purge: it says failed\n"
    file.write_text(file.read_text().splitlines()[0])
    assert run(capsys, *words)[0] == 0


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("changed", "line 2: the signature does not match"),
        ("gap", "line 2: number 3 follows number 1"),
        ("empty", "holds no certificate"),
        ("missing", "cannot be read: No such file"),
        ("other key", "line 1: it is signed by another key"),
        ("no key", "whose certificates?"),
        ("not a key", "is not a public key in PEM"),
    ],
)
def test_wrong_input_is_one_line(
    capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path, wrong: str, words: str
) -> None:
    lines = file.read_text().splitlines()
    key = tmp_path / "certificates.pub"
    options: tuple[str | Path, ...] = ("--key", key)
    match wrong:
        case "changed":
            file.write_text("\n".join([lines[0], lines[1].replace('"failed"', '"purged"'), lines[2]]))
        case "gap":
            file.write_text("\n".join([lines[0], lines[2]]))
        case "empty":
            file.write_text("\n")
        case "missing":
            file.unlink()
        case "other key":
            key.write_text(public_pem(Ed25519PrivateKey.generate()))
        case "no key":
            options = ()
        case "not a key":
            key.write_text("ssh-ed25519 AAAA")
    code, _, err = run(capsys, "certificate", "verify", file, *options, "--chain")
    assert code in (1, 2)
    assert err.count("\n") == 1
    assert words in err


def test_json_for_programs(capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path) -> None:
    code, out, _ = run(capsys, "--data", tmp_path, "certificate", "verify", file, "--json")
    assert code == 0
    assert [json.loads(line)["outcome"] for line in out.splitlines()] == ["purged", "failed", "purged"]


def test_a_page_is_written_of_one(capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    code, _, err = run(capsys, "--data", tmp_path, "certificate", "page", file, "-o", page)
    assert (code, err) == (2, f"teeth: {file} holds 3 certificates, a page shows one\n")
    file.write_text(file.read_text().splitlines()[0])
    code, out, _ = run(capsys, "--data", tmp_path, "certificate", "page", file, "-o", page)
    assert (code, out) == (0, f"certificate 1 in {page}\n")
    assert page.read_text().startswith("<!doctype html>")
