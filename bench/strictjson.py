"""The wire's JSON reader and writer against their plain form: what every line of every session costs.

Old and new take turns, so that what else the machine does falls on both alike. Writes and prints
build/bench/strictjson.json: microseconds (the median) of both, and how many times faster the new one is.
"""

from __future__ import annotations

import base64
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from teeth_protocol import strictjson

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from fakes import plainjson  # noqa: E402 - it is the tests' oracle, and lies with them

_SECONDS = 1.0  # for each case


def messages() -> dict[str, dict[str, Any]]:
    """Name -> a message."""
    dice = random.Random(1)  # noqa: S311 - the same lines every time
    status = {
        "version": "v1", "id": "a1234", "method": "task_status",
        "params": {
            "task_id": "t-5f0e4c399f5b0d3c", "seq": 13, "state": "running", "percent": 41.53, "eta": 12.4,
            "step": "overwrite", "fields": {
                "bytes_done": 412316860416, "bytes_total": 1000204886016, "bytes_per_second": 190112233,
                "unit": "S4EVNX0R512345", "pass": 1, "verified": False,
            },
        },
    }  # fmt: skip
    drive = base64.b64encode(dice.randbytes(780_000)).decode()
    files = [{"path": f"/etc/{n}", "content_b64": drive[:16]} for n in range(2_400)]
    script = '#cloud-config\nruncmd:\n- [sh, -c, "echo {hello}, world"]\n' * 18_000
    return {
        "status": status,
        "config_drive": _run_image({"user_data": drive + drive[:8_000]}),
        "many_values": _run_image({"files": files, "user_data": drive[:840_000]}),
        "brackets_in_text": _run_image({"user_data": script[:940_000]}),
    }


def _run_image(drive: dict[str, Any]) -> dict[str, Any]:
    params = {"task_id": "t-1", "image_id": "i", "config_drive": {"meta_data": {"uuid": "u"}, **drive}}
    return {"version": "v1", "id": "e9", "method": "standbye.run_image", "params": params}


def paired(old: Callable[[], object], new: Callable[[], object]) -> dict[str, float]:
    times: dict[str, list[float]] = {"old": [], "new": []}
    end = time.perf_counter() + _SECONDS
    while time.perf_counter() < end or len(times["new"]) < 5:
        for name, work in (("old", old), ("new", new)):
            began = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - began)
    ratio = statistics.median(a / b for a, b in zip(times["old"], times["new"], strict=True))
    medians = {f"{name}_us": round(statistics.median(taken) * 1e6, 2) for name, taken in times.items()}
    return {**medians, "times_faster": round(ratio, 2)}


def main() -> int:
    report: dict[str, Any] = {}
    for name, message in messages().items():
        line = strictjson.dumps(message)
        assert plainjson.dumps(message) == line
        assert plainjson.loads(line) == strictjson.loads(line) == message
        report[name] = {
            "bytes": len(line),
            "loads": paired(
                lambda line=line: plainjson.loads(line), lambda line=line: strictjson.loads(line)
            ),
            "dumps": paired(lambda m=message: plainjson.dumps(m), lambda m=message: strictjson.dumps(m)),
        }
    place = ROOT / "build" / "bench" / "strictjson.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=2)
    place.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
