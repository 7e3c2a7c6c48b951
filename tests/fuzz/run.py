"""``make fuzz``: drive the targets with atheris, a while each, and keep what they trip over.

Two jobs need no atheris: ``cuts`` feeds every case of the corpus cut at every position, ``properties`` runs
the hypothesis tests with fifty times as many examples (some minutes; only when named).

Findings lie in build/fuzz/TARGET/. One that was understood belongs to tests/protocol/corpus/found/TARGET/ as
NAME.bin, with its reason in NAME.txt.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "build" / "fuzz"
_INSTRUMENTED = [
    "teeth_protocol",
    "teeth_agent",
    "fuzz.reference_json",
    "protocol.corpus.play",
    "json.decoder",
    "http.client",
    "email",
]
_ONE_INPUT = 10  # seconds that one input may take before it counts as a hang
_CUT_EVERYWHERE = 5000  # bytes of a case: all that a stranger may say
_MEMORY = 512  # MiB of the whole process, of which the instrumented libraries are most


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--one"]:
        return fuzz_one(arguments[1], int(arguments[2]))
    seconds, wanted = (*arguments, "", "")[:2]
    if seconds and not (seconds.isascii() and seconds.isdigit() and int(seconds[:9]) > 0):
        print(f"fuzz: SECONDS={seconds}: expected a whole number above 0", file=sys.stderr)
        return 2
    sys.path.insert(0, str(ROOT / "tests"))
    if wanted == "properties":
        argv = [sys.executable, "-m", "pytest", "-n", "0", "-q", "--hypothesis-profile=long", "tests/fuzz"]
        return subprocess.run(argv, cwd=ROOT, check=False).returncode
    if wanted == "cuts":
        return cut_everywhere()
    if not install():
        return 1
    from fuzz.targets import TARGETS

    if wanted and wanted not in TARGETS:
        known = ", ".join([*TARGETS, "cuts", "properties"])
        print(f"fuzz: there is no target {wanted}; there are {known}", file=sys.stderr)
        return 2
    results = [drive(name, int(seconds or 60)) for name in ([wanted] if wanted else TARGETS)]
    if not wanted:
        results.append(cut_everywhere() == 0)
    return 0 if all(results) else 1


def cut_everywhere() -> int:
    """Every case, cut in two at every position up to some thousand bytes, comes to the same."""
    from protocol.corpus.play import cuts, play
    from protocol.corpus.table import cases
    from teeth_protocol.connection import Role

    count, wrong = 0, []
    for reader in Role:
        for case in cases(reader):
            whole = play(case, [case.data])
            for pieces in cuts(case.data, everywhere=_CUT_EVERYWHERE):
                count += 1
                if play(case, pieces) != whole:
                    wrong.append(f"{reader.value}.{case.name} at {len(pieces[0])}")
                    break
    print(f"fuzz: cuts: {count} ways of cutting, {len(wrong)} of them matter")
    for name in wrong:
        print(f"fuzz: cuts: {name}")
    return 1 if wrong else 0


def install() -> bool:
    """The optional extra ``fuzz``, only when it is needed: there is no wheel for every Python."""
    if importlib.util.find_spec("atheris") is not None:
        return True
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = project["project"]["optional-dependencies"]["fuzz"]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*pip, "--only-binary=:all:", "--constraint", str(ROOT / "constraints.txt"), *wanted],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        version = ".".join(map(str, sys.version_info[:2]))
        print(
            f"fuzz: {' '.join(wanted)} cannot be installed for Python {version} (no wheel?)", file=sys.stderr
        )
    return done.returncode == 0


def drive(name: str, seconds: int) -> bool:
    """One target in a process of its own. False when something was found."""
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    before = findings(folder)
    log = OUT / f"{name}.log"
    with log.open("w", encoding="utf-8") as stream:
        done = subprocess.run(
            [sys.executable, __file__, "--one", name, str(seconds)], stdout=stream, stderr=stream, check=False
        )
    text = log.read_text(encoding="utf-8", errors="replace")
    figures = dict(re.findall(r"stat::(\w+):\s+(\d+)", text))
    covered = re.findall(r"cov: (\d+) ft: (\d+)", text)[-1:] or [("0", "0")]
    found = sorted(findings(folder) - before)
    print(
        f"fuzz: {name}: {figures.get('number_of_executed_units', '?')} inputs, "
        f"{figures.get('average_exec_per_sec', '?')}/s, {covered[0][0]} edges, "
        f"{figures.get('peak_rss_mb', '?')} MiB, {len(found)} found",
        flush=True,
    )
    for path in found:
        print(f"fuzz: {name}: {path.relative_to(ROOT)}: {last_error(text)}")
    if done.returncode != 0 and not found:
        print(
            f"fuzz: {name}: ended with status {done.returncode}: see {log.relative_to(ROOT)}", file=sys.stderr
        )
    return done.returncode == 0 and not found


def findings(folder: Path) -> set[Path]:
    return {path for kind in ("crash", "timeout", "oom", "leak") for path in folder.glob(f"{kind}-*")}


def last_error(text: str) -> str:
    errors = re.findall(r"^ === Uncaught Python exception: ===\n(.*)$", text, re.MULTILINE)
    return errors[-1][:200] if errors else "see the log"


def fuzz_one(name: str, seconds: int) -> int:
    """In a process of its own: libFuzzer takes the process over, and ends it."""
    import atheris  # type: ignore[import-not-found, unused-ignore]

    sys.path.insert(0, str(ROOT / "tests"))
    with atheris.instrument_imports(include=_INSTRUMENTED):
        from fuzz.targets import TARGETS, inputs
    target = TARGETS[name]
    corpus = OUT / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    for data in inputs(target):
        if len(data) <= target.most:
            (corpus / hashlib.sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={target.most}",
        f"-timeout={_ONE_INPUT}",
        f"-rss_limit_mb={_MEMORY}",
        "-malloc_limit_mb=64",
        "-use_value_profile=1",
        "-print_final_stats=1",
        f"-artifact_prefix={OUT / name}/",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], target.run)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
