"""The live version's predictions into Label Studio, so that its queue follows the model."""

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
    """How many predictions of a version are there, and the open tasks that have none.

    Asked of Label Studio itself, so that a push that was cut off goes on where it stopped and
    nothing is ever there twice.
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
    """Add predictions in bulk and check that all of them were made.

    Raises:
        RoundError: Label Studio made fewer: the labeling config or the tasks changed meanwhile.
    """
    for start in range(0, len(predictions), PREDICTION_BATCH_SIZE):
        batch = predictions[start : start + PREDICTION_BATCH_SIZE]
        rows = [format_prediction(p, controls, version) for p in batch]
        created = connection.client.import_predictions(connection.project_number, rows)
        if created != len(rows):
            raise RoundError(
                f"Label Studio took {created} of {len(rows)} predictions: "
                "the labeling config or the "
                "tasks changed meanwhile; the next round starts from what is there now."
            )
        progress(start + len(batch), len(predictions))


def follow_version(connection: Connection, version: str, fingerprint: ProjectFingerprint) -> bool:
    """Let the project's queue follow a version, unless it does already.

    Returns:
        whether anything had to be changed.
    """
    if (fingerprint.model_version, fingerprint.sampling) == (version, UNCERTAINTY_SAMPLING):
        return False
    connection.client.set_model_version(connection.project_number, version)
    return True
