"""The predictions of a version for the audit images, saved when it was evaluated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from backend.domain import RegionOutcome
from backend.json_records import json_field
from backend.store.files import read_json
from backend.store.record_files import ReadJson, read_cache, write_record

AUDIT_PREDICTIONS_FILE = "audit_predictions.json"
"""In the folder of a version. It has labels of people, so it is not uploaded with the version."""


@dataclass(frozen=True)
class AuditRegion:
    """An annotated or predicted box or point of an audit image; coordinates are 0 to 1.

    Attributes:
        outcome: whether annotation and prediction agree.
        label: name of its label.
        x0: left edge.
        y0: upper edge.
        x1: right edge.
        y1: lower edge.
    """

    outcome: RegionOutcome
    label: str
    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True)
class AuditAnswer:
    """The annotation and the prediction of one control of an audit image.

    Attributes:
        given: annotated labels of a control of choices, sorted.
        predicted: predicted labels of a control of choices, sorted.
        regions: annotated and predicted regions of a control of boxes or points.
    """

    given: tuple[str, ...] = json_field((), optional=True)
    predicted: tuple[str, ...] = json_field((), optional=True)
    regions: tuple[AuditRegion, ...] = json_field((), optional=True)

    @property
    def is_correct(self) -> bool:
        """Whether annotation and prediction agree completely."""
        return self.given == self.predicted and all(
            region.outcome == "correct" for region in self.regions
        )


@dataclass(frozen=True)
class AuditPredictions:
    """The answers of a version on its audit set.

    Attributes:
        tasks: task → control → answer. Annotations are those at the time of the evaluation.
    """

    tasks: Mapping[int, Mapping[str, AuditAnswer]] = field(default_factory=dict)

    def wrong_tasks(self) -> list[int]:
        """Return the tasks with a wrong prediction of at least one control."""
        return [task for task, answers in self.tasks.items() if not is_all_correct(answers)]


def is_all_correct(answers: Mapping[str, AuditAnswer]) -> bool:
    """Return whether the predictions of all controls of an image are correct."""
    return all(answer.is_correct for answer in answers.values())


def with_labels_of(
    answers: Mapping[str, AuditAnswer], other: Mapping[str, AuditAnswer]
) -> dict[str, AuditAnswer]:
    """Return the predictions of one version with the annotated choices of another evaluation.

    Regions keep their annotation, because they were matched with it.
    """
    return {
        control: replace(answer, given=other[control].given) if control in other else answer
        for control, answer in answers.items()
    }


def differ_predictions(first: Mapping[str, AuditAnswer], second: Mapping[str, AuditAnswer]) -> bool:
    """Return whether two versions predict different labels or find different objects.

    Found objects are compared by label and outcome, because two detectors never draw exactly the
    same box.
    """
    return _predicted(first) != _predicted(second)


def _predicted(answers: Mapping[str, AuditAnswer]) -> dict[str, object]:
    return {
        control: (answer.predicted, Counter((r.label, r.outcome) for r in answer.regions))
        for control, answer in answers.items()
    }


def save_audit_predictions(predictions: AuditPredictions, folder: Path) -> None:
    """Save the answers in a version's folder.

    Raises:
        StoreError: they cannot be written.
    """
    write_record(folder / AUDIT_PREDICTIONS_FILE, predictions)


def load_audit_predictions(folder: Path, read: ReadJson = read_json) -> AuditPredictions:
    """Load the answers of a version; none for versions of early releases."""
    return read_cache(
        folder / AUDIT_PREDICTIONS_FILE, AuditPredictions, AuditPredictions(), read=read
    )
