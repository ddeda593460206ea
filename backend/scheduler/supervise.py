"""Work in the background that goes on whatever fails: one error must not end it in silence."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from backend.errors import PrelabelError

log = logging.getLogger("prelabel")


class Supervisor:
    """Bears errors and tells them: once, until another one comes or it works again."""

    def __init__(self) -> None:
        self._last_messages: dict[str, str] = {}

    @contextmanager
    def log_errors(self, name: str) -> Iterator[None]:
        """What is done inside may fail.

        Args:
            name: of what is done, as people are told it.
        """
        try:
            yield
        except PrelabelError as error:
            self.report_once(name, str(error))
        except Exception as error:  # a defect of ours, or a file that nobody expected
            if self.report_once(name, f"{type(error).__name__}: {error}"):
                log.info("%s", name, exc_info=True)
        else:
            self._last_messages.pop(name, None)

    def report_once(self, name: str, message: str) -> bool:
        """Say what is wrong, unless that was said last; whether it was new."""
        is_new = self._last_messages.get(name) != message
        if is_new:
            log.error("%s: %s", name, message)
        self._last_messages[name] = message
        return is_new

    async def run_forever(
        self, interval_seconds: float, name: str, action: Callable[[], Awaitable[None]]
    ) -> None:
        """Do something again and again.

        Args:
            interval_seconds: between two times.
            name: of it, as people are told it.
            action: what is done.
        """
        while True:
            await asyncio.sleep(interval_seconds)
            with self.log_errors(name):
                await action()
