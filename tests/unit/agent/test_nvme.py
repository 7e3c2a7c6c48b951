"""nvme-cli: argv, parsers, and a simulated tool that is really run."""

from __future__ import annotations

import os
import sys

import pytest

from teeth_agent.errors import ToolError
from teeth_agent.tools import nvme

# Emulates "nvme id-ctrl", "list-ns" and "format" of a drive whose namespaces are plain files. Simulated:
# that the real tool takes these arguments is tested in a machine, not here.
SIMULATED = """#!{python}
import json, os, sys
command, device, *options = sys.argv[1:]
with open({log!r}, "a") as log:
    log.write(" ".join(sys.argv[1:]) + "\\n")
if command == "id-ctrl":
    print(json.dumps({{"sn": "S1", "oacs": 10, "fna": 4, "sanicap": 0, "tnvmcap": "1048576", "unvmcap": 0}}))
elif command == "list-ns":
    every = [1, 2] if "--all" in options else [1]
    print(json.dumps({{"nsid_list": [{{"nsid": number}} for number in every]}}))
elif command == "format":
    if "--ses=2" in options:
        sys.exit("NVMe status: Invalid Format(0x410a)")
    size = os.path.getsize(device)
    with open(device, "r+b") as disk:
        disk.write(bytes(size))
    print("Success formatting namespace:1")
"""


@pytest.fixture
def simulated(tmp_path, monkeypatch):
    log = tmp_path / "log"
    tool = tmp_path / "bin" / "nvme"
    tool.parent.mkdir()
    tool.write_text(SIMULATED.format(python=sys.executable, log=str(log)))
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    return log


def test_a_controller_is_identified(simulated):
    found = nvme.identify("nvme0")
    assert found.can_format
    assert found.can_crypto_erase
    assert found.manages_namespaces
    assert not found.erases_all_at_once
    assert found.total_capacity == 1048576
    assert simulated.read_text() == "id-ctrl /dev/nvme0 --output-format=json\n"


def test_namespaces_are_listed(simulated):
    assert nvme.list_namespaces("nvme0", allocated=False) == (1,)
    assert nvme.list_namespaces("nvme0", allocated=True) == (1, 2)


def test_a_format_erases_and_a_refused_one_raises(simulated, tmp_path):
    disk = tmp_path / "nvme0n1"
    disk.write_bytes(b"x" * 4096)
    with pytest.raises(ToolError, match="Invalid Format"):
        nvme.format_namespace(str(disk), nvme.CRYPTO_ERASE)
    assert disk.read_bytes() == b"x" * 4096
    assert nvme.format_namespace(str(disk), nvme.USER_DATA_ERASE).returncode == 0
    assert disk.read_bytes() == bytes(4096)


@pytest.mark.parametrize("secure_erase", [0, 3, -1])
def test_a_format_that_does_not_erase_cannot_be_asked_for(secure_erase):
    with pytest.raises(ValueError, match="does not erase"):
        nvme.format_argv("/dev/nvme0n1", secure_erase)


@pytest.mark.parametrize(("fna", "at_once"), [(0, False), (1, True), (2, True), (4, False)])
def test_formats_that_reach_all_namespaces(fna, at_once):
    assert nvme.parse_controller("nvme0", {"oacs": 2, "fna": fna}).erases_all_at_once is at_once


def test_both_spellings_of_the_namespace_list():
    assert nvme.parse_namespaces({"nsid_list": [{"NSID": 2}, {"nsid": 1}]}) == (1, 2)


@pytest.mark.parametrize("answer", [{}, {"nsid_list": "1"}, {"nsid_list": [{}]}, {"nsid_list": [7]}])
def test_an_odd_namespace_list_is_an_error(answer):
    with pytest.raises(ToolError):
        nvme.parse_namespaces(answer)


@pytest.mark.parametrize("answer", [{}, {"oacs": 2}, {"oacs": "many", "fna": 0}, {"oacs": None, "fna": 0}])
def test_an_odd_controller_is_an_error(answer):
    with pytest.raises(ToolError):
        nvme.parse_controller("nvme0", answer)
