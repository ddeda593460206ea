"""A pseudo-terminal in which the command runs."""

from __future__ import annotations

import os
import pty
import select
import signal
import sys
import time
from collections.abc import Mapping, Sequence


class Terminal:
    """The command with a person before it: what is shown, and what is typed."""

    def __init__(self, arguments: Sequence[str], env: Mapping[str, str]) -> None:
        self._shown = ""
        self._pid, self._end = pty.fork()
        if not self._pid:  # the command itself; whoever tests may be deaf to Ctrl-C
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            command = [sys.executable, "-m", "backend.cli", *arguments]
            os.execve(sys.executable, command, {**os.environ, **env})  # noqa: S606

    def sees(self, text: str, seconds: float = 90) -> str:
        """Wait until something is shown that was not shown before; what came before it."""
        deadline = time.monotonic() + seconds
        while text not in self._shown:
            if time.monotonic() > deadline or not self._more():
                raise AssertionError(f"{text!r} is not shown: {self._shown}")
        before, _, self._shown = self._shown.partition(text)
        return before

    @property
    def unseen(self) -> str:
        """What is shown and was not waited for."""
        return self._shown

    def types(self, text: str) -> None:
        """As on the keyboard."""
        os.write(self._end, text.encode())

    def ends(self) -> int:
        """Wait for its end; the exit status."""
        while self._more():
            pass
        os.close(self._end)
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])

    def _more(self) -> bool:
        if not select.select([self._end], [], [], 1)[0]:
            return True
        try:
            got = os.read(self._end, 4096)
        except OSError:  # how Linux tells that the other end is closed
            return False
        self._shown += got.decode(errors="replace")
        return bool(got)
