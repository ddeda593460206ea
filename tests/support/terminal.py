"""Run a command in a pseudo-terminal."""

from __future__ import annotations

import os
import pty
import select
import signal
import sys
import time
from collections.abc import Mapping, Sequence


class Terminal:
    """The command in a terminal: what it prints, and what a person types."""

    def __init__(self, arguments: Sequence[str], env: Mapping[str, str]) -> None:
        self._unread = ""
        self._pid, self._terminal = pty.fork()
        if not self._pid:  # the command itself; the test process may ignore Ctrl-C
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            command = [sys.executable, "-m", "backend.cli", *arguments]
            os.execve(sys.executable, command, {**os.environ, **env})  # noqa: S606

    def wait_for(self, text: str, seconds: float = 90) -> str:
        """Wait until a text is printed, and return what was printed before it."""
        deadline = time.monotonic() + seconds
        while text not in self._unread:
            if time.monotonic() > deadline or not self._read_more():
                raise AssertionError(f"{text!r} was not printed: {self._unread}")
        before, _, self._unread = self._unread.partition(text)
        return before

    @property
    def unread_output(self) -> str:
        """What was printed and not waited for."""
        return self._unread

    def type(self, text: str) -> None:
        """Type a text."""
        os.write(self._terminal, text.encode())

    def wait_for_exit(self) -> int:
        """Wait until the command ends, and return its exit status."""
        while self._read_more():
            pass
        os.close(self._terminal)
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])

    def _read_more(self) -> bool:
        if not select.select([self._terminal], [], [], 1)[0]:
            return True
        try:
            output = os.read(self._terminal, 4096)
        except OSError:  # Linux raises it when the other end is closed
            return False
        self._unread += output.decode(errors="replace")
        return bool(output)
