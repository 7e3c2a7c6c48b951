"""Good params of every method with every member set: what substitutions and alterations begin with."""

from __future__ import annotations

from typing import Any

DIGEST = "sha256:" + "0" * 64

HELLO: dict[str, Any] = {
    "id": "n",
    "version": "1",
    "boot_id": "b",
    "token": "t",
    "ramdisk": "r",
    "macs": ["52:54:00:00:00:01"],
    "tasks": [{"task_id": "t", "method": "m", "state": "running", "percent": 1.0}],
    "timings": {"a": 1.0},
    "protocols": ["v1"],
    "capabilities": ["x"],
    "methods": ["m"],
}
STATUS: dict[str, Any] = {
    "task_id": "t",
    "seq": 1,
    "state": "running",
    "percent": 1.0,
    "eta": 2.0,
    "step": "s",
    "phase": "p",
    "code": "c",
    "msg": "m",
    "fields": {},
    "result": {},
    "detail": {},
}
ERASE: dict[str, Any] = {
    "plan": True,
    "plan_digest": DIGEST,
    "required_grade": "clear",
    "allow": ["A"],
    "exclude": ["B"],
    "expected_serials": ["A"],
    "removable": "block",
    "verification": "full",
    "expect_no_disk": False,
    "expect_unaccounted": False,
}
PREPARE: dict[str, Any] = {
    "image": {
        "id": "i",
        "name": "n",
        "urls": ["http://h/x"],
        "size": 1,
        "digest": DIGEST,
        "format": "raw",
        "compression": "none",
        "raw_size": 1,
        "raw_digest": DIGEST,
    },
    "root_disk": {"serial": "S", "size": {"op": ">=", "value": 1}, "rotational": False},
}
RUN: dict[str, Any] = {
    "image_id": "i",
    "boot": "auto",
    "config_drive": {
        "meta_data": {"uuid": "u"},
        "user_data": "x",
        "vendor_data": {},
        "network_data": {},
        "files": [{"path": "/a", "content_b64": "eA=="}],
    },
}
