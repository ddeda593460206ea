"""Collect the values of audit images and label examples from a project's files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

from backend.dashboard.audit_values import (
    AnswerView,
    AuditImageRow,
    AuditPage,
    AuditPairs,
    ComparedImage,
    ComparisonPage,
    ExampleRow,
    ThumbnailMark,
    WrongImages,
)
from backend.dashboard.values import ProjectSummary
from backend.store.audit_predictions import (
    AUDIT_PREDICTIONS_FILE,
    AuditAnswer,
    AuditPredictions,
    differ_predictions,
    is_all_correct,
    load_audit_predictions,
    with_labels_of,
)
from backend.store.label_examples import LabelExamples
from backend.store.queue_front import QueueFront
from backend.store.record_files import ReadJson
from backend.store.versions import VersionStore

WRONG_IMAGES_SHOWN = 6
"""Number of images below the accuracy; the others are on their own page."""
AUDIT_IMAGES_SHOWN = 200
"""Maximum number of images on a page of audit images."""


class AuditReader:
    """Collects the audit images of one project.

    Args:
        summary: the project.
        versions: its versions.
        front: its thumbnails.
        read: reads a JSON file.
    """

    def __init__(
        self, summary: ProjectSummary, versions: VersionStore, front: QueueFront, read: ReadJson
    ) -> None:
        self._summary = summary
        self._versions = versions
        self._front = front
        self._read = read

    def wrong_images(self) -> WrongImages:
        """Return the audit images that the live version predicts wrongly."""
        predictions = self.predictions(self._live)
        wrong = predictions.wrong_tasks()
        rows = [self.row(task, predictions.tasks[task]) for task in wrong[:WRONG_IMAGES_SHOWN]]
        return WrongImages(rows, len(wrong), len(predictions.tasks))

    def page(self, selection: AuditPairs) -> AuditPage:
        """Return the selected audit images of the live version."""
        predictions = self.predictions(self._live)
        tasks = [task for task, answers in predictions.tasks.items() if selection.includes(answers)]
        rows = [self.row(task, predictions.tasks[task]) for task in tasks[:AUDIT_IMAGES_SHOWN]]
        return AuditPage(selection, rows, len(tasks), len(predictions.tasks))

    def comparable_versions(self) -> list[str]:
        """Return the versions with stored predictions, newest first."""
        return [
            name
            for name in self._versions.names()
            if (self._versions.path(name) / AUDIT_PREDICTIONS_FILE).exists()
        ]

    def compare(self, first: str, second: str) -> ComparisonPage:
        """Compare two versions on the audit images that both were evaluated on.

        Both are judged by the choices that the newer one was evaluated with.

        Args:
            first: name of a version; the live one or the newest for an unknown name.
            second: name of another version; the newest other one for an unknown name.
        """
        names = self.comparable_versions()
        if first not in names:
            first = next(iter([name for name in names if name == self._live] or names), "")
        if second not in names:
            second = next((name for name in names if name != first), first)
        before, after = (self.predictions(name).tasks for name in (first, second))
        newest = self.predictions(next((n for n in names if n in (first, second)), "")).tasks
        rows = [
            ComparedImage(
                self.row(task, with_labels_of(before[task], newest[task])),
                self.row(task, with_labels_of(after[task], newest[task])),
                differ_predictions(before[task], after[task]),
            )
            for task in before
            if task in after
        ]
        rows.sort(key=lambda row: not row.differs)
        differing = [row for row in rows if row.differs]
        return ComparisonPage(
            first,
            second,
            names,
            rows[:AUDIT_IMAGES_SHOWN],
            len(rows),
            len(differing),
            sum(row.first.is_correct and not row.second.is_correct for row in differing),
            sum(row.second.is_correct and not row.first.is_correct for row in differing),
        )

    @property
    def _live(self) -> str:
        return self._summary.status.version or ""

    def predictions(self, version: str) -> AuditPredictions:
        """Return the stored predictions of a version; none without a version."""
        if not version:
            return AuditPredictions()
        return load_audit_predictions(self._versions.path(version), self._read)

    def row(self, task: int, answers: Mapping[str, AuditAnswer]) -> AuditImageRow:
        """Return an audit image with its predictions."""
        types = {control.name: control.type for control in self._summary.status.controls}
        regions = chain.from_iterable(answer.regions for answer in answers.values())
        return AuditImageRow(
            task=task,
            link=self._summary.task_link(task),
            picture=self._has_thumbnail(task),
            answers=[
                AnswerView.of_answer(
                    name,
                    answer,
                    has_regions=bool(answer.regions) or types.get(name, "Choices") != "Choices",
                )
                for name, answer in answers.items()
            ],
            marks=[
                ThumbnailMark.from_corners(r.outcome, (r.x0, r.y0, r.x1, r.y1)) for r in regions
            ],
            is_correct=is_all_correct(answers),
        )

    def example_rows(self, examples: LabelExamples, control: str, label: str) -> list[ExampleRow]:
        """Return the labeled images of a label."""
        return [
            ExampleRow(
                example.task,
                self._summary.task_link(example.task),
                self._has_thumbnail(example.task),
                _given_marks(example.regions),
            )
            for example in examples.of_label(control, label)
        ]

    def _has_thumbnail(self, task: int) -> bool:
        return self._front.thumbnail_path(str(task)).exists()


def _given_marks(regions: Iterable[Sequence[float]]) -> list[ThumbnailMark]:
    return [ThumbnailMark.from_corners("given", corners) for corners in regions]
