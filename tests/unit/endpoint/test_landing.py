from __future__ import annotations

import ast
import json
import os
import platform
from pathlib import Path
from typing import Any

import pytest

from teeth.endpoint import phone_home
from teeth.endpoint.landing import landing_script, new_ticket, with_landing
from teeth.endpoint.secrets import redact
from teeth.errors import UsageError

CA = "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n"


def test_every_ticket_is_another_and_hides_itself() -> None:
    one, two = new_ticket("https://h:1"), new_ticket("https://h:1")
    assert one.url != two.url
    token = one.url.removeprefix("https://h:1/landing/")
    assert len(token) >= 43  # 256 bits
    assert token not in repr(one)
    assert token not in one.token_hash


def test_the_script_stands_alone_and_parses_as_python() -> None:
    ticket = new_ticket("https://10.0.2.2:443")
    script = landing_script(ticket, ca_pem=CA, files=["/etc/a 'quoted' \"name\"\\"])
    assert script.startswith("#!/usr/bin/python3\n")
    tree = ast.parse(script)
    modules = {
        alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    } | {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not [name for name in modules if name and name.startswith("teeth")]
    literal = next(
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "json.loads"
        and isinstance(node.args[0], ast.Constant)
    )
    assert isinstance(literal, str)
    assert json.loads(literal) == {"url": ticket.url, "ca": CA, "files": ["/etc/a 'quoted' \"name\"\\"]}


@pytest.mark.parametrize("files", [["relative"], [f"/{n}" for n in range(9)]])
def test_only_a_few_absolute_paths_are_reported(files: list[str]) -> None:
    with pytest.raises(UsageError):
        landing_script(new_ticket("https://h:1"), ca_pem=CA, files=files)


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        (None, {"cloud-init": "S"}),
        ({"region": "x"}, {"region": "x", "cloud-init": "S"}),
        ({"cloud-init": "#cloud-config\n"}, {"cloud-init": ["#cloud-config\n", "S"]}),
        ({"cloud-init": ["a", "b"]}, {"cloud-init": ["a", "b", "S"]}),
    ],
)
def test_vendor_data_keeps_what_was_in_it(before: dict[str, Any] | None, expected: dict[str, Any]) -> None:
    assert with_landing(before, "S") == expected


def test_the_started_system_tells_of_itself(tmp_path: Path) -> None:
    (tmp_path / "proof").write_text("only the config drive knew")
    (tmp_path / "long").write_bytes(b"x" * 10_000)
    paths = [str(tmp_path / name) for name in ("proof", "long", "missing")]
    facts = phone_home.collect(paths)
    assert facts["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert facts["cmdline"] == Path("/proc/cmdline").read_text().strip()
    assert facts["kernel"] == platform.release()
    assert facts["hostname"] in (Path("/etc/hostname").read_text().strip(), os.uname().nodename)
    assert list(facts["files"].values()) == ["only the config drive knew", "x" * 4096, None]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://u:hunter2@host:8/a/b", "https://[redacted]@host:8/a/b"),
        ("http://u:p@ss@host/x", "http://[redacted]@host/x"),
        ("https://host/image?sig=hunter2&x=1#part", "https://host/image?[redacted]#part"),
        ("tried http://a/x?k=hunter2 and https://b/y", "tried http://a/x?[redacted] and https://b/y"),
        ("http://10.0.2.2:80/images/0a-1", "http://10.0.2.2:80/images/0a-1"),
        ("mail a@b, or not?", "mail a@b, or not?"),
        ("http://host/a@b", "http://host/a@b"),
    ],
)
def test_what_is_secret_in_an_address_is_not_shown(text: str, shown: str) -> None:
    assert redact({"urls": [text]}) == {"urls": [shown]}
    assert redact(redact(text)) == shown


def test_redaction_reaches_every_depth_and_leaves_the_rest() -> None:
    value = {
        "task_id": "t", "params": {"config_drive": {"user_data": "s3cret"}, "image_id": "i"},
        "list": [{"token": "s3cret"}, {"Token": "s3cret"}, {"token": None}],
        "cmdline": "quiet teeth.token=s3cret console=ttyS0", "url": "https://h:1/landing/s3cret",
    }  # fmt: skip
    shown = redact(value)
    assert "s3cret" not in repr(shown)
    assert shown["params"]["image_id"] == "i"
    assert shown["list"][2] == {"token": None}
    assert shown["cmdline"] == "quiet teeth.token=[redacted] console=ttyS0"
    assert "s3cret" in repr(value)  # the original is untouched
