"""Delete the predictions of retired versions from Label Studio."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Protocol

from backend.label_studio.ml_protocol import PLACEHOLDER_VERSIONS


class PredictionClient(Protocol):
    """The methods of the Label Studio client that the cleanup uses."""

    def prediction_counts(self, number: int) -> dict[str, int]:
        """Return version → number of predictions in a project."""
        ...

    def prediction_tasks(self, number: int, *versions: str) -> dict[int, int]:
        """Return prediction id → task id of some versions."""
        ...

    def delete_prediction(self, id: int) -> None:
        """Delete a prediction, if it exists."""
        ...


class PredictionCleanup:
    """Deletes predictions of a project's retired versions in short turns.

    The predictions are listed once for all turns, because Label Studio can only list all at once,
    which may take longer than a turn.

    Args:
        client: Label Studio client.
        number: number of the project in Label Studio.
    """

    def __init__(self, client: PredictionClient, number: int) -> None:
        self._client = client
        self._number = number
        self._live = ""
        self._pending: dict[int, int] = {}

    @property
    def remaining(self) -> int:
        """Number of predictions that are still to be deleted."""
        return len(self._pending)

    def remove(self, live: str, own_versions: Iterable[str], seconds: float) -> set[int]:
        """Delete predictions of retired versions until the time is up, at least one.

        They are deleted one by one with a pause after each. Label Studio can delete all predictions
        of a version at once, but on SQLite that blocks annotators, whose submits fail after 5 s.
        The caller holds the round lock, so that no round promotes a version in the meantime.

        Args:
            live: the version whose predictions stay.
            own_versions: all versions of the project.
            seconds: time limit of the turn, excluding the listing.

        Returns:
            the tasks of the deleted predictions; Label Studio updates their timestamps.
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
        """Return prediction id → task id of the retired versions."""
        counts = self._client.prediction_counts(self._number)
        retired_versions = [
            version
            for version in (*own_versions, *PLACEHOLDER_VERSIONS)
            if version != self._live and counts.get(version)
        ]
        return (
            self._client.prediction_tasks(self._number, *retired_versions)
            if retired_versions
            else {}
        )
