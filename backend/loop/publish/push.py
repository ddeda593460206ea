"""The live version's predictions into Label Studio, so that its queue follows the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from backend.callbacks import ProgressCallback
from backend.domain import Control, Prediction
from backend.errors import RoundError
from backend.label_studio.client import BATCH
from backend.label_studio.task_results import prediction_json
from backend.loop.observe import Pulse
from backend.runtime.connection import Connection

UNCERTAINTY_SAMPLING = "Uncertainty sampling"


def missing(
    connection: Connection, version: str, open_tasks: Iterable[int]
) -> tuple[int, set[int]]:
    """How many predictions of a version are there, and the open tasks that have none.

    Asked of Label Studio itself, so that a push that was cut off goes on where it stopped and
    nothing is ever there twice.
    """
    there = connection.client.version_counts(connection.number).get(version, 0)
    if not there:
        return 0, set(open_tasks)
    predicted = connection.client.predictions(connection.number, version)
    return there, set(open_tasks) - set(predicted.values())


def push(
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
    for start in range(0, len(predictions), BATCH):
        batch = predictions[start : start + BATCH]
        rows = [prediction_json(p, controls, version) for p in batch]
        made = connection.client.import_predictions(connection.number, rows)
        if made != len(rows):
            raise RoundError(
                f"Label Studio took {made} of {len(rows)} predictions: the labeling config or the "
                "tasks changed meanwhile; the next round starts from what is there now."
            )
        progress(start + len(batch), len(predictions))


def point(connection: Connection, version: str, pulse: Pulse) -> bool:
    """Let the project's queue follow a version, unless it does already.

    Returns:
        whether anything had to be changed.
    """
    if (pulse.follows, pulse.sampling) == (version, UNCERTAINTY_SAMPLING):
        return False
    connection.client.follow(connection.number, version)
    return True
