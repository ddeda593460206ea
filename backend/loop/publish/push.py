"""Push the live version's predictions to Label Studio, and order its queue by their scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from backend.callbacks import ProgressCallback
from backend.domain import Control, Prediction
from backend.errors import RoundError
from backend.label_studio.client import PREDICTION_BATCH_SIZE
from backend.label_studio.task_results import format_prediction
from backend.loop.observe import ProjectFingerprint
from backend.runtime.connection import Connection

UNCERTAINTY_SAMPLING = "Uncertainty sampling"


def missing_predictions(
    connection: Connection, version: str, open_tasks: Iterable[int]
) -> tuple[int, set[int]]:
    """Return the number of a version's predictions, and the open tasks without one.

    Both are read from Label Studio, so that an interrupted push resumes without duplicates.
    """
    existing = connection.client.prediction_counts(connection.project_number).get(version, 0)
    if not existing:
        return 0, set(open_tasks)
    predicted = connection.client.prediction_tasks(connection.project_number, version)
    return existing, set(open_tasks) - set(predicted.values())


def push_predictions(
    connection: Connection,
    version: str,
    predictions: Sequence[Prediction],
    controls: Mapping[str, Control],
    progress: ProgressCallback,
) -> None:
    """Import predictions in batches, and check that all were created.

    Raises:
        RoundError: Label Studio created fewer, because the project changed in the meantime.
    """
    for start in range(0, len(predictions), PREDICTION_BATCH_SIZE):
        batch = predictions[start : start + PREDICTION_BATCH_SIZE]
        rows = [format_prediction(p, controls, version) for p in batch]
        created = connection.client.import_predictions(connection.project_number, rows)
        if created != len(rows):
            raise RoundError(
                f"Label Studio accepted {created} of {len(rows)} predictions, because the labeling "
                "config or the tasks changed in the meantime. The next round retries."
            )
        progress(start + len(batch), len(predictions))


def follow_version(connection: Connection, version: str, fingerprint: ProjectFingerprint) -> None:
    """Set the project's model version and uncertainty sampling, unless they are set already."""
    if (fingerprint.model_version, fingerprint.sampling) != (version, UNCERTAINTY_SAMPLING):
        connection.client.set_model_version(connection.project_number, version)
