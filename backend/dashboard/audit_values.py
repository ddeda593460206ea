"""The values of audit images, label examples and comparisons that the templates render."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from backend.domain import RegionOutcome
from backend.store.audit_predictions import AuditAnswer, AuditRegion


@dataclass(frozen=True)
class ThumbnailMark:
    """A box or point to draw on a thumbnail; coordinates are 0 to 100.

    Attributes:
        outcome: ``correct``, ``missed`` or ``false``; ``given`` for a label without a prediction.
        x: left edge.
        y: upper edge.
        width: 0 for a point.
        height: 0 for a point.
    """

    outcome: str
    x: float
    y: float
    width: float
    height: float

    @classmethod
    def from_corners(cls, outcome: str, corners: Sequence[float]) -> ThumbnailMark:
        """Return the mark of a region with corners x0 y0 x1 y1, 0 to 1."""
        x0, y0, x1, y1 = (round(100 * edge, 2) for edge in corners)
        return cls(outcome, x0, y0, round(x1 - x0, 2), round(y1 - y0, 2))

    @property
    def is_point(self) -> bool:
        """Whether it marks a point."""
        return not self.width and not self.height


@dataclass(frozen=True)
class AnswerView:
    """The annotation and the prediction of one control of an image.

    Attributes:
        control: name of the control.
        given: annotated labels of a control of choices as text; may be empty.
        predicted: predicted labels of a control of choices as text; may be empty.
        missed: number of missed objects by label as text, such as ``2 leaf``.
        false: number of false detections by label as text.
        correct: number of correct detections.
        is_correct: annotation and prediction agree.
        has_regions: it is a control of boxes or points.
    """

    control: str
    given: str
    predicted: str
    missed: str
    false: str
    correct: int
    is_correct: bool
    has_regions: bool

    @classmethod
    def of_answer(cls, control: str, answer: AuditAnswer, *, has_regions: bool) -> AnswerView:
        """Return the view of a stored answer."""
        return cls(
            control,
            join_labels(answer.given),
            join_labels(answer.predicted),
            _count_text(answer.regions, "missed"),
            _count_text(answer.regions, "false"),
            sum(region.outcome == "correct" for region in answer.regions),
            answer.is_correct,
            has_regions,
        )


@dataclass(frozen=True)
class AuditImageRow:
    """An audit image with the predictions of one version.

    Attributes:
        task: id of the task.
        link: URL of the task; may be empty.
        picture: whether it has a thumbnail.
        answers: one per control that the version predicts.
        marks: boxes and points to draw.
        is_correct: the predictions of all controls are correct.
    """

    task: int
    link: str
    picture: bool
    answers: Sequence[AnswerView]
    marks: Sequence[ThumbnailMark]
    is_correct: bool


@dataclass(frozen=True)
class AuditPairs:
    """The audit images that a person selected by control and labels; empty texts select all.

    Attributes:
        control: name of the control.
        given: annotated labels as text.
        predicted: predicted labels as text.
        is_pair: one cell of a confusion matrix is selected, instead of all wrong images.
    """

    control: str = ""
    given: str = ""
    predicted: str = ""
    is_pair: bool = False

    def includes(self, answers: Mapping[str, AuditAnswer]) -> bool:
        """Return whether an image is selected."""
        if not self.is_pair:
            return not all(answer.is_correct for answer in answers.values())
        answer = answers.get(self.control)
        return answer is not None and (self.given, self.predicted) == (
            join_labels(answer.given),
            join_labels(answer.predicted),
        )


@dataclass(frozen=True)
class AuditPage:
    """The selected audit images of the live version.

    Attributes:
        selection: what was selected.
        rows: the images; there may be more.
        found: number of selected images.
        audited: number of audit images of the version.
    """

    selection: AuditPairs
    rows: Sequence[AuditImageRow]
    found: int
    audited: int


@dataclass(frozen=True)
class WrongImages:
    """The audit images that the live version predicts wrongly.

    Attributes:
        rows: the first of them.
        found: number of all.
        audited: number of audit images; 0 if the predictions were not stored.
    """

    rows: Sequence[AuditImageRow] = ()
    found: int = 0
    audited: int = 0


@dataclass(frozen=True)
class ComparedImage:
    """An audit image with the predictions of two versions.

    Attributes:
        first: image with the prediction of the first version.
        second: image with that of the second version.
        differs: the predictions differ.
    """

    first: AuditImageRow
    second: AuditImageRow
    differs: bool


@dataclass(frozen=True)
class ComparisonPage:
    """Two versions on the audit images that both were evaluated on.

    Attributes:
        first: name of the first version.
        second: name of the second version.
        versions: names of all versions with stored predictions, newest first.
        rows: the images, those with different predictions first; there may be more.
        shared: number of images that both versions were evaluated on.
        differing: number of images with different predictions.
        first_better: number of those that only the first version predicts correctly.
        second_better: number of those that only the second version predicts correctly.
    """

    first: str
    second: str
    versions: Sequence[str]
    rows: Sequence[ComparedImage] = ()
    shared: int = 0
    differing: int = 0
    first_better: int = 0
    second_better: int = 0


@dataclass(frozen=True)
class ExampleRow:
    """A labeled image of one label.

    Attributes:
        task: id of the task.
        link: URL of the task; may be empty.
        picture: whether it has a thumbnail.
        marks: the regions of the label.
    """

    task: int
    link: str
    picture: bool
    marks: Sequence[ThumbnailMark]


def join_labels(labels: Iterable[str]) -> str:
    """Return labels as in the confusion matrix of a version card."""
    return "+".join(sorted(labels))


def _count_text(regions: Iterable[AuditRegion], outcome: RegionOutcome) -> str:
    counts = Counter(region.label for region in regions if region.outcome == outcome)
    return ", ".join(f"{count} {label}" for label, count in counts.items())
