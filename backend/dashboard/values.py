"""The values of pages that the templates render."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from backend.card_records import ControlCard, Outlook, PromotionEvent
from backend.dashboard.audit_values import ExampleRow, WrongImages
from backend.estimate import IntervalEstimate
from backend.learning.first_labels import describe_submitting
from backend.records import ProjectStatus, RemovedLabel
from backend.store.smart_tool_answer import SUGGESTED, EmptyAnswer
from backend.store.versions import VersionCard


@dataclass(frozen=True)
class ProjectSummary:
    """A project on the overview, and at the head of its page.

    Attributes:
        status: status with the live version's figures.
        link: the project's URL in Label Studio; empty when the server's URL cannot be linked.
        labeling_path: where people label in the order of the queue, below ``link``; empty before
            the first round.
        is_selected: most training labels are of images selected because the model was uncertain.
        title_note: tells it apart from other projects with its title; empty if there are none.
    """

    status: ProjectStatus
    link: str
    labeling_path: str = ""
    is_selected: bool = False
    title_note: str = ""

    @property
    def labeling_link(self) -> str:
        """The URL that serves the images one after the other, in the order of the queue."""
        return f"{self.link}/{self.labeling_path or 'data?labeling=1'}" if self.link else ""

    @property
    def title(self) -> str:
        """Title in Label Studio, or number of the project."""
        return self.status.title or f"Project {self.status.number}"

    @property
    def estimate(self) -> IntervalEstimate:
        """Accuracy by cross-validation."""
        return self.status.estimate or IntervalEstimate()

    @property
    def control_types(self) -> list[str]:
        """Types of the controls, such as ``Choices``."""
        return [control.type for control in self.status.controls]

    @property
    def submit_help(self) -> str:
        """How to accept a correct suggestion; empty before there are suggestions."""
        has_suggestions = any(c.kind != ControlCard().kind for c in self.status.controls)
        if not has_suggestions or self.is_all_labeled:
            return ""
        return describe_submitting(self.control_types)

    @property
    def is_all_labeled(self) -> bool:
        """Whether every image is labeled, so that the queue is empty."""
        return 0 < self.status.tasks <= self.status.labels

    @property
    def waiting_reason(self) -> str:
        """Why no version is trained although there are new labels; empty otherwise."""
        held = self.status.held
        return held.reason if held and not held.version else ""

    def task_link(self, number: int) -> str:
        """Return the URL of a task in Label Studio; empty if the project has no URL."""
        return f"{self.link}/data?task={number}" if self.link else ""


@dataclass(frozen=True)
class LabelRow:
    """A row of the table of labels.

    Attributes:
        name: name of the label.
        precision: share of correct predictions of the label.
        recall: share of its occurrences that are predicted.
        examples: number of training examples.
    """

    name: str
    precision: IntervalEstimate
    recall: IntervalEstimate
    examples: int


@dataclass(frozen=True)
class ConfusionMatrix:
    """Counts of true and predicted labels on the audit set.

    Attributes:
        names: labels of the rows (truth) and the columns (prediction); empty for no label.
        rows: counts.
        confused_pairs: (truth, prediction, count), the most frequent pair first.
    """

    names: Sequence[str]
    rows: Sequence[Sequence[int]]
    confused_pairs: Sequence[tuple[str, str, int]]

    @property
    def is_empty(self) -> bool:
        """Whether no audit image is counted."""
        return not any(map(any, self.rows)) and not self.confused_pairs

    def share(self, row: int, column: int) -> int:
        """Return a cell's share of its row in tenths, 0 to 10, which selects its colour."""
        row_total = sum(self.rows[row])
        return round(10 * self.rows[row][column] / row_total) if row_total else 0


@dataclass(frozen=True)
class ControlView:
    """A control of the labeling config.

    Attributes:
        name: name of the tag.
        type: ``Choices``, ``RectangleLabels`` or ``KeyPointLabels``.
        kind: kind of model that predicts it.
        labels: one row per label.
        confusion: confusion matrix of choices; None if unknown.
        counting: counting error of boxes and points.
        advice: how to get predictions before the first training.
        note: what limits the confidence of its predictions; empty otherwise.
        examples: labeled images by label; labels without one are missing.
        smart: it is a smart tool.
        shown: confidence from which regions are suggested; None for choices.
    """

    name: str
    type: str
    kind: str
    labels: Sequence[LabelRow]
    confusion: ConfusionMatrix | None = None
    counting: IntervalEstimate | None = None
    advice: str = ""
    note: str = ""
    examples: Mapping[str, Sequence[ExampleRow]] = field(default_factory=dict)
    smart: bool = False
    shown: float | None = None


