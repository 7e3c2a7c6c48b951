"""The look at the drives when the agent comes up."""

from __future__ import annotations

import threading

from teeth_agent.errors import ToolError
from teeth_agent.tasks.startlook import StartLook


def test_what_was_left_is_told_of():
    told = []
    look = StartLook(lambda code, line: told.append((code, line)), lambda: [("sda", "recovered: ours")])
    look.begin()
    assert look.wait(10)
    assert told == [("erase_leftover", "sda: recovered: ours")]


def test_a_drive_that_hangs_keeps_nobody():
    release = threading.Event()

    def hang():
        release.wait(30)
        return []

    look = StartLook(lambda code, line: None, hang)
    look.begin()
    assert not look.wait(0)
    release.set()
    assert look.wait(10)


def test_what_cannot_be_looked_at_is_told_of_and_over():
    def fail():
        raise ToolError("udevadm is missing")

    told = []
    look = StartLook(lambda code, line: told.append(code), fail)
    look.begin()
    assert look.wait(10)
    assert told == ["tool_failed"]
