"""Predictions of versions that are no longer live leave Label Studio, one by one."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Protocol


class PredictionClient(Protocol):
    """What Label Studio's client does with predictions."""

    def prediction_counts(self, number: int) -> dict[str, int]:
        """How many a project has, by version."""
        ...

    def prediction_tasks(self, number: int, *versions: str) -> dict[int, int]:
        """Those of some versions: their number → the task's."""
        ...

    def delete_prediction(self, id: int) -> None:
        """Delete one, unless it is gone."""
        ...


class PredictionCleanup:
    """What is still to be removed of a project, from one short turn to the next.

    Listing predictions may take longer than a turn, and Label Studio can only list all of them:
    so it is done once for all turns.

    Args:
        client: of Label Studio.
        number: of the project there.
    """

    def __init__(self, client: PredictionClient, number: int) -> None:
        self._client = client
        self._number = number
        self._live = ""
        self._pending: dict[int, int] = {}

    @property
    def remaining(self) -> int:
        """Predictions that wait to be removed."""
        return len(self._pending)

    def remove(self, live: str, own_versions: Iterable[str], seconds: float) -> set[int]:
        """Remove some predictions of our retired versions, at least one; nobody else's.

        One by one, with a rest after each: Label Studio can delete a version in one call, but on
        SQLite nobody can submit a label meanwhile, and after 5 s their clicks fail. Call it under
        the lock of the project's rounds: what goes live is pushed by one.

        Args:
            live: the version whose predictions stay.
            own_versions: all versions of the project.
            seconds: when to stop for now; listing is not counted.

        Returns:
            the tasks of those that went: Label Studio takes that for a change of the task.
        """
        if not self._pending or live != self._live:
            self._live = live
            self._pending = self._retired_predictions(own_versions)
        deadline = time.monotonic() + seconds
        changed_tasks: set[int] = set()
        while self._pending and (not changed_tasks or time.monotonic() < deadline):
            started_at = time.monotonic()
            prediction_id, task = next(iter(self._pending.items()))
            self._client.delete_prediction(prediction_id)
            del self._pending[prediction_id]
            changed_tasks.add(task)
            time.sleep(time.monotonic() - started_at)
        return changed_tasks

    def _retired_predictions(self, own_versions: Iterable[str]) -> dict[int, int]:
        """The predictions of retired versions: their number → the task's."""
        counts = self._client.prediction_counts(self._number)
        retired_versions = [
            version for version in own_versions if version != self._live and counts.get(version)
        ]
        return (
            self._client.prediction_tasks(self._number, *retired_versions)
            if retired_versions
            else {}
        )