@dataclass(frozen=True)
class VersionRow:
    """A row of the table of versions.

    Attributes:
        card: card of the version.
        live: whether it is the live version.
        was_live: whether it is or was live.
    """

    card: VersionCard
    live: bool
    was_live: bool

    @property
    def estimate(self) -> IntervalEstimate:
        """Accuracy by cross-validation."""
        return self.card.estimate or IntervalEstimate()


@dataclass(frozen=True)
class QueueRow:
    """An image of the queue.

    Attributes:
        task: id of the task.
        why: sentence with the reason for its rank.
        kind: key of the reason.
        link: URL of the task; may be empty.
        picture: whether it has a thumbnail.
    """

    task: int
    why: str
    kind: str
    link: str
    picture: bool


@dataclass(frozen=True)
class LabelErrorRow:
    """A label that a model contradicts, or one that was changed.

    :mod:`backend.learning.label_errors` finds them.

    Attributes:
        task: id of the task.
        given: the annotated label; the former one after a change.
        suggested: the predicted label.
        why: ``wrong label``, ``overlooked``, ``badly placed`` or ``swapped label``.
        link: URL of the task; may be empty.
        picture: whether it has a thumbnail.
        control: name of the control.
        can_change: whether the suggestion is one of the control's choices.
        is_audit: whether the accuracy is measured on the image.
    """

    task: int
    given: str
    suggested: str
    why: str
    link: str
    picture: bool
    control: str
    can_change: bool
    is_audit: bool


@dataclass(frozen=True)
class CaptureRow:
    """An image captured by the endpoint.

    Attributes:
        id: id of the request.
        why: ``uncertain``, ``rare`` or ``random``.
        at: time of the request, UTC, ISO 8601.
        version: the version that predicted.
        answered: whether an application sent a correction.
        task: id of its task; 0 before the import.
        link: URL of the task; may be empty.
        picture: whether it has a thumbnail.
    """

    id: str
    why: str
    at: str
    version: str
    answered: bool
    task: int
    link: str
    picture: bool


@dataclass(frozen=True)
class RemovedLabelRow:
    """A label that annotations use and that the labeling config no longer has.

    Attributes:
        removed: the label.
        labels: the labels that it can be renamed to.
        new: the chosen one, until its annotations are changed; empty before.
    """

    removed: RemovedLabel
    labels: Sequence[str]
    new: str = ""


@dataclass(frozen=True)
class PromotionQuestion:
    """What a person confirms before another version goes live.

    Attributes:
        summary: the project.
        card: the version that goes live.
        live: the live version; None before the first.
        is_rollback: it is the version that was live before.
    """

    summary: ProjectSummary
    card: VersionCard
    live: VersionCard | None
    is_rollback: bool


@dataclass(frozen=True)
class ProjectPage:
    """All values of a project's page.

    Attributes:
        removed_labels: labels to decide on.
        comparable: versions with stored predictions for audit images, newest first.
        problems: a sentence for each thing that a damaged file affects.
        suspects: labels that a model contradicts, the least plausible first; there may be more.
        suspects_found: number of all.
        unchecked: why labels were not checked, by control.
        is_label_checked: the labels were checked at least once.
        changed_labels: labels that a person changed, the last one first; the change can be undone.
        smart_tool: the last answer of a smart tool, if it had no suggestion.
    """

    summary: ProjectSummary
    wrong: WrongImages
    outlook: Outlook
    controls: Sequence[ControlView]
    queue: Sequence[QueueRow]
    suspects: Sequence[LabelErrorRow]
    suspects_found: int
    unchecked: Sequence[str]
    is_label_checked: bool
    changed_labels: Sequence[LabelErrorRow]
    captures: Sequence[CaptureRow]
    captures_waiting: int
    captures_returned: int
    versions: Sequence[VersionRow]
    history: Sequence[PromotionEvent]
    roll_back_to: str
    held: VersionRow | None
    left_out: Mapping[str, int]
    removed_labels: Sequence[RemovedLabelRow] = ()
    comparable: Sequence[str] = ()
    problems: Sequence[str] = ()
    smart_tool: EmptyAnswer = SUGGESTED
