"""Predictions of versions that are no longer live leave Label Studio, one by one."""

from __future__ import annotations

import time
from collections.abc import Iterable

from backend.loop.connection import Connection


class Retirement:
    """What is still to be removed of a project, from one short turn to the next.

    Listing predictions may take longer than a turn, and Label Studio can only list all of them:
    so it is done once for all turns.
    """

    def __init__(self) -> None:
        self._live = ""
        self._waiting: dict[int, int] = {}

    @property
    def left(self) -> int:
        """Predictions that wait to be removed."""
        return len(self._waiting)

    def remove(
        self, connection: Connection, live: str, ours: Iterable[str], seconds: float
    ) -> set[int]:
        """Remove some predictions of our retired versions, at least one; nobody else's.

        One by one, with a rest after each: Label Studio can delete a version in one call, but on
        SQLite nobody can submit a label meanwhile, and after 5 s their clicks fail. Call it under
        the lock of the project's rounds: what goes live is pushed by one.

        Args:
            connection: the project.
            live: the version whose predictions stay.
            ours: all versions of the project.
            seconds: when to stop for now; listing is not counted.

        Returns:
            the tasks of those that went: Label Studio takes that for a change of the task.
        """
        if not self._waiting or live != self._live:
            self._live, self._waiting = live, _retired(connection, live, ours)
        stop = time.monotonic() + seconds
        touched: set[int] = set()
        while self._waiting and (not touched or time.monotonic() < stop):
            start = time.monotonic()
            id, task = next(iter(self._waiting.items()))
            connection.client.remove_prediction(id)
            del self._waiting[id]
            touched.add(task)
            time.sleep(time.monotonic() - start)
        return touched


def _retired(connection: Connection, live: str, ours: Iterable[str]) -> dict[int, int]:
    """The predictions of retired versions: their number → the task's."""
    counts = connection.client.version_counts(connection.number)
    old = [version for version in ours if version != live and counts.get(version)]
    return connection.client.predictions(connection.number, *old) if old else {}
