"""What came of a case over a real socket, against what must come."""

from __future__ import annotations

from fakes.raw_wire import RawWire, code_of

from .case import ANY, Case

# Of a longer line some may not have been read when the connection is closed: TCP then resets it, and the last
# words may be lost on their way. It has ended all the same.
_UNREAD = 32 << 10


async def comes_to(case: Case, wire: RawWire) -> str:
    """Send the case; what came of it that is not what must come, "" when it is."""
    await wire.send(case.data)
    if case.ends:
        await wire.to_the_end()
        said = wire.fatal()
        if said is None and len(case.data) > _UNREAD:
            return ""
        if (said is None) != (case.fatal is None) or (case.fatal or "") not in (said or ""):
            return f"fatal_error {said!r}, expected {case.fatal!r}"
        return ""
    if case.waits:
        return ""  # its deadline is tested on a virtual clock
    count = {identity: max(1, case.data.count(b'"id":"%s"' % identity.encode())) for identity in case.answers}
    if case.ignored:
        count = dict.fromkeys(case.answers, 1)
    if not await wire.answers(count):
        return f"hung up: {wire.said[-1:]}"
    await wire.say(id="probe", method="ping", params={"still": "there"})
    if not await wire.answers({"probe": 1}):
        return f"hung up after it: {wire.said[-1:]}"
    answers = {message["id"]: code_of(message) for message in wire.answered()}
    for identity, code in case.answers.items():
        if answers[identity] != code and code != ANY and not case.racy:
            return f"{identity} was answered {answers[identity]!r}, expected {code!r}"
    return "" if answers.keys() == {*case.answers, "probe"} else f"answers {answers}"
