"""Background jobs that continue after errors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager

from backend.errors import PrelabelError

log = logging.getLogger("prelabel")
CANCEL_INTERVAL_SECONDS = 1.0
"""Time after which tasks that still run are cancelled again."""


class Supervisor:
    """Log errors of background jobs and continue; a repeated error is logged once."""

    def __init__(self) -> None:
        self._last_messages: dict[str, str] = {}

    @contextmanager
    def log_errors(self, name: str) -> Iterator[None]:
        """Log and suppress exceptions of the block.

        Args:
            name: name of the job in log messages.
        """
        try:
            yield
        except PrelabelError as error:
            self.report_once(name, str(error))
        except Exception as error:  # a bug, or an unexpected file
            if self.report_once(name, f"{type(error).__name__}: {error}"):
                log.info("%s", name, exc_info=True)
        else:
            self._last_messages.pop(name, None)

    def report_once(self, name: str, message: str) -> bool:
        """Log a message unless it repeats the last one for a name; return whether it was logged."""
        is_new = self._last_messages.get(name) != message
        if is_new:
            log.error("%s: %s", name, message)
        self._last_messages[name] = message
        return is_new

    async def run_forever(
        self, interval_seconds: float, name: str, action: Callable[[], Awaitable[None]]
    ) -> None:
        """Repeat an action, and log its errors.

        Args:
            interval_seconds: pause before each run.
            name: name of the action in log messages.
            action: called without arguments.
        """
        while True:
            await asyncio.sleep(interval_seconds)
            with self.log_errors(name):
                await action()


async def cancel_all(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait until all have ended.

    A task whose cleanup raises another error goes on, so it is cancelled again.
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=CANCEL_INTERVAL_SECONDS)
