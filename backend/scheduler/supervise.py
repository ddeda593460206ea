"""Work in the background that goes on whatever fails: one error must not end it in silence."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from backend.errors import PrelabelError

log = logging.getLogger("prelabel")


class Tending:
    """Bears errors and tells them: once, until another one comes or it works again."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    @contextmanager
    def bearing(self, name: str) -> Iterator[None]:
        """What is done inside may fail.

        Args:
            name: of what is done, as people are told it.
        """
        try:
            yield
        except PrelabelError as error:
            self.tell(name, str(error))
        except Exception as error:  # a defect of ours, or a file that nobody expected
            if self.tell(name, f"{type(error).__name__}: {error}"):
                log.info("%s", name, exc_info=True)
        else:
            self._known.pop(name, None)

    def tell(self, name: str, sentence: str) -> bool:
        """Say what is wrong, unless that was said last; whether it was new."""
        new = self._known.get(name) != sentence
        if new:
            log.error("%s: %s", name, sentence)
        self._known[name] = sentence
        return new

    async def for_ever(
        self, seconds: float, name: str, work: Callable[[], Awaitable[None]]
    ) -> None:
        """Do something again and again.

        Args:
            seconds: between two times.
            name: of it, as people are told it.
            work: what is done.
        """
        while True:
            await asyncio.sleep(seconds)
            with self.bearing(name):
                await work()
