"""A look at every drive when the agent comes up: what has an erase that was cut short left?

A power cut in the midst of an ATA security erase leaves the drive locked. Whether or not anybody erases this
machine again, the password is taken away; what still runs, or failed, is told.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from teeth_agent.errors import AgentError

Tell = Callable[[str, str], None]


class StartLook:
    """One look, in a thread of its own: a drive that hangs must not keep the machine from dialling home."""

    def __init__(self, tell: Tell, look: Callable[[], list[tuple[str, str]]]) -> None:
        """``tell`` gets a code and a line for each thing found; ``look`` gives (name, what) of each."""
        self._tell = tell
        self._look = look
        self._done = threading.Event()

    def begin(self) -> None:
        threading.Thread(target=self._run, name="start-look", daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """Whether it is over. To be waited for before anything is done to a drive: not two at once."""
        return self._done.wait(seconds)

    def _run(self) -> None:
        try:
            for name, words in self._look():
                self._tell("erase_leftover", f"{name}: {words}")
        except AgentError as error:
            self._tell(error.code, f"the drives could not be looked at: {error}")
        finally:
            self._done.set()


def look_at_drives(root: Path = Path("/")) -> list[tuple[str, str]]:
    """Look at every drive of this machine, once the buses have been scanned."""
    from teeth_agent.erase.leftovers import look_over  # not needed until the network is being brought up
    from teeth_agent.inventory.block import settled_disks
    from teeth_agent.tasks.disk_erase import the_ports, the_tries, to_medium

    return look_over([to_medium(disk) for disk in settled_disks(root)], the_ports(), the_tries())
