"""The transcripts as texts: their language, what they stand for, and that none of them can do harm."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from teeth.conformance import pattern, safety, template
from teeth.conformance.loader import load, load_folder
from teeth.conformance.pattern import PatternError
from teeth.conformance.reader import parse
from teeth.conformance.safety import NO_DIGEST, NO_DISK, Guard, HarmfulError, check_harmless
from teeth.conformance.strict import kind_of, read_line
from teeth.conformance.template import TemplateError
from teeth.conformance.transcript import SIDES, Send, Transcript
from teeth.conformance.wrong import Wrong
from teeth.errors import UsageError
from teeth.paths import find_checkout

TRANSCRIPTS = Path(__file__).parent / "transcripts"
ALL = [one for side in SIDES for one in load_folder(TRANSCRIPTS, side)]
HEAD = '# title: t\n# why: w\n# level: required\n# seed: "s"\n'
PLAN = {"task_id": "t", "plan": True, "allow": [NO_DISK], "plan_digest": NO_DIGEST}


def letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


# --- what they stand for


def test_there_are_many_for_both_sides() -> None:
    for side in SIDES:
        assert sum(one.side == side for one in ALL) >= 60


def test_every_quoted_line_stands_in_the_seed() -> None:
    seed = letters((TRANSCRIPTS / "seed.txt").read_text(encoding="utf-8"))
    strays = {one.seed for one in ALL if one.seed and letters(one.seed) not in seed}
    assert strays == set()


def test_every_command_of_the_seed_that_can_be_tried_without_harm_has_a_transcript() -> None:
    quoted = " ".join({one.seed for one in ALL})
    for name in ("ping", "log", "status", "task_status", "fatal_error", ".msg", ".eta", "result", "params"):
        assert name in quoted


def test_every_section_of_the_extension_is_one_of_the_page() -> None:
    page = (find_checkout().root / "docs/protocol.md").read_text(encoding="utf-8")
    sections = {
        part.strip()
        for heading in re.findall(r"^#+ (.*)$", page, re.MULTILINE)
        for part in [heading.replace("`", ""), *re.findall(r"`(\w+)`", heading)]
    }
    # How a stranger enrols is a part of how it is let in, wherever the page tells it.
    named = {one.extension for one in ALL if one.extension} - {"protocol.md, enroll"}
    assert all(name.startswith("protocol.md, ") for name in named)
    assert {name.removeprefix("protocol.md, ") for name in named} - sections == set()
    assert "`enroll`" in page


def test_names_are_equal_where_both_sides_are_asked_the_same() -> None:
    """Whoever reads a result of one side finds the same transcript for the other."""
    both = {one.name for one in ALL if one.side == "agent"} & {
        one.name for one in ALL if one.side == "endpoint"
    }
    assert len(both) >= 60


# --- no harm


def lines_for_agents() -> list[tuple[str, str]]:
    return [
        (f"{one.name}:{step.line}", step.template)
        for one in ALL
        if one.side == "agent"
        for step in one.steps
        if isinstance(step, Send)
    ]


def test_no_transcript_for_agents_holds_more_than_a_plan_of_nothing() -> None:
    tasks = [(where, text) for where, text in lines_for_agents() if "decom" in text or "standby" in text]
    assert len(tasks) >= 10
    for where, text in tasks:
        params = json.loads(text)["params"]
        assert params["plan"] is True, where
        assert params["allow"] == [NO_DISK], where
        assert params["plan_digest"] == NO_DIGEST, where


def erase(**params: Any) -> str:
    return json.dumps({"version": "v1", "id": "e", "method": "decom.disk_erase", "params": params})


HARMFUL = {
    "an erase": erase(task_id="t"),
    "an erase without a task": erase(),
    "a plan that is not said to be one": erase(**{**PLAN, "plan": False}),
    "a plan by a number": erase(**{**PLAN, "plan": 1}),
    "a plan by a text": erase(**{**PLAN, "plan": "true"}),
    "a plan of every disk": erase(**{**PLAN, "allow": []}),
    "a plan of a disk": erase(**{**PLAN, "allow": [NO_DISK, "S1"]}),
    "a plan that may have been made": erase(**{**PLAN, "plan_digest": f"sha256:{'1' * 64}"}),
    "a plan said twice": erase(**PLAN).replace('"plan": true', '"plan": true, "plan": false'),
    "params twice": erase(**PLAN)[:-1] + ', "params": {"task_id": "t"}}',
    "a method twice": '{"method": "ping", ' + erase(task_id="t")[1:],
    "another task": '{"id":"e","method":"standbye.run_image","params":{"task_id":"t"}}',
    "the other spelling": '{"id":"e","method":"standby.run_image"}',
    "firmware as a plan": erase(**PLAN).replace("disk_erase", "firmware_secure"),
    "capital letters": erase(**PLAN).replace("decom", "DECOM"),
    "escaped letters": '{"id":"e","method":"d\\u0065com.disk_erase","params":{}}',
    "a broken line": '{"id":"e","method":"decom.disk_erase","params":{',
    "two on one line": erase(**PLAN) * 2,
    "behind something else": '{"id":"p","method":"ping"} ' + erase(task_id="t"),
    "a method of somebody else's": '{"id":"e","method":"wipe","params":{}}',
    "reboot": '{"id":"e","method":"reboot"}',
}


@pytest.mark.parametrize("text", HARMFUL.values(), ids=HARMFUL.keys())
def test_what_could_do_harm_is_neither_read_nor_sent(tmp_path: Path, text: str) -> None:
    with pytest.raises(HarmfulError, match="never erases"):
        check_harmless(text)
    (tmp_path / "agent").mkdir()
    path = tmp_path / "agent/bad.txt"
    path.write_text(f"{HEAD}\n> {text}\n")
    with pytest.raises(UsageError, match=r"bad\.txt:6: the kit never erases"):
        load(path, "agent")
    with pytest.raises(HarmfulError):
        Guard().check(text.encode() + b"\n")


@pytest.mark.parametrize("text", HARMFUL.values(), ids=HARMFUL.keys())
@pytest.mark.parametrize("size", [1, 7])
def test_it_is_not_sent_piece_by_piece_either(text: str, size: int) -> None:
    guard, data, sent = Guard(), text.encode() + b"\n", bytearray()

    def send() -> None:
        for start in range(0, len(data), size):
            guard.check(data[start : start + size])
            sent.extend(data[start : start + size])

    with pytest.raises(HarmfulError):
        send()
    assert b"\n" not in sent  # nothing that an agent could take for a message has left


@pytest.mark.parametrize(
    "text",
    [
        erase(**PLAN),
        erase(**PLAN, verification="sampled"),
        '{"id":"p","method":"ping","params":{"x":NaN}}',
        '{"id":"c","method":"cancel_task","params":{"task_id":"t"}}',
        '{"id":"u","method":"no.such.method.x"}',
        "no JSON at all",
    ],
)
def test_what_is_harmless_goes_out(text: str) -> None:
    check_harmless(text)
    Guard().check(text.encode() + b"\n")


def test_the_one_capability_that_opens_the_way_for_plans() -> None:
    assert safety.CAPABILITY == "plan"


# --- the language

BAD_TRANSCRIPTS = {
    "no title": ('# why: w\n# level: required\n# seed: "s"\n! alive\n', 1, "no line '# title: ...'"),
    "no level": ('# title: t\n# why: w\n# seed: "s"\n! alive\n', 1, "no line '# level: ...'"),
    "neither seed nor extension": ("# title: t\n# why: w\n# level: required\n! alive\n", 1, "one of '# seed"),
    "both": (f"{HEAD}# extension: e\n! alive\n", 1, "one of '# seed"),
    "a level of its own": (
        HEAD.replace("required", "nice to have") + "! alive\n",
        1,
        "level is 'required' or",
    ),
    "a need of its own": (f"{HEAD}# needs: luck\n! alive\n", 1, "luck is none of"),
    "a header twice": (f"{HEAD}# title: again\n! alive\n", 5, "title stands twice"),
    "nothing to do": (HEAD, 4, "no step"),
    "an unknown step": (f"{HEAD}\n? x\n", 6, "a step begins with"),
    "an unknown action": (f"{HEAD}! dance\n", 5, "no action 'dance'"),
    "an action of the other side": (f"{HEAD}! accept\n", 5, "no action 'accept'"),
    "an action with wrong words": (f"{HEAD}! quiet long\n", 5, "its words must have the form"),
    "a wait without end": (f"{HEAD}! wait 9999 s\n", 5, "at most 120 s"),
    "a broken pattern": (f'{HEAD}< {{"id": }}\n', 5, "'}' is not a value"),
    "a pattern without an end": (f'{HEAD}< {{"id": "x"\n', 5, "ends too early"),
    "a pattern with a tail": (f'{HEAD}< {{"id": "x"}} 5\n', 5, "stands behind the end"),
    "a pattern that is no object": (f"{HEAD}< [1]\n", 5, "a message is an object"),
    "a broken expression": (f'{HEAD}< {{"id": /(/}}\n', 5, "unterminated"),
    "an unknown word": (f'{HEAD}< {{"id": SOMETHING}}\n', 5, "'SOMETHING' is not a value"),
    "an unknown name": (f'{HEAD}> {{"id": "${{who}}"}}\n', 5, "${who} is not known"),
    "a name before it is set": (f'{HEAD}< {{"a": "${{b}}"}}\n< {{"b": ANY as b}}\n', 5, "${b} is not known"),
    "an odd filling": (f"{HEAD}> ${{fill 5}}\n", 5, "is none of"),
    "a filling without end": (f'{HEAD}> ${{repeat 9000000 "x"}}\n', 5, "longer than"),
    "an unknown escape": (f"{HEAD}>> \\q\n", 5, "no escape"),
    "an alternative to nothing": (f"{HEAD}| close\n", 5, "without an expectation"),
    "a question without the need": (f"{HEAD}! ask status {{}}\n", 5, "needs: ask"),
}


@pytest.mark.parametrize(("text", "line", "words"), BAD_TRANSCRIPTS.values(), ids=BAD_TRANSCRIPTS.keys())
def test_a_broken_transcript_is_named_with_its_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    path = tmp_path / "broken.txt"
    path.write_text(text)
    with pytest.raises(UsageError, match=re.escape(words)) as caught:
        load(path, "endpoint")
    assert str(caught.value).startswith(f"{path}:{line}: ") or words == "needs: ask"
    assert "\n" not in str(caught.value)


def test_a_transcript_is_what_its_text_says(tmp_path: Path) -> None:
    path = tmp_path / "a-name.txt"
    path.write_text(
        "# a comment\n"
        + HEAD.replace("required", "optional (capability inventory)")
        + '# needs: tls, slow\n\n! handshake\n> {"id":"1","method":"ping"}\n>> x\\n\nwithin 7 s\n'
        '< {"id": "1", "result": OBJECT as r}\n| skip close\n# a comment between\n! wait 0.5 s\n'
    )
    read: Transcript = load(path, "agent")
    assert (read.name, read.level, read.required, read.needs) == (
        "a-name", "inventory", False, frozenset({"tls", "slow"}),
    )  # fmt: skip
    assert [step.line for step in read.steps] == [8, 9, 10, 12, 15]
    expected = read.steps[3]
    assert getattr(expected, "within", None) == 7
    assert [choice.skip for choice in getattr(expected, "choices", ())] == [False, True]


def test_a_folder_without_transcripts_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no transcripts in .*agent \(name their folder"):
        load_folder(tmp_path, "agent")


MATCHES: list[tuple[str, Any]] = [
    ('{"a": 1}', {"a": 1, "b": 2}),
    ('{"a": {"b": ANY}}', {"a": {"b": None, "c": 1}}),
    ("EXACT {}", {}),
    ('{"a": EXACT {"b": 1}}', {"a": {"b": 1}}),
    ('{"a": 1 | 2 | "x"}', {"a": "x"}),
    ('{"a": /^x+$/}', {"a": "xxx"}),
    ('{"a": /a\\/b/}', {"a": "a/b"}),
    ('{"a": ABSENT}', {}),
    ('{"a": []}', {"a": []}),
    ('{"a": [1, ...]}', {"a": [1, 2, 3]}),
    ('{"a": [..., 3]}', {"a": [1, 2, 3]}),
    ('{"a": [..., {"n": 2}, ...]}', {"a": [{"n": 1}, {"n": 2, "m": 5}, {"n": 3}]}),
    ('{"a": [...]}', {"a": [1, 2]}),
    ('{"a": STRING as x, "b": "${x}!"}', {"a": "t", "b": "t!"}),
    ('{"a": "é\\n"}', {"a": "é\n"}),
    ('{"a": NUMBER, "b": BOOL, "c": LIST, "d": OBJECT}', {"a": 1.5, "b": True, "c": [1], "d": {}}),
    ('{"a": 1}', {"a": 1.0}),
    ('{"a": null}', {"a": None}),
]
DIFFERS: list[tuple[str, Any, str]] = [
    ('{"a": 1}', {}, ".a: expected 1, came nothing"),
    ('{"a": 1}', {"a": True}, ".a: expected 1, came true"),
    ('{"a": true}', {"a": 1}, ".a: expected true, came 1"),
    ('{"a": NUMBER}', {"a": True}, ".a: expected NUMBER, came true"),
    ('{"a": ANY}', {}, ".a: expected ANY, came nothing"),
    ('{"a": ABSENT}', {"a": None}, ".a: expected nothing, came null"),
    ('{"a": EXACT {"b": 1}}', {"a": {"b": 1, "c": 2}}, ".a.c: a member that must not be there"),
    ('{"a": [1, 2]}', {"a": [1]}, ".a: expected 2 items, came [1]"),
    ('{"a": [..., 3]}', {"a": [3, 1]}, ".a[1]: expected 3, came 1"),
    ('{"a": [..., 3, ...]}', {"a": []}, ".a: expected at least 1 items, came []"),
    ('{"a": 1 | 2}', {"a": 3}, ".a: expected 1, came 3 or .a: expected 2, came 3"),
    ('{"a": {"b": 1}}', {"a": []}, ".a: expected an object, came []"),
    ('{"a": /^x$/}', {"a": 5}, ".a: expected /^x$/, came 5"),
    ('{"a": STRING as x, "b": "${x}"}', {"a": "s", "b": "t"}, '.b: expected "s", came "t"'),
]


@pytest.mark.parametrize(("text", "value"), MATCHES)
def test_what_matches(text: str, value: Any) -> None:
    assert pattern.match(parse(text), value, {}) == []


@pytest.mark.parametrize(("text", "value", "words"), DIFFERS)
def test_what_differs_is_told_by_its_place(text: str, value: Any, words: str) -> None:
    scope: dict[str, Any] = {}
    assert pattern.match(parse(text), value, scope) == [words]
    assert scope == {}


def test_a_captured_value_is_compared_to_the_letter() -> None:
    scope: dict[str, Any] = {}
    assert pattern.match(parse('{"p": OBJECT as first}'), {"p": {"a": 1, "b": 2}}, scope) == []
    again = parse('{"p": ${first}}')
    assert pattern.match(again, {"p": {"a": 1, "b": 2}}, scope) == []
    for other in ({"b": 2, "a": 1}, {"a": 1.0, "b": 2}, {"a": 1, "b": 2, "c": 3}):
        assert pattern.match(again, {"p": other}, scope) != []


def test_an_unknown_name_is_an_error_of_the_transcript() -> None:
    with pytest.raises(PatternError, match=r"\$\{x\} is not known"):
        pattern.match(parse('{"a": ${x}}'), {"a": 1}, {})


def test_what_is_sent_is_filled_in() -> None:
    assert template.expand('${a}${repeat 3 "é\\""}', {"a": "x"}) == 'xé"é"é"'
    assert template.expand('{"o": ${o}}', {"o": {"n": [1, "é"]}}) == '{"o": {"n": [1, "é"]}}'
    padded = template.expand('{"é": "${pad 64}"}', {})
    assert len(padded.encode()) == 64
    assert json.loads(padded)["é"] == "x" * 54
    with pytest.raises(TemplateError, match="longer than 5 bytes without"):
        template.expand('{"a": "${pad 5}"}', {})


def test_bytes_of_a_raw_line() -> None:
    assert template.unescape(r"é\xff\n\r\t\0\\") == "é".encode() + b"\xff\n\r\t\0\\"


# --- the kit's own reading


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"\xff", "not UTF-8"),
        (b"{", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"a":1,"a":1}', "a key twice"),
        (b'{"a":NaN}', "NaN"),
        (b'{"a":1e400}', "not finite"),
        (b'{"a":9007199254740993}', "beyond 2^53"),
        (b'{"a":"\\ud800"}', "lone surrogate"),
        (b'{"\\ud800":1}', "lone surrogate"),
        (b'{"a":' + b"[" * 16 + b"]" * 16 + b"}", "deeper than 16"),
        (b'{"a":' + b"[" * 100000 + b"]" * 100000 + b"}", "deeper than 16"),
        (b'{"a":[' + b"1," * 10000 + b"1]}", "more than 10000"),
    ],
)
def test_a_line_that_no_strict_reader_takes_is_found(line: bytes, words: str) -> None:
    with pytest.raises(Wrong, match=re.escape(words)):
        read_line(line)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({}, "none of method"),
        ({"id": "a", "method": "m", "result": {}}, "method and result"),
        ({"method": "m"}, "whose id is not"),
        ({"id": 5, "method": "m"}, "whose id is not"),
        ({"id": "a\n", "method": "m"}, "whose id is not"),
        ({"id": "x" * 129, "method": "m"}, "whose id is not"),
        ({"id": "a", "method": ""}, "whose method is not"),
        ({"id": "a", "method": "m", "params": []}, "params are not"),
        ({"id": "a", "result": []}, "result is not an object"),
        ({"id": "a", "error": {}}, "without a msg"),
        ({"id": "a", "error": {"msg": ""}}, "without a msg"),
        ({"version": "v2", "id": "a", "method": "m"}, "version is not"),
        ({"fatal_error": ""}, "not a text"),
    ],
)
def test_a_broken_envelope_is_found(message: dict[str, Any], words: str) -> None:
    with pytest.raises(Wrong, match=words):
        kind_of(message)


def test_whole_messages_are_what_they_are() -> None:
    for kind, message in {
        "method": {"id": "a", "method": "m", "params": None},
        "result": {"version": "v1", "id": "a", "result": {}},
        "error": {"id": "a", "error": {"msg": "no", "more": 1}},
        "fatal_error": {"fatal_error": "no"},
    }.items():
        assert kind_of(read_line(json.dumps(message).encode())) == kind
