"""Predictions of versions that are no longer live leave Label Studio, one by one."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Protocol


class Predictions(Protocol):
    """What Label Studio's client does with predictions."""

    def version_counts(self, number: int) -> dict[str, int]:
        """How many a project has, by version."""
        ...

    def predictions(self, number: int, *versions: str) -> dict[int, int]:
        """Those of some versions: their number → the task's."""
        ...

    def remove_prediction(self, id: int) -> None:
        """Delete one, unless it is gone."""
        ...


class Retirement:
    """What is still to be removed of a project, from one short turn to the next.

    Listing predictions may take longer than a turn, and Label Studio can only list all of them:
    so it is done once for all turns.

    Args:
        client: of Label Studio.
        number: of the project there.
    """

    def __init__(self, client: Predictions, number: int) -> None:
        self._client = client
        self._number = number
        self._live = ""
        self._waiting: dict[int, int] = {}

    @property
    def left(self) -> int:
        """Predictions that wait to be removed."""
        return len(self._waiting)

    def remove(self, live: str, ours: Iterable[str], seconds: float) -> set[int]:
        """Remove some predictions of our retired versions, at least one; nobody else's.

        One by one, with a rest after each: Label Studio can delete a version in one call, but on
        SQLite nobody can submit a label meanwhile, and after 5 s their clicks fail. Call it under
        the lock of the project's rounds: what goes live is pushed by one.

        Args:
            live: the version whose predictions stay.
            ours: all versions of the project.
            seconds: when to stop for now; listing is not counted.

        Returns:
            the tasks of those that went: Label Studio takes that for a change of the task.
        """
        if not self._waiting or live != self._live:
            self._live = live
            self._waiting = self._retired(ours)
        stop = time.monotonic() + seconds
        touched: set[int] = set()
        while self._waiting and (not touched or time.monotonic() < stop):
            start = time.monotonic()
            id, task = next(iter(self._waiting.items()))
            self._client.remove_prediction(id)
            del self._waiting[id]
            touched.add(task)
            time.sleep(time.monotonic() - start)
        return touched

    def _retired(self, ours: Iterable[str]) -> dict[int, int]:
        """The predictions of retired versions: their number → the task's."""
        counts = self._client.version_counts(self._number)
        old = [version for version in ours if version != self._live and counts.get(version)]
        return self._client.predictions(self._number, *old) if old else {}
