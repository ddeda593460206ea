"""Push the live version's predictions to Label Studio."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from backend.callbacks import ProgressCallback
from backend.domain import Control, Prediction
from backend.errors import LabelStudioError, RoundError
from backend.label_studio import Json
from backend.label_studio.client import PREDICTION_BATCH_SIZE
from backend.label_studio.task_results import format_prediction
from backend.runtime.connection import Connection

BAD_REQUEST_STATUS = 400


def missing_predictions(
    connection: Connection, version: str, open_tasks: Iterable[int]
) -> tuple[int, set[int]]:
    """Return the number of a version's predictions, and the open tasks without one.

    Both are read from Label Studio, so that an interrupted push resumes without duplicates.
    """
    if not connection.client.prediction_counts(connection.project_number).get(version):
        return 0, set(open_tasks)
    predicted = connection.client.prediction_tasks(connection.project_number, version)
    _remove_duplicates(connection, predicted)
    predicted_tasks = set(predicted.values())
    return len(predicted_tasks), set(open_tasks) - predicted_tasks


def push_predictions(
    connection: Connection,
    version: str,
    predictions: Sequence[Prediction],
    controls: Mapping[str, Control],
    progress: ProgressCallback,
    existing_count: int = 0,
) -> None:
    """Import predictions in bulk, and check that each task has exactly one afterwards.

    If somebody opens a task during the import, Label Studio requests a prediction and stores it as
    well. These duplicates are removed.

    Args:
        connection: connection to the project.
        version: the live version.
        predictions: one for each task that has none.
        controls: name → control of the labeling config.
        progress: receives (done, total).
        existing_count: number of the version's predictions before inference; a higher total than
            expected reveals duplicates.

    Raises:
        RoundError: Label Studio created fewer than were sent, because the project changed.
    """
    client, number = connection.client, connection.project_number
    expected_count = existing_count
    for start in range(0, len(predictions), PREDICTION_BATCH_SIZE):
        batch = predictions[start : start + PREDICTION_BATCH_SIZE]
        rows = [format_prediction(p, controls, version) for p in batch]
        expected_count += _import_batch(connection, rows)
        progress(start + len(batch), len(predictions))
    if client.prediction_counts(number).get(version, 0) > expected_count:
        _remove_duplicates(connection, client.prediction_tasks(number, version))


def _import_batch(connection: Connection, rows: Sequence[Json]) -> int:
    """Import predictions without those of deleted tasks, and return their number."""
    client, number = connection.client, connection.project_number
    try:
        created = client.import_predictions(number, rows)
    except LabelStudioError as error:
        existing_ids = {row["id"] for row in client.iter_tasks(number)}
        remaining = [row for row in rows if row["task"] in existing_ids]
        if error.status != BAD_REQUEST_STATUS or len(remaining) == len(rows):
            raise
        rows = remaining
        created = client.import_predictions(number, rows) if rows else 0
    if created != len(rows):
        raise RoundError(
            f"Label Studio accepted {created} of {len(rows)} predictions, because the labeling "
            "config or the tasks changed in the meantime. The next round tries again."
        )
    return created


def _remove_duplicates(connection: Connection, predictions: Mapping[int, int]) -> None:
    """Delete all but the oldest prediction of each task.

    Args:
        connection: connection to the project.
        predictions: predictions of one version, prediction id → task.
    """
    kept_tasks: set[int] = set()
    for id, task in sorted(predictions.items()):
        if task in kept_tasks:
            connection.client.delete_prediction(id)
        kept_tasks.add(task)
