"""The documentation against the code: what can be compared is compared, so that neither moves alone."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import re
import shlex
from collections.abc import Iterator
from typing import Any

import click
import pytest

from teeth.api.problems import _PLAIN
from teeth.boot.ipxe import first_hop
from teeth.cli import teeth
from teeth.demo.scenario import Fault
from teeth.endpoint.admission import AdmissionLimits
from teeth.endpoint.hello import parse_hello
from teeth.endpoint.hub import SILENCE
from teeth.endpoint.taskstate import parse_status
from teeth.paths import find_checkout
from teeth.service import Endpoint, EndpointConfig
from teeth_protocol import methods
from teeth_protocol.connection import TRANSITIONS, State
from teeth_protocol.limits import Limits
from teeth_protocol.messages import Command, parse
from teeth_protocol.strictjson import loads

ROOT = find_checkout().root
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])
_CODE = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*\Z")
_SOURCES = {".py", ".bash", ".sh", ""}


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def first_cells(text: str) -> set[str]:
    """Every `word` in the first column of any table."""
    rows = re.findall(r"^\| (.*?) \|", text, re.MULTILINE)
    return {word for cell in rows for word in re.findall(r"`([^`]+)`", cell)}


# --- the protocol


def test_every_bound_is_listed_with_its_value() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([0-9.]+) \| .+ \|$", page("protocol.md"), re.MULTILINE)
    assert dict(rows) == {name: f"{value:g}" if value < 1e5 else f"{value}" for name, value in bounds()}
    assert len(rows) == len(bounds())


def bounds() -> list[tuple[str, Any]]:
    return list(dataclasses.asdict(Limits()).items())


def test_the_endpoints_own_bounds_are_as_the_code_has_them() -> None:
    text, limits = " ".join(page("protocol.md").split()), AdmissionLimits()
    for words in (
        f"at most {limits.connections} connections, {limits.strangers} of them without a handshake yet",
        f"an address has {limits.burst:g} units at once and {limits.rate:g} more each second",
        f"not heard of for {SILENCE:g} s",
    ):
        assert words in text
    assert (limits.connections_of_one, limits.strangers_of_one) == (
        limits.connections * 3 // 4, limits.strangers * 3 // 4,
    )  # fmt: skip


def state_diagram() -> str:
    lines = [f"    [*] --> {State.HANDSHAKE.value}"]
    lines += [f"    {old.value} --> {new.value}: {why.value}" for (old, why), new in TRANSITIONS.items()]
    lines.append(f"    {State.CLOSED.value} --> [*]")
    return "\n".join(["stateDiagram-v2", *lines]) + "\n"


def test_the_diagram_shows_exactly_the_transitions() -> None:
    assert blocks(page("protocol.md"), "mermaid") == [state_diagram()]


def test_every_method_is_listed_and_those_that_are_not_served_are_marked() -> None:
    text = page("protocol.md")
    rows = text.partition("## Commands\n")[2].partition("\n### ")[0]
    assert first_cells(rows) == methods.METHODS.keys()
    missing = {name for name in methods.METHODS if f"`{name}` (not served yet)" in rows}
    assert missing == {name for name, method in methods.METHODS.items() if not method.served}
    allowed = " ".join(text.split()).partition("only these methods may be said: ")[2].partition(". ")[0]
    assert set(re.findall(r"`([^`]+)`", allowed)) == methods.UNAUTHENTICATED


def test_the_examples_are_what_the_code_reads() -> None:
    examples = blocks(page("protocol.md"), "json")
    assert len(examples) >= 5
    seen = set()
    for example in examples:
        message = parse(loads(" ".join(example.split()).encode()))
        if isinstance(message, Command):
            seen.add(message.method)
            if message.method == methods.HANDSHAKE:
                assert parse_hello(message.params).listed == frozenset({"t-1"})
            if message.method == methods.TASK_STATUS:
                assert parse_status(message.params).seq is not None
    assert seen == {methods.ENROLL, methods.HANDSHAKE, methods.LOG, methods.STATUS, methods.TASK_STATUS}


def test_every_code_of_the_conversation_is_explained() -> None:
    codes: set[str] = set()
    for folder in (
        "agent/src/teeth_protocol",
        "agent/src/teeth_stream",
        "src/teeth/endpoint",
        "src/teeth/boot",
    ):
        for path in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            codes |= set(codes_in(tree, first={"Problem", "ProblemError", "GrantRefused"}))
            codes |= set(second_arguments(tree, "_refuse"))
    # HTTP answers, and what a peer sent without a code.
    codes -= {
        "landing_unknown",
        "landing_used",
        "unspecified",
        "code",
    }
    assert len(codes) > 12
    assert codes - first_cells(page("protocol.md")) == set()


def test_every_code_of_the_operators_door_is_listed_and_none_that_is_not_said() -> None:
    said = {"refused"}  # whatever the endpoint says without a code
    said |= {code for code, _ in _PLAIN.values()}
    for path in (ROOT / "src/teeth/api").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function in ("ApiError", "refusal"):
            said |= set(second_arguments(tree, function))
    text = page("operator.md").partition("Codes: ")[2].partition("\n- ")[0]
    assert set(re.findall(r"`([a-z_]+)`", text)) == said
    assert len(said) > 15


# --- problem codes


def codes_in(tree: ast.AST, first: set[str]) -> Iterator[str]:
    """Every literal that is used as a problem code; ``first``: callables whose first argument is one."""
    for node in ast.walk(tree):
        match node:
            case ast.keyword(arg="code", value=value):
                yield from literals(value)
            case ast.Call(func=func, args=[head, *_]) if name_of(func) in first:
                yield from literals(head)
            case ast.Call(func=func, args=[_, second, *_]) if name_of(func) == "absent":
                yield from literals(second)
            case ast.Assign(targets=[target], value=value):
                yield from assigned(target, value)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                yield from assigned(target, value)
            case ast.Tuple(elts=[ast.Attribute(value=ast.Name(id="Action")), code, _]):
                yield from literals(code)
            case ast.FunctionDef(name="missing"):
                for inner in ast.walk(node):
                    if isinstance(inner, ast.Tuple) and len(inner.elts) == 2:
                        yield from literals(inner.elts[0])


def assigned(target: ast.expr, value: ast.expr) -> Iterator[str]:
    if name_of(target) == "code":
        yield from literals(value)
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and name_of(target.elts[0]) == "code":
        yield from literals(value.elts[0])


def second_arguments(tree: ast.AST, function: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and name_of(node.func) == function and len(node.args) > 1:
            yield from literals(node.args[1])


def name_of(node: ast.expr) -> str:
    return getattr(node, "id", "") or getattr(node, "attr", "")


def literals(node: ast.expr) -> Iterator[str]:
    match node:
        case ast.Constant(value=str(word)) if _CODE.match(word):
            yield word
        case ast.IfExp(body=yes, orelse=no):
            yield from (*literals(yes), *literals(no))


def agent_codes() -> set[str]:
    found: set[str] = set()
    for package in ("teeth_agent", "teeth_image"):
        for path in (ROOT / "agent/src" / package).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found |= set(codes_in(tree, first={"problem", "_problem", "ProblemError", "_error"}))
    return found


def test_the_search_finds_codes_of_every_form() -> None:
    # One of each: keyword, class attribute, call, tuple, choice, proof, unit that is absent.
    assert agent_codes() >= {
        "digest_mismatch", "wrong_ca", "no_link", "busy", "in_use", "device_busy", "image_size", "not_zero",
        "disk_missing", "no_method",
    }  # fmt: skip


def test_every_code_of_the_agent_is_explained() -> None:
    text = page("troubleshooting.md")
    explained = first_cells(text) | set(re.findall(r"^#+ `(\w+)`$", text, re.MULTILINE))
    assert agent_codes() - explained == set()


def test_every_fault_of_the_demo_is_described() -> None:
    assert {fault.value for fault in Fault} <= first_cells(page("lab.md"))


# --- the environment


def test_every_variable_that_is_read_is_listed() -> None:
    read: set[str] = set()
    for folder in ("src", "scripts", "agent", "elements", "image-recipes", "bench"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix in _SOURCES | {".yaml"} and "egg-info" not in str(path):
                read |= set(
                    re.findall(r"\bTEETH_[A-Z_]*[A-Z]\b|\bSOURCE_DATE_EPOCH\b", path.read_text("utf-8"))
                )
    assert len(read) > 8
    listed = set(re.findall(r"`(TEETH_[A-Z_]+|SOURCE_DATE_EPOCH)`", page("operations.md")))
    assert listed == read


# --- commands and code in the text


_COMMAND = re.compile(r"(?:\$ )?(?:TEETH_\w+=\S+ )*(?:\.venv/bin/)?teeth (?!problem\b)([a-z-].*)")


BEFORE = {"--data"}


def command_lines() -> list[tuple[str, str]]:
    """(page, words behind ``teeth``) of every command in code, in line or in blocks."""
    found = []
    for path in PAGES:
        where = str(path.relative_to(ROOT))
        matches = map(_COMMAND.match, code_spans(path.read_text(encoding="utf-8").replace("\\\n", " ")))
        found += [(where, match[1].partition(" #")[0]) for match in matches if match]
    return found


def code_spans(text: str) -> list[str]:
    spans = [span.replace("\n", " ") for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]
    spans += [line.strip() for block in blocks(text, "sh") for line in block.splitlines()]
    return spans + [line.strip() for line in text.splitlines() if line.startswith("    ")]


@pytest.mark.parametrize(("where", "words"), command_lines())
def test_every_command_line_exists(where: str, words: str) -> None:
    command: click.Command = teeth
    rest = shlex.split(words)
    while isinstance(command, click.Group) and rest and (rest[0] in BEFORE or not rest[0].startswith("-")):
        if rest[0] in BEFORE:  # options of the program, with a value, in front of the command
            rest = rest[2:]
            continue
        assert rest[0] in command.commands, f"{where}: teeth {words}"
        command = command.commands[rest.pop(0)]
    options = {name: option for option in command.params for name in option.opts}
    arguments = sum(isinstance(param, click.Argument) for param in command.params)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            arguments -= 1
            assert arguments >= 0, f"{where}: {word!r} is too much in teeth {words}"
            continue
        option = options.get(word)
        assert option is not None, f"{where}: there is no {word} in teeth {words}"
        if isinstance(option, click.Option) and not option.is_flag and rest:
            check_value(option, rest.pop(0), where)


def check_value(option: click.Option, value: str, where: str) -> None:
    """The value as click reads it, unless it stands for one: FILE, DIR, NAME."""
    if not value.isupper() and not isinstance(option.type, click.Path):
        option.type.convert(value, option, click.Context(click.Command(where)))


def test_commands_are_found_in_the_text() -> None:
    assert {words.split()[0] for _, words in command_lines()} >= {"demo", "image", "lab", "endpoint"}


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for path in PAGES:
        for names in re.findall(r"(?:`|^)make ([a-z -]+)(?:`|\s*#|$)", path.read_text("utf-8"), re.MULTILINE):
            assert set(names.split()) <= targets, f"{path.name}: make {names}"


def test_the_first_hop_is_the_one_that_the_code_writes() -> None:
    assert blocks(page("operations.md"), "ipxe") == [first_hop("http://192.0.2.10:8080")]
    arguments = next(f.default for f in dataclasses.fields(EndpointConfig) if f.name == "kernel_arguments")
    assert isinstance(arguments, tuple)
    assert f"`{' '.join(arguments)}`" in " ".join(page("operations.md").split())


def test_the_program_in_the_text_uses_what_there_is() -> None:
    (program,) = blocks(page("operations.md"), "python")
    tree = ast.parse(program)
    config = {field.name for field in dataclasses.fields(EndpointConfig)}
    used = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            module = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")
        if isinstance(node, ast.Call) and name_of(node.func) == "EndpointConfig":
            assert {keyword.arg for keyword in node.keywords} <= config
        if isinstance(node, ast.Attribute) and name_of(node.value) == "endpoint":
            assert hasattr(Endpoint, node.attr), node.attr
            used += 1
    assert used >= 4


def test_links_lead_somewhere() -> None:
    for path in PAGES:
        for target in re.findall(r"\[[^\]]+\]\(([^)#:\s]+)\)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_every_decision_is_in_the_list() -> None:
    pages = {path.name for path in (DOCS / "adr").glob("[0-9]*.md")}
    assert set(re.findall(r"\]\((\d{4}-[^)]+)\)", page("adr/README.md"))) == pages
    assert len(pages) == len({name[:4] for name in pages})
    for name in pages:
        text = page(f"adr/{name}")
        assert text.startswith(f"# {int(name[:4])}. ")
        assert [line for line in text.splitlines() if line.startswith("## ")] == [
            "## Context", "## Decision", "## Consequences",
        ]  # fmt: skip
